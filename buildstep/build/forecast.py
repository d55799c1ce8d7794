"""What a build will need of its disks, told before it starts: what is certain, and what is likely."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from buildstep import emit
from buildstep.build.plan import takes_in_place
from buildstep.images.store import ImageRecord
from buildstep.pool.interface import Backend, Kind
from buildstep.spec.load import BuildSpec
from buildstep.system import space
from buildstep.system.files import CHUNK, data_extents
from buildstep.system.space import Room, existing
from buildstep.system.text import size_text
from buildstep.tree.proto import ProtoDir

_MIB = 1 << 20

# Guesses, for what cannot be known before it is there. Taken from Debian 12: a minbase has 165 MB in 8,700
# files; a small server with what it depends on has 35 MB in 1,500.
_DEBIAN = (156 * _MIB, 8700)
_UNKNOWN = (400 * _MIB, 20000)
_PACKAGE = (36 * _MIB, 1500)
_FILE = 20 << 10  # bytes of an average file in a system

_PAGE = 4096

_PACKED = 0.5
_PACKED_WELL = 0.2
"""Size of a compressed file for one of its content: what is likely, and what nothing stays below."""
_ARCHIVE = 2.5
"""How much larger than a compressed base archive its content is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Bytes on a file system: those that are certain, those that are likely, and inodes."""

    least: int
    likely: int
    inodes: int

    def __add__(self, other: Need) -> Need:
        return Need(
            least=self.least + other.least,
            likely=self.likely + other.likely,
            inodes=self.inodes + other.inodes,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a build needs in its pool and in its output directory. base, proto: bytes (uncompressed)."""

    base: int
    proto: int
    proto_files: int
    pool: Need
    output: Need

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def forecast(
    spec: BuildSpec,
    *,
    backend: Backend | None,
    image: ImageRecord | None,
    proto: ProtoDir | None,
    download: int = 0,
) -> Forecast:
    """What this build needs.

    image: the base, if it is in the store; download: bytes of its file, if that is known and it is not;
    proto: None where it is not known.
    """
    files, size = (proto.files, proto.size) if proto is not None else (0, 0)
    base, base_files = (image.size, image.files) if image is not None else _base_guess(spec.image, download)
    certain = base if image is not None else base // 2
    count = len(spec.packages) + (1 if spec.upgrade_first else 0)
    packages, package_files = count * _PACKAGE[0], count * _PACKAGE[1]
    copied = not takes_in_place(spec)
    clone = backend is not None and not backend.cheap_clone
    imported = image is None
    blob = emit.has_layers(spec.formats)
    pool = Need(
        least=imported * certain + (certain if clone else 0) + (size if copied else 0),
        likely=imported * base
        + (base if clone else 0)
        + (size if copied else 0)
        + packages * 3 // 2  # installed, and downloaded
        + int(blob * _PACKED * (base + packages + size)),
        inodes=imported * base_files
        + (base_files if clone else 0)
        + (files if copied else 0)
        + package_files,
    )
    return Forecast(
        base=base,
        proto=size,
        proto_files=files,
        pool=pool,
        output=_output(spec, base, certain, packages, size),
    )


def _output(spec: BuildSpec, base: int, certain: int, packages: int, proto: int) -> Need:
    least = likely = 0
    for name in spec.formats:
        plain = emit.codec_of(spec, name) == "none"
        # A stream of a dataset stands on its base image, unless it was asked to stand alone.
        below = 0 if emit.sends_dataset([name]) and not spec.full else 1
        least += int((below * certain + proto) * (1.0 if plain else _PACKED_WELL))
        likely += int((below * base + packages + proto) * (1.0 if plain else _PACKED))
    return Need(least=least, likely=likely, inodes=4 + len(spec.formats))


def _base_guess(ref: str, download: int) -> tuple[int, int]:
    """Bytes and files of a base image that is not in the store."""
    scheme = ref.partition(":")[0]
    if scheme == "scratch":
        return 0, 1
    if scheme == "mmdebstrap":
        return _DEBIAN
    from buildstep.images.sources.local_file import path_of

    path = path_of(ref)
    if path is not None and (size := _size_of(path)):
        plain = path.suffix == ".tar" and scheme in ("tar", "docker-archive")
        content = size if plain else int(size * _ARCHIVE)
        return content, content // _FILE + 1
    return (content, content // _FILE + 1) if (content := int(download * _ARCHIVE)) else _UNKNOWN


def _size_of(path: Path) -> int:
    try:
        if path.is_dir():
            return sum(blob.lstat().st_size for blob in path.glob("blobs/*/*"))  # an OCI layout
        return path.stat().st_size
    except OSError:
        return 0


# -- file systems ------------------------------------------------------------------------------------------


def together(needs: Sequence[tuple[Path, Need]]) -> list[tuple[Room, Need]]:
    """The needs by file system: two of one file system add up."""
    found: dict[int, tuple[Room, Need]] = {}
    for path, need in needs:
        device = existing(path).stat().st_dev
        room, sum_ = found.get(device, (None, None))
        found[device] = (room or Room.at(path), need if sum_ is None else sum_ + need)
    return list(found.values())


# -- before a build ----------------------------------------------------------------------------------------


def check_room(
    spec: BuildSpec, *, backend: Backend, image: ImageRecord | None, proto: ProtoDir, copied: bool
) -> None:
    """Raise DiskError where the pool certainly has no room for the full route of a build.

    image: the base, if it is in the store; copied: whether the proto directory is copied. Told before
    anything is touched; what only is likely to be too little is for the doctor to say.
    """
    room = Room.at(backend.state)
    cloned = image.size if image is not None and not backend.cheap_clone else 0
    imported = _import_least(spec.image) if image is None else 0
    if max(imported, cloned, proto.size * copied) <= room.free or space.packs(room.folder):
        return
    contents = [imported]
    if image is not None and cloned:
        with backend.tree(Kind.IMAGE, image.uuid) as tree:
            contents.append(_content(_walk(tree), enough=room.free))
    if copied:
        contents.append(_content((os.path.join(proto.top, path) for path in proto.paths), enough=room.free))
    # Not their sum: the proto directory may replace what is in the base.
    space.check(backend.state, max(contents), what=f"cannot build {spec.name} {spec.version}")


def warning(spec: BuildSpec, *, backend: Backend, proto: ProtoDir) -> str:
    """Return that the pool may be too small for a build whose base is to be imported; empty if it is not."""
    need = forecast(spec, backend=backend, image=None, proto=proto).pool.likely
    room = Room.at(backend.state)
    if need <= room.free or space.packs(room.folder):
        return ""
    have, wanted = size_text(room.free), size_text(need)
    return f"the pool has {have} free in {room.folder}, and this build is likely to need {wanted}"


def _import_least(ref: str) -> int:
    """Return the bytes that the import of a base certainly takes."""
    return _DEBIAN[0] // 2 if re.fullmatch(r"mmdebstrap:[a-z]+", ref) else 0


def _walk(tree: Path) -> Iterator[bytes]:
    for folder, _, names in os.walk(os.fsencode(tree)):
        yield from (os.path.join(folder, name) for name in names)


def _content(paths: Iterable[bytes], *, enough: int) -> int:
    """Return the bytes that a copy of these files certainly takes: no holes, no runs of zeros, each inode
    once. It stops as soon as the sum is more than `enough`."""
    total, seen = 0, set()
    for path in paths:
        with contextlib.suppress(OSError):
            info = os.lstat(path)
            if not stat.S_ISREG(info.st_mode) or (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            with open(path, "rb") as stream:
                for begin, length in data_extents(stream.fileno(), info.st_size):
                    for offset in range(begin, begin + length, CHUNK):
                        data = os.pread(stream.fileno(), min(CHUNK, begin + length - offset), offset)
                        pages = (data[at : at + _PAGE] for at in range(0, len(data), _PAGE))
                        total += sum(len(page) for page in pages if page.strip(b"\0"))
                        if total > enough:
                            return total
    return total
