"""The finished tree of a build, as the rules for images see it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Container
from pathlib import Path

from buildstep.build import image_config
from buildstep.build.clones import places_of
from buildstep.build.context import BuildContext, BuildState
from buildstep.checks.image_tree import ImageTree
from buildstep.checks.interface import Subject
from buildstep.errors import BuildstepError
from buildstep.files.compare_gate import Growth
from buildstep.system.accounts import TABLES, numbers
from buildstep.tree.entry import Entry, FileList


def subject(context: BuildContext, state: BuildState) -> Subject:
    """Return what the rules look at: what this build adds to the base image, with what is around it."""
    entries, base = state.snapshot.entries, context.store.entries(state.image)
    tree = ImageTree(entries, os.fsencode(state.root_prefix))
    budget = context.spec.checks.get("budget")
    return Subject(
        tree=tree,
        base=base,
        added=added(base, entries),
        own=_own(context, state),
        users=_numbers("user", state, tree),
        groups=_numbers("group", state, tree),
        budget=None if budget is None else Growth.parse(budget).size,
        top=state.dataset.path,
        path=image_config.of(context, state).path,
        host_paths=_host_paths(context),
    )


_WORKSPACES = ("WORKSPACE", "GITHUB_WORKSPACE", "CI_PROJECT_DIR")
"""Variables of Jenkins, GitHub and GitLab that name the directory of a job."""


def _host_paths(context: BuildContext) -> list[str]:
    """Return places of the CI host that a build has to do with."""
    spec = context.spec
    named = [context.environ.get(name, "") for name in _WORKSPACES]
    paths = [spec.proto, spec.output_dir, context.backend.wall, Path.cwd(), *map(Path, filter(None, named))]
    return [os.fspath(path) for path in dict.fromkeys([*paths, *(path.resolve() for path in paths)])]


def added(base: FileList, entries: FileList) -> list[Entry]:
    """Return the entries that are new or differ from the base, times aside."""
    return [entry for path, entry in entries.items() if not _same(base.get(path), entry)]


def _same(old: Entry | None, new: Entry) -> bool:
    if old is new:
        return True
    if old is None or not old.same_metadata(new):
        return False
    return new.kind != "f" or (bool(new.sha256) and old.sha256 == new.sha256)


def _own(context: BuildContext, state: BuildState) -> Callable[[bytes], bool]:
    """Return whether a path of the image is what this build brought itself, and not what packages did."""
    prefix = os.fsencode(state.root_prefix + "/") if state.root_prefix else b""
    packaged, entries = state.packaged, state.snapshot.entries

    @functools.cache
    def placed() -> Container[bytes]:
        return places_of(state, context.plan.proto).keys()

    def own(path: bytes) -> bool:
        full = prefix + path
        return not _same(packaged.get(full), entries[full]) or path in placed()

    return own


def _numbers(what: str, state: BuildState, tree: ImageTree) -> Container[int] | None:
    """Return the numbers in a table of the image; None where it has none."""
    path = os.fsencode(TABLES[what])
    entry = tree.get(path)
    if entry is None or entry.kind != "f":
        return None
    try:
        if entry.source:
            with open(entry.source, "rb") as stream:
                text = stream.read()
        else:
            text = state.root.read("/" + TABLES[what])
    except (OSError, BuildstepError):
        return None
    return frozenset(numbers(text).values())
