"""Packages of a build: the image's package manager, entered and ready to be asked and to install."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from buildstep.errors import InstallError
from buildstep.events import Bus
from buildstep.rootfs import installers, sandbox, secret_files
from buildstep.rootfs.installers.apt_sources import host_mirror
from buildstep.rootfs.interface import (
    Audit,
    Finding,
    Installer,
    InstallJob,
    NamesPackageFiles,
    Package,
    RemovesPackages,
    Resolution,
)
from buildstep.rootfs.network_policy import allowed_by
from buildstep.rootfs.run_as import ROOT
from buildstep.rootfs.secret_files import SecretFile
from buildstep.spec.load import BuildSpec
from buildstep.spec.lock import LockedPackage
from buildstep.system.private import private_dir
from buildstep.system.root import Root
from buildstep.tree.entry import FileList


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """What the packages step found out. audit: None if there was no audit; files: of which files the packages
    over the base are, where that is known."""

    installer: str
    packages: tuple[Package, ...]
    audit: Audit | None = None
    files: tuple[LockedPackage, ...] = ()

    def with_files(self, more: Sequence[LockedPackage]) -> Installed:
        """Return this with other package files too, as far as what is in them is installed."""
        there = {(row.name, row.version) for row in self.packages}
        rows = {(row.name, row.version): row for row in (*more, *self.files)}
        files = tuple(row for key, row in sorted(rows.items()) if (key[0].partition(":")[0], key[1]) in there)
        return replace(self, files=files)

    def to_json(self) -> dict[str, Any]:
        """Return this as the record of a layer or a tree has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Installed | None:
        """Read what `to_json` returned; None for nothing."""
        if not value:
            return None
        audit = value.get("audit")
        return cls(
            installer=value["installer"],
            packages=tuple(Package(**row) for row in value["packages"]),
            audit=None if audit is None else Audit(audit[0], tuple(Finding(**row) for row in audit[1])),
            files=tuple(LockedPackage(**row) for row in value.get("files", ())),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Packaging:
    """A root that was entered, with its package manager ready.

    prepared: what the installer needs around it; closed before its clean-up.
    """

    spec: BuildSpec
    bus: Bus
    installer: Installer
    job: InstallJob
    prepared: contextlib.ExitStack

    def refresh(self, *, hurry: bool = False, max_age: float = 0.0) -> tuple[str, float]:
        """Fetch the repository's index if packages will be taken from it; see `Installer.refresh`.

        Returns the index's digest, and when it was fetched (seconds since 1970).
        """
        if not self.spec.packages and not self.spec.upgrade_first:
            return "", time.time()
        fetched = self.installer.refresh(self.job, hurry=hurry, max_age=max_age)
        return self.installer.index(self.job), fetched

    def resolve(self) -> Resolution:
        """Return what an install would bring."""
        if not self.spec.packages and not self.spec.upgrade_first:
            return Resolution(versions={}, exact=True)
        return self.installer.resolve(self.job, upgrade=self.spec.upgrade_first)

    def fetch(self, versions: Mapping[str, str]) -> None:
        """Download what an install of these versions needs, while the root is the base image's."""
        self.installer.fetch(self.job, versions)

    def blocker(self, added: Mapping[str, str], base: FileList) -> str:
        """Return why fetched packages cannot be added to those in the root; see `Installer.blocker`."""
        return self.installer.blocker(self.job, added, base)

    def remove(self, names: Sequence[str], base: FileList, order: Sequence[str]) -> str:
        """Take packages away; see `RemovesPackages.remove`."""
        installer: object = self.installer
        if not isinstance(installer, RemovesPackages):
            return f"{self.installer.name} takes no package away"
        return installer.remove(self.job, names, base, order)

    def install(self, versions: Mapping[str, str] | None = None) -> Installed:
        """Upgrade, install, list and audit. versions: what the install brings, if that is known."""
        spec, installer, job = self.spec, self.installer, self.job
        if spec.upgrade_first:
            installer.upgrade(job)
        if spec.packages:
            installer.install(job, None if spec.upgrade_first else versions)
        return self.finish()

    def finish(self) -> Installed:
        """List and audit what is installed, and clean up."""
        spec, installer, job = self.spec, self.installer, self.job
        found = tuple(installer.installed(job.sandbox))
        audit = installer.audit(job) if spec.pkg_audit else None
        if spec.pkg_audit and audit is None:
            self.bus.note(f"{installer.name}: the image has no audit tool", level="warning")
        named: object = installer
        changed = bool(spec.packages or spec.upgrade_first)
        files = tuple(named.taken(job)) if changed and isinstance(named, NamesPackageFiles) else ()
        self.prepared.close()
        installer.clean(job.sandbox)
        return Installed(installer=installer.name, packages=found, audit=audit, files=files)


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What a CI host gives to packaging.

    state: the pool's directory for caches; environ: its environment; download: see `InstallJob`; failed: is
    given what ends the work in a root, while all that was set up there is in place; secrets: what the package
    manager is shown, env: and has as variables.
    """

    state: Path
    bus: Bus
    environ: Mapping[str, str]
    download: Callable[[str], bytes]
    failed: Callable[[BaseException, sandbox.ChrootSandbox], None] | None = None
    secrets: Sequence[SecretFile] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def prepare_packaging(
    spec: BuildSpec, root: Root, on: Host, *, base: str, installer: Installer | None = None
) -> Iterator[Packaging]:
    """Enter a root to install packages in it.

    base: names the base image, as `InstallJob.base` does; installer: the one that has fetched packages in the
    base image, where this root is another one. Raises InstallError where the root has no package manager.
    """
    bus, environ = on.bus, on.environ
    installer = installer or choose_installer(spec, root, bus.note)
    cache = on.state / "packages" / installer.name
    private_dir(cache)
    mirror = spec.installer_options.mirror or environ.get("BUILDSTEP_APT_MIRROR", "")
    if not mirror and installer.name == "apt":
        mirror = host_mirror(environ, cache if spec.cache else None)
    entered = enter(spec, root, bus, environ, mirrors=[mirror, spec.installer_options.snapshot or ""])
    with entered as inside, contextlib.ExitStack() as prepared:
        job = InstallJob(
            sandbox=inside,
            cache=cache,
            packages=spec.packages,
            recommends=spec.installer_options.recommends,
            mirror=mirror,
            env={**spec.installer_options.env, **on.env},
            base=base,
            fresh=not spec.cache,
            bus=bus,
            download=on.download if spec.network else None,
            lock=spec.lock,
            snapshot=spec.installer_options.snapshot or "",
            repositories=spec.installer_options.repositories,
            files=spec.package_files,
            hold=spec.installer_options.hold,
        )
        for secret in on.secrets:
            prepared.enter_context(secret_files.shown(inside, secret, ROOT))
        prepared.enter_context(installer.prepare(job))
        prepared.push(partial(_tell_failure, on, inside))
        yield Packaging(spec=spec, bus=bus, installer=installer, job=job, prepared=prepared)


def _tell_failure(
    on: Host, inside: sandbox.ChrootSandbox, _kind: object, error: BaseException | None, _trace: object
) -> None:
    if on.failed is not None and error is not None:
        on.failed(error, inside)


def enter(
    spec: BuildSpec,
    root: Root,
    bus: Bus,
    environ: Mapping[str, str],
    mirrors: Sequence[str] = (),
    workdir: str = "/",
) -> contextlib.AbstractContextManager[sandbox.ChrootSandbox]:
    """Enter a root with the network and the limits that the spec gives. mirrors: URLs that the user's own
    configuration names, and which may be on the CI host; workdir: where commands begin."""
    options = sandbox.SandboxOptions(
        network=spec.network,
        timeout=spec.timeouts.command,
        idle_timeout=spec.timeouts.idle,
        limits=spec.limits,
        reachable=allowed_by({}, mirrors),
        workdir=workdir,
    )
    return sandbox.enter(root.path, bus=bus, environ=environ, options=options)


def list_installed(
    spec: BuildSpec,
    root: Root,
    *,
    known: tuple[Package, ...],
    privileged: bool,
    bus: Bus,
    environ: Mapping[str, str],
) -> Installed | None:
    """Return what is installed in a root. known: the packages that the image's record has, if it has any.

    Returns None where there is no package manager, or nothing is known and the root cannot be entered.
    """
    installer = installers.detect(root, note=bus.note)
    if installer is not None and known:
        return Installed(installer=installer.name, packages=known)
    if installer is None or not privileged:
        return None
    with enter(spec, root, bus, environ) as inside:
        return Installed(installer=installer.name, packages=tuple(installer.installed(inside)))


def choose_installer(spec: BuildSpec, root: Root, note: Callable[[str], None]) -> Installer:
    """Return the installer that the spec names, or the one that is in the root. Raises InstallError."""
    if spec.installer != "auto":
        return installers.get(spec.installer)
    found = installers.detect(root, note=note)
    if found is None:
        raise InstallError(
            "the base image has no package manager that we know",
            hint=f"name one with --installer ({', '.join(installers.INSTALLERS)}), or ask for no packages",
        )
    return found
