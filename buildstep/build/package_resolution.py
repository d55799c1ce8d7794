"""What the packages of a build resolve to: as it was last time, or as the repository says now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from buildstep.build import cache_inputs
from buildstep.build.context import BuildContext, BuildState, report_failure
from buildstep.cache import resolutions
from buildstep.cache.resolutions import KeptResolution
from buildstep.errors import BuildstepError, InstallError
from buildstep.events import Bus
from buildstep.rootfs.interface import Resolution, StaleIndex
from buildstep.rootfs.packaging import Packaging
from buildstep.system import space


def question(context: BuildContext, state: BuildState) -> dict[str, Any]:
    """Return all that decides which packages are installed, but for what the repository has."""
    return cache_inputs.question(context.spec, state.image, context.plan.proto, context.environ)


def resolve(
    context: BuildContext,
    state: BuildState,
    packages: Packaging,
    asked: Mapping[str, Any],
    max_age: float | None,
) -> tuple[KeptResolution, bool]:
    """Return what the packages resolve to now, and whether an index from before says so.

    Such an index that does not know what is wanted is refreshed. Where the repository cannot be queried, for
    whatever reason: what they did last time.
    """
    begin = time.time()
    folder, name = context.backend.state, cache_inputs.answer_key(asked)
    known = resolutions.find(folder, name)
    if known and context.cache.find(cache_inputs.package_layer(asked, state.image, known)[0]) is None:
        known = None
    try:
        index, fetched = packages.refresh(
            hurry=known is not None, max_age=context.spec.index_max_age if max_age is None else max_age
        )
    except BuildstepError as error:
        if known is None or space.cause_of(error) is not None:
            raise
        hours = (time.time() - known.asked) / 3600
        context.bus.note(
            f"the repository cannot be queried; its state of {hours:.1f} h ago is used ({error.message})",
            level="warning",
        )
        return known, False
    if known is not None and known.index == index and index:
        context.bus.note("the repository's index is unchanged")
        resolution = replace(known, asked=fetched)
    else:
        answer, index, fetched = ask(context.bus, packages, index, fetched, begin)
        resolution = KeptResolution.of(index, answer, asked=fetched)
        if not index and context.spec.packages:
            context.bus.note(f"{packages.installer.name} has no index here: the layer is known by names only")
    with report_failure(context.bus, "keeping the resolution"):
        resolutions.save(folder, name, resolution)
    return resolution, fetched < begin


def ask(
    bus: Bus, packages: Packaging, index: str, fetched: float, begin: float
) -> tuple[Resolution, str, float]:
    """Resolve the packages; an index of before `begin` that does not know what is wanted is refreshed first.

    Returns the answer with the index's digest and when that was fetched. Raises InstallError.
    """
    try:
        return packages.resolve(), index, fetched
    except StaleIndex as error:
        if fetched >= begin:
            raise
        index, fetched = _refreshed(bus, packages, error)
        return packages.resolve(), index, fetched


def _refreshed(bus: Bus, packages: Packaging, error: StaleIndex) -> tuple[str, float]:
    """Refresh an index of before, which does not know what is wanted; see `Packaging.refresh`."""
    bus.note(f"{error.message}; the repository is queried again")
    try:
        return packages.refresh()
    except InstallError as second:
        if space.cause_of(second) is not None:
            raise
        bus.note(f"the repository's index cannot be refreshed: {second.message}", level="warning")
        raise error from second


def is_as_resolved(context: BuildContext, state: BuildState) -> bool:
    """Return whether what was installed is what the layer's key says. Otherwise the layer is not kept."""
    assert state.resolution is not None
    assert state.installed is not None
    if not state.resolution.exact:
        return True
    installed: dict[str, str] = {}
    for row in state.installed.packages:
        installed |= {row.name: row.version, f"{row.name}:{row.arch}": row.version}
    problem = resolutions.contradiction(state.resolution, installed)
    if problem:
        resolutions.forget(context.backend.state, cache_inputs.answer_key(question(context, state)))
        state.resolution = None
        context.bus.note(f"the layer with the packages is not kept: {problem}", level="warning")
    return not problem
