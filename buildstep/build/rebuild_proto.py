"""The proto directory of a build that is to be done again: given, where it was, its commit, or in a store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.build import recorded_proto
from buildstep.build.make_lock import Room
from buildstep.errors import InputMissingError, StoreError, UsageError
from buildstep.files import lookup, open_storage
from buildstep.files.checkout import Options, checkout
from buildstep.files.content import ContentStore
from buildstep.files.places import cache_folder, default_store
from buildstep.formats.unpack import unpack
from buildstep.report.record import BuildRecord
from buildstep.spec.fields import BuildSpec
from buildstep.system import process
from buildstep.tree.exclude import excluder
from buildstep.tree.proto import ProtoDir, scan_proto

if TYPE_CHECKING:
    from buildstep.build.rebuild import Told

FILES = "files:"
"""What a proto directory that is in a store is named with."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where inputs may be. scratch: a directory of this rebuild; proto: the proto directory that is given, a
    text for files:STORE#REF; prefix: of command lines, for a namespace without a network."""

    scratch: Path
    proto: Path | str | None
    prefix: tuple[str, ...] = ()


def find(spec: BuildSpec, record: BuildRecord, places: Places, room: Room, told: Told) -> Path:
    """Return a proto directory that is as the record says: the one that is given, the one that was used, or
    the commit of that. Raises InputMissingError where none is as it was."""
    facts = record.input("proto")
    wanted = str(facts.get("digest") or "")
    if not wanted:
        raise InputMissingError(
            f"{record.path} does not say what was in the proto directory (inputs.proto.digest): a buildstep"
            " from before that was recorded wrote it",
            hint="build once more with this version: its record has all that a rebuild needs",
        )
    looked = []
    for where, path in _places(spec, facts, places, room):
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
        hint="give it with --proto, such as another checkout of its commit, or files:dir:STORE#REF",
    )


def _places(
    spec: BuildSpec, facts: Mapping[str, Any], places: Places, room: Room
) -> Iterable[tuple[str, Path | None]]:
    if isinstance(places.proto, str):
        return [_from_store(places.proto, places.scratch / "from-store", room)]
    return _candidates(spec, facts, places)


def _candidates(
    spec: BuildSpec, facts: Mapping[str, Any], places: Places
) -> Iterator[tuple[str, Path | None]]:
    """Yield where the proto directory may be, and the path, None where there is nothing."""
    if isinstance(places.proto, Path):
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
    with archive.open("rb") as stream:
        unpack(stream, into, privileged=False)  # the repository may be anybody's: nothing leads out of there
    archive.unlink()
    return into


def _read(spec: BuildSpec, path: Path) -> ProtoDir:
    found = scan_proto(path, exclude=excluder(spec.exclude) if spec.exclude else None)
    found.read_all()
    return found


def _from_store(locator: str, into: Path, room: Room) -> tuple[str, Path | None]:
    """Make the tree of files:STORE#REF, and return what to call it, and the path. The store is a directory.

    Raises InputMissingError for one that is reached over a network, and what cannot be had of it.
    """
    url, _, name = locator.removeprefix(FILES).rpartition("#")
    url = url or room.environ.get("BUILDSTEP_STORE", "") or default_store(room.environ)
    where = f"{name} of the store {url}"
    try:
        if not url.startswith("dir:"):
            raise StoreError("it is reached over a network alone")
        storage = open_storage(url, environ=room.environ, bus=room.bus)
        store = ContentStore(storage, bus=room.bus, kept=cache_folder(room.environ))
        checkout(store, lookup.find(store, name).entries, into, Options())
    except (StoreError, UsageError) as error:
        raise InputMissingError(
            "the proto directory is not here as it was",
            detail=f"  looked for as {where}: {error.message}\n{error.detail}".rstrip(),
            hint=error.hint or "`buildstep files list` shows what there is",
        ) from error
    return where, into
