"""What builds Dockerfiles and holds images: buildah, or a docker client with an engine, behind one protocol.

Images are named by the digest of their configuration, `sha256:...`, which both programs call the image's id.
An image of the graph is handed to those made from it by that id, so that neither a registry nor another run
can put another one in its place.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from buildstep.components import exact_layout
from buildstep.components.builder_words import (
    ID,
    alias_of,
    bare_id,
    iidfile,
    image_id,
    resolve_by,
    room_beside,
    shared_options,
)  # fmt: skip
from buildstep.components.dockerignore import NAME
from buildstep.components.interface import GraphError
from buildstep.components.settings import BuildOptions
from buildstep.errors import BuildstepError, ToolMissing
from buildstep.system import process
from buildstep.system.registry import Registry, importing
from buildstep.system.remove import remove_tree


class Run(Protocol):
    """Runs a command of a job: its lines go where the job's go, and it ends when the job is stopped."""

    def __call__(self, argv: Sequence[str], env: Mapping[str, str], what: str, /) -> object: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A Dockerfile to build. file, context: paths; ignore: the file that says what of the context stays out,
    None for none; bases: ids of the images that it needs, by references as the file has them; all of them
    are in the store."""

    name: str
    file: Path
    context: Path
    ignore: Path | None = None
    bases: Mapping[str, str] = field(default_factory=dict)
    options: BuildOptions = BuildOptions()  # noqa: RUF009 - it cannot be changed


class Builder(Protocol):
    """A program that builds Dockerfiles, and its store of images. Safe to use from several threads."""

    name: str

    def images(self) -> frozenset[str]:
        """Return the ids of all images in the store."""
        ...

    def resolve(self, text: str, platform: str) -> str:
        """Return the id of the image in the store that a reference means, empty where there is none.

        platform: that it has to be of, empty for any; then one that was fetched for it is found as well.
        """
        ...

    def fetch(self, text: str, platform: str, run: Run) -> None:
        """Take the image of a reference from its registry, for a platform if one is named: then the reference
        itself means what it meant before. Raises CommandFailed."""
        ...

    def build(self, recipe: Recipe, run: Run) -> str:
        """Build a Dockerfile and return the image's id; the image has the recipe's name, tagged `latest`.

        Raises CommandFailed, GraphError.
        """
        ...

    def save(self, image: str, layout: Path, run: Run) -> None:
        """Write an image as an OCI layout, a directory that is made. See `exact_layout`."""
        ...

    def take(self, layout: Path, name: str, run: Run) -> str:
        """Take the one image of an OCI layout into the store, under a name; return its id. The layout's
        files may be used up."""
        ...

    def tag(self, image: str, name: str, run: Run) -> None:
        """Give an image in the store one more name, which another image may have had."""
        ...

    def name_of(self, image: str) -> str:
        """Return the first name of an image in the store, empty where it has none."""
        ...


BuilderMaker = Callable[[Mapping[str, str]], Builder]
"""Makes a builder of the environment. Raises ToolMissing where its program is not there or has no engine."""

BUILDERS: Registry[BuilderMaker] = Registry(
    "builders",
    "builder",
    {
        "buildah": importing("buildstep.components.builders:Buildah"),
        "docker": importing("buildstep.components.builders:Docker"),
    },
)


def open_builder(name: str, environ: Mapping[str, str]) -> Builder:
    """Return a builder by its name, or for "" the first one that is there.

    Raises UsageError for a name that is none, ToolMissing.
    """
    from buildstep.errors import UsageError

    if name:
        maker = BUILDERS.find(name)
        if maker is None:
            raise UsageError(f"no builder has the name {name!r}", hint=BUILDERS.hint(name))
        return maker(environ)
    missing = []
    for known in BUILDERS:
        try:
            return BUILDERS[known](environ)
        except ToolMissing as error:
            missing.append(f"{known}: {error.message}")
    raise ToolMissing(
        "nothing is here that builds Dockerfiles",
        detail="\n".join(missing),
        hint="apt-get install buildah; or point DOCKER_HOST to a docker engine",
    )


class Buildah:
    """buildah(1), which needs no daemon. Its RUN steps are in a chroot: they have the host's network.

    BUILDSTEP_BUILDAH_ROOT: where it keeps images, in place of its own place.
    """

    name = "buildah"

    def __init__(self, environ: Mapping[str, str]) -> None:
        process.which("buildah", hint="apt-get install buildah")
        self._env = process.base_env(environ)
        for variable in ("CONTAINERS_CONF", "CONTAINERS_REGISTRIES_CONF", "CONTAINERS_STORAGE_CONF",
                         "STORAGE_DRIVER", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):  # fmt: skip
            if variable in environ:
                self._env[variable] = environ[variable]
        self._words = ["buildah"]
        if root := environ.get("BUILDSTEP_BUILDAH_ROOT"):
            self._words += ["--root", root, "--runroot", os.path.join(root, "run")]
        self._fetching = threading.Lock()

    def images(self) -> frozenset[str]:
        found = process.query(
            [*self._words, "images", "--all", "--quiet", "--no-trunc"], env=self._env, what="buildah"
        )
        return frozenset(image_id(row, "buildah images") for row in found.stdout.split())

    def resolve(self, text: str, platform: str) -> str:
        return resolve_by(self._inspect, text, platform)

    def _inspect(self, text: str) -> str:
        form = "{{.FromImageID}} {{.OCIv1.OS}}/{{.OCIv1.Architecture}}"
        argv = [*self._words, "inspect", "--type", "image", "--format", form, "--", text]
        found = process.query(argv, env=self._env, ok=range(256), what="buildah")
        return "" if found.status else found.stdout

    def fetch(self, text: str, platform: str, run: Run) -> None:
        def pull(*words: str) -> None:
            run([*self._words, "pull", "--quiet", *words, "--", text], self._env, f"fetching {text}")

        def untag() -> None:
            run([*self._words, "rmi", "--", text], self._env, f"untagging {text}")

        with self._fetching if platform else contextlib.nullcontext():
            _fetch(self, text, platform, run, pull=pull, untag=untag)

    def build(self, recipe: Recipe, run: Run) -> str:
        platform = recipe.options.platform
        with iidfile() as iid:
            run(self.command(recipe, iid), self._env, f"building {recipe.name}")
            image = image_id(iid.read_text(), "buildah")
            if platform and not self.resolve(image, platform):
                # Its cache takes a layer of another platform where the layers below are the same, as of bases
                # without programs (1.28).
                run(self.command(recipe, iid, "--no-cache"), self._env, f"building {recipe.name}")
                image = image_id(iid.read_text(), "buildah")
            return image

    def command(self, recipe: Recipe, iid: Path, *more: str) -> list[str]:
        """Return the command line of a build. more: further options."""
        return [
            *self._words, "build", "--isolation", "chroot", "--layers",
            # The same files give the same image, whenever they are built: nobody downstream is built again.
            "--timestamp", "0", "--identity-label=false",
            "--pull-never",
            "--iidfile", os.fspath(iid), *more,
            *shared_options(recipe.options),
            # It would find the one of the context by itself, but not the one of the Dockerfile.
            *(["--ignorefile", os.fspath(recipe.ignore)] if recipe.ignore else []),
            *(word for text, image in recipe.bases.items()
              for word in ("--build-context", f"{text}=container-image://{bare_id(image)}")),
            "--tag", recipe.name, "--file", os.fspath(recipe.file), os.fspath(recipe.context),
        ]  # fmt: skip

    def save(self, image: str, layout: Path, run: Run) -> None:
        with room_beside(layout) as folder:
            argv = [*self._words, "push", "--quiet", bare_id(image), f"dir:{folder / 'dir'}"]
            run(argv, self._env, f"saving {image[:19]}")
            exact_layout.from_directory(folder / "dir", layout)

    def take(self, layout: Path, name: str, run: Run) -> str:
        image = exact_layout.only_image(layout)[1].config.digest
        with room_beside(layout) as folder:
            exact_layout.to_directory(layout, folder / "dir")
            # By `oci:` it would be named after the directory, and images tell the name of their base.
            argv = [*self._words, "pull", "--quiet", f"dir:{folder / 'dir'}"]
            run(argv, self._env, f"taking {image[:19]}")
        self.tag(image, name, run)
        return image

    def tag(self, image: str, name: str, run: Run) -> None:
        run([*self._words, "tag", bare_id(image), name], self._env, f"tagging {name}")

    def name_of(self, image: str) -> str:
        argv = [
            *self._words,
            "inspect",
            "--type",
            "image",
            "--format",
            "{{.FromImage}}",
            "--",
            bare_id(image),
        ]
        found = process.query(argv, env=self._env, ok=range(256), what="buildah")
        name = found.stdout.strip()
        return "" if found.status or ID.fullmatch(name) else name


def _fetch(
    builder: Builder,
    text: str,
    platform: str,
    run: Run,
    *,
    pull: Callable[..., None],
    untag: Callable[[], None],
) -> None:
    """Fetch an image. One of a certain platform gets a name of its own: the reference means what it meant
    before. pull: with further words of the command; untag: takes the reference from the image."""
    if not platform:
        pull()
        return
    before = builder.resolve(text, "")
    pull("--platform", platform)
    builder.tag(text, alias_of(text, platform), run)
    if before:
        builder.tag(before, text, run)
    else:  # it has another name by now: only this one goes
        untag()


class Docker:
    """docker(1) with an engine. A base of the graph is found by its name, which is set right before."""

    name = "docker"

    def __init__(self, environ: Mapping[str, str]) -> None:
        process.which("docker", hint="install a docker client")
        self._env = process.base_env(environ)
        for variable in ("DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_CERT_PATH",
                         "DOCKER_TLS_VERIFY", "DOCKER_BUILDKIT"):  # fmt: skip
            if variable in environ:
                self._env[variable] = environ[variable]
        self._fetching = threading.Lock()
        try:
            process.query(["docker", "version"], env=self._env, timeout=20, what="docker")
        except ToolMissing:
            raise
        except BuildstepError as error:
            raise ToolMissing("docker has no engine", detail=error.detail, hint="set DOCKER_HOST") from error

    def images(self) -> frozenset[str]:
        found = process.query(
            ["docker", "images", "--all", "--quiet", "--no-trunc"], env=self._env, what="docker"
        )
        return frozenset(image_id(row, "docker images") for row in found.stdout.split())

    def resolve(self, text: str, platform: str) -> str:
        return resolve_by(self._inspect, text, platform)

    def _inspect(self, text: str) -> str:
        argv = ["docker", "image", "inspect", "--format", "{{.Id}} {{.Os}}/{{.Architecture}}", "--", text]
        found = process.query(argv, env=self._env, ok=range(256), what="docker")
        return "" if found.status else found.stdout

    def fetch(self, text: str, platform: str, run: Run) -> None:
        def pull(*words: str) -> None:
            run(["docker", "pull", "--quiet", *words, "--", text], self._env, f"fetching {text}")

        def untag() -> None:
            run(["docker", "rmi", "--no-prune", "--", text], self._env, f"untagging {text}")

        with self._fetching if platform else contextlib.nullcontext():
            _fetch(self, text, platform, run, pull=pull, untag=untag)

    def build(self, recipe: Recipe, run: Run) -> str:
        for text, image in recipe.bases.items():
            run(["docker", "tag", image, text], self._env, f"tagging {text}")
        env = self._env
        if recipe.ignore and recipe.ignore.name != NAME:
            # The engine's older builder knows the one of the context only, and would take in all files.
            if env.get("DOCKER_BUILDKIT") == "0":
                hint = f"unset DOCKER_BUILDKIT, or name the file {NAME} beside the component's `build`"
                raise GraphError(f"{recipe.ignore.name} needs BuildKit, and DOCKER_BUILDKIT is 0", hint=hint)
            env = {**env, "DOCKER_BUILDKIT": "1"}
        with iidfile() as iid:
            run(self.command(recipe, iid), env, f"building {recipe.name}")
            return image_id(iid.read_text(), "docker")

    def command(self, recipe: Recipe, iid: Path) -> list[str]:
        """Return the command line of a build. docker does not fetch a base that it has."""
        return [
            "docker", "build", "--iidfile", os.fspath(iid),
            *shared_options(recipe.options),
            "--tag", recipe.name, "--file", os.fspath(recipe.file), os.fspath(recipe.context),
        ]  # fmt: skip

    def save(self, image: str, layout: Path, run: Run) -> None:
        archive = layout.with_suffix(".tar")
        run(["docker", "save", "--output", os.fspath(archive), image], self._env, f"saving {image[:19]}")
        layout.mkdir()
        run(["tar", "-C", os.fspath(layout), "-xf", os.fspath(archive)], self._env, "unpacking an image")
        if not (layout / "oci-layout").exists():
            # Engines before docker 25 write the older form only.
            remove_tree(layout)
            process.which("skopeo", hint="this docker engine writes no OCI images: apt-get install skopeo")
            argv = ["skopeo", "copy", "--quiet", f"docker-archive:{archive}", f"oci:{layout}"]
            run(argv, self._env, f"converting {image[:19]}")
        archive.unlink()

    def take(self, layout: Path, name: str, run: Run) -> str:
        image = exact_layout.only_image(layout)[1].config.digest
        exact_layout.list_for_docker(layout)
        with room_beside(layout) as folder:
            archive = folder / "image.tar"
            run(
                ["tar", "-C", os.fspath(layout), "-cf", os.fspath(archive), "."],
                self._env,
                "packing an image",
            )
            run(
                ["docker", "load", "--quiet", "--input", os.fspath(archive)],
                self._env,
                f"taking {image[:19]}",
            )
        self.tag(image, name, run)
        return image

    def tag(self, image: str, name: str, run: Run) -> None:
        run(["docker", "tag", image, name], self._env, f"tagging {name}")

    def name_of(self, image: str) -> str:
        argv = ["docker", "image", "inspect", "--format", "{{index .RepoTags 0}}", "--", image]
        found = process.query(argv, env=self._env, ok=range(256), what="docker")
        return "" if found.status else found.stdout.strip()


__all__ = ["BUILDERS", "Buildah", "Builder", "Docker", "Recipe", "Run", "open_builder"]
