"""Recipes, builds, assets and images of services, for real: git, HTTP, ssh, stores, the pipeline, a container.

Names with a number are of AYS's defects: `docs/explanation/ays-defects.md`.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import pytest

from buildstep.services.interface import Process
from buildstep.services.places.talk import RUNTIME
from buildstep.system import locks
from tests.integration import systemd_node
from tests.integration.conftest import cache_dir, demand
from tests.integration.service_cli import ServiceCli
from tests.integration.support import none_left
from tests.servers.fixtures import Registry, registry
from tests.servers.processes import free_port
from tests.servers.stores import sshd_serving

__all__ = ["registry"]

SECRET = "hunter2-and-more"

BAKE_POOL = f"overlay:{cache_dir()}/bake-pool"
"""Outlives a session: to import a whole system takes far longer than all that is tested with it."""


class Bench(ServiceCli):
    """A repository, a git repository `app` with a few files, and a place of its own for all that is kept."""

    def __init__(self, top: Path, **environ: str) -> None:
        self.place = top
        self.laid = top / "laid"
        kept = {
            "XDG_CACHE_HOME": top / "cache",
            "XDG_STATE_HOME": top / "state",
            "BUILDSTEP_POOL": f"dir:{top}/pool",
        }
        settings = {
            **{name: str(value) for name, value in kept.items()},
            "BUILDSTEP_STORE": f"dir:{top}/store",
        }
        super().__init__(top / "repository", {}, **{**settings, **environ})
        self.git_folder = top / "app"
        self.git_folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.first = self.commit({"bin/app": "one\n", "bin/lib/part": "part\n", "README": "read\n"})

    @property
    def url(self) -> str:
        return f"file://{self.git_folder}"

    def git(self, *words: str) -> str:
        argv = [
            "git",
            "-C",
            str(self.git_folder),
            "-c",
            "user.name=T",
            "-c",
            "user.email=t@example.org",
            *words,
        ]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, files: dict[str, str]) -> str:
        for name, text in files.items():
            path = self.git_folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (self.git_folder / "bin/app").chmod(0o755)
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "more")
        return self.git("rev-parse", "HEAD")

    def template(self, text: str, name: str = "app", **files: str) -> None:
        folder = self.top / "servicetemplates" / name
        folder.mkdir(parents=True, exist_ok=True)
        base = f"system.paths.base = '{self.place}/base'\n"
        for file, body in {"service_hrd": text + base, **files}.items():
            (folder / ".".join(file.rsplit("_", 1))).write_text(body)

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.laid)) for path in self.laid.rglob("*") if not path.is_dir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


# -- recipes ------------------------------------------------------------------------------------------------


def test_a_recipe_is_laid_and_uninstall_removes_just_that(bench: Bench) -> None:
    data = b"a download\n"
    (bench.place / "web").mkdir()
    (bench.place / "web/file.bin").write_bytes(data)
    (bench.place / "web/other.bin").write_bytes(data * 2)
    (bench.place / "web/other.bin.md5sum").write_text(f"{md5(data * 2).hexdigest()}  other.bin\n")
    with served(bench.place / "web") as url:
        bench.template(f"""\
git.export.1 = url:'{bench.url}', source:'bin/*', dest:'{bench.laid}/flat', nodirs:True,
git.export.2 = url:'{bench.url}', source:'bin', dest:'{bench.laid}/all', revision:{bench.first},
git.export.3 = url:'{bench.url}', source:'README', dest:'{bench.laid}/linked', link:True,
git.export.4 = url:'{bench.url}', dest:'/nowhere', platform:'win64',
web.export.1 = url:'{url}', source:'file.bin', dest:'{bench.laid}/down/', sha256:{sha256(data).hexdigest()},
web.export.2 = url:'{url}/other.bin', dest:'{bench.laid}/down/renamed', checkmd5:True,
""")
        bench.done("create", "app")
        bench.done("apply")
    assert bench.files() == ["all/app", "all/lib/part", "down/file.bin", "down/renamed", "flat/app", "linked"]
    assert (bench.laid / "all/app").stat().st_mode & 0o777 == 0o755
    assert (bench.laid / "linked").is_symlink()
    assert (bench.laid / "linked").read_text() == "read\n"
    assert bench.first in os.readlink(bench.laid / "linked")
    (bench.laid / "all/mine").write_text("mine\n")
    bench.done("uninstall", "app")
    assert bench.files() == ["all/mine"]
    assert not (bench.place / "base").exists()


def test_ays_d14_a_branch_that_moved_is_in_the_plan_and_each_commit_is_kept_by_itself(bench: Bench) -> None:
    """AYS kept a checkout by its URL: a second branch of it was given the files of the first."""
    bench.git("branch", "stable")
    second = bench.commit({"bin/app": "two\n"})
    bench.template(f"""\
git.export.1 = url:'{bench.url}', source:'bin', dest:'{bench.laid}/main', branch:main,
git.export.2 = url:'{bench.url}', source:'bin', dest:'{bench.laid}/stable', branch:stable,
""")
    bench.done("create", "app")
    bench.done("apply")
    assert [(bench.laid / name / "app").read_text() for name in ("main", "stable")] == ["two\n", "one\n"]
    assert "install" not in bench.ran("apply").get("app!main", [])
    third = bench.commit({"bin/app": "three\n"})
    assert f"delivered.git.export.1 {second} -> {third}" in bench.done("plan")
    assert "install" in bench.ran("apply")["app!main"]
    assert [(bench.laid / name / "app").read_text() for name in ("main", "stable")] == ["three\n", "one\n"]


def test_what_is_kept_is_not_used_once_it_is_damaged(bench: Bench) -> None:
    bench.template(
        f"git.export.1 = url:'{bench.url}', source:'bin', dest:'{bench.laid}', revision:{bench.first},\n"
    )
    bench.done("create", "app")
    bench.done("apply")
    for path in (bench.place / "cache/buildstep/recipes/git").glob("*/tree/bin/app"):
        path.write_text("evil\n")
    bench.done("install", "app", "--again")
    assert (bench.laid / "app").read_text() == "one\n"


def test_a_download_that_is_another_one_is_refused_and_nothing_is_laid(bench: Bench) -> None:
    (bench.place / "web").mkdir()
    (bench.place / "web/file").write_text("another\n")
    with served(bench.place / "web") as url:
        bench.template(f"web.export.1 = url:'{url}/file', dest:'{bench.laid}/file', sha256:{'a' * 64},\n")
        bench.done("create", "app")
        failed = bench.run("apply")
    assert failed.returncode == 23
    assert "has the sha256" in failed.stderr
    assert not bench.laid.exists()
    assert list((bench.place / "cache/buildstep/recipes/web").glob("*/file*")) == []


def test_two_exports_of_one_file_are_told_before_the_node_is_touched(bench: Bench) -> None:
    bench.template(f"""\
git.export.1 = url:'{bench.url}', source:'bin', dest:'{bench.laid}',
git.export.2 = url:'{bench.url}', source:'bin/*', dest:'{bench.laid}', nodirs:True, overwrite:False,
""")
    bench.done("create", "app")
    failed = bench.run("apply")
    assert failed.returncode == 23
    assert f"git.export.2 may not overwrite what another export has laid: {bench.laid}/app" in failed.stderr
    assert not bench.laid.exists()


def test_ays_d12_a_password_goes_to_its_server_and_into_nothing_else(bench: Bench) -> None:
    """AYS put login and password into the URL that it cloned, which git keeps and processes show."""
    asked: list[str] = []

    class Git(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization", ""))
            self.send_response(401 if not asked[-1] else 404)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Git) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        bench.environ["GIT_PASSWORD"] = SECRET
        bench.template(f"""\
git.export.1 = url:'http://127.0.0.1:{server.server_port}/app.git', dest:'{bench.laid}', login:'me', passwd:'secret:env:GIT_PASSWORD',
""")
        bench.done("create", "app")
        failed = bench.run("apply")
        server.shutdown()
        thread.join()
    assert any(text.startswith("Basic ") for text in asked)
    assert failed.returncode != 0
    assert SECRET not in failed.stdout + failed.stderr
    for path in bench.place.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_ays_d05_a_recipe_goes_to_another_host_over_ssh(bench: Bench) -> None:
    """AYS had a way of delivery that could not run: each of ours is run, on another host too."""
    if not shutil.which("sshd", path="/usr/sbin:/usr/bin"):
        pytest.skip("needs OpenSSH's server")
    bench.template("description = 'a host'\n", name="node.ssh", instance_hrd=NODE)
    bench.template(f"git.export.1 = url:'{bench.url}', source:'bin', dest:'{bench.laid}',\n")
    with sshd_serving(bench.place) as (url, config):
        bench.environ["BUILDSTEP_SSH_CONFIG"] = str(config)
        _node(bench, url)
        bench.done("create", "app", "--parent", "node.ssh!far")
        bench.done("apply")
        assert bench.files() == ["app", "lib/part"]
        bench.done("uninstall", "app")
        assert bench.files() == []
        bench.done("purge", "app", "node.ssh")  # the host keeps nothing of it


NODE = "node.tcp.addr = @ASK\nssh.port = @ASK\nlogin = @ASK default:''\n"


def _node(bench: Bench, url: str) -> None:
    login, _, address = url.removeprefix("ssh://").rpartition("@")
    host, _, port = address.rpartition(":")
    words = [f"node.tcp.addr={host}", f"ssh.port={port}", f"login={login}"]
    bench.done("create", "node.ssh", "far", *(part for word in words for part in ("-D", word)))


# -- service build ------------------------------------------------------------------------------------------


def test_ays_d04_what_was_built_is_what_is_installed(bench: Bench) -> None:
    """AYS's reader looked in another directory than its writer, for another name, and never found a list."""
    demand("root", "namespaces", "rsync")
    text = (
        f"git.export.1 = url:'{bench.url}', source:'bin', dest:'{bench.laid}',\nbuild = dedupe_ns:'team',\n"
    )
    bench.template(text, name="corp__app")
    made = bench.json("build", "app")
    assert (made["ref"], made["exports"]["git.export.1"]["pin"]) == ("corp__app/0", bench.first)
    assert made["store"].endswith("/store/team")
    bench.done("create", "app")
    shutil.rmtree(bench.git_folder)  # nothing of the recipe is run again
    shutil.rmtree(bench.place / "cache")
    bench.done("apply")
    assert (bench.laid / "app").read_text() == "one\n"
    assert (bench.laid / "app").stat().st_mode & 0o777 == 0o755
    assert none_left(str(bench.place)) == []


def test_ays_d21_a_build_installs_nothing_and_a_list_of_another_recipe_is_not_taken(bench: Bench) -> None:
    """AYS's build applied all that had changed in the repository, whatever it was asked to build."""
    demand("root", "namespaces", "rsync")
    bench.template("description = 'another'\n", name="other")
    bench.done("create", "other")
    bench.template(f"git.export.1 = url:'{bench.url}', source:'bin', dest:'{bench.laid}',\n")
    bench.done("build", "app")
    assert bench.states() == {"other!main": "new"}
    bench.template(f"git.export.1 = url:'{bench.url}', source:'README', dest:'{bench.laid}/other',\n")
    bench.done("create", "app")
    bench.done("install", "app")
    assert bench.files() == ["other"]


def test_debug_keeps_the_clone_and_says_where(bench: Bench) -> None:
    demand("root", "namespaces", "rsync")
    bench.template(f"git.export.1 = url:'{bench.url}', source:'bin', dest:'/opt/app',\n")
    made = bench.json("build", "app", "--debug")
    assert (Path(made["kept"]) / "opt/app/app").read_text() == "one\n"
    assert bench.json("build", "app")["kept"] == ""


def test_ays_d06_the_first_error_is_the_one_that_is_told_and_nothing_is_left(bench: Bench) -> None:
    """AYS's handler of errors had one of its own, which was told in the place of what had failed."""
    demand("root", "namespaces", "rsync")
    actions = "class Actions:\n    def build(self, service):\n        raise ValueError('the true reason')\n"
    bench.template(
        f"build = image:'tar:{python_base()}',\nbuild.outputs = '/opt/made',\n", actions_tmpl_py=actions
    )
    failed = bench.run("build", "app")
    assert failed.returncode == 4
    assert "ValueError: the true reason" in failed.stderr
    assert none_left(str(bench.place)) == []
    assert not list((bench.place / "store").rglob("app*"))


def test_a_build_action_makes_what_is_installed(bench: Bench) -> None:
    demand("root", "namespaces", "rsync")
    actions = """\
from buildstep.services.runtime import ActionsBaseTmpl


class Actions(ActionsBaseTmpl):
    def build(self, service):
        service.write_file("/opt/made/file", "made of " + service.read("/src/README"))
        print("built", service.name)
"""
    bench.environ["BUILDSTEP_POOL"] = BAKE_POOL
    bench.template(
        f"git.build.1 = url:'{bench.url}', dest:'/src',\nbuild = image:'tar:{python_base()}',\n"
        "build.outputs = '/opt/made',\n", actions_tmpl_py=actions,
    )  # fmt: skip
    made = bench.json("build", "app")
    assert made["entries"] == 4  # with what is above it: /, opt, opt/made and the file
    got = buildstep(bench, "files", "get", "app/0", str(bench.laid), "--store", f"dir:{bench.place}/store")
    assert got.returncode == 0, got.stderr
    assert (bench.laid / "opt/made/file").read_text() == "made of read\n"


@pytest.mark.parametrize("words", [(), ("--build",), ("--push",), ("--build", "--push")])
def test_ays_d07_build_and_push_are_asked_for_one_by_one(bench: Bench, words: tuple[str, ...]) -> None:
    """AYS took the value of --build for both: --push alone did nothing, and --build always pushed."""
    calls = bench.place / "calls"
    tools = bench.place / "tools"
    tools.mkdir()
    buildah = tools / "buildah"
    buildah.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n{BUILDAH}')
    buildah.chmod(0o755)
    bench.environ["PATH"] = f"{tools}:{bench.environ['PATH']}"
    bench.commit({"Dockerfile": "FROM scratch\nCOPY README /\n"})
    bench.template(f"build = image:'127.0.0.1:9/team/app:1', repo:'{bench.url}',\n")
    ran = bench.run("build", "app", *words)
    said = calls.read_text() if calls.exists() else ""
    assert ("build --isolation" in said) is ("--build" in words), ran.stderr
    # A push goes as far as getting the image out of this builder, which it refuses.
    assert ("push --quiet" in said) is ("--push" in words), ran.stderr
    assert (ran.returncode == 0) is ("--push" not in words), ran.stderr


BUILDAH = """\
case "$1" in
build) while [ $# -gt 0 ]; do [ "$1" = --iidfile ] && printf sha256:%064d 7 > "$2"; shift; done ;;
push) exit 1 ;;
inspect) printf 'sha256:%064d linux/amd64' 7 ;;
esac
"""


def test_an_image_is_built_and_pushed_and_what_is_delivered_is_built_in_it(
    bench: Bench, registry: Registry
) -> None:
    demand("root", "namespaces", "rsync", "buildah")
    bench.environ |= {
        "BUILDSTEP_BUILDAH_ROOT": f"{bench.place}/buildah",
        "BUILDSTEP_COMPONENTS_BUILDER": "buildah",
    }
    commit = bench.commit({"Dockerfile": "FROM scratch\nCOPY README /from-the-image\n"})
    name = f"{registry.host}/team/builder"
    bench.template(f"""\
git.export.1 = url:'{bench.url}', source:'bin', dest:'/opt/app',
build = image:'{name}:1', repo:'{bench.url}',
build.outputs = '/opt/app', '/from-the-image',
""")
    made = bench.json("build", "app", "--build", "--push")
    assert made["built"]["commit"] == commit
    assert made["pushed"]["image"] == name
    got = buildstep(bench, "files", "get", "app/0", str(bench.laid), "--store", f"dir:{bench.place}/store")
    assert got.returncode == 0, got.stderr
    assert bench.files() == ["from-the-image", "opt/app/app", "opt/app/lib/part"]
    # What was pushed is what others build in, with no builder of their own.
    bench.environ["BUILDSTEP_BUILDAH_ROOT"] = f"{bench.place}/another"
    again = bench.json("build", "app")
    assert again["list"] == made["list"]


def test_a_component_is_built_and_what_is_delivered_is_built_in_it(bench: Bench) -> None:
    demand("root", "namespaces", "rsync", "buildah")
    bench.environ |= {
        "BUILDSTEP_BUILDAH_ROOT": f"{bench.place}/buildah", "BUILDSTEP_COMPONENTS_BUILDER": "buildah",
        "BUILDSTEP_COMPONENTS_STATE": f"{bench.place}/state",
    }  # fmt: skip
    folder = bench.place / "components/src/box"
    (folder / "build").mkdir(parents=True)
    (folder / "word").write_text("of the component\n")
    (folder / "build/box.dockerfile").write_text("FROM scratch\nCOPY word /word\n")
    bench.template(f"""\
image.component = box
git.export.1 = url:'{bench.url}', source:'bin', dest:'/opt/app',
build.outputs = '/opt/app', '/word',
""")
    made = bench.json("build", "app", "--components", str(bench.place / "components"))
    assert made["component"]["name"] == "box"
    got = buildstep(bench, "files", "get", "app/0", str(bench.laid), "--store", f"dir:{bench.place}/store")
    assert got.returncode == 0, got.stderr
    assert bench.files() == ["opt/app/app", "opt/app/lib/part", "word"]


def test_a_build_on_a_host_needs_buildstep_there_and_says_so(bench: Bench) -> None:
    demand("root", "namespaces", "rsync")
    if not shutil.which("sshd", path="/usr/sbin:/usr/bin"):
        pytest.skip("needs OpenSSH's server")
    bench.template("description = 'a host'\n", name="node.ssh", instance_hrd=NODE)
    bench.template(f"git.export.1 = url:'{bench.url}', source:'bin', dest:'{bench.laid}',\n")
    program = Path("/usr/local/bin/buildstep")
    if program.exists():
        pytest.skip("there is a buildstep on this machine, which the host would find")
    with sshd_serving(bench.place) as (url, config):
        bench.environ["BUILDSTEP_SSH_CONFIG"] = str(config)
        _node(bench, url)
        failed = bench.run("build", "app", "--host", "node.ssh!far")
        assert failed.returncode == 23
        assert "node.ssh!far has no buildstep" in failed.stderr
        assert "install it there" in failed.stderr
        kept = " ".join(
            f"{name}={bench.environ[name]}" for name in ("PYTHONPATH", "XDG_CACHE_HOME", "BUILDSTEP_POOL")
        )
        program.write_text(f'#!/bin/sh\nexec env {kept} {sys.executable} -m buildstep "$@"\n')
        program.chmod(0o755)
        try:
            made = bench.json("build", "app", "--host", "node.ssh!far", "--store", f"dir:{bench.place}/store")
        finally:
            program.unlink()
    assert (made["ref"], made["host"]) == ("app/0", "node.ssh!far")
    bench.done("create", "app")
    bench.done("install", "app")
    assert bench.files() == ["app", "lib/part"]


def test_the_m_json_of_a_template_is_built(bench: Bench) -> None:
    demand("root", "namespaces", "rsync")
    document = {"name": "app", "version": "1", "build": {"image": "scratch"}}
    text = f"image.manifest = 'm.json'\ngit.export.1 = url:'{bench.url}', dest:'/opt/app',\n"
    bench.template(text, m_json=json.dumps(document))
    made = bench.json("build", "app")
    assert made["manifest"].endswith("/app/m.json")
    assert made["ref"] == "app/0"


# -- assets -------------------------------------------------------------------------------------------------


def buildstep(bench: Bench, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "buildstep", *words]
    return subprocess.run(
        argv, env=bench.environ, capture_output=True, text=True, check=False, cwd=bench.place
    )


def push(bench: Bench, version: str, *more: str) -> None:
    tree = bench.place / f"tree-{version}"
    tree.mkdir()
    (tree / "app").write_text(f"{version}\n")
    pushed = buildstep(
        bench, "assets", "push", "app", version, str(tree), "--store", f"dir:{bench.place}/assets", *more
    )
    assert pushed.returncode == 0, pushed.stderr


def test_an_asset_delivers_a_service_the_newest_or_the_one_that_is_pinned(bench: Bench) -> None:
    push(bench, "1.0")
    rows = f"asset.service = app\nasset.store = 'dir:{bench.place}/assets'\nasset.dest = '{bench.laid}'\n"
    bench.template(rows)
    bench.done("create", "app")
    bench.done("apply")
    assert bench.files() == ["app"]
    push(bench, "1.1")
    assert "delivered.asset 1.0 -> 1.1" in bench.done("plan")
    bench.done("apply")
    assert (bench.laid / "app").read_text() == "1.1\n"
    bench.template(rows + "asset.version = 1.0\n")
    bench.done("update", "app")
    bench.done("apply")
    assert (bench.laid / "app").read_text() == "1.0\n"
    bench.done("uninstall", "app")
    assert bench.files() == []


def test_an_asset_that_nobody_trusted_has_signed_is_not_installed(bench: Bench) -> None:
    for name in ("right", "wrong"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(bench.place / name)]
        subprocess.run(argv, check=True)
    push(bench, "1.0", "--key", str(bench.place / "wrong"))
    (bench.place / "buildstep.toml").write_text('[assets]\ntrusted = ["right.pub"]\n')
    rows = f"asset.service = app\nasset.store = 'dir:{bench.place}/assets'\nasset.dest = '{bench.laid}'\n"
    bench.template(rows)
    bench.done("create", "app")
    refused = subprocess.run(bench.argv(("apply",)), env=bench.environ, capture_output=True, text=True,
                             check=False, cwd=bench.place)  # fmt: skip
    assert refused.returncode == 23, refused.stderr
    assert "app-1.0" in refused.stderr
    assert not bench.laid.exists()


# -- service bake -------------------------------------------------------------------------------------------


def python_base() -> Path:
    """A Debian with systemd and Python, as an archive, made once a week."""
    demand("root", "namespaces", "mmdebstrap", "mirror", "rsync")
    root = systemd_node.root()
    path = cache_dir() / "bookworm-systemd.tar"
    with locks.lock(cache_dir() / "bookworm-systemd.tar.lock"):
        if not path.exists() or path.stat().st_mtime < root.stat().st_mtime:
            new = path.with_suffix(".making")
            subprocess.run(["tar", "-C", str(root), "-cf", str(new), "."], check=True)
            new.rename(path)
    return path


APP = """\
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        with open("/etc/web.conf", "rb") as file:
            self.wfile.write(file.read())

    def log_message(self, *args):
        pass


HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""


def test_a_baked_service_answers_as_a_container_and_starts_with_systemd(bench: Bench) -> None:
    port = free_port()
    bench.environ["BUILDSTEP_POOL"] = BAKE_POOL
    bench.template(
        """\
users.1 = name:'webby', home:'/srv/web', shell:'/usr/sbin/nologin',
files.1 = source:'app.py', dest:'/srv/web/app.py', render:False,
process.1 = name:'web', cmd:'/usr/bin/python3', args:'/srv/web/app.py $(param.port)', ports:'$(param.port)', user:'webby',
""",
        name="web", app_py=APP, instance_hrd="param.port = @ASK type:int\nparam.word = @ASK default:hello\n"
        "param.token = @ASK type:password\n",
        actions_node_py="""\
from buildstep.services.runtime import ActionsBaseNode


class Actions(ActionsBaseNode):
    def configure(self, service):
        service.write_file("/etc/web.conf", service["param.word"])
""",
    )  # fmt: skip
    bench.done("create", "web", "-D", f"param.port={port}", "-D", "param.word=baked",
               "-D", "param.token=secret:env:NOT_THERE_NOW")  # fmt: skip
    document = json.dumps({"name": "webimage", "version": "1.0"})
    out = bench.place / "out"
    bench.done(
        "bake", "web", "-i", f"tar:{python_base()}", "-m", document, "-o", str(out), "-f", "tar", "-f", "oci"
    )
    config = oci_config(out / "webimage-1.0.oci.tar")
    root = bench.place / "root"
    root.mkdir()
    subprocess.run(["tar", "-C", str(root), "-xf", str(next(out.glob("*.tar.*")))], check=True)
    assert config["User"] == "webby"
    assert config["ExposedPorts"] == {f"{port}/tcp": {}}
    wants = root / "etc/systemd/system/multi-user.target.wants/buildstep-web:main.1.service"
    unit = (root / os.readlink(wants).lstrip("/")).read_text()
    assert "User=webby" in unit
    assert (root / "var/lib/buildstep/services").is_dir()
    assert not (root / ".buildstep-bake").exists()
    child = subprocess.Popen(["chroot", "--userspec=webby", str(root), *config["Cmd"]])
    try:
        assert answer(port, child) == b"baked"
    finally:
        child.kill()
        child.wait()


def test_two_baked_services_are_started_by_one_command_and_end_with_it(bench: Bench) -> None:
    """The root has no /proc, as some containers; what listens is found all the same."""
    bench.environ["BUILDSTEP_POOL"] = BAKE_POOL
    ports = {"below": free_port(), "above": free_port()}
    for name, port in ports.items():
        text = f"""\
files.1 = source:'app.py', dest:'/srv/{name}.py', render:False,
files.2 = text:'{name}', dest:'/etc/{name}.conf',
process.1 = cmd:'/usr/bin/python3', args:'/srv/{name}.py {port}', ports:'{port}',
"""
        needs = "dependencies.global = below\n" if name == "above" else ""
        bench.template(text + needs, name=name, app_py=APP.replace("/etc/web", f"/etc/{name}"))
        bench.done("create", name)
    out, root = bench.place / "out", bench.place / "root"
    document = json.dumps({"name": "two", "version": "1"})
    words = ["-i", f"tar:{python_base()}", "-m", document, "-o", str(out), "-f", "tar", "-f", "oci"]
    bench.done("bake", "above,below", *words)
    root.mkdir()
    subprocess.run(["tar", "-C", str(root), "-xf", str(next(out.glob("*.tar.*")))], check=True)
    child = subprocess.Popen(["chroot", str(root), *oci_config(out / "two-1.oci.tar")["Cmd"]])
    try:
        assert answer(ports["above"], child) == b"above"
        assert answer(ports["below"], child) == b"below"
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
        assert gone(ports["below"])
    finally:
        child.kill()
        child.wait()


def oci_config(archive: Path) -> dict[str, Any]:
    def member(name: str) -> Any:
        argv = ["tar", "-xOf", str(archive), name]
        return json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)

    manifest = member("blobs/" + member("index.json")["manifests"][0]["digest"].replace(":", "/"))
    found: dict[str, Any] = member("blobs/" + manifest["config"]["digest"].replace(":", "/"))["config"]
    return found


def answer(port: int, child: subprocess.Popen[bytes]) -> bytes:
    for _ in range(200):
        with contextlib.suppress(OSError):
            return bytes(urllib.request.urlopen(f"http://127.0.0.1:{port}/").read())
        assert child.poll() is None
        time.sleep(0.05)
    raise AssertionError("nothing answers")


# -- the first process of a container with several services ------------------------------------------------


def boot(tmp_path: Path, *processes: Process) -> subprocess.Popen[bytes]:
    rows = [process._asdict() | {"argv": list(process.argv), "environment": {}} for process in processes]
    (tmp_path / "boot.json").write_text(json.dumps(rows))
    argv = [sys.executable, "-I", str(RUNTIME), "boot", str(tmp_path / "boot.json")]
    return subprocess.Popen(argv, stderr=subprocess.PIPE)


def serving(tmp_path: Path, port: int) -> Process:
    argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    return Process(1, "first", argv, directory=str(tmp_path), ports=[port])


def gone(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()
    except OSError:
        return True
    return False


def test_processes_start_one_after_the_other_and_end_with_the_first_one(tmp_path: Path) -> None:
    port = free_port()
    script = (
        f"import time, urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/')\n"
        f"open('{tmp_path}/seen', 'w').close()\ntime.sleep(60)\n"
    )
    child = boot(tmp_path, serving(tmp_path, port), Process(2, "second", [sys.executable, "-c", script]))
    with child:
        try:
            end = time.monotonic() + 10
            while not (tmp_path / "seen").exists():
                assert child.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
            child.send_signal(signal.SIGTERM)
            assert child.wait(10) == 0
            assert gone(port)
        finally:
            child.kill()


def test_one_that_ends_ends_all_with_its_status(tmp_path: Path) -> None:
    port = free_port()
    with boot(tmp_path, serving(tmp_path, port), Process(2, "second", ["sh", "-c", "exit 7"])) as child:
        assert child.wait(10) == 7
        assert child.stderr is not None
        assert b"second ended with status 7" in child.stderr.read()
    assert gone(port)
