"""Components: a repository of images, some made from others, planned, built and pushed as one graph.

Two tables: kinds of images, in the order in which they claim a file, and where jobs can run.
"""

from __future__ import annotations

from buildstep.components.engine import Engine
from buildstep.components.interface import Kind
from buildstep.system.registry import Registry, importing

KINDS: Registry[Kind] = Registry(
    "kinds",
    "kind of image",
    {
        "dockerfile": importing("buildstep.components.kinds.dockerfile:DOCKERFILE"),
        "image": importing("buildstep.components.kinds.image:IMAGE"),
    },
)

EXECUTORS: Registry[Engine] = Registry(
    "executors",
    "executor",
    {
        "local": importing("buildstep.components.executors.local:LOCAL"),
        "jenkins": importing("buildstep.components.executors.jenkins:JENKINS"),
        "dask": importing("buildstep.components.executors.dask:DASK"),
    },
)
