"""A layer with packages made from a smaller one: only what is new is installed.

It is only done where the result cannot be told from an install of all of them on the base: same tree, and
with a SOURCE_DATE_EPOCH same bytes. So what is there was installed in the order in which it would be now; the
versions are those of an install from the base; and the installer knows that neither the new packages nor
those that are there could tell that they did not come together (`Installer.blocker` before,
`unexpected_changes` after).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from buildstep.cache.layers import LayerCache, LayerRecord
from buildstep.cache.resolutions import KeptResolution
from buildstep.rootfs.interface import Package
from buildstep.spec.load import BuildSpec
from buildstep.tree.diff import Changes
from buildstep.tree.entry import FileList

DEEPEST = 6
"""How many layers may stand on one another before one is made anew from the base."""

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


def nearest(
    cache: LayerCache, inputs: Mapping[str, Any], answer: KeptResolution
) -> tuple[LayerRecord | None, str]:
    """The layer that lacks least: made in the same way, all it has is wanted, in the same versions and
    installed in the same order. Where only the order is another: none, and what is not as it was."""
    wanted, versions = set(inputs["packages"]), inputs["versions"]
    found = [
        record
        for record in cache.records()
        if "packages" in record.inputs  # else it is of a command
        and set(record.inputs["packages"]) < wanted
        and record.inputs.get("versions", {}).items() <= versions.items()
        and all(record.inputs.get(name) == inputs[name] for name in inputs if name not in _OF_THE_SET)
        and len(record.under) + 1 < DEEPEST
    ]
    found.sort(key=lambda record: (len(record.inputs["versions"]), record.created), reverse=True)
    told = ""
    for record in found:
        problem = reordered(record, answer)
        if not problem:
            return record, ""
        told = told or problem
    return None, told


def reordered(record: LayerRecord, answer: KeptResolution) -> str:
    """What of a layer would be installed at another point now; empty if all is as it was. The order can
    show: whoever creates a user first has the lower number."""
    before = list(record.result.get("order", ()))
    if not before:
        return "the order of what is there is not known"
    names = {row.rpartition(" ")[2] for row in before}
    now = [row for row in answer.order if row.rpartition(" ")[2] in names]
    if len(now) != len(before):
        return "what is there would be installed in other steps"
    for old, new in zip(before, now, strict=True):
        if old != new:
            return f"{new.rpartition(' ')[2]} would be installed before {old.rpartition(' ')[2]}"
    return ""


def lacking(record: LayerRecord, answer: KeptResolution) -> dict[str, str]:
    """The packages that a layer lacks, with their versions."""
    there = record.inputs["versions"]
    return {name: version for name, version in answer.versions.items() if name not in there}


def mismatch(record: LayerRecord, answer: KeptResolution, installed: Sequence[Package]) -> str:
    """What is installed that should not be, or not; empty if it is exactly what an install on the base
    would have given."""
    before = {(row["name"], row["arch"]): row["version"] for row in record.result["installed"]["packages"]}
    after = {(row.name, row.arch): row.version for row in installed}
    wanted = {name.partition(":")[0]: version for name, version in answer.versions.items() if version}
    for name, arch in sorted(before.keys() | after.keys()):
        old, new = before.get((name, arch), ""), after.get((name, arch), "")
        if old != new and (old or wanted.get(name) != new):
            return f"{name} {new or 'is gone'}"
    missing = sorted(wanted.keys() - {name for name, _ in after})
    return f"{missing[0]} is not installed" if missing else ""


def added(record: LayerRecord, installed: Sequence[Package]) -> list[Package]:
    """The packages that were not there before."""
    before = {(row["name"], row["arch"]) for row in record.result["installed"]["packages"]}
    return [row for row in installed if (row.name, row.arch) not in before]


def touch_folders(entries: FileList, changes: Changes, base: FileList, now: int) -> None:
    """Give folders that packages made the time at which something was put into them (ns), as they have it
    when all packages come together; a folder of the base keeps the base's."""
    for path in {entry.path.rpartition(b"/")[0] for entry in changes.entries}:
        folder, old = entries[path], base.get(path)
        if folder.mtime < now and (old is None or not old.same_metadata(folder)):
            entries[path] = replace(folder, mtime=now)


def paths(changes: Changes) -> list[str]:
    """Every path of a layer, with a slash before it."""
    found = [*(entry.path for entry in changes.entries), *changes.removed]
    return ["/" + os.fsdecode(path) for path in found]
