"""The contracts of components: what is found in a repository, kinds of images, jobs, and who runs them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from buildstep.errors import BuildstepError, ExitCode, Fault


class GraphError(BuildstepError):
    """A graph of components that cannot be ordered, or a job of it that failed."""

    exit_code = ExitCode.GRAPH


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """What decides how a repository of components is read.

    mode: files of other mode words are left out; "all" leaves out none. arguments: build arguments; they win
    over the defaults of ARG; arguments_of: all of them for certain images, by name. prefixes: what may stand
    before the name of an image of the graph, such as `registry.example/team/`; tags: the tags with which a
    reference still means the image of the graph. environ: for templates. platforms: of all images that
    `platforms_of` does not name, none for the builder's own; platform: what one file is read for; top: the
    repository, which the names of files are relative to.
    """

    mode: str = "k8s"
    arguments: Mapping[str, str] = field(default_factory=dict)
    arguments_of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ("localhost/",)
    tags: tuple[str, ...] = ("latest",)
    environ: Mapping[str, str] = field(default_factory=dict)
    platforms: tuple[str, ...] = ()
    platforms_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    platform: str = ""
    top: Path = Path()


class Reference(NamedTuple):
    """An image that another one is made from. text: as it is written, with arguments put in; how: the
    instruction, such as `FROM` or `COPY --from`; line: in the file, 0 where lines say nothing."""

    text: str
    how: str
    line: int


class OnBuild(NamedTuple):
    """What an image makes those do that are made from it. bases: images that they need for it; copies: paths
    that they copy from their own component."""

    bases: tuple[Reference, ...] = ()
    copies: tuple[Reference, ...] = ()


class Dependency(NamedTuple):
    """A component whose products another one wants.

    provider: a component; paths: what is wanted besides `generated/`, relative to the provider's directory;
    where: `file:line` that says so.
    """

    provider: str
    paths: tuple[str, ...]
    where: str


class Base(NamedTuple):
    """An image that another one is made from, as it is found. image: its id; name: that it has in the
    builder's store, as what is made from it tells that; empty where it does not matter."""

    image: str
    name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image that a component builds.

    name: unique in the graph; of an image for several platforms each is one, NAME@PLATFORM. kind: the row of
    KINDS. file: relative to the component's directory. mode: the mode word in the file's name, empty for
    none. bases: images it is made from, of the graph or not. copies: paths of the component that go into it,
    as they are written; an empty one is all of it. onbuild: what it makes others do. ignore: the file that
    says which files stay out of its context, relative to the component's directory; ignored: these. platform:
    empty for the builder's own; runs: whether programs of that platform are run to build it.
    """

    name: str
    component: str
    kind: str
    file: str
    mode: str = ""
    bases: tuple[Reference, ...] = ()
    copies: tuple[str, ...] = ("",)
    onbuild: OnBuild = OnBuild()  # noqa: RUF009 - it cannot be changed
    ignore: str = ""
    ignored: frozenset[str] = frozenset()
    platform: str = ""
    runs: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """A directory `src/NAME` with a `build` directory in it.

    path: the directory. images: in the order of their names. pre, post: its hooks, relative to `path`, empty
    for none. dependencies: of `component.dep`, and of what its images copy from `dependency/`. files: all
    files and links that belong to it, relative to `path`, sorted; no ignored ones.
    """

    name: str
    path: Path
    images: tuple[Image, ...] = ()
    pre: str = ""
    post: str = ""
    dependencies: tuple[Dependency, ...] = ()
    files: tuple[str, ...] = ()


class ReadImage(NamedTuple):
    """What a kind says of a file: images it needs, paths it copies from its component, with an empty text for
    all of it, what is wrong, what it makes those do that are made from it, and whether it runs programs."""

    bases: tuple[Reference, ...] = ()
    copies: tuple[Reference, ...] = (Reference("", "build", 0),)
    faults: tuple[Fault, ...] = ()
    onbuild: OnBuild = OnBuild()
    runs: bool = False


class Kind(Protocol):
    """A kind of image: which files describe one, and what they need. One object for each kind, no state."""

    name: str

    def stem(self, file: str) -> str | None:
        """Return the file's name without what marks the kind; it may end in `.` and a mode word. None for a
        file that is not of this kind."""
        ...

    def ignore_file(self, file: str, files: Collection[str]) -> str:
        """Return which of a component's files says what stays out of the image's context, empty for none; in
        the words of a `.dockerignore`. file: the one that describes the image."""
        ...

    def platform_faults(self, platforms: Sequence[str], where: str) -> list[Fault]:
        """Return what is wrong with the platforms that an image is to be built for. where: its file."""
        ...

    def read(self, text: str, *, where: str, options: ReadOptions) -> ReadImage:
        """Return what a file's text needs. where: the file, as messages call it. Runs nothing."""
        ...


class Action(StrEnum):
    """What a job does."""

    PRE = "pre"
    IMAGE = "image"
    POST = "post"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One node of the graph: an image, or a hook of a component.

    name: the image's name, or `COMPONENT:pre`, `COMPONENT:post`. image: None for a hook. needs: names of the
    jobs that come before it, sorted.
    """

    name: str
    action: Action
    component: str
    image: Image | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A job that was done. key: the digest of all that went in; output: of what came out; inputs: what `key`
    was made of, by name: it tells why another key differs; seconds: what it took; ended: since the epoch;
    worker: who did it."""

    job: str
    key: str
    output: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    ended: float = 0.0
    worker: str = ""


class History(Protocol):
    """What was built before, as a plan reads it."""

    def find(self, job: str, key: str) -> Built | None:
        """Return the build of a job with this key whose result can still be used, None if there is none."""
        ...

    def last(self, job: str) -> Built | None:
        """Return the last successful build of a job."""
        ...


class State(StrEnum):
    """What became of a job."""

    BUILT = "built"
    REUSED = "reused"
    FAILED = "failed"
    BLOCKED = "blocked"
    """Something that it needs failed."""
    STOPPED = "stopped"
    """It was ended, or not begun, because of another job's failure or a signal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How a job ended. output: the digest of what it made, empty if nothing; why: it ran or was reused;
    message: what went wrong, or who blocked it; log: the file with its output; worker: who ran it; started:
    seconds since the epoch."""

    job: str
    state: State
    output: str = ""
    why: str = ""
    message: str = ""
    log: Path | None = None
    worker: str = ""
    started: float = 0.0
    seconds: float = 0.0


class Executor(Protocol):
    """Where jobs run. The scheduler calls it from one thread, and only with jobs whose needs are done."""

    @property
    def at_once(self) -> int:
        """Jobs that may run at the same time."""
        ...

    def submit(self, job: Job, outputs: Mapping[str, str]) -> Future[Result]:
        """Start a job. outputs: the digests of what its needs made. A job that fails is a Result too; the
        future raises for failures of the executor itself."""
        ...

    def stop(self) -> None:
        """End what still runs, and wait for that; may be called twice."""
        ...
