"""Debian's apt inside an image, with its downloads and lists kept outside of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from buildstep.errors import CommandFailed
from buildstep.rootfs.installers import apt_incremental
from buildstep.rootfs.installers.apt_sources import Sources, host_mirror
from buildstep.rootfs.installers.common import cache_lock, checked, failures
from buildstep.rootfs.installers.deb_file import downloads, file_stem
from buildstep.rootfs.interface import Audit, Finding, InstallJob, Package, Resolution, Sandbox
from buildstep.system.root import Root
from buildstep.tree.entry import FileList

__all__ = ["Apt", "host_mirror"]

_OURS = "/run/buildstep-apt"
"""Settings, lists and downloads are shown to apt on the sandbox's /run: none of it gets into the image,
and what a base image has in apt's own places (Docker's empty the cache after every run) does not matter."""
_CONFIG = f"{_OURS}/apt.conf"

_POLICY = b"""#!/bin/sh
# Put here by buildstep while packages are installed: no service starts in an image.
exit 101
"""

_NAME = r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+|/[A-Za-z0-9.+~-]+)?"

_ENV = {
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBCONF_NONINTERACTIVE_SEEN": "true",
    "DEBIAN_PRIORITY": "critical",
    "APT_LISTCHANGES_FRONTEND": "none",
    "NEEDRESTART_MODE": "l",
    "UCF_FORCE_CONFFOLD": "1",
}

# Read by `--config-file` after the image's own settings, so that it has the last word over them.
_SETTINGS = f"""\
APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
APT::Cmd::Pattern-Only "true";
APT::Keep-Downloaded-Packages "true";
APT::Update::Error-Mode "any";
Acquire::Retries "3";
Acquire::http::Timeout "60";
Acquire::https::Timeout "60";
Acquire::Languages "none";
Dir::Cache::archives "{_OURS}/archives";
Dir::State::lists "{_OURS}/lists";
Dir::Cache::pkgcache "{_OURS}/pkgcache.bin";
Dir::Cache::srcpkgcache "{_OURS}/parsed/srcpkgcache.bin";
Dpkg::Use-Pty "0";
DPkg::Options:: "--force-unsafe-io";
DPkg::Options:: "--force-confdef";
DPkg::Options:: "--force-confold";
DPkg::Lock::Timeout "60";
"""

# Whose names a failing apt or dpkg prints, and how.
_CULPRITS = (
    r"^E: Unable to locate package (\S+)",
    r"^E: Couldn't find any package by \S+ '([^']+)'",
    r"^E: Package '([^']+)' has no installation candidate",
    r"^E: Version '[^']*' for '([^']+)' was not found",
    r"^E: Release '[^']*' for '([^']+)' was not found",
    r"^dpkg: error processing (?:package|archive) (\S+)",
    r"^Errors were encountered while processing:\n((?: \S+\n?)+)",
    r"^ (\S+) : (?:Depends|Breaks|Conflicts|PreDepends):",
    r"^E: Failed to fetch \S+/([^/_\s]+)_",
)


class Apt:
    """An interface.Installer for Debian and what derives from it."""

    name: ClassVar[str] = "apt"

    @classmethod
    def detect(cls, root: Root) -> bool:
        return root.is_program("/usr/bin/apt-get") and root.is_program("/usr/bin/dpkg-query")

    @contextlib.contextmanager
    def prepare(self, job: InstallJob) -> Iterator[None]:
        """Show the shared cache and our settings, and keep services from being started."""
        sandbox = job.sandbox
        sources = Sources.of(sandbox.root)
        used = sources.through(job.mirror)
        shown = {
            "archives": job.cache / "archives",
            "lists": job.cache / "lists" / used.digest(),
            # What apt made of these lists: half of the time of an install of one package.
            "parsed": job.cache / "parsed" / used.digest(),
        }
        settings = _SETTINGS
        with contextlib.ExitStack() as stack:
            for name, folder in shown.items():
                (folder / "partial").mkdir(parents=True, exist_ok=True)
                stack.enter_context(sandbox.share(folder, f"{_OURS}/{name}"))
            if used != sources:
                for path, text in used.files.items():
                    where = path.removeprefix("/etc/apt/")
                    stack.enter_context(sandbox.temporary_file(f"{_OURS}/{where}", text.encode()))
                settings += f'Dir::Etc::sourcelist "{_OURS}/sources.list";\n'
                settings += f'Dir::Etc::sourceparts "{_OURS}/sources.list.d";\n'
            stack.enter_context(sandbox.temporary_file(_CONFIG, settings.encode()))
            stack.enter_context(sandbox.temporary_file("/usr/sbin/policy-rc.d", _POLICY, mode=0o755))
            stack.callback(sandbox.root.remove, f"{_OURS}/pkgcache.bin")
            yield

    def refresh(self, job: InstallJob, *, hurry: bool = False, max_age: float = 0.0) -> float:
        digest = Sources.of(job.sandbox.root).through(job.mirror).digest()
        mark = job.cache / "lists" / f"{digest}.fetched"
        with contextlib.suppress(OSError):
            fetched = mark.stat().st_mtime
            lists = any(name.endswith("Packages") for name in os.listdir(job.cache / "lists" / digest))
            if lists and 0 <= time.time() - fetched < max_age:
                return fetched
        hint = "is the image's package source reachable from this CI host? A mirror can be named"
        with failures("apt-get update", (), hint=hint):
            waits = ["-oAcquire::Retries=0", "-oAcquire::http::Timeout=15"] if hurry else []
            _apt(job, [*waits, "update"], network=True)
        mark.touch()
        return mark.stat().st_mtime

    def index(self, job: InstallJob) -> str:
        """Return the digest of the lists: a Release file has the digests of the lists that belong to it."""
        root = job.sandbox.root
        lists = root.host_path(f"{_OURS}/lists")
        names = sorted(os.listdir(lists)) if lists is not None else []
        signed = [name for name in names if name.endswith(("_InRelease", "_Release"))]
        stems = tuple(name.removesuffix("_InRelease").removesuffix("_Release") + "_" for name in signed)
        state = hashlib.sha256()
        for name in names:
            if name in ("lock", "partial", "auxfiles") or (name not in signed and name.startswith(stems)):
                continue
            digest = hashlib.sha256(root.read(f"{_OURS}/lists/{name}")).hexdigest()
            state.update(f"{name} {digest}\n".encode())
        return state.hexdigest()

    def resolve(self, job: InstallJob, *, upgrade: bool) -> Resolution:
        words = ["--simulate", *_install(job, "dist-upgrade" if upgrade else "install")]
        with failures("resolving packages", job.packages, *_CULPRITS):
            text = _apt(job, words, network=False)
        found, order = {}, []
        for row in text.splitlines():
            # Inst NAME [OLD] (NEW ORIGIN [ARCH]) ... or Remv NAME [OLD] ...
            if match := re.match(r"Inst (\S+) (?:\[[^\]]*\] )?\((\S+)", row):
                found[match[1]] = match[2]
            elif match := re.match(r"(?:Remv|Purg) (\S+)", row):
                found[match[1]] = ""
            if match := re.match(r"(?:Inst|Conf|Remv|Purg) \S+", row):
                order.append(match[0])
        return Resolution(versions=found, exact=True, order=tuple(order))

    def blocker(self, job: InstallJob, added: Mapping[str, str], base: FileList) -> str:
        return apt_incremental.blocker(job.sandbox.root, base, job.cache / "archives", added)

    def unexpected_changes(self, root: Root, added: Sequence[Package], changed: Sequence[str]) -> str:
        return apt_incremental.unexpected_changes(root, added, changed)

    def upgrade(self, job: InstallJob) -> None:
        with failures("the upgrade", (), *_CULPRITS):
            _download(job, ["dist-upgrade"])
            _apt(job, ["dist-upgrade"], network=False)
        apt_incremental.sort_extended_states(job.sandbox.root)

    def fetch(self, job: InstallJob, versions: Mapping[str, str] | None) -> None:
        words = _install(job)
        there = downloads(job.cache / "archives") if versions else {}
        if versions and all(file_stem(*item) in there for item in versions.items() if item[1]):
            return
        with failures("downloading packages", job.packages, *_CULPRITS):
            _download(job, words)

    def install(self, job: InstallJob, versions: Mapping[str, str] | None = None) -> None:
        self.fetch(job, versions)
        words = _install(job)
        with failures("installing packages", job.packages, *_CULPRITS):
            try:
                _apt(job, words, network=False)
            except CommandFailed as error:
                # A downloaded file that is damaged: apt says so before it starts.
                if "E: Failed to fetch" not in error.detail:
                    raise
                _download(job, words)
                _apt(job, words, network=False)
        apt_incremental.sort_extended_states(job.sandbox.root)

    def installed(self, sandbox: Sandbox) -> list[Package]:
        fields = ("db:Status-Status", "Package", "Version", "Architecture", "source:Package")
        form = "\t".join(f"${{{field}}}" for field in fields) + "\n"
        with failures("listing packages", ()):
            text = sandbox.run(["dpkg-query", "--show", f"--showformat={form}"], what="dpkg-query")
        found = []
        for row in text.splitlines():
            status, name, version, arch, source = row.split("\t")
            if status == "installed":
                found.append(Package(name=name, version=version, arch=arch, source=source))
        return sorted(found, key=lambda package: (package.name, package.arch))

    def audit(self, job: InstallJob) -> Audit | None:
        """Run debsecan, in images that have it."""
        sandbox = job.sandbox
        if not sandbox.root.is_program("/usr/bin/debsecan"):
            return None
        argv = ["debsecan", "--format", "summary"]
        if suite := _codename(sandbox.root):
            argv += ["--suite", suite]
        with failures("the audit", (), hint="debsecan fetches its list from security-tracker.debian.org"):
            text = sandbox.run(argv, network=True, env={**_ENV, **job.env}, what="debsecan")
        versions = {package.name: package.version for package in self.installed(sandbox)}
        findings = []
        for row in text.splitlines():
            if match := re.fullmatch(r"(\S+) (\S+)(?: \((.*)\))?", row):
                problem, package, notes = match.groups(default="")
                urgency = re.search(r"(low|medium|high) urgency", notes)
                findings.append(
                    Finding(
                        package=package,
                        version=versions.get(package, ""),
                        problem=problem,
                        url=f"https://security-tracker.debian.org/tracker/{problem}",
                        severity=urgency[1] if urgency else "",
                    )
                )
        return Audit(text, tuple(findings))

    def clean(self, sandbox: Sandbox) -> None:
        """Empty the cache that the image has of its own; the shared one is never in its place."""
        with failures("apt-get clean", ()):
            sandbox.run(["apt-get", "clean"], env=_ENV, what="apt-get clean")


def _download(job: InstallJob, words: Sequence[str]) -> None:
    """Download with the network; what installs runs without: no package script ever has it. (apt does not
    get --no-download for that: with it apt does not find packages of file: sources.)"""
    _apt(job, ["--download-only", *words], network=True)


def _apt(job: InstallJob, words: Sequence[str], *, network: bool) -> str:
    argv = ["apt-get", f"--config-file={_CONFIG}", "--quiet", "--yes", *words]
    # apt does not wait for another apt in the same cache; it fails. So ours wait for one another.
    with cache_lock(job.cache):
        return job.sandbox.run(argv, network=network, env={**_ENV, **job.env}, what="apt-get")


def _install(job: InstallJob, act: str = "install") -> list[str]:
    """Return apt's arguments for the packages. Raises InstallError for what is no package name."""
    recommends = "--install-recommends" if job.recommends else "--no-install-recommends"
    return [recommends, act, "--", *checked(job.packages, _NAME, "apt")]


def _codename(root: Root) -> str:
    """Return the release's name, as /etc/os-release has it."""
    if not root.exists("/etc/os-release"):
        return ""
    found = re.search(
        r'^VERSION_CODENAME="?([a-z]+)"?$',
        root.read("/etc/os-release").decode(errors="replace"),
        re.MULTILINE,
    )
    return found[1] if found else ""
