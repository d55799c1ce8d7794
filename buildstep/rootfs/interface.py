"""The contracts of work inside an image's root: sandboxes and installers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from buildstep.system.root import Root
from buildstep.tree.entry import FileList

# -- sandbox and installers -----------------------------------------------------------------------------


class Sandbox(Protocol):
    """An image's root, entered: commands run inside it, in namespaces of their own."""

    @property
    def root(self) -> Root: ...

    def run(
        self,
        argv: Sequence[str],
        *,
        network: bool = False,
        env: Mapping[str, str] | None = None,
        ok: Sequence[int] = (0,),
        what: str = "",
    ) -> str:
        """Run a command in the root and return its standard output. Every line is an event as well.

        Raises CommandFailed. When it returns, no process that the command started is left.
        """
        ...

    def share(self, source: Path, target: str) -> AbstractContextManager[None]:
        """Show a directory of the CI host, writable, at a path inside, for the length of a block."""
        ...

    def temporary_file(
        self, target: str, content: bytes, *, mode: int = 0o644
    ) -> AbstractContextManager[None]:
        """Put a file at a path inside for the length of a block; what was there comes back."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """An installed package."""

    name: str
    version: str
    arch: str = ""
    source: str = ""
    license: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that an audit found."""

    package: str
    version: str
    problem: str
    url: str = ""
    severity: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallOptions:
    """What an installer is told. cache: a directory on the agent that outlives the build; hurry: there is
    an answer from before, so do not wait long for a server; max_age: for how many seconds an index that was
    fetched is good enough; fetched: all that an install needs was downloaded.
    """

    cache: Path
    recommends: bool = False
    mirror: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    hurry: bool = False
    max_age: float = 0.0
    fetched: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """What would be installed, by package: its version, or "" for one that would be removed.

    exact: whether everything that would change is there; else only what was asked for is, if that.
    order: the acts of an install as they would follow one another, each with its package (`Inst make`).
    """

    versions: Mapping[str, str]
    exact: bool
    order: tuple[str, ...] = ()


class Installer(Protocol):
    """A package manager inside an image. Every method may raise InstallError."""

    name: ClassVar[str]

    @classmethod
    def detect(cls, root: Root) -> bool:
        """Whether this package manager is in the root."""
        ...

    def prepare(self, sandbox: Sandbox, options: InstallOptions) -> AbstractContextManager[None]:
        """What the other methods need around them: caches shown, services kept from starting."""
        ...

    def refresh(self, sandbox: Sandbox, options: InstallOptions) -> float:
        """Fetch the repository's index, if it is not young enough; when it was, in seconds since 1970."""
        ...

    def index(self, sandbox: Sandbox, options: InstallOptions) -> str:
        """A digest of the index as it was last fetched: equal, and nothing has another version.

        Empty where there is none to be had.
        """
        ...

    def resolve(
        self, sandbox: Sandbox, packages: Sequence[str], options: InstallOptions, *, upgrade: bool
    ) -> Resolution:
        """What an install (after an upgrade, if `upgrade`) would bring; changes nothing."""
        ...

    def fetch(
        self,
        sandbox: Sandbox,
        packages: Sequence[str],
        options: InstallOptions,
        versions: Mapping[str, str] | None,
    ) -> None:
        """Download what an install of these packages needs. versions: what it would bring, if known: where
        all of it is there, nothing is asked for."""
        ...

    def blocker(
        self, sandbox: Sandbox, added: Mapping[str, str], base: FileList, options: InstallOptions
    ) -> str:
        """Why packages that were fetched (version by name) cannot be installed after those in the root with
        the same result as all of them at once; empty if they can. base: the root before any of them."""
        ...

    def unexpected_changes(self, root: Root, added: Sequence[Package], changed: Sequence[str]) -> str:
        """What changed besides the files of the added packages and the package manager's own books; empty
        if nothing did. Paths start with a slash."""
        ...

    def upgrade(self, sandbox: Sandbox, options: InstallOptions) -> None: ...

    def install(self, sandbox: Sandbox, packages: Sequence[str], options: InstallOptions) -> None: ...

    def installed(self, sandbox: Sandbox) -> list[Package]:
        """What is installed, sorted by name."""
        ...

    def audit(self, sandbox: Sandbox, options: InstallOptions) -> tuple[str, list[Finding]] | None:
        """The audit tool's text and its findings; None when the image has no such tool."""
        ...

    def clean(self, sandbox: Sandbox) -> None:
        """Let the package manager remove its own caches from the image."""
        ...
