"""What differs between two builds, path by path: which step made it so, why, and what removes it."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from buildstep.build.proving import causes, trees
from buildstep.build.proving.causes import FIXES, UNKNOWN, Cause
from buildstep.build.proving.job import Outcome
from buildstep.build.proving.world import World
from buildstep.events import Bus
from buildstep.tree.entry import Entry, FileList

_GROUPS = (
    ("added", "removed", "kind", "content", "target"), ("mode",), ("owner",),
    ("xattrs", "device", "hard link"),
)  # fmt: skip
"""Aspects that have one cause. The time of a path is another one only where nothing else is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One thing that differs: of a path, or of a file beside the image.

    what: aspects; step: of the build that made it so; package: of the packages, whose file or script it is;
    kind: the class of the cause; seen: what tells that; fix: what removes it; varied: what of the
    surroundings alone makes the difference, where that was tried.
    """

    path: str
    what: tuple[str, ...]
    step: str
    kind: str
    seen: str = ""
    fix: str = ""
    package: str = ""
    varied: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What it is about, in whichever build."""
        return self.path, "content" if self.what[0] in _GROUPS[0] else self.what[0]

    def to_json(self) -> dict[str, Any]:
        """Return the row of the JSON report."""
        return {**asdict(self), "what": list(self.what)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two builds, and the lists of their trees."""

    outcomes: tuple[Outcome, Outcome]
    lists: tuple[FileList, FileList]

    @property
    def worlds(self) -> tuple[World, World]:
        return World.of(self.outcomes[0]), World.of(self.outcomes[1])

    @property
    def files(self) -> tuple[Path, Path] | None:
        """The image file of each that can be listed."""
        found = [trees.file_of(outcome.files) for outcome in self.outcomes]
        return (found[0], found[1]) if found[0] and found[1] else None


def equal(first: Outcome, second: Outcome, formats: Collection[str]) -> bool:
    """Return whether two builds gave the same: the tree, each file of these formats, and the manifest.

    Streams of datasets have ids of their own, so that of these the tree alone counts.
    """
    one, two = first.digests(), second.digests()
    wanted = set(formats) & set(trees.LISTED)
    names = [name for name in one if name == "tree" or name.partition(" ")[0] in wanted]
    if not all(one[name] == two.get(name) for name in names):
        return False
    keys = _FOLLOWS if wanted != set(formats) else ()
    manifests = [json.loads(outcome.manifest.read_bytes()) for outcome in (first, second)]
    rows = [{key: value for key, value in manifest.items() if key not in keys} for manifest in manifests]
    return rows[0] == rows[1]


def pair_of(first: Outcome, second: Outcome, bus: Bus, environ: Mapping[str, str]) -> Pair:
    """Return two builds with their lists. Raises ImageError."""
    found: list[FileList] = []
    for outcome in (first, second):
        path = trees.file_of(outcome.files)
        found.append({} if path is None else trees.entries_of(path, bus, environ))
    return Pair(outcomes=(first, second), lists=(found[0], found[1]))


def differences(
    pair: Pair, formats: Collection[str], bus: Bus, environ: Mapping[str, str]
) -> list[Difference]:
    """Return all that differs, sorted by path; what is beside the tree comes last."""
    aspects = _aspects(*pair.lists)
    paths = {path for path, what in aspects.items() if {"content", "target", "added", "removed"} & set(what)}
    contents: list[dict[bytes, bytes]] = [{}, {}]
    if paths and (files := pair.files):
        contents = [trees.contents_of(file, paths, bus, environ) for file in files]
    rows = []
    for path, found in sorted(aspects.items()):
        for what in _grouped(found):
            rows.append(_row(pair, path, what, _cause(path, what, pair, contents)))
    rows += _outside(pair, formats, explained=bool(rows))
    return rows


def _aspects(first: FileList, second: FileList) -> dict[bytes, tuple[str, ...]]:
    """Return what differs of each path."""
    found: dict[bytes, tuple[str, ...]] = {}
    for path in first.keys() | second.keys():
        one, two = first.get(path), second.get(path)
        if one is None or two is None:
            found[path] = ("added",) if one is None else ("removed",)
        elif what := _different(one, two):
            found[path] = what
    return found


def _grouped(what: tuple[str, ...]) -> list[tuple[str, ...]]:
    groups = [tuple(name for name in group if name in what) for group in _GROUPS]
    return [group for group in groups if group] or [what]


def _different(one: Entry, two: Entry) -> tuple[str, ...]:
    values = {
        "kind": (one.kind, two.kind),
        "content": (one.sha256, two.sha256),
        "target": (one.target, two.target),
        "mode": (one.mode, two.mode),
        "owner": ((one.uid, one.gid), (two.uid, two.gid)),
        "xattrs": (one.xattrs, two.xattrs),
        "device": (one.rdev, two.rdev),
        "hard link": (one.first, two.first),
        "time": (one.mtime, two.mtime),
    }
    return tuple(name for name, (a, b) in values.items() if a != b)


def _cause(
    path: bytes, what: tuple[str, ...], pair: Pair, contents: Sequence[Mapping[bytes, bytes]]
) -> Cause:
    """Return why a path differs: by the most telling of its aspects."""
    first, second = (entries.get(path) for entries in pair.lists)
    text, worlds = os.fsdecode(path), pair.worlds
    if "content" in what and path in contents[0] and path in contents[1]:
        return causes.explain(text, contents[0][path], contents[1][path], worlds)
    if "target" in what and first and second:
        return causes.in_text((os.fsdecode(first.target), os.fsdecode(second.target)), worlds)
    if {"added", "removed"} & set(what):
        return causes.by_path(text) or _named_otherwise(path, pair, worlds)
    if "owner" in what:
        return Cause(kind="account order", seen="another owner", fix=FIXES["account order"])
    if "mode" in what and first and second:
        seen = f"{first.mode & 0o7777:04o} and {second.mode & 0o7777:04o}"
        return Cause(kind="umask", seen=seen, fix=FIXES["umask"])
    if what == ("time",):
        return Cause(kind="file time", seen="its time", fix=FIXES["file time"])
    if "hard link" in what:
        return Cause(kind="directory order", seen="other names of one file", fix=FIXES["directory order"])
    return UNKNOWN


def _named_otherwise(path: bytes, pair: Pair, worlds: tuple[World, World]) -> Cause:
    """Return why there is a path in one tree alone: the other one may have it by another name."""
    here, there = pair.lists if path in pair.lists[0] else pair.lists[::-1]
    folder = path.rpartition(b"/")[0]
    if folder and folder not in there and folder in here:
        return _named_otherwise(folder, pair, worlds)
    others = [
        name
        for name, entry in there.items()
        if name not in here and name.rpartition(b"/")[0] == folder and entry.kind == here[path].kind
    ]
    name = os.fsdecode(path.rpartition(b"/")[2])
    for other in sorted(others):
        names = name, os.fsdecode(other.rpartition(b"/")[2])
        found = causes.in_text(names if here is pair.lists[0] else names[::-1], worlds)
        if found is not UNKNOWN:
            return replace(found, seen=f"its name: {found.seen}")
    return UNKNOWN


def _row(pair: Pair, path: bytes, what: tuple[str, ...], cause: Cause) -> Difference:
    text = os.fsdecode(path)
    steps = [outcome.steps.get(text, "") for outcome in pair.outcomes]
    step = steps[0] or steps[1] or "import"
    package = (
        ""
        if step != "packages"
        else next((outcome.packages[text] for outcome in pair.outcomes if text in outcome.packages), "")
    )
    shown = "/" + text.encode(errors="replace").decode()
    return Difference(
        path=shown, what=what, step=step, kind=cause.kind, seen=cause.seen, fix=cause.fix, package=package
    )


# -- beside the tree --------------------------------------------------------------------------------------


def _outside(pair: Pair, formats: Collection[str], *, explained: bool) -> list[Difference]:
    """Return what differs of files beside the tree: the manifest, and image files of the same tree."""
    rows = _manifests(pair)
    if explained:
        return rows
    by_format = [{str(file["format"]): file for file in outcome.files} for outcome in pair.outcomes]
    for name in sorted(by_format[0].keys() & by_format[1].keys() & set(formats) & set(trees.LISTED)):
        one, two = by_format[0][name], by_format[1][name]
        if one["sha256"] != two["sha256"]:
            rows.append(_of_file(Path(one["path"]).name, one, two, pair))
    return rows


def _of_file(name: str, one: Mapping[str, Any], two: Mapping[str, Any], pair: Pair) -> Difference:
    """Return why two image files of one tree differ."""
    first, second = (dict(file.get("extra") or {}) for file in (one, two))
    if first.get("diff_ids") == second.get("diff_ids") and first.get("layers") != second.get("layers"):
        cause = Cause(
            kind="compression", seen="the same layers, compressed in another way",
            fix="use the same version of the compression library (see `tools` in the record)",
        )  # fmt: skip
    elif pair.outcomes[0].job.spec.source_date_epoch is None:
        cause = Cause(kind="time stamp", seen="the time of the build", fix="set SOURCE_DATE_EPOCH")
    else:
        cause = UNKNOWN
    return Difference(
        path=name, what=("content",), step="emit", kind=cause.kind, seen=cause.seen, fix=cause.fix
    )


_FOLLOWS = ("files", "uuid")
"""Keys of a manifest that say what its image is: they follow from that."""


def _manifests(pair: Pair) -> list[Difference]:
    values = [json.loads(outcome.manifest.read_bytes()) for outcome in pair.outcomes]
    keys = [
        key
        for key in sorted(values[0].keys() | values[1].keys())
        if values[0].get(key) != values[1].get(key) and key not in _FOLLOWS
    ]
    name = pair.outcomes[0].manifest.name
    rows = []
    for key in keys:
        dated = key == "published_at"
        cause = (
            Cause(kind="time stamp", seen="the time of the build", fix="set SOURCE_DATE_EPOCH")
            if dated
            else UNKNOWN
        )
        found = Difference(path=f"{name}: {key}", what=("content",), step="emit", kind=cause.kind)
        rows.append(replace(found, seen=cause.seen, fix=cause.fix))
    return rows
