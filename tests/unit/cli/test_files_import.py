"""Lists in and out of a store, from the command line: what is told, and what comes as JSON."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.files import ays
from tests.unit.files.ays import FIXTURES, fixture


@pytest.fixture(autouse=True)
def store(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BUILDSTEP_STORE", "dir:store")
    monkeypatch.setattr("buildstep.files.places.state_folder", lambda _: tmp_path / "state")


def test_a_list_by_its_name_and_by_its_file(run: Run) -> None:
    objects = f"dir:{FIXTURES}"
    Path("acme__kvstore").mkdir()  # a directory is no list
    assert run("files", "import", "acme__kvstore", "--objects", objects, "--ref", "acme/kv")[:2] == (
        0, "acme/kv  15 paths, 179 B; 9 new contents of 158 B\n",
    )  # fmt: skip
    shutil.copy(FIXTURES / "md/acme__kvstore.flist", "list")
    status, out, err = run("files", "import", "list", "--objects", objects, "--from", "ays1")
    assert status == 0
    assert "15 paths, 179 B; 0 new contents" in out
    assert err.splitlines()[0].startswith("note: files without mode, owner and time: 0755, 0:0")
    assert len(err.splitlines()) == 3


def test_notes_come_as_json_and_are_told_even_without_progress(run: Run) -> None:
    status, out, err = run(
        "files", "import", "acme__proxy", "--objects", os.fspath(FIXTURES), "--unknown-owner", "5",
        "--quiet", "--json",
    )  # fmt: skip
    assert status == 0
    notes = {note["kind"]: note["count"] for note in json.loads(out)["notes"]}
    assert notes == {"owner": 4, "short-mode": 4, "times-swapped": 9, "parents": 10}
    assert len(err.splitlines()) == len(notes)
    assert json.loads(out)["form"] == "ays3"


def test_owners_are_looked_up_where_it_is_said(run: Run) -> None:
    objects = os.fspath(FIXTURES)
    status, _, err = run("files", "import", "acme__proxy", "--objects", objects)
    assert status == 2
    assert "no user 'www' is known" in err
    Path("tree/etc").mkdir(parents=True)
    assert run("files", "import", "acme__proxy", "--objects", objects, "--accounts", "tree")[0] == 2
    Path("tree/etc/passwd").write_text("www:x:33:33::/:/bin/sh\n")
    Path("tree/etc/group").write_text("www:x:33:\nadm:x:4:\ndisk:x:6:\n")
    status, _, err = run(
        "files", "import", "acme__proxy", "--objects", objects, "--accounts", "tree", "--ref", "p"
    )
    assert (status, "not known" in err.replace("bits are not known", "")) == (0, False), err
    assert "  33 " in run("files", "list", "p")[1]
    status, _, err = run(
        "files", "import", "acme__proxy", "--objects", objects, "--owner", "7:8", "--ref", "q"
    )
    assert status == 0
    assert "owners" not in err
    assert {tuple(row.split()[1:3]) for row in run("files", "list", "q")[1].splitlines()} == {("7", "8")}


def test_out_and_what_was_lost(run: Run) -> None:
    objects = os.fspath(FIXTURES)
    run("files", "import", "acme__proxy", "--objects", objects, "--unknown-owner", "0", "--ref", "proxy/1")
    status, _, err = run("files", "export", "proxy/1", "out", "--to", "ays1")
    assert status == 2
    assert "8 faults" in err
    assert not Path("out").exists()
    status, out, err = run("files", "export", "proxy/1", "out", "--to", "ays1", "--lossy", "--json")
    assert status == 0
    losses = json.loads(out)["losses"]
    assert {loss["kind"]: loss["count"] for loss in losses if loss["left_out"]} == {
        "directory": 3, "device": 4, "link": 1,
    }  # fmt: skip
    assert [line for line in err.splitlines() if line.startswith("left out: symbolic links")]
    assert set(ays.old_read_1(Path("out/md/proxy__1.flist").read_bytes())) == {
        f"/opt/acme/apps/proxy/{name}" for name in ("etc/empty.conf", "lib/libfilter.so.1.2", "sbin/proxy")
    }


def test_from_store_to_store(run: Run) -> None:
    run("files", "import", "acme__kvstore", "--objects", os.fspath(FIXTURES), "--ref", "kv")
    assert run("files", "export", "kv", "dir:other", "--to", "buildstep")[:2] == (
        0, "kv  15 paths, 9 contents, 9 of them new\n",
    )  # fmt: skip
    assert run("files", "list", "kv", "--store", "other")[1] == run("files", "list", "kv")[1]
    assert run("files", "export", "kv", "out", "--to", "ays1", "--store", "dir:other")[0] == 0
    assert Path("out/md/kv.flist").read_bytes() == fixture("acme__kvstore")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["import", "no-such-list"], "cannot read the list no-such-list: No such file"),
        (["import", "no-such-list", "--objects", "there"], "has no list no-such-list"),
        (["import", "list", "--from", "ays9"], "no form of list is called 'ays9'"),
        (["import", "list"], "names 1 content by MD5, of no store"),
        (["import", "list", "--ref", "../x"], "is not the name of a ref"),
        (["import", "list", "--accounts", "nowhere"], "cannot read etc/passwd and etc/group in nowhere"),
        (["export", "x", "out", "--to", "ays9"], "no form of list is called 'ays9'"),
        (["export", "x", "out", "--to", "ays1"], "there is no store"),
    ],
)
def test_what_cannot_be_done_is_said(run: Run, argv: list[str], message: str) -> None:
    Path("list").write_text("/a|0cc175b9c0f1b6a831c399e269772661|1\n")
    status, out, err = run("files", *argv)
    assert (status in (2, 16), out) == (True, ""), err
    assert message in err
    assert not Path("out").exists()
