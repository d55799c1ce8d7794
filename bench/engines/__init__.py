"""ENGINES: what builds, in the order of the table's columns."""

from __future__ import annotations

from bench.engines.buildah import Buildah
from bench.engines.mkosi import Mkosi
from bench.engines.ours import Ours
from bench.engines.script import Script
from bench.model import Engine

ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (Ours(), Buildah("buildah"), Buildah("podman"), Mkosi(), Script())
}
