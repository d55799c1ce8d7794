"""The pool, what lies about in it, and the room that is left."""

from __future__ import annotations

import json
import os
import sys

from buildstep import emit, pool
from buildstep.build import forecast as forecasts
from buildstep.build.doctor import attempts
from buildstep.build.doctor.findings import Examination
from buildstep.errors import BuildstepError, ExitCode, SandboxError
from buildstep.pool import heal, journal, privacy
from buildstep.pool.overlay import OverlayBackend
from buildstep.system.locks import try_lock
from buildstep.system.space import Room, existing
from buildstep.system.text import size_text

_SHOWN = 5
"""How many of a kind are told one by one."""


def opened(seen: Examination) -> None:
    """Whether the pool can be used, and what for."""
    if any(
        found.area == "kernel" and found.where == "namespaces"
        for found in seen.findings
        if found.level == "error"
    ):
        return  # a build ends before it opens a pool
    try:
        choice = _chosen(seen)
        seen.pool = choice.uri
        seen.backend = backend = pool.open_pool(seen.pool)
    except BuildstepError as error:
        seen.error("pool", seen.pool or "the default", error)
        return
    where = backend.uri
    folder = existing(backend.state)
    new = "" if backend.state.is_dir() else "; made by the first build"
    if not os.access(folder, os.W_OK | os.X_OK):
        fix = "give its owner, or another pool: --pool or BUILDSTEP_POOL"
        seen.fail("pool", where, f"{folder} cannot be written to", fix, ExitCode.DATASET)
        return
    if isinstance(backend, OverlayBackend) and not _overlay_works(seen, backend, new=bool(new)):
        return
    cheap = "clones cost nothing" if backend.cheap_clone else "every build copies its base image"
    seen.ok("pool", where, f"{choice.why}; {cheap}{new}")
    for other in choice.older:
        seen.warn("pool", other.uri, f"is not used: it {other.what}", other.fix)
    if said := privacy.others_may(backend.wall):
        seen.warn("pool", where, said, "the next build closes it")
    formats = sorted(seen.spec.formats) if seen.spec else []
    lacks = [name for name in formats if emit.sends_dataset([name]) and name != backend.scheme]
    for name in lacks:
        what = f"cannot send the format {name}, which only a {name} pool can"
        seen.fail("pool", where, what, f"--pool {name}:PLACE, or another format", ExitCode.DATASET)


def _chosen(seen: Examination) -> pool.Choice:
    """The pool of every command here, and why. Folders that asking makes are taken away again."""
    if seen.pool is not None:
        return pool.choose(seen.pool, seen.environ, by=seen.config.pool_from)
    location = pool.default_location(seen.environ)
    there = existing(location)

    def ask() -> str:
        return json.dumps(pool.choose(None, seen.environ))

    try:
        try:
            if seen.root and sys.platform.startswith("linux"):
                uri, why, namespace, older = json.loads(attempts.apart(ask))
                return pool.Choice(uri, why, namespace, tuple(pool.Older(*row) for row in older))
            return pool.choose(None, seen.environ)
        finally:
            while location != there and location.is_dir() and not os.listdir(location):
                location.rmdir()
                location = location.parent
    except (SandboxError, OSError) as error:
        said = error.message if isinstance(error, SandboxError) else error.strerror
        seen.warn(
            "pool",
            os.fspath(location),
            f"cannot be made: {said}",
            "name a pool with --pool or BUILDSTEP_POOL",
        )
        return pool.Choice(f"dir:{location / 'dir'}", "no better one can be had")


def _overlay_works(seen: Examination, backend: OverlayBackend, *, new: bool) -> bool:
    """Whether overlays can be mounted, and a new pool's file system takes their upper directories."""
    folder = existing(backend.state)
    try:
        attempts.apart(attempts.overlay)
        if new and (refusal := attempts.apart(lambda: backend.refusal(folder))):
            raise SandboxError(f"overlays do not work on {folder}: {refusal}")
    except SandboxError as error:
        path = backend.path
        seen.fail("pool", backend.uri, error.message, f"--pool dir:{path}, or another disk", ExitCode.DATASET)
        return False
    return True


def leftovers(seen: Examination) -> None:
    """What dead builds left, and package caches that somebody holds."""
    backend = seen.backend
    if backend is None or not backend.state.is_dir():
        return
    left = heal.find_stale(backend)
    for build, kind, name in left[:_SHOWN]:
        what = f"{kind} {name} was left by the dead build {build}"
        seen.warn("leftovers", backend.uri, what, "the next build removes it, or `buildstep heal`")
    if len(left) > _SHOWN:
        more = f"{len(left) - _SHOWN} more things were left by dead builds"
        seen.warn("leftovers", backend.uri, more, "`buildstep heal --dry-run` lists them")
    if kept := sorted(journal.kept(backend)):
        what = f"{len(kept)} clones of failed builds were kept: {', '.join(kept[:_SHOWN])}"
        seen.warn("leftovers", backend.uri, what, "`buildstep heal --kept` removes them")
    if not left and not kept:
        seen.ok("leftovers", backend.uri, "none")
    for path in sorted((backend.state / "packages").glob("*/lock")):
        with try_lock(path, shared=True, create=False) as free:
            busy = not free
        if busy:
            what = "another build's package manager is at work; the next one waits for it"
            seen.warn("leftovers", f"package cache {path.parent.name}", what, "wait for that build to end")


def space(seen: Examination) -> None:
    """Whether the output directory can be written to, and what is free there and in the pool."""
    spec, backend = seen.spec, seen.backend
    if spec is None or backend is None:
        return
    told = seen.forecast = forecasts.forecast(
        spec, backend=backend, image=seen.image, proto=seen.scan, download=seen.download
    )
    folder = existing(spec.output_dir)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        what = f"{folder} cannot be written to"
        seen.fail("output", os.fspath(spec.output_dir), what, "give another with --output-dir", ExitCode.EMIT)
    else:
        seen.ok("output", os.fspath(spec.output_dir), "can be written to")
    for index, (room, need) in enumerate(
        forecasts.together([(backend.state, told.pool), (spec.output_dir, told.output)])
    ):
        area = "pool" if index == 0 else "output"
        where = os.fspath(room.folder)
        free = f"{size_text(room.free)} free, about {size_text(need.likely)} needed"
        fix = "free some space, `buildstep cache prune`, or use another disk (--pool, --output-dir)"
        short = room.inodes is not None and room.inodes < need.inodes
        if room.free < need.least or (short and room.inodes is not None and room.inodes < need.inodes // 2):
            seen.fail(area, where, f"{free}{_inodes(room, need) if short else ''}", fix, ExitCode.DISK)
        elif room.free < need.likely or short:
            seen.warn(area, where, f"{free}{_inodes(room, need) if short else ''}", fix)
        else:
            seen.ok(area, where, free)


def _inodes(room: Room, need: forecasts.Need) -> str:
    return f"; {room.inodes} inodes free, about {need.inodes} needed"
