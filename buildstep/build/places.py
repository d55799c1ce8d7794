"""Refuse to write inside what a build reads."""

from __future__ import annotations

from pathlib import Path

from buildstep.errors import Fault, SpecError
from buildstep.spec.load import BuildSpec


def check_places(spec: BuildSpec, pool: Path) -> None:
    """Raise SpecError for an output directory or a pool inside of what the build reads. pool: its state."""
    proto = spec.proto.resolve()
    faults = [
        Fault(where=where, message=f"{path} is inside the proto directory {spec.proto}", hint=hint)
        for where, path, hint in (
            ("--output-dir", spec.output_dir, "the image would hold its own outputs; choose another place"),
            ("--pool", pool, "the image would hold the pool; choose another place"),
        )
        if path.resolve().is_relative_to(proto)
    ]
    if faults:
        raise SpecError("places", faults)
