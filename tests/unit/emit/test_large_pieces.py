"""Large files in layers: whatever was edited, the layer is the one made from nothing, and little is compressed."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.emit import chunk_reuse, large_pieces
from buildstep.emit.chunk_reuse import LayerFromChunks, ReusableChunks
from buildstep.emit.interface import ArchiveStyle, Blob
from buildstep.emit.large_pieces import Piece, StoredPieces
from buildstep.emit.layer import LayerJob, fill_layer
from buildstep.emit.oci import OciEmitter
from buildstep.events import Bus
from buildstep.formats import content_cut
from buildstep.formats.chunk_boundaries import ChunkBoundaries
from buildstep.formats.codecs import Codec, codec
from buildstep.system.digest import sha256_file
from buildstep.tree import scan
from buildstep.tree.diff import diff
from tests.unit.written_layers import save_chunks

GRAIN = 1 << 10
LARGEST = ChunkBoundaries(replace(codec("none"), grain=GRAIN)).pieces.most


def small(name: str) -> Codec:
    return replace(codec(name), grain=GRAIN)


class Layers:
    """Layers of one directory, each with the record of its chunks beside it."""

    def __init__(self, folder: Path, chosen: Codec, *, sparse: bool = False) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self._folder = folder
        self._codec = chosen
        self._style = ArchiveStyle(epoch=1_700_000_000, sparse=sparse)
        self.bus = Bus()

    def write(
        self, name: str, *, old: str = "", digest: str = "", workers: int | None = 2, hashed: bool = False
    ) -> Blob:
        """old: the layer whose pieces may be used; digest: which that must have, if it is checked."""
        path = self._folder / name
        whole = diff({}, scan.scan(self.root))
        if hashed:
            for entry in whole.entries:
                entry.sha256 = sha256_file(self.root / entry.path.decode()) if entry.kind == "f" else ""
        lines = [chunk_reuse.layer_line(entry, self._style) for entry in whole.entries]
        kept = [(self._folder / old, self._folder / f"{old}.parts", digest)] if old else []
        chunks, self.bus = ReusableChunks(kept, self._codec), Bus()
        reuse = (
            LayerFromChunks(chunks, self.root, whole.entries, lines, style=self._style) if hashed else None
        )
        try:
            with path.open("w+b") as file:
                job = LayerJob(
                    root=self.root, changes=whole, codec=self._codec, style=self._style, bus=self.bus,
                    reuse=reuse, pieces=chunks.large, workers=workers,
                )  # fmt: skip
                blob, stream = fill_layer(job, file.fileno(), path)
            self.damaged = chunks.large.newly_damaged()
        finally:
            chunks.close()
        lines = [chunk_reuse.layer_line(entry, self._style) for entry in whole.entries]
        rows = chunk_reuse.table(stream, whole.entries, lines)
        save_chunks(self._folder / f"{name}.parts", rows, large_pieces.table(stream))
        return blob

    def content(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def record(self, name: str) -> chunk_reuse.Table:
        return chunk_reuse.load(self._folder / f"{name}.parts")


def body(rng: random.Random, size: int) -> bytes:
    """Noise, text and zeros in turn."""
    made = b""
    while len(made) < size:
        step = rng.randrange(1, 60_000)
        made += rng.choice([rng.randbytes(step), b"text %d\n" % step * (step // 9), bytes(step)])
    return made[:size]


def edit(rng: random.Random, content: bytes) -> bytes:
    at, size = rng.randrange(len(content) + 1), rng.choice([1, 700, 30_000])
    kind = rng.choice(["insert", "delete", "overwrite", "append", "truncate", "move"])
    if kind == "insert":
        return content[:at] + body(rng, size) + content[at:]
    if kind == "delete":
        return content[:at] + content[at + size :]
    if kind == "overwrite":
        return content[:at] + body(rng, min(size, len(content) - at)) + content[at + size :]
    if kind == "append":
        return content + body(rng, size)
    if kind == "truncate":
        return content[: max(0, len(content) - size)]
    return content[at:] + content[:at]


@pytest.mark.parametrize("name", OciEmitter.compressions)
@pytest.mark.parametrize("sparse", [True, False])
def test_whatever_is_edited_the_layer_is_the_one_made_from_nothing(
    tmp_path: Path, name: str, sparse: bool
) -> None:
    rng = random.Random(f"{name} {sparse}")
    layers = Layers(tmp_path, small(name), sparse=sparse)
    contents = {"a": body(rng, 3 << 20), "b/large": body(rng, 900_000), "c": body(rng, 30_000), "z": b"z"}
    (layers.root / "b").mkdir()
    last, known, read = "", 0, 0
    for step in range(12):
        for path, content in contents.items():
            (layers.root / path).write_bytes(content)
        layers.write("cold", workers=0)
        now = f"layer{step}"
        layers.write(now, old=last, workers=step % 3, hashed=bool(step % 2))
        assert layers.content(now) == layers.content("cold")
        assert layers.record(now) == layers.record("cold")
        known += layers.bus.counts.get("bytes_of_known_pieces", 0)
        read += layers.bus.counts["bytes_read"]
        last, path = now, rng.choice(["a", "a", "b/large", "c"])
        contents[path] = edit(rng, contents[path])
    assert known > read * 0.7


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: 1 << 20] + b"!" + data[(1 << 20) + 1 :],
        lambda data: data[: 1 << 20] + b"inserted" + data[1 << 20 :],
        lambda data: data[: 1 << 20] + data[(1 << 20) + 9 :],
        lambda data: data + b"appended",
        lambda data: data[:-1],
    ],
)
def test_a_change_in_one_place_compresses_a_few_pieces(tmp_path: Path, change: object) -> None:
    assert callable(change)
    layers = Layers(tmp_path, small("gzip"))
    data = random.Random(1).randbytes(4 << 20)
    (layers.root / "large").write_bytes(data)
    layers.write("first")
    assert layers.bus.counts["bytes_compressed"] > len(data)
    (layers.root / "large").write_bytes(change(data))
    layers.write("second", old="first")
    counts = layers.bus.counts
    assert counts["files_read"] == 1
    assert counts["bytes_compressed"] <= 3 * LARGEST + 4096
    assert counts["bytes_of_known_pieces"] >= len(data) - 3 * LARGEST


def test_what_a_large_file_is_called_does_not_matter(tmp_path: Path) -> None:
    """Nor which layer it was in, its time or its mode: its header is a chunk of its own."""
    layers = Layers(tmp_path, small("gzip"))
    (layers.root / "large").write_bytes(random.Random(2).randbytes(1 << 20))
    layers.write("first")
    (layers.root / "other").mkdir()
    (layers.root / "large").rename(layers.root / "other/name")
    (layers.root / "other/name").chmod(0o755)
    layers.write("second", old="first")
    assert layers.bus.counts["bytes_compressed"] <= 4096


def test_zeros_are_compressed_once(tmp_path: Path) -> None:
    layers = Layers(tmp_path, small("gzip"), sparse=False)
    with (layers.root / "hole").open("wb") as stream:
        stream.truncate(8 << 20)
    layers.write("first", workers=0)
    assert layers.bus.counts["bytes_compressed"] < 1 << 20


@pytest.mark.parametrize("checked", [True, False])
def test_a_damaged_piece_is_noticed_and_never_used(tmp_path: Path, checked: bool) -> None:
    rng = random.Random(3)
    layers = Layers(tmp_path, small("gzip"))
    (layers.root / "large").write_bytes(rng.randbytes(1 << 20))
    blob = layers.write("first")
    good = layers.content("first")
    pieces = chunk_reuse.load(tmp_path / "first.parts").pieces
    for number in range(40):
        bad = bytearray(good)
        piece = rng.choice(pieces)
        if number % 4:
            bad[piece.offset + rng.randrange(piece.length)] ^= 1 << rng.randrange(8)
        else:
            del bad[piece.offset + rng.randrange(piece.length) :]
        (tmp_path / "first").write_bytes(bad)
        layers.write("again", old="first", digest=blob.digest if checked else "")
        assert layers.content("again") == good
        assert layers.damaged == [tmp_path / "first"]


def test_a_record_that_is_not_true_brings_nothing_wrong(tmp_path: Path) -> None:
    layers = Layers(tmp_path, small("gzip"))
    (layers.root / "large").write_bytes(random.Random(4).randbytes(1 << 20))
    layers.write("first")
    good, parts = layers.content("first"), tmp_path / "first.parts"
    table = chunk_reuse.load(parts)
    wrong = [
        [piece._replace(offset=piece.offset + 1) for piece in table.pieces],
        [piece._replace(length=piece.length - 1) for piece in table.pieces],
        [piece._replace(raw=piece.raw + 1) for piece in table.pieces],
        [piece._replace(check=piece.check ^ 1) for piece in table.pieces],
        [piece._replace(offset=1 << 40) for piece in table.pieces],
    ]
    for pieces in wrong:
        save_chunks(parts, table.rows, pieces)
        layers.write("again", old="first")
        assert layers.content("again") == good


def test_pieces_named_by_another_digest_are_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = Layers(tmp_path, small("gzip"))
    (layers.root / "large").write_bytes(random.Random(5).randbytes(1 << 20))
    layers.write("first")
    monkeypatch.setitem(sys.modules, "blake3", None)
    content_cut.naming.cache_clear()
    try:
        layers.write("second", old="first")
        assert "bytes_of_known_pieces" not in layers.bus.counts
        assert layers.content("second") == layers.content("first")
        layers.write("third", old="second")
        assert layers.bus.counts["bytes_of_known_pieces"] >= 1 << 20
    finally:
        content_cut.naming.cache_clear()


def test_without_any_library_the_layer_is_cut_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = Layers(tmp_path, small("none"))
    (layers.root / "large").write_bytes(body(random.Random(6), 1 << 20))
    layers.write("first")
    names = [piece.raw for piece in chunk_reuse.load(tmp_path / "first.parts").pieces]
    monkeypatch.setitem(sys.modules, "pyfastcdc", None)
    layers.write("second")
    assert layers.content("second") == layers.content("first")
    assert [piece.raw for piece in chunk_reuse.load(tmp_path / "second.parts").pieces] == names


def test_a_record_of_another_format_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.parts"
    save_chunks(path, [], [Piece(b"name", 1, 2, 3, 4)])
    assert chunk_reuse.load(path).pieces == [Piece(b"name", 1, 2, 3, 4)]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert chunk_reuse.load(path) == chunk_reuse.Table([])
    assert StoredPieces().find(b"name", 1) is None
