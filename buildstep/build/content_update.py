"""A proto directory of which only some files' content differs: the image is made from what the last one was.

Where the base, the packages and the options are those of the last build, and no path came, went, or has
another owner, mode, link or attribute, the finished tree is the last one with other content in those files.
Nothing has to be cloned, laid in, cleaned and compared to know it; the layers around these files are made
again, all else is there.

    state/artifacts/tree-NAME.bin    the last tree of these outputs: a frame (see `frames`) for each field of
                                     Tree, in order

Only large trees are kept, whose layer is cut into several, and that have the proto directory as it is; for
all others this would gain nothing, or would not be true.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from buildstep.build import cache_inputs, steps
from buildstep.cache import outputs
from buildstep.cache.blobs import BlobStore
from buildstep.cache.resolutions import Answer
from buildstep.emit.interface import Blob
from buildstep.emit.split_layer import cut
from buildstep.errors import EmitError
from buildstep.images.store import ImageRecord
from buildstep.spec.load import BuildSpec
from buildstep.system import framed
from buildstep.system.files import atomic_write
from buildstep.system.text import plural
from buildstep.tree import entry as tree_entry
from buildstep.tree import stat_index
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry, FileList, line
from buildstep.tree.proto import ProtoScan

FORMAT = 4


@dataclass(kw_only=True, slots=True)
class Tree:
    """The finished tree of a build, and how it was cut into layers.

    inputs: what decided it, the proto directory apart, and proto: the digest of that; build: which one it
    was; lower: the stored layers below (name, comment); lines: the canonical text of the whole tree; then of
    each entry of the layer: its path, its place in `lines`, size (-1 of a directory), mtime; sources: where
    it is in the proto directory, if not there; folders: place in `lines` and mtime of each directory that is
    not in the layer; followers: see `layers.cut`; settled: places in the layer that must stay as they are,
    because the base has the path too; foreign: places whose content is not from the proto directory; parts:
    the files of each stored layer, and names: what these are called; installed, entropy, cleaned, warnings:
    for the record.
    """

    inputs: str
    proto: str
    build: str
    lower: list[tuple[str, str]]
    lines: list[bytes]
    paths: list[bytes]
    at: list[int]
    sizes: list[int]
    times: list[int]
    sources: dict[int, bytes]
    folders: list[tuple[int, int]]
    followers: dict[int, int]
    settled: set[int]
    foreign: set[int]
    parts: list[list[int]]
    names: list[str]
    installed: dict[str, Any] | None
    entropy: tuple[str, ...]
    cleaned: list[dict[str, Any]]
    warnings: list[str]


def _path(state: Path, spec: BuildSpec) -> Path:
    name = hashlib.sha256(os.fsencode(spec.output_dir / spec.basename)).hexdigest()[:32]
    return state / "artifacts" / f"tree-{name}.bin"


def _inputs(spec: BuildSpec, image: ImageRecord, answer: Answer | None) -> str:
    return outputs.key_of({**cache_inputs.decisive(spec, image, "", answer), "amend": FORMAT})


def save(state: Path, spec: BuildSpec, tree: Tree) -> None:
    """Keep the tree of a build, for the next one."""
    path = _path(state, spec)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, durable=False) as stream:
        for item in fields(tree):  # one by one: together they are large
            framed.write(stream, getattr(tree, item.name))


def forget(state: Path, spec: BuildSpec) -> None:
    """Note that the last build of these outputs is nothing to go on from."""
    _path(state, spec).unlink(missing_ok=True)


def _load(state: Path, spec: BuildSpec, inputs: str, proto: str) -> Tree | None:
    try:
        data = _path(state, spec).read_bytes()
    except OSError:
        return None
    names = [item.name for item in fields(Tree)]
    values: dict[str, Any] = {}
    for name, (value, _) in zip(names, framed.read(data), strict=False):
        values[name] = value
        if values.get("inputs", inputs) != inputs or values.get("proto", proto) != proto:
            return None
    return Tree(**values) if len(values) == len(names) else None


# -- what is to be done -----------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class Amendment:
    """A tree with other content in some files. tree: as it is now; old: the last build's parts and the names
    of their layers; changed: places in the layer; files: how many of these are files."""

    tree: Tree
    old: dict[tuple[int, ...], str]
    changed: set[int]
    top: bytes
    files: int

    @property
    def reason(self) -> str:
        """Why most of the work is left out."""
        if not self.files:
            return f"nothing changed since {self.tree.build}, where it counts"
        what = f"the content of {plural(self.files, 'file')}"
        return f"only {what} changed since {self.tree.build}"

    def complete(self, blobs: BlobStore) -> bool:
        """Whether every layer is there that does not have to be made. They stay then."""
        tree = self.tree
        names = [name for name, _ in tree.lower]
        names += [name for part in tree.parts if (name := self._kept(part))]
        return all(blobs.again(name, "") for name in names)

    def _kept(self, part: Sequence[int]) -> str:
        """The name of the layer with just these files, if it is as it was."""
        return self.old.get(tuple(part), "") if self.changed.isdisjoint(part) else ""

    def lower(self, blobs: BlobStore) -> list[Blob]:
        """The layers below those of the proto directory. They must be `complete`. Raises EmitError."""
        return [_there(blobs.again(name, comment)) for name, comment in self.tree.lower]

    def layers(self, blobs: BlobStore, *, epoch: int | None) -> Iterator[Blob]:
        """The layers between those and the top one, in order: as they were, or made now. Raises EmitError."""
        tree = self.tree
        folders = {
            entry.path: entry
            for entry in (tree_entry.parse(row) for row in tree.lines if row.startswith(b"d\t"))
        }
        tree.names = []
        for number, part in enumerate(tree.parts, 1):
            comment = part_comment(number, len(tree.parts))
            name = self._kept(part)
            blob = blobs.reuse(name, comment) if name else None
            if blob is None:
                changes = Changes(tuple(self.entry(place) for place in part), ())
                blob = blobs.by_content(Path(), changes, folders, epoch=epoch, comment=comment)
            tree.names.append(blob.path.name)
            yield blob

    def entry(self, place: int) -> Entry:
        """An entry of the layer."""
        tree = self.tree
        entry = tree_entry.parse(tree.lines[tree.at[place]])
        entry.text = tree.lines[tree.at[place]]
        entry.mtime = tree.times[place]
        entry.source = self.top + b"/" + tree.sources.get(place, entry.path)
        return entry

    def snapshot(self) -> steps.Snapshot:
        """What is left to be written as the top layer: directories."""
        tree = self.tree
        folders = [self.entry(place) for place, size in enumerate(tree.sizes) if size < 0]
        entries: FileList = {entry.path: entry for entry in folders}
        for number, mtime in tree.folders:
            entry = tree_entry.parse(tree.lines[number])
            entry.mtime = mtime
            entries[entry.path] = entry
        changes = Changes(tuple(folders), ())
        linked = tree.followers
        files = (
            (path, size)
            for place, (path, size) in enumerate(zip(tree.paths, tree.sizes, strict=True))
            if place not in linked and tree.lines[tree.at[place]].startswith(b"f\t")
        )

        def facts() -> steps.Facts:
            digest = tree_entry.digest_of(tree.lines)
            return steps.Facts(digest=digest, lines=tree.lines, added=steps.largest(files))

        return steps.Snapshot(entries=entries, changes=changes, facts=facts)


def _there(blob: Blob | None) -> Blob:
    if blob is None:
        raise EmitError("a stored layer that was there a moment ago is gone", retryable=True)
    return blob


def part_comment(number: int, count: int) -> str:
    """What the history says of a part of the proto directory."""
    return f"proto directory, part {number} of {count}"


def find(
    state: Path, spec: BuildSpec, image: ImageRecord, answer: Answer | None, proto: ProtoScan
) -> Amendment | None:
    """How to make this image from the last one; None where it takes a whole build. Every changed file must
    have been read (`read_few`)."""
    changed = _contents(proto)
    if changed is None:
        return None
    known = cache_inputs.known_proto_digest(spec, proto)
    tree = _load(state, spec, _inputs(spec, image, answer), known) if known else None
    if tree is None:
        return None
    return _amended(tree, changed, proto)


def _contents(proto: ProtoScan) -> list[Entry] | None:
    """The entries that are not as they were, if that is only content and time."""
    if proto.gone or proto.doubt or not proto.known.paths or proto.unread:
        return None
    if proto.exclude is not None and proto.exclude.patterns != proto.known.excludes:
        return None
    entries = proto.fresh_entries
    for path, now in proto.fresh.items():
        old = proto.known.paths.get(path)
        if old is None:
            return None
        (before, _), entry = stat_index.was(old), entries[path]
        same = (before.kind, before.mode, before.uid, before.gid) == (now.kind, now.mode, now.uid, now.gid)
        linked = before.linked or now.linked
        if not same or linked or old[9:] != (entry.target, entry.rdev, entry.xattrs):
            return None
    return list(entries.values())


def _amended(tree: Tree, changed: Sequence[Entry], proto: ProtoScan) -> Amendment | None:
    """The tree with these entries in it; None where they are not simply to be put in place of the old."""
    places = _places(tree, {entry.path for entry in changed})
    old = {tuple(part): name for part, name in zip(tree.parts, tree.names, strict=True)}
    moved: set[int] = set()
    files = 0
    for entry in changed:
        place = places.get(entry.path)
        if place is None:
            # A directory that the base has just so is none of the layer's; its time is the base's.
            if entry.kind == "d":
                continue
            return None
        if entry.kind != "d" and (place in tree.settled or place in tree.foreign):
            return None
        new = tree_entry.parse(tree.lines[tree.at[place]])
        if new.kind != entry.kind or new.first:
            return None
        tree.times[place] = entry.mtime
        if entry.kind == "f":
            files += 1
            new.size, new.sha256 = entry.size, entry.sha256
            tree.sizes[place] = entry.size
            tree.lines[tree.at[place]] = line(new)
        moved.add(place)
    tree.parts = cut(tree.paths, tree.sizes, tree.followers)
    for part in tree.parts:
        again = tuple(part) not in old or not moved.isdisjoint(part)
        if again and not tree.foreign.isdisjoint(part):
            return None
    if not tree.parts:
        return None
    return Amendment(tree=tree, old=old, changed=moved, top=proto.top, files=files)


def _places(tree: Tree, wanted: set[bytes]) -> dict[bytes, int]:
    """Where these paths of the proto directory are in the layer."""
    found = {path: place for place, path in enumerate(tree.paths) if path in wanted}
    found = {path: place for path, place in found.items() if place not in tree.sources}
    return found | {path: place for place, path in tree.sources.items() if path in wanted}


# -- what is kept -----------------------------------------------------------------------------------------


def tree_of(
    spec: BuildSpec,
    image: ImageRecord,
    answer: Answer | None,
    proto: ProtoScan,
    *,
    build: str,
    below: FileList,
    shot: steps.Snapshot,
    parts: Sequence[tuple[Changes, Blob]],
    lower: Sequence[Blob],
    installed: Mapping[str, Any] | None,
    entropy: tuple[str, ...],
    cleaned: list[dict[str, Any]],
    warnings: list[str],
) -> Tree | None:
    """What to keep of a whole build; None where the next one could not go on from it. parts: what each
    layer holds that the proto directory was cut into."""
    laid = {id(entry): path for path, entry in proto.entries.items()}
    entries = shot.changes.entries
    numbers = {path: number for number, path in enumerate(sorted(shot.entries))}
    places = {entry.path: place for place, entry in enumerate(entries)}
    return Tree(
        inputs=_inputs(spec, image, answer),
        proto=cache_inputs.proto_digest(spec, proto),
        build=build,
        lower=[(blob.path.name, blob.comment) for blob in lower],
        lines=shot.facts().lines,
        paths=[entry.path for entry in entries],
        at=[numbers[entry.path] for entry in entries],
        sizes=[-1 if entry.kind == "d" else 0 if entry.first else entry.size for entry in entries],
        times=[entry.mtime for entry in entries],
        sources={
            place: laid[id(entry)]
            for place, entry in enumerate(entries)
            if laid.get(id(entry), entry.path) != entry.path
        },
        folders=[
            (numbers[path], entry.mtime)
            for path, entry in shot.entries.items()
            if entry.kind == "d" and path not in places
        ],
        followers={place: places[entry.first] for place, entry in enumerate(entries) if entry.first},
        settled={place for place, entry in enumerate(entries) if entry.path in below and entry.kind != "d"},
        foreign={place for place, entry in enumerate(entries) if entry.kind != "d" and id(entry) not in laid},
        parts=[[places[entry.path] for entry in part.entries] for part, _ in parts],
        names=[blob.path.name for _, blob in parts],
        installed=dict(installed) if installed else None,
        entropy=entropy,
        cleaned=cleaned,
        warnings=warnings,
    )
