"""What commands share: a pool opened, a bus with the right view, namespaces."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildstep import pool as pool_module
from buildstep.cache.layers import LayerCache
from buildstep.cache.prune import Limits
from buildstep.cli.guard import enclosed
from buildstep.cli.options import tell
from buildstep.events import Bus, Subscriber
from buildstep.files.places import default_store
from buildstep.images.store import ImageStore
from buildstep.pool import privacy
from buildstep.pool.heal import heal
from buildstep.pool.interface import Backend
from buildstep.report.console import on_stderr, view_for
from buildstep.spec import config as configs
from buildstep.system import space, standard_streams, workers

__all__ = ["Session", "enclosed", "environment", "open_session"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """An opened pool, and what works with it."""

    backend: Backend
    bus: Bus
    store: ImageStore
    cache: LayerCache
    environ: Mapping[str, str]
    config: configs.Config
    limits: Limits


def open_session(
    pool: str | None,
    *,
    verbose: int = 0,
    quiet: bool = False,
    silent: bool = False,
    healing: bool = True,
    sources: Sequence[str] = (),
    store: str | None = None,
) -> Session:
    """Open the pool (a URI, or None for the configured one or else that of `pool.choose`) and heal it.

    A user's other pools, which the rule gave before, are told. quiet: show no events, as for a command that
    lists; silent: tell nothing at all but errors. sources: repositories of images that a flag names, in place
    of the configured ones. store: of contents, that a flag or the m.json names.
    """
    workers.count()  # what is wrong with it is told before anything is touched
    config = configs.load(os.environ, Path.cwd(), pool=pool, sources=sources)
    environ = environment(config, store)
    bus = Bus(_view(environ, verbose=verbose, quiet=quiet))
    if standard_streams.closed(standard_streams.STDERR) and not quiet:
        bus.announce("standard error is closed: what would be shown there is only in the event log")
    choice = pool_module.choose(config.pool, environ, by=config.pool_from)
    for other in choice.older:
        text = f"the pool {other.uri} is not used: it {other.what}; {other.fix}"
        if not quiet:
            bus.note(text)
        elif not silent:
            tell(f"note: {text}")
    backend = pool_module.open_pool(choice.uri)
    space.watch(pool=backend.state, temporary_directory=Path(environ.get("TMPDIR") or "/tmp"))
    if healing:
        if said := privacy.mend(backend):
            bus.note(said, level="warning")
        for left in heal(backend):
            text = f"a build that died ({left.build}) left {left.kind} {left.name}"
            done = "removed" if left.removed else f"not removed: {left.problem}"
            bus.note(f"{text}; {done}", level="info" if left.removed else "warning")
    return Session(
        backend=backend,
        bus=bus,
        store=ImageStore(backend, bus=bus, environ=environ, config=config),
        cache=LayerCache(backend),
        environ=environ,
        config=config,
        limits=Limits.of(backend.state, max_bytes=config.max_bytes, max_inodes=config.max_inodes),
    )


def environment(config: configs.Config, store: str | None) -> dict[str, str]:
    """Return the environment of a command, with what the configuration says in it. store: as a flag or the
    m.json names it."""
    named = store or config.store or default_store(os.environ)
    return {**config.environ(os.environ), "BUILDSTEP_STORE": named}


def _view(environ: Mapping[str, str], *, verbose: int, quiet: bool) -> Subscriber:
    """Return the view for this machine: folds where its CI has them, else timed lines or a live terminal."""
    if not quiet and ("GITHUB_ACTIONS" in environ or "GITLAB_CI" in environ):
        from buildstep.report.ci_log import CIView, detect

        if ci := detect(environ):
            return on_stderr(CIView(ci, sys.stderr))
    return view_for(sys.stderr, verbose=verbose, quiet=quiet)
