"""Which step of a build made a path what it is, as far as its record and what is at hand show it.

Nothing is guessed. What cannot be shown is `unknown`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from buildstep.files.compare import Change
from buildstep.files.compare_layers import LayerDiff, step_of
from buildstep.files.compare_packages import PackageChange
from buildstep.tree.entry import Entry

Step = Literal["base", "proto", "packages", "clean", "unknown"]

STEPS: Mapping[Step, str] = {
    "base": "the base images differ in this path, and the image has it as its base has it; or a layer of the"
    " base has it",
    "proto": "the proto directory has this path just so, or the record names it as changed there; or a layer"
    " of the proto directory alone has it",
    "packages": "it belongs to a package that was added, removed or has another version; or the layer of the"
    " packages has it",
    "clean": "the build's record names it as removed by this cleaner, or replaced by the proto directory",
    "unknown": "nothing at hand shows it",
}
"""Each cause, and what shows it; in the order in which they are counted."""

_DATABASES = (b"var/lib/dpkg/", b"var/lib/apt/", b"var/cache/debconf/")
"""Where a package manager keeps what it knows: another where any package is."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What made a change. detail: the package, the cleaner; of `unknown` a package that owns the path, and is
    the same in both trees; empty for none."""

    step: Step
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is known of two trees beside their lists.

    old_base, new_base: what the base image of each has at a path (None for nothing); None where the base is
    not at hand. proto: whether the proto directory of the new one has an entry just so; proto_changed:
    paths that its record names as changed in there. old_owners, new_owners: the package of each path.
    packages: those that differ. cleaned: what the record of the new one names as removed, with by what.
    layers: of both, where they are known.
    """

    old_base: Callable[[bytes], Entry | None] | None = None
    new_base: Callable[[bytes], Entry | None] | None = None
    proto: Callable[[Entry], bool] | None = None
    proto_changed: Collection[bytes] = ()
    old_owners: Mapping[bytes, str] = field(default_factory=dict)
    new_owners: Mapping[bytes, str] = field(default_factory=dict)
    packages: Sequence[PackageChange] = ()
    cleaned: Mapping[bytes, str] = field(default_factory=dict)
    layers: LayerDiff | None = None


def causes(changes: Collection[Change], known: Evidence) -> list[Cause]:
    """Return the cause of each change, in their order."""
    changed = {row.name: row for row in known.packages}
    return [_cause(change, known, changed) for change in changes]


def _cause(change: Change, known: Evidence, packages: Mapping[str, PackageChange]) -> Cause:
    if change.new is None and (cleaner := known.cleaned.get(change.path)):
        return Cause("clean", cleaner)
    if change.path in known.proto_changed:
        return Cause("proto")
    if change.new is not None and known.proto is not None and known.proto(change.new):
        return Cause("proto")
    if (package := _package(change, known, packages)) is not None:
        return package
    if _from_base(change, known):
        return Cause("base")
    if step := _layer_step(change, known.layers):
        return Cause(step)
    owner = _owner(change, known)
    return Cause("unknown", f"owned by {owner}" if owner else "")


def _layer_step(change: Change, layers: LayerDiff | None) -> Step | None:
    """Return the step that made the layer a path is from, where the record of the build tells of that."""
    if layers is None:
        return None
    old, new = layers.of(change)
    if change.new is None and new is None:  # nothing took it away: what had made it does so no more
        return step_of(layers.old, old, gone=False)
    step = step_of(layers.new, new, gone=change.new is None)
    # What is in the base now, and came from another step before, is not the base's doing alone.
    if step == "base" and old is not None and step_of(layers.old, old, gone=False) != "base":
        return None
    return step


def _package(change: Change, known: Evidence, packages: Mapping[str, PackageChange]) -> Cause | None:
    owner = _owner(change, known)
    if owner in packages:
        return Cause("packages", f"{owner} {packages[owner].change}")
    if packages and change.path.startswith(_DATABASES):
        return Cause("packages", "the package database")
    return None


def _owner(change: Change, known: Evidence) -> str:
    """Return the package that has a path in its list; empty for none."""
    owner = known.new_owners.get(change.path, "") if change.new is not None else ""
    return owner or (known.old_owners.get(change.old.path, "") if change.old is not None else "")


def _from_base(change: Change, known: Evidence) -> bool:
    """Whether both trees have the path as their bases have it, so that these made the difference."""
    if known.old_base is None or known.new_base is None:
        return False
    places = ((known.old_base, change.old, change.new), (known.new_base, change.new, change.old))
    for base, entry, other in places:
        # A path that moved is in one tree only under each of its names.
        paths = {it.path for it in (entry, other) if it is not None}
        for path in paths:
            there, mine = base(path), entry if entry is not None and entry.path == path else None
            if there is None or mine is None:
                if there is not mine:
                    return False
            elif not (there.same_metadata(mine) and there.sha256 == mine.sha256):
                return False
    return True
