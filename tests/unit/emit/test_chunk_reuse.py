"""Layers made from the parts of older ones: the same bytes, less work, and nothing taken from what is damaged."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.emit import chunk_reuse
from buildstep.emit.chunk_reuse import LayerFromChunks, ReusableChunks, Row, Table
from buildstep.emit.interface import ArchiveStyle, Blob
from buildstep.emit.oci import OciEmitter
from buildstep.emit.stored_layer import ChunkLost
from buildstep.events import Bus
from buildstep.formats.codecs import Codec, codec
from buildstep.system.digest import sha256_file
from buildstep.tree import entry as tree_entry
from buildstep.tree import hashing, scan
from buildstep.tree.diff import diff
from buildstep.tree.entry import Entry
from tests.unit.written_layers import save_chunks, write_layer

STYLE = ArchiveStyle(epoch=1_700_000_000, sparse=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Files of all sizes around the limits, and entries whose headers are not of one block."""
    rng = random.Random(1)
    top = tmp_path / "root"
    for number in range(300):
        path = top / f"d{number % 9}" / f"f{number:03d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 511, 512, 513, 3000])) * rng.choice([1, 3]))
    (top / "d1/large").write_bytes(rng.randbytes(90_000))
    (top / "d2/larger").write_bytes(rng.randbytes(70_000) * 3)
    with (top / "d3/sparse").open("wb") as stream:
        stream.write(rng.randbytes(100_000))
        stream.seek(400_000)
        stream.write(rng.randbytes(70_000))
    (top / "d4" / ("n" * 180)).write_bytes(b"a long name" * 50)
    (top / "d5" / ("é" * 90)).write_bytes(b"another")
    os.symlink("x" * 150, top / "d6/link")
    os.link(top / "d1/f001", top / "d7/twin")
    os.mkfifo(top / "d8/fifo")
    os.utime(top / "d1/f010", ns=(0, -5_000_000_000))
    return top


def tree(root: Path) -> tree_entry.FileList:
    entries = scan.scan(root)
    hashing.hash_entries(root, entries.values())
    hashing.spread_digests(entries)
    return entries


def write(
    root: Path,
    path: Path,
    chosen: Codec,
    *,
    old: ReusableChunks | None = None,
    bus: Bus | None = None,
    style: ArchiveStyle = STYLE,
) -> Blob:
    """A layer of all of a tree, and the table of its parts beside it."""
    entries = tree(root)
    whole = diff({}, entries)
    rows = [chunk_reuse.layer_line(entry, style) for entry in whole.entries]
    reuse = LayerFromChunks(old, root, whole.entries, rows, style=style) if old else None
    blob, stream = write_layer(root, whole, path, codec=chosen, style=style, bus=bus or Bus(), reuse=reuse)
    found = chunk_reuse.table(stream, list(whole.entries), rows)
    save_chunks(path.with_suffix(".parts"), found)
    return blob


def old_parts(layer: Path, chosen: Codec, digest: str = "") -> ReusableChunks:
    return ReusableChunks([(layer, layer.with_suffix(".parts"), digest or sha256_file(layer))], chosen)


def change(rng: random.Random, root: Path, step: int) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    for path in rng.sample(files, 3):
        act = rng.randrange(6)
        if act == 0:
            path.unlink()
        elif act == 1:
            path.rename(path.with_name(f"r{step}"))
        elif act == 2:
            (path.parent / f"new{step}").write_bytes(rng.randbytes(2000))
        elif act == 3:
            path.chmod(rng.choice([0o600, 0o755]))
        else:
            path.write_bytes(rng.randbytes(rng.choice([10, 4000, 100_000])))


@pytest.mark.parametrize("name", OciEmitter.compressions)
@pytest.mark.parametrize("grain", [1 << 10, 8 << 10, 64 << 10])
def test_what_is_taken_from_old_parts_makes_the_same_layer(
    root: Path, tmp_path: Path, name: str, grain: int
) -> None:
    chosen = replace(codec(name), grain=grain)
    rng = random.Random(grain)
    last = tmp_path / "layer0"
    style = replace(STYLE, sparse=grain != 8 << 10)
    write(root, last, chosen, style=style)
    taken = 0
    for step in range(1, 6):
        change(rng, root, step)
        cold = write(root, tmp_path / "cold", chosen, style=style)
        bus, path = Bus(), tmp_path / f"layer{step}"
        old = old_parts(last, chosen)
        warm = write(root, path, chosen, old=old, bus=bus, style=style)
        old.close()
        assert path.read_bytes() == (tmp_path / "cold").read_bytes()
        assert (warm.digest, warm.diff_id, warm.size) == (cold.digest, cold.diff_id, cold.size)
        # The tables are the same as well, so that the next one finds as much.
        assert chunk_reuse.load(path.with_suffix(".parts")) == chunk_reuse.load(tmp_path / "cold.parts")
        taken += len(tree(root)) - bus.counts["files_read"]
        last = path
    assert taken > 500


def test_what_did_not_change_is_neither_read_nor_compressed(root: Path, tmp_path: Path) -> None:
    chosen = replace(codec("gzip"), grain=4 << 10)
    first = tmp_path / "first"
    write(root, first, chosen)
    bus, old = Bus(), old_parts(first, chosen)
    write(root, tmp_path / "again", chosen, old=old, bus=bus)
    old.close()
    # Only what is larger than a part.
    assert bus.counts["files_read"] == 3
    # In the part of a file that changed, the others are taken out of the old part.
    (root / "d0/f009").write_bytes(b"other")
    bus, old = Bus(), old_parts(first, chosen)
    write(root, tmp_path / "changed", chosen, old=old, bus=bus)
    old.close()
    assert bus.counts["files_read"] == 4
    assert bus.counts["bytes_compressed"] < 600_000


def rows_of(path: Path) -> list[Row]:
    return chunk_reuse.load(path.with_suffix(".parts")).rows


@pytest.mark.parametrize("harm", ["flipped", "cut off", "table", "length"])
def test_a_damaged_part_is_not_taken(root: Path, tmp_path: Path, harm: str) -> None:
    chosen = replace(codec("gzip"), grain=4 << 10)
    first = tmp_path / "first"
    cold = write(root, first, chosen)
    rows, data = rows_of(first), bytearray(first.read_bytes())
    middle = rows[len(rows) // 2]
    if harm == "flipped":
        data[middle.offset + middle.length // 2] ^= 1
    elif harm == "cut off":
        del data[middle.offset :]
    elif harm == "table":
        rows = [row._replace(offset=row.offset + 1) for row in rows]
    else:
        rows = [row._replace(raw=row.raw + 1) for row in rows]
    first.write_bytes(data)
    save_chunks(first.with_suffix(".parts"), rows)
    old = old_parts(first, chosen, cold.digest)
    with pytest.raises(ChunkLost):
        write(root, tmp_path / "again", chosen, old=old)
    old.close()
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"
    # Where only some of it is used, the rest is read.
    assert write(root, tmp_path / "anew", chosen).digest == cold.digest


def test_tables_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.parts"
    assert chunk_reuse.load(path) == Table([])
    for junk in (b"", b"junk", b"\xff" * 100):
        path.write_bytes(junk)
        assert chunk_reuse.load(path) == Table([])
    save_chunks(path, [Row(b"a", b"0 x\n", True, 1, 2, 3)])
    assert len(chunk_reuse.load(path).rows) == 1


def test_a_line_tells_all_that_decides_an_entry() -> None:
    one = Entry(b"a", "f", 0o644, 0, 0, 3, "00" * 32, mtime=1_700_000_000 * 10**9)
    same = replace(one, mtime=1_700_000_100 * 10**9 + 5)
    assert chunk_reuse.layer_line(one, STYLE) == chunk_reuse.layer_line(same, STYLE)
    assert chunk_reuse.layer_line(one, ArchiveStyle()) != chunk_reuse.layer_line(same, ArchiveStyle())
    others: list[dict[str, Any]] = [
        {"path": b"b"}, {"mode": 0o600}, {"uid": 1}, {"gid": 1}, {"sha256": "11" * 32}, {"first": b"c"},
        {"xattrs": ((b"user.x", b"1"),)}, {"mtime": 0},
    ]  # fmt: skip
    large, plain = replace(one, size=1 << 20), replace(STYLE, sparse=False)
    assert chunk_reuse.layer_line(large, STYLE) != chunk_reuse.layer_line(large, plain)
    for other in others:
        assert chunk_reuse.layer_line(replace(one, **other), STYLE) != chunk_reuse.layer_line(one, STYLE)
