"""One function per step of a build; `pipeline.execute` calls them in order."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from buildstep.errors import InstallError
from buildstep.events import Bus, Cleaned
from buildstep.images.store import ImageRecord
from buildstep.pool.interface import Backend, Dataset
from buildstep.pool.journal import Journal
from buildstep.pool.stale import output_lock
from buildstep.rootfs import cleaners, installers, owners, placement, sandbox
from buildstep.rootfs import copy_proto as syncing
from buildstep.rootfs.cleaners.interface import CleanOptions
from buildstep.rootfs.installers import apt
from buildstep.rootfs.interface import Finding, Installer, InstallOptions, Package, Resolution
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """What the packages step found out. audit: the tool's text and findings, None if there was no tool."""

    installer: str
    packages: tuple[Package, ...]
    audit: tuple[str, tuple[Finding, ...]] | None = None

    def to_json(self) -> dict[str, Any]:
        """As a record of a layer or a tree keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Installed | None:
        """What `to_json` gave, None for nothing."""
        if not value:
            return None
        audit = value.get("audit")
        return cls(
            installer=value["installer"],
            packages=tuple(Package(**row) for row in value["packages"]),
            audit=None if audit is None else (audit[0], tuple(Finding(**row) for row in audit[1])),
        )


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


def choose_installer(spec: BuildSpec, root: Root, note: Callable[[str], None]) -> Installer:
    """The installer that the spec names, or the one that is in the root. Raises InstallError."""
    if spec.installer != "auto":
        return installers.get(spec.installer)
    found = installers.detect(root, note=note)
    if found is None:
        raise InstallError(
            "the base image has no package manager that we know",
            hint=f"name one with --installer ({', '.join(installers.INSTALLERS)}), or ask for no packages",
        )
    return found


def wants_packages(spec: BuildSpec) -> bool:
    return bool(spec.packages or spec.upgrade_first or spec.pkg_audit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Packaging:
    """A root entered with its package manager ready: first it is asked, then it installs.

    prepared: what the installer needs around it; closed before its last words.
    """

    context: Context
    installer: Installer
    inside: sandbox.ChrootSandbox
    options: InstallOptions
    prepared: contextlib.ExitStack

    def refresh(self, *, hurry: bool = False, max_age: float = 0.0) -> tuple[str, float]:
        """Fetch the repository's index, if anything will be taken from it; its digest, and when it was
        fetched.

        hurry: what it said before will do if it cannot be reached at once. max_age: see InstallOptions.
        """
        spec = self.context.spec
        if not spec.packages and not spec.upgrade_first:
            return "", time.time()
        options = replace(self.options, hurry=hurry, max_age=max_age)
        fetched = self.installer.refresh(self.inside, options)
        return self.installer.index(self.inside, self.options), fetched

    def resolve(self) -> Resolution:
        """What an install would bring."""
        spec = self.context.spec
        if not spec.packages and not spec.upgrade_first:
            return Resolution(versions={}, exact=True)
        return self.installer.resolve(self.inside, spec.packages, self.options, upgrade=spec.upgrade_first)

    def fetch(self, versions: Mapping[str, str] | None = None) -> None:
        """Download what the packages need; versions: see `Installer.fetch`."""
        if self.context.spec.packages:
            self.installer.fetch(self.inside, self.context.spec.packages, self.options, versions)

    def obstacle(self, added: Mapping[str, str], base: FileList) -> str:
        """See `Installer.obstacle`."""
        return self.installer.obstacle(self.inside, added, base, self.options)

    def install(self, versions: Mapping[str, str] | None = None) -> Installed:
        """Upgrade, install, list and audit. versions: what the install brings, if that is known."""
        spec, installer, inside, options = self.context.spec, self.installer, self.inside, self.options
        audit = None
        if spec.upgrade_first:
            installer.upgrade(inside, options)
        if spec.packages:
            self.fetch(None if spec.upgrade_first else versions)
            installer.install(inside, spec.packages, replace(options, fetched=True))
        found = tuple(installer.installed(inside))
        if spec.pkg_audit:
            audit = installer.audit(inside, options)
            if audit is None:
                self.context.bus.note(f"{installer.name}: the image has no audit tool", level="warning")
        self.prepared.close()
        installer.clean(inside)
        told = None if audit is None else (audit[0], tuple(audit[1]))
        return Installed(installer=installer.name, packages=found, audit=told)


@contextlib.contextmanager
def packaging(context: Context, root: Root) -> Iterator[Packaging]:
    """Enter the root to install packages."""
    spec = context.spec
    installer = choose_installer(spec, root, context.bus.note)
    cache = context.backend.state / "packages" / installer.name
    cache.mkdir(parents=True, exist_ok=True)
    mirror = spec.installer_options.mirror or context.environ.get("BUILDSTEP_APT_MIRROR", "")
    if not mirror and installer.name == apt.Apt.name:
        mirror = apt.agent_mirror(context.environ, cache)
    options = InstallOptions(
        cache=cache,
        recommends=spec.installer_options.recommends,
        mirror=mirror,
        env=dict(spec.installer_options.env),
    )
    with entered(context, root) as inside, contextlib.ExitStack() as prepared:
        prepared.enter_context(installer.prepare(inside, options))
        yield Packaging(
            context=context, installer=installer, inside=inside, options=options, prepared=prepared
        )


def listed(context: Context, root: Root, image: ImageRecord) -> Installed | None:
    """What is installed when nothing was asked for: as the image's record has it, else asked in the root."""
    installer = installers.detect(root, note=context.bus.note)
    if installer is None:
        return None
    if image.packages:
        return Installed(installer=installer.name, packages=image.packages)
    if not context.backend.privileged:
        return None
    with entered(context, root) as inside:
        return Installed(installer=installer.name, packages=tuple(installer.installed(inside)))


@contextlib.contextmanager
def entered(context: Context, root: Root) -> Iterator[sandbox.ChrootSandbox]:
    """The root as a sandbox, with the agent's resolver lent to it."""
    spec = context.spec
    with sandbox.enter(
        root.path,
        bus=context.bus,
        environ=context.environ,
        network=spec.network,
        timeout=spec.timeouts.command,
        idle_timeout=spec.timeouts.idle,
    ) as inside:
        yield inside


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
