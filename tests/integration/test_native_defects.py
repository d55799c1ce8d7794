"""Defects of the predecessor's image library (docs/explanation/defects.md) that concern making images.

They run on pools that make streams: btrfs on a loop file here, zfs in the guest. Manifests of every format as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.emit import EMITTERS, stream
from buildstep.formats import chunked, codecs
from buildstep.pool.interface import Kind
from buildstep.pool.streams import NativeJob, NativeStreams
from buildstep.tree.diff import diff
from buildstep.tree.entry import tree_digest
from tests.integration.nativelab import NativeLab, manifest_of
from tests.integration.pools import IN_GUEST, command, full, location
from tests.integration.support import end, matches, step, wait_for, write_base
from tests.unit import trees


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "base.tar")


@pytest.fixture(scope="module", params=["btrfs", "zfs"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    with location(request.param, tmp_path_factory.mktemp(request.param)) as where:
        yield request.param, where


@pytest.fixture
def lab(place: tuple[str, str], base: Path, tmp_path: Path) -> NativeLab:
    return NativeLab(top=tmp_path, base=base, scheme=place[0], place=place[1])


@pytest.mark.parametrize("form", ["oci", "tar", "stream"])
def test_a_manifest_of_each_format_validates(lab: NativeLab, form: str) -> None:
    form = lab.scheme if form == "stream" else form
    result = lab.built("-p", "one-1", "-f", form)
    manifest = manifest_of(result)
    assert [row["format"] for row in result["files"]] == [form]
    assert (manifest["name"], manifest["version"], manifest["v"]) == ("hello", "1.0.0", 2)
    assert "build" not in manifest
    assert ("dataset_guid" in manifest["files"][0]) == (form == "zfs"), "D36"
    assert ("origin" in manifest) == (form == lab.scheme)


def test_a_manifest_of_all_formats_at_once_is_of_the_first(lab: NativeLab) -> None:
    result = lab.built("-f", lab.scheme, "-f", "oci", "-f", "tar")
    manifest_of(result)
    assert [row["format"] for row in result["files"]] == [lab.scheme, "oci", "tar"]


def test_d24_all_cores_and_the_same_bytes(
    lab: NativeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many threads compress, and whichever is done first, the same stream makes the same file."""
    backend = lab.backend
    assert isinstance(backend, NativeStreams)
    dataset = backend.create("d24")
    (dataset.path / "large").write_bytes(os.urandom(16 << 20) + b"text " * (4 << 20))
    tree = full(dataset.path)
    chosen = codecs.codec("gzip")
    digests, used = set(), {}
    try:
        for cores in (1, 2, 4):
            threads: set[str] = set()

            def slow(part: bytes, threads: set[str] = threads) -> bytes:
                threads.add(threading.current_thread().name)
                time.sleep(0.1 * (len(part) % 3))
                return chosen.compress(part)

            monkeypatch.setattr(chunked, "cores", lambda cores=cores: cores)
            monkeypatch.setattr(stream, "codec", lambda _, slow=slow: replace(chosen, compress=slow))
            path = tmp_path / str(cores)
            job = trees.job(dataset.path, path, tree=tree, changes=diff({}, tree), compression="gzip")
            native = NativeJob(streams=backend, dataset=dataset, origin=None)
            with EMITTERS[lab.scheme]().open(replace(job, native=native), path) as sink:
                artifact = sink.finish()
            used[cores] = len(threads)
            digests.add(artifact.sha256)
            assert hashlib.sha256(path.read_bytes()).hexdigest() == artifact.sha256
            assert path.read_bytes()[3:8] == b"\0\0\0\0\0", "no name and no time"
    finally:
        backend.destroy(Kind.BUILD, "d24")
    assert len(digests) == 1
    assert used == {1: 1, 2: 2, 4: 4}


def test_d25_a_full_output_directory(lab: NativeLab) -> None:
    (lab.proto / "big").write_bytes(os.urandom(8 << 20))
    lab.out.mkdir()
    command("mount", "-t", "tmpfs", "-o", "size=4m", "none", str(lab.out))
    try:
        done = lab.refused(6, "-f", lab.scheme)
        assert "No space left on device" in done.stderr
        assert list(lab.out.iterdir()) == []
    finally:
        command("umount", str(lab.out))


def test_d26_no_file_has_its_name_while_it_is_written(lab: NativeLab) -> None:
    lab.built("-f", "tar")
    earlier = lab.outputs()
    (lab.proto / "big").write_bytes(os.urandom(24 << 20))
    child = subprocess.Popen(
        lab.argv("-f", lab.scheme, "-c", "xz"), env=lab.env(), cwd=lab.top, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        wait_for(lambda: matches(lab.out, ".*.part"), child)
        assert lab.outputs() == earlier
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=30)
    finally:
        end(child)
    lab.heal()
    assert lab.outputs() == earlier
    assert lab.leftovers() == []


def test_d27_an_image_without_a_sound_record_is_made_again(lab: NativeLab) -> None:
    lab.built("-f", lab.scheme)
    backend = lab.backend
    (uuid,) = backend.idents(Kind.IMAGE)
    record = backend.state / f"images/{uuid}.json"
    for damage in (lambda: record.write_text("{"), record.unlink):
        damage()
        result = lab.built("-f", lab.scheme, "--no-cache")
        assert step(result, "import")["state"] == "run"
        assert backend.idents(Kind.IMAGE) == [uuid]
        assert json.loads(record.read_text())["uuid"] == uuid
    assert lab.leftovers() == []


def test_d28_an_image_that_somebody_replaced_is_not_built_on(lab: NativeLab) -> None:
    """It is imported again."""
    first = lab.built("-f", lab.scheme)
    backend = lab.backend
    (uuid,) = backend.idents(Kind.IMAGE)
    if lab.scheme == "btrfs":
        tree = f"{lab.place}/image/{uuid}/tree"
        command("btrfs", "property", "set", "-f", "-t", "subvol", tree, "ro", "false")
        Path(tree, "same").write_text("other")
        command("btrfs", "property", "set", "-t", "subvol", tree, "ro", "true")
    else:  # a snapshot cannot be written to, but another may take its name
        name = f"{lab.place}/{uuid}"
        command("zfs", "destroy", "-R", name)
        command("zfs", "create", "-o", "buildstep:build=x", "-o", "mountpoint=legacy", name)
        (lab.top / "mnt").mkdir()
        command("mount", "-t", "zfs", name, str(lab.top / "mnt"))
        (lab.top / "mnt/same").write_text("other")
        command("umount", str(lab.top / "mnt"))
        command("zfs", "snapshot", f"{name}@final")
    done = lab.build("-f", lab.scheme, "--no-cache")
    assert done.status == 0, done.stderr
    assert done.json["tree_digest"] == first["tree_digest"]
    assert "is not what was imported" in done.stderr
    # Of many, the first few are named.
    assert ("/same" if lab.scheme == "btrfs" else "/bin, /etc, ") in done.stderr
    assert lab.backend.idents(Kind.IMAGE) == [uuid]


def test_d33_a_place_that_is_no_pool(lab: NativeLab) -> None:
    wrong = f"{lab.place}/no/such" if lab.scheme == "zfs" else "/proc"
    done = lab.build("-f", lab.scheme, "--pool", f"{lab.scheme}:{wrong}")
    assert done.status == 10, done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(IN_GUEST, reason="the guest has ZFS")
def test_d33_no_zfs_here(base: Path, tmp_path: Path) -> None:
    lab = NativeLab(top=tmp_path, base=base, scheme="zfs", place="zones/x/data")
    done = lab.build("-f", "zfs")
    assert done.status == 5, done.stderr
    assert "ZFS cannot be used" in done.stderr
    assert "hint: " in done.stderr


def test_d34_no_name_reaches_a_shell(lab: NativeLab, base: Path) -> None:
    odd = "a b;touch evil $(touch evil) `touch evil` '\" & | > evil"
    top = lab.top / odd
    if lab.scheme == "zfs":  # it knows few characters, and what is no name is refused
        lab.place = f"{lab.place}/x;touch evil"
        assert lab.build("-f", "zfs").status == 10
    else:
        place = f"{lab.place}-{odd}"
        other = NativeLab(top=top, base=base, scheme=lab.scheme, place=place)
        shutil.copy(base, top / "base.tar")
        other.base = top / "base.tar"
        other.built("-f", other.scheme, "-f", "tar", "-p", "one-1")
        assert other.leftovers() == []
        for uuid in other.backend.idents(Kind.IMAGE):
            assert other.command("image", "delete", "--pool", other.uri, uuid).status == 0
    assert not [path for folder in (lab.top, top) if folder.exists() for path in folder.glob("**/evil")]


def test_d35_a_full_stream_is_received_without_its_base(lab: NativeLab, tmp_path: Path) -> None:
    whole = lab.built("-p", "one-1", "-f", lab.scheme, "-c", "none", "--full")
    assert "origin" not in manifest_of(whole)
    data = Path(whole["files"][0]["path"]).read_bytes()
    with contextlib.ExitStack() as stack:
        if lab.scheme == "zfs":
            into = tmp_path / "mounted"
            into.mkdir()
            subprocess.run(["zfs", "receive", "-u", f"{lab.place}/whole@final"], input=data, check=True)
            stack.callback(command, "zfs", "destroy", "-r", f"{lab.place}/whole")
            command("mount", "-t", "zfs", "-o", "ro", f"{lab.place}/whole@final", str(into))
            stack.callback(command, "umount", str(into))
        else:
            folder = Path(lab.place).parent / "received"
            folder.mkdir()
            subprocess.run(["btrfs", "receive", "-q", str(folder)], input=data, check=True)
            (into,) = folder.iterdir()
            stack.callback(command, "btrfs", "subvolume", "delete", str(into))
        assert tree_digest(full(into)) == whole["tree_digest"]
