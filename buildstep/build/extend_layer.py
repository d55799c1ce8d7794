"""A layer with packages made from one with almost the same: some packages go, and some are installed.

It is only done where the result cannot be told from an install of all of them on the base: same tree, and
with a SOURCE_DATE_EPOCH same bytes. So what stays was installed in the order in which it would be now; the
versions are those of an install from the base; and the installer knows that neither the packages that go or
come nor those that stay could tell that they did not come together (`RemovesPackages.remove`,
`Installer.blocker` before, `unexpected_changes` after). Another version of a package goes and comes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from buildstep.cache.layers import LayerCache, LayerRecord
from buildstep.cache.resolutions import KeptResolution
from buildstep.rootfs.interface import Package
from buildstep.spec.load import BuildSpec
from buildstep.tree.diff import Changes
from buildstep.tree.entry import FileList

DEEPEST = 6
"""How many layers may stand on one another before one is made anew from the base."""

MOST = 16
"""How many packages may go: of more than that one surely has a script, and all are installed again."""

_OF_THE_SET = ("packages", "versions")
"""Inputs that may differ: the smaller layer has some of them."""


def may_extend(spec: BuildSpec, answer: KeptResolution) -> bool:
    """Whether a layer of this build may be made from a smaller one at all."""
    return (
        spec.order == "packages-first"
        and not spec.upgrade_first
        and not spec.pkg_audit
        and answer.exact
        and bool(answer.order)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What makes one layer of another. gone: the packages that go, lacking: those that come, with their
    versions; marks: whether one that is there is asked for now, and was not."""

    gone: Mapping[str, str]
    lacking: Mapping[str, str]
    marks: bool

    @property
    def installs(self) -> bool:
        """Whether the package manager has something to install or to note."""
        return bool(self.lacking) or self.marks


def change(record: LayerRecord, inputs: Mapping[str, Any]) -> Change | None:
    """Return what makes a layer of these inputs of another one; None if nothing can."""
    before, now = record.inputs.get("versions", {}), inputs["versions"]
    asked, wanted = (
        {_bare(name) for name in record.inputs["packages"]},
        {_bare(name) for name in inputs["packages"]},
    )
    gone = {name: version for name, version in before.items() if now.get(name) != version}
    lacking = {name: version for name, version in now.items() if before.get(name) != version}
    # What goes from the base has to be the same; what is only needed now, or of the base, has another mark.
    if "" in (*gone.values(), *lacking.values()) or len(gone) > MOST or asked - wanted - gone.keys():
        return None
    return Change(gone=gone, lacking=lacking, marks=bool(wanted - asked - lacking.keys()))


def change_of(record: LayerRecord, inputs: Mapping[str, Any]) -> Change:
    """What makes a layer of these inputs of one that `nearest` found."""
    found = change(record, inputs)
    assert found is not None
    return found


def _bare(name: str) -> str:
    """Return the name of a package that is asked for, without a version or suite."""
    return re.split("[=/]", name, maxsplit=1)[0]


def nearest(
    cache: LayerCache, inputs: Mapping[str, Any], answer: KeptResolution, own: AbstractSet[str] | None = None
) -> tuple[LayerRecord | None, str]:
    """The layer that needs the least change: made in the same way, and what stays is installed in the same
    order. Where only the order is another: none, and what is not as it was.

    own: the packages of the base, which never go; None where none can go at all.
    """
    found = []
    for record in cache.records():
        if not _alike(record, inputs) or (one := change(record, inputs)) is None:
            continue
        if one.gone and (own is None or any(_name(name) in own for name in one.gone)):
            continue
        if not one.gone or len(one.gone) < len(record.inputs["versions"]):
            found.append((len(one.gone) + len(one.lacking), len(one.gone), -record.created, record))
    told = ""
    for *_, record in sorted(found, key=lambda row: row[:3]):
        problem = reordered(record, answer)
        if not problem:
            return record, ""
        told = told or problem
    return None, told


def _alike(record: LayerRecord, inputs: Mapping[str, Any]) -> bool:
    """Whether a layer is one of packages that was made in the same way, and another may stand on it."""
    return (
        "packages" in record.inputs  # else it is of a command
        and len(record.under) + 1 < DEEPEST
        and all(record.inputs.get(name) == inputs[name] for name in inputs if name not in _OF_THE_SET)
    )


def _name(package: str) -> str:
    return package.partition(":")[0]


def reordered(record: LayerRecord, answer: KeptResolution) -> str:
    """What of a layer would be installed at another point now; empty if all that stays is as it was. The
    order can show: whoever creates a user first has the lower number."""
    before = list(record.result.get("order", ()))
    if not before:
        return "the order of what is there is not known"
    there, wanted = record.inputs.get("versions", {}), answer.versions
    names = {name for name, version in there.items() if wanted.get(name) == version}
    old_rows, new_rows = (
        [row for row in rows if row.rpartition(" ")[2] in names] for rows in (before, answer.order)
    )
    if len(old_rows) != len(new_rows):
        return "what is there would be installed in other steps"
    for old, new in zip(old_rows, new_rows, strict=True):
        if old != new:
            return f"{new.rpartition(' ')[2]} would be installed before {old.rpartition(' ')[2]}"
    return ""


def mismatch(record: LayerRecord, answer: KeptResolution, installed: Sequence[Package]) -> str:
    """What is installed that should not be, or not; empty if it is exactly what an install on the base
    would have given."""
    before = {(row["name"], row["arch"]): row["version"] for row in record.result["installed"]["packages"]}
    after = {(row.name, row.arch): row.version for row in installed}
    wanted = {_name(name): version for name, version in answer.versions.items() if version}
    gone = {
        _name(name)
        for name, version in record.inputs["versions"].items()
        if answer.versions.get(name) != version
    }
    for name, arch in sorted(before.keys() | after.keys()):
        old, new = before.get((name, arch), ""), after.get((name, arch), "")
        if old != new and ((old and name not in gone) or wanted.get(name, "") != new):
            return f"{name} {new or 'is gone'}"
        if old == new and name in gone:
            return f"{name} {new} is still there"
    missing = sorted(wanted.keys() - {name for name, _ in after})
    return f"{missing[0]} is not installed" if missing else ""


def added(record: LayerRecord, installed: Sequence[Package]) -> list[Package]:
    """The packages that were not there before, or in another version."""
    before = {(row["name"], row["arch"], row["version"]) for row in record.result["installed"]["packages"]}
    return [row for row in installed if (row.name, row.arch, row.version) not in before]


def touch_folders(entries: FileList, changes: Changes, base: FileList, now: int) -> None:
    """Give folders that packages made the time at which something was put into them (ns), as they have it
    when all packages come together; a folder of the base keeps the base's."""
    for path in {
        path.rpartition(b"/")[0] for path in (*(it.path for it in changes.entries), *changes.removed)
    }:
        folder, old = entries.get(path), base.get(path)
        if folder is None:  # it went with what was in it
            continue
        if folder.mtime < now and (old is None or not old.same_metadata(folder)):
            entries[path] = replace(folder, mtime=now)


def paths(changes: Changes) -> list[str]:
    """Every path of a layer, with a slash before it."""
    found = [*(entry.path for entry in changes.entries), *changes.removed]
    return ["/" + os.fsdecode(path) for path in found]
