"""pkgsrc inside an image: pkg_add, pkg_info, pkg_admin and pkgin, below /opt/local or /usr/pkg."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from buildstep.errors import InstallError
from buildstep.rootfs.installers.common import cache_lock, checked, failures
from buildstep.rootfs.interface import Finding, InstallOptions, Package, Resolution, Sandbox
from buildstep.system.mount_table import mount_points
from buildstep.system.process import SAFE_PATH
from buildstep.system.root import Root
from buildstep.tree.entry import FileList

PREFIXES = ("/opt/local", "/usr/pkg")
"""SmartOS and illumos; NetBSD and the others."""

_PKGIN = "/var/db/pkgin"
_PKGIN_CACHE = f"{_PKGIN}/cache"

VULNERABILITIES = tuple(
    f"{folder}/pkg-vulnerabilities" for folder in ("/opt/local/pkg", "/usr/pkg/pkgdb", "/var/db/pkg")
)
"""Where a fetched vulnerability list can be: the package databases of the systems that we know."""

# A package name, or name-version, a pattern (foo>=1, foo-[0-9]*), or the path or URL of a package.
_NAME = r"[A-Za-z0-9_/][A-Za-z0-9_.,:/+\[\]{}*<>=~@%-]*"

_CULPRITS = (
    r"no pkg found for '([^']+)'",
    r"[Cc]an't install dependency (\S+?),?$",
    r"unable to verify package [`']([^']+)'",
)

_FINDING = re.compile(
    r"Package (?P<name>\S+)-(?P<version>[^-\s]+) has (?:an? )?(?P<problem>.*?) vulnerability,"
    r" see (?P<url>\S+)"
)

_FINDINGS = 1
"""The status by which `pkg_admin audit` says that it found something; it is no failure."""


class Pkgsrc:
    """interfaces.Installer for pkgsrc. Only what the tools' manuals promise is relied upon."""

    name: ClassVar[str] = "pkgsrc"

    @classmethod
    def detect(cls, root: Root) -> bool:
        return _prefix(root) is not None

    @contextlib.contextmanager
    def prepare(self, sandbox: Sandbox, options: InstallOptions) -> Iterator[None]:
        """Show pkgin a cache of its downloads that outlives the build."""
        prefix = self._prefix(sandbox)
        if not sandbox.root.is_program(f"{prefix}/bin/pkgin"):
            yield
            return
        # Packages of one name and version differ between repositories: each has a folder of its own.
        repositories = f"{prefix}/etc/pkgin/repositories.conf"
        text = sandbox.root.read(repositories) if sandbox.root.exists(repositories) else b""
        cache = options.cache / "pkgin" / hashlib.sha256(text).hexdigest()[:32]
        cache.mkdir(parents=True, exist_ok=True)
        with sandbox.share(cache, _PKGIN_CACHE):
            yield

    def refresh(self, sandbox: Sandbox, options: InstallOptions) -> float:
        """`pkgin update`. A root with pkg_add alone has no index to refresh."""
        prefix = self._prefix(sandbox)
        if sandbox.root.is_program(f"{prefix}/bin/pkgin"):
            with failures("pkgin update", (), hint="is the repository reachable from this agent?"):
                self._run(sandbox, options, [f"{prefix}/bin/pkgin", "update"], network=True)
        return time.time()

    def index(self, sandbox: Sandbox, options: InstallOptions) -> str:
        """Of what `pkgin avail` lists; without pkgin there is no index to look at."""
        text = self._available(sandbox, options)
        return hashlib.sha256(text.encode()).hexdigest() if text else ""

    def resolve(
        self, sandbox: Sandbox, packages: Sequence[str], options: InstallOptions, *, upgrade: bool
    ) -> Resolution:
        """The versions of what was asked for; of what these need, nothing that the manuals promise tells."""
        found = {}
        for row in self._available(sandbox, options).splitlines():
            full = row.partition(" ")[0]
            name, _, version = full.rpartition("-")
            if name in packages or full in packages:
                found[name] = version
        return Resolution(versions=found, exact=False)

    def _available(self, sandbox: Sandbox, options: InstallOptions) -> str:
        pkgin = f"{self._prefix(sandbox)}/bin/pkgin"
        if not sandbox.root.is_program(pkgin):
            return ""
        with failures("pkgin avail", ()):
            return self._run(sandbox, options, [pkgin, "avail"])

    def blocker(
        self, sandbox: Sandbox, added: Mapping[str, str], base: FileList, options: InstallOptions
    ) -> str:
        """No manual promises which files a package's scripts may touch."""
        return "what pkgsrc's scripts do is not known"

    def unexpected_changes(self, root: Root, added: Sequence[Package], changed: Sequence[str]) -> str:
        return f"{changed[0]} was changed" if changed else ""

    def fetch(
        self,
        sandbox: Sandbox,
        packages: Sequence[str],
        options: InstallOptions,
        versions: Mapping[str, str] | None,
    ) -> None:
        """pkg_add downloads while it installs."""

    def upgrade(self, sandbox: Sandbox, options: InstallOptions) -> None:
        prefix = self._prefix(sandbox)
        if not sandbox.root.is_program(f"{prefix}/bin/pkgin"):
            raise InstallError(
                f"the image has no {prefix}/bin/pkgin, which an upgrade needs",
                hint="take a base image that has pkgin, or leave out --upgrade-first",
            )
        with failures("the upgrade", (), *_CULPRITS):
            self._run(sandbox, options, [f"{prefix}/bin/pkgin", "-y", "full-upgrade"], network=True)

    def install(self, sandbox: Sandbox, packages: Sequence[str], options: InstallOptions) -> None:
        names = checked(packages, _NAME, "pkg_add")
        if not names:
            return
        with failures("installing packages", names, *_CULPRITS):
            argv = [f"{self._prefix(sandbox)}/sbin/pkg_add", "-U", *names]
            self._run(sandbox, options, argv, network=True)

    def installed(self, sandbox: Sandbox) -> list[Package]:
        with failures("listing packages", ()):
            text = self._run(sandbox, None, [_tool(self._prefix(sandbox), sandbox.root, "pkg_info"), "-a"])
        found = []
        for row in text.splitlines():
            if words := row.split():
                name, dash, version = words[0].rpartition("-")
                found.append(
                    Package(name=name, version=version) if dash else Package(name=version, version="")
                )
        return sorted(found, key=lambda package: (package.name, package.version))

    def audit(self, sandbox: Sandbox, options: InstallOptions) -> tuple[str, list[Finding]] | None:
        prefix = self._prefix(sandbox)
        tool = _tool(prefix, sandbox.root, "pkg_admin")
        if not sandbox.root.is_program(tool):
            return None
        with failures("fetching the list of vulnerabilities", ()):
            self._run(sandbox, options, [tool, "fetch-pkg-vulnerabilities"], network=True)
        with failures("the audit", ()):
            text = self._run(sandbox, options, [tool, "audit"], ok=(0, _FINDINGS))
        findings = [
            Finding(
                package=match["name"], version=match["version"], problem=match["problem"], url=match["url"]
            )
            for row in text.splitlines()
            if (match := _FINDING.match(row))
        ]
        return text, findings

    def clean(self, sandbox: Sandbox) -> None:
        """Remove pkgin's data and the vulnerability list; no package's name is part of it (D6)."""
        root = sandbox.root
        for path in VULNERABILITIES:
            root.remove(path)
        folder = root.host_path(_PKGIN)
        if root.real(_PKGIN) != _PKGIN or folder is None or not folder.is_dir():
            return  # not there, or a link: what it leads to is not ours to empty
        # While `prepare` is in force the shared cache is there. The kernel's table is asked: a directory
        # of the agent bound from the same file system is not told apart by its device.
        shown = mount_points(folder)
        for name in os.listdir(folder):
            if os.path.realpath(folder / name) not in shown:
                root.remove(f"{_PKGIN}/{name}")

    # -- how the tools are called -----------------------------------------------------------------------

    def _prefix(self, sandbox: Sandbox) -> str:
        prefix = _prefix(sandbox.root)
        if prefix is None:
            raise InstallError(
                f"the image has no pkg_add below {' or '.join(PREFIXES)}",
                hint="take a base image that has pkgsrc, or name another installer",
            )
        return prefix

    def _run(
        self,
        sandbox: Sandbox,
        options: InstallOptions | None,
        argv: Sequence[str],
        *,
        network: bool = False,
        ok: Sequence[int] = (0,),
    ) -> str:
        prefix = self._prefix(sandbox)
        given: Mapping[str, str] = options.env if options else {}
        env = {"PATH": f"{prefix}/sbin:{prefix}/bin:{SAFE_PATH}", **given}
        with cache_lock(options.cache) if options else contextlib.nullcontext():
            return sandbox.run(argv, network=network, env=env, ok=ok, what=argv[0].rpartition("/")[2])


def _prefix(root: Root) -> str | None:
    return next((prefix for prefix in PREFIXES if root.is_program(f"{prefix}/sbin/pkg_add")), None)


def _tool(prefix: str, root: Root, name: str) -> str:
    """pkg_info and pkg_admin are in sbin; some systems have them in bin."""
    places = [f"{prefix}/{folder}/{name}" for folder in ("sbin", "bin")]
    return next((path for path in places if root.is_program(path)), places[0])
