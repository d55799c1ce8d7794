"""The finished tree of a build as a source of its inventory: what is in it, and which step brought what.

On the full route it is read in the clone and, what is read in place, in the proto directory. What was read of
the last image is kept (`cache.kept_source`), so that a content update reads only what is new, and an image
that stands is not read at all.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from buildstep.build import cache_inputs, layer_comments, proved, run_rows
from buildstep.build.clones import places_of
from buildstep.build.context import BuildContext, BuildState
from buildstep.cache import kept_source
from buildstep.cache.kept_source import KeptSource
from buildstep.checks.image_tree import ImageTree
from buildstep.errors import EmitError
from buildstep.events import Bus
from buildstep.spec.load import BuildSpec
from buildstep.system.files import CHUNK
from buildstep.tree.entry import Entry, FileList, parse
from buildstep.trust.inventory.model import Origin

_LARGEST_KEPT = 32 << 20
"""Bytes of a file that is kept for the next build."""

Place = Callable[[Entry], bytes]
"""Says where the content of a file of the list is on this machine; empty for nowhere."""


@dataclass(kw_only=True, slots=True)
class ImageSource:
    """See `trust.inventory.model.Source`. tree: of the image; place: see there; origin_of: where a path of
    the list came from, where that is not kept; old: what was read of the last image, kept: of this one;
    made: SHA-1 by SHA-256 of what the build read anyway; hashed: whether SHA-1s are wanted; whole: whether
    all of it is kept."""

    tree: ImageTree
    place: Place
    origin_of: Callable[[bytes], Origin]
    bus: Bus
    old: KeptSource = field(default_factory=KeptSource)
    kept: KeptSource = field(default_factory=KeptSource)
    made: tuple[Mapping[str, str], ...] = ()
    hashed: bool = True
    whole: bool = True
    _entries: FileList | None = None

    @property
    def entries(self) -> FileList:
        if self._entries is None:
            tree = self.tree
            whole = isinstance(tree.entries, dict) and not tree.prefix
            self._entries = tree.entries if whole else dict(tree.walk())  # type: ignore[assignment]
        assert self._entries is not None
        return self._entries

    def read(self, path: bytes, limit: int) -> bytes | None:
        entry = self._file(path)
        if entry is None or entry.size > limit:
            return None
        data = self.old.content(entry.sha256)
        if data is None:
            data = self._content(entry)
        if entry.size <= _LARGEST_KEPT:
            self.kept.keep(entry.sha256, data)
        else:
            self.whole = False
        return data

    def head(self, path: bytes, size: int) -> bytes:
        entry = self._file(path)
        if entry is None:
            return b""
        data = self.old.head(entry.sha256, size)
        if data is None:
            data = self._content(entry, size)
        self.kept.heads[entry.sha256] = (size, data)
        return data

    def sha256(self, paths: Iterable[bytes]) -> Mapping[bytes, str]:
        return self._hashed(paths, self._sha256)

    def sha1(self, paths: Iterable[bytes]) -> Mapping[bytes, str]:
        return self._hashed(paths, self._sha1) if self.hashed else {}

    def origin(self, path: bytes) -> Origin:
        known = self.old.origins.get(path)
        if known is not None:
            step, layer = known
            found = Origin(step=step, layer=None if layer < 0 else layer)
        else:
            found = self.origin_of(path)
        self.kept.origins[path] = (found.step, -1 if found.layer is None else found.layer)
        return found

    def _hashed(self, paths: Iterable[bytes], digest: Callable[[Entry], str]) -> dict[bytes, str]:
        files = {path: self._file(path) for path in paths}
        return {path: digest(entry) for path, entry in files.items() if entry is not None}

    def _sha256(self, entry: Entry) -> str:
        if not entry.sha256:
            entry.sha256 = self._digest(entry, "sha256")
        return entry.sha256

    def _sha1(self, entry: Entry) -> str:
        rows = (self.old.sha1, self.kept.sha1, *self.made)
        known = next((row[entry.sha256] for row in rows if entry.sha256 in row), "")
        found = known or self._digest(entry, "sha1")
        if entry.sha256:
            self.kept.sha1[entry.sha256] = found
        return found

    def _file(self, path: bytes) -> Entry | None:
        """Return the regular file that a path leads to, links followed within the image."""
        entry = self.tree.get(path)
        if entry is None or entry.kind != "f":
            entry = self.tree.find(b"/" + path)
        return entry if entry is not None and entry.kind == "f" else None

    def _content(self, entry: Entry, limit: int = -1) -> bytes:
        fd = self._open(entry)
        try:
            wanted, found = entry.size if limit < 0 else min(limit, entry.size), []
            while wanted > 0 and (data := os.read(fd, wanted)):
                found.append(data)
                wanted -= len(data)
            return b"".join(found)
        finally:
            os.close(fd)

    def _digest(self, entry: Entry, name: str) -> str:
        if entry.size <= CHUNK:  # without a buffer: there may be a hundred thousand
            return hashlib.new(name, self._content(entry), usedforsecurity=False).hexdigest()
        with open(self._open(entry), "rb", buffering=0) as stream:
            return hashlib.file_digest(stream, name).hexdigest()

    def _open(self, entry: Entry) -> int:
        """Open a file. Raises EmitError for one that is not there any more."""
        place = self.place(entry)
        self.bus.count("trust_files_read")
        try:
            return os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            name = os.fsdecode(entry.path)
            raise EmitError(
                f"/{name} of the image cannot be read: {error.strerror}", hint="build again", retryable=True
            ) from error


def of_clone(context: BuildContext, state: BuildState, old: KeptSource) -> ImageSource:
    """Return the source of a full build, after its files were hashed. old: what was read of the last one."""
    top = os.fsencode(state.dataset.path)

    def place(entry: Entry) -> bytes:
        return entry.source or os.path.join(top, entry.first or entry.path)

    tree = ImageTree(state.snapshot.entries, os.fsencode(state.root_prefix))
    origins = Origins(context, state)
    # Which step brought a path may be another one now: that is not asked of the last build.
    contents = KeptSource(contents=old.contents, heads=old.heads, sha1=old.sha1)
    return ImageSource(
        tree=tree,
        place=place,
        origin_of=origins.of,
        bus=context.bus,
        hashed=proved.hashed(context.spec),
        old=contents,
        made=_made(state),
    )


def _made(state: BuildState) -> tuple[Mapping[str, str], ...]:
    return (state.sha1,) if state.blobs is None else (state.sha1, state.blobs.sha1)


def of_update(context: BuildContext, state: BuildState, old: KeptSource) -> ImageSource:
    """Return the source of a content update. old: what was read of the image that it was made from."""
    update = context.plan.update
    assert update is not None
    tree = update.tree
    places = {path: number for number, path in enumerate(tree.paths)}

    def place(entry: Entry) -> bytes:
        number = places.get(entry.path)
        if number is None or number in tree.external:
            return b""
        return update.top + b"/" + tree.sources.get(number, entry.path)

    def origin_of(path: bytes) -> Origin:
        return Origin(step="sync" if path in places else "base")

    entries = {entry.path: entry for entry in map(parse, tree.lines)}
    prefix = b"root" if context.plan.image is not None and _zone(entries, context) else b""
    return ImageSource(
        tree=ImageTree(entries, prefix),
        place=place,
        origin_of=origin_of,
        bus=context.bus,
        hashed=proved.hashed(context.spec),
        old=old,
        made=_made(state),
    )


def of_kept(context: BuildContext, old: KeptSource, digest: str) -> ImageSource | None:
    """Return the source of an image that stands, of what was read when it was made; None where that was of
    another one, or without all hashes that are wanted. digest: of its tree."""
    lines = old.list_lines() if old.tree == digest and proved.enough(context.spec, old) else []
    if not lines:
        return None
    entries = {entry.path: entry for entry in map(parse, lines)}
    prefix = b"root" if _zone(entries, context) else b""
    return ImageSource(
        tree=ImageTree(entries, prefix),
        place=lambda _entry: b"",
        origin_of=lambda _path: Origin(),
        bus=context.bus,
        hashed=proved.hashed(context.spec),
        old=old,
    )


def _zone(entries: Mapping[bytes, Entry], context: BuildContext) -> bool:
    """Whether the root of the image is in a directory of its list; see `images.record.root_in`."""
    image = context.plan.image
    return image is not None and image.manifest.get("type") == "zone-dataset" and b"root" in entries


def slot(spec: BuildSpec) -> str:
    """The name under which is kept what was read of an image."""
    return cache_inputs.outputs_slot(spec)


def load(context: BuildContext) -> KeptSource:
    """Return what was read of the last image."""
    if not context.spec.cache:
        return KeptSource()
    return kept_source.load(context.backend.state, slot(context.spec))


class Origins:
    """Which step of a build brought each path, and in which layer of the image it is."""

    def __init__(self, context: BuildContext, state: BuildState) -> None:
        self._context, self._state = context, state
        self._entries = state.snapshot.entries
        self._prefix = os.fsencode(f"{state.root_prefix}/") if state.root_prefix else b""
        self._base = context.store.entries(state.image)
        self._below = dict(_below(context.spec))
        self._made: dict[tuple[str, int | None], Origin] = {}

    def of(self, path: bytes) -> Origin:
        """Return where a path of the image came from."""
        full = self._prefix + path
        step = self._step(path, full)
        layer = self._layer(full, step)
        found = self._made.get((step, layer))
        if found is None:
            found = self._made[step, layer] = Origin(step=step, layer=layer)
        return found

    def _step(self, path: bytes, full: bytes) -> str:
        entry, spec = self._entries[full], self._context.spec
        if _same(self._base.get(full), entry):
            return "base"
        # What is read in place has its own file; else the places have to be worked out.
        if entry.source or (not self._state.overlay and path in self._placed):
            return "sync"
        for step, entries in self._trees:
            if _same(entries.get(full), entry):
                return step
        if spec.units and entry.kind == "l" and b"systemd/" in path:
            return "units"
        if spec.motd and path == b"etc/motd":
            return "motd"
        late = run_rows.late(spec)
        return late[-1].step if late else "packages" if self._alone else "clean"

    @functools.cached_property
    def _placed(self) -> Mapping[bytes, bytes]:
        return places_of(self._state, self._context.plan.proto)

    @functools.cached_property
    def _alone(self) -> bool:
        """Whether packages are all that changes the image beside the proto directory."""
        return self._context.spec.wants_packages and not self._state.packaged

    @functools.cached_property
    def _trees(self) -> list[tuple[str, FileList]]:
        """The trees that steps left, the lowest first."""
        state, cache = self._state, self._context.cache
        found = [("packages", state.packaged)] if state.packaged else []
        for name, key in zip(self._below, state.image_layers, strict=False):
            record = cache.find(key) if name != "packages" else None
            if record is not None:
                found.append((name, cache.entries(record)))
        return found

    def _layer(self, full: bytes, step: str) -> int | None:
        """Return the number of the layer that has a path; None where that cannot be told."""
        layers = self._comments
        if not layers:
            return None
        own = self._state.image.own_layers
        if step == "base":
            return 0 if own == 1 else None
        if (number := self._cut.get(full)) is not None:
            return number
        wanted = self._below.get(step)
        return layers.index(wanted) if wanted in layers else len(layers) - 1

    @functools.cached_property
    def _comments(self) -> list[str]:
        artifacts = self._state.artifacts
        return list(
            next((it.extra["layer_comments"] for it in artifacts if "layer_comments" in it.extra), ())
        )

    @functools.cached_property
    def _cut(self) -> dict[bytes, int]:
        """The layers that the proto directory was cut into, by path."""
        state = self._state
        digests = next((it.extra["layers"] for it in state.artifacts if "layers" in it.extra), ())
        numbers = {digest.removeprefix("sha256:"): number for number, digest in enumerate(digests)}
        return {
            entry.path: numbers[blob.digest]
            for changes, blob in state.chunks
            if blob.digest in numbers
            for entry in changes.entries
        }


def _below(spec: BuildSpec) -> list[tuple[str, str]]:
    """Return the steps that have a layer of their own below the topmost one, each with its comment."""
    found = [("packages", layer_comments.packages(spec))] if spec.wants_packages else []
    return found + [(row.step, layer_comments.command(row)) for row in run_rows.early(spec)]


def _same(old: Entry | None, new: Entry) -> bool:
    if old is new:
        return True
    if old is None or not old.same_metadata(new):
        return False
    return new.kind != "f" or old.sha256 == new.sha256
