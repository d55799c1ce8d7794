"""Make a lock: the base image is brought in, and its package manager says what an install would take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from buildstep import __version__, emit
from buildstep.build import package_resolution, proto_conflicts
from buildstep.build.package_layer import download
from buildstep.errors import LockError
from buildstep.events import Bus
from buildstep.images import locked, trusted_base
from buildstep.images.importing import Importer
from buildstep.images.record import root_in
from buildstep.images.store import ImageRecord, ImageStore
from buildstep.pool.interface import Kind
from buildstep.pool.journal import Journal, open_journal
from buildstep.rootfs import conflicts, copy_proto, owners, placement
from buildstep.rootfs.interface import LocksPackages
from buildstep.rootfs.packaging import Host, Packaging, prepare_packaging
from buildstep.spec.load import BuildSpec
from buildstep.spec.lock import Lock, LockedBase, MadeOf
from buildstep.spec.locking import asked
from buildstep.system.root import Root
from buildstep.tree.exclude import excluder
from buildstep.tree.proto import scan_proto

_TOOLS = ("apt", "dpkg")
"""Packages of the image whose versions decide how others are installed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What a lock is made with."""

    store: ImageStore
    bus: Bus
    environ: Mapping[str, str]


def make(spec: BuildSpec, room: Room) -> Lock:
    """Return the lock of what a build would take now: the base that it would use, and its repository's
    packages as they are at this moment. All package files are in the cache then. Raises BuildstepError."""
    with _base(spec, room) as (image, journal):
        lock = _of_base(spec, image)
        if not _installs(spec):
            return lock
        with _packaging(spec, room, image, journal) as packages:
            installer = _locking(packages)
            index, fetched = packages.refresh(max_age=0.0)
            answer, _, _ = package_resolution.ask(room.bus, packages, index, fetched, 0.0)
            rows = installer.package_files(packages.job, answer, upgrade=spec.upgrade_first)
        gone = tuple(sorted(name for name, version in answer.versions.items() if not version))
        return replace(lock, installer=packages.installer.name, packages=tuple(rows), removed=gone)


def update(spec: BuildSpec, room: Room, names: Sequence[str]) -> Lock:
    """Return the lock of a spec, with other versions of some packages and of what these need. The rest, the
    base too, stays. Raises LockError where something of it is gone, or a package is not in it."""
    old = spec.lock
    assert old is not None
    with _base(spec, room) as (image, journal):
        with _packaging(replace(spec, lock=None), room, image, journal) as packages:
            installer = _locking(packages)
            packages.refresh(max_age=0.0)
            new = installer.updated(packages.job, old, names)
        if new.packages == old.packages:
            return old
        # By itself, as a build will install it: what nothing needs any more is not in it.
        with _packaging(replace(spec, lock=new), room, image, journal) as packages:
            packages.refresh()
            needed = packages.resolve().versions
        kept = tuple(row for row in new.packages if row.name in needed)
        return replace(new, packages=kept, date=_now(), tools=_tools(spec, image))


def check(spec: BuildSpec, room: Room) -> list[str]:
    """Return what a lock made now would have that the lock of a spec has not, for people.

    No base is made: packages are resolved on the locked one, unless the base that a build would take is
    another one and is here.
    """
    old = spec.lock
    assert old is not None
    free = replace(spec, lock=None)
    room.store.freshness.max_age = 0
    found = room.store.find(free.image)
    said = _base_changes(old.base, found, room.store.foresee(free.image) if found is None else "")
    with _base(free if found is not None else spec, room) as (image, journal):
        if not _installs(spec):
            return said
        with _packaging(free, room, image, journal) as packages:
            packages.refresh(max_age=0.0)
            now = packages.resolve().versions
    return said + changes(old.versions(), now)


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return what differs between two sets of versions by package, for people; "" is one that goes."""
    said = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before != after:
            said.append(f"{name}: {_version(before)} -> {_version(after)}")
    return said


def _version(version: str | None) -> str:
    return "not there" if version is None else version or "removed"


def differences(old: Lock | None, new: Lock) -> list[str]:
    """Return what a new lock has that the old one has not, for people."""
    if old is None:
        return []
    said = []
    if (old.base.key, old.base.tree_digest) != (new.base.key, new.base.tree_digest):
        said.append(f"base image: {old.base.label} {old.base.uuid} -> {new.base.label} {new.base.uuid}")
    before = {row.name: row.version for row in old.base.packages}
    after = {row.name: row.version for row in new.base.packages}
    said += [f"base image: {text}" for text in changes(before, after)]
    said += changes(old.versions(), new.versions())
    old_files = {(row.name, row.version): row.sha256 for row in old.packages}
    said += [
        f"{row}: another file of the same version"
        for row in new.packages
        if old_files.get((row.name, row.version), row.sha256) != row.sha256
    ]
    return said


def _base_changes(old: LockedBase, found: ImageRecord | None, foreseen: str) -> list[str]:
    if found is None:
        return [f"base image: {foreseen}"]
    if (found.key, found.tree_digest) == (old.key, old.tree_digest) or old.key in found.aliases:
        return []
    return [f"base image: {old.label} {old.uuid} -> {found.label} {found.uuid}"]


# -- the parts ----------------------------------------------------------------------------------------------


def _installs(spec: BuildSpec) -> bool:
    return bool(spec.packages or spec.upgrade_first)


@contextlib.contextmanager
def _base(spec: BuildSpec, room: Room) -> Iterator[tuple[ImageRecord, Journal]]:
    """Have the base image of a spec, which nobody removes for the length of a block."""
    store = room.store
    locked.use(spec, store)
    trusted_base.check(spec.base, store, store.find(spec.base), spec.proof.base)
    with (
        contextlib.ExitStack() as uses,
        open_journal(store.backend.state, f"lock {spec.name} {spec.version}") as journal,
    ):
        image, _ = Importer(store, journal, uses).ensure(spec.base)
        yield image, journal


@contextlib.contextmanager
def _packaging(spec: BuildSpec, room: Room, image: ImageRecord, journal: Journal) -> Iterator[Packaging]:
    """Enter a clone of the base image, with the proto directory in it where that comes first."""
    backend = room.store.backend
    with contextlib.ExitStack() as stack:
        name = journal.dataset(f"{journal.ident}-{time.monotonic_ns()}")
        stack.callback(backend.destroy, Kind.BUILD, name)
        clone = backend.clone(Kind.IMAGE, image.uuid, name)
        root = root_in(clone.path, image.manifest)
        if spec.order == "proto-first":  # it may bring sources of packages
            _copy_proto(spec, room, image, root)
        on = Host(
            state=backend.state,
            bus=room.bus,
            environ=room.environ,
            download=partial(download, room.environ, room.bus),
        )
        yield stack.enter_context(prepare_packaging(spec, root, on, base=image.tree_digest))


def _copy_proto(spec: BuildSpec, room: Room, image: ImageRecord, root: Root) -> None:
    proto = scan_proto(spec.proto, exclude=excluder(spec.exclude) if spec.exclude else None)
    listed = proto_conflicts.root_of(image, room.store.entries(image))

    def tree() -> contextlib.AbstractContextManager[Root]:
        return contextlib.nullcontext(root)

    conflicts.make_way(root, proto_conflicts.find(spec, proto, listed, base=image.label, tree=tree))
    options = copy_proto.CopyOptions(
        rule=owners.owner_rule(spec.owner, root),
        exclude=spec.exclude,
        privileged=room.store.backend.privileged,
        timeout=spec.timeouts.command,
    )
    places = placement.find_placements(proto.kind, listed)
    copy_proto.copy(spec.proto, root, places, options, room.bus)


def _locking(packages: Packaging) -> LocksPackages:
    installer: object = packages.installer
    if isinstance(installer, LocksPackages):
        return installer
    raise LockError(
        f"packages of {packages.installer.name} cannot be locked: it cannot be held to what a lock has",
        hint="lock an m.json that asks for none, or take a base image that has them",
    )


def _of_base(spec: BuildSpec, image: ImageRecord) -> Lock:
    inputs, made_of = image.inputs, image.made_of or MadeOf()
    return Lock(
        asked=asked(spec),
        base=LockedBase(
            label=image.label,
            key=image.key,
            uuid=image.uuid,
            tree_digest=image.tree_digest,
            digest=str(inputs.get("digest", "")),
            release=str(inputs.get("release", "")),
            epoch=made_of.epoch,
            newest=made_of.newest,
            sources=made_of.sources,
            packages=made_of.packages,
        ),
        date=_now(),
        tools=_tools(spec, image),
    )


def _tools(spec: BuildSpec, image: ImageRecord) -> dict[str, str]:
    own = {row.name: row.version for row in image.packages if row.name in _TOOLS}
    made = {"mmdebstrap": image.inputs["mmdebstrap"]} if "mmdebstrap" in image.inputs else {}
    formats = {name: said for name, said in emit.tool_versions(spec).items() if name != "kernel"}
    return {"buildstep": __version__, **formats, **own, **made}


def _now() -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
