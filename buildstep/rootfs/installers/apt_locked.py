"""Package files of a lock: had from the cache, their repository or a dated mirror, and shown to apt alone.

apt is given a repository of its own that has exactly these files, so that it can resolve to nothing else; of
that only the index is written, since the files are where apt looks for what it has downloaded.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from buildstep.errors import CommandFailed, InstallError, LockError
from buildstep.rootfs.installers.apt_archives import Archive, ArchiveStore, copy_local
from buildstep.rootfs.installers.apt_settings import OURS
from buildstep.rootfs.installers.apt_sources import LIST, Sources, mirrored
from buildstep.rootfs.installers.deb_file import control_of, file_stem
from buildstep.rootfs.interface import InstallJob, Resolution, StaleIndex
from buildstep.spec.lock import Lock, LockedPackage
from buildstep.system.digest import sha256_bytes, sha256_file

DEBIAN_SNAPSHOT = "http://snapshot.debian.org/archive/{archive}/{date}"
"""Debian's own dated mirror; see its page "Usage"."""

LABEL = "buildstep-lock"
"""What the repository calls itself."""

Download = Callable[[Mapping[Path, str]], None]
"""Fetches URIs, given by where their content goes. What cannot be had is not there afterwards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Supply:
    """Where package files of a lock may be. lock: the name of its file; date: when it was made.

    store: those that are kept; shown: where they are wanted, by apt's names; downloads: a directory for what
    is not verified yet; mirror, snapshot: see `InstallJob`; download: None where nothing can be fetched.
    """

    lock: str
    date: str
    store: ArchiveStore
    shown: Path
    downloads: Path
    mirror: str = ""
    snapshot: str = ""
    download: Download | None = None

    def places(self, rows: Sequence[LockedPackage]) -> list[tuple[str, dict[LockedPackage, str]]]:
        """Return where these may be fetched, in order: what the place is called, and the URI of each."""
        plain = {row: row.uri for row in rows}
        found = [("their repository", plain)]
        if self.mirror:
            mirror = self.mirror.rstrip("/")
            through = {row: f"{mirrored(row.repository, mirror).rstrip('/')}/{row.file}" for row in rows}
            if through != plain:
                found.insert(0, (f"the mirror {self.mirror}", through))
        if self.snapshot:
            uris = {row: snapshot_uri(self.snapshot, row, self.date) for row in rows}
            found.append((f"the dated mirror {next(iter(uris.values())).removesuffix(rows[0].file)}", uris))
        return found


def sources(lock: Lock) -> Sources:
    """Return the sources of an image whose packages are locked. Lists are kept by what is in here."""
    return Sources(files={LIST: f"# {lock.packages_digest()}\ndeb [trusted=yes] copy:{OURS}/locked ./\n"})


def archive_of(row: LockedPackage) -> Archive:
    """Return a package file as the package cache knows it."""
    stem = file_stem(row.name.partition(":")[0], row.version)
    return Archive(uri=row.uri, name=f"{stem}_{row.arch}.deb", size=row.size, digest=row.sha256)


def supply_of(job: InstallJob, lock: Lock, area: Path, run: Callable[[Sequence[str]], None] | None) -> Supply:
    """Return where a build may have package files. run: runs apt's own download with pairs of a URI and where
    it goes, as the image sees it, and writes to `area/downloads`; None where nothing may be fetched."""
    root, folder = job.sandbox.root, area / "downloads"

    def download(wanted: Mapping[Path, str]) -> None:
        words: list[str] = []
        for target, uri in wanted.items():
            archive = Archive(uri=uri, name=target.name, size=0, digest="")
            with contextlib.suppress(StaleIndex):
                if not copy_local(archive, root, folder):
                    words += [uri, f"{OURS}/archives/{target.name}"]
        if words and run is not None:
            with contextlib.suppress(CommandFailed):  # some may have come
                run(words)

    return Supply(
        lock=lock.path.name or "the lock",
        date=lock.date,
        store=ArchiveStore(job.cache, job.bus),
        shown=area / "shown",
        downloads=folder,
        mirror=job.mirror,
        snapshot=job.snapshot,
        download=download if run is not None else None,
    )


# -- having the files ---------------------------------------------------------------------------------------


def have(rows: Sequence[LockedPackage], supply: Supply) -> None:
    """Link every package file into the directory where it is wanted, under apt's name for it.

    Raises LockError with each that is gone, and where it was looked for.
    """
    store, shown, folder = supply.store, supply.shown, supply.downloads
    looked = [f"the package cache {store.folder}"]
    missing = _missing(rows, store, shown)
    for what, uris in supply.places(missing) if missing and supply.download is not None else ():
        looked.append(what)
        _fetch({row: uris[row] for row in missing}, folder, supply)
        for row in missing:
            path = folder / archive_of(row).name
            if path.is_file() and (problem := store.take(archive_of(row), path, shown)):
                store.bus.note(f"{uris[row]} is {problem}: it is not what is locked", level="warning")
                path.unlink(missing_ok=True)
        if not (missing := _missing(missing, store, shown)):
            break
    if missing:
        raise gone(missing, looked, supply)


def _missing(rows: Iterable[LockedPackage], store: ArchiveStore, shown: Path) -> list[LockedPackage]:
    return [row for row in rows if store.missing([archive_of(row)], shown)]


def snapshot_uri(snapshot: str, row: LockedPackage, date: str) -> str:
    """Return where a dated mirror has a package file.

    snapshot: a time, of Debian's own one, or an address, with {archive} and {date} for what the lock says.
    """
    where = snapshot
    if "://" not in snapshot:
        where, date = DEBIAN_SNAPSHOT, snapshot
    place = urlsplit(row.repository)
    archive = place.path.strip("/").rpartition("/")[2]
    if not archive:
        archive = "debian-security" if (place.hostname or "").startswith("security.") else "debian"
    return f"{where.replace('{archive}', archive).replace('{date}', date).rstrip('/')}/{row.file}"


def _fetch(uris: Mapping[LockedPackage, str], folder: Path, supply: Supply) -> None:
    """Download what can be had of these into a folder. What is not there afterwards could not be."""
    wanted = {}
    for row, uri in uris.items():
        target, place = folder / archive_of(row).name, urlsplit(uri)
        try:
            if place.scheme != "file":
                raise FileNotFoundError
            shutil.copyfile(unquote(place.path), target)  # of this host, such as a dated mirror on its disks
        except OSError:
            wanted[target] = uri
    if wanted and supply.download is not None:
        supply.download(wanted)


def gone(rows: Sequence[LockedPackage], looked: Sequence[str], supply: Supply) -> LockError:
    """Return the error for package files that are nowhere. looked: where they were looked for."""
    names = ", ".join(map(str, rows[:3])) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
    said = [f"  {row}  sha256 {row.sha256}\n    of {row.uri}" for row in rows]
    said.append(f"looked for in {'; '.join(looked)}")
    hint = "`buildstep lock --update PACKAGE` takes what there is now"
    if supply.download is None:
        hint = f"nothing could be fetched, for want of a network; {hint}"
    elif not supply.snapshot:
        hint = f"installer_options.snapshot names a dated mirror; {hint}"
    return LockError(
        f"{supply.lock} names package files that are gone: {names}", detail="\n".join(said), hint=hint
    )


# -- the repository -----------------------------------------------------------------------------------------


def write_repository(
    folder: Path, rows: Sequence[LockedPackage], files: Path, *, suite: str = LABEL, at: str = "."
) -> None:
    """Write the index of a repository that has these package files. at: where they are, seen from it.

    The index is the same for the same files. Raises InstallError for one that cannot be read.
    """
    parts = []
    for row in sorted(rows, key=lambda row: (row.name, row.version)):
        archive = archive_of(row)
        control = control_of(files / archive.name)
        if row.priority:  # the repository's word counts for more than the file's
            control = "\n".join(
                [line for line in control.split("\n") if not line.startswith("Priority:")]
                + [f"Priority: {row.priority}"]
            )
        ends = f"Filename: {at}/{archive.name}\nSize: {row.size}\nSHA256: {row.sha256}\n"
        parts.append(f"{control}\n{ends}\n")
    text = "".join(parts).encode()
    (folder / "Packages").write_bytes(text)
    head = f"Origin: {LABEL}\nLabel: {LABEL}\nSuite: {suite}\nCodename: {suite}\n"
    day = "Thu, 01 Jan 1970 00:00:00 UTC"
    sums = f"SHA256:\n {sha256_bytes(text)} {len(text)} Packages\n"
    (folder / "Release").write_text(f"{head}Date: {day}\n{sums}")


def check(lock: Lock, answer: Resolution) -> None:
    """Raise LockError where an install would bring something that the lock does not say."""
    wanted, found = lock.versions(), answer.versions
    names = sorted(name for name in found if wanted.get(name) != found[name])
    if not names:
        return
    shown = [f"{name} {found[name] or 'removed'}" for name in names[:3]]
    raise LockError(
        f"{lock.path.name or 'the lock'} is not whole: an install of it gives {', '.join(shown)}",
        detail="\n".join(f"  {name}: {wanted.get(name) or 'nothing'} is locked" for name in names),
        hint="`buildstep lock` writes it anew",
    )


# -- what is to be locked -----------------------------------------------------------------------------------


def rows_of(
    job: InstallJob,
    archives: Sequence[Archive],
    answer: Resolution,
    origins: Mapping[str, str],
    shown: Path,
    own: Sources,
) -> list[LockedPackage]:
    """Return the package files that an install takes, which are in `shown`, as a lock has them.

    own: the sources of the image and of the build, as they are written.

    Raises InstallError for a package whose file cannot be told.
    """
    store, found = ArchiveStore(job.cache, job.bus), []
    for name, version in sorted(answer.versions.items()):
        if not version:
            continue
        plain, _, arch = name.partition(":")
        stem = file_stem(plain, version)
        files = [it for it in archives if it.stem == stem and (not arch or it.name.endswith(f"_{arch}.deb"))]
        if len(files) != 1:
            raise InstallError(f"which file the package {name} {version} is in cannot be told")
        archive = files[0]
        repository, file = own.split(archive.uri, job.mirror)
        found.append(
            LockedPackage(
                name=name,
                version=version,
                arch=archive.name.removesuffix(".deb").rpartition("_")[2],
                sha256=_kept(archive, store, shown),
                size=archive.size,
                file=file,
                repository=repository,
                origin=origins.get(name, ""),
            )
        )
    return found


def _kept(archive: Archive, store: ArchiveStore, shown: Path) -> str:
    """Return the SHA-256 of a package file, and keep it by that."""
    if archive.kind == "SHA256":
        return archive.digest
    digest = sha256_file(shown / archive.name)
    copy = shown / f".{archive.name}.{os.getpid()}"
    shutil.copyfile(shown / archive.name, copy)
    known = Archive(uri=archive.uri, name=archive.name, size=archive.size, digest=digest)
    if problem := store.take(known, copy, shown):
        raise InstallError(f"the package file {archive.name} is {problem}")
    return digest
