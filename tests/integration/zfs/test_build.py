"""Whole builds on real ZFS by the command line: what they write is received elsewhere, and kills leave nothing."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from buildstep import cli
from buildstep.cli import session
from buildstep.events import Event, StepFinished, StepStarted
from buildstep.pool.heal import heal
from buildstep.pool.interface import Kind
from buildstep.pool.zfs import ZfsBackend
from buildstep.system.mount_table import mount_points
from buildstep.tree.entry import tree_digest
from tests.integration.nativelab import NativeLab, built_by, by_other_tools, manifest_of
from tests.integration.pools import DELEGATED, IN_GUEST, command, fill, full, same
from tests.integration.support import Done, write_base

pytestmark = pytest.mark.skipif(not IN_GUEST, reason="runs in the ZFS guest")

SECOND = "second/data"
PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gz": ("gzip", gzip.compress),
    "bz2": ("bzip2", bz2.compress),
    "xz": ("xz", lzma.compress),
    "zst": ("none", zstandard.ZstdCompressor().compress),  # imgmanifest has no word for it
}


@dataclass(frozen=True, kw_only=True)
class Built:
    """An image that bin/build made."""

    result: dict[str, Any]
    manifest: dict[str, Any]
    path: Path

    @property
    def uuid(self) -> str:
        return str(self.manifest["uuid"])

    @property
    def stream(self) -> bytes:
        return gzip.decompress(self.path.read_bytes())


@dataclass(frozen=True, kw_only=True)
class Site:
    """A base image that was built whole and imported; an image on it; where each was made."""

    tar: Path
    one: NativeLab
    two: NativeLab
    base: Built
    top: Built


def listing(*names: str) -> list[str]:
    return command("zfs", "list", "-H", "-t", "all", "-r", "-o", "name", *names).split()


def built(lab: NativeLab, name: str, *arguments: str, image: str) -> Built:
    lab.manifest(name=name)
    result = built_by("build", lab, "-i", image, *arguments)
    path = Path(result["files"][0]["path"])
    return Built(result=result, manifest=manifest_of(result), path=path)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    # Not in memory: there a file has no attributes of its own.
    top = Path(tempfile.mkdtemp(dir="/var/tmp"))
    disk = top / "second.img"
    with disk.open("wb") as file:
        file.truncate(1 << 30)
    command("zpool", "create", "-m", "none", "second", str(disk))
    command("zfs", "create", SECOND)
    before = listing(DELEGATED)
    try:
        tar = write_base(top / "base.tar")
        one = NativeLab(top=top / "one", base=tar, scheme="zfs", place=DELEGATED)
        two = NativeLab(top=top / "two", base=tar, scheme="zfs", place=SECOND)
        (one.proto / "data").mkdir()
        fill(one.proto / "data")
        base = built(one, "base", "--full", "-f", "zfs", "-f", "tar", "-f", "oci", image=f"tar:{tar}")
        assert one.imported(str(base.path))["uuid"] == base.uuid
        (one.proto / "etc/more").write_text("of the second image\n")
        flags = ("-p", "one-1", "-f", "zfs", "-f", "tar", "-f", "oci")
        yield Site(tar=tar, one=one, two=two, base=base, top=built(one, "top", *flags, image=base.uuid))
    finally:
        for point in [*mount_points("/zones/agent/data/buildstep"), *mount_points("/var/lib/buildstep")]:
            command("umount", point)
        command("zpool", "destroy", "-f", "second")
        for name in listing(DELEGATED):
            if name not in before and "@" not in name:
                command("zfs", "destroy", "-R", "-f", name, ok=False)
        shutil.rmtree(top)


@pytest.fixture
def two(site: Site) -> Iterator[NativeLab]:
    """The second pool, with the base; what a test puts there goes again."""
    if not site.two.backend.exists(Kind.IMAGE, site.base.uuid):
        site.two.imported(str(site.base.path))
    before = listing(SECOND)
    yield site.two
    left = site.two.backend
    if left.exists(Kind.IMAGE, site.top.uuid):
        site.two.from_checkout("buildstep", "image", "delete", "--pool", site.two.uri, site.top.uuid)
    assert listing(SECOND) == before
    assert site.two.leftovers() == []


# -- what a build writes --------------------------------------------------------------------------------------


def test_the_tree_is_base_and_proto_and_packages(site: Site, tmp_path: Path) -> None:
    """By tar, rsync and chroot; then as zfs itself receives it in a pool that knows nothing of us."""
    expected = by_other_tools(site.tar, site.one.proto, ["one-1"], site.one.top / "by-others")
    plain, where = "second/plain", tmp_path / "mounted"
    where.mkdir()
    command("zfs", "create", plain)
    try:
        for image, name, more in (
            (site.base, "base", ()),
            (site.top, "top", ("-o", f"origin={plain}/base@final")),
        ):
            argv = ["zfs", "receive", "-u", "-o", "mountpoint=legacy", *more, f"{plain}/{name}@final"]
            subprocess.run(argv, input=image.stream, check=True)
        command("mount", "-t", "zfs", "-o", "ro", f"{plain}/top@final", str(where))
        try:
            received = full(where)
        finally:
            command("umount", str(where))
    finally:
        command("zfs", "destroy", "-R", plain)
    same(received, expected)
    assert tree_digest(received) == tree_digest(expected) == site.top.result["tree_digest"]


def test_every_manifest_validates_and_tells_where_it_stands(site: Site) -> None:
    assert [row["format"] for row in site.top.result["files"]] == ["zfs", "tar", "oci"]
    assert site.top.path.name == "top-1.0.0.zfs.gz"
    assert site.top.manifest["origin"] == site.base.uuid
    assert "origin" not in site.base.manifest
    for image in (site.base, site.top):
        (entry,) = image.manifest["files"]
        assert entry["compression"] == "gzip"
        dump = dumped(image.stream)
        assert f"toguid = {int(entry['dataset_guid']):x}" in dump
    assert site.one.backend.idents(Kind.IMAGE).count(site.top.uuid) == 0, "an image is what was imported"


@pytest.mark.parametrize(("form", "compression"), [("tar", "gzip"), ("oci", "none"), ("zfs", "gzip")])
def test_a_manifest_of_each_format_alone(site: Site, tmp_path: Path, form: str, compression: str) -> None:
    lab = NativeLab(top=tmp_path / "lab", base=site.tar, scheme="zfs", place=DELEGATED)
    flags = ("-f", form, *(["-c", "gzip"] if form == "tar" else []))
    image = built(lab, "alone", *flags, image=site.base.uuid)
    assert image.manifest["files"][0]["compression"] == compression
    assert ("origin" in image.manifest) == (form == "zfs"), "only a stream needs its base"


def dumped(stream: bytes) -> str:
    done = subprocess.run(["zstreamdump"], input=stream, capture_output=True, check=True)
    return done.stdout.decode() + done.stderr.decode()


def test_zstreamdump_finds_nothing_wrong(site: Site) -> None:
    for image in (site.base, site.top):
        told = dumped(image.stream)
        assert "Total DRR_END records = 1" in told
        assert "invalid checksum" not in told
        assert "differs" not in told
    bad = bytearray(site.top.stream)
    bad[len(bad) // 2] ^= 1
    assert "invalid checksum" in dumped(bytes(bad)), "it would have said so"


def test_d35_a_full_image_needs_no_other(site: Site, tmp_path: Path) -> None:
    lab = NativeLab(top=tmp_path / "lab", base=site.tar, scheme="zfs", place=DELEGATED)
    image = built(lab, "whole", "--full", "-f", "zfs", image=site.base.uuid)
    assert "origin" not in image.manifest
    try:
        subprocess.run(["zfs", "receive", "-u", "second/whole@final"], input=image.stream, check=True)
        where = tmp_path / "mounted"
        where.mkdir()
        command("mount", "-t", "zfs", "-o", "ro", "second/whole@final", str(where))
        assert tree_digest(full(where)) == image.result["tree_digest"]
        command("umount", str(where))
    finally:
        command("zfs", "destroy", "-r", "second/whole")


# -- what comes in --------------------------------------------------------------------------------------------


def packed(site: Site, folder: Path, ending: str, stream: bytes, **changes: Any) -> tuple[Path, Path]:
    """The image's stream as another program packs it, and a manifest that knows."""
    word, pack = PACKED[ending]
    file, manifest = folder / f"image.zfs.{ending}", folder / "image.imgmanifest"
    file.write_bytes(pack(stream))
    entry = {
        **site.top.manifest["files"][0],
        "size": file.stat().st_size,
        "sha1": hashlib.sha1(file.read_bytes()).hexdigest(),
        "compression": word,
    }
    manifest.write_text(json.dumps({**site.top.manifest, "files": [entry], **changes}))
    return file, manifest


@pytest.mark.parametrize("ending", PACKED)
def test_import_by_the_command_line(site: Site, two: NativeLab, tmp_path: Path, ending: str) -> None:
    file, manifest = packed(site, tmp_path, ending, site.top.stream)
    # Named on the command line, or found beside the file.
    told = two.imported(*(["--manifest", str(manifest)] if ending != "xz" else []), str(file))
    assert (told["uuid"], told["present"], told["origin"]) == (site.top.uuid, False, site.base.uuid)
    assert told["tree_digest"] == site.top.result["tree_digest"]
    assert listing(f"{SECOND}/{site.top.uuid}") == [
        f"{SECOND}/{site.top.uuid}",
        f"{SECOND}/{site.top.uuid}@final",
    ]
    verified = two.from_checkout("buildstep", "image", "verify", "--pool", two.uri, site.top.uuid)
    assert verified.status == 0, verified.stderr


def refused(lab: NativeLab, file: Path, manifest: Path, *words: str) -> None:
    """Fail unless the import ends with the status for images, says why, and changes nothing."""
    before = listing("second")
    done = lab.from_checkout(
        "buildstep", "image", "import", "--pool", lab.uri, "--manifest", str(manifest), str(file)
    )
    assert done.status == 11, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert listing("second") == before
    assert lab.leftovers() == []
    assert not list((lab.backend.state / "downloads").rglob("*.file*"))


def test_damage_is_refused_by_the_command_line(site: Site, two: NativeLab, tmp_path: Path) -> None:
    data = bytearray(site.top.path.read_bytes())
    file, manifest = tmp_path / "bad.zfs.gz", Path(site.top.result["manifest"])
    data[9] ^= 1  # the header's word for the system it was made on, which no program reads
    file.write_bytes(data)
    refused(two, file, manifest, "is not the file of its manifest", "sha1")
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    refused(two, file, manifest, "is not the file of its manifest", "fetch it again")
    file.write_bytes(site.top.path.read_bytes()[:-1000])
    refused(two, file, manifest, "its manifest says")
    # Damage that is older than the manifest: only the kernel's checksum, or the stream's end, can tell.
    stream = bytearray(site.top.stream)
    stream[len(stream) // 2] ^= 1
    refused(two, *packed(site, tmp_path, "gz", bytes(stream)), "cannot receive")
    refused(two, *packed(site, tmp_path, "gz", site.top.stream[: len(stream) // 2]))


def test_a_wrong_origin_is_refused_by_the_command_line(site: Site, tmp_path: Path) -> None:
    """D36: first without the origin, then with another image under its uuid."""
    command("zfs", "create", "second/strange")
    lab = NativeLab(top=tmp_path / "lab", base=site.tar, scheme="zfs", place="second/strange")
    try:
        lab.backend  # noqa: B018 - makes the state dataset, which is not what is looked at
        manifest = Path(site.top.result["manifest"])
        refused(lab, site.top.path, manifest, site.base.uuid)
        name = f"second/strange/{site.base.uuid}"
        command("zfs", "create", "-o", "mountpoint=legacy", name)
        command("zfs", "snapshot", f"{name}@final")
        shutil.copytree(site.one.backend.state / "images", lab.backend.state / "images", dirs_exist_ok=True)
        refused(lab, site.top.path, manifest)
    finally:
        for point in mount_points("/var/lib/buildstep/second/strange"):
            command("umount", point)
        command("zfs", "destroy", "-R", "-f", "second/strange")


# -- killed ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stopped:
    """A build that waits at a step. `go` lets it run on."""

    pid: int
    go: int
    out: Path

    def end(self) -> int:
        os.close(self.go)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        inner = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        assert inner, "a build is process 1 of a namespace"
        os.kill(self.pid, signal.SIGKILL)
        assert self.end() == -signal.SIGKILL
        limit = time.monotonic() + 30
        while any(os.path.exists(f"/proc/{child}") for child in inner):
            assert time.monotonic() < limit
            time.sleep(0.01)


def stopped(lab: NativeLab, out: Path, event: type[Event], step: str, *arguments: str) -> Stopped:
    """The command line in a child of ours, which waits where a step begins or has ended."""
    heard, tell = os.pipe()
    wait, go = os.pipe()

    def view_for(*_: object, **__: object) -> Callable[[Event], None]:
        def view(seen: Event) -> None:
            if isinstance(seen, event) and seen.step == step:
                os.write(tell, b"x")
                os.read(wait, 1)

        return view

    argv = ["build", "-m", os.fspath(lab.top / "m.json"), "-o", os.fspath(out), "--pool", lab.uri, "--json"]
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(go)
            out.mkdir(parents=True, exist_ok=True)
            said = os.open(out / "said", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
            os.dup2(said, 1)
            os.dup2(said, 2)
            # pytest's own objects hold what it captures.
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            setattr(session, "view_for", view_for)  # noqa: B010 - it is not exported
            status = cli.main([*argv, *arguments, os.fspath(lab.proto)])
            sys.stdout.flush()
        finally:
            os._exit(status)
    os.close(wait)
    os.close(tell)
    try:
        ready = select.select([heard], [], [], 120)[0] and os.read(heard, 1)
        assert ready, (out / "said").read_text()
    finally:
        os.close(heard)
    return Stopped(pid, go, out)


STEPS = ("import", "clone", "sync", "packages", "clean", "motd", "snapshot", "check", "emit", "destroy")
ACQUIRING = ("clone", "packages", "snapshot", "check", "emit", "destroy")
MOTD = ("-M", "-S", "http://x")


def test_sigkill_at_every_step_and_heal(site: Site, tmp_path: Path) -> None:
    """`zfs list -t all` is what it was, and another build that runs all the time does not notice."""
    lab = NativeLab(top=tmp_path / "lab", base=site.tar, scheme="zfs", place=DELEGATED)
    flags = ("-i", site.base.uuid, "-p", "one-1", "-f", "zfs", "-f", "tar", "--no-cache")
    assert lab.backend.idents(Kind.BUILD) == []
    live = stopped(lab, tmp_path / "live", StepStarted, "clean", *flags)
    try:
        before, mounts = listing("zones"), mount_points("/")
        (clone,) = lab.backend.idents(Kind.BUILD)
        points = [(StepStarted, name) for name in STEPS] + [(StepFinished, name) for name in ACQUIRING]
        for number, (event, name) in enumerate(points):
            out = tmp_path / str(number)
            stopped(lab, out, event, name, *flags, *MOTD).kill()
            told = heal(lab.backend)
            assert all(left.removed for left in told), (event, name, told)
            assert listing("zones") == before, (event, name)
            assert mount_points("/") == mounts, (event, name)
            # D26: no file has its name before all have, and heal takes the hidden ones away.
            assert sorted(path.name for path in out.iterdir()) == ["said"], (event, name)
        assert lab.backend.idents(Kind.BUILD) == [clone]
    except BaseException:
        live.kill()
        raise
    assert live.end() == 0, (live.out / "said").read_text()
    said = json.loads((live.out / "said").read_text())
    base = Path(site.base.result["files"][1]["path"])
    expected = by_other_tools(base, lab.proto, ["one-1"], site.one.top / "by-others-again")
    assert said["tree_digest"] == tree_digest(expected)
    assert listing("zones") == [name for name in before if f"build-{clone}" not in name]
    assert lab.leftovers() == []


def test_sigkill_during_an_import(site: Site, tmp_path: Path) -> None:
    """A base image that was not here before: what is whole may stay, and only that."""
    lab = NativeLab(top=tmp_path / "lab", base=site.tar, scheme="zfs", place=DELEGATED)
    other = write_base(tmp_path / "other.tar", lambda tar: tar.add(__file__, "extra"))
    before = listing("zones")
    for event in (StepStarted, StepFinished):
        stopped(lab, tmp_path / "out", event, "import", "-i", f"tar:{other}", "-f", "zfs").kill()
        lab.heal()
        new = sorted(set(listing("zones")) - set(before))
        if event is StepStarted:
            assert new == []
        else:
            (uuid,) = {name.rpartition("/")[2].partition("@")[0] for name in new}
            assert new == [f"{DELEGATED}/{uuid}", f"{DELEGATED}/{uuid}@final"]
            done: Done = lab.from_checkout("buildstep", "image", "delete", "--pool", lab.uri, uuid)
            assert done.status == 0, done.stderr
    assert listing("zones") == before


def test_the_pool_opens_again(site: Site) -> None:
    assert site.base.uuid in ZfsBackend(DELEGATED).idents(Kind.IMAGE)
