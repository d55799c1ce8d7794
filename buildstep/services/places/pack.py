"""What is sent to another host: the runtime as a zip, directories as tar, each the same bytes for the same
contents, so that its digest names it and nothing is sent twice."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from buildstep.services.interface import ServiceError
from buildstep.services.places.talk import RUNTIME

_READ = 1 << 20
_NEVER = (1980, 1, 1, 0, 0, 0)

_NOT_SENT = ("state.json", "log", "__pycache__")
"""What of a service's directory actions do not need: what they may know of it is in their call."""


@functools.cache
def runtime_zip() -> tuple[str, bytes]:
    """Return the runtime as a zip, and its SHA-256."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(RUNTIME.rglob("*.py")):
            info = zipfile.ZipInfo(path.relative_to(RUNTIME).as_posix(), _NEVER)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, path.read_bytes())
    return hashlib.sha256(data.getvalue()).hexdigest(), data.getvalue()


class Item(NamedTuple):
    """A file, link or directory that is sent. name: there, relative."""

    name: str
    path: Path


def action_files(folder: Path | None, source: Path | None) -> list[Item]:
    """Return what an action may want beside it: its file, and the files of its service's directory. Hidden
    ones are not among them, nor are the directories of children, HRD files, and what `_NOT_SENT` names."""
    items = [] if folder is None else list(_below(folder, wanted=_is_for_actions))
    if source is not None and source.name not in {item.name for item in items}:
        items.append(Item(source.name, source))
    return sorted(items)


def tree_files(folder: Path) -> list[Item]:
    """Return all that is in a directory. Raises ServiceError if it is none."""
    if not folder.is_dir():
        raise ServiceError(f"{folder}, which is to be laid on a node, is no directory")
    return sorted(_below(folder, wanted=lambda _: True))


def _is_for_actions(name: str) -> bool:
    return (
        not name.startswith(".") and "!" not in name and not name.endswith(".hrd") and name not in _NOT_SENT
    )


def _below(top: Path, *, wanted: object) -> Iterator[Item]:
    assert callable(wanted)
    for folder, folders, names in os.walk(top):
        above = Path(folder)
        if above == top:
            folders[:] = [name for name in folders if wanted(name)]
        for name in (*folders, *(name for name in names if above != top or wanted(name))):
            path = above / name
            yield Item(path.relative_to(top).as_posix(), path)


def write_tar(items: Iterable[Item], file: IO[bytes]) -> str:
    """Write items as tar, without times and owners; return its SHA-256. Raises ServiceError, OSError."""
    hashing = _Hashing(file)
    with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for item in items:
            info = archive.gettarinfo(item.path, item.name)
            if info is None or not (info.isreg() or info.issym() or info.isdir() or info.islnk()):
                raise ServiceError(f"{item.path} is neither a file, nor a link, nor a directory")
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = 0
            info.mode = stat.S_IMODE(info.mode)
            if info.islnk():
                info.type, info.linkname = tarfile.REGTYPE, ""
                info.size = item.path.stat().st_size
            if info.isreg():
                with item.path.open("rb") as content:
                    archive.addfile(info, content)
            else:
                archive.addfile(info)
    return hashing.digest.hexdigest()


class _Hashing:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)
