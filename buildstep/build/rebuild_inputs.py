"""The inputs of a build that is to be done again: each is found here, and is what it was, or is named."""

from __future__ import annotations

import dataclasses
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.build import recorded_proto
from buildstep.build.make_lock import Room
from buildstep.errors import InputMissingError
from buildstep.report.record import BuildRecord
from buildstep.rootfs.installers.apt_archives import ArchiveStore
from buildstep.rootfs.installers.apt_locked import archive_of
from buildstep.rootfs.installers.deb_file import file_stem
from buildstep.rootfs.interface import Package
from buildstep.spec import locking
from buildstep.spec.fields import BuildSpec
from buildstep.spec.lock import Lock, LockedBase, LockedPackage, MadeOf
from buildstep.spec.repositories import PackageFile
from buildstep.system import process
from buildstep.system.digest import sha256_file
from buildstep.tree.exclude import excluder
from buildstep.tree.proto import ProtoDir, scan_proto

if TYPE_CHECKING:
    from buildstep.build.rebuild import Told


@dataclass(frozen=True, slots=True)
class Places:
    """Where inputs may be. scratch: a directory of this rebuild; proto: the proto directory that is given;
    prefix: of command lines, for a namespace without a network."""

    scratch: Path
    proto: Path | None
    prefix: tuple[str, ...] = ()


def ready(spec: BuildSpec, record: BuildRecord, room: Room, places: Places, told: Told) -> BuildSpec:
    """Return the spec with all inputs that the record names, each compared with what it was.

    Raises InputMissingError for the first that is not here.
    """
    _secrets(spec, room.environ, told)
    spec = dataclasses.replace(spec, proto=_proto(spec, record, places, told))
    spec = dataclasses.replace(spec, package_files=_package_files(spec, record, told))
    return dataclasses.replace(spec, lock=_lock(spec, record, room, told))


# -- secrets and files --------------------------------------------------------------------------------------


def _secrets(spec: BuildSpec, environ: Mapping[str, str], told: Told) -> None:
    for name, secret in spec.secrets.items():
        where = f"the variable {secret.env}" if secret.env else f"the file {secret.file}"
        there = secret.env in environ if secret.env else os.path.isfile(secret.file or "")
        if not there:
            raise InputMissingError(
                f"the secret {name} is not here: {where} is not there",
                hint="the record has its name alone; give it as the build had it",
            )
        told.inputs.append((f"secret {name}", where))


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


# -- the proto directory ------------------------------------------------------------------------------------


def _proto(spec: BuildSpec, record: BuildRecord, places: Places, told: Told) -> Path:
    """Return a proto directory that is as the record says: the one that is given, the one that was used, or
    the commit of that."""
    facts = record.input("proto")
    wanted = str(facts.get("digest") or "")
    if not wanted:
        raise InputMissingError(
            f"{record.path} does not say what was in the proto directory (inputs.proto.digest): a buildstep"
            " from before that was recorded wrote it",
            hint="build once more with this version: its record has all that a rebuild needs",
        )
    looked = []
    for where, path in _candidates(spec, facts, places):
        if path is None:
            looked.append(f"{where}: not there")
            continue
        found = _read(spec, path)
        digest = recorded_proto.digest_of(found, owners="keep" in spec.owner.values())
        if digest == wanted:
            told.inputs.append(("proto directory", where))
            if facts.get("times") not in (None, "", recorded_proto.times_of(found, spec.source_date_epoch)):
                told.notes.append(
                    f"{where} has the same content, and other times from before SOURCE_DATE_EPOCH, which are"
                    " in the image files: the tree is the same then, and these are not"
                )
            return path
        looked.append(f"{where}: digest {digest}")
        if places.proto is not None:
            break
    raise InputMissingError(
        "the proto directory is not here as it was",
        detail="\n".join(f"  {line}" for line in (f"digest {wanted} is recorded", *looked)),
        hint="give it with --proto, such as another checkout of its commit",
    )


def _candidates(
    spec: BuildSpec, facts: Mapping[str, Any], places: Places
) -> Iterator[tuple[str, Path | None]]:
    """Yield where the proto directory may be, and the path, None where there is nothing."""
    if places.proto is not None:
        yield os.fspath(places.proto), places.proto if places.proto.is_dir() else None
        return
    yield os.fspath(spec.proto), spec.proto if spec.proto.is_dir() else None
    git = facts.get("git")
    # Anything else would be an option of git's.
    if isinstance(git, Mapping) and _COMMIT.fullmatch(str(git.get("commit"))):
        tree = f"{git['commit']}:{git['path']}" if git.get("path") else str(git["commit"])
        for top in dict.fromkeys((str(git.get("top") or os.getcwd()), os.getcwd())):
            for umask in _UMASKS:
                path = _checked_out(top, tree, umask, places)
                yield f"commit {git['commit']} of the repository at {top} (umask {umask})", path
                if path is None:
                    break


_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
"""The digest of a commit."""

_UMASKS = ("0022", "0002", "0077")
"""Of whoever checks out: git knows only whether a file is a program, and its mode is made of this."""


def _checked_out(top: str, tree: str, umask: str, places: Places) -> Path | None:
    """Return a directory of a commit, put into a scratch directory; None where there is no such commit.

    Git has no network, and runs none of the filters that the repository names.
    """
    if not os.path.isdir(top):
        return None
    into = places.scratch / f"commit-{len(list(places.scratch.glob('commit-*')))}"
    archive = into.with_suffix(".tar")
    git = [*places.prefix, "git", "-C", top]
    argv = [*git, "config", "--null", "--name-only", "--get-regexp", r"^filter\."]
    settings = [f"tar.umask={umask}"]
    for name in {
        name.rpartition(".")[0] for name in process.query(argv, ok=range(256)).stdout.split("\0") if name
    }:
        settings += [f"{name}.smudge=", f"{name}.process=", f"{name}.required=false"]
    argv = [*git, *(word for text in settings for word in ("-c", text))]
    argv += ["archive", "--format=tar", f"--output={archive}", tree]
    if process.query(argv, ok=range(256), timeout=600.0).status != 0:
        return None
    into.mkdir()
    with tarfile.open(archive) as files:
        files.extractall(into, filter="fully_trusted")  # noqa: S202 - git made it, of a commit of ours
    archive.unlink()
    return into


def _read(spec: BuildSpec, path: Path) -> ProtoDir:
    found = scan_proto(path, exclude=excluder(spec.exclude) if spec.exclude else None)
    found.read_all()
    return found


# -- base and packages --------------------------------------------------------------------------------------


def _lock(spec: BuildSpec, record: BuildRecord, room: Room, told: Told) -> Lock:
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
    told.inputs.append((f"base image {base.label}", made if stored is None else room.store.backend.uri))
    own = [(row.name, row.version) for row in stored.packages] if stored is not None else []
    own = own or [(row.name, row.version) for row in made_of.packages]
    rows = _packages(spec, record, own, room, told)
    installed = {row.name for row in record.packages}
    gone = tuple(sorted(name for name, _ in own if name not in installed)) if record.packages else ()
    return Lock(
        asked=locking.asked(spec),
        base=base,
        date=record.started.strftime("%Y%m%dT%H%M%SZ"),
        installer=str(record.inputs.get("installer") or ""),
        packages=tuple(rows),
        removed=gone,
        path=Path(record.path),
    )


def _packages(
    spec: BuildSpec, record: BuildRecord, own: Sequence[tuple[str, str]], room: Room, told: Told
) -> Sequence[LockedPackage]:
    """Return the package files of the record; all of them are in the package cache, and are what they were.
    own: the packages that the base has by itself."""
    if not (spec.packages or spec.upgrade_first):
        return ()
    installer = str(record.inputs.get("installer") or "")
    if installer != "apt":
        raise InputMissingError(
            f"{record.path} does not say of which package files the image is: {installer or 'its installer'}"
            " does not tell, so packages cannot be had again without its repository",
            hint="take a base image that has the packages, and rebuild that",
        )
    store = ArchiveStore(room.store.backend.state / "packages" / installer, room.bus)
    rows = record.package_files or _by_name(record, own, store)
    given = {file.sha256 for file in spec.package_files}
    for row in rows:
        path = store.path(archive_of(row))
        if row.sha256 not in given and (problem := store.problem(archive_of(row), path)):
            raise _gone(row, problem, store)
    told.inputs.append((f"{len(rows)} package files", os.fspath(store.folder)))
    return rows


def _gone(row: LockedPackage, problem: str, store: ArchiveStore) -> InputMissingError:
    return InputMissingError(
        f"the package file of {row} is {problem}",
        detail=f"  sha256 {row.sha256}\n  it was {row.uri}\n  looked for at {store.path(archive_of(row))}",
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
