"""Proto directories made from a seed: the same bytes, names, modes and times on every machine.

A file is a row of chunks of up to 1 MiB; each chunk is a function of seed, path, index and variant, so a
change writes another variant of a chunk, and undoing it writes variant 0 again.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import random
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

CHUNK = 1 << 20
SEED = 20260101
MTIME_NS = 1_767_225_600_000_000_000  # 2026-01-01: every file and folder of a fresh tree has this time
_BLOCK = 1 << 16
_TEXT_SIZE = 8 << 20
GENERATION = "3"
"""Raised when this file makes other trees than before, so that kept ones are made again."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file (size, and where data stands in a hole), or a symbolic link (target)."""

    path: str
    size: int = 0
    mode: int = 0o644
    target: str = ""
    data_at: int | None = None
    data_size: int = 0

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Offset and length of each chunk that holds data."""
        start, length = (0, self.size) if self.data_at is None else (self.data_at, self.data_size)
        for offset in range(start, start + length, CHUNK):
            yield offset, min(CHUNK, start + length - offset)


@functools.cache
def _text(seed: int) -> bytes:
    """Words, the first ones often and the last ones seldom, as those of a language are."""
    rng = random.Random(seed)
    letters = "etaoinshrdlucmfw"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(2000)]
    often = [1 / rank for rank in range(1, len(words) + 1)]
    return " ".join(rng.choices(words, weights=often, k=_TEXT_SIZE // 5)).encode()[:_TEXT_SIZE]


class Content:
    """Half of every 64 KiB is text, which compresses, and half is noise, which does not."""

    def __init__(self, seed: int = SEED) -> None:
        self._seed = seed
        self._text = _text(seed)

    def chunk(self, path: str, offset: int, length: int, variant: int = 0) -> bytes:
        name = f"{self._seed}/{path}/{offset}/{variant}".encode()
        noise = hashlib.shake_128(name).digest((length + 1) // 2 + 8)
        at = int.from_bytes(noise[-8:], "big")
        parts = []
        for done in range(0, length, _BLOCK):
            size = min(_BLOCK, length - done)
            start = (at + done) % (len(self._text) - _BLOCK)
            parts += [self._text[start : start + size // 2], noise[done // 2 : done // 2 + size - size // 2]]
        return b"".join(parts)


def many_files(count: int, *, mean: int = 6100, seed: int = SEED) -> list[Item]:
    """Files in folders of fifty, twenty folders to a branch; log-normal sizes; a link per folder."""
    rng = random.Random(seed)
    sigma = 1.5
    mu = math.log(mean) - sigma * sigma / 2
    items = []
    for index in range(count):
        folder = f"branch{index // 1000:03d}/folder{index // 50 % 20:02d}"
        size = min(int(rng.lognormvariate(mu, sigma)), 16 << 20)
        mode = 0o755 if index % 25 == 0 else 0o644
        items.append(Item(f"{folder}/file{index:06d}.dat", size, mode))
        if index % 50 == 0:
            items.append(Item(f"{folder}/latest", target=f"file{index:06d}.dat"))
    return items


@dataclass(slots=True)
class Tree:
    """A proto directory on disk that can be changed and put back.

    `ready` beside it is there only while it is unchanged; without it the tree is made anew, so a run that
    was killed cannot leave a wrong one behind.
    """

    root: Path
    items: list[Item]
    content: Content = field(default_factory=Content)
    _changed: dict[tuple[Item, int], int] = field(default_factory=dict)
    _renamed: dict[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> Path:
        return self.root.with_name(self.root.name + ".ready")

    @property
    def identity(self) -> str:
        rows = repr((GENERATION, SEED, [(i.path, i.size, i.mode, i.target, i.data_at) for i in self.items]))
        return hashlib.sha256(rows.encode()).hexdigest()

    def ensure(self) -> bool:
        """Make the tree unless it is there. Tells whether it had to be made."""
        if self.ready.exists() and self.ready.read_text() == self.identity:
            return False
        self.ready.unlink(missing_ok=True)
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        folders = {self.root}
        for item in self.items:
            path = self.root / item.path
            if path.parent not in folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.update(path.parents)
                folders.add(path.parent)
            self._write(item)
        for folder in sorted((f for f in folders if f.is_relative_to(self.root)), reverse=True):
            folder.chmod(0o755)
            os.utime(folder, ns=(MTIME_NS, MTIME_NS))
        self.ready.write_text(self.identity)
        return True

    def _write(self, item: Item) -> None:
        path = self.root / item.path
        if item.target:
            path.symlink_to(item.target)
        else:
            with path.open("xb", buffering=0) as stream:
                for offset, length in item.chunks():
                    stream.seek(offset)
                    stream.write(self.content.chunk(item.path, offset, length))
                stream.truncate(item.size)
            path.chmod(item.mode)
        os.utime(path, ns=(MTIME_NS, MTIME_NS), follow_symlinks=False)

    # -- changes ----------------------------------------------------------------------------------------

    def change(self, chunks: Iterable[tuple[Item, int]], variant: int) -> None:
        """Write another variant of some chunks, each given by its file and its index."""
        self.ready.unlink(missing_ok=True)
        for item, index in chunks:
            self._rewrite(item, index, variant)
            self._changed[item, index] = variant

    def _rewrite(self, item: Item, index: int, variant: int) -> None:
        offset, length = list(item.chunks())[index]
        with self._place(item).open("r+b", buffering=0) as stream:
            stream.seek(offset)
            stream.write(self.content.chunk(item.path, offset, length, variant))

    def _place(self, item: Item) -> Path:
        """Where a file is now, renamed folders minded."""
        first, _, rest = item.path.partition("/")
        return self.root / self._renamed.get(first, first) / rest if rest else self.root / first

    def rename(self, folder: str, variant: int) -> None:
        """Give a top-level folder another name."""
        self.ready.unlink(missing_ok=True)
        new = f"{folder}-renamed{variant}"
        (self.root / self._renamed.get(folder, folder)).rename(self.root / new)
        self._renamed[folder] = new

    def restore(self) -> None:
        """Undo every change: the same bytes, names and times as at first."""
        for folder, new in self._renamed.items():
            (self.root / new).rename(self.root / folder)
        self._renamed.clear()
        for item, index in self._changed:
            self._rewrite(item, index, 0)
            os.utime(self._place(item), ns=(MTIME_NS, MTIME_NS))
        self._changed.clear()
        os.utime(self.root, ns=(MTIME_NS, MTIME_NS))
        self.ready.write_text(self.identity)

    def facts(self) -> dict[str, int]:
        """Counts and sizes, for the record."""
        files = [item for item in self.items if not item.target]
        return {
            "files": len(files),
            "links": len(self.items) - len(files),
            "bytes": sum(item.size for item in files),
            "data_bytes": sum(length for item in files for _, length in item.chunks()),
        }
