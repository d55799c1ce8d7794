"""Where a proto directory and the tree below it cannot both be: one has a directory, the other has none.

rsync ends in the middle at a directory with content, and takes files away without a word. So all of these are
found beforehand, in the lists that are there, and nothing is taken away that no rule allows.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from buildstep.errors import UsageError
from buildstep.rootfs.placement import Kinds, Placement, placement_of
from buildstep.system.root import Root
from buildstep.system.text import plural, shown_path
from buildstep.tree.entry import LONGEST, Entry, FileList, check_length

_KINDS = {
    "f": "a file", "d": "a directory", "l": "a link", "c": "a device", "b": "a device", "p": "a named pipe",
    "s": "a socket",
}  # fmt: skip
_MOST_SHOWN = 100

_SPECIAL = re.compile(r"""[*?\[\]'"\\\x00-\x1f\x7f\udc80-\udcff]""")
"""What means something in a pattern or in quotes, or is no text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """A path of the image at which only one of two can be. source: of what the proto directory has there.

    there: what the tree below has, in words; paths, size: how many paths that are, and their bytes; other:
    what else the proto directory has for this path, where it is in its own way; mounted: whether the path is
    mounted on once the proto directory is there; drops: accounts that a table of the image loses.
    """

    path: bytes
    source: bytes
    kind: str
    there: str = ""
    paths: int = 0
    size: int = 0
    other: bytes = b""
    mounted: bool = False
    drops: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{shown_path(b'/' + self.path)}: {self.words}"

    @property
    def words(self) -> str:
        """What is the matter, and what allows it."""
        if self.mounted:
            return (
                f"{_KINDS[self.kind]}, where package scripts need a directory: leave it out, or let the"
                " packages come first (--order packages-first)"
            )
        if self.drops:
            return f"it drops {', '.join(self.drops)}; to allow it: --replace '{self.rule}'"
        if self.other:
            both = f"the proto directory has {shown_path(self.source)} and {shown_path(self.other)} for it"
            return f"{both}, and one of them is a directory: leave one out"
        brought = f" ({shown_path(self.source)})" if self.source != self.path else ""
        return f"{_KINDS[self.kind]}{brought} over {self.there}; to allow it: --replace '{self.rule}'"

    @property
    def rule(self) -> str:
        """The pattern that allows this; a `?` in it is any character."""
        return "/" + _SPECIAL.sub("?", os.fsdecode(self.path))


def find(
    kind: Kinds,
    paths: Iterable[bytes],
    base: FileList,
    placements: Sequence[Placement],
    *,
    mounted: Iterable[str] = (),
) -> list[Conflict]:
    """Return all conflicts, by path. kind, paths: of the proto directory; base: the tree below it.

    mounted: directories of the image's top that are mounted on once the proto directory is there.
    Raises PathTooLong for a path that gets too long behind a link of the base.
    """
    points = {os.fsencode(path.lstrip("/")) for path in mounted}
    found = [
        Conflict(path=path, source=path, kind=kind(path), mounted=True)
        for path in points
        if kind(path) not in ("", "d")
    ]
    for placement in placements:
        rows = _with_base(kind, base, placement, placements)
        found += [row for row in rows if row.source not in points]
    if len(placements) > 1:
        found += _with_itself(kind, paths, placements)
    return sorted(found, key=lambda row: row.path)


def _with_base(
    kind: Kinds, base: FileList, placement: Placement, placements: Sequence[Placement]
) -> Iterator[Conflict]:
    source, target = os.fsencode(placement.source), os.fsencode(placement.target)
    behind = {os.fsencode(other.source) for other in placements[1:]}
    content: list[bytes] = []
    for path, entry in base.items():
        if target and not path.startswith(target + b"/"):
            continue
        ours = (source + b"/" + path[len(target) :].lstrip(b"/")).lstrip(b"/") if source or target else path
        there = kind(ours)
        if not there or (there == "d") == (entry.kind == "d") or ours in behind:
            continue
        if placement_of(os.fsdecode(ours), placements) != placement:
            continue
        content = content or sorted(base)
        inside = [base[name] for name in _below(path, content)]
        if entry.kind != "d" or inside:
            yield Conflict(
                path=path, source=ours, kind=there, there=_there(entry, inside), paths=1 + len(inside),
                size=sum(row.size for row in (entry, *inside) if row.kind == "f" and not row.first),
            )  # fmt: skip


def _below(path: bytes, names: Sequence[bytes]) -> Sequence[bytes]:
    """Of sorted paths those below one."""
    return names[bisect_left(names, path + b"/") : bisect_left(names, path + b"0")]  # "0" comes after "/"


def _there(entry: Entry, inside: Collection[Entry]) -> str:
    if entry.kind == "d":
        return f"a directory with {plural(len(inside), 'path')} in it"
    if entry.kind == "l":
        return f"a link to {shown_path(entry.target)}, where no directory is"
    return _KINDS[entry.kind]


def _with_itself(kind: Kinds, paths: Iterable[bytes], placements: Sequence[Placement]) -> Iterator[Conflict]:
    """Yield conflicts of what goes behind a link of the base with what goes there in another way."""
    ways = [(os.fsencode(way.source), os.fsencode(way.target)) for way in placements]
    links = tuple(source for source, _ in ways[1:])
    # Nearly all paths are behind no link, and there may be a hundred thousand.
    behind = [path for path in paths if path.startswith(links)]
    for number, (source, target) in enumerate(ways):
        top, cut = source + b"/", len(source)
        for path in behind if source else ():
            if not path.startswith(top) and path != source:
                continue
            place = target + path[cut:] if target else path[cut + 1 :]
            if len(place) > LONGEST and _innermost(path, placements) == number:
                check_length(place)
            for other, (from_, to) in enumerate(ways[:number]):
                if to and not place.startswith(to + b"/"):
                    continue
                there = (from_ + b"/" + place[len(to) :].lstrip(b"/")).lstrip(b"/") if from_ or to else place
                found, here = kind(there), kind(path)
                if not found or (found == "d") == (here == "d"):
                    continue
                if _innermost(path, placements) == number and _innermost(there, placements) == other:
                    yield Conflict(path=place, source=path, kind=here, other=there)


def _innermost(path: bytes, placements: Sequence[Placement]) -> int:
    return placements.index(placement_of(os.fsdecode(path), placements))


def judge(found: Iterable[Conflict], patterns: Sequence[str]) -> tuple[list[Conflict], list[Conflict]]:
    """Return the conflicts whose path one of the patterns allows, and the others.

    patterns: paths of the image, with or without a slash in front; `*`, `?` and sets in brackets for what is
    in a name, `**` for any names.
    """
    rules = [pattern.strip("/").split("/") for pattern in patterns]
    allowed: list[Conflict] = []
    refused: list[Conflict] = []
    for row in found:
        names = os.fsdecode(row.path).split("/")
        good = not (row.other or row.mounted) and any(_fits(rule, names) for rule in rules)
        (allowed if good else refused).append(row)
    return allowed, refused


def error(refused: Sequence[Conflict], base: str) -> UsageError:
    """Return the error that lists these. base: what lies below the proto directory."""
    shown = [f"  {row}" for row in refused[:_MOST_SHOWN]]
    if len(refused) > _MOST_SHOWN:
        shown.append(f"  and {len(refused) - _MOST_SHOWN} more")
    return UsageError(
        f"the proto directory does not fit on {base}: {plural(len(refused), 'conflict')}",
        detail="\n".join(shown),
        hint=HINT,
    )


HINT = (
    "take it out of the proto directory, or let --replace or build.replace name it: what is there goes then"
)


def _fits(pattern: Sequence[str], names: Sequence[str]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(_fits(pattern[1:], names[start:]) for start in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], pattern[0]) and _fits(pattern[1:], names[1:])


def make_way(root: Root, rows: Iterable[Conflict]) -> None:
    """Remove from a root what stands in the way; what is not there any more is passed over."""
    for row in rows:
        root.remove("/" + os.fsdecode(row.path))
