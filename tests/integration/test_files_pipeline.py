"""An image recorded in a store by one build, and taken as the base by another, as root and as a user."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from buildstep.files import layout, leases, open_storage, refs
from buildstep.files.content import ContentStore
from tests.integration.ordinary_user import UID, UserLab, base, place, usable_python
from tests.integration.support import EPOCH, Lab, step
from tests.integration.test_kill import DRIVER, finish, stopped_at

__all__ = ["base", "place"]  # fixtures

DATED = {"SOURCE_DATE_EPOCH": str(EPOCH)}


@pytest.fixture(params=["root", "user"])
def lab(request: pytest.FixtureRequest, base: Path, place: Path) -> Lab:
    own = place / "base.tar"
    shutil.copy(base, own)
    if request.param == "root":
        return Lab(top=place, base=own)
    python, path = usable_python()
    made = UserLab(
        top=place, base=own, scheme="dir", python=python, environ={"PYTHONPATH": path}, uid=UID, gid=UID
    )
    made.give()
    return made


def url(lab: Lab) -> str:
    return f"dir:{lab.top}/store"


def test_every_format_records_one_tree_and_it_comes_back_as_a_base(lab: Lab) -> None:
    store = ("--store", "store")
    first = lab.built("-f", "oci", "-f", "files", "-f", "tar", *store, env=DATED)
    by_format = {file["format"]: file for file in first["files"]}
    told = json.loads(Path(by_format["files"]["path"]).read_text())
    assert told["tree"] == by_format["files"]["extra"]["tree"] == first["tree_digest"]
    ref = refs.get(open_storage(url(lab)), "hello/1.0.0")
    assert (ref.list, ref.tree, ref.size) == (told["list"], told["tree"], told["bytes"])

    # The same image as a base, out of each: the same tree again.
    digests = set()
    for number, image in enumerate(
        ("files:hello/1.0.0", f"oci:{by_format['oci']['path']}", f"tar:{by_format['tar']['path']}")
    ):
        lab.manifest(name=f"on{number}", version="1")
        again = lab.built("-f", "files", *store, "-i", image, env=DATED)
        digests.add(again["tree_digest"])
        lists = {refs.get(open_storage(url(lab)), f"on{number}/1").list}
    assert len(digests) == len(lists) == 1
    assert again["files"][0]["extra"]["new_contents"] == 0, "all of it was in the store"
    assert lab.leftovers() == []


def test_up_to_date_while_the_store_has_it(lab: Lab) -> None:
    options = ("-f", "files", "--store", "store", "--ref", "mine")
    lab.built(*options)
    assert step(lab.built(*options), "emit")["state"] == "reuse"
    storage = open_storage(url(lab))
    done = lab.command("files", "remove", "mine", "--store", url(lab))
    assert done.status == 0, done.stderr
    assert refs.read(storage, "mine") is None
    again = lab.built(*options)
    assert (
        "does not have mine of the last build" in step(again, "emit")["reason"]
        or step(again, "emit")["state"] == "run"
    )
    assert refs.read(storage, "mine") is not None


def test_a_store_that_cannot_be_written_to_is_told_before_anything_starts(lab: Lab) -> None:
    (lab.top / "open").mkdir()
    (lab.top / "open").chmod(0o777)
    done = lab.refused(16, "-f", "files", "--store", "open")
    assert "cannot be written to" in done.stderr
    assert "import the base image" not in done.stderr
    assert not lab.out.exists()
    done = lab.command(
        "doctor", "-m", "m.json", "-i", f"tar:{lab.base}", "-f", "files", "--store", "open", "proto"
    )
    assert done.status == 16
    assert "cannot be written to" in done.stdout


def test_import_and_typos(lab: Lab) -> None:
    lab.built("-f", "files", "--store", "store")
    environ = {"BUILDSTEP_STORE": url(lab)}
    done = lab.command("image", "import", "files:hello/1.0.0", "--pool", lab.uri, env=environ)
    assert done.status == 0, done.stderr
    done = lab.command("image", "import", "files:hello/1.0", "--pool", lab.uri, env=environ)
    assert done.status == 11
    assert "did you mean hello/1.0.0?" in done.stderr
    done = lab.command("image", "publish", "out", "dir:site", "--pool", lab.uri)
    assert done.status == 17
    assert "is no image that can be published" in done.stderr


def test_a_recipe_without_commands_is_built_by_anybody(lab: Lab) -> None:
    (lab.top / "src").mkdir()
    (lab.top / "src/tool").write_text("tool")
    (lab.top / "src/tool").chmod(0o755)
    value = {
        "name": "app", "image": f"tar:{lab.base}", "sources": [{"path": "src", "dest": "/opt/app"}],
        "outputs": ["/opt/app", "/usr/bin/setuid", "/dev/null"],
    }  # fmt: skip
    (lab.top / "r.json").write_text(json.dumps(value))
    if isinstance(lab, UserLab):
        lab.give()
    done = lab.command("files", "build", "r.json", "--store", "store", "--pool", lab.uri, "--json")
    assert done.status == 0, done.stderr
    entries = ContentStore(open_storage(url(lab))).get_list(done.json["outputs"]["list"])
    assert (entries[b"opt/app/tool"].uid, entries[b"opt/app/tool"].mode) == (0, 0o755)
    assert entries[b"usr/bin/setuid"].mode == 0o4755
    assert (entries[b"dev/null"].kind, entries[b"dev/null"].rdev) == ("c", (1, 3))
    assert lab.leftovers() == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
@pytest.mark.parametrize("name", ["emit", "destroy"])
def test_a_build_that_is_stopped_sets_no_ref(
    base: Path, tmp_path: Path, name: str, signum: signal.Signals
) -> None:
    """At `destroy` the list and every content are in the store already."""
    lab = Lab(top=tmp_path, base=base)
    (lab.top / "driver.py").write_text(DRIVER)
    with stopped_at(lab, name, "-f", "files", "--store", "store") as child:
        finish(child, signum)
    storage = open_storage(url(lab))
    assert list(storage.list(layout.REFS)) == []
    # That of a killed build ends by its time: nobody can see into the build's own space of processes.
    assert len(list(leases.living(storage))) == (name == "destroy" and signum == signal.SIGKILL)
    assert lab.outputs() == {}
    built = lab.built("-f", "files", "--store", "store")
    assert (built["files"][0]["extra"]["new_contents"] == 0) == (name == "destroy")
    ref = refs.get(storage, "hello/1.0.0")
    entries = ContentStore(storage).get_list(ref.list)
    files = {entry.sha256 for entry in entries.values() if entry.kind == "f"}
    assert ContentStore(storage).has(files) == files
    assert sorted(os.listdir(tmp_path / "store/tmp")) == ["swap.lock"]
