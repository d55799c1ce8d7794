"""dnf inside an image of an RPM distribution, with its metadata, downloads and logs outside of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from buildstep.errors import BuildstepError, InstallError
from buildstep.rootfs.installers import dnf_transaction
from buildstep.rootfs.installers.common import Cause, checked, failures
from buildstep.rootfs.installers.private_area import private_area, sweep_areas
from buildstep.rootfs.interface import Audit, InstallJob, Package, Resolution, Sandbox
from buildstep.system.root import Root
from buildstep.tree.entry import FileList

_DNF, _RPM = "/usr/bin/dnf", "/usr/bin/rpm"
_OURS = "/run/buildstep-dnf"
"""What dnf writes besides packages is shown to it here, on the sandbox's /run."""
_OWN_CACHE = "/var/cache/dnf"
_ENV = {"LC_ALL": "C.UTF-8"}

NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+:~^-]*(=[A-Za-z0-9_.+:~^-]+)?|/[A-Za-z0-9_.+/-]+"
"""What is asked for: NAME, NAME=VERSION or NAME-VERSION, NAME.ARCH, the path of a file that a package has;
not the URL of a package."""

# Metadata is fetched by `refresh`, and good for the rest of the build. Package files stay until the build's
# directory is removed: they are fetched first and installed after. A package that cannot be had is an error,
# and so is a repository that does not answer, unless its own section allows that.
_SETTINGS = (
    f"cachedir={_OURS}/cache",
    f"logdir={_OURS}/log",
    "metadata_expire=never",
    "*.metadata_expire=never",
    "keepcache=1",
    "strict=1",
    "skip_if_unavailable=0",
    "countme=0",
)
_HURRY = ("retries=1", "timeout=15")

_REFUSED = 1
"""The status of a transaction that `--assumeno` declined, and of every failure."""

_CULPRITS = (
    r"^(?:Error: )?Unable to find a match: (.+)$",
    r"nothing provides .* needed by (\S+?)-[^-\s]+-[^-\s]+ from ",
    r"nothing provides .* needed by (\S+?)-[^-\s]+-[^-\s]+$",
    r"^Error in (?!POST|TRIGGER)\S+ scriptlet in rpm package (\S+)",
    r"^(?:Error: )?Package (\S+)-[^-\s]+-[^-\s]+ is not signed",
    r"^Error unpacking rpm package (\S+?)-[^-\s]+-[^-\s]+$",
)
_FAILED_SCRIPT = "ERROR Error in "
_LOG = "dnf.rpm.log"
_LOG_LIMIT = 16 << 20

_FIELDS = ("%{NAME}", "%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}", "%{ARCH}", "%{SOURCERPM}", "%{LICENSE}")
_KEY = "gpg-pubkey"
"""rpm lists the keys that it trusts as packages of this name."""


class Dnf:
    """An interface.Installer for Fedora, RHEL and what derives from them.

    One object serves one build. Nothing is kept between builds: what dnf writes is in a directory of this
    build. Metadata and package files are fetched before the first script of a package runs, and nothing that
    runs scripts has the network.
    """

    name: ClassVar[str] = "dnf"

    def __init__(self) -> None:
        self._area: Path | None = None
        self._clean = True
        self._fetched = False

    @classmethod
    def detect(cls, root: Root) -> bool:
        return root.is_program(_DNF) and root.is_program(_RPM)

    @contextlib.contextmanager
    def prepare(self, job: InstallJob) -> Iterator[None]:
        """Make a directory of this build for what dnf writes. Raises InstallError for options of apt."""
        asked = {"repositories": job.repositories, "hold": job.hold, "a package file": job.files}
        if unknown := [word for word, value in asked.items() if value]:
            raise InstallError(
                f"dnf does not take {' or '.join(unknown)} from installer_options or packages",
                hint="put a .repo file into the base image's /etc/yum.repos.d, or exclude= into its dnf.conf",
            )
        for path in (_DNF, _RPM):
            if not job.sandbox.root.is_program(path):
                raise InstallError(
                    f"the image has no {path}", hint="take a base image that has it, or another installer"
                )
        sweep_areas(job.cache)
        with private_area(job.cache) as self._area, job.sandbox.share(self._area, _OURS, writable=True):
            self._fetched = False
            yield

    def refresh(self, job: InstallJob, *, hurry: bool = False, max_age: float = 0.0) -> float:
        """Run `dnf makecache`: the metadata of every repository that is enabled in the image."""
        with failures("dnf makecache", (), explain=_unfetched):
            _dnf(job, ["makecache", "--refresh"], settings=_HURRY if hurry else (), network=True)
        return time.time()

    def index(self, job: InstallJob) -> str:
        """Return a digest of every repomd.xml: it has the digests of all other metadata."""
        cache = Root(self._work / "cache")
        found = []
        for name in sorted(os.listdir(cache.path)) if cache.path.is_dir() else ():
            path = f"/{name}/repodata/repomd.xml"
            if cache.is_file(path):
                found.append(f"{name} {hashlib.sha256(cache.read(path)).hexdigest()}\n")
        return hashlib.sha256("".join(found).encode()).hexdigest() if found else ""

    def resolve(self, job: InstallJob, *, upgrade: bool) -> Resolution:
        """Read the table of the transaction that dnf proposes.

        It is exact for an install alone: what an install needs after an upgrade is not in one table.
        """
        with failures("resolving packages", job.packages, *_CULPRITS, explain=_unknown):
            answers = [self._proposed(job, words) for words in self._acts(job, upgrade=upgrade)]
        versions = {name: version for answer in answers for name, version in answer.versions.items()}
        return Resolution(versions=versions, exact=all(it.exact for it in answers) and not upgrade)

    def _proposed(self, job: InstallJob, words: Sequence[str]) -> Resolution:
        argv = ["-C", "--assumeno", *words]
        text = _dnf(job, argv, ok=(0, _REFUSED), yes=False)
        if not dnf_transaction.is_answer(text):
            text = _dnf(job, argv, yes=False)  # the status is that of a failure: this time it is one
        return dnf_transaction.parse(text)

    def _acts(self, job: InstallJob, *, upgrade: bool) -> list[list[str]]:
        names = [name.replace("=", "-") for name in checked(job.packages, NAME, "dnf")]  # as dnf has it
        install = ["install", "--", *names]
        return [*([["upgrade"]] if upgrade else []), *([install] if job.packages else [])]

    def fetch(self, job: InstallJob, versions: Mapping[str, str] | None) -> None:
        """Download the packages with what they need, unless that is done."""
        self._fetch(job, upgrade=False)

    def _fetch(self, job: InstallJob, *, upgrade: bool) -> None:
        if self._fetched:
            return
        if not self._clean:
            raise InstallError(
                "packages cannot be fetched any more: scripts of packages have run in the image",
                hint="build again: package files are fetched before anything is installed",
            )
        with failures("downloading packages", job.packages, *_CULPRITS, explain=_unfetched):
            for words in self._acts(job, upgrade=upgrade):
                _dnf(job, ["--downloadonly", *words], network=True)
        self._fetched = True

    def blocker(self, job: InstallJob, added: Mapping[str, str], base: FileList) -> str:
        """No manual promises which files a package's scripts may touch."""
        return "what the scripts of RPM packages do is not known"

    def unexpected_changes(self, root: Root, added: Sequence[Package], changed: Sequence[str]) -> str:
        return f"{changed[0]} was changed" if changed else ""

    def upgrade(self, job: InstallJob) -> None:
        """Upgrade all packages. What an install after it needs is fetched with the rest."""
        self._fetch(job, upgrade=True)
        with failures("the upgrade", (), *_CULPRITS):
            self._change(job, ["upgrade"])

    def install(self, job: InstallJob, versions: Mapping[str, str] | None = None) -> None:
        self._fetch(job, upgrade=False)
        words = self._acts(job, upgrade=False)[-1]
        with failures("installing packages", job.packages, *_CULPRITS):
            self._change(job, words)

    def _change(self, job: InstallJob, words: Sequence[str]) -> None:
        """Run a dnf that runs scripts of packages, with no network. One that fails after its package was
        unpacked is no error to rpm: it is told as a warning."""
        self._clean = False
        before = len(self._failed_scripts())
        _dnf(job, ["-C", *words], answer=False)
        for row in self._failed_scripts()[before:]:
            job.bus.note(f"dnf: {row}", level="warning")

    def _failed_scripts(self) -> list[str]:
        """Return what the log of rpm's messages has of scripts that failed; scripts can write there too."""
        log, path = Root(self._work / "log"), f"/{_LOG}"
        info = log.lstat(path) if log.path.is_dir() else None
        if info is None or info.st_size > _LOG_LIMIT:
            return []
        with contextlib.suppress(OSError, BuildstepError):
            rows = log.read(path).decode(errors="replace").splitlines()
            return [row.partition(" ERROR ")[2] for row in rows if _FAILED_SCRIPT in row]
        return []

    @property
    def _work(self) -> Path:
        assert self._area is not None, "`prepare` comes first"
        return self._area

    def installed(self, sandbox: Sandbox) -> list[Package]:
        form = "\\t".join(_FIELDS) + "\\n"
        with failures("listing packages", ()):
            text = sandbox.run([_RPM, "-qa", "--qf", form], env=_ENV, what="rpm")
        found = []
        for row in text.splitlines():
            name, version, arch, source, license_name = row.split("\t", 4)
            if name != _KEY:
                origin = source.rsplit("-", 2)[0] if source.endswith(".rpm") else ""
                found.append(
                    Package(name=name, version=version, arch=arch, source=origin, license=license_name)
                )
        return sorted(found, key=lambda package: (package.name, package.arch, package.version))

    def audit(self, job: InstallJob) -> Audit | None:
        """There is none: what dnf knows of advisories is part of a repository's metadata, in few of them."""
        return None

    def clean(self, sandbox: Sandbox) -> None:
        """Empty the cache that the image has of its own: dnf was never shown it. To look costs less than to
        enter the root."""
        folder = sandbox.root.host_path(_OWN_CACHE)
        if sandbox.root.real(_OWN_CACHE) != _OWN_CACHE or folder is None or not folder.is_dir():
            return  # not there, or a link: what it leads to is not ours to empty
        for name in os.listdir(folder):
            sandbox.root.remove(f"{_OWN_CACHE}/{name}")


def _unfetched(output: str) -> Cause | None:
    """Return the cause of a download that failed, where dnf names the repository."""
    for row in output.splitlines():
        if "Failed to download metadata for repo" in row or "Error downloading packages" in row:
            return Cause(
                text=row.removeprefix("Error: ").strip(),
                hint="see whether the baseurl in the image's /etc/yum.repos.d answers",
                retryable=True,
            )
        if "There are no enabled repositories" in row:
            return Cause(
                text="the image has no enabled repository", hint="put a .repo file into its /etc/yum.repos.d"
            )
    return None


def _unknown(output: str) -> Cause | None:
    """Return the cause where metadata that was fetched does not know what is wanted."""
    for row in output.splitlines():
        if "Unable to find a match:" in row:
            return Cause(
                text="no repository of the image has it",
                hint="look at the name, and at the image's /etc/yum.repos.d",
                old_index=True,
            )
    return None


def _dnf(
    job: InstallJob,
    words: Sequence[str],
    *,
    settings: Sequence[str] = (),
    network: bool = False,
    ok: Sequence[int] = (0,),
    answer: bool = True,
    yes: bool = True,
) -> str:
    """Run dnf. settings: more of dnf.conf's."""
    weak = f"install_weak_deps={int(job.recommends)}"
    options = [f"--setopt={setting}" for setting in (*_SETTINGS, weak, *settings)]
    argv = [_DNF, *(["--assumeyes"] if yes else []), *options, *words]
    return job.sandbox.run(argv, network=network, env={**_ENV, **job.env}, ok=ok, answer=answer, what="dnf")
