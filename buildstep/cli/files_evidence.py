"""What is known of two trees beside their files, by which the causes of their differences are found."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

from buildstep.cli.files_side import Opening, Side
from buildstep.cli.files_side_images import image_listing
from buildstep.errors import BuildstepError
from buildstep.files.compare import Comparison, compare
from buildstep.files.compare_causes import Evidence
from buildstep.files.compare_layers import LayerDiff
from buildstep.files.compare_packages import (
    PackageChange,
    Packages,
    merged_directories,
    owners,
    package_changes,
    packages_in,
)
from buildstep.report.record import BuildRecord
from buildstep.system.digest import sha256_file
from buildstep.tree.entry import Entry
from buildstep.tree.scan import entry_of


def packages_of_sides(old: Side, new: Side) -> tuple[list[PackageChange] | None, list[str]]:
    """Return what differs between the packages of two sides, None if that is not known, and notes why not."""
    both = [_packages(side) for side in (old, new)]
    notes = [
        f"the packages of {side.named.name} are not known: {found.why}"
        for side, found in zip((old, new), both, strict=True)
        if found.rows is None
    ]
    return package_changes(*both), notes


def _packages(side: Side) -> Packages:
    found = packages_in(side.listing, side.content)
    if found.rows or side.packages is None:
        return found
    return side.packages  # a record's, where the tree has no database that we read


def evidence(
    sides: tuple[Side, Side],
    found: Comparison,
    packages: Sequence[PackageChange] | None,
    layers: LayerDiff | None,
    opening: Opening,
) -> Evidence:
    """Return all that is at hand for finding the causes of changes."""
    old, new = sides
    bases = _bases(old, new, opening)
    return Evidence(
        old_base=None if bases is None else bases[0].get,
        new_base=None if bases is None else bases[1].get,
        proto=None if new.build is None else _Proto(new.build, merged_directories(new.listing)).has,
        proto_changed=_proto_changed(old.build, new.build),
        old_owners=_owners(old, [change.old for change in found.changes]),
        new_owners=_owners(new, [change.new for change in found.changes]),
        packages=packages or (),
        cleaned={} if new.build is None else dict(_cleaned(new.build)),
        layers=layers,
    )


def _owners(side: Side, entries: Sequence[Entry | None]) -> Mapping[bytes, str]:
    wanted = {entry.path for entry in entries if entry is not None}
    return owners(side.listing, side.content, wanted) if side.content is not None and wanted else {}


def _cleaned(record: BuildRecord) -> Iterator[tuple[bytes, str]]:
    """Yield the paths that a record names as removed, with by what; it has only the first of them."""
    for row in record.cleaned:
        for name in row.names:
            yield os.fsencode(name).strip(b"/"), row.cleaner


# -- bases ------------------------------------------------------------------------------------------------


def _bases(
    old: Side, new: Side, opening: Opening
) -> tuple[Mapping[bytes, Entry], Mapping[bytes, Entry]] | None:
    """Return in what the base images of two sides differ, as entries of each; None where one is not here."""
    if old.build is None or new.build is None:
        return None
    images = [side.input("image") for side in (old.build, new.build)]
    if images[0].get("tree_digest") == images[1].get("tree_digest"):
        return {}, {}
    lists = []
    # A pool that cannot be opened, or has them no more, only means that less is known.
    with contextlib.suppress(BuildstepError, OSError):
        store = opening.session().store
        for image in images:
            record = store.load(str(image.get("uuid", "")))
            if record is not None and record.tree_digest == image.get("tree_digest"):
                lists.append(image_listing(store, record))
    if len(lists) < 2:
        return None
    changes = compare(*lists).changes
    return (
        {change.old.path: change.old for change in changes if change.old is not None},
        {change.new.path: change.new for change in changes if change.new is not None},
    )


# -- the proto directory ----------------------------------------------------------------------------------


def _proto_changed(old: BuildRecord | None, new: BuildRecord | None) -> frozenset[bytes]:
    """Return the paths that the newer of two builds names as changed in its proto directory.

    They are those since the build before it, which is the other one or a later one.
    """
    if old is None or new is None or old.name != new.name or new.started < old.started:
        return frozenset()
    return frozenset(os.fsencode(str(path)) for path, _ in new.input("proto").get("changed", ()) if path)


class _Proto:
    """The proto directory of a build, if it is on this machine still, asked for what is in a tree."""

    def __init__(self, record: BuildRecord, merged: Mapping[bytes, bytes]) -> None:
        self._top = os.fsencode(str(record.input("proto").get("path", "")))
        self._places = {target: name for name, target in merged.items()}

    def has(self, entry: Entry) -> bool:
        """Say whether it has this entry just so, owner and time aside: a build sets these."""
        if not self._top:
            return False
        names = [entry.path]
        for target, name in self._places.items():  # what is in lib/ goes to usr/lib where that is a link
            if entry.path.startswith(target + b"/"):
                names.append(name + entry.path[len(target) :])
        return any(self._equals(self._top + b"/" + name, entry) for name in names)

    def _equals(self, full: bytes, entry: Entry) -> bool:
        try:
            there = entry_of(entry.path, full, os.lstat(full))
            facts = (there.kind, there.mode, there.size, there.target, there.rdev)
            if facts != (entry.kind, entry.mode, entry.size, entry.target, entry.rdev):
                return False
            if entry.kind != "f":
                return True
            return sha256_file(os.fsdecode(full)) == entry.sha256
        except (OSError, BuildstepError):
            return False
