"""A comparison of two trees as one JSON object and as text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from buildstep.files import compare_layers_report
from buildstep.files.compare import Change, Comparison, Figures, Listing, Word, weight
from buildstep.files.compare_causes import STEPS, Cause
from buildstep.files.compare_gate import Verdict
from buildstep.files.compare_layers import LayerDiff
from buildstep.files.compare_packages import PackageChange
from buildstep.files.compare_privileges import Shift
from buildstep.report.words import delta
from buildstep.system.text import plural, printable, shown_path, size_text
from buildstep.tree.entry import Entry

FORMAT = 1
"""The version of the JSON. Keys may be added to it; a key that changes its meaning needs another number."""

_MARKS: dict[str, tuple[str, str]] = {
    "added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow"), "moved": (">", "cyan"),
    "gained": ("+", "red"), "lost": ("-", "green"), "content": ("~", "yellow"),
    "upgraded": ("^", "cyan"), "downgraded": ("v", "yellow"),
}  # fmt: skip
"""The character of each kind of change in text, and its colour on a terminal."""

Numbers = tuple[int | None, int | None]
"""Of a layer in the old image and in the new one."""

Styled = tuple[str, str]
"""A line of text and its colour; the empty one for none."""


@dataclass(frozen=True, slots=True)
class Named:
    """One of the two trees. name: as it was given; kind: what that is; build: the id of the build that made
    it, where its record is at hand."""

    name: str
    kind: str
    listing: Listing
    build: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diff:
    """Everything that is known of what differs between two trees.

    causes: one for each change. packages, layers: None where those of one tree are not known. notes: what
    could not be compared, and why.
    """

    old: Named
    new: Named
    found: Comparison
    shifts: Sequence[Shift] = ()
    packages: Sequence[PackageChange] | None = None
    causes: Sequence[Cause] = ()
    verdicts: Sequence[Verdict] = ()
    notes: Sequence[str] = field(default=())
    layers: LayerDiff | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints; docs/reference/files-diff.md describes it."""
        rows = [
            _row(change, cause, self.layers_of(change))
            for change, cause in zip(self.found.changes, self.causes, strict=True)
        ]
        made = {path: _made(*row) for path, row in self.by_path().items()}
        old, new = self.found.old, self.found.new
        return {
            "format": FORMAT,
            "old": _side(self.old, old),
            "new": _side(self.new, new),
            "same": not rows,
            "growth": {
                "bytes": new.size - old.size,
                "percent": _percent(old.size, new.size),
                "unique_bytes": new.unique - old.unique,
                "unique_percent": _percent(old.unique, new.unique),
            },
            "changes": rows,
            "directories": [group.to_json() for group in groups(self.found.changes)],
            "privileges": [
                {
                    "path": _text(it.path), "change": it.change, "kind": it.privilege.kind,
                    "detail": it.privilege.detail, **made[it.path],
                }
                for it in self.shifts
            ],
            "packages": None if self.packages is None else [self._package(row) for row in self.packages],
            "layers": None if self.layers is None else compare_layers_report.to_json(self.layers),
            "causes": {step: sum(it.step == step for it in self.causes) for step in STEPS},
            "gate": [{"name": it.name, "ok": it.ok, "text": it.text} for it in self.verdicts],
            "notes": list(self.notes),
        }  # fmt: skip

    def layers_of(self, change: Change) -> Numbers:
        """Return the numbers of the layers that a change is from, in the old image and in the new one."""
        return (None, None) if self.layers is None else self.layers.of(change)

    def by_path(self) -> dict[bytes, tuple[Cause, Numbers]]:
        """Return the cause and the layers of each path that differs, under both of its names if it moved."""
        found = {}
        for change, cause in zip(self.found.changes, self.causes, strict=True):
            for entry in (change.old, change.new):
                if entry is not None:
                    found[entry.path] = cause, self.layers_of(change)
        return found

    def layer_of(self, row: PackageChange) -> int | None:
        """Return the layer that a package came with: of the new image, of the old one if it was removed."""
        if self.layers is None:
            return None
        return self.layers.bringing(f"{row.name} {row.new or row.old}", new=row.change != "removed")

    def _package(self, row: PackageChange) -> dict[str, Any]:
        return {
            "name": row.name, "arch": row.arch, "change": row.change, "old": row.old, "new": row.new,
            "layer": self.layer_of(row),
        }  # fmt: skip


def _made(cause: Cause, numbers: Numbers) -> dict[str, Any]:
    old, new = numbers
    return {"cause": cause.step, "cause_detail": cause.detail, "old_layer": old, "new_layer": new}


def _percent(old: int, new: int) -> float | None:
    return round((new - old) / old * 100, 2) + 0.0 if old else None  # no -0.0


def _side(side: Named, figures: Figures) -> dict[str, Any]:
    return {
        "name": side.name, "kind": side.kind, "tree_digest": side.listing.digest or None,
        "build": side.build or None, "entries": figures.entries, "files": figures.files,
        "bytes": figures.size, "unique_bytes": figures.unique,
    }  # fmt: skip


def _row(change: Change, cause: Cause, numbers: Numbers) -> dict[str, Any]:
    row: dict[str, Any] = {"change": change.word, "path": _text(change.path), "bytes": change.growth}
    if change.word == "moved":
        assert change.old is not None
        row["from"] = _text(change.old.path)
    if change.what:
        row["what"] = list(change.what)
    if change.copy_of:
        row["copy_of"] = _text(change.copy_of)
    for name, entry in (("old", change.old), ("new", change.new)):
        if entry is not None:
            row[name] = _facts(entry)
    return {**row, **_made(cause, numbers)}


def _facts(entry: Entry) -> dict[str, Any]:
    """Return what an entry is, without what it has not."""
    facts: dict[str, Any] = {
        "kind": entry.kind, "mode": f"{entry.mode:04o}", "uid": entry.uid, "gid": entry.gid,
    }  # fmt: skip
    if entry.kind == "f":
        facts |= {"size": entry.size, "sha256": entry.sha256}
    if entry.kind == "l":
        facts["target"] = _text(entry.target)
    if entry.kind in "cb":
        facts["device"] = list(entry.rdev)
    if entry.first:
        facts["linked_to"] = _text(entry.first)
    if entry.xattrs:
        facts["xattrs"] = {_text(name): value.hex() for name, value in entry.xattrs}
    return facts


def _text(raw: bytes) -> str:
    """Return a path as JSON can have it: bytes that are no UTF-8 become surrogates, as for Python's os."""
    return os.fsdecode(raw)


# -- directories ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Group:
    """The changes in one directory. whole: `added` or `removed` where all of it was, with all that is below
    it; else only what is directly in it is counted."""

    path: bytes
    whole: Word | None
    changes: list[Change] = field(default_factory=list)

    @property
    def growth(self) -> int:
        return sum(change.growth for change in self.changes)

    def count(self, word: Word) -> int:
        return sum(change.word == word for change in self.changes)

    def to_json(self) -> dict[str, Any]:
        counts = {word: self.count(word) for word in ("added", "removed", "changed", "moved")}
        return {"path": _text(self.path), "whole": self.whole, **counts, "bytes": self.growth}


def groups(changes: Iterable[Change]) -> list[Group]:
    """Return changes by directory, those first whose size changed most. A new directory, or one that is gone,
    is a group with all that is below it."""
    rows = list(changes)
    whole: dict[tuple[bytes, Word], None] = {
        (change.path, change.word): None
        for change in rows
        if change.entry.kind == "d" and change.word in ("added", "removed")
    }
    found: dict[tuple[bytes, Word | None], Group] = {}
    word: Word | None
    for change in rows:
        top = _topmost(change, whole)
        word = None if top is None else "removed" if change.word == "removed" else "added"
        key = (change.path.rpartition(b"/")[0] if top is None else top, word)
        found.setdefault(key, Group(*key)).changes.append(change)
    return sorted(found.values(), key=lambda group: (-abs(group.growth), group.path, group.whole or ""))


def _topmost(change: Change, whole: dict[tuple[bytes, Word], None]) -> bytes | None:
    """Return the highest directory that came, or went, together with what it holds."""
    word: Word = "added" if change.word == "moved" else change.word
    parts = change.path.split(b"/")
    for count in range(1, len(parts) + 1):
        path = b"/".join(parts[:count])
        if (path, word) in whole:
            return path
    return None


# -- text -------------------------------------------------------------------------------------------------


def lines(diff: Diff, *, limit: int = 0) -> Iterator[Styled]:
    """Yield the comparison for a person. limit: changes that are shown, those of most bytes; 0 for all."""
    old, new = diff.found.old, diff.found.new
    for word, side, figures in (("old", diff.old, old), ("new", diff.new, new)):
        yield f"{word}  {_plain(side.name)} ({side.kind}): {_figures(figures)}", ""
    if not diff.found.changes:
        yield "no difference", "green"
    else:
        grown = f"size {_signed(new.size - old.size)}{_share(old.size, new.size)}"
        unique = f"unique content {_signed(new.unique - old.unique)}{_share(old.unique, new.unique)}"
        yield f"{_counts(diff.found.changes)}; {grown}, {unique}", "bold"
    for note in diff.notes:
        yield f"note: {printable(note)}", ""
    if diff.layers is not None:
        yield from compare_layers_report.lines(diff.layers)
    yield from _privilege_lines(diff)
    yield from _package_lines(diff)
    yield from _change_lines(diff, limit)
    if diff.causes:
        known = [(step, sum(it.step == step for it in diff.causes)) for step in STEPS]
        yield "", ""
        yield "caused by: " + ", ".join(f"{step} {count:,}" for step, count in known if count), ""
    for verdict in diff.verdicts:
        yield (
            f"--{verdict.name}: {'kept' if verdict.ok else 'EXCEEDED'}: {printable(verdict.text)}",
            ("green" if verdict.ok else "red"),
        )


def _figures(figures: Figures) -> str:
    size, unique = size_text(figures.size), size_text(figures.unique)
    return f"{figures.entries:,} entries, {size}{f', {unique} unique' if unique != size else ''}"


def _counts(changes: Sequence[Change]) -> str:
    words: tuple[Word, ...] = ("added", "removed", "changed", "moved")
    counts = ((word, sum(change.word == word for change in changes)) for word in words)
    return ", ".join(f"{count:,} {word}" for word, count in counts if count)


def _share(old: int, new: int) -> str:
    change = delta(new, old)
    return f" ({change})" if change else ""


def _signed(count: int) -> str:
    return f"{'+' if count >= 0 else '-'}{size_text(abs(count))}"


def _plain(text: str) -> str:
    return shown_path(os.fsencode(text))


def _privilege_lines(diff: Diff) -> Iterator[Styled]:
    if not diff.shifts:
        return
    made = diff.by_path()
    yield "", ""
    yield "privileges", "bold"
    for it in diff.shifts:
        mark, colour = _MARKS[it.change]
        what = f"{it.privilege.kind} {it.privilege.detail}".rstrip()
        kept = " (kept, with another content)" if it.change == "content" else ""
        why = _why(*made[it.path], gone=it.change == "lost")
        yield f"  {mark} {what:28} /{shown_path(it.path)}{kept}  {why}".rstrip(), colour


def _package_lines(diff: Diff) -> Iterator[Styled]:
    if diff.packages:
        yield "", ""
        yield "packages", "bold"
    for row in diff.packages or ():
        mark, colour = _MARKS[row.change]
        name = f"{row.name}:{row.arch}" if row.arch else row.name
        versions = " -> ".join(filter(None, (row.old, row.new)))
        layer = diff.layer_of(row)
        where = f"  [layer {layer}]" if layer is not None and row.change != "removed" else ""
        yield f"  {mark} {_plain(name)} {_plain(versions)}{where}", colour


def _why(cause: Cause, numbers: Numbers, *, gone: bool) -> str:
    """Return the step and the layer of a change in brackets; empty where neither is known."""
    known = "" if cause.step == "unknown" else cause.step
    facts = [": ".join(filter(None, (known, cause.detail)))]
    if numbers[1] is not None:
        facts.append(f"{'removed by ' if gone else ''}layer {numbers[1]}")
    text = ", ".join(filter(None, facts))
    return f"[{text}]" if text else ""


def _change_lines(diff: Diff, limit: int) -> Iterator[Styled]:
    causes = {id(change): cause for change, cause in zip(diff.found.changes, diff.causes, strict=True)}
    left = limit or len(diff.found.changes)
    for group in groups(diff.found.changes):
        if not left:
            break
        whole = f" ({group.whole})" if group.whole else ""
        yield "", ""
        yield f"/{_path(group.path)}{whole}: {_counts(group.changes)}, {_signed(group.growth)}", "bold"
        largest = sorted(group.changes, key=lambda change: (-abs(change.growth), change.path))
        for change in largest[:left]:
            why = _why(causes[id(change)], diff.layers_of(change), gone=change.new is None)
            yield _change_line(change, group.path, why)
        left = max(0, left - len(largest))
    rest = len(diff.found.changes) - (limit or len(diff.found.changes))
    if rest > 0:
        yield "", ""
        yield f"and {plural(rest, 'more change')} (--limit 0 shows all)", ""


def _change_line(change: Change, group: bytes, why: str) -> Styled:
    mark, colour = _MARKS[change.word]
    entry = change.entry
    name = shown_path(change.path.removeprefix(group).lstrip(b"/")) if change.path != group else "."
    facts = [f"{entry.mode:04o} {entry.uid}:{entry.gid}", _amount(change)]
    if entry.kind == "l":
        facts.append(f"-> {shown_path(entry.target)}")
    if change.what:
        facts.append(", ".join(change.what))
    if change.word == "moved" and change.old is not None:
        facts.append(f"from /{shown_path(change.old.path)}")
    if change.copy_of:
        facts.append(f"a copy of /{shown_path(change.copy_of)}")
    facts.append(why)
    return f"  {mark} {entry.kind} {name}  {'  '.join(filter(None, facts))}", colour


def _path(path: bytes) -> str:
    return shown_path(path) if path else ""


def _amount(change: Change) -> str:
    if change.word == "changed" and "size" in change.what:
        return f"{size_text(weight(change.old))} -> {size_text(weight(change.new))}"
    return size_text(change.entry.size) if change.entry.kind == "f" else ""
