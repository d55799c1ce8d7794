"""What a build for another platform needs, looked at before anything is touched.

The base has to be for the platform that is asked for. Where programs of the image are run, this machine has
to be able to run them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from buildstep.emit.architecture import machine_of
from buildstep.errors import ImageError
from buildstep.formats.oci.spec import OciPlatform
from buildstep.images.store import ImageRecord, ImageStore
from buildstep.pool.interface import Kind
from buildstep.rootfs import emulation
from buildstep.spec import check_rules
from buildstep.spec.load import BuildSpec
from buildstep.tree.entry import FileList

_RUNNING: Final = {
    "packages": "installing packages runs", "run": "`build.run` runs", "check": "`build.checks` runs",
}  # fmt: skip
"""The steps that run programs of the image."""


def check_programs(spec: BuildSpec, image: ImageRecord | None, running: Sequence[str]) -> None:
    """Raise ToolMissing where a step would run programs that this machine cannot. running: the steps that
    will run, by name."""
    wanted = platform_of(spec, image)
    kinds = [name.partition(":")[0] for name in running]  # each command is a step of its own
    idle = () if check_rules.in_image(spec.checks) else ("check",)  # what is looked at is not run
    steps = [name for name in kinds if name in _RUNNING and name not in idle]
    if wanted is not None and steps:
        emulation.demand(wanted, _RUNNING[steps[0]])


def check_base(spec: BuildSpec, image: ImageRecord, store: ImageStore, entries: FileList) -> None:
    """Raise ImageError for a base of another platform than the one that is asked for. entries: its list."""
    if spec.platform is None:
        return
    wanted = OciPlatform.parse(spec.platform).architecture
    if has := image.config.get("architecture"):
        names: Sequence[str] = (str(has),)
    else:
        with store.backend.tree(Kind.IMAGE, image.uuid) as tree:
            names = machine_of(entries, tree)
    if names and wanted not in names:
        raise ImageError(
            f"the base image {image.label} is for linux/{names[0]}, not for {spec.platform}",
            hint="take a base image for that platform; of a registry, a layout or a suite it is chosen",
        )


def platform_of(spec: BuildSpec, image: ImageRecord | None) -> OciPlatform | None:
    """Return the platform of the programs in an image, where it is known."""
    if spec.platform is not None:
        return OciPlatform.parse(spec.platform)
    config = {} if image is None else image.config
    if not config.get("architecture"):
        return None
    return OciPlatform(
        os=str(config.get("os", "linux")),
        architecture=str(config["architecture"]),
        variant=str(config.get("variant") or ""),
    )
