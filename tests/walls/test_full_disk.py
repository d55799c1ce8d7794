"""Builds on disks that are too small: pool, output directory or temporary directory, of growing sizes.

Each is over about as soon as a good build, and is right, or says which file system is full; it leaves nothing,
and the next build on the same disk, made larger, is right.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildstep import pool as pool_module
from buildstep.cache import prune
from buildstep.events import Bus
from buildstep.images import gc
from buildstep.pool import privacy
from buildstep.pool.heal import heal
from buildstep.pool.interface import Backend, Kind
from buildstep.pool.journal import open_journal
from buildstep.system import space
from buildstep.system.space import Room
from tests.integration.conftest import demand, enclosed
from tests.integration.repository import make_place, make_repository
from tests.integration.yard import Outcome, Yard, tiny_base
from tests.rounds import FULL, chosen

COUNT = 20
MORE_SECONDS = 10.0
LARGE = "size=96m,nr_inodes=20000"
FILES = 60
BIG = 700_000
"""The proto directory: so many files, and one of so many bytes that no codec makes smaller."""


def sizes(least: int, most: int) -> list[int]:
    """COUNT numbers from `least` to `most`, each larger than the one before by the same factor."""
    return [round(least * (most / least) ** (number / (COUNT - 1))) for number in range(COUNT)]


@dataclass(frozen=True, kw_only=True)
class Small:
    """A disk that is too small. role: what lies on it; option: of a tmpfs, or another file system's name, with
    so much room; plain: whether the proto directory is copied."""

    role: str
    option: str
    room: int = 0
    scheme: str = "overlay"
    plain: bool = True


def rows(role: str) -> list[Small]:
    """The disks of a role: by inodes, then by bytes, some as another kind of pool; the last is large enough."""
    by_size = {"pool": (40_000, 5_000_000), "output": (8_000, 2_000_000), "temporary": (4096, 400_000)}[role]
    found = [
        Small(role=role, option=f"size={size // 4096 * 4}k", plain=bool(number % 3))
        for number, size in enumerate(sizes(*by_size))
    ]
    if role == "pool":
        found[1::4] = [replace(row, scheme="dir") for row in found[1::4]]
    counts = {"pool": sizes(5, 260), "output": range(2, 8), "temporary": ()}[role]
    others = []
    if role == "pool" and FULL:
        # Where the kernel may find out late that there is no room.
        others += [Small(role=role, option="ext4", room=room) for room in sizes(50_000, 5_000_000)[::3]]
        others += [
            Small(role=role, option="btrfs", scheme=scheme, room=room)
            for scheme in ("btrfs", "overlay")
            for room in sizes(50_000, 30_000_000)[::3]
        ]
    return [*(Small(role=role, option=f"nr_inodes={count}") for count in counts), *others, *found]


@contextlib.contextmanager
def disk_of(top: Path, small: Small) -> Iterator[Path]:
    """Mount the disk for the length of a block."""
    folder = top / "disk"
    if "=" in small.option:
        with tmpfs(folder, small.option):
            yield folder
        return
    demand(f"mkfs.{small.option}")
    folder.mkdir(exist_ok=True)
    image = top / "disk.img"
    with image.open("wb") as stream:
        stream.truncate((160 if small.option == "btrfs" else 32) << 20)
    quiet = ["-q", "-m", "0"] if small.option == "ext4" else ["-q"]
    subprocess.run([f"mkfs.{small.option}", *quiet, os.fspath(image)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", os.fspath(image), os.fspath(folder)], check=True)
    try:
        with (folder / "fill").open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, Room.at(folder).free - small.room)
        yield folder
    finally:
        subprocess.run(["umount", "-l", os.fspath(folder)], check=True)
        image.unlink()


def enlarge(small: Small, disk: Path) -> None:
    if "=" in small.option:
        subprocess.run(["mount", "-o", f"remount,{LARGE}", os.fspath(disk)], check=True)
    else:
        (disk / "fill").unlink()


@contextlib.contextmanager
def tmpfs(folder: Path, option: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", os.fspath(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", os.fspath(folder)], check=True)


def make_inputs(top: Path) -> None:
    tiny_base(top / "base.tar")
    proto = top / "proto"
    for number in range(FILES):
        folder = proto / f"srv/{number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(os.urandom(2000))
    (proto / "srv/big").write_bytes(os.urandom(BIG))


def yard_in(top: Path, small: Small, place: Path, disk: Path) -> Yard:
    places = {role: disk if small.role == role else place / role for role in ("pool", "output", "temporary")}
    places["temporary"].mkdir(exist_ok=True)
    # Tools inherit it; a build in this process looks at it as the command does.
    os.environ["TMPDIR"] = os.fspath(places["temporary"])
    space.watch(temporary_directory=places["temporary"])
    return Yard(
        pool=f"{small.scheme}:{places['pool']}/p",
        out=places["output"] / "out",
        proto=top / "proto",
        base=top / "base.tar",
    )


def attempt(yard: Yard, small: Small) -> tuple[Outcome | None, str]:
    """Build as the command does: (what came out, what it says of a disk)."""
    outcome = yard.run(plain=small.plain)
    return (None, outcome.error) if outcome.error else (outcome, "")


def left(yard: Yard) -> list[str]:
    """What a failed build has no business to leave."""
    pool = Path(yard.pool.partition(":")[2])
    found = [*(pool / "build").glob("*"), *yard.out.glob("*"), *yard.out.glob(".*")]
    found += [*(pool / "state/journal").glob("*"), *(pool / "state/work").glob("*")]
    return [os.fspath(path) for path in [*found, *pool.rglob("*.part"), *pool.glob(".*")]]


def outgrow(top: Path, small: Small, good: Mapping[str, str], limit: float) -> str:
    """Build on a small disk, then on the same one made large. Returns how the first went."""
    place = top / "place"
    with tmpfs(place, LARGE), disk_of(top, small) as disk:
        yard = yard_in(top, small, place, disk)
        begin = time.monotonic()
        outcome, error = attempt(yard, small)
        seconds = time.monotonic() - begin
        assert seconds < limit, f"{small}: {seconds:.1f} s"
        if outcome is not None:
            assert outcome.files == good, f"{small}: another image"
        else:
            assert error.startswith("DiskError"), f"{small}: {error}"
            assert "No space left on device" in error, f"{small}: {error}"
            assert os.fspath(disk) in error, f"{small}: {error}"
            assert " free" in error, f"{small}: {error}"
            assert left(yard) == [], f"{small}: {error}"
        enlarge(small, disk)
        assert heal(pool_module.open_pool(yard.pool)) == [], f"{small}: {error}"
        again, problem = attempt(yard, small)
        assert again is not None, f"{small}: {problem}"
        assert again.files == good, f"{small}: another image at the second attempt, after {error or 'none'}"
    return error


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("root", "namespaces", "overlay", "rsync")
    folder = tmp_path_factory.mktemp("disks")
    make_inputs(folder)
    return folder


@pytest.mark.parametrize("role", ["pool", "output", "temporary"])
def test_a_disk_that_is_too_small(top: Path, role: str) -> None:
    def job() -> list[str]:
        good = []
        for scheme in ("overlay", "dir"):
            with tmpfs(top / "place", LARGE), tmpfs(top / "disk", LARGE):
                small = Small(role=role, option=LARGE, scheme=scheme)
                begin = time.monotonic()
                outcome, error = attempt(yard_in(top, small, top / "place", top / "disk"), small)
                assert outcome is not None, error
                good.append((outcome.files, time.monotonic() - begin))
        assert good[0][0] == good[1][0]
        limit = max(seconds for _, seconds in good) + MORE_SECONDS
        *small_ones, last = rows(role)
        return [outgrow(top, small, good[0][0], limit) for small in [*chosen(small_ones, 2), last]]

    errors = enclosed(job)
    if role == "temporary":
        assert set(errors) == {""}, "a build of files needs no temporary directory"
    else:
        assert any(errors), "no disk was too small"
        assert not all(errors), "no disk was large enough"


# -- what makes room -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["size=3m", "size=64m,nr_inodes=300"], ids=["bytes", "inodes"])
@pytest.mark.parametrize("scheme", ["overlay", "dir"] if FULL else ["overlay"])
def test_room_can_be_made_on_a_full_disk(top: Path, scheme: str, option: str) -> None:
    def job() -> None:
        small = Small(role="pool", option=option, scheme=scheme)
        with tmpfs(top / "place", LARGE), tmpfs(top / "disk", option) as disk:
            yard = yard_in(top, small, top / "place", disk)
            outcome, error = attempt(yard, replace(small, plain=False))
            assert outcome is not None, error
            backend = pool_module.open_pool(yard.pool)
            die(backend)
            fill_up(disk)
            assert privacy.mend(backend) == ""
            healed = heal(backend)
            assert {item.kind for item in healed} == {"dataset", "folder"}
            assert all(item.removed for item in healed), healed
            assert heal(backend) == []
            fill_up(disk)
            store, cache = yard.open(Bus(), {})
            assert prune.items(cache)
            assert prune.prune(cache)
            assert prune.items(cache) == []
            fill_up(disk)
            assert [row.removed for row in gc.collect(store, unused_seconds=0, dry_run=False)] == [True]
            for path in disk.glob("fill*"):
                path.unlink()
            again, problem = attempt(yard, small)
            assert again is not None, problem
            assert again.files == outcome.files

    enclosed(job)


def die(backend: Backend) -> None:
    """Leave what a build leaves that is killed in a clone."""
    child = os.fork()
    if child == 0:
        opened = open_journal(backend.state, "a build that dies")
        journal = opened.__enter__()
        (image,) = backend.idents(Kind.IMAGE)
        clone = backend.clone(Kind.IMAGE, image, journal.dataset(f"{journal.ident}-1"))
        (clone.path / "new").write_bytes(bytes(100_000))
        (clone.path / "etc/conf").unlink()
        journal.folder(backend.state / "work/dead")
        os._exit(9)
    os.waitpid(child, 0)


def fill_up(disk: Path) -> None:
    """Leave no byte or no inode free, whichever is the less."""
    for number in range(1000):
        room = Room.at(disk)
        if not room.free or room.inodes == 0:
            return
        with open(disk / f"fill{time.monotonic_ns()}-{number}", "wb", buffering=0) as stream:
            if room.free < 8 << 20:
                with contextlib.suppress(OSError):
                    while stream.write(bytes(1 << 20)):
                        pass
    raise AssertionError(room)


# -- packages ------------------------------------------------------------------------------------------------

ROOM = sizes(100_000, 40_000_000)
"""Bytes that a pool with a Debian base has left when packages are to be installed."""

FILLER = """\
#!/bin/sh
set -e
head -c 3000000 /dev/urandom > /usr/share/filled
"""


@pytest.mark.skipif(not FULL, reason="make check-walls: a Debian base is imported")
def test_packages_in_a_pool_that_is_too_small(tmp_path: Path) -> None:
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror", "rsync")
    place = make_place(tmp_path)
    repository = make_repository(place, tmp_path / "repository")
    content = os.urandom(1_500_000).hex()
    repository.put("large", "1.0", files={"usr/share/large/file": content})
    repository.put("filler", "1.0", depends="large", postinst=FILLER)

    def job() -> list[str]:
        with tmpfs(tmp_path / "disk", "size=2g") as disk:
            yard = replace(place, pool=f"overlay:{disk}/pool")
            assert not yard.run().error
            begin = time.monotonic()
            first = yard.run(packages=("filler",))
            assert not first.error, first.error
            limit = time.monotonic() - begin + MORE_SECONDS
            return [fill(yard, disk, room, limit) for room in ROOM]

    with repository.served():
        errors = enclosed(job)
    assert any(errors), "no pool was too small"
    assert not all(errors), "no pool was large enough"


def fill(yard: Yard, disk: Path, room: int, limit: float) -> str:
    """Install packages in a pool with so much room, then in the same one made large."""
    pool = disk / "pool"
    for name in ("layer", "state/layers", "state/resolved", "state/artifacts", "state/packages"):
        subprocess.run(["rm", "-rf", os.fspath(pool / name)], check=True)
    (pool / "layer").mkdir(mode=0o700)
    for path in yard.out.iterdir():
        path.unlink()
    used = int(subprocess.run(
        ["df", "--output=used", "-B1", os.fspath(disk)], check=True, capture_output=True, text=True
    ).stdout.split()[1])  # fmt: skip
    subprocess.run(["mount", "-o", f"remount,size={used + room}", os.fspath(disk)], check=True)
    begin = time.monotonic()
    outcome = yard.run(packages=("filler",))
    seconds = time.monotonic() - begin
    assert seconds < limit, f"{room} bytes left: {seconds:.1f} s"
    if outcome.error:
        assert outcome.error.startswith("DiskError"), f"{room} bytes left: {outcome.error}"
        assert f"{disk}/pool" in outcome.error, f"{room} bytes left: {outcome.error}"
        assert left(yard) == [], f"{room} bytes left: {outcome.error}"
    subprocess.run(["mount", "-o", "remount,size=2g", os.fspath(disk)], check=True)
    assert heal(pool_module.open_pool(yard.pool)) == [], f"{room} bytes left: {outcome.error}"
    if outcome.error:
        again = yard.run(packages=("filler",))
        assert not again.error, f"{room} bytes left: {again.error}, after {outcome.error}"
    return outcome.error
