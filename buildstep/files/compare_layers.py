"""The layers of two images: which are the same, which came in place of which, and what each brings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Literal

from buildstep.files.compare import Change, Content
from buildstep.rootfs.installers import dpkg_database
from buildstep.rootfs.installers.package_database import named
from buildstep.rootfs.interface import Package
from buildstep.tree.diff import Brought, diff
from buildstep.tree.entry import FileList

Word = Literal["same", "recompressed", "replaced", "added", "removed"]

_STATUS = dpkg_database.STATUS.lstrip("/").encode()
_PACKAGES = re.compile(r"(accounts; )?packages: .*", re.DOTALL)
_PROTO = re.compile(r"proto directory(, part [0-9]+ of [0-9]+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer of an image. digest, diff_id: hex SHA-256 of its file and of its uncompressed tar, empty where
    not known; title: what the image's history says of it; created_by: by what that says it was made.

    brought: what it changes of the layers below, None where that was not counted; packages: what it installs
    (`NAME VERSION`); base: whether the record of a build says that it is the base image's.
    """

    digest: str
    diff_id: str
    size: int | None
    title: str
    created_by: str = ""
    brought: Brought | None = None
    packages: tuple[str, ...] = ()
    base: bool = False


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of an image, lowest first. made, removed: the number, from 1, of the layer that made a path
    what it is, or took it away (topmost paths). recorded: a build's record told what they are."""

    rows: Sequence[Layer]
    made: Mapping[bytes, int] = field(default_factory=dict)
    removed: Mapping[bytes, int] = field(default_factory=dict)
    recorded: bool = False

    def of(self, path: bytes) -> int | None:
        """Return the layer that made a path of the tree what it is."""
        return 1 if len(self.rows) == 1 and not self.made else self.made.get(path)

    def without(self, path: bytes) -> int | None:
        """Return the layer that took a path away, which is not in the tree."""
        found = [self.removed[path]] if path in self.removed else []
        while path := path.rpartition(b"/")[0]:
            found += [self.removed[path]] if path in self.removed else []
        return max(found, default=None)


class Gathering:
    """Learns from each layer of an image, as it is applied, what it brings. content: of the files so far."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._packages: Sequence[Package] = ()
        self._count = 0
        self.made: dict[bytes, int] = {}
        self.removed: dict[bytes, int] = {}
        self.brought: list[tuple[Brought, tuple[str, ...]]] = []

    def take(self, before: FileList, after: FileList) -> None:
        """Take the next layer, by the entries before it and with it."""
        self._count += 1
        found = diff(before, after)
        for entry in found.entries:
            self.made[entry.path] = self._count
        for path in found.removed:
            self.removed[path] = self._count
        packages = self._packages
        if self.made.get(_STATUS) == self._count and (data := self._content(after[_STATUS])) is not None:
            packages = dpkg_database.installed_packages(data.decode(errors="replace"))
        self.brought.append((found.brought(), named(packages, self._packages)))
        self._packages = packages


# -- what differs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LayerChange:
    """What became of a layer. old, new: its number in each image, None where it has none."""

    word: Word
    old: int | None
    new: int | None


@dataclass(frozen=True, slots=True)
class LayerDiff:
    """The layers of two images, and what became of each. fetched: bytes that who has the old image fetches to
    have the new one."""

    old: Layers
    new: Layers
    changes: Sequence[LayerChange]
    fetched: int

    def of(self, change: Change) -> tuple[int | None, int | None]:
        """Return the layers that a changed path is from: of the old image, and of the new one, where it may
        be the one that took the path away."""
        old = None if change.old is None else self.old.of(change.old.path)
        if change.new is not None:
            return old, self.new.of(change.new.path)
        return old, None if change.old is None else self.new.without(change.old.path)

    def bringing(self, package: str, *, new: bool) -> int | None:
        """Return the layer that a package (`NAME VERSION`) came with."""
        rows = (self.new if new else self.old).rows
        return next((number for number, row in enumerate(rows, 1) if package in row.packages), None)


def compare_layers(old: Layers | None, new: Layers | None) -> LayerDiff | None:
    """Return what differs between the layers of two images; None where those of one are not known."""
    if old is None or new is None:
        return None
    there = {row.digest for row in old.rows}
    coming = {row.digest: row.size or 0 for row in new.rows if row.digest not in there}
    return LayerDiff(old, new, list(_aligned(old.rows, new.rows)), sum(coming.values()))


def _aligned(old: Sequence[Layer], new: Sequence[Layer]) -> Iterable[LayerChange]:
    """Yield the layers in the order of the new image, those that are gone where they were."""
    # A layer whose digest nobody knows is like no other.
    was_there, is_there = (
        [row.diff_id or f"{side} {at}" for at, row in enumerate(rows)] for side, rows in enumerate((old, new))
    )
    matcher = SequenceMatcher(None, was_there, is_there, autojunk=False)
    for word, begin, end, other, until in matcher.get_opcodes():
        if word == "equal":
            for was, now in zip(range(begin, end), range(other, until), strict=True):
                same = old[was].digest == new[now].digest
                yield LayerChange("same" if same else "recompressed", was + 1, now + 1)
            continue
        pairs = _pairs(old, new, range(begin, end), range(other, until))
        for was in range(begin, end):
            if was not in pairs.values():
                yield LayerChange("removed", was + 1, None)
        for now in range(other, until):
            if now in pairs:
                yield LayerChange("replaced", pairs[now] + 1, now + 1)
            else:
                yield LayerChange("added", None, now + 1)


def _pairs(old: Sequence[Layer], new: Sequence[Layer], gone: range, come: range) -> dict[int, int]:
    """Return which layer came in place of which: one of the same title, else the one at its place if as many
    came as went."""
    left = list(gone)
    found: dict[int, int] = {}
    for now in come:
        match = next((was for was in left if old[was].title == new[now].title), None)
        if match is not None:
            found[now] = match
            left.remove(match)
    rest = [now for now in come if now not in found]
    if len(rest) == len(left):
        found |= dict(zip(rest, left, strict=True))
    return found


# -- what a layer shows of a cause --------------------------------------------------------------------------


def step_of(
    layers: Layers, number: int | None, *, gone: bool
) -> Literal["base", "packages", "clean", "proto"] | None:
    """Return the step of a build that made a layer, by the words that a record has for it; None where that is
    not one step alone. gone: of a path that it took away."""
    if not layers.recorded or number is None:
        return None
    row = layers.rows[number - 1]
    if row.base:
        return "base"
    if _PACKAGES.fullmatch(row.title):
        return "packages"
    if row.title == "cleaned":
        return "clean"
    return "proto" if not gone and _PROTO.fullmatch(row.title) else None
