"""Lists and objects of AYS for tests: the fixtures, and its old readers, which do what the originals did."""

from __future__ import annotations

import hashlib
from pathlib import Path

FIXTURES = Path(__file__).parents[3] / "fixtures/ays"


def fixture(name: str) -> bytes:
    return (FIXTURES / f"md/{name}.flist").read_bytes()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def old_read_1(data: bytes) -> dict[str, tuple[str, int]]:
    """What JumpScale 7 read (ActionsBaseNode._installFromStore): one odd line ends it all."""
    found = {}
    for row in data.decode().splitlines():
        path, digest, size = row.split("|")
        found[path] = (digest, int(size))
    return found


def old_read_3(data: bytes) -> dict[str, list[str | int]]:
    """What JumpScale 8 read (FList.parse), by path, where that read by hash."""
    found: dict[str, list[str | int]] = {}
    for row in data.decode().split("\n")[:-1]:
        f = row.strip().split("|")
        found[f[0]] = [f[1], int(f[2]), f[3], f[4], f[5], int(f[6]), int(f[7]), int(f[8]), f[9]]
    return found


def old_restore_1(store: Path, name: str, target: Path) -> None:
    """Do what the old install did with a store that a web server serves: every file becomes 0775."""
    for path, (digest, _size) in old_read_1((store / f"dedupe/md/{name}.flist").read_bytes()).items():
        full = target / path.lstrip("/")
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes((store / "dedupe/files" / digest[0] / digest[1] / digest).read_bytes())
        full.chmod(0o775)
