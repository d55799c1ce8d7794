"""A layer with packages made from a smaller one: only what is new is installed.

What comes of it has the versions that an install from the base would have: the package manager is asked for
those first, and a result that is not exactly that is thrown away. It is used only where it cannot be told
from the other: when the scripts of the new packages changed nothing but their own files. A build with a
SOURCE_DATE_EPOCH never takes this way: it promises the same bytes everywhere, also where no smaller layer is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from buildstep.cache import LayerCache, LayerRecord
from buildstep.interfaces import Package
from buildstep.resolution import Answer
from buildstep.spec import BuildSpec

DEEPEST = 6
"""How many layers may stand on one another before one is made anew from the base."""

_OF_THE_SET = ("packages", "versions")
"""Inputs that may differ: the smaller layer has some of them."""


PROVEN = False
"""Whether layers are grown at all. Not yet: the tree of a grown layer has been seen to differ from the one
of an install from the base, and until that cannot be, the slower way is the right one."""


def may_grow(spec: BuildSpec, answer: Answer) -> bool:
    """Whether a layer of this build may be made from a smaller one at all."""
    return (
        PROVEN
        and spec.source_date_epoch is None
        and spec.order == "packages-first"
        and not spec.upgrade_first
        and not spec.pkg_audit
        and answer.exact
    )


def nearest(cache: LayerCache, inputs: Mapping[str, Any]) -> LayerRecord | None:
    """The layer that lacks least: made in the same way, all it has is wanted, in the same versions."""
    wanted, versions = set(inputs["packages"]), inputs["versions"]
    found = [
        record
        for record in cache.records()
        if set(record.inputs["packages"]) < wanted
        and record.inputs.get("versions", {}).items() <= versions.items()
        and all(record.inputs.get(name) == inputs[name] for name in inputs if name not in _OF_THE_SET)
        and depth(cache, record) < DEEPEST
    ]
    return max(found, key=lambda record: (len(record.inputs["versions"]), record.created), default=None)


def depth(cache: LayerCache, record: LayerRecord) -> int:
    """How many layers this one stands on, with itself."""
    count = 1
    while (below := below_of(cache, record)) is not None and count <= DEEPEST:
        record, count = below, count + 1
    return count


def below_of(cache: LayerCache, record: LayerRecord) -> LayerRecord | None:
    """The smaller layer that one was made from; None for one that was made from the base."""
    key = record.result.get("on")
    return cache.find(str(key)) if key else None


def surprise(record: LayerRecord, answer: Answer, installed: Sequence[Package]) -> str:
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
