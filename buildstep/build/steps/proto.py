"""Copy the proto directory into the clone, or overlay it in place."""

from __future__ import annotations

import os

from buildstep.build import clones
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned, proto_text
from buildstep.build.steps import packages
from buildstep.report.record import Step
from buildstep.rootfs import copy_proto, owners, placement
from buildstep.tree.entry import FileList


def plan(facts: PlanFacts) -> Planned:
    """Return what is copied, and what `proto-first` costs."""
    spec, text = facts.spec, proto_text(facts.spec, facts.proto, in_place=facts.in_place)
    if not spec.wants_packages or spec.order == "packages-first":
        return Planned("run", text)
    if facts.layer is not None and facts.layer.record is not None:
        return packages.plan(facts)._replace(key="")
    return Planned("run", f"{text}; packages are installed again whenever the proto directory changes")


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Sets overlay where the files are read in place; installed where no packages step follows."""
    in_place = context.plan.in_place and overlay(context, state)
    result.reason = proto_text(context.spec, context.plan.proto, in_place=in_place)
    if not in_place:
        clones.copy_proto_dir(context, state)
    if not context.spec.wants_packages:
        packages.list_installed(context, state)


def overlay(context: BuildContext, state: BuildState) -> bool:
    """Set the proto directory's entries as they will be in the image, without copying a file.

    Returns False where only rsync can find out what comes of it, or that nothing can.
    """
    spec, root = context.spec, state.root
    placements = placement.find_placements(spec.proto, root)
    copy_proto.report_changed_modes(spec.proto, root, placements, context.bus)
    entries = placement.overlay(context.plan.proto.entries, placements, owners.owner_rule(spec.owner, root))
    if state.root_prefix:
        entries = _below_folder(entries, os.fsencode(state.root_prefix))
    if placement.conflicts(entries, state.below):
        return False
    state.overlay = entries
    return True


def _below_folder(entries: FileList, folder: bytes) -> FileList:
    """Return the same entries in a folder of the tree (a zone image has its root in one)."""
    found: FileList = {}
    for entry in entries.values():
        entry.path = folder + b"/" + entry.path
        if entry.first:
            entry.first = folder + b"/" + entry.first
        entry.text = b""
        found[entry.path] = entry
    return found
