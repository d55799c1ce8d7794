"""Tarballs for tests of assets, good and hostile."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from buildstep.assets.interface import Details

Member = tuple[str, bytes] | tarfile.TarInfo
"""A file and its content, or a member as it is, whose content is empty."""


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    """A member without content. fields: of TarInfo."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tar(members: Iterable[Member], **options: object) -> bytes:
    """A plain tar."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as archive:  # type: ignore[call-overload]
        for row in members:
            if isinstance(row, tarfile.TarInfo):
                archive.addfile(row)
            else:
                info = tarfile.TarInfo(row[0])
                info.size, info.mode = len(row[1]), 0o644
                archive.addfile(info, io.BytesIO(row[1]))
    return stream.getvalue()


def tar_gz(*members: Member) -> bytes:
    """A tarball; the same members give the same bytes."""
    return gzip.compress(tar(members), 1, mtime=0)


def tarball(path: Path, *members: Member) -> Path:
    """A file with a tarball; by default one with a small file in it."""
    path.write_bytes(tar_gz(*(members or (("bin/run", path.name.encode()),))))
    return path


def details(data: bytes | Path, signature: str = "") -> Details:
    """What is told of these bytes."""
    data = data.read_bytes() if isinstance(data, Path) else data
    return Details(sha256=hashlib.sha256(data).hexdigest(), size=len(data), signature=signature)
