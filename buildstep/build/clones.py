"""The clones of a build: each has its journal line before it exists, and its undo right after."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from functools import partial

from buildstep.build import debug_shell
from buildstep.build.context import BuildContext, BuildState, report_failure
from buildstep.build.finished_tree import Snapshot, read_tree
from buildstep.errors import BuildstepError
from buildstep.events import Cleaned
from buildstep.pool.interface import Kind
from buildstep.pool.journal import keep
from buildstep.rootfs import cleaners, conflicts, copy_proto, modes, owners
from buildstep.rootfs.cleaners.interface import CleanOptions
from buildstep.rootfs.leak_check import CiHost
from buildstep.rootfs.placement import Placement, find_placements
from buildstep.tree.entry import FileList
from buildstep.tree.proto import ProtoDir

KEPT_AT = "the clone is kept: "
"""What the note of a clone that stays begins with; where it is follows, up to a semicolon."""


def make_clone(context: BuildContext, state: BuildState, kind: Kind, ident: str) -> None:
    """Clone an image or a layer, and go on in the clone. Raises DatasetError."""
    name = context.journal.dataset(f"{context.journal.ident}-{state.clones + 1}")
    context.stack.callback(partial(_undo, context, state, name))
    context.stack.push(partial(_shell_on_failure, context, state, name))  # before the clone is dropped
    state.cloned(context.backend.clone(kind, ident, name))
    if kind is Kind.IMAGE:
        state.under = ()
        state.image_layers = ()


def drop_clone(context: BuildContext, state: BuildState) -> None:
    """Destroy the clone. What cannot be removed is left to `heal`: the image is none the worse for it."""
    name = state.dataset.ident
    state.dropped()
    with contextlib.suppress(BuildstepError, OSError):  # `_undo` tries again, and tells
        context.backend.destroy(Kind.BUILD, name)


def _undo(context: BuildContext, state: BuildState, name: str) -> None:
    """Drop a clone at the end. A failure here never hides the error that brought us here."""
    failed = state.clone is not None and state.clone.ident == name
    if failed and (context.spec.keep_on_failure or context.spec.keep_clone):
        keep(context.backend, name)
        text = f"{KEPT_AT}{state.dataset.kept_at}; `buildstep heal --kept` removes it"
        context.bus.note(text, level="warning")
        return
    with report_failure(context.bus, f"dropping the clone {name}"):
        context.backend.destroy(Kind.BUILD, name)
        if failed:
            state.dropped()


def _shell_on_failure(
    context: BuildContext,
    state: BuildState,
    name: str,
    _kind: object,
    error: BaseException | None,
    _trace: object,
) -> None:
    """Offer a shell in the clone of a failed build, if the step has not."""
    if error is not None and state.clone is not None and state.clone.ident == name:
        debug_shell.offer(context, state, error)


# -- what is done in a clone by more than one step ----------------------------------------------------------

_CLEANED_TOPS = (b"var", b"etc", b"tmp", b"root", b"run", b"home", b"dev", b"lib", b"usr", b"srv")
"""Where cleaners look: only paths of the proto directory there need to be told apart."""


def copy_proto_dir(context: BuildContext, state: BuildState, only: Sequence[str] | None = None) -> None:
    """Copy the proto directory into the image's root. only: just these paths of it, with the directories that
    they are in among them."""
    spec = context.spec
    options = copy_proto.CopyOptions(
        rule=owners.owner_rule(spec.owner, state.root),
        modes=modes.mode_rule(spec.modes),
        exclude=spec.exclude,
        privileged=context.backend.privileged,
        timeout=spec.timeouts.command,
        only=only,
    )
    if only is None:
        conflicts.make_way(state.root, state.replaced)
    proto = context.plan.proto
    placements = _placements(state, proto)
    copy_proto.copy(spec.proto, state.root, placements, options, context.bus)
    if proto.stable:
        kept = {path: time for path, time in proto.kept_times() if only is None or os.fsdecode(path) in only}
        places = copy_proto.source_of(placements, kept)
        copy_proto.set_times(state.root, {place: kept[path] for place, path in places.items()})


def _placements(state: BuildState, proto: ProtoDir) -> list[Placement]:
    """Where the proto directory's directories go in the image's root."""
    return find_placements(proto.kind, state.root_list)


def places_of(state: BuildState, proto: ProtoDir) -> dict[bytes, bytes]:
    """Return the paths of the proto directory by their places in the image's root."""
    return copy_proto.source_of(_placements(state, proto), proto.paths)


def clean(context: BuildContext, state: BuildState) -> list[Cleaned]:
    """Run the cleaners; what the proto directory brought stays."""
    kept = frozenset(
        "/" + os.fsdecode(path)
        for path in context.plan.proto.paths
        if path.partition(b"/")[0] in _CLEANED_TOPS
    )
    options = CleanOptions(
        ci_host=CiHost.of(context.environ),
        zone=state.dataset.path if state.root_prefix else None,
        keep=kept,
    )
    return cleaners.clean(context.spec.cleaners(cleaners.DEFAULT), state.root, options, context.bus)


def read_clone(
    context: BuildContext,
    state: BuildState,
    below: FileList,
    *,
    overlay: FileList | None = None,
    copied: ProtoDir | None = None,
) -> Snapshot:
    """Read the clone as it is now. below: the layer under the one being made; copied: the proto directory,
    where its files were copied in."""
    owner = None
    if not context.backend.privileged:
        spec, root = context.spec, state.root
        brought: dict[bytes, bytes] = {}
        if copied is not None:
            brought = copy_proto.source_of(_placements(state, copied), copied.paths)
        rule, mode = owners.owner_rule(spec.owner, root), modes.mode_rule(spec.modes)
        owner = owners.recorded(rule, below, brought, state.owners, mode.of)
    found = read_tree(state.dataset, state.origin, below, bus=context.bus, overlay=overlay, owner=owner)
    if copied is not None:
        _keep_far_times(state, found, copied)
    return found


_YEAR_2038 = 2**31 - 1
"""The first and the last second since 1970 that every file system keeps are this far from it."""


def _is_far(time: int) -> bool:
    return abs(time) // 1_000_000_000 >= _YEAR_2038


def _keep_far_times(state: BuildState, found: Snapshot, copied: ProtoDir) -> None:
    """Give files of the proto directory their own time where the pool's file system cut it off.

    A file system keeps the nearest time that it can, without a word: ext4 knows 1901 to 2446, or to 2038.
    """
    cut = [entry for entry in found.changes.entries if _is_far(entry.mtime)]
    if not cut:
        return
    far = {path: time for path, time in copied.times() if _is_far(time)}
    places = copy_proto.source_of(_placements(state, copied), far)
    for entry in cut:
        true = far.get(places.get(entry.path, b""))
        if true is not None and (true < entry.mtime < 0 or 0 < entry.mtime < true):
            entry.mtime = true
