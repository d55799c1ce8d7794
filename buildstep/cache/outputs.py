"""Keep a note of the outputs of each build, so that the same build need not write them again.

    state/artifacts/KEY.json        where these outputs are: of each place the files, each with its lstat, and
                                    what the build reported
    state/artifacts/last-NAME.json  the inputs of a component's last build, to say what differs

The key is a digest of everything that decides the bytes of the outputs, and of no path of the CI host. A
place is void once one of its files was touched or is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep.cache import records
from buildstep.errors import ImageError
from buildstep.formats.oci.layout import verified
from buildstep.system.digest import sha256_file
from buildstep.system.files import stamp
from buildstep.system.private import private_dir
from buildstep.system.text import difference

FORMAT = 7

_PLACES = 8
"""How many places of the same outputs are known: those that were written last."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """places: by the path that the files have in common, oldest first. Of each files, the stamp of each by
    its path, and told, what the build reported."""

    places: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        if not isinstance(self.places, dict):
            raise TypeError("places is an object")
        for place in self.places.values():
            if not isinstance(place["files"], dict) or not isinstance(place["told"], dict):
                raise TypeError("files and told are objects")

    def save(self, path: Path) -> None:
        records.save(path, self, FORMAT)


@dataclass(frozen=True, slots=True)
class Last:
    """The last build of a component: its inputs, and the key of its layer with the packages and what that was
    made of, if it had one."""

    inputs: Mapping[str, Any]
    layer: str = ""
    layer_inputs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, dict) or not isinstance(self.layer_inputs, dict):
            raise TypeError("inputs are objects")


def key_of(inputs: Mapping[str, Any]) -> str:
    """Return the key of the outputs that these inputs decide."""
    text = json.dumps([FORMAT, inputs], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def stamp_of(path: Path) -> list[int]:
    """Return what changes when an output is replaced or written to. Raises OSError.

    Of an image that is a directory: when a file in it comes, goes, is replaced or written to. Its layers can
    have other names, in a pool or in other images; names come and go, so that no ctime counts there.
    """
    if not path.is_dir() or path.is_symlink():
        return stamp(path)
    rows = []
    for folder, folders, files in os.walk(path, onerror=_raised):
        for name in ("", *folders, *files):
            info = os.lstat(os.path.join(folder, name))
            rows.append((folder, name, info.st_ino, info.st_size, info.st_mtime_ns))
    digest = hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()
    top = path.lstat()
    return [top.st_dev, top.st_ino, len(rows), int(digest[:15], 16)]


def _raised(error: OSError) -> None:
    raise error


def _path(state: Path, key: str) -> Path:
    return state / "artifacts" / f"{key}.json"


def _last_path(state: Path, component: str) -> Path:
    return _path(state, f"last-{hashlib.sha256(component.encode(errors='surrogateescape')).hexdigest()[:32]}")


def last(state: Path, component: str) -> Last | None:
    """Return what is known of the last build of a component; None if there was none."""
    return records.find(Last, _last_path(state, component), FORMAT)


def of_last(state: Path, component: str) -> Mapping[str, Any] | None:
    """Return what the last build of a component reported, whatever became of its files; None for none."""
    known = last(state, component)
    entry = None if known is None else records.find(_Entry, _path(state, key_of(known.inputs)), FORMAT)
    return (
        None
        if entry is None
        else next((place["told"] for place in reversed(list(entry.places.values()))), None)
    )


def why_not(last_build: Last | None, inputs: Mapping[str, Any]) -> list[str]:
    """Return why no earlier outputs are valid: what differs from the component's last build, a sentence
    each."""
    if last_build is None:
        return ["the first build of this component"]
    return difference(last_build.inputs, inputs) or ["the outputs of the last build were changed or removed"]


def save(
    state: Path, inputs: Mapping[str, Any], place: Path, files: Iterable[Path], facts: Mapping[str, Any]
) -> None:
    """Keep a note of a build's outputs, once they have their names. place: their path without extension;
    facts: what `find` returns of it."""
    path = _path(state, key_of(inputs))
    private_dir(path.parent)
    known = records.find(_Entry, path, FORMAT)
    name = os.fspath(place)
    places = {other: row for other, row in (known.places if known else {}).items() if other != name}
    row = {"files": {os.fspath(file): stamp_of(file) for file in files}, "told": dict(facts)}
    rows = [*places.items(), (name, row)]
    _Entry(dict(rows[-_PLACES:])).save(path)


def save_last(state: Path, component: str, build: Last) -> None:
    """Keep a note of what a component's last build was made from."""
    path = _last_path(state, component)
    if last(state, component) != build:
        private_dir(path.parent)
        records.save(path, build, FORMAT)


def find(state: Path, key: str, place: Path) -> Mapping[str, Any] | None:
    """Return what the build of this key reported, with its key and the place where its files are: where they
    are wanted, or else another one. None unless all its outputs are untouched."""
    found = records.find(_Entry, _path(state, key), FORMAT)
    wanted = os.fspath(place)
    names = sorted(found.places, key=lambda name: name == wanted) if found is not None else ()
    for name in reversed(names):  # the last one written first
        assert found is not None
        row = found.places[name]
        with contextlib.suppress(OSError):
            if all(stamp_of(Path(file)) == there for file, there in row["files"].items()):
                return {**row["told"], "key": key, "place": name}
    return None


def damaged(files: Iterable[Mapping[str, Any]]) -> str:
    """Hash outputs, and say which one is not what was written, empty for none. files: as `find` has them."""
    for file in files:
        path = Path(file["path"])
        try:
            if (verified(path) if path.is_dir() else sha256_file(path)) == file["sha256"]:
                continue
        except (OSError, ImageError):
            pass
        return f"{path.name} is not what was written, though nothing touched it"
    return ""


def touch(state: Path, key: str) -> None:
    """Note that an entry was used: what is not used for long is pruned."""
    with contextlib.suppress(OSError):
        os.utime(_path(state, key))


def restamp(state: Path, path: Path, before: list[int]) -> None:
    """Keep an entry valid although we changed one of its files, such as a record, or one that goes beside
    them (`trust` of what was told). before: its old stamp."""
    name = os.fspath(path.absolute())
    for note in (state / "artifacts").glob("*.json"):
        entry = records.find(_Entry, note, FORMAT)
        rows = {} if entry is None else entry.places
        changed = {
            place: new for place, row in rows.items() if (new := _restamped(row, name, before, stamp(path)))
        }
        if changed:
            _Entry({**rows, **changed}).save(note)


def _restamped(row: Mapping[str, Any], name: str, before: list[int], now: list[int]) -> dict[str, Any]:
    """Return the row of a place with the new stamp of a file; nothing where it has no such file."""
    if row["files"].get(name) == before:
        return {**row, "files": {**row["files"], name: now}}
    beside = row["told"].get("trust", {})
    if beside.get("files", {}).get(name) != before:
        return {}
    trust = {**beside, "files": {**beside["files"], name: now}}
    return {**row, "told": {**row["told"], "trust": trust}}
