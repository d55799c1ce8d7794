"""What is measured: cases, workloads, and the input an engine builds from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from bench.trees import Tree

Change = Callable[[Tree, int], None]
"""A change to a proto directory; the number is a new one each time, and so is the content it leads to."""


Packages = Literal["", "one more", "bumped", "one less"]
"""How the packages of each run differ from those of the warm state; each run differs in another way."""

Checkout = Literal["", "copy", "git"]
"""Where the proto directory of each run is: the input's own, a new copy at the same place (other inodes and
times), or a work tree that git has just checked out there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One line of the table.

    bar: seconds that ours may take at full size. cold: the engine forgets everything before each run.
    dropped: the page cache is dropped before each run. fresh: the output folder is emptied before each run,
    as a clean workspace does. formats: what ours writes, if not an OCI archive. shared: the base image by a
    name; a shared store has it as an earlier build left it there, with the packages, and the pool is empty.
    program: ours is checked out anew before each run. skip: engine to the reason why it sits this case out.
    long: engines that take too long for the time that is promised. once: enough for anyone.
    """

    name: str
    title: str
    bar: float | None = None
    cold: bool = False
    dropped: bool = False
    change: Change | None = None
    packages: Packages = ""
    checkout: Checkout = ""
    formats: tuple[str, ...] = ()
    shared: str = ""
    program: bool = False
    fresh: bool = False
    once: bool = False
    long: tuple[str, ...] = ()
    skip: Mapping[str, str] = field(default_factory=dict)

    @property
    def warmth(self) -> tuple[object, ...]:
        """What a build before it has to be like: cases that differ here do not warm each other."""
        return (self.packages == "bumped", self.checkout, self.formats, self.shared)


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """What a workload gives every engine; a case has it replaced in parts.

    base: a tar archive of a root, None for an empty one. image: the base by a name, where it must not be
    there before. extras: packages for the cases that add one. place: the proto directory, if it is not the
    tree's own. repository: the URL of one with a package of ours. shared: the URL of a shared
    store; fills: this build is there to fill it. facts: what the record tells about the input.
    """

    name: str
    tree: Tree
    base: Path | None = None
    image: str = ""
    packages: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    place: Path | None = None
    repository: str = ""
    formats: tuple[str, ...] = ()
    shared: str = ""
    fills: bool = False
    program: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def proto(self) -> Path:
        return self.place or self.tree.root


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """An input and its cases, in an order in which each leaves the next a warm state.

    full_size: whether --quick leaves it as it is, so that its bars hold there too. space: bytes of disk
    that are needed. slow: engines that --quick leaves out. prepare: finds or makes the input under a folder.
    """

    name: str
    title: str
    cases: tuple[Case, ...]
    engines: tuple[str, ...]
    prepare: Callable[[Path, bool], Input]
    slow: tuple[str, ...] = ("podman", "mkosi")
    full_size: bool = False
    space: int = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A build as a command; `env` is the whole environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path


class Engine(Protocol):
    """A tool that builds. It keeps all its state in one folder, which the runner removes at the end."""

    name: str
    title: str

    def missing(self) -> str:
        """Why it cannot be used here, with what would help; empty when it can."""

    def versions(self) -> dict[str, str]:
        """The programs that do its work."""

    def forget(self, source: Input, folder: Path) -> None:
        """Cold, but with the base image in its store: what a first build on a prepared agent finds."""

    def lacks(self, case: Case) -> str:
        """What a case needs and this engine does not have, so that it sits it out; empty when it has all."""

    def command(self, source: Input, folder: Path) -> Command:
        """The build."""

    def empty(self, folder: Path) -> None:
        """Remove finished output, and nothing that serves the next build."""

    def told(self, source: Input, folder: Path) -> dict[str, Any]:
        """What the finished build tells: `bytes` written, and for ours `counts` and `steps`."""
