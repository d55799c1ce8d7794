"""Copy the proto directory into the clone, or overlay it in place."""

from __future__ import annotations

import os
from contextlib import nullcontext

from buildstep.build import clones, proto_conflicts, run_rows
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.build.plan_text import proto_text
from buildstep.build.steps import packages
from buildstep.report.record import Step
from buildstep.rootfs import conflicts, copy_proto, modes, owners, placement
from buildstep.tree.entry import FileList


def plan(facts: PlanFacts) -> Planned:
    """Return what is copied, and what `proto-first` costs."""
    spec = facts.spec
    text = proto_text(spec, facts.proto, in_place=facts.in_place, replaced=facts.replaced)
    if not spec.wants_packages or spec.order == "packages-first":
        return facts.commands.get("sync") or Planned("run", text)
    if facts.layer is not None and facts.layer.record is not None:
        return packages.plan(facts)._replace(key="")
    return Planned("run", f"{text}; packages are installed again whenever the proto directory changes")


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Sets overlay where the files are read in place; installed where no packages step follows."""
    spec, in_place = context.spec, context.plan.in_place
    if run_rows.proto_comes_later(spec):  # they may be in the way as well
        base = "the base image with the packages" if spec.wants_packages else "the image so far"
        state.replaced = proto_conflicts.find(
            spec, context.plan.proto, state.root_list, base=base, tree=lambda: nullcontext(state.root)
        )
    result.reason = proto_text(spec, context.plan.proto, in_place=in_place, replaced=state.replaced)
    proto_conflicts.report(context.bus, state.replaced)
    if in_place:
        overlay(context, state)
    else:
        clones.copy_proto_dir(context, state)
    if not spec.wants_packages:
        packages.list_installed(context, state)


def overlay(context: BuildContext, state: BuildState) -> None:
    """Set the proto directory's entries as they will be in the image, without copying a file."""
    spec, root = context.spec, state.root
    placements = placement.find_placements(context.plan.proto.kind, state.root_list)
    conflicts.make_way(root, state.replaced)
    rule, mode = owners.owner_rule(spec.owner, root), modes.mode_rule(spec.modes)
    copy_proto.report_changed_modes(spec.proto, root, placements, mode, context.bus)
    entries = placement.overlay(context.plan.proto.entries, placements, rule, mode)
    if state.root_prefix:
        entries = _below_folder(entries, os.fsencode(state.root_prefix))
    state.overlay = entries


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
