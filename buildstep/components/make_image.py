"""Images made from a staged component, by the kind of their file: the building side of `KINDS`."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import buildstep
from buildstep.components import kept_layouts
from buildstep.components.builders import Builder, Recipe, Run
from buildstep.components.interface import GraphError, Image
from buildstep.components.references import store_name
from buildstep.components.settings import BuildOptions
from buildstep.components.stage import Stage
from buildstep.errors import DatasetError
from buildstep.formats.oci.layout import open_layout
from buildstep.formats.oci.layout_writer import LayoutWriter
from buildstep.images.attestations.inside import put
from buildstep.images.attestations.local import papers_of
from buildstep.spec.document import PROFILE
from buildstep.system import process
from buildstep.system.registry import Registry, importing
from buildstep.trust import sidecars


@dataclass(frozen=True, kw_only=True, slots=True)
class Making:
    """An image to make. bases: ids of the images of the graph that it needs, and of others that are here, by
    references as its file has them; run: runs a command whose lines belong to the job; layouts: where images
    of our own pipeline are kept (`kept_layouts`)."""

    image: Image
    stage: Stage
    bases: Mapping[str, str]
    options: BuildOptions
    builder: Builder
    run: Run
    environ: Mapping[str, str]
    layouts: Path


Maker = Callable[[Making], str]
"""Makes an image, puts it into the builder's store, and returns its id. Raises BuildstepError."""

MAKERS: Final[Registry[Maker]] = Registry(
    "makers",
    "maker of images",
    {
        "dockerfile": importing("buildstep.components.make_image:from_dockerfile"),
        "image": importing("buildstep.components.make_image:from_manifest"),
    },
)


def make(making: Making) -> str:
    """Make an image by its kind."""
    maker = MAKERS.find(making.image.kind)
    if maker is None:
        raise GraphError(f"{making.image.file}: nothing here makes images of the kind {making.image.kind}")
    return maker(making)


def from_dockerfile(making: Making) -> str:
    """Build a Dockerfile; its context is the staged component."""
    recipe = Recipe(
        name=store_name(making.image.name),
        file=making.stage.folder / making.image.file,
        context=making.stage.folder,
        ignore=_ignore(making),
        bases=making.bases,
        options=making.options,
    )
    return making.builder.build(recipe, making.run)


def _ignore(making: Making) -> Path | None:
    """Return the staged file that says what stays out of the context. Raises GraphError if a hook changed it:
    then the files that decided whether the image is built are not those that it would be built from."""
    stage, file = making.stage, making.image.ignore
    if not file:
        return None
    path = stage.folder / file
    if not path.is_file() or path.read_bytes() != (stage.component.path / file).read_bytes():
        raise GraphError(
            f"a hook of {stage.component.name} changed {file}, which says what goes into {making.image.name}",
            hint="let the hook remove the files instead",
        )
    return path


def from_manifest(making: Making) -> str:
    """Build an m.json by our own pipeline, in a process of its own, and load what it made.

    The proto directory is `proto` of the staged component, where the component's hook makes it. The time of
    the build is the beginning of 1970 for it, so that the same files give the same image.
    """
    with tempfile.TemporaryDirectory(prefix="buildstep-image-") as scratch:
        folder = Path(scratch)
        argv = [
            sys.executable, "-m", "buildstep", "build", "--verbose", "--format", "oci-dir",
            "--manifest", os.fspath(making.stage.folder / making.image.file),
            "--dir", os.fspath(making.stage.folder / "proto"), "--output-dir", os.fspath(folder / "out"),
        ]  # fmt: skip
        if making.image.platform:
            argv += ["--platform", making.image.platform]
        for image in making.bases.values():
            making.builder.save(image, folder / "base", making.run)
            argv += ["--image", f"oci:{folder / 'base'}"]
        if making.image.file.endswith(".j2"):
            argv += [f"-D{name}={value}" for name, value in making.options.arguments.items()]
        making.run(argv, _pipeline_env(making.environ), f"building {making.image.name}")
        made = sorted((folder / "out").glob("*.oci"))
        if len(made) != 1:
            raise GraphError(f"{making.image.file}: the build made {len(made)} OCI images, not one")
        _take_papers(made[0])
        with contextlib.suppress(OSError, DatasetError):  # it is pushed from the builder's store then
            kept_layouts.keep(making.layouts, making.image.name, made[0])
        return making.builder.take(made[0], store_name(making.image.name), making.run)


def _take_papers(layout: Path) -> None:
    """Let a layout have what the files beside it say of its image: it is pushed later, and they are not kept.

    Raises ImageError, PublishError.
    """
    entry = open_layout(layout, layout.name).find("")
    put(LayoutWriter(layout), entry, papers_of(sidecars.stem_of(layout), entry))


def _pipeline_env(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of our own pipeline: it finds this package, and its settings."""
    ours = {
        name: value for name, value in environ.items() if name.startswith("BUILDSTEP_") and name != PROFILE
    }  # the plan knows of no profile
    ours.setdefault("SOURCE_DATE_EPOCH", environ.get("SOURCE_DATE_EPOCH", "0"))
    paths = [os.fspath(Path(buildstep.__file__).parents[1]), environ.get("PYTHONPATH", "")]
    return process.base_env(environ, PYTHONPATH=os.pathsep.join(filter(None, paths)), **ours)
