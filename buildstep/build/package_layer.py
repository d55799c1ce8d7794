"""The layer with the packages: found in the cache, extended from a smaller one, or made on the base."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from buildstep.build import (
    accounts,
    cache_inputs,
    debug_shell,
    extend_layer,
    keep_layer,
    layer_comments,
    package_resolution,
    proto_check,
    secrets,
    shared_layers,
)
from buildstep.build.cached_layer import LayerName, add_blob, go_on, take
from buildstep.build.clones import clean, copy_proto_dir, drop_clone, make_clone, read_clone
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.extend_layer import Change
from buildstep.build.finished_tree import Snapshot
from buildstep.build.keep_layer import NewLayer
from buildstep.build.plan_text import layer_text
from buildstep.build.secrets import Secrets
from buildstep.cache import outputs
from buildstep.cache.layers import LayerRecord
from buildstep.errors import InstallError
from buildstep.events import Bus
from buildstep.pool.interface import Kind
from buildstep.rootfs.interface import Installer, RemovesPackages, StaleIndex
from buildstep.rootfs.packaging import Host, Installed, Packaging, prepare_packaging
from buildstep.system import space
from buildstep.tree.entry import FileList

_LARGEST_DOWNLOAD = 256 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How the layer was obtained. key: of the layer; reason: for the step."""

    key: str
    reason: str


class Found(Outcome):
    """It was in the cache."""


class Extended(Outcome):
    """It was made from a smaller one, by installing what that lacks."""


class Made(Outcome):
    """It was made by installing all packages on the base image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """The attempt came to nothing, and another one may not. no_extend: why no smaller layer will do then;
    max_age: of the repository's index then, in seconds."""

    reason: str
    no_extend: str = ""
    max_age: float | None = None

    def after(self, last: Retry) -> Retry:
        """Return this with what earlier attempts found out: nothing is tried twice, and there is an end."""
        max_age = last.max_age if self.max_age is None else self.max_age
        return replace(self, no_extend=self.no_extend or last.no_extend, max_age=max_age)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The layer that is wanted. inputs: all that decides it, key: the digest of these; missing: why it is not
    in the cache; begin: when this attempt began, on the monotonic clock."""

    key: str
    inputs: Mapping[str, Any]
    missing: str
    begin: float


# -- made now -----------------------------------------------------------------------------------------------


def obtain(context: BuildContext, state: BuildState) -> Outcome:
    """Go on in a clone of the layer, building it if it is missing. The clone is one of the base image now,
    with the proto directory in it where that comes first."""
    last = Retry(reason="")
    while isinstance(outcome := _attempt(context, state, last), Retry):
        last = outcome.after(last)
        if last.reason:
            context.bus.note(last.reason)
        if state.clone is not None:
            drop_clone(context, state)
        make_clone(context, state, Kind.IMAGE, state.image.uuid)
        state.origin = state.below = context.store.entries(state.image)
        accounts.make(context, state)
        if context.spec.order == "proto-first":
            copy_proto_dir(context, state)
    state.making.close()
    return outcome


def _attempt(context: BuildContext, state: BuildState, last: Retry) -> Outcome | Retry:
    """Try once. last: what the attempt before found out."""
    begin = time.monotonic()
    if not context.spec.cache:
        if (settled := shared_layers.settled(context, state)) is not None:
            return _reuse(context, state, settled)
        with _packaging(context, state) as packages:
            packages.refresh()
            state.installed = packages.install(None)
        return _made(context, state, Target(key="", inputs={}, missing="--no-cache", begin=begin))
    question = package_resolution.question(context, state)
    with _packaging(context, state) as packages:
        state.resolution, old_index = package_resolution.resolve(
            context, state, packages, question, last.max_age
        )
        key, inputs = cache_inputs.package_layer(question, state.image, state.resolution)
        record, smaller, missing = context.cache.find(key), None, ""
        if record is None and shared_layers.restore(context, state, key, inputs):
            record = context.cache.find(key)
        if record is None:
            missing, smaller = _missing(context, state, inputs, packages.installer, last.no_extend)
        if record is None:
            try:
                if smaller is not None:
                    if lacking := extend_layer.change_of(smaller, inputs).lacking:
                        packages.fetch(lacking)
                else:
                    exact = state.resolution.exact
                    state.installed = packages.install(state.resolution.versions if exact else None)
            except StaleIndex as error:  # nothing is installed yet
                # One that was fetched for this may still have a time before the build, by the server's clock.
                if not old_index or last.max_age is not None or space.cause_of(error) is not None:
                    raise
                return Retry(reason=f"{error.message}; the repository is queried again", max_age=0.0)
    target = Target(key=key, inputs=inputs, missing=missing, begin=begin)
    if record is not None:
        return _reuse(context, state, record)
    if smaller is not None:
        return _extend(context, state, smaller, target, packages.installer)
    return _made(context, state, target)


def _packaging(
    context: BuildContext, state: BuildState, installer: Installer | None = None
) -> contextlib.AbstractContextManager[Packaging]:
    """Enter the clone to install packages. installer: one that has fetched them elsewhere; what fails then is
    tried in another way, so that nobody looks at it."""
    shown = _secrets(context, state)
    on = Host(
        state=context.backend.state,
        bus=context.bus,
        environ=context.environ,
        download=partial(download, context.environ, context.bus),
        failed=partial(debug_shell.offer, context, state) if installer is None else None,
        secrets=shown.files,
        env=dict(shown.env),
    )
    return prepare_packaging(context.spec, state.root, on, base=state.image.tree_digest, installer=installer)


def _secrets(context: BuildContext, state: BuildState) -> Secrets:
    """Read what the package manager is shown."""
    names = context.spec.installer_options.secrets
    return secrets.read(context.spec, names, state.root, environ=context.environ, bus=context.bus)


def download(environ: Mapping[str, str], bus: Bus, url: str) -> bytes:
    """Fetch a URL, in the build's own process. Raises InstallError."""
    from buildstep.net.http import Http, translated
    from buildstep.net.request import HttpRequest

    with translated(InstallError), Http(environ=environ, bus=bus) as http:
        return http.send(HttpRequest("GET", url, limit=_LARGEST_DOWNLOAD)).body


def _reuse(context: BuildContext, state: BuildState, record: LayerRecord) -> Outcome | Retry:
    """Go on from the layer that the repository's index turned out to mean."""
    drop_clone(context, state)
    layer = take(context, record.key)
    if layer is None:
        return Retry(reason=f"the cached layer {record.key[:12]} was damaged, and is made again")
    go_on(context, state, layer)
    return Found(key=record.key, reason=layer_text(record))


def _missing(
    context: BuildContext, state: BuildState, inputs: Mapping[str, Any], installer: object, no_extend: str
) -> tuple[str, LayerRecord | None]:
    """Return why there is no layer of these inputs, and the one to start from that has almost the same."""
    spec, smaller, resolution = context.spec, None, state.resolution
    assert resolution is not None
    last = outputs.last(context.backend.state, cache_inputs.component(spec))
    missing = context.cache.miss(cache_inputs.slot(spec), inputs, last)
    if not no_extend and extend_layer.may_extend(spec, resolution):
        own = None
        if isinstance(installer, RemovesPackages):
            own = frozenset(package.name for package in state.image.packages)
        smaller, no_extend = extend_layer.nearest(context.cache, inputs, resolution, own)
    return f"{missing}; all packages are installed again: {no_extend}" if no_extend else missing, smaller


def _made(context: BuildContext, state: BuildState, target: Target) -> Made:
    """Keep the tree as it is after an install on the base."""
    accounts.join(context, state)
    clean(context, state)
    base = state.below
    copied = context.plan.proto if context.spec.order == "proto-first" else None
    finished = read_clone(context, state, base, copied=copied)
    secrets.check_left(state, finished.changes.entries, _secrets(context, state), "the package manager")
    keep_layer.set_below(context, state, finished)
    state.packaged = finished.entries
    if state.blobs is not None:
        add_blob(
            state, state.dataset.path, base, LayerName("packages", layer_comments.packages(context.spec))
        )
    if target.key and package_resolution.is_as_resolved(context, state):
        _keep(context, state, finished, target, seconds=time.monotonic() - target.begin)
    return Made(key=target.key, reason=_made_text(state, target.missing))


def _extend(
    context: BuildContext, state: BuildState, smaller: LayerRecord, target: Target, installer: Installer
) -> Outcome | Retry:
    """Remove what a layer has too much and install what it lacks; another attempt where that is not the same
    as an install of all packages on the base (see `extend_layer`). installer: it has fetched them."""
    base = state.below
    drop_clone(context, state)
    layer = take(context, smaller.key)
    if layer is None:
        return Retry(reason="", no_extend="a layer with most of them was damaged")
    record, entries = layer
    make_clone(context, state, Kind.LAYER, record.key)
    state.under = (record.key, *record.under)
    state.origin = entries
    change = extend_layer.change_of(record, target.inputs)
    problem, finished = _changed(context, state, record, change, base, installer)
    if problem or finished is None:
        text = f"not made of the layer {record.key[:12]}: {problem}"
        return Retry(reason=text, no_extend=problem)
    extend_layer.touch_folders(finished.entries, finished.changes, base, time.time_ns())
    keep_layer.set_below(context, state, finished)
    state.packaged = finished.entries
    if state.blobs is not None:
        add_blob(
            state, state.dataset.path, base, LayerName("packages", layer_comments.packages(context.spec))
        )
    state.origin = entries
    seconds = time.monotonic() - target.begin + record.seconds
    _keep(context, state, finished, target, seconds=seconds)
    act = "changed" if change.gone else "extended"
    saved = f"{act} layer {record.key[:12]} (saved {record.seconds:.1f} s)"
    return Extended(key=target.key, reason=f"{_made_text(state, target.missing)}; {saved}")


def _changed(
    context: BuildContext,
    state: BuildState,
    record: LayerRecord,
    change: Change,
    base: FileList,
    installer: Installer,
) -> tuple[str, Snapshot | None]:
    """Change the packages in a clone of the layer. Returns why that will not do, before or after."""
    resolution = state.resolution
    assert resolution is not None
    if state.root_prefix:
        return "the image is a zone's", None
    try:
        with _packaging(context, state, installer) as packages:
            if change.gone:
                order = record.result.get("order", ())
                if problem := packages.remove(sorted(change.gone), base, order):
                    return problem, None
            if change.lacking and (problem := packages.blocker(change.lacking, base)):
                return problem, None
            installed = packages.install(change.lacking) if change.installs else packages.finish()
    except InstallError as error:
        if space.cause_of(error) is not None:  # an install of all packages needs even more
            raise
        return error.message, None
    if problem := extend_layer.mismatch(record, resolution, installed.packages):
        return problem, None
    clean(context, state)
    finished = read_clone(context, state, state.origin)
    secrets.check_left(state, finished.changes.entries, _secrets(context, state), "the package manager")
    new = extend_layer.added(record, installed.packages)
    paths = extend_layer.paths(finished.changes)
    if problem := installer.unexpected_changes(state.root, new, paths):
        return problem, None
    before = Installed.from_json(record.result.get("installed"))
    state.installed = installed.with_files(before.files if before is not None else ())
    return "", finished


def _keep(
    context: BuildContext, state: BuildState, finished: Snapshot, target: Target, *, seconds: float
) -> None:
    """Make the tree as it is now a layer, and go on in a clone of it."""
    if context.spec.order == "proto-first":
        # Its key says what was in the proto directory: that has to be what was copied.
        proto_check.check(context, state)
    new = NewLayer(
        key=target.key,
        slot=cache_inputs.slot(context.spec),
        what="the layer with the packages",
        inputs=target.inputs,
        seconds=seconds,
        result={"order": list(state.resolution.order) if state.resolution is not None else []},
        of_image=True,
    )
    keep_layer.keep(context, state, finished, new)


def _made_text(state: BuildState, missing: str) -> str:
    assert state.installed is not None
    return f"{len(state.installed.packages)} packages in the image; {missing}"
