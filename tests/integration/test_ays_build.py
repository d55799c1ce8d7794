"""`files build`: what AYS's build did, without the defects of it; each test is named by the one it is about."""

from __future__ import annotations

import functools
import http.server
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.files import layout, open_storage, refs
from buildstep.files.checkout import checkout
from buildstep.files.content import ContentStore
from tests.integration.conftest import demand
from tests.integration.support import Done, Lab, end, host_state, none_left, wait_for, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("root", "namespaces", "busybox", "rsync")
    return write_base(tmp_path_factory.mktemp("base") / "base.tar")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Lab:
    """A place with a result in its store: `app/1`."""
    lab = lab_in(tmp_path_factory.mktemp("shared"), base)
    assert build(lab, recipe(lab)).status == 0
    return lab


@pytest.fixture
def lab(tmp_path: Path, base: Path) -> Iterator[Lab]:
    lab = lab_in(tmp_path, base)
    before = host_state(lab.top)
    yield lab
    assert none_left(os.fspath(lab.top)) == []
    assert host_state(lab.top) == before


def lab_in(top: Path, base: Path) -> Lab:
    lab = Lab(top=top, base=base)
    (top / "src/x.github.io").mkdir(parents=True)
    (top / "src/.gitignore").write_text("*.o\n")
    (top / "src/x.github.io/foo.gitx").write_text("kept\n")
    (top / "src/junk.pyc").write_text("junk\n")
    return lab


def recipe(lab: Lab, file: str = "recipe.json", **more: Any) -> str:
    value = {
        "name": "app", "version": "1", "image": f"tar:{lab.base}",
        "sources": [{"path": "src", "dest": "/opt/app"}, {"link": "../opt/app/made", "dest": "/srv/made"}],
        "run": ["echo $WHO > /opt/app/made; chmod 4755 /opt/app/made; touch /opt/else"],
        "env": {"WHO": "me"},
        "outputs": ["/opt/app", "/srv/made"],
        "exclude": ["/opt/app/**.pyc"],
    }  # fmt: skip
    (lab.top / file).write_text(json.dumps(value | more))
    return file


def get(lab: Lab, ref: str, folder: str) -> Path:
    """Restore a ref of the store in a new place."""
    store = ContentStore(open_storage(f"dir:{lab.top}/store"))
    checkout(store, store.get_list(refs.get(store.storage, ref).list), lab.top / folder)
    return lab.top / folder


def argv(lab: Lab, name: str, *options: str) -> list[str]:
    return [
        lab.python, "-P", "-m", "buildstep", "files", "build", name, "--store", "store", "--pool", lab.uri,
        "--json", *options,
    ]  # fmt: skip


def build(lab: Lab, name: str, *options: str) -> Done:
    return lab.run(argv(lab, name, *options), stdin=subprocess.DEVNULL)


def names(lab: Lab) -> list[str]:
    """The refs of the store, without those that are results by their inputs."""
    found = (layout.ref_of(item.name) for item in open_storage(f"dir:{lab.top}/store").list(layout.REFS))
    return sorted(name for name in found if not name.startswith("results/"))


def test_ays_d04_what_is_written_is_what_is_read(shared: Lab) -> None:
    """Built, stored, and restored elsewhere; ays_d05: and so by each way out of the store."""
    top = get(shared, "app/1", "fresh")
    assert (top / "opt/app/made").read_text() == "me\n"
    assert (top / "opt/app/made").stat().st_mode & 0o7777 == 0o4755
    assert os.readlink(top / "srv/made") == "../opt/app/made"
    assert not (top / "opt/else").exists(), "what is no output is not recorded"
    shared.manifest(build={"image": f"files:dir:{shared.top}/store#app/1"})
    based = shared.command(
        "build", "-m", "m.json", "-f", "files", "--store", "store", "--ref", "based", "-o", "out2", "--pool",
        shared.uri, "proto",
    )  # fmt: skip
    assert based.status == 0, based.stderr
    paths = shared.command("files", "list", "based", "--store", "store").stdout
    assert "opt/app/made" in paths
    assert "etc/hello" in paths


def test_ays_d05_a_web_server_delivers_it_as_well(shared: Lab) -> None:
    """The store is copied to where a plain web server shows it, and is read from there."""
    handler = functools.partial(Quiet, directory=os.fspath(shared.top / "store"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            done = shared.command("image", "import", f"files:{url}#app/1", "--pool", shared.uri, "--json")
            assert done.status == 0, done.stderr
            store = ContentStore(open_storage(url))
            checkout(store, store.get_list(refs.get(store.storage, "app/1").list), shared.top / "web")
        finally:
            server.shutdown()
    assert (shared.top / "web/opt/app/made").read_text() == "me\n"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_ays_d17_excludes_are_anchored(shared: Lab) -> None:
    told = shared.command("files", "list", "app/1", "--store", "store").stdout
    for path in ("opt/app/.gitignore", "opt/app/x.github.io/foo.gitx"):
        assert path in told
    assert "junk.pyc" not in told


def test_ays_d06_the_true_error_is_told_and_all_is_cleared(lab: Lab) -> None:
    done = build(lab, recipe(lab, run=["echo begun", "echo the cause >&2; exit 7"]))
    assert done.status == 4
    assert done.stdout == ""
    assert "the cause" in done.stderr
    assert "Traceback" not in done.stderr
    assert names(lab) == []
    assert lab.leftovers() == []
    assert not list((lab.pool / "state/index").glob("*"))


def test_ays_d07_flags_do_what_they_say(lab: Lab) -> None:
    name = recipe(lab)
    done = build(lab, name, "--ref", "mine", "--report", "report.json", "-o", "logs")
    assert done.status == 0, done.stderr
    assert names(lab) == ["mine"]
    assert json.loads((lab.top / "report.json").read_text()) == done.json
    assert (lab.top / "logs/app-1.buildrecord.json").exists()
    assert build(lab, name, "--push").status == 2
    assert build(lab, name, "--ref", "a b").status == 2
    (lab.top / "open").mkdir()
    (lab.top / "open").chmod(0o777)
    refused = lab.run([*argv(lab, name)[:-1], "--store", "open"])
    assert refused.status == 16
    assert "cannot be written to" in refused.stderr


def test_ays_d16_the_same_inputs_run_nothing(shared: Lab) -> None:
    """ays_d22: and the report is for machines."""
    again = build(shared, recipe(shared), "--ref", "second").json
    assert again["state"] == "reuse"
    assert again["commands"][0]["status"] == 0
    assert again["outputs"]["list"] == refs.get(open_storage(f"dir:{shared.top}/store"), "app/1").list
    assert "second" in names(shared)
    forced = build(shared, recipe(shared), "--no-cache").json
    assert forced["state"] == "run"
    (shared.top / "src/junk.pyc").write_text("other\n")
    other = build(shared, recipe(shared)).json
    assert (other["state"], other["key"] == again["key"]) == ("run", False)
    assert build(shared, recipe(shared, env={"WHO": "you"})).json["state"] == "run"


def test_ays_d13_git_is_told_to_trust_nobody_more(lab: Lab) -> None:
    demand("git")
    tools = lab.top / "tools"
    tools.mkdir()
    (tools / "git").write_text(f'#!/bin/sh\necho "$@" >> {lab.top}/said\nenv >> {lab.top}/said\nexit 9\n')
    (tools / "git").chmod(0o755)
    name = recipe(lab, sources=[{"git": "https://host.invalid/r.git", "branch": "main", "dest": "/opt/app"}])
    done = lab.run(argv(lab, name), env={"PATH": f"{tools}:{os.environ['PATH']}", "SECRET": "s3cret"})
    assert done.status == 4
    said = (lab.top / "said").read_text()
    assert "ls-remote -- https://host.invalid/r.git" in said
    for word in ("sslVerify", "SSL_NO_VERIFY", "StrictHostKeyChecking", "s3cret"):
        assert word not in said
    assert "GIT_TERMINAL_PROMPT=0" in said
    assert lab.leftovers() == []


def test_ays_d21_builds_beside_each_other_do_not_mix(lab: Lab) -> None:
    children = []
    for who in ("one", "two"):
        name = recipe(lab, f"{who}.json", name=who, env={"WHO": who})
        children.append(
            subprocess.Popen(
                argv(lab, name),
                env=lab.env(),
                cwd=lab.top,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for child in children:
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
        assert json.loads(out)["state"] == "run"
    for who in ("one", "two"):
        assert (get(lab, f"{who}/1", who) / "opt/app/made").read_text() == f"{who}\n"
    assert names(lab) == ["one/1", "two/1"]
    assert lab.leftovers() == []


def test_ays_d22_a_wrong_recipe_is_told_at_once_with_all_its_faults(lab: Lab) -> None:
    done = build(lab, recipe(lab, sources=[{"path": "src", "dest": "a"}], outputs=[], ruin=1))
    assert done.status == 2
    for fault in ("$.sources[0].dest", "$.outputs", "$.ruin"):
        assert fault in done.stderr
    assert not lab.pool.exists()


def test_an_output_that_is_not_there_is_an_error(lab: Lab) -> None:
    done = build(lab, recipe(lab, outputs=["/opt/app", "/opt/gone"]))
    assert done.status == 14
    assert "/opt/gone" in done.stderr
    assert names(lab) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
def test_a_killed_build_leaves_no_clean_room(lab: Lab, signum: signal.Signals) -> None:
    name = recipe(lab, run=["touch /opt/app/hanging; exec sleep 600"])
    child = subprocess.Popen(
        argv(lab, name), env=lab.env(), cwd=lab.top, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: "touch /opt/app/hanging" in _commands())
        assert list((lab.pool / "state/work").glob("*-recipe"))
        child.send_signal(signum)
        child.communicate(timeout=60)
    finally:
        end(child)
    if signum == signal.SIGKILL:
        lab.heal()
    assert lab.leftovers() == []
    assert names(lab) == []


def _commands() -> str:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found.append(
                    Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
    return "\n".join(found)
