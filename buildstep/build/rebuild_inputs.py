"""The inputs of a build that is to be done again: each is found here, and is what it was, or is named."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from buildstep.build import rebuild_proto
from buildstep.build.make_lock import Room
from buildstep.build.rebuild_proto import Places
from buildstep.build.rebuild_shared import Shelf
from buildstep.errors import InputMissingError
from buildstep.images.record import ImageRecord
from buildstep.report.record import BuildRecord
from buildstep.rootfs.installers.apt_archives import ArchiveStore
from buildstep.rootfs.installers.apt_locked import archive_of
from buildstep.rootfs.installers.deb_file import file_stem
from buildstep.rootfs.interface import Package
from buildstep.spec import locking
from buildstep.spec.fields import BuildSpec
from buildstep.spec.lock import Lock, LockedBase, LockedPackage, MadeOf
from buildstep.spec.repositories import PackageFile
from buildstep.system.digest import sha256_file
from buildstep.system.text import plural

if TYPE_CHECKING:
    from buildstep.build.rebuild import Told


def ready(
    spec: BuildSpec, record: BuildRecord, room: Room, places: Places, shelf: Shelf, told: Told
) -> BuildSpec:
    """Return the spec with all inputs that the record names, each compared with what it was.

    Raises InputMissingError for the first that is not here.
    """
    _secrets(spec, room.environ, told)
    spec = dataclasses.replace(spec, proto=rebuild_proto.find(spec, record, places, room, told))
    spec = dataclasses.replace(spec, package_files=_package_files(spec, record, told))
    return dataclasses.replace(spec, lock=_lock(spec, record, room, shelf, told))


# -- secrets and files --------------------------------------------------------------------------------------


def _secrets(spec: BuildSpec, environ: Mapping[str, str], told: Told) -> None:
    missing = []
    for name, secret in spec.secrets.items():
        where = f"the variable {secret.env}" if secret.env else f"the file {secret.file}"
        if secret.env in environ if secret.env else os.path.isfile(secret.file or ""):
            told.inputs.append((f"secret {name}", where))
        else:
            missing.append((name, where))
    if missing:
        names = ", ".join(name for name, _ in missing)
        raise InputMissingError(
            f"{plural(len(missing), 'secret')} of the build not here: {names}",
            detail="\n".join(
                f"  {name}: looked for in {where}, which is not there" for name, where in missing
            ),
            hint="the record has their names alone; give them as the build had them",
        )


def _package_files(spec: BuildSpec, record: BuildRecord, told: Told) -> tuple[PackageFile, ...]:
    """Return the packages that were given as files: by their names, seen from here or from the m.json."""
    found = []
    source = Path(str(record.input("spec").get("source") or ""))
    folders = [Path.cwd(), source.parent if source.name else Path.cwd(), spec.proto.parent]
    for file in spec.package_files:
        paths = [Path(os.path.abspath(folder / file.name)) for folder in dict.fromkeys(folders)]
        path = next((path for path in paths if path.is_file() and sha256_file(path) == file.sha256), None)
        if path is None:
            raise InputMissingError(
                f"the package file {file.name} is not here",
                detail=f"  sha256 {file.sha256}\n  looked for at {', '.join(map(os.fspath, paths))}",
                hint="run the command where the file is named so",
            )
        told.inputs.append((f"package file {file.name}", os.fspath(path)))
        found.append(dataclasses.replace(file, path=path))
    return tuple(found)


# -- base and packages --------------------------------------------------------------------------------------


def _lock(spec: BuildSpec, record: BuildRecord, room: Room, shelf: Shelf, told: Told) -> Lock:
    """Return what the record says of base and packages as a lock, by which a build takes exactly that."""
    image = record.input("image")
    made_of = MadeOf.from_json(image["made_of"]) if image.get("made_of") else MadeOf()
    base = LockedBase(
        label=str(image.get("label", "")),
        key=str(image.get("key", "")),
        uuid=str(image.get("uuid", "")),
        tree_digest=str(image.get("tree_digest", "")),
        digest=str(image.get("digest", "")),
        release=str(image.get("release", "")),
        epoch=made_of.epoch,
        newest=made_of.newest,
        sources=made_of.sources,
        packages=made_of.packages,
    )
    stored = next((row for row in room.store.records() if row.uuid == base.uuid), None)
    made = f"made again of {len(base.packages)} packages" if base.packages else spec.image
    lock = Lock(
        asked=locking.asked(spec),
        base=base,
        date=record.started.strftime("%Y%m%dT%H%M%SZ"),
        installer=str(record.inputs.get("installer") or ""),
        path=Path(record.path),
    )
    there = shelf.base(dataclasses.replace(spec, lock=lock)) if stored is None else room.store.backend.uri
    told.inputs.append((f"base image {base.label}", there or made))
    own = [(row.name, row.version) for row in stored.packages] if stored is not None else []
    own = own or [(row.name, row.version) for row in made_of.packages]
    installed = {row.name for row in record.packages}
    gone = tuple(sorted(name for name, _ in own if name not in installed)) if record.packages else ()
    lock = dataclasses.replace(lock, removed=gone)
    return dataclasses.replace(
        lock, packages=_packages(spec, record, own, Stock(room, shelf, lock, stored), told)
    )


@dataclass(frozen=True, slots=True)
class Stock:
    """Where packages may be. lock: what is known of them but for their files; stored: the base, if the pool
    has it."""

    room: Room
    shelf: Shelf
    lock: Lock
    stored: ImageRecord | None


def _packages(
    spec: BuildSpec, record: BuildRecord, own: Sequence[tuple[str, str]], stock: Stock, told: Told
) -> tuple[LockedPackage, ...]:
    """Return the package files of the record; all of them are in the package cache, and are what they were,
    or else the layer that they made is in the shared cache. own: the packages that the base has by itself."""
    if not (spec.packages or spec.upgrade_first):
        return ()
    installer = str(record.inputs.get("installer") or "")
    if installer != "apt":
        raise InputMissingError(
            f"{record.path} does not say of which package files the image is: {installer or 'its installer'}"
            " does not tell, so packages cannot be had again without its repository",
            hint="take a base image that has the packages, and rebuild that",
        )
    room, shelf = stock.room, stock.shelf
    store = ArchiveStore(room.store.backend.state / "packages" / installer, room.bus)
    rows = tuple(record.package_files or _by_name(record, own, store))
    given = {file.sha256 for file in spec.package_files}
    problems = ((row, store.problem(archive_of(row), store.path(archive_of(row)))) for row in rows)
    wrong = next(((row, text) for row, text in problems if text and row.sha256 not in given), None)
    if wrong is None:
        told.inputs.append((f"{len(rows)} package files", os.fspath(store.folder)))
        return rows
    where = shelf.packages(spec, dataclasses.replace(stock.lock, packages=rows), stock.stored)
    if not where:
        raise _gone(*wrong, store, shelf.why)
    told.inputs.append((f"the layer of {len(rows)} packages", where))
    told.notes.append(
        f"packages were not installed again: the file of {wrong[0]} is {wrong[1]}, and the layer that they"
        " made is in the shared cache"
    )
    return rows


def _gone(row: LockedPackage, problem: str, store: ArchiveStore, why: str) -> InputMissingError:
    return InputMissingError(
        f"the package file of {row} is {problem}",
        detail=f"  sha256 {row.sha256}\n  it was {row.uri}\n  looked for at {store.path(archive_of(row))}"
        f"\n  the layer with the packages is {why}",
        hint=f"put it there by that name, or into another pool's {store.folder.name} (--pool)",
    )


def _by_name(record: BuildRecord, own: Sequence[tuple[str, str]], store: ArchiveStore) -> list[LockedPackage]:
    """Return package files by name and version, for a record that has no digests of them: the cache has the
    digest in the name of each file."""
    there, found = set(own), []
    if not own:
        raise InputMissingError(
            f"{record.path} does not say of which package files the image is, nor is the base here to tell"
            " which packages came over it",
            hint="a buildstep from before that was recorded wrote it: build once more with this version",
        )
    for package in record.packages:
        if (package.name, package.version) in there:
            continue
        row = _in_cache(package, store)
        if row is None:
            raise InputMissingError(
                f"the package file of {package.name} {package.version} is not here, and the record, of a "
                "buildstep from before that was recorded, does not have its digest",
                detail=f"  looked for in {store.folder}",
                hint="build once more with this version: its record has all that a rebuild needs",
            )
        found.append(row)
    return found


def _in_cache(package: Package, store: ArchiveStore) -> LockedPackage | None:
    name = f"{file_stem(package.name, package.version)}_{package.arch}.deb"
    paths = [path for path in store.folder.glob(f"{name}.*") if len(path.suffix) == 1 + 64]
    if len(paths) != 1:
        return None
    return LockedPackage(
        name=package.name,
        version=package.version,
        arch=package.arch,
        sha256=paths[0].suffix[1:],
        size=paths[0].stat().st_size,
        file=name,
        repository="file:",
    )
