"""One tree, whatever the pool and the format: times far from now, holes, and what a build touches on its way."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.formats.unpack import unpack
from buildstep.tree.entry import tree_digest
from tests.integration.nativelab import NativeLab
from tests.integration.pools import command, location
from tests.integration.support import EPOCH, Lab, write_base

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

FAR = {"before": -86_400, "long-before": -(2**40), "after": 5_000_000_000, "long-after": 2**36}
"""Seconds since 1970; a pool's file system may keep 1901 to 2446 only."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def far(tar: tarfile.TarFile) -> None:
        for name, second in FAR.items():
            member = tarfile.TarInfo(f"usr/lib/base/{name}")
            member.pax_headers = {"mtime": str(second)}
            tar.addfile(member, io.BytesIO())

    return write_base(tmp_path_factory.mktemp("base") / "base.tar", far)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A place in memory, where a file may have any time."""
    top = Path(tempfile.mkdtemp(prefix="buildstep-test-", dir="/dev/shm"))
    yield top
    shutil.rmtree(top)


def times_of(lab: Lab, *arguments: str) -> dict[str, float]:
    """What the archive of a build has for the files that are far from now."""
    result = lab.built("-f", "tar", "-c", "none", *arguments)
    with tarfile.open(result["files"][0]["path"]) as tar:
        return {member.name: member.mtime for member in tar if Path(member.name).name in FAR}


@pytest.mark.parametrize("environ", [{}, {"BUILDSTEP_PLAIN": "1"}], ids=["read in place", "copied"])
def test_times_far_from_now_come_through_a_build(
    base: Path, memory: Path, tmp_path: Path, environ: dict[str, str]
) -> None:
    lab = Lab(top=memory, base=base, environ=environ)
    for name, second in FAR.items():
        (lab.proto / "etc" / name).write_bytes(b"proto")
        os.utime(lab.proto / "etc" / name, (second, second))
    wanted = {
        f"{folder}/{name}": second for folder in ("etc", "usr/lib/base") for name, second in FAR.items()
    }
    pool = ("--pool", f"overlay:{tmp_path / 'pool'}")  # on a disk
    assert times_of(lab, *pool) == wanted
    (lab.proto / "etc/hello").write_text("changed\n")  # with what was kept of the first build
    assert times_of(lab, *pool) == wanted


# -- what a build touches on its way ----------------------------------------------------------------------

FORMATS = ("-f", "btrfs", "-f", "tar", "-f", "oci", "-c", "none")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with location("btrfs", tmp_path_factory.mktemp("btrfs")) as where:
        yield where


@pytest.fixture
def native(place: str, base: Path, tmp_path: Path) -> NativeLab:
    return NativeLab(top=tmp_path, base=base, scheme="btrfs", place=place)


def files_of(result: dict[str, Any]) -> dict[str, Path]:
    return {row["format"]: Path(row["path"]) for row in result["files"]}


def members(tar: tarfile.TarFile) -> dict[str, float]:
    return {os.path.normpath(member.name): member.mtime for member in tar}


def in_tar(path: Path) -> dict[str, float]:
    with tarfile.open(path) as tar:
        return members(tar)


def in_oci(path: Path) -> dict[str, float]:
    """The time of everything, as the layers give it when they are laid over one another."""
    found: dict[str, float] = {}

    def blob(outer: tarfile.TarFile, row: dict[str, str]) -> bytes:
        file = outer.extractfile("blobs/sha256/" + row["digest"].removeprefix("sha256:"))
        assert file is not None
        return file.read()

    with tarfile.open(path) as outer:
        index = outer.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(outer, json.load(index)["manifests"][0]))
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(blob(outer, layer))) as tar:
                found |= members(tar)
    for mark in [name for name in found if os.path.basename(name).startswith(".wh.")]:
        del found[mark]
        found.pop(os.path.join(os.path.dirname(mark), os.path.basename(mark)[4:]), None)
    return found


def in_btrfs(path: Path, into: Path) -> dict[str, float]:
    """The same of a stream, received; with parts of seconds, if there are any."""
    into.mkdir()
    with path.open("rb") as stream:
        subprocess.run(["btrfs", "receive", "-q", os.fspath(into)], stdin=stream, check=True)
    (tree,) = into.iterdir()
    try:
        return {
            os.path.relpath(path, tree): path.lstat().st_mtime_ns / 10**9 for path in [tree, *tree.rglob("*")]
        }
    finally:
        command("btrfs", "subvolume", "delete", os.fspath(tree))


@pytest.mark.parametrize("epoch", [None, EPOCH - 1000], ids=["as they are", "all older"])
def test_every_format_has_the_same_times(native: NativeLab, epoch: int | None) -> None:
    """A package puts files into directories of the base and takes some away; the proto directory adds more."""
    if epoch is not None:
        native.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    (native.proto / "usr/lib/base").mkdir(parents=True)
    (native.proto / "usr/lib/base/more").write_text("more\n")
    os.mknod(native.proto / "socket", stat.S_IFSOCK | 0o644)  # which no archive can hold
    files = files_of(native.built("-p", "one-1", *FORMATS))
    wanted = in_tar(files["tar"])
    assert len(wanted) > 40
    if epoch is not None:
        assert max(wanted.values()) == epoch
    received = in_btrfs(files["btrfs"], Path(native.place).parent / f"received-{epoch}")
    assert {path: time for path, time in received.items() if time != wanted.get(path)} == {}
    assert received.keys() == wanted.keys()
    layered = in_oci(files["oci"])
    assert {path: layered.get(path) for path, time in wanted.items() if time != layered.get(path)} == {}


@pytest.mark.parametrize("environ", [{}, {"BUILDSTEP_PLAIN": "1"}], ids=["read in place", "copied"])
def test_no_format_has_sockets(base: Path, memory: Path, tmp_path: Path, environ: dict[str, str]) -> None:
    lab = Lab(top=memory, base=base, environ=environ)
    for name in ("listening", "same"):  # the second in place of a file of the base
        os.mknod(lab.proto / name, stat.S_IFSOCK | 0o644)
    done = lab.build("-f", "tar", "-f", "oci", "-c", "none")
    assert "listening is a socket and is left out of the image" in done.stderr
    for form, path in files_of(done.json).items():
        assert {"listening", "same"}.isdisjoint(in_tar(path) if form == "tar" else in_oci(path)), form
    with files_of(done.json)["tar"].open("rb") as stream:
        assert tree_digest(unpack(stream, tmp_path, privileged=True)) == done.json["tree_digest"]


def test_directories_of_the_base_keep_their_time_in_a_large_layer(base: Path, tmp_path: Path) -> None:
    """Its parts repeat them above their files; an update of one file then gives the same."""
    lab = Lab(top=tmp_path, base=base)
    (lab.proto / "usr/lib/base").mkdir(parents=True)
    for number in range(3):
        with (lab.proto / f"usr/lib/base/large-{number}").open("wb") as file:
            file.truncate(30 << 20)
    for content in (b"first", b"other"):
        (lab.proto / "usr/lib/base/small").write_bytes(content)
        layered = in_oci(files_of(lab.built("-c", "none"))["oci"])
        assert [layered[path] for path in (".", "usr", "usr/lib", "usr/lib/base")] == [EPOCH] * 4


def test_a_stream_on_an_empty_base_is_complete(native: NativeLab) -> None:
    """No receiver has the pool's own empty subvolume."""
    result = native.built("-i", "scratch", "-f", "btrfs", "-c", "none")
    path = files_of(result)["btrfs"]
    assert result["files"][0]["extra"]["incremental"] is False
    assert "origin" not in json.loads(Path(result["manifest"]).read_bytes())
    assert command("btrfs", "receive", "--dump", "-f", os.fspath(path)).startswith("subvol ")
    done = native.build("-f", "btrfs", "-c", "none")
    with_base = done.json
    assert with_base["files"][0]["extra"]["incremental"] is True
    assert f"an increment on image {with_base['files'][0]['extra']['origin']}" in done.stderr
    assert command("btrfs", "receive", "--dump", "-f", os.fspath(files_of(with_base)["btrfs"])).startswith(
        "snapshot "
    )
