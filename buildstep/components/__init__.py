"""Components: a repository of images, some made from others, planned, built and pushed as one graph.

Two tables: kinds of images, in the order in which they claim a file, and where jobs can run.
"""

from __future__ import annotations

from collections.abc import Callable

from buildstep.components.interface import Executor, Kind
from buildstep.system.registry import Registry, importing

ExecutorMaker = Callable[..., Executor]
"""Makes an executor, given what `components.run` hands to all of them."""

KINDS: Registry[Kind] = Registry(
    "kinds",
    "kind of image",
    {
        "dockerfile": importing("buildstep.components.kinds.dockerfile:DOCKERFILE"),
        "image": importing("buildstep.components.kinds.image:IMAGE"),
    },
)

EXECUTORS: Registry[ExecutorMaker] = Registry(
    "executors",
    "executor",
    {
        "local": importing("buildstep.components.executors.local:LocalExecutor"),
    },
)
