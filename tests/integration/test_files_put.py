"""`buildstep files put`, as a person calls it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from buildstep.files import open_storage
from buildstep.files.content import ContentStore
from buildstep.tree import scan
from buildstep.tree.entry import FileList, tree_digest
from buildstep.tree.hashing import hash_entries, spread_digests
from tests.integration.conftest import demand
from tests.integration.ordinary_user import LOGIN_PATH, UID, place, usable_python

__all__ = ["place"]  # a fixture

STORE = ["--store", "store"]


def call(*words: str, at: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    data = {"XDG_DATA_HOME": os.fspath(at / "data"), "XDG_CACHE_HOME": os.fspath(at / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "buildstep", "files", *words], capture_output=True, text=True, cwd=at,
        env={**os.environ, **data}, check=False,
    )  # fmt: skip
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    return done


def put(*words: str, at: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("put", *words, *STORE, "--json", at=at).stdout)
    return found


def scanned(tree: Path) -> FileList:
    entries = scan.scan(tree)
    hash_entries(tree, entries.values())
    spread_digests(entries)
    return entries


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One of everything."""
    demand("root")
    top = tmp_path / "tree"
    (top / "bin").mkdir(parents=True)
    (top / "bin/tool").write_bytes(b"#!/bin/sh\n")
    os.chown(top / "bin/tool", 3, 4)
    (top / "bin/tool").chmod(0o4750)
    os.setxattr(top / "bin/tool", "user.note", b"\x00value")
    os.link(top / "bin/tool", top / "bin/linked")
    (top / "link").symlink_to("/nowhere")
    os.mkfifo(top / "pipe")
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "sock", stat.S_IFSOCK | 0o600)
    with (top / "holes").open("wb") as stream:
        stream.truncate(3 << 20)
        stream.seek(1 << 20)
        stream.write(b"data")
    (top / "big").write_bytes(os.urandom(9 << 20))
    (top / "bin").chmod(0o1777)
    return top


def test_everything_of_a_tree_is_recorded(tree: Path, tmp_path: Path) -> None:
    made = put("tree", "--ref", "all/1", at=tmp_path)
    entries = scanned(tree)
    store = ContentStore(open_storage(os.fspath(tmp_path / "store")))
    assert store.get_list(made["list"]) == entries
    assert made["digest"] == tree_digest(entries)
    assert made["entries"] == len(entries)
    assert made["bytes"] == sum(it.size for it in entries.values() if it.kind == "f" and not it.first)
    assert made["new_objects"] == 3
    assert store.get(entries[b"big"].sha256) == (tree / "big").read_bytes()
    again = put("tree", "--ref", "all/1", at=tmp_path)
    assert (again["list"], again["new_objects"], again["files_read"]) == (made["list"], 0, 0)
    shown = call("list", "all/1", *STORE, at=tmp_path).stdout
    assert "-rwsr-x---+     3     4" in shown
    assert "bin/tool = bin/linked" in shown
    assert "link -> /nowhere" in shown
    drawn = call("list", "all/1", "--tree", *STORE, at=tmp_path).stdout.splitlines()
    assert drawn[:3] == ["/", "├── big  9.0 MiB", "├── bin"]
    assert "all/1" in call("list", *STORE, at=tmp_path).stdout
    below = call("list", "all/1", "--path", "/bin/", *STORE, at=tmp_path).stdout.splitlines()
    assert [line.split()[-1] for line in below] == ["bin", "bin/linked", "bin/linked"]
    assert "no path 'bi'" in call("list", "all/1", "--path", "bi", *STORE, at=tmp_path, status=2).stderr
    assert "name one" in call("list", "--tree", *STORE, at=tmp_path, status=2).stderr


def test_a_change_is_all_that_is_stored(tree: Path, tmp_path: Path) -> None:
    put("tree", at=tmp_path)
    data = bytearray((tree / "big").read_bytes())
    data[5 << 20] ^= 1
    (tree / "big").write_bytes(data)
    made = put("tree", at=tmp_path)
    assert made["new_objects"] == 1
    assert made["new_bytes"] <= 4 << 20, "chunks that are as before are not stored again"


@pytest.mark.parametrize("form", ["tar", "tar.gz", "tar.zst"])
def test_an_archive_has_the_digest_of_its_tree(tree: Path, tmp_path: Path, form: str) -> None:
    (tree / "sock").unlink()  # tar leaves it out
    option = {"tar": [], "tar.gz": ["-z"], "tar.zst": ["--zstd"]}[form]
    archive = tmp_path / f"tree.{form}"
    argv: list[str] = [
        "tar",
        "--format=pax",
        "--xattrs",
        "--xattrs-include=*",
        *option,
        "-cf",
        os.fspath(archive),
        "-C",
        os.fspath(tree),
        ".",
    ]
    subprocess.run(argv, check=True)
    made = put(archive.name, "--ref", "archive", at=tmp_path)
    assert made["digest"] == put("tree", at=tmp_path)["digest"]
    store = ContentStore(open_storage(os.fspath(tmp_path / "store")))
    entries = store.get_list(made["list"])
    assert store.get(entries[b"big"].sha256) == (tree / "big").read_bytes()
    assert store.get(entries[b"holes"].sha256) == (tree / "holes").read_bytes()


def test_what_is_no_tree_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text" * 1000)
    for tree, store, status, text in (
        ("missing", "store", 2, "there is no missing"),
        ("file", "store", 11, "file"),
        ("file", ".", 16, "has files, but no store of ours"),
    ):
        assert text in call("put", tree, "--store", store, at=tmp_path, status=status).stderr
    assert (
        "is not the name of a ref" in call("put", ".", "--ref", "../x", *STORE, at=tmp_path, status=2).stderr
    )
    left = {path.name for path in (tmp_path / "store").rglob("*") if path.is_file()}
    assert left == {"buildstep-store.json", "swap.lock"}


@pytest.fixture
def theirs(place: Path) -> Path:
    """A folder of an ordinary user."""
    demand("root")
    (place / "tree").mkdir()
    (place / "tree/mine").write_bytes(b"mine")
    for path in (place, place / "tree", place / "tree/mine"):
        os.chown(path, UID, UID)
    return place


def test_a_user_records_what_he_can_read(theirs: Path, tmp_path: Path) -> None:
    """What may not be read is named before anything is stored."""
    python, path = usable_python()

    def as_user(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-P", "-m", "buildstep", "files", *words], user=UID, group=UID, extra_groups=[],
            env={"PYTHONPATH": path, "PATH": LOGIN_PATH, "HOME": os.fspath(theirs)}, cwd=theirs, text=True,
            capture_output=True, check=False,
        )  # fmt: skip

    made = as_user("put", "tree", *STORE, "--json")
    assert json.loads(made.stdout)["new_objects"] == 1, made
    (theirs / "tree/secret").write_bytes(b"secret")
    (theirs / "tree/secret").chmod(0o600)
    done = as_user("put", "tree", *STORE, "--ref", "x")
    assert done.returncode == 2
    assert "the tree has 1 path that cannot be read" in done.stderr
    assert "secret: Permission denied" in done.stderr
    assert not (theirs / "store/refs").exists()
    # Another user's store is read, and not written to.
    store = os.fspath(theirs / "store")
    assert call("list", "--store", store, at=tmp_path).stdout == ""
    done = call("put", os.fspath(theirs / "tree"), "--store", store, at=tmp_path, status=16)
    assert f"it belongs to the user {UID}" in done.stderr
