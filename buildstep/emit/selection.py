"""A part of a tree, as a tree of its own: what matches some patterns, with the directories above it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from buildstep.errors import EmitError, Fault, SpecError
from buildstep.system.text import shown
from buildstep.tree.entry import FileList
from buildstep.tree.exclude import excluder


class Selection:
    """What of a tree is wanted.

    patterns: anchored ones of rsync (`/opt/app`, `/usr/lib/*.so`, `/srv/**/data`), each with all below what
    it matches; with `!` in front, what of that stays out. strip: a path that becomes the top. Raises
    SpecError for a pattern that we do not know the meaning of.
    """

    def __init__(self, patterns: Sequence[str], strip: str = "") -> None:
        self._wanted = [_matcher(pattern) for pattern in patterns if not pattern.startswith("!")]
        self._names = [pattern for pattern in patterns if not pattern.startswith("!")]
        self._unwanted = [_matcher(pattern[1:]) for pattern in patterns if pattern.startswith("!")]
        self._strip = os.fsencode(strip.strip("/"))

    def paths(self, tree: FileList) -> set[bytes]:
        """Return the paths that are wanted, without the directories above them.

        Raises EmitError for a pattern that matches nothing, and for paths that are not below `strip`.
        """
        found: set[bytes] = set()
        left_out: set[bytes] = set()
        used = [False] * len(self._wanted)
        for path in sorted(tree):
            if not path:
                continue
            parent = path.rpartition(b"/")[0]
            folder = tree[path].kind == "d"
            if parent in left_out or any(match(path, folder) for match in self._unwanted):
                left_out.add(path)
                continue
            for number, match in enumerate(self._wanted):
                if match(path, folder):
                    used[number] = True
                    found.add(path)
            if parent in found:
                found.add(path)
        if not all(used):
            unused = ", ".join(name for name, hit in zip(self._names, used, strict=True) if not hit)
            raise EmitError(
                f"nothing in the finished tree is one of the outputs {unused}",
                hint="is the path right? it is one in the image, with a slash in front",
            )
        if self._strip and (outside := next((path for path in sorted(found) if not self._below(path)), None)):
            raise EmitError(f"{shown(outside)} is an output that is not below /{os.fsdecode(self._strip)}")
        return found

    def _below(self, path: bytes) -> bool:
        return path == self._strip or path.startswith(self._strip + b"/")

    def take(self, tree: FileList) -> FileList:
        """Return the part as a tree; its entries are copies. Raises as `paths`."""
        wanted = self.paths(tree)
        kept = wanted | set(_above(wanted))
        if self._strip:
            kept = {path for path in kept if self._below(path)} | {self._strip}
        leaders: dict[bytes, bytes] = {}
        found: FileList = {}
        for path in sorted(kept):
            new = path[len(self._strip) :].lstrip(b"/") if self._strip else path
            entry = replace(tree[path], path=new, first=b"")
            group = tree[path].first or path
            if tree[path].kind != "d" and group in leaders:
                entry.first = leaders[group]
            leaders.setdefault(group, new)
            found[new] = entry
        return found


def _matcher(pattern: str) -> Callable[[bytes, bool], bool]:
    match = excluder([pattern]) if pattern.startswith("/") else None
    if match is None:
        message = f"{pattern!r} is no pattern that is anchored at the top, such as /opt/app or /usr/lib/*.so"
        raise SpecError("outputs", [Fault(where="$.build.outputs", message=message)])
    return match


def _above(paths: Iterable[bytes]) -> Iterable[bytes]:
    seen = {b""}
    yield b""
    for path in paths:
        parent = path
        while parent := parent.rpartition(b"/")[0]:
            if parent in seen:
                break
            seen.add(parent)
            yield parent
