"""What apt is given besides the image's own sources: repositories with keys and priorities, package files by
path, packages that are held, and other architectures.

All of it is for one build: of the repositories nothing is in the image afterwards.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from buildstep.errors import InstallError
from buildstep.rootfs.installers import apt_locked
from buildstep.rootfs.installers.apt_archives import ArchiveStore
from buildstep.rootfs.installers.apt_settings import NAME, OURS
from buildstep.rootfs.installers.apt_sources import PARTS, Sources
from buildstep.rootfs.installers.common import checked
from buildstep.rootfs.installers.deb_file import control_of, file_stem
from buildstep.rootfs.installers.dpkg_database import STATUS, installed_packages
from buildstep.rootfs.interface import InstallJob, Package
from buildstep.spec.lock import LockedPackage
from buildstep.spec.repositories import PackageFile, Repository
from buildstep.system.digest import sha256_bytes
from buildstep.system.root import Root

LOCAL = f"{OURS}/local"
"""Where apt is shown the index of package files that were given by path."""
_PREFERENCES = "/etc/apt/preferences"
_FOREIGN = "/var/lib/dpkg/arch"
_HELD = 1001
"""A priority by which a version stays, even where that is a downgrade (apt_preferences(5))."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalPackage:
    """A package file that was given by path. word: what apt calls it, with its version."""

    row: LockedPackage
    path: Path
    word: str


# -- package files ------------------------------------------------------------------------------------------


def local_packages(files: Sequence[PackageFile], native: str) -> dict[str, LocalPackage]:
    """Return the packages in files, by how they were given. native: the image's architecture.

    Raises InstallError with each that is no package.
    """
    found, wrong = {}, []
    for file in files:
        try:
            found[file.name] = _local(file, native)
        except InstallError as error:
            wrong.append(error.message)
    if wrong:
        raise InstallError("; ".join(wrong))
    return found


def _local(file: PackageFile, native: str) -> LocalPackage:
    fields = {}
    for line in control_of(file.path).splitlines():
        name, colon, value = line.partition(":")
        if colon and not name.startswith((" ", "\t")):
            fields[name.lower()] = value.strip()
    try:
        name, version, arch = fields["package"], fields["version"], fields["architecture"]
    except KeyError as error:
        raise InstallError(f"{file.path} is no package: it has no {error.args[0]}") from error
    other = "" if arch in ("all", native) else f":{arch}"
    word = f"{name}{other}={version}"
    checked([word], NAME, "apt")
    row = LockedPackage(
        name=f"{name}{other}", version=version, arch=arch, sha256=file.sha256, size=file.path.stat().st_size,
        file=f"{file_stem(name, version)}_{arch}.deb", repository=f"copy:{LOCAL}", origin="",
    )  # fmt: skip
    return LocalPackage(row=row, path=file.path, word=word)


def show_local(packages: Sequence[LocalPackage], store: ArchiveStore, area: Path) -> None:
    """Have package files where apt looks for what it has downloaded, and write an index of them.

    area: a build's own directory, with `shown` and `local`. Raises InstallError.
    """
    shown = area / "shown"
    for package in packages:
        archive = apt_locked.archive_of(package.row)
        if (shown / archive.name).exists() or store.show(archive, shown):
            continue
        copy = area / "downloads" / archive.name
        shutil.copyfile(package.path, copy)
        if problem := store.take(archive, copy, shown):
            raise InstallError(
                f"{package.path} is {problem}: it changed while this build ran", retryable=True
            )
    apt_locked.write_repository(area / "local", [package.row for package in packages], shown)


# -- sources ------------------------------------------------------------------------------------------------


def sources(job: InstallJob, own: Sources) -> Sources:
    """Return the sources of an image with the repositories of a build and its package files.

    Package lists are kept by what is in here, so keys and package files are as well, in comments.
    """
    files = dict(own.files)
    for row in job.repositories:
        files[f"{PARTS}/buildstep-{row.name}.sources"] = _entry(row)
    if job.files:
        digest = sha256_bytes("\n".join(file.sha256 for file in job.files).encode())
        text = f"# {digest}\ndeb [trusted=yes] copy:{LOCAL} ./\n"
        files[f"{PARTS}/buildstep-local-files.list"] = text
    if foreign := foreign_architectures(job):
        files[f"{PARTS}/buildstep-architectures.list"] = f"# {' '.join(foreign)}\n"
    return Sources(files=files)


def _entry(row: Repository) -> str:
    """Return a repository as a stanza of sources.list(5)."""
    fields = {
        "Types": "deb",
        "URIs": " ".join(row.uris),
        "Suites": " ".join(row.suites),
        "Components": " ".join(row.components),
        "Architectures": " ".join(row.architectures),
        "Signed-By": _key_path(row) if row.signed_by else "",
        "Trusted": "yes" if row.trusted else "",
    }
    lines = [f"{name}: {value}" for name, value in fields.items() if value]
    if row.signed_by:
        lines.append(f"# {sha256_bytes(row.key)}")
    return "\n".join(lines) + "\n"


def _key_path(row: Repository) -> str:
    return f"{OURS}/keys/{row.name}.{'asc' if row.is_armored else 'gpg'}"


class Shown(NamedTuple):
    """What apt is shown of a build's own. settings: for its configuration; local: packages that are files, by
    how they were given."""

    settings: str
    local: Mapping[str, LocalPackage]


@contextlib.contextmanager
def shown(job: InstallJob, store: ArchiveStore, area: Path) -> Iterator[Shown]:
    """Show package files, keys and preferences inside for the length of a block.

    store: of package files; area: this build's own directory. Raises InstallError.
    """
    sandbox, text = job.sandbox, preferences(job)
    local = local_packages(job.files, native_architecture(sandbox.root)) if job.files else {}
    locked = None if job.lock is None else {row.sha256 for row in job.lock.packages}
    if given := [it for it in local.values() if locked is None or it.row.sha256 in locked]:
        show_local(given, store, area)
    with contextlib.ExitStack() as stack:
        for row in job.repositories:
            if row.signed_by:
                stack.enter_context(sandbox.temporary_file(_key_path(row), row.key))
        settings = ""
        if text:
            own = sandbox.root.read(_PREFERENCES) if sandbox.root.is_file(_PREFERENCES) else b""
            path = f"{OURS}/preferences"
            stack.enter_context(sandbox.temporary_file(path, own.rstrip() + b"\n\n" + text.encode()))
            settings = f'Dir::Etc::preferences "{path}";\n'
        yield Shown(settings, local)


def preferences(job: InstallJob) -> str:
    """Return what apt_preferences(5) says of a build's repositories and of what is held."""
    parts = []
    for row in job.repositories:
        if row.priority is not None:
            for host in dict.fromkeys(urlsplit(uri).hostname or "" for uri in row.uris):
                parts.append(f'Package: *\nPin: origin "{host}"\nPin-Priority: {row.priority}\n')
    for name in checked(job.hold, NAME, "apt"):
        parts.append(f"Package: {name}\nPin: release a=now\nPin-Priority: {_HELD}\n")
    return "\n".join(parts)


# -- architectures ------------------------------------------------------------------------------------------


def native_architecture(root: Root) -> str:
    """Return the architecture of an image's dpkg; empty where its database does not say."""
    return next((package.arch for package in _installed(root) if package.name == "dpkg"), "")


def _installed(root: Root) -> list[Package]:
    text = root.read(STATUS).decode(errors="replace") if root.is_file(STATUS) else ""
    return installed_packages(text)


def foreign_architectures(job: InstallJob) -> list[str]:
    """Return the architectures that packages are asked for and the image's dpkg does not know."""
    root = job.sandbox.root
    names = [
        name.partition("=")[0].partition("/")[0] for name in job.packages if not name.startswith((".", "/"))
    ]
    asked = {name.partition(":")[2] for name in names} - {"", "all", "any", "native"}
    asked |= {arch for row in job.repositories for arch in row.architectures} if asked else set()
    if not asked:  # as nearly always: the database of packages is not read for nothing
        return []
    known = set(root.read(_FOREIGN).decode().split()) if root.is_file(_FOREIGN) else set()
    return sorted(asked - known - {native_architecture(root)})


def add_architectures(job: InstallJob) -> None:
    """Tell the image's dpkg of the architectures that packages are asked for; it has them from now on."""
    for arch in foreign_architectures(job):
        job.sandbox.run(["dpkg", "--add-architecture", arch], what="dpkg")


# -- words for apt ------------------------------------------------------------------------------------------


def install_words(job: InstallJob, local: Mapping[str, LocalPackage], act: str = "install") -> list[str]:
    """Return apt's arguments for the packages; local: those that are files, by how they were given.

    Raises InstallError for what is no package name.
    """
    recommends = "--install-recommends" if job.recommends else "--no-install-recommends"
    names = [local[name].word if name in local else name for name in job.packages]
    return [recommends, act, "--", *checked(names, NAME, "apt")]


def held(job: InstallJob, coming: Collection[str] = ()) -> list[str]:
    """Return which of the packages that are to be held are installed.

    coming: those that will be. Raises InstallError for one that is neither, where any are given.
    """
    if not job.hold:
        return []
    there = {package.name for package in _installed(job.sandbox.root)}
    missing = [name for name in job.hold if name.partition(":")[0] not in there and name not in coming]
    if missing and coming:
        raise InstallError(
            f"{', '.join(missing)} cannot be held: not installed, and not about to be",
            hint="installer_options.hold names packages of the image",
        )
    return [name for name in job.hold if name.partition(":")[0] in there]
