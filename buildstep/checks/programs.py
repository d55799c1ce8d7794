"""Programs that cannot start: scripts and ELF files that need what is not in the image."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator

from buildstep.checks.interface import Found, Subject
from buildstep.formats import elf
from buildstep.system.text import shown
from buildstep.tree.entry import Entry

_LONGEST_LINE = 256
"""Bytes of a first line that Linux looks at (execve(2))."""

_FIRST_LINE = re.compile(rb"#![ \t]*(/[^ \t\n\r]*)[ \t]*([^\n]*)")
_VARIABLE = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*=")

_OF_OTHERS = frozenset(
    (
        b"node_modules", b"site-packages", b"dist-packages", b"vendor", b"gems", b"doc", b"docs", b"examples",
        b"test", b"tests", b"testdata", b"debug",
    )
)  # fmt: skip
"""Directories of what an application takes from others, with tools of all systems that nobody runs here."""

_SHORTEST = 4
"""Bytes of the shortest first line."""


def shebang(subject: Subject) -> Iterator[Found]:
    """Yield scripts whose interpreter is not in the image, or is no program."""
    for path, entry in _candidates(subject, libraries=False):
        head = subject.read(entry, _LONGEST_LINE)
        if head.startswith(b"#!") and (text := _wrong_line(head, subject)):
            yield Found(path, text, grave=not _of_others(path))


def library(subject: Subject) -> Iterator[Found]:
    """Yield programs and libraries that need a loader or a library that is nowhere in the image."""
    wanted: dict[bytes, list[bytes]] = {}
    for path, entry in _candidates(subject, libraries=True):
        if subject.read(entry, len(elf.MAGIC)) != elf.MAGIC:
            continue
        with subject.open(entry) as stream:
            needs = elf.needs(stream)
        if needs.interpreter and not subject.tree.leads(needs.interpreter):
            text = f"needs {shown(needs.interpreter)} to be loaded, which is not in the image"
            yield Found(path, text, grave=not _of_others(path))
            continue  # what it needs besides is that of another system
        for name in needs.libraries:
            # musl's loader is its C library as well, by whatever name a program has it.
            if not (b"ld-musl" in needs.interpreter and name.startswith(b"libc.")):
                wanted.setdefault(name, []).append(path)
    for name in _missing(subject, wanted):
        for path in wanted[name]:
            text = f"needs the library {shown(name)}, which is not in the image"
            yield Found(path, text, grave=not _of_others(path))


def _candidates(subject: Subject, *, libraries: bool) -> Iterator[tuple[bytes, Entry]]:
    """Yield what may be a program of this build's own."""
    for path, entry in subject.files():
        if entry.kind != "f" or entry.first or entry.size < _SHORTEST:
            continue
        runs = entry.mode & 0o111 or (libraries and b".so" in path.rpartition(b"/")[2])
        if runs and subject.own(path):
            yield path, entry


def _of_others(path: bytes) -> bool:
    return not _OF_OTHERS.isdisjoint(path.split(b"/")[:-1])


def _wrong_line(head: bytes, subject: Subject) -> str:
    """Return what is wrong with a script's first line; empty if nothing is."""
    line = head.partition(b"\n")[0]
    found = _FIRST_LINE.match(line)
    if found is None:
        return ""  # no interpreter is named: whoever starts it knows what it is
    interpreter, rest = found.groups()
    shown_line = shown(line.rstrip())
    if line.endswith(b"\r"):
        return f"has a carriage return at the end of its first line ({shown_line}): convert its line ends"
    target = subject.tree.find(interpreter)
    if target is None and not subject.tree.leads(interpreter):
        return f"is a script for {shown(interpreter)}, which is not in the image"
    if target is not None and (target.kind != "f" or not target.mode & 0o111):
        return f"is a script for {shown(interpreter)}, which is no program"
    if posixpath.basename(interpreter) == b"env":
        name = _of_env(rest)
        if name and not _on_path(name, subject):
            return f"is a script for {shown(name)} ({shown_line}), which is nowhere on the image's PATH"
    return ""


def _of_env(rest: bytes) -> bytes:
    """Return the program that env(1) is to start by these arguments; empty where that is not plain."""
    for word in rest.split():
        if word in (b"-S", b"-i", b"-v", b"-", b"--split-string", b"--ignore-environment"):
            continue
        plain = word.removeprefix(b"-S")
        if plain.startswith(b"-"):
            return b""
        if not _VARIABLE.match(plain):
            return plain
    return b""


def _on_path(name: bytes, subject: Subject) -> bool:
    if b"/" in name:
        return subject.tree.leads(name)
    folders = os.fsencode(subject.path).split(b":")
    return any(subject.tree.leads(folder + b"/" + name) for folder in folders if folder.startswith(b"/"))


def _missing(subject: Subject, wanted: dict[bytes, list[bytes]]) -> list[bytes]:
    """Return the libraries of which no file in the image has the name.

    Where the loader looks for one depends on how a program is started; one that is nowhere is never found.
    """
    left = {name for name in wanted if b"/" not in name}
    missing = [name for name in wanted if b"/" in name and not subject.tree.leads(name)]
    if left:
        for path, entry in subject.tree.walk():
            name = path.rpartition(b"/")[2]
            if name in left and entry.kind in "fl":
                left.discard(name)
    return [name for name in wanted if name in left or name in missing]
