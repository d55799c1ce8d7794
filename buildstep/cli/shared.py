"""The shared cache of a command: opened, attached to its store of images, and filled at its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from buildstep.errors import UsageError
from buildstep.spec import config as configs
from buildstep.spec import shared_cache
from buildstep.system.workers import pickled, unpickled

if TYPE_CHECKING:
    from buildstep.build.deliver import BuildResult
    from buildstep.cli.session import Session
    from buildstep.spec.config import Config
    from buildstep.spec.fields import BuildSpec
    from buildstep.spec.shared_cache import SharedCache

_OF_FLAGS: Final = {"shared": "shared_cache", "required": "cache_required", "trust": "cache_trust"}
"""What flags say, by the key that says it elsewhere."""


def of_build(spec: BuildSpec, config: Config) -> SharedCache | None:
    """Return the shared cache of a build, None where it has none. Raises SpecError with every fault."""
    flags, variables = (
        {key: getattr(spec, name) for key, name in _OF_FLAGS.items() if spec.origin_of[name] == origin}
        for origin in ("flag", "environment")
    )
    return shared_cache.merged(spec.cache, flags, {**variables, **config.shared}, os.environ, Path.cwd())


def of_command(url: str | None, config: Config) -> SharedCache:
    """Return the shared cache of a command that is about it. url: as a flag names it. Raises UsageError where
    none is named, SpecError with every fault."""
    flags = {"shared": url} if url else {}
    found = shared_cache.merged(True, flags, config.shared, os.environ, Path.cwd())
    if found is None:
        raise UsageError(
            "no shared cache is named",
            hint="name one: --shared-cache URL, BUILDSTEP_SHARED_CACHE, or cache.shared in buildstep.toml",
        )
    return found


_KEPT: Final = ("shared", "scope", "trust", "policy")
"""What counts of a shared cache where nothing is put there."""


def of_record(spec: Mapping[str, Any], url: str | None, config: Config) -> SharedCache | None:
    """Return the shared cache of a rebuild, None where it has none. spec: the settings of the record, which
    count where a flag (url), the configuration and the environment say nothing. Raises SpecError."""
    cache = spec.get("cache")
    recorded = {**cache} if isinstance(cache, Mapping) else {}
    recorded |= {key: value for key, name in _OF_FLAGS.items() if (value := spec.get(name))}
    named = shared_cache.VARIABLES.items()
    variables = {key: os.environ[name] for name, key in named if os.environ.get(name)}
    values = {**recorded, **shared_cache.placed(variables, Path.cwd()), **config.shared}
    known = {key: value for key, value in values.items() if key in _KEPT}
    return shared_cache.merged(True, {"shared": url} if url else {}, known, {}, Path.cwd())


def attach(spec: BuildSpec, session: Session, *, keep: bool = True) -> BuildSpec:
    """Let a session's store of images use the shared cache of a build. Returns the spec, which says what that
    is. keep: see `Shared`. Raises SpecError, UsageError, SigningError and ToolMissing."""
    from buildstep.cache.shared import Shared

    settings = of_build(spec, session.config)
    if settings is not None:
        session.store.shared = Shared(
            settings, session.backend.state, session.environ, session.bus, keep=keep
        )
    return replace(spec, sharing=settings)


_LATER: Final[list[int]] = []
"""A pipe to the process that uploads after the command's end, where there is one."""


def uploading(spec: BuildSpec, enclosed: Callable[[Callable[[], int]], int], job: Callable[[], int]) -> int:
    """Run a job, and leave what it gives to `upload` to a process that outlives this one, if that is wanted.

    It is started before the job: one in a PID namespace takes all its children along, and who has made such a
    namespace can have no other children any more. Raises SpecError for wrong settings.
    """
    settings = of_build(spec, configs.load(os.environ, Path.cwd()))
    if settings is None or settings.upload != "detach":
        return enclosed(job)
    read_end, write_end = os.pipe()
    if not os.fork():
        os.close(write_end)
        _stay(read_end)
    os.close(read_end)
    _LATER[:] = [write_end]
    try:
        return enclosed(job)
    finally:
        _LATER.clear()
        os.close(write_end)


def upload(result: BuildResult, spec: BuildSpec, session: Session) -> None:
    """Put what a build made into the shared cache, or have it done after the command's end."""
    from buildstep.build import shared_put

    if result.uploads is None or spec.sharing is None:
        return
    if not _LATER:
        shared_put.upload(result.uploads, spec.sharing, session.backend.state, session.environ, session.bus)
        return
    job = (result.uploads, spec.sharing, session.backend.state, dict(session.environ))
    with open(_LATER[0], "wb", closefd=False) as stream:
        stream.write(pickled(job))


def _stay(read_end: int) -> None:
    """The whole life of a process that belongs to nobody and says nothing: it uploads what it is given, and
    ends where that is nothing, as when the build failed or was killed."""
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        with open(read_end, "rb") as stream:
            data = stream.read()
        if data:
            from buildstep.build import shared_put

            uploads, settings, state, environ = unpickled(data)
            shared_put.put_all(uploads, settings, state, environ, lambda _row: None)
    finally:
        os._exit(0)
