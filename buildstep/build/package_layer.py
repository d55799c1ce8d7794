"""The layer with the packages: from the cache, or made now and kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from buildstep.build import cache_inputs, extend_layer, steps
from buildstep.build.context import Build, clone_step, sync_step
from buildstep.build.plan import TITLES, layer_text
from buildstep.cache import resolutions
from buildstep.cache.layers import LayerRecord
from buildstep.cache.resolutions import Answer
from buildstep.errors import BuildstepError, InstallError
from buildstep.images.store import ImageRecord
from buildstep.pool.interface import Kind
from buildstep.pool.journal import Journal
from buildstep.rootfs.packaging import Installed, Packaging, choose_installer, prepare_packaging
from buildstep.system.root import Root
from buildstep.tree import proto as tree_proto
from buildstep.tree.entry import FileList, tree_digest
from buildstep.tree.hashing import hash_entries, spread_digests


def package_layer(build: Build, journal: Journal, stack: contextlib.ExitStack, image: ImageRecord) -> None:
    """The layer with the packages (and, proto-first, the proto directory under them), from the cache or
    made now, and a clone on top of it."""
    spec, cache, proto = build.spec, build.cache, build.plan.proto
    if not spec.cache:
        _make_layer(build, journal, stack, image, None)
        return
    if spec.order == "proto-first":
        tree_proto.read_all(proto)
    asked = cache_inputs.question(spec, image, proto, build.environ)
    with cache.making(cache_inputs.answer_key(asked)):
        answer = resolutions.find(build.backend.state, cache_inputs.answer_key(asked))
        if answer is not None and answer.fresh(spec.index_max_age):
            build.answer = answer
            if _reuse_layer(
                build, journal, stack, image, cache_inputs.package_layer(asked, image, answer)[0]
            ):
                return
        _make_layer(build, journal, stack, image, asked)


def _make_layer(
    build: Build,
    journal: Journal,
    stack: contextlib.ExitStack,
    image: ImageRecord,
    asked: Mapping[str, Any] | None,
    *,
    max_age: float | None = None,
    anew: str = "",
) -> None:
    """Install the packages and keep the layer; or, where the repository says that what we have is what
    it would be, use that. asked: what the layer is for; None: it is not to be kept. max_age: of the
    repository's index, if not the spec's; anew: why no smaller layer can be the start."""
    spec, cache = build.spec, build.cache
    begin = time.monotonic()
    clone_step(build, journal, stack, Kind.IMAGE, image.uuid)
    first = build.tree.ident
    if spec.order == "proto-first":
        sync_step(build, image)
    base, key, small, failed, why = build.below, "", None, None, ""
    with build.recorder.step("packages", TITLES["packages"]) as step:
        with _packaging(build, build.root(image)) as packaging:
            if asked is None:
                packaging.refresh()
                why = "--no-cache"
            else:
                build.answer, old = _ask(build, packaging, asked, max_age)
                key, inputs = cache_inputs.package_layer(asked, image, build.answer)
                found = cache.find(key)
                if found is None:
                    why, small = _missing(build, build.answer, inputs, anew)
            if why and small is None:
                try:
                    build.installed = packaging.install(_versions(build))
                except InstallError as error:
                    if asked is None or not old:
                        raise
                    failed = error
        if why and small is None and failed is None:
            steps.clean(build.context, build.root(image), build.tree, build.plan.proto)
            shot = steps.snapshot(build.context, build.tree, build.origin, base, image)
            _hash(build, shot)
            step.key, step.reason = key, _made_text(build, why)
            build.below = shot.entries
            if build.blobs is not None:
                _package_blob(build, image, build.tree.path, base)
            if asked is not None and _as_told(build, asked):
                _keep_layer(build, journal, stack, image, shot, inputs, key, time.monotonic() - begin)
            return
        step.state, step.key = "reuse", key
        step.reason = layer_text(found) if found else ""
    build.backend.destroy(Kind.BUILD, first)
    build.dataset = None
    if failed is not None:
        # What an index of a while ago names may be gone from the repository by now.
        build.bus.note(f"{failed.message}; the repository is asked again")
        build.recorder.steps.pop()
        _make_layer(build, journal, stack, image, asked, max_age=0.0)
    elif small is not None:
        build.recorder.steps.pop()
        if problem := _grow(build, journal, stack, image, small, inputs, key, why, begin, base):
            _make_layer(build, journal, stack, image, asked, anew=problem)
    elif not _reuse_layer(build, journal, stack, image, key, told=True):
        # It was damaged, and is gone now.
        build.recorder.steps.pop()
        _make_layer(build, journal, stack, image, asked)


def _packaging(build: Build, root: Root) -> contextlib.AbstractContextManager[Packaging]:
    state = build.backend.state
    return prepare_packaging(build.spec, root, state=state, bus=build.bus, environ=build.environ)


def _missing(
    build: Build, answer: Answer, inputs: Mapping[str, Any], anew: str
) -> tuple[str, LayerRecord | None]:
    """Why there is no layer of these inputs, and the smaller one to start from. anew: why that cannot be."""
    why, small = build.cache.miss(cache_inputs.slot(build.spec), inputs), None
    if not anew and extend_layer.may_grow(build.spec, answer):
        small, anew = extend_layer.nearest(build.cache, inputs, answer)
    return f"{why}; all of them again: {anew}" if anew else why, small


def _versions(build: Build) -> Mapping[str, str] | None:
    """What an install brings, if that is known."""
    return build.answer.versions if build.answer is not None and build.answer.exact else None


def _made_text(build: Build, why: str) -> str:
    assert build.installed is not None
    return f"{len(build.installed.packages)} packages in the image; {why}"


def _hash(build: Build, shot: steps.Snapshot) -> None:
    build.bus.count("bytes_hashed", hash_entries(build.tree.path, shot.entries.values()))
    spread_digests(shot.entries)


def _grow(
    build: Build,
    journal: Journal,
    stack: contextlib.ExitStack,
    image: ImageRecord,
    small: LayerRecord,
    inputs: Mapping[str, Any],
    key: str,
    why: str,
    begin: float,
    base: FileList,
) -> str:
    """Install what a smaller layer lacks. Where that is not the same as an install from the base, nothing is
    left of it, and why is returned; see `growth`. base: what is in the base image."""
    assert build.answer is not None
    stack.enter_context(build.cache.using(small.key))
    taken = build.cache.take(small.key, lambda text: build.bus.note(text, level="warning"))
    if taken is None:
        return "a layer with most of them was damaged"
    record, entries = taken
    build.clone(journal, stack, Kind.LAYER, record.key)
    clone, root, shot = build.tree.ident, build.root(image), None
    with build.recorder.step("packages", TITLES["packages"]) as step:
        step.key = key
        try:
            installed, problem = _install_lacking(build, root, record, base)
        except InstallError as error:
            problem = error.message
        if not problem:
            assert installed is not None
            steps.clean(build.context, root, build.tree, build.plan.proto)
            shot = steps.snapshot(build.context, build.tree, entries, entries, image)
            installer = choose_installer(build.spec, root, build.bus.note)
            new = extend_layer.added(record, installed.packages)
            problem = installer.unexpected_changes(root, new, extend_layer.names(shot.changes))
        if shot is not None and not problem:
            extend_layer.touch_folders(shot.entries, shot.changes, base, time.time_ns())
            build.installed = installed
            _hash(build, shot)
            build.below = shot.entries
            step.reason = (
                f"{_made_text(build, why)}; on layer {record.key[:12]}: {record.seconds:.1f} s saved"
            )
            if build.blobs is not None:
                _package_blob(build, image, build.tree.path, base)
            build.origin = entries
            seconds = time.monotonic() - begin + record.seconds
            _keep_layer(build, journal, stack, image, shot, inputs, key, seconds, small=record)
            return ""
        step.reason = problem
    build.bus.note(f"not made from the layer {record.key[:12]}: {problem}")
    build.recorder.steps.pop()
    build.backend.destroy(Kind.BUILD, clone)
    build.dataset = None
    return problem


def _install_lacking(
    build: Build, root: Root, record: LayerRecord, base: FileList
) -> tuple[Installed | None, str]:
    """Install in a clone of the layer what it lacks; or tell why not, which may be found out either before
    or after."""
    assert build.answer is not None
    if root.path != build.tree.path:
        return None, "the image is a zone's"
    lacking = extend_layer.lacking(record, build.answer)
    with _packaging(build, root) as packaging:
        packaging.fetch(lacking)
        problem = packaging.blocker(lacking, base)
        if problem:
            return None, problem
        installed = packaging.install(lacking)
    return installed, extend_layer.surprise(record, build.answer, installed.packages)


def _ask(
    build: Build, packaging: Packaging, asked: Mapping[str, Any], max_age: float | None
) -> tuple[Answer, bool]:
    """What the packages resolve to now, and whether an index from before says so. Where the repository
    cannot be reached: what they did last time."""
    begin = time.time()
    state, name = build.backend.state, cache_inputs.answer_key(asked)
    known = resolutions.find(state, name)
    if known and build.cache.find(cache_inputs.package_layer(asked, _base(build), known)[0]) is None:
        known = None
    try:
        index, fetched = packaging.refresh(
            hurry=known is not None, max_age=build.spec.index_max_age if max_age is None else max_age
        )
    except BuildstepError as error:
        if known is None:
            raise
        hours = (time.time() - known.asked) / 3600
        build.bus.note(
            f"the repository cannot be reached; its answer of {hours:.1f} h ago is used ({error.message})",
            level="warning",
        )
        return known, False
    if known is not None and known.index == index and index:
        build.bus.note("the repository's index is what it was")
        answer = replace(known, asked=fetched)
    else:
        answer = Answer.of(index, packaging.resolve(), asked=fetched)
        if not index and build.spec.packages:
            build.bus.note(f"{packaging.installer.name} has no index here: the layer is known by names only")
    resolutions.save(state, name, answer)
    return answer, fetched < begin - 2


def _base(build: Build) -> ImageRecord:
    assert build.image is not None
    return build.image


def _as_told(build: Build, asked: Mapping[str, Any]) -> bool:
    """Whether what was installed is what the layer's key says. Else the layer is not kept."""
    assert build.answer is not None
    assert build.installed is not None
    if not build.answer.exact:
        return True
    installed: dict[str, str] = {}
    for row in build.installed.packages:
        installed |= {row.name: row.version, f"{row.name}:{row.arch}": row.version}
    problem = resolutions.contradiction(build.answer, installed)
    if problem:
        resolutions.forget(build.backend.state, cache_inputs.answer_key(asked))
        build.answer = None
        build.bus.note(f"the layer with the packages is not kept: {problem}", level="warning")
    return not problem


def _keep_layer(
    build: Build,
    journal: Journal,
    stack: contextlib.ExitStack,
    image: ImageRecord,
    shot: steps.Snapshot,
    inputs: Mapping[str, Any],
    key: str,
    seconds: float,
    *,
    small: LayerRecord | None = None,
) -> None:
    """Make the tree as it is now a layer, and go on in a clone of it. small: the layer it was made from."""
    stack.enter_context(build.cache.using(key))
    # One that is there and was not found is of a build that died, or of an earlier boot.
    if not build.cache.make_room(key):
        build.bus.note("the layer with the packages is not kept: an older one of its name is in use")
        return
    build.backend.snapshot(build.tree, Kind.LAYER, key)
    order = list(build.answer.order) if build.answer is not None else []
    held = shot.changes.entries if build.backend.cheap_clone else tuple(shot.entries.values())
    record = LayerRecord(
        key=key,
        slot=cache_inputs.slot(build.spec),
        below=image.tree_digest,
        inputs=inputs,
        tree_digest=tree_digest(shot.entries),
        seconds=seconds,
        created=time.time(),
        size=sum(entry.size for entry in held if not entry.first),
        inodes=len(held),
        result={"installed": build.installed.to_json() if build.installed else None, "order": order},
        under=() if small is None else (small.key, *small.under),
    )
    build.cache.save(record, shot.entries)
    build.bus.count("layers_kept")
    build.origin = shot.entries
    build.clone(journal, stack, Kind.LAYER, key)


def _reuse_layer(
    build: Build,
    journal: Journal,
    stack: contextlib.ExitStack,
    image: ImageRecord,
    key: str,
    *,
    told: bool = False,
) -> bool:
    """Go on from a cached layer, if there is a good one. told: whether the step is recorded already."""
    stack.enter_context(build.cache.using(key))
    taken = build.cache.take(key, lambda text: build.bus.note(text, level="warning"))
    if taken is None:
        return False
    found, entries = taken
    build.installed = Installed.from_json(found.result.get("installed"))
    build.origin = build.below = entries
    if told:
        build.clone(journal, stack, Kind.LAYER, key)
    else:
        clone_step(build, journal, stack, Kind.LAYER, key)
        reason = layer_text(found)
        if build.spec.order == "proto-first":
            build.recorder.skip("sync", reason, state="reuse", key=key)
        build.recorder.skip("packages", reason, state="reuse", key=key)
    if build.blobs is not None:
        _reused_blob(build, image, found)
    return True


def _reused_blob(build: Build, image: ImageRecord, record: LayerRecord) -> None:
    """The compressed layer that leads from the base to this one. Whatever that one was made from, it is one,
    as it is where all packages were installed at once."""
    assert build.blobs is not None
    key = f"packages {image.tree_digest} {record.tree_digest}"
    comment = _comment(record.inputs["packages"])
    stored = build.blobs.stored(key, epoch=build.spec.source_date_epoch, comment=comment)
    if stored is not None:
        build.layers.append(stored)
        return
    entries = build.cache.entries(record)
    changes = steps.difference(build.store.entries(image), entries)
    if changes.entries or changes.removed:
        with build.backend.tree(Kind.LAYER, record.key) as root:
            build.layers.append(
                build.blobs.known(
                    key, root, changes, entries, epoch=build.spec.source_date_epoch, comment=comment
                )
            )


def _comment(packages: Sequence[str]) -> str:
    return f"packages: {', '.join(packages) or 'upgrade'}"


def _package_blob(build: Build, image: ImageRecord, root: Path, base: FileList) -> None:
    assert build.blobs is not None
    changes = steps.difference(base, build.below)
    if not changes.entries and not changes.removed:
        return
    build.layers.append(
        build.blobs.known(
            f"packages {image.tree_digest} {tree_digest(build.below)}",
            root,
            changes,
            build.below,
            epoch=build.spec.source_date_epoch,
            comment=_comment(build.spec.packages),
        )
    )
