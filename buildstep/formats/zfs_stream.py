"""Read the first record of a ZFS stream: which snapshot it holds, and which one it is based on."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from buildstep.errors import ImageError

BEGIN_SIZE = 312
"""Bytes of a replay record; the first one of a stream is its BEGIN record."""

_MAGIC = 0x2F5BACBAC
_BEGIN = "IIQQQIIQQ256s"
_COMPOUND = 2  # DMU_COMPOUNDSTREAM: several streams in one, as `zfs send -R` and `-I` write them


@dataclass(frozen=True, kw_only=True, slots=True)
class Begin:
    """The BEGIN record. guid: of the snapshot; from_guid: of its incremental source, 0 for a full stream."""

    guid: int
    from_guid: int
    name: str


def read_begin(data: bytes) -> Begin:
    """Parse the first record, given at least BEGIN_SIZE bytes. Raises ImageError for what is no stream."""
    if len(data) < BEGIN_SIZE:
        raise ImageError(f"not a ZFS stream: it ends after {len(data)} bytes")
    for order in "<>":  # a stream has the byte order of the machine that sent it
        kind, _, magic, version, _, _, _, guid, from_guid, name = struct.unpack_from(order + _BEGIN, data)
        if magic == _MAGIC:
            break
    else:
        raise ImageError("not a ZFS stream: its first record has no magic number")
    if kind != 0:
        raise ImageError("not a ZFS stream: its first record begins nothing")
    if version & 3 == _COMPOUND:
        raise ImageError(
            "the ZFS stream is a package of several snapshots",
            hint="an image has one: write it with `zfs send` without -R, -I or -p",
        )
    return Begin(guid=guid, from_guid=from_guid, name=name.split(b"\0", 1)[0].decode(errors="replace"))
