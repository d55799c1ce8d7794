"""Do one of the builds that `prove` and `rebuild` compare, in the surroundings that it is to have.

Not for typing: `build.proving.job` starts it as a module, with the file of the job as its only argument.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.errors import BuildstepError
from buildstep.system.workers import unpickled

if TYPE_CHECKING:
    from buildstep.build.proving.job import Job


def main() -> int:
    """Do the job that the command line names; return its exit code."""
    from buildstep.cli import guard
    from buildstep.rootfs import varied
    from buildstep.system import answered

    job: Job = unpickled(Path(sys.argv[1]).read_bytes())
    if job.umask is not None:
        os.umask(job.umask)
    if job.processors:
        os.sched_setaffinity(0, job.processors)
    varied.ENVIRONMENT.update(job.image_env)
    inside: Callable[[], int] = partial(guard.enclosed, partial(_told, job), job.host_name)
    return answered.run(job.changed, inside) if job.changed else inside()


def _told(job: Job) -> int:
    """Build, and write what came of it, or why nothing did."""
    try:
        said = _build(job)
        status = 0
    except BuildstepError as error:
        status = error.code
        parts = {name: getattr(error, name) for name in ("message", "detail", "hint")}
        said = {"error": {"kind": type(error).__name__, **parts}}
    job.result.write_text(json.dumps(said), encoding="utf-8")
    return status


def _build(job: Job) -> dict[str, Any]:
    from buildstep.build import private_words
    from buildstep.build.execute import execute
    from buildstep.build.plan import plan
    from buildstep.build.proving.watch import Watch
    from buildstep.cache.shared import Shared
    from buildstep.cli import session
    from buildstep.report.parse import load
    from buildstep.system.mounts import bind

    gc.disable()  # as `build` does
    with contextlib.ExitStack() as stack:
        spec = job.spec
        if job.proto_at is not None:
            stack.enter_context(bind(spec.proto, job.proto_at))
            spec = replace(spec, proto=job.proto_at)
        opened = session.open_session(job.pool, verbose=1, healing=False)
        private_words.hide(opened.bus, job.hidden)
        if job.shared is not None:
            opened.store.shared = Shared(
                job.shared, opened.backend.state, opened.environ, opened.bus, keep=False
            )
            opened.store.shared.layer = job.layer
        watch = Watch()
        result = execute(
            plan(spec, opened.store, opened.cache, environ=opened.environ),
            store=opened.store,
            cache=opened.cache,
            bus=opened.bus,
            environ=opened.environ,
            after=watch,
        )
        record = load(result.record)
    return {
        "uuid": result.uuid,
        "tree_digest": result.tree_digest,
        "manifest": os.fspath(result.manifest),
        "record": os.fspath(result.record),
        "files": [dict(file) for file in result.files],
        "steps": watch.steps,
        "packages": watch.packages,
        "tools": dict(record.tools),
    }


if __name__ == "__main__":
    sys.exit(main())
