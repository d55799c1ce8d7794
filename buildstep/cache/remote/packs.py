"""Turn an output into blobs: packs of its parts, a table of them, and patches against its older version.

What an older version has stored already is not stored again. A pack ends at 16 MiB, so that an upload that
was broken off has not been for nothing, and a pack that only little of is still used can go.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildstep.cache.remote import names, parts, patches
from buildstep.cache.remote.interface import Output, Unusable
from buildstep.cache.remote.parts import Part, Source, Table
from buildstep.errors import ToolMissing
from buildstep.formats.codecs import codec
from buildstep.formats.members import compression_of
from buildstep.system.digest import sha256_bytes

PACK = 16 << 20
SMALLEST = 256 << 10
"""Bytes up to which an output is one blob."""
_LEAST_REUSED = 0.1
"""Share of an older pack that must be of use: else its parts are stored again, and it can go some day."""
Make = Callable[[], bytes | Path]
"""Returns the bytes of a blob."""
_MOST_OLD = 24
"""Older packs that an output may refer to: each costs its readers a call at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Older:
    """An older version of an output. read: returns the packed bytes of its parts from one on, so many."""

    digest: str
    table_digest: str
    table: Table
    read: Callable[[int, int], bytes] | None = None


@dataclass(slots=True)
class Plan:
    """What an output is stored as. blobs: by name, each with what makes its bytes; old: names of blobs that
    are to be there already."""

    output: Output
    blobs: dict[str, Make] = field(default_factory=dict)
    old: tuple[str, ...] = ()
    table: bytes = b""


def plan(output: Output, path: Path, older: Older | None) -> Plan:
    """Return how to store the file of an output. Raises OSError."""
    found = parts.scan(path) if output.size > SMALLEST else None
    if found is None:
        return Plan(output, {names.blob_name(output.digest): lambda: path})
    reused = _reused(found, older)
    old = list(dict.fromkeys(source for source, _ in reused.values()))
    table, blobs = _packed(path, found, reused, old)
    table, patch = _with_patches(table, path, found, older)
    if patch:
        assert table.patch is not None
        blobs[names.blob_name(table.patch.digest)] = lambda: patch
    data = parts.dumps(table)
    digest = sha256_bytes(data)
    blobs[names.blob_name(digest)] = lambda: data
    return Plan(
        replace(output, parts=digest), blobs, tuple(names.blob_name(source.digest) for source in old), data
    )


def _packed(
    path: Path, found: Sequence[Part], reused: Mapping[bytes, tuple[Source, int]], old: Sequence[Source]
) -> tuple[Table, dict[str, Make]]:
    """Return the table of an output, and the packs of what is new in it."""
    sources = list(old)
    blobs: dict[str, Make] = {}
    placed = [
        part._replace(source=sources.index(reused[part.digest][0]), offset=reused[part.digest][1])
        for part in found
        if part.digest in reused
    ]
    for pack in _cut([part for part in found if part.digest not in reused]):
        runs = _runs(pack)
        digest = sha256_bytes(_bytes_of(path, runs))
        source = Source(digest, sum(part.length for part in pack))
        if source not in sources:
            sources.append(source)
        blobs[names.blob_name(digest)] = functools.partial(_bytes_of, path, runs)
        at = 0
        for part in pack:
            placed.append(part._replace(source=sources.index(source), offset=at))
            at += part.length
    placed.sort(key=lambda part: part.place)
    kind = compression_of(path)
    table = Table(
        size=sum(part.length for part in found), codec=kind, ident=codec(kind).ident,
        sources=tuple(sources), parts=tuple(placed),
    )  # fmt: skip
    return table, blobs


def _cut(fresh: Sequence[Part]) -> list[list[Part]]:
    """Return new parts in packs."""
    found: list[list[Part]] = []
    size = PACK
    for part in fresh:
        if size + part.length > PACK:
            found.append([])
            size = 0
        found[-1].append(part)
        size += part.length
    return found


def _reused(found: Sequence[Part], older: Older | None) -> dict[bytes, tuple[Source, int]]:
    """Return where the older version has stored parts, by their digests."""
    if older is None:
        return {}
    wanted = {part.digest for part in found}
    there = {
        part.digest: (older.table.sources[part.source], part.offset, part.length)
        for part in older.table.parts
        if part.digest in wanted
    }
    useful: Counter[Source] = Counter()
    for source, _, length in there.values():
        useful[source] += length
    kept = {source for source, size in useful.most_common(_MOST_OLD) if size >= source.size * _LEAST_REUSED}
    return {digest: (source, offset) for digest, (source, offset, _) in there.items() if source in kept}


def _with_patches(
    table: Table, path: Path, found: Sequence[Part], older: Older | None
) -> tuple[Table, bytes]:
    """Return a table that says what it was compared with, and the blob of frames; empty if none is of use."""
    if older is None:
        return table, b""
    table = replace(table, before=(older.digest, older.table_digest))
    packer = patches.codec_of(table)
    if (
        packer is None
        or older.read is None
        or (older.table.codec, older.table.ident) != (table.codec, table.ident)
    ):
        return table, b""
    made = None
    with contextlib.suppress(Unusable, ToolMissing):
        made = patches.make(
            found, lambda first, count: _bytes_of(path, [_run(found[first : first + count])]),
            older.table.parts, older.read, packer,
        )  # fmt: skip
    if made is None or not made.frames:
        return table, b""
    source = Source(sha256_bytes(made.blob), len(made.blob))
    return replace(table, patch=source, frames=made.frames), made.blob


def _run(rows: Sequence[Part]) -> tuple[int, int]:
    """Return the place and the length of parts in a row."""
    return rows[0].place, sum(part.length for part in rows)


def _runs(pack: Sequence[Part]) -> list[tuple[int, int]]:
    """Return where the parts of a pack are in the output: runs of place and length."""
    runs: list[tuple[int, int]] = []
    for part in pack:
        if runs and sum(runs[-1]) == part.place:
            runs[-1] = (runs[-1][0], runs[-1][1] + part.length)
        else:
            runs.append((part.place, part.length))
    return runs


def _bytes_of(path: Path, runs: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(_read(path, runs))


def _read(path: Path, runs: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for place, length in runs:
            yield os.pread(fd, length, place)
    finally:
        os.close(fd)
