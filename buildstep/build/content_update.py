"""Make an image from the last build's tree, where only the content of some files changed.

Where the base, the packages and the options are those of the last build, and no path came, went, or has
another owner, mode, link or attribute, the finished tree is the last one with other content in those files.
Nothing has to be cloned, copied, cleaned and compared to know it: the layers with these files are made again,
and all others are reused.

Only large trees are kept (`cache.kept_tree`), whose layer is cut into several, and that read the proto
directory in place; for all others this would gain nothing, or would not be true.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from buildstep.build import cache_inputs, layer_comments, run_keys
from buildstep.build.finished_tree import Snapshot, TreeFacts, largest
from buildstep.cache import kept_tree, outputs
from buildstep.cache.blobs import BlobStore
from buildstep.cache.kept_tree import Tree
from buildstep.cache.layer_crew import Wanted
from buildstep.cache.resolutions import KeptResolution
from buildstep.emit.interface import Blob
from buildstep.emit.split_layer import cut
from buildstep.errors import EmitError
from buildstep.images.store import ImageRecord
from buildstep.rootfs import account_loss
from buildstep.spec.load import BuildSpec
from buildstep.system.text import plural
from buildstep.tree import proto_digest, stat_index
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry, FileList, digest_of, line, parse
from buildstep.tree.proto import ProtoDir


def inputs_key(
    spec: BuildSpec, image: ImageRecord, resolution: KeptResolution | None, proto: ProtoDir
) -> str:
    """Return a digest of all that decides a tree, apart from what of the proto directory is only copied."""
    inputs = cache_inputs.decisive(spec, image, "", resolution)
    options = cache_inputs.of_the_tree(spec, inputs["option"])
    seen = run_keys.inputs_digest(spec, proto)
    others = {"option": options, "inputs of commands": seen, "kept tree": kept_tree.FORMAT}
    return outputs.key_of(inputs | others)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentUpdate:
    """The last build's tree with other content in some files.

    tree: as it will be; old: the places that each layer of the last build holds, and the name of that layer;
    changed: places in the layer; top: the proto directory; files: how many files changed.
    """

    tree: Tree
    old: dict[tuple[int, ...], str]
    changed: frozenset[int]
    top: bytes
    files: int

    @property
    def reason(self) -> str:
        """Why most of the work is left out."""
        if not self.files:
            return f"up to date with build {self.tree.build}; only times changed"
        return f"only the content of {plural(self.files, 'file')} changed since build {self.tree.build}"

    def complete(self, blobs: BlobStore) -> bool:
        """Return whether every layer is there that does not have to be made, and lock those."""
        names = [name for name, *_ in self.tree.lower]
        names += [name for places in self.tree.layers if (name := self._reusable(places))]
        return all(blobs.find(name, "") for name in names)

    def _reusable(self, places: Sequence[int]) -> str:
        """The name of the layer with just these files, if none of them changed."""
        return self.old.get(tuple(places), "") if self.changed.isdisjoint(places) else ""

    def lower(self, blobs: BlobStore) -> list[Blob]:
        """Return the layers below those of the proto directory. Raises EmitError when one is gone."""
        found = []
        for name, comment, created_by in self.tree.lower:
            blob = blobs.find(name, comment)
            if blob is None:
                raise EmitError("a stored layer that was there a moment ago is gone", retryable=True)
            found.append(replace(blob, created_by=created_by))
        return found

    def layers(self, blobs: BlobStore) -> Iterator[Blob]:
        """Return the layers between those and the top one, in order: reused, or made from now on. The
        iterator raises EmitError."""
        tree = self.tree
        rows = (parse(row) for row in tree.lines if row.startswith(b"d\t"))
        folders = {entry.path: entry for entry in rows}
        names = [self._reusable(places) for places in tree.layers]
        wanted = [self._wanted(number) for number, name in enumerate(names) if not name]
        return self._in_order(blobs, names, blobs.for_contents(Path(), wanted, folders), folders)

    def _in_order(
        self, blobs: BlobStore, names: Sequence[str], made: Iterator[Blob], folders: FileList
    ) -> Iterator[Blob]:
        self.tree.blobs.clear()
        for number, name in enumerate(names):
            blob = blobs.reuse(name, self._comment(number)) if name else next(made)
            if blob is None:  # it was there a moment ago
                changes, comment = self._wanted(number)
                blob = blobs.for_content(Path(), changes, folders, comment=comment)
            self.tree.blobs.append(blob.path.name)
            yield blob

    def _comment(self, number: int) -> str:
        return layer_comments.part(number + 1, len(self.tree.layers))

    def _wanted(self, number: int) -> Wanted:
        places = self.tree.layers[number]
        return Wanted(Changes(tuple(map(self._entry, places)), ()), self._comment(number))

    def _entry(self, place: int) -> Entry:
        """An entry of the layer."""
        tree = self.tree
        entry = parse(tree.lines[tree.at[place]])
        entry.text = tree.lines[tree.at[place]]
        entry.mtime = tree.times[place]
        entry.source = self.top + b"/" + tree.sources.get(place, entry.path)
        return entry

    def changed_files(self) -> list[Entry]:
        """Return the files whose content changed, by path."""
        rows = [self._entry(place) for place in sorted(self.changed)]
        return sorted((row for row in rows if row.kind == "f"), key=lambda row: row.path)

    def snapshot(self) -> Snapshot:
        """Return the tree, of which only directories are left to be written as the top layer."""
        tree = self.tree
        folders = [self._entry(place) for place, size in enumerate(tree.sizes) if size < 0]
        entries: FileList = {entry.path: entry for entry in folders}
        for number, mtime in tree.folders:
            entry = parse(tree.lines[number])
            entry.mtime = mtime
            entries[entry.path] = entry
            if number in tree.repeated:
                folders.append(entry)
        folders.sort(key=lambda entry: entry.path)
        files = (
            (path, size)
            for place, (path, size) in enumerate(zip(tree.paths, tree.sizes, strict=True))
            if place not in tree.hard_links and tree.lines[tree.at[place]].startswith(b"f\t")
        )

        def facts() -> TreeFacts:
            return TreeFacts(digest=digest_of(tree.lines), lines=tree.lines, added=largest(files))

        return Snapshot(entries=entries, changes=Changes(tuple(folders), ()), facts=facts)


def find(
    state: Path, spec: BuildSpec, image: ImageRecord, resolution: KeptResolution | None, proto: ProtoDir
) -> ContentUpdate | None:
    """Return how to make this image from the last one; None where it takes a full build. Every changed file
    must have been read (`read_few`)."""
    changed = _changed_contents(spec, proto)
    if changed is None or any(_decides(spec, path) for path in proto.fresh):
        return None
    known = cache_inputs.known_proto_digest(spec, proto)
    inputs = inputs_key(spec, image, resolution, proto)
    slot = cache_inputs.outputs_slot(spec)
    tree = kept_tree.load(state, slot, inputs=inputs, proto=known) if known else None
    return None if tree is None else update_tree(tree, changed, proto.top)


_UNITS = (b"systemd/system/", b"os-release")


def _decides(spec: BuildSpec, path: bytes) -> bool:
    """Whether what is in a file decides more than itself: a table of users may drop some, and units say which
    links they get."""
    return path in account_loss.TABLES or (bool(spec.units) and any(part in path for part in _UNITS))


def _changed_contents(spec: BuildSpec, proto: ProtoDir) -> list[Entry] | None:
    """The entries that are not as they were for this build, if that is only content and time."""
    if proto.gone or proto.doubt or not proto.known.paths or proto.unread:
        return None
    if proto.exclude is not None and proto.exclude.patterns != proto.known.excludes:
        return None
    entries = proto.fresh_entries
    for path, now in proto.fresh.items():
        old = proto.known.paths.get(path)
        if old is None:
            return None
        known, entry = stat_index.known_entry(old), entries[path]
        before, _ = known.before()
        same = (before.kind, before.mode, before.uid, before.gid) == (now.kind, now.mode, now.uid, now.gid)
        linked = before.linked or now.linked
        if (
            not same
            or linked
            or (known.target, known.rdev, known.xattrs) != (entry.target, entry.rdev, entry.xattrs)
        ):
            return None
    if cache_inputs.stable_times(spec):
        return list(entries.values())
    epoch = spec.source_date_epoch
    others = proto_digest.other_times(proto, None if epoch is None else epoch * 1_000_000_000)
    return [*entries.values(), *(proto.entries[path] for path in others)]


def update_tree(last: Tree, changed: Sequence[Entry], top: bytes) -> ContentUpdate | None:
    """Return the tree with these entries in it; None where they do not simply take the place of the old.

    last is left as it is. top: the proto directory.
    """
    tree = replace(
        last, lines=list(last.lines), sizes=list(last.sizes), times=list(last.times), blobs=list(last.blobs)
    )
    places = _places(tree, {entry.path for entry in changed})
    moved: set[int] = set()
    files = 0
    for entry in changed:
        place = places.get(entry.path)
        if place is None:
            # A directory that the base has just so is none of the layer's; its time is the base's.
            if entry.kind == "d":
                continue
            return None
        if entry.kind != "d" and place in tree.in_base:
            return None
        new = parse(tree.lines[tree.at[place]])
        if new.kind != entry.kind or new.first:
            return None
        tree.times[place] = entry.mtime
        if entry.kind == "f":
            files += 1
            new.size, new.sha256 = entry.size, entry.sha256
            tree.sizes[place] = entry.size
            tree.lines[tree.at[place]] = line(new)
        moved.add(place)
    tree.layers = cut(tree.paths, tree.sizes, tree.hard_links)
    old = {tuple(places): name for places, name in zip(last.layers, last.blobs, strict=True)}
    remade = [row for row in tree.layers if tuple(row) not in old or not moved.isdisjoint(row)]
    if not tree.layers or any(not tree.external.isdisjoint(row) for row in remade):
        return None
    return ContentUpdate(tree=tree, old=old, changed=frozenset(moved), top=top, files=files)


def _places(tree: Tree, wanted: set[bytes]) -> dict[bytes, int]:
    """Where these paths of the proto directory are in the layer."""
    found = {path: place for place, path in enumerate(tree.paths) if path in wanted}
    found = {path: place for path, place in found.items() if place not in tree.sources}
    return found | {path: place for place, path in tree.sources.items() if path in wanted}
