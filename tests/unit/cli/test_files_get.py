"""`files get`, `mount` and `umount` as they are typed."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.files.stored import new_store, put_tree


@pytest.fixture
def put(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A store with a tree, below the current directory."""
    monkeypatch.setenv("BUILDSTEP_STORE", "dir:store")
    Path("tree/etc").mkdir(parents=True)
    Path("tree/var").mkdir()
    Path("tree/etc/conf").write_text("one\n")
    Path("tree/etc/tool").write_text("tool\n")
    os.link("tree/etc/tool", "tree/var/tool")
    os.symlink("etc/conf", "tree/link")
    put_tree(new_store(Path("store")), Path("tree"), "web/1")
    return run


def test_a_tree_comes_back(put: Run) -> None:
    status, out, err = put("files", "get", "web/1", "out")
    assert (status, err) == (0, "")
    assert out == "out  2 files of 9 B, 4 other paths\n"
    assert Path("out/link").read_text() == "one\n"


def test_as_one_json_object(put: Run) -> None:
    status, out, _ = put("files", "get", "web/1", "out", "--json")
    value = json.loads(out)
    assert status == 0
    assert value["store"] == f"dir:{Path.cwd()}/store"
    assert {key: value[key] for key in ("dest", "files", "bytes", "made", "same", "left_out", "dry_run")} == {
        "dest": "out", "files": 2, "bytes": 9, "made": 4, "same": 0, "left_out": {}, "dry_run": False,
    }  # fmt: skip
    found = json.loads(put("files", "get", value["list"][:8], "out", "--update", "--json")[1])
    assert (found["files"], found["same"], found["list"]) == (0, 7, value["list"])


def test_a_part_of_a_tree(put: Run) -> None:
    """A hard link whose first path is elsewhere becomes the first."""
    assert put("files", "get", "web/1", "out", "--path", "var/", "--path", "/link")[0] == 0
    assert sorted(os.listdir("out")) == ["link", "var"]
    assert Path("out/var/tool").read_text() == "tool\n"
    status, _, err = put("files", "get", "web/1", "other", "--path", "nowhere")
    assert (status, "the list has no path nowhere" in err) == (2, True)


def test_a_dry_run_and_then_an_update(put: Run) -> None:
    put("files", "get", "web/1", "out")
    Path("out/etc/conf").write_text("changed\n")
    Path("out/more").touch()
    words = ("files", "get", "web/1", "out", "--update", "--delete")
    assert put(*words, "--dry-run")[1].startswith("out  would be made: 1 file of 4 B, 0 other paths, ")
    assert Path("out/more").exists()
    assert "1 removed" in put(*words)[1]
    assert not Path("out/more").exists()
    assert Path("out/etc/conf").read_text() == "one\n"


def test_times(put: Run) -> None:
    put("files", "get", "web/1", "out", "--mtime", "86400")
    assert {path.lstat().st_mtime for path in (Path("out"), *Path("out").rglob("*"))} == {86400}
    status, _, err = put("files", "get", "web/1", "more", "--mtime", "yesterday")
    assert (status, "not keep, now or a number of seconds" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--update", "--swap"), "give one of them"),
        (("--delete",), "--delete is for --update"),
        ((), "is not empty"),
    ],
)
def test_what_does_not_go_together(words: tuple[str, ...], why: str, put: Run) -> None:
    status, _, err = put("files", "get", "web/1", "tree", *words)
    assert (status, why in err) == (2, True)


def test_a_hostile_list_in_a_file(put: Run) -> None:
    Path("list").write_text(
        "buildstep-filelist 1\n"
        "d\t0755\t0\t0\t0\t-\t-\t-\t.\n"
        f"f\t0644\t0\t0\t0\t{'0' * 64}\t-\t-\t../escaped\n"
        "l\t0777\t0\t0\t0\t-\t/etc\t-\tlink\n"
        "d\t0755\t0\t0\t0\t-\t-\t-\tlink/below\n"
    )
    status, _, err = put("files", "get", "file:list", "out")
    assert status == 16
    assert "2 faults" in err
    assert "../escaped: has the component '..' in its path" in err
    assert "link/below: is below link, which is a link" in err
    assert not Path("out").exists()


def test_gc_removes_shared_files_that_no_checkout_has(put: Run) -> None:
    put("files", "get", "web/1", "out", "--hardlink")
    value = json.loads(put("files", "gc", "--json")[1])
    assert (value["links"], value["links_bytes"]) == (0, 0)
    Path("out/etc/conf").unlink()
    assert (
        "1 shared file that no checkout has any more, 4 B, would be deleted"
        in put("files", "gc", "--dry-run")[1]
    )
    value = json.loads(put("files", "gc", "--json")[1])
    assert (value["links"], value["links_bytes"]) == (1, 4)
    mode = Path("out/etc/tool").stat()
    assert (mode.st_nlink, stat.S_ISREG(mode.st_mode)) == (3, True)


def test_images_and_what_is_not_mounted(put: Run) -> None:
    status, _, err = put("files", "get", "web/1", "x.squashfs", "--update")
    assert (status, "is written as a whole" in err) == (2, True)
    Path("out").mkdir()
    status, _, err = put("files", "umount", "out")
    assert (status, "no list is mounted at out" in err) == (16, True)
