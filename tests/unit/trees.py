"""Trees as file lists and contents, for the tests of archives: made up, written, and given to emitters."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from buildstep.emit.interface import ArchiveStyle, Blob, EmitJob
from buildstep.events import Bus
from buildstep.system.remove import remove_tree
from buildstep.tree import entry as tree_entry
from buildstep.tree import hashing, scan
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry, FileList

EPOCH = 1_700_000_000


def scanned(root: Path) -> FileList:
    """A directory's entries, all hashed."""
    entries = scan.scan(root)
    hashing.hash_entries(root, entries.values())
    hashing.spread_digests(entries)
    return entries


def job(
    root: Path,
    stem: Path,
    *,
    tree: FileList | None = None,
    changes: Changes | None = None,
    layers: tuple[Blob, ...] = (),
    base_layers: int = 0,
    comment: str = "",
    compression: str | None = None,
    manifest: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    base_config: Mapping[str, Any] | None = None,
    bus: Bus | None = None,
    epoch: int | None = EPOCH,
    sparse: bool = False,
) -> EmitJob:
    entries = scan.scan(root) if tree is None else tree
    return EmitJob(
        tree=entries,
        root=root,
        changes=changes or Changes(tuple(entries[path] for path in sorted(entries)), ()),
        layers=layers,
        base_layers=base_layers,
        comment=comment,
        manifest=manifest or {"name": "hello", "version": "1.0.0", "os": "linux"},
        config=config or {},
        base_config=base_config or {},
        compression=compression,
        style=ArchiveStyle(epoch=epoch, sparse=sparse),
        created="2023-11-14T22:13:20Z",
        stem=stem,
        bus=bus or Bus(),
    )


# -- random trees ---------------------------------------------------------------------------------------

NAMES = st.one_of(
    st.sampled_from([b"a", b"a-b", b"-x", b"new\nline", b"\xff\xfe", "é".encode(), b" ", b"*"]),
    st.binary(min_size=1, max_size=250).filter(
        lambda n: not (set(n) & {0, 0x2F}) and n not in (b".", b"..") and not n.startswith(b".wh.")
    ),
)
_IDS = st.one_of(st.sampled_from([0, 1000, 0o7777777, 0o7777777 + 1, 2**32 - 2]))
_ATTRS = st.dictionaries(
    st.sampled_from(
        [b"user.a", b"user.b=c", b"user.%25", b"security.capability", b"trusted.x", b"user.\xc3\xa9"]
    ),
    st.binary(max_size=40),
    max_size=3,
)


@st.composite
def entries(draw: st.DrawFn) -> tuple[FileList, dict[bytes, bytes]]:
    """A tree that need not be on a disk, and the content of its files by path."""
    found: FileList = {b"": Entry(b"", "d", draw(st.integers(0, 0o7777)), 0, 0)}
    content: dict[bytes, bytes] = {}
    dirs = [b""]
    for _ in range(draw(st.integers(0, 12))):
        parent = draw(st.sampled_from(dirs))
        path = (parent + b"/" if parent else b"") + draw(NAMES)
        if path in found or len(path) > 2000:
            continue
        kind = draw(st.sampled_from("ffffddlcbph"))
        if kind == "h":
            leaders = [p for p, e in found.items() if e.kind != "d" and not e.first]
            if not leaders:
                continue
            leader = draw(st.sampled_from(leaders))
            twin = tree_entry.loads(tree_entry.dumps({leader: found[leader]}))[leader]
            twin.path, twin.first = path, leader
            found[path] = twin
            continue
        entry = Entry(
            path,
            kind,
            draw(st.integers(0, 0o7777)),
            draw(_IDS),
            draw(_IDS),
            mtime=draw(st.integers(-(2**36), 2**36)) * 1_000_000_000,
            xattrs=tuple(sorted(draw(_ATTRS).items())),
        )
        if kind == "d":
            dirs.append(path)
        elif kind == "f":
            content[path] = draw(st.binary(max_size=1500))
            entry.size = len(content[path])
            entry.sha256 = hashlib.sha256(content[path]).hexdigest()
        elif kind == "l":
            entry.mode = 0o777
            entry.target = draw(st.binary(min_size=1, max_size=300).filter(lambda t: 0 not in t))
        elif kind in "cb":
            entry.rdev = (draw(st.integers(1, 4095)), draw(st.integers(0, 2**20 - 1)))
        found[path] = entry
    numbers = {path: (0, hash(e.first or path)) for path, e in found.items() if e.kind != "d"}
    scan.link_groups(found, numbers)
    for path, entry in found.items():
        if entry.first and entry.kind == "f" and path in content:
            content[entry.first] = content.pop(path)
    return {path: found[path] for path in sorted(found)}, content


def write_files(root: Path, content: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Put contents under plain names; returns the path on the agent of each, for `Entry.source`."""
    sources = {}
    for number, (path, data) in enumerate(content.items()):
        full = root / f"{number:06d}"
        full.write_bytes(data)
        sources[path] = os.fsencode(full)
    return sources


def modes(root: Path) -> dict[str, int]:
    """Permissions of all that is in a directory, by relative path."""
    return {
        os.path.relpath(os.path.join(top, name), root): stat.S_IMODE(
            os.lstat(os.path.join(top, name)).st_mode
        )
        for top, dirs, files in os.walk(root)
        for name in [*dirs, *files]
    }


def deep(top: Path, depth: int, *, files: bool = False, name: str = "d") -> None:
    """A chain of directories, far deeper than a path can tell. files: each holds a file as well; name: of each."""
    top.mkdir(parents=True)
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        if files:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


@contextlib.contextmanager
def deep_place() -> Iterator[Path]:
    """A directory for what is deep: in memory, as disks take their time, and removed, as pytest cannot."""
    memory = Path("/dev/shm")
    top = Path(tempfile.mkdtemp(prefix="buildstep-test-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        yield top
    finally:
        remove_tree(top)
