"""One function per step of a build; `pipeline.execute` calls them in order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from buildstep import installers, sandbox
from buildstep.errors import InstallError
from buildstep.events import Bus
from buildstep.filelist import Changes, FileList, diff, hash_entries, spread_digests
from buildstep.fsutil import Root, lock
from buildstep.images import ImageRecord
from buildstep.interfaces import Backend, Dataset, Finding, Installer, InstallOptions, Package
from buildstep.journal import Journal, output_lock
from buildstep.spec import BuildSpec
from buildstep.sync import owner_rule
from buildstep.sync import sync as rsync


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What every step may use."""

    spec: BuildSpec
    backend: Backend
    bus: Bus
    environ: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """What the packages step found out. audit: the tool's text and findings, None if there was no tool."""

    installer: str
    packages: tuple[Package, ...]
    audit: tuple[str, tuple[Finding, ...]] | None = None


def image_root(dataset: Dataset, image: ImageRecord) -> Root:
    """The file system of the image: a zone image keeps it in root/, beside the zone's own files."""
    if image.manifest.get("type") == "zone-dataset" and (dataset.path / "root").is_dir():
        return Root(dataset.path / "root")
    return Root(dataset.path)


def sync(context: Context, root: Root) -> str:
    """Lay the proto directory on the root; returns a sentence for the record."""
    spec = context.spec
    rsync(
        spec.proto,
        root,
        rule=owner_rule(spec.owner, root),
        exclude=spec.exclude,
        privileged=context.backend.privileged,
        bus=context.bus,
        timeout=spec.timeouts.command,
    )
    return f"{spec.proto.name}/ laid on the root"


def choose_installer(spec: BuildSpec, root: Root) -> Installer:
    """The installer that the spec names, or the one that is in the root. Raises InstallError."""
    if spec.installer != "auto":
        return installers.get(spec.installer)
    found = installers.detect(root)
    if found is None:
        raise InstallError(
            "the base image has no package manager that we know",
            hint=f"name one with --installer ({', '.join(installers.INSTALLERS)}), or ask for no packages",
        )
    return found


def wants_packages(spec: BuildSpec) -> bool:
    return bool(spec.packages or spec.upgrade_first or spec.pkg_audit)


def packages(context: Context, root: Root) -> Installed | None:
    """Upgrade, install, list and audit; None when the image has no package manager and needs none."""
    spec = context.spec
    if not wants_packages(spec):
        installer = installers.detect(root)
        if installer is None or not context.backend.privileged:
            return None
    else:
        installer = choose_installer(spec, root)
    cache = context.backend.state / "packages" / installer.name
    cache.mkdir(parents=True, exist_ok=True)
    options = InstallOptions(
        cache=cache,
        recommends=spec.installer_options.recommends,
        mirror=spec.installer_options.mirror or context.environ.get("BUILDSTEP_APT_MIRROR", ""),
        env=dict(spec.installer_options.env),
    )
    with entered(context, root) as inside:
        audit = None
        if wants_packages(spec):
            with installer.prepare(inside, options):
                if spec.packages or spec.upgrade_first:
                    installer.refresh(inside, options)
                if spec.upgrade_first:
                    installer.upgrade(inside, options)
                if spec.packages:
                    installer.install(inside, spec.packages, options)
                if spec.pkg_audit:
                    found = installer.audit(inside, options)
                    audit = None if found is None else (found[0], tuple(found[1]))
                    if found is None:
                        context.bus.note(f"{installer.name}: the image has no audit tool", level="warning")
            installer.clean(inside)
        listed = tuple(installer.installed(inside))
    return Installed(installer=installer.name, packages=listed, audit=audit)


@contextlib.contextmanager
def entered(context: Context, root: Root) -> Iterator[sandbox.ChrootSandbox]:
    """The root as a sandbox, with the agent's resolver lent to it."""
    spec = context.spec
    with sandbox.enter(
        root.path,
        bus=context.bus,
        environ=context.environ if spec.network else {},
        timeout=spec.timeouts.command,
        idle_timeout=spec.timeouts.idle,
    ) as inside:
        yield inside


def motd(context: Context, root: Root, image: ImageRecord) -> str:
    """Write etc/motd in the original's form: a framed title, then name, source and base image."""
    spec = context.spec
    title = "B U I L D S T E P" if image.manifest.get("os") != "smartos" else "T R I T O N"
    lines = [
        "",
        f" =  {title}  =",
        "",
        f"    {spec.name} ({spec.version})",
        f"    {spec.source_repo}",
        f"    {image.name}@{image.version}",
        "",
    ]
    root.make_dirs("/etc")
    root.write("/etc/motd", ("\n".join(lines) + "\n").encode())
    return f"{spec.name} ({spec.version})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A finished tree: all its entries, hashed where they equal the base in all else, and the changes."""

    entries: FileList
    changes: Changes


def snapshot(
    context: Context, dataset: Dataset, origin: FileList, below: FileList, image: ImageRecord
) -> Snapshot:
    """Read what the tree is now. origin: list of what the dataset was cloned from; below: of the layer
    under the one being made. Files are hashed only where that decides whether they changed."""
    spec = context.spec
    rule = (
        None if context.backend.privileged else owner_rule(spec.owner, image_root(dataset, image)).entry_owner
    )
    entries = dataset.scan(origin, owner=rule)
    undecided = []
    for path, entry in entries.items():
        old = below.get(path)
        if (
            entry.kind == "f"
            and not entry.sha256
            and not entry.first
            and old is not None
            and old.same_metadata(entry)
        ):
            undecided.append(entry)
    context.bus.count("bytes_hashed", hash_entries(dataset.path, undecided))
    spread_digests(entries)
    return Snapshot(entries=entries, changes=diff(below, entries))


@contextlib.contextmanager
def writing(stem: Path, journal: Journal) -> Iterator[None]:
    """One build at a time writes files of one name into a folder. The lock file is not left there."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = output_lock(stem)
    with lock(path):
        journal.outputs(stem)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def free_space_faults(folder: Path, needed: int) -> list[str]:
    """A sentence for a file system that cannot hold so many bytes."""
    info = os.statvfs(folder)
    free = info.f_bavail * info.f_frsize
    return (
        [f"{folder} has {free >> 20} MiB free, about {needed >> 20} MiB are needed"] if free < needed else []
    )


def largest_added(changes: Changes, limit: int = 2000) -> list[tuple[str, int]]:
    """What a layer adds, largest first, for reports."""
    files = [entry for entry in changes.entries if entry.kind == "f" and not entry.first]
    files.sort(key=lambda entry: (-entry.size, entry.path))
    return [
        ("/" + os.fsdecode(entry.path).encode(errors="replace").decode(), entry.size)
        for entry in files[:limit]
    ]
