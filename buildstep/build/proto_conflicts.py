"""Refuse a proto directory that does not fit on what is below it, before anything is begun.

The base image is known by its file list before a build starts, or once it is imported. What packages bring
that come before the proto directory is known when they are installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from buildstep.build.account_check import request
from buildstep.errors import UsageError
from buildstep.events import Bus, Cleaned
from buildstep.images.record import ImageRecord
from buildstep.rootfs import account_loss, conflicts, copy_proto
from buildstep.rootfs.cleaners.interface import SHOWN
from buildstep.rootfs.conflicts import Conflict
from buildstep.rootfs.placement import find_placements
from buildstep.spec.load import BuildSpec
from buildstep.system import host
from buildstep.system.root import Root
from buildstep.system.text import shown_path
from buildstep.tree.entry import FileList, PathTooLong
from buildstep.tree.proto import ProtoDir


def root_of(image: ImageRecord, entries: FileList) -> FileList:
    """Return the list of an image's root: a zone image keeps it in root/, beside the zone's own files."""
    folder = entries.get(b"root")
    if image.manifest.get("type") != "zone-dataset" or folder is None or folder.kind != "d":
        return entries
    return inside(entries, b"root")


def inside(entries: FileList, folder: bytes) -> FileList:
    """Return the entries of a folder by their paths in it."""
    if not folder:
        return entries
    start = folder + b"/"
    below = {path.removeprefix(start): entry for path, entry in entries.items() if path.startswith(start)}
    return {b"": entries[folder], **below}


Tree = Callable[[], AbstractContextManager[Root]]
"""Shows the file system that a proto directory goes on."""


def find(spec: BuildSpec, proto: ProtoDir, root: FileList, *, base: str, tree: Tree) -> list[Conflict]:
    """Return what the proto directory takes the place of by the rules of `replace`.

    root: what is in the image's root before; base: what brought that, for messages; tree: shows the root,
    where it has to be read. Raises UsageError that
    lists what no rule allows, and CommandFailed where rsync cannot tell what is excluded.
    """
    allowed, refused = judge(spec, proto, root, tree)
    if refused:
        raise conflicts.error(refused, base)
    return allowed


def judge(
    spec: BuildSpec, proto: ProtoDir, root: FileList, tree: Tree
) -> tuple[list[Conflict], list[Conflict]]:
    """Return the conflicts that a rule allows, and the others. Raises as `find` does, but for those."""
    placements = find_placements(proto.kind, root)
    try:
        mounted = host.HERE.mounted if spec.wants_packages and spec.order == "proto-first" else ()
        found = conflicts.find(proto.kind, proto.paths, root, placements, mounted=mounted)
    except PathTooLong as error:
        hint = "a directory of the base image is a link, and the path is longer behind it; shorten it"
        raise UsageError(f"the proto directory has {error.message}", hint=hint) from error
    if tables := account_loss.carried(proto.kind):
        with tree() as image:
            found += account_loss.find(spec.proto, tables, image, request(spec))
    if found and spec.exclude and proto.exclude is None:  # only rsync knows what these patterns mean
        taken = copy_proto.taken(spec.proto, spec.exclude, spec.timeouts.command)
        found = [row for row in found if row.source in taken and (not row.other or row.other in taken)]
    allowed, refused = conflicts.judge(found, spec.replace)
    return [row for row in allowed if not row.drops], refused  # a table is replaced, not removed before


def report(bus: Bus, replaced: Sequence[Conflict]) -> None:
    """Tell what goes, and have it recorded beside what the cleaners remove."""
    if replaced:
        names = tuple("/" + os.fsdecode(row.path) for row in replaced[:SHOWN])
        paths, size = sum(row.paths for row in replaced), sum(row.size for row in replaced)
        bus.emit(Cleaned(cleaner="replace", paths=paths, bytes=size, names=names))


def text(replaced: Sequence[Conflict]) -> str:
    """Describe what goes, as an addition to a step's reason."""
    if not replaced:
        return ""
    more = f" and {len(replaced) - 1} more" if len(replaced) > 1 else ""
    return f"; takes the place of {shown_path(b'/' + replaced[0].path)}{more}"
