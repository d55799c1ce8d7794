"""The images of `service build`: that of a repository's Dockerfile, of a component, of an m.json, or a base.

What an image is built with is what the components have: a builder with a store of its own (`builders`), and
our own pipeline, each in a process of its own.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import buildstep
from buildstep.build.recipe import Source
from buildstep.build.recipe_sources import lay
from buildstep.components.builders import Builder, Recipe, open_builder
from buildstep.components.interface import Built
from buildstep.components.push import Access, check, push
from buildstep.components.settings import Registry
from buildstep.errors import UsageError
from buildstep.events import Bus
from buildstep.images.sources import SOURCES
from buildstep.net.registry import Reference
from buildstep.services.interface import ServiceError
from buildstep.services.template_build import TemplateBuild
from buildstep.system import process


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is done with the image of a build. build: make it anew from its repository's Dockerfile; push:
    send it to its registry. Neither asks for the other. components: the root of the graph of components."""

    build: bool = False
    push: bool = False
    components: Path = Path()


class Images:
    """Makes the base image of a build. folder: an empty directory; what is made there is used from there."""

    def __init__(self, build: TemplateBuild, folder: Path, environ: Mapping[str, str], bus: Bus) -> None:
        self._build, self._folder, self._environ, self._bus = build, folder, environ, bus
        self._builder: Builder | None = None
        self.done: dict[str, Any] = {}
        """What was built and pushed, for the report."""

    def base(self, wanted: Wanted) -> str:
        """Return the base image, as the pipeline takes one; what is wanted of the image is done first.

        Raises UsageError for what cannot be asked of this template, before anything is done; BuildstepError.
        """
        build = self._build
        if wanted.build and not build.repo:
            raise UsageError(
                f"{build.template}: --build needs a repository with a Dockerfile", hint="build = repo:URL"
            )
        if (wanted.build or wanted.push) and (not build.image or not self._is_named()):
            raise UsageError(
                f"{build.template}: build.image does not name an image of a registry", hint="HOST/NAME:TAG"
            )
        found = (
            self._component(wanted.components)
            if build.component
            else self._manifest()
            if build.manifest
            else ""
        )
        image = self._dockerfile() if wanted.build else ""
        if wanted.push:
            self._push(image)
        if image and build.lists:
            layout = self._folder / "image"
            self._open().save(image, layout, self._run)
            return f"oci:{layout}"
        return found or self._named()

    def _is_named(self) -> bool:
        """Return whether `build.image` is a name of container engines, and not one of our references."""
        scheme = self._build.image.partition(":")[0]
        return scheme == "docker" or (scheme not in SOURCES and "@" not in self._build.image)

    def _named(self) -> str:
        image = self._build.image
        if not image:
            return "scratch"
        return image if not self._is_named() else str(Reference.parse(image))

    def _open(self) -> Builder:
        self._builder = self._builder or open_builder(
            self._environ.get("BUILDSTEP_COMPONENTS_BUILDER", ""), self._environ
        )
        return self._builder

    def _run(self, argv: Sequence[str], env: Mapping[str, str], what: str) -> object:
        self._bus.note(what)
        return process.run(argv, env=env, line=lambda text, *_: self._bus.output(argv[0], text))

    def _dockerfile(self) -> str:
        """Build the Dockerfile of the repository, at what its HEAD is now; return the image's id."""
        build = self._build
        top, work = self._folder / "repo", self._folder / "work"
        top.mkdir()
        work.mkdir()
        laid = lay((Source(git=build.repo, dest="/"),), top, work, self._bus, self._environ)[0]
        file = next((top / name for name in ("Dockerfile", "Containerfile") if (top / name).is_file()), None)
        if file is None:
            raise UsageError(f"{build.repo} has no Dockerfile at its top")
        name = self._local_name()
        image = self._open().build(Recipe(name=name, file=file, context=top), self._run)
        self.done["built"] = {"image": name, "id": image, "repo": build.repo, "commit": laid.commit}
        return image

    def _local_name(self) -> str:
        return self._build.image.removeprefix("docker:").removeprefix("//")

    def _push(self, image: str) -> None:
        """Send the image to its registry: the one that was built now, or the one that the builder has."""
        name = self._local_name()
        image = image or self._open().resolve(name, "")
        if not image:
            raise ServiceError(f"{self._open().name} has no image {name} to push", hint="--build makes it")
        reference = Reference.parse(name)
        registry = Registry(host=reference.host, tags=(reference.tag,))
        access = Access(builder=self._open(), run=self._run, environ=self._environ, bus=self._bus)
        built = Built(job=reference.repository, key="", output=image)
        rows = push({reference.repository: built}, registry, access, self._bus.note)
        check(rows)
        self.done["pushed"] = {
            "image": rows[0].repository,
            "digest": rows[0].digest,
            "tags": list(rows[0].tags),
        }

    # -- by the pipeline and the graph ------------------------------------------------------------------

    def _manifest(self) -> str:
        """Build the m.json of the template, with the `proto` beside it; return the image."""
        assert self._build.manifest is not None
        out = self._folder / "out"
        words = ["build", "--verbose", "--format", "oci-dir", "--manifest", os.fspath(self._build.manifest)]
        proto = self._build.manifest.parent / "proto"
        empty = Path(tempfile.mkdtemp(prefix="proto-", dir=self._folder))
        self._buildstep(
            *words, "--dir", os.fspath(proto if proto.is_dir() else empty), "--output-dir", str(out)
        )
        made = sorted(out.glob("*.oci"))
        if len(made) != 1:
            raise ServiceError(f"{self._build.manifest}: the build made {len(made)} OCI images, not one")
        self.done["manifest"] = os.fspath(self._build.manifest)
        return f"oci:{made[0]}"

    def _component(self, root: Path) -> str:
        """Build the component, with what it is made from; return the image."""
        name = self._build.component
        self._buildstep("components", "build", "--select", name, "--root", os.fspath(root))
        image = self._open().resolve(name, "")
        if not image:
            raise ServiceError(f"{self._open().name} has no image {name}, which the component has built")
        self._open().save(image, self._folder / "component", self._run)
        self.done["component"] = {"name": name, "id": image}
        return f"oci:{self._folder / 'component'}"

    def _buildstep(self, *words: str) -> None:
        ours = {name: value for name, value in self._environ.items() if name.startswith("BUILDSTEP_")}
        paths = [os.fspath(Path(buildstep.__file__).parents[1]), self._environ.get("PYTHONPATH", "")]
        env = process.base_env(self._environ, PYTHONPATH=os.pathsep.join(filter(None, paths)), **ours)
        self._run([sys.executable, "-m", "buildstep", *words], env, f"buildstep {words[0]}")
