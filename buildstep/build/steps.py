"""One function per step of a build; `pipeline.execute` calls them in order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from buildstep.events import Bus, Cleaned
from buildstep.images.store import ImageRecord
from buildstep.pool.interface import Backend, Dataset
from buildstep.pool.journal import Journal
from buildstep.pool.stale import output_lock
from buildstep.rootfs import cleaners, owners, placement
from buildstep.rootfs import copy_proto as syncing
from buildstep.rootfs.cleaners.interface import CleanOptions
from buildstep.rootfs.leak_check import Agent
from buildstep.spec.load import BuildSpec
from buildstep.system.locks import lock
from buildstep.system.root import Root
from buildstep.tree.diff import Changes, diff
from buildstep.tree.entry import Entry, FileList, digest_of, lines_of
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.proto import ProtoScan
from buildstep.tree.scan import drop_below, heal_groups


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What every step may use."""

    spec: BuildSpec
    backend: Backend
    bus: Bus
    environ: Mapping[str, str]


def image_root(dataset: Dataset, image: ImageRecord) -> Root:
    """The file system of the image: a zone image keeps it in root/, beside the zone's own files."""
    if image.manifest.get("type") == "zone-dataset" and (dataset.path / "root").is_dir():
        return Root(dataset.path / "root")
    return Root(dataset.path)


def sync(context: Context, root: Root) -> None:
    """Lay the proto directory on the root."""
    spec = context.spec
    syncing.sync(
        spec.proto,
        root,
        rule=owners.owner_rule(spec.owner, root),
        exclude=spec.exclude,
        privileged=context.backend.privileged,
        bus=context.bus,
        timeout=spec.timeouts.command,
    )


def lay_direct(
    context: Context, root: Root, dataset: Dataset, proto: ProtoScan, below: FileList
) -> FileList | None:
    """The proto directory's entries as they will be in the image, without copying a file.

    None where only rsync can tell what comes of it, or that nothing can.
    """
    spec = context.spec
    plan = placement.parts(spec.proto, root)
    syncing.tell_changed_modes(spec.proto, root, plan, context.bus)
    laid = placement.lay(proto.entries, plan, owners.owner_rule(spec.owner, root))
    inside = os.path.relpath(root.path, dataset.path)
    if inside != ".":
        laid = _below_folder(laid, os.fsencode(inside))
    return None if placement.conflicts(laid, below) else laid


def _below_folder(entries: FileList, folder: bytes) -> FileList:
    """The same entries in a folder of the tree (a zone image has its root in one)."""
    found: FileList = {}
    for entry in entries.values():
        entry.path = folder + b"/" + entry.path
        if entry.first:
            entry.first = folder + b"/" + entry.first
        entry.text = b""
        found[entry.path] = entry
    return found


def clean(context: Context, root: Root, dataset: Dataset, proto: ProtoScan) -> list[Cleaned]:
    """Run the cleaners; what the proto directory brought stays."""
    kept = frozenset(
        "/" + os.fsdecode(path) for path in proto.paths if path.partition(b"/")[0] in _CLEANED_TOPS
    )
    options = CleanOptions(
        agent=Agent.of(context.environ),
        zone=dataset.path if root.path != dataset.path else None,
        keep=kept,
    )
    return cleaners.clean(context.spec.cleaners(cleaners.DEFAULT), root, options, context.bus)


_CLEANED_TOPS = (b"var", b"etc", b"tmp", b"root", b"run", b"home", b"dev", b"lib", b"usr", b"srv")
"""Where cleaners look: only paths there need to be told apart."""


def wants_packages(spec: BuildSpec) -> bool:
    return bool(spec.packages or spec.upgrade_first or spec.pkg_audit)


def motd(context: Context, root: Root, image: ImageRecord) -> str:
    """Write etc/motd in the original's form: a framed title, then name, source and base image."""
    spec = context.spec
    title = "B U I L D S T E P" if image.manifest.get("os") != "smartos" else "T R I T O N"
    lines = [
        "",
        f" =  {title}  =",
        "",
        f"    {spec.name} ({spec.version})",
        f"    {spec.source_repo}",
        f"    {image.name}@{image.version}",
        "",
    ]
    root.make_dirs("/etc")
    root.write("/etc/motd", ("\n".join(lines) + "\n").encode())
    return f"{spec.name} ({spec.version})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A finished tree: all its entries, and the changes against the layer below.

    facts: what is told of it, once all of it is hashed; emitted: of the changes, what an emitter still has to
    write as the top layer; None for all of them.
    """

    entries: FileList
    changes: Changes
    facts: Callable[[], Facts]
    emitted: tuple[Entry, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Of a finished tree: its digest, the canonical lines behind that, and the largest of what was added."""

    digest: str
    lines: list[bytes]
    added: list[tuple[str, int]]


def facts_of(entries: FileList, changes: Changes) -> Facts:
    """The facts of a tree, of which every file must have been hashed."""
    lines = lines_of(entries)
    files = ((entry.path, entry.size) for entry in changes.entries if entry.kind == "f" and not entry.first)
    return Facts(digest=digest_of(lines), lines=lines, added=largest(files))


def snapshot(
    context: Context,
    dataset: Dataset,
    origin: FileList,
    below: FileList,
    image: ImageRecord,
    *,
    laid: FileList | None = None,
    proto: ProtoScan | None = None,
) -> Snapshot:
    """Read what the tree is now. origin: list of what the dataset was cloned from; below: of the layer
    under the one being made; laid: entries that lie on top without being in the dataset; proto: what was
    copied into it. Files are hashed only where that decides whether they changed."""
    spec = context.spec
    rule = None
    if not context.backend.privileged:
        root = image_root(dataset, image)
        copied = {} if proto is None else syncing.brought_by(spec.proto, root, proto.paths)
        rule = owners.recorded(owners.owner_rule(spec.owner, root), below, copied)
    entries = dataset.scan(origin, owner=rule)
    if laid:
        for path, entry in laid.items():
            there = entries.get(path)
            if there is not None and there.kind == "d" and entry.kind != "d":
                drop_below(entries, path)
            entries[path] = entry
        heal_groups(entries, laid)
    undecided = []
    for path, entry in entries.items():
        unread = entry.kind == "f" and not entry.sha256 and not entry.first
        if unread and path in below and below[path].same_metadata(entry):
            undecided.append(entry)
    context.bus.count("bytes_hashed", hash_entries(dataset.path, undecided))
    spread_digests(entries)
    changes = difference(below, entries)
    # What did not change keeps the time it has below, as it will when the layers are laid together.
    changed = {entry.path for entry in changes.entries}
    for path, old in below.items():
        if path in entries and path not in changed:
            entries[path] = old
    return Snapshot(entries=entries, changes=changes, facts=cache(lambda: facts_of(entries, changes)))


difference = diff


@contextlib.contextmanager
def writing(stem: Path, journal: Journal) -> Iterator[None]:
    """One build at a time writes files of one name into a folder. The lock file is not left there."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = output_lock(stem)
    with lock(path):
        journal.outputs(stem)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def free_space_faults(folder: Path, needed: int) -> list[str]:
    """A sentence for a file system that cannot hold so many bytes."""
    info = os.statvfs(folder)
    free = info.f_bavail * info.f_frsize
    return (
        [f"{folder} has {free >> 20} MiB free, about {needed >> 20} MiB are needed"] if free < needed else []
    )


def largest(files: Iterable[tuple[bytes, int]], limit: int = 2000) -> list[tuple[str, int]]:
    """The largest of some files (path, bytes), largest first, for reports."""
    rows = list(files)
    if len(rows) > limit:
        least = sorted(size for _, size in rows)[-limit]
        rows = [row for row in rows if row[1] >= least]
    rows.sort(key=lambda row: (-row[1], row[0]))
    return [("/" + os.fsdecode(path).encode(errors="replace").decode(), size) for path, size in rows[:limit]]
