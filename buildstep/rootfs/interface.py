"""The contracts of work inside an image's root: sandboxes and installers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from buildstep.errors import InstallError
from buildstep.events import Bus
from buildstep.spec.lock import Lock, LockedPackage
from buildstep.spec.repositories import PackageFile, Repository
from buildstep.system.root import Root
from buildstep.tree.entry import FileList


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
        answer: bool = True,
        what: str = "",
        fds: Sequence[int] = (),
    ) -> str:
        """Run a command in the root and return its standard output. Every line is an event as well.

        answer: False for one that may print a lot, and whose output nobody reads: nothing is returned. An
        answer of more than 16 MiB is a failure. fds: descriptors that it gets, under their numbers.

        Raises CommandFailed. When it returns, no process that the command started is left.
        """
        ...

    def share(self, source: Path, target: str, *, writable: bool = False) -> AbstractContextManager[None]:
        """Show a directory of the CI host at a path inside, for the length of a block.

        writable: only for a directory that belongs to this build alone; what a command writes to it is
        checked before anybody else uses it.
        """
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


class Audit(NamedTuple):
    """What an audit tool said, as its text and as findings."""

    text: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """A package that is not as its repositories have it.

    installed: its version, empty for one that would come with the others; candidate: the version that would
    take its place, empty for one that would go, or where there is none; origin: where that is from, as the
    repository calls itself. security: whether it mends a security problem; None where nobody can tell.
    """

    name: str
    arch: str = ""
    installed: str = ""
    candidate: str = ""
    origin: str = ""
    security: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallJob:
    """What an installer works on.

    sandbox: the root; cache: a directory on the CI host that outlives the build; packages: what to install;
    recommends: whether recommended packages are installed as well; mirror: a URL to fetch from instead, empty
    for none; env: variables for the package manager.

    base: names the root as it is before packages are installed; what was fetched for another is not used.
    fresh: use nothing that an earlier build left in the cache, and leave nothing there; bus: takes notes and
    counted costs; download: fetches a URL on the CI host, outside of the image; None where no step may.

    lock: what is to be installed and nothing else, if that is settled; snapshot: where its package files may
    be as well (see `apt_locked.snapshot_uri`), empty for nowhere. repositories: where packages come from
    besides; files: those of the packages that are files; hold: packages that stay as they are.
    """

    sandbox: Sandbox
    cache: Path
    packages: Sequence[str] = ()
    recommends: bool = False
    mirror: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    base: str = ""
    fresh: bool = False
    bus: Bus = field(default_factory=Bus)
    download: Callable[[str], bytes] | None = None
    lock: Lock | None = None
    snapshot: str = ""
    repositories: Sequence[Repository] = ()
    files: Sequence[PackageFile] = ()
    hold: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """What would be installed, by package: its version, or "" for one that would be removed.

    exact: whether everything that would change is there; else only what was asked for is, if that.
    order: the acts of an install as they would follow one another, each with its package (`Inst make`).
    """

    versions: Mapping[str, str]
    exact: bool
    order: tuple[str, ...] = ()


class StaleIndex(InstallError):
    """Something that the repository's index does not know, or names and does not have: if the index is from
    before, it may be out of date."""


class Installer(Protocol):
    """A package manager inside an image; an object serves one build. Every method may raise InstallError.

    Package scripts are not trusted. Whatever needs the network is done in the root of the base image, before
    the first of them runs; and a command in the image never writes to what another image uses.
    """

    name: ClassVar[str]

    @classmethod
    def detect(cls, root: Root) -> bool:
        """Return whether this package manager is in the root."""
        ...

    def prepare(self, job: InstallJob) -> AbstractContextManager[None]:
        """Set up what the other methods need: show caches, keep services from starting. Undone at the end.

        It may be done twice: in the base image, where packages are fetched, and then in a clone of a layer,
        where `blocker` and `install` use these.
        """
        ...

    def refresh(self, job: InstallJob, *, hurry: bool = False, max_age: float = 0.0) -> float:
        """Fetch the repository's index, and return when it was fetched, in seconds since 1970.

        hurry: an older resolution can be used, so do not wait long for a server; max_age: for how many
        seconds an index that was fetched before is good enough.
        """
        ...

    def index(self, job: InstallJob) -> str:
        """Return a digest of the index as last fetched: while it is equal, no package has another version.

        Empty where there is no index.
        """
        ...

    def resolve(self, job: InstallJob, *, upgrade: bool) -> Resolution:
        """Return what an install (after an upgrade, if `upgrade`) would bring. Changes nothing.

        Raises StaleIndex where the index does not know what is wanted; it can be refreshed then.
        """
        ...

    def fetch(self, job: InstallJob, versions: Mapping[str, str] | None) -> None:
        """Download and check what an install needs. versions: what it would bring, if known; only that is
        fetched, and where all of it was downloaded before, no server is queried. Raises StaleIndex where the
        repository does not have what its index names."""
        ...

    def blocker(self, job: InstallJob, added: Mapping[str, str], base: FileList) -> str:
        """Return why fetched packages (version by name) cannot be installed after those in the root with the
        same result as all of them at once; empty if they can. base: the root before any of them."""
        ...

    def unexpected_changes(self, root: Root, added: Sequence[Package], changed: Sequence[str]) -> str:
        """Return what changed besides the files of the added packages and the package database; empty if
        nothing did. changed: all changed paths, which start with a slash."""
        ...

    def upgrade(self, job: InstallJob) -> None:
        """Upgrade all packages in the root."""
        ...

    def install(self, job: InstallJob, versions: Mapping[str, str] | None = None) -> None:
        """Fetch and install the packages. versions: see `fetch`."""
        ...

    def installed(self, sandbox: Sandbox) -> list[Package]:
        """Return what is installed, sorted by name."""
        ...

    def audit(self, job: InstallJob) -> Audit | None:
        """Run the audit tool; None when the image has no such tool."""
        ...

    def clean(self, sandbox: Sandbox) -> None:
        """Let the package manager remove its own caches from the image."""
        ...


@runtime_checkable
class LocksPackages(Protocol):
    """What an installer may have as well, so that its packages can be locked: it takes what a job's lock has,
    and nothing else."""

    def package_files(self, job: InstallJob, answer: Resolution, *, upgrade: bool) -> list[LockedPackage]:
        """Download what an install (after an upgrade, if `upgrade`) needs, and return the package files."""
        ...

    def updated(self, job: InstallJob, lock: Lock, names: Sequence[str]) -> Lock:
        """Return a lock with other versions of these packages: those that the repository has now, and of
        other packages where these need them. The job has no lock; its index is fetched."""
        ...


@runtime_checkable
class NamesPackageFiles(Protocol):
    """What an installer may have as well, so that a build can say of which files its packages are."""

    def taken(self, job: InstallJob) -> list[LockedPackage]:
        """Return the package files that were fetched for this root, or that its lock has, after an install
        in which they were used. Raises InstallError."""
        ...


@runtime_checkable
class RemovesPackages(Protocol):
    """What an installer may have as well, so that a layer can be made of one that has more packages."""

    def remove(self, job: InstallJob, names: Sequence[str], base: FileList, order: Sequence[str]) -> str:
        """Take packages away; what is installed is as it was, and only `unexpected_changes` knows of them.

        Returns why the root is not what an install without them would have given, empty if it is. base: the
        root before any package; order: the acts of the install that brought all. Raises InstallError.
        """
        ...


@runtime_checkable
class NamesRepositories(Protocol):
    """What an installer may have as well, so that the doctor can ask whether each repository answers."""

    def repositories(self, job: InstallJob) -> list[tuple[str, ...]]:
        """Return of each repository that the root is set to the URLs one of which answers if it is there."""
        ...


@runtime_checkable
class ListsUpdates(Protocol):
    """What an installer may have as well, so that it can be said what is out of date in an image."""

    def updates(self, job: InstallJob) -> list[Update]:
        """Return what would change in the root by the index as last fetched, sorted. Changes nothing.

        Raises InstallError.
        """
        ...
