"""How the image that a build makes is run: its base's configuration with the m.json's over it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from buildstep import emit
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.manifest import timestamp
from buildstep.emit.interface import EmitJob
from buildstep.emit.oci_config import image_config
from buildstep.formats.oci.config import sound_config
from buildstep.rootfs.run_config import RunConfig
from buildstep.tree.diff import Changes


def of(context: BuildContext, state: BuildState) -> RunConfig:
    """Return how the image is run, in whichever format it is written."""
    spec = context.spec
    job = EmitJob(
        tree={},
        root=Path(),
        changes=Changes((), ()),
        layers=(),
        manifest=spec.manifest,
        config=asdict(spec.oci),
        base_config=sound_config(state.image.config, lambda _name: None),
        compression=None,
        style=emit.style_of(spec),
        created=timestamp(spec, context.recorder),
        stem=context.stem,
        bus=context.bus,
    )
    return RunConfig.of(image_config(job, ())["config"])
