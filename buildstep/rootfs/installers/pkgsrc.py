"""pkgsrc inside an image: pkg_add, pkg_info, pkg_admin and pkgin, below /opt/local or /usr/pkg."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar

from buildstep.errors import BuildstepError, CommandFailed, InstallError
from buildstep.rootfs.installers.common import checked, failures
from buildstep.rootfs.installers.package_database import PKGSRC as DATABASES
from buildstep.rootfs.installers.pkgsrc_refusals import CULPRITS, advice, unfetched, upgrade_failed
from buildstep.rootfs.installers.pkgsrc_versions import newer
from buildstep.rootfs.installers.private_area import private_area, sweep_areas
from buildstep.rootfs.interface import Audit, Finding, InstallJob, Package, Resolution, Sandbox, Update
from buildstep.system.mount_table import mount_points
from buildstep.system.process import SAFE_PATH
from buildstep.system.remove import remove_tree
from buildstep.system.root import Root
from buildstep.tree.entry import FileList

PREFIXES = ("/opt/local", "/usr/pkg")
"""SmartOS and illumos; NetBSD and the others."""

_PKGIN = "/var/db/pkgin"
_PKGIN_CACHE = f"{_PKGIN}/cache"
_PKGIN_LOG = f"{_PKGIN}/pkg_install-err.log"
_LOG_TAIL = 64 * 1024

# A package name, or name-version, a pattern (foo>=1, foo-[0-9]*), or the path or URL of a package.
_NAME = r"[A-Za-z0-9_/][A-Za-z0-9_.,:/+\[\]{}*<>=~@%-]*"

_FINDING = re.compile(
    r"Package (?P<package>\S+)-(?P<version>[^-\s]+) has (?:reached (?=end-of-life)|an? )?"
    r"(?P<problem>end-of-life|.*?)(?: vulnerability| \(eol\)), see (?P<url>\S+)"
)

_FINDINGS = 1
"""The status by which `pkg_admin audit` says that it found something; it is no failure."""


class Pkgsrc:
    """An interface.Installer for pkgsrc. Only what the tools' manuals promise is relied upon."""

    name: ClassVar[str] = "pkgsrc"

    @classmethod
    def detect(cls, root: Root) -> bool:
        return _prefix(root) is not None

    @contextlib.contextmanager
    def prepare(self, job: InstallJob) -> Iterator[None]:
        """Show pkgin a directory of this build's for its downloads. They are not kept: a repository's summary
        has no digests by which they could be checked, and scripts run while pkgin writes there."""
        if not _pkgin(job.sandbox):
            yield
            return
        sweep_areas(job.cache)
        remove_tree(job.cache / "pkgin")  # downloads that were kept once
        with private_area(job.cache) as cache, job.sandbox.share(cache, _PKGIN_CACHE, writable=True):
            yield

    def refresh(self, job: InstallJob, *, hurry: bool = False, max_age: float = 0.0) -> float:
        """Run `pkgin update`. A root with pkg_add alone has no index to refresh."""
        if pkgin := _pkgin(job.sandbox):
            explain = partial(unfetched, prefix=_needed_prefix(job.sandbox))
            with failures("pkgin update", (), explain=explain):
                _run(job, [pkgin, "update"], network=True)
        return time.time()

    def index(self, job: InstallJob) -> str:
        """Return the digest of what `pkgin avail` lists; without pkgin there is no index to look at."""
        text = _available(job)
        return hashlib.sha256(text.encode()).hexdigest() if text else ""

    def repositories(self, job: InstallJob) -> list[tuple[str, ...]]:
        """The lines of pkgin's repositories.conf (pkgin(1)), and the names that a summary may have."""
        pkgin = _pkgin(job.sandbox)
        if not pkgin:
            return []
        path = f"{_needed_prefix(job.sandbox)}/etc/pkgin/repositories.conf"
        try:
            text = job.sandbox.root.read(path).decode(errors="replace")
        except (OSError, BuildstepError):
            return []
        places = [line.strip().rstrip("/") for line in text.splitlines() if not line.strip().startswith("#")]
        return [
            tuple(f"{place}/pkg_summary.{end}" for end in ("xz", "gz", "bz2")) for place in places if place
        ]

    def resolve(self, job: InstallJob, *, upgrade: bool) -> Resolution:
        """Return the versions of what was asked for; no manual promises a way to learn what these need."""
        found: dict[str, str] = {}
        for row in _available(job).splitlines():
            full = row.partition(" ")[0]
            name, _, version = full.rpartition("-")
            if full in job.packages or (name in job.packages and newer(version, found.get(name, ""))):
                found[name] = version
        return Resolution(versions=found, exact=False)

    def updates(self, job: InstallJob) -> list[Update]:
        """Compare what is installed with what `pkgin avail` lists, and with what the audit says, if it can.

        A package that the audit names is listed also where nothing newer is there.
        """
        best: dict[str, str] = {}
        for row in _available(job).splitlines():
            name, _, version = row.partition(" ")[0].rpartition("-")
            if newer(version, best.get(name, "")):
                best[name] = version
        audit = self.audit(job)
        wrong = None if audit is None else {(row.package, row.version) for row in audit.findings}
        found = []
        for package in self.installed(job.sandbox):
            candidate = best.get(package.name, "")
            candidate = candidate if newer(candidate, package.version) else ""
            security = None if wrong is None else (package.name, package.version) in wrong
            if candidate or security:
                found.append(
                    Update(
                        name=package.name, installed=package.version, candidate=candidate, security=security,
                        origin="pkgsrc" if candidate else "",
                    )
                )  # fmt: skip
        return found

    def blocker(self, job: InstallJob, added: Mapping[str, str], base: FileList) -> str:
        """No manual promises which files a package's scripts may touch."""
        return "what pkgsrc's scripts do is not known"

    def unexpected_changes(self, root: Root, added: Sequence[Package], changed: Sequence[str]) -> str:
        return f"{changed[0]} was changed" if changed else ""

    def fetch(self, job: InstallJob, versions: Mapping[str, str] | None) -> None:
        """Do nothing: pkg_add downloads while it installs."""

    def upgrade(self, job: InstallJob) -> None:
        pkgin = _pkgin(job.sandbox)
        if not pkgin:
            raise InstallError(
                f"the image has no {_needed_prefix(job.sandbox)}/bin/pkgin, which an upgrade needs",
                hint="take a base image that has pkgin, or leave out --upgrade-first",
            )
        argv, root = [pkgin, "-y", "full-upgrade"], job.sandbox.root
        before = _log_size(root)
        with failures("the upgrade", (), *CULPRITS, hint=_advice(job)):
            try:
                _run(job, argv, network=True, answer=False)
            except CommandFailed as error:
                error.detail = "\n".join(filter(None, (error.detail, _logged(root, before))))
                raise
            # What pkg_add says goes to pkgin's log, and not every pkgin's status tells that it failed.
            if upgrade_failed(log := _logged(root, before)):
                unseen = CommandFailed(argv, 0, detail=log)
                unseen.message = f"pkgin went on after errors of pkg_add ({_PKGIN_LOG} in the image)"
                raise unseen

    def install(self, job: InstallJob, versions: Mapping[str, str] | None = None) -> None:
        names = checked(job.packages, _NAME, "pkg_add")
        with failures("installing packages", names, *CULPRITS, hint=_advice(job)):
            argv = [f"{_needed_prefix(job.sandbox)}/sbin/pkg_add", "-U", *names]
            _run(job, argv, network=True, answer=False)

    def installed(self, sandbox: Sandbox) -> list[Package]:
        prefix = _needed_prefix(sandbox)
        argv = [_tool(prefix, sandbox.root, "pkg_info"), "-a"]
        with failures("listing packages", ()):
            text = sandbox.run(argv, env={"PATH": _path(prefix)}, what="pkg_info")
        found = []
        for row in text.splitlines():
            if words := row.split():
                name, dash, version = words[0].rpartition("-")
                found.append(
                    Package(name=name, version=version) if dash else Package(name=version, version="")
                )
        return sorted(found, key=lambda package: (package.name, package.version))

    def audit(self, job: InstallJob) -> Audit | None:
        tool = _tool(_needed_prefix(job.sandbox), job.sandbox.root, "pkg_admin")
        if not job.sandbox.root.is_program(tool):
            return None
        explain = partial(unfetched, prefix=_needed_prefix(job.sandbox))
        with failures("fetching the list of vulnerabilities", (), explain=explain):
            _run(job, [tool, "fetch-pkg-vulnerabilities"], network=True)
        with failures("the audit", ()):
            text = _run(job, [tool, "audit"], ok=(0, _FINDINGS))
        matches = filter(None, map(_FINDING.match, text.splitlines()))
        return Audit(text, tuple(Finding(**match.groupdict()) for match in matches))

    def clean(self, sandbox: Sandbox) -> None:
        """Remove pkgin's data and the vulnerability list; no package's name is part of it (D6).

        That list is in the package database, or where pkg_install.conf says.
        """
        root = sandbox.root
        for folder in (*DATABASES, *_set_folders(root)):
            root.remove(f"{folder}/pkg-vulnerabilities")
        data = root.host_path(_PKGIN)
        if root.real(_PKGIN) != _PKGIN or data is None or not data.is_dir():
            return  # not there, or a link: what it leads to is not ours to empty
        # While `prepare` is in force the directory of downloads is there. The kernel's table is asked: a
        # directory of the host bound from the same file system is not told apart by its device.
        shown = mount_points(data)
        for name in os.listdir(data):
            if os.path.realpath(data / name) not in shown:
                root.remove(f"{_PKGIN}/{name}")


def _prefix(root: Root) -> str | None:
    return next((prefix for prefix in PREFIXES if root.is_program(f"{prefix}/sbin/pkg_add")), None)


def _needed_prefix(sandbox: Sandbox) -> str:
    prefix = _prefix(sandbox.root)
    if prefix is None:
        raise InstallError(
            f"the image has no pkg_add below {' or '.join(PREFIXES)}",
            hint="take a base image that has pkgsrc, or name another installer",
        )
    return prefix


def _set_folders(root: Root) -> list[str]:
    """Return where pkg_install.conf(5) puts the package database and the vulnerability list, if it says."""
    conf = f"{_prefix(root)}/etc/pkg_install.conf"
    if not root.exists(conf):
        return []
    text = root.read(conf).decode(errors="replace")
    return re.findall(r"^(?:PKG_DBDIR|PKGVULNDIR)=(/\S+)$", text, re.MULTILINE)


def _log_size(root: Root) -> int:
    found = root.lstat(_PKGIN_LOG)
    return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else 0


def _logged(root: Root, begin: int) -> str:
    """Return what was added to pkgin's log since it had `begin` bytes, of that no more than the end."""
    size = _log_size(root)
    if size <= begin:
        return ""
    with os.fdopen(root.open(_PKGIN_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as stream:
        stream.seek(max(begin, size - _LOG_TAIL))
        return stream.read(_LOG_TAIL).decode(errors="replace")


def _advice(job: InstallJob) -> Callable[[str], str]:
    """Return what makes a hint from pkg_add's output."""
    return partial(advice, prefix=_needed_prefix(job.sandbox))


def _pkgin(sandbox: Sandbox) -> str:
    """Return the path of pkgin, empty if the image has none."""
    path = f"{_needed_prefix(sandbox)}/bin/pkgin"
    return path if sandbox.root.is_program(path) else ""


def _available(job: InstallJob) -> str:
    pkgin = _pkgin(job.sandbox)
    if not pkgin:
        return ""
    with failures("pkgin avail", ()):
        return _run(job, [pkgin, "avail"])


def _tool(prefix: str, root: Root, name: str) -> str:
    """Return the path of pkg_info or pkg_admin: they are in sbin, on some systems in bin."""
    places = [f"{prefix}/{folder}/{name}" for folder in ("sbin", "bin")]
    return next((path for path in places if root.is_program(path)), places[0])


def _path(prefix: str) -> str:
    return f"{prefix}/sbin:{prefix}/bin:{SAFE_PATH}"


def _run(
    job: InstallJob,
    argv: Sequence[str],
    *,
    network: bool = False,
    ok: Sequence[int] = (0,),
    answer: bool = True,
) -> str:
    env = {"PATH": _path(_needed_prefix(job.sandbox)), **job.env}
    return job.sandbox.run(
        argv, network=network, env=env, ok=ok, answer=answer, what=argv[0].rpartition("/")[2]
    )
