"""Whether the programs of a tree are for the processor that its image is labelled with."""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from buildstep.emit.interface import EmitJob
from buildstep.errors import EmitError
from buildstep.system.text import shown
from buildstep.tree.entry import Entry, FileList

_MACHINES: Final[Mapping[int, tuple[str, ...]]] = {
    3: ("386",),
    8: ("mips", "mipsle", "mips64", "mips64le"),
    21: ("ppc64le", "ppc64"),
    22: ("s390x",),
    40: ("arm",),
    62: ("amd64",),
    183: ("arm64",),
    243: ("riscv64",),
    258: ("loong64",),
}
"""`e_machine` of an ELF header (System V ABI, "ELF Header") to what OCI may call it."""

_ALSO_RUNS: Final[Mapping[str, str]] = {"amd64": "386", "arm64": "arm"}
"""What a processor runs besides its own programs."""

_ALWAYS: Final = (b"bin/sh", b"sbin/init", b"usr/bin/env")
"""Programs that an image of any kind is run with, where it has them."""

_LINKS: Final = 40
"""Symbolic links that are followed, as Linux does."""


def check_architecture(job: EmitJob, config: Mapping[str, Any], architecture: str) -> None:
    """Raise EmitError where a program that the image is run with is for another processor than its label.

    config: the image's `config` object. Only what is started is looked at: an image may well have files of
    other processors, such as firmware. What is in the base alone is passed over where there is no clone of
    it: it was looked at before.
    """
    if not any(architecture in names for names in _MACHINES.values()):
        return
    for path in _programs(config):
        entry = _found(job.tree, path)
        names = () if entry is None else _machine(entry, job.root)
        if names and not {architecture, _ALSO_RUNS.get(architecture)} & set(names):
            raise EmitError(
                f"the image is labelled {architecture}, but /{shown(path)} in it is a program for {names[0]}",
                hint="give the architecture that the tree has as build.oci.architecture, or take a base image"
                f" for {architecture}",
            )


def machine_of(tree: FileList, root: Path) -> tuple[str, ...]:
    """Return what OCI may call the processor that the programs of any image in a tree are for; none where
    there are none. root: where the tree's files are."""
    for path in _ALWAYS:
        entry = _found(tree, path)
        if entry is not None and (names := _machine(entry, root)):
            return names
    return ()


def _programs(config: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield paths, without a leading slash, of what an image starts."""
    places = [row[5:] for row in config.get("Env") or () if row.startswith("PATH=")]
    folders = places[-1].split(":") if places else ()
    for key in ("Entrypoint", "Cmd"):
        for word in (config.get(key) or ())[:1]:
            for folder in [""] if "/" in word else folders:
                yield os.fsencode(posixpath.join(folder, word)).lstrip(b"/")
    yield from _ALWAYS


def _found(tree: FileList, path: bytes) -> Entry | None:
    """Return the file at a path of a tree, links followed; None where there is none."""
    names, done, links = path.split(b"/")[::-1], b"", 0
    while names:
        name = names.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            done = done.rpartition(b"/")[0]
            continue
        here = done + b"/" + name if done else name
        entry = tree.get(here)
        if entry is None:
            return None
        if entry.kind != "l":
            done = here
            continue
        links += 1
        if links > _LINKS:
            return None
        target = entry.target
        names += target.split(b"/")[::-1]
        done = b"" if target.startswith(b"/") else done
    entry = tree.get(done)
    if entry is not None and entry.first:
        entry = tree.get(entry.first)
    return entry if entry is not None and entry.kind == "f" else None


def _machine(entry: Entry, root: Path) -> tuple[str, ...]:
    """Return the names of the processor that a file is a program for; none where it is no program, or cannot
    be read here: the read pass says so."""
    place = entry.source or (os.path.join(os.fsencode(root), entry.path) if root != Path() else b"")
    if not place:
        return ()
    head = b""
    with contextlib.suppress(OSError):
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            head = os.read(fd, 20)
        finally:
            os.close(fd)
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return ()
    return _MACHINES.get(int.from_bytes(head[18:20], "little" if head[5] == 1 else "big"), ())
