"""Components staged apart: each is built in a copy that has its own files and what its providers declare.

    stage/COMPONENT/                  where hooks start, as at the top of the repository in pai
    stage/COMPONENT/src/COMPONENT/    the component: its own files, copied; the context of its images
      dependency/PROVIDER/            `generated/` of the provider, and what component.dep names besides
      generated/                      what hooks make for others
    products/DIGEST/                  what a hook changed in such a copy, for its consumers and later runs

Nothing is read of a component but its own files, and nothing in the source tree is written, moved or removed:
a `dependency` or `generated` that somebody has there belongs to them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from buildstep.components import hook_changes
from buildstep.components.hook_changes import Before
from buildstep.components.interface import Component, Dependency, GraphError
from buildstep.components.own_files import Copier, OwnFiles
from buildstep.errors import DatasetError
from buildstep.system import files
from buildstep.system.digest import sha256_bytes, sha256_file
from buildstep.system.files import read_json, write_json
from buildstep.system.private import private_dir
from buildstep.system.remove import remove_tree
from buildstep.tree import entry
from buildstep.tree.diff import Changes
from buildstep.tree.entry import FileList, line

DEPENDENCY: Final = "dependency"
GENERATED: Final = "generated"

NOTHING: Final = "sha256:" + sha256_bytes(b"")
"""The output of a hook that changed nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A staged component. top: where hooks start; folder: the component in it; upper: what is written there
    goes to this directory, None where the component was copied."""

    component: Component
    top: Path
    folder: Path
    upper: Path | None = None

    @property
    def temporary(self) -> Path:
        """A directory for temporary files, which is no part of the component."""
        return self.top / "tmp"


class Provider(NamedTuple):
    """A component whose products another one wants. outputs: of its hooks, in their order."""

    component: Component
    dependency: Dependency
    outputs: Sequence[str]


class Products(NamedTuple):
    """What a hook changed. entries: paths with what they are now; removed: paths; folder: has the files."""

    entries: FileList
    removed: list[str]
    folder: Path


class Stages:
    """The staged components and the products in a state directory. Safe for threads that stage different
    components.

    root: of the repository; below it a component's place is the same in its stage. mounting: whether mounts
    of this process end with it, so that files need not be copied.
    """

    def __init__(self, state: Path, root: Path, *, mounting: bool = False) -> None:
        self._folder, self._products, self._root = state / "stage", state / "products", root
        self._own = OwnFiles(mounting=mounting)
        self._keeping: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def clear(self) -> None:
        """Remove all stages, such as those of a run that was killed."""
        self._own.drop(self._folder)
        if self._folder.exists():
            remove_tree(self._folder)

    def remove(self, component: str) -> None:
        """Remove a component's stage."""
        self._own.drop(self._folder / component)
        remove_tree(self._folder / component)

    def has(self, output: str) -> bool:
        """Return whether the products of a hook are here, complete and as they were written.

        A file whose stamp is another one is read: it may have come with a copy of the state directory.
        """
        if output == NOTHING:
            return True
        top, sidecar = self._products / _name(output), self._sidecar(output)
        try:
            value = read_json(sidecar)
            _ = value["list"]  # what a version wrote that had none cannot be handed over: it is made again
            other = [name for name, (_, stamp) in value["files"].items() if files.stamp(top / name) != stamp]
            for name in other:
                digest, _ = value["files"][name]
                if sha256_file(top / name) != digest:
                    return False
                value["files"][name] = digest, files.stamp(top / name)
            if other:
                write_json(sidecar, value, durable=False)
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def prune(self, wanted: Iterable[str]) -> None:
        """Remove products that are not among these outputs."""
        names = {_name(output) for output in wanted}
        if self._products.is_dir():
            for path in self._products.iterdir():
                if path.name.removesuffix(".json") not in names:
                    remove_tree(path)

    # -- staging ------------------------------------------------------------------------------------

    def stage(
        self, component: Component, providers: Sequence[Provider] = (), outputs: Sequence[str] = ()
    ) -> Stage:
        """Copy a component, and what it gets from its providers, and return the new stage.

        outputs: of its own hooks that ran before, whose products belong to it. Raises GraphError for a path
        that a provider does not have, OSError.
        """
        top = self._folder / component.name
        if top.exists():
            self.remove(component.name)
        folder = top / component.path.relative_to(self._root)
        private_dir(self._folder)
        for name in ("tmp", "own"):
            (top / name).mkdir(parents=True)
        upper = self._own.bring(component, folder, top / "own")
        copy = Copier()
        for provider in providers:
            self._hand_over(provider, folder, copy)
        (folder / GENERATED).mkdir(exist_ok=True)
        for output in outputs:
            self._apply(output, folder, copy)
        return Stage(component=component, top=top, folder=folder, upper=upper)

    def _hand_over(self, provider: Provider, folder: Path, copy: Copier) -> None:
        """Put a provider's declared products into `dependency/`: of its hooks, else of its files."""
        component = provider.component
        target = folder / DEPENDENCY / component.name
        wanted = (GENERATED, *provider.dependency.paths)
        found: set[str] = set()
        made: set[str] = set()
        for path in provider.dependency.paths:
            for name in component.files:
                if _is_below(name, path):
                    copy.one(component.path / name, target, name, made)
                    found.add(path)
        for output in provider.outputs:
            found |= self._apply(output, target, copy, wanted)
        missing = sorted(set(provider.dependency.paths) - found)
        if missing:
            raise GraphError(
                f"{provider.dependency.where}: {component.name} has no {', '.join(missing)}",
                hint="name a file or directory of that component, or one that its hook makes",
            )

    def _apply(self, output: str, target: Path, copy: Copier, wanted: Sequence[str] = ()) -> set[str]:
        """Lay the products of a hook over a directory; return which of the wanted paths came, if not all."""
        if output == NOTHING:
            return set()
        source, found = self._products / _name(output), set()
        made: set[str] = set()
        for path in _removed(self._sidecar(output)):
            if not wanted:
                remove_tree(target / path)
        for full, _, names in _walk(source):
            for name in names:
                relative = os.path.relpath(os.path.join(full, name), source)
                under = next((path for path in wanted if _is_below(relative, path)), None)
                if wanted and under is None:
                    continue
                found.add(under or "")
                copy.one(Path(full, name), target, relative, made)
        return found

    # -- products -----------------------------------------------------------------------------------

    def look(self, stage: Stage) -> Before:
        """Return what a stage holds, to be asked right before a hook runs in it."""
        return hook_changes.look(stage.upper or stage.folder)

    def keep(self, stage: Stage, before: Before) -> str:
        """Keep what a hook changed in its stage; return the digest of it, the output of the hook's job."""
        if stage.upper is None:
            changes = hook_changes.in_copy(stage.folder, before)
        else:
            changes = hook_changes.in_overlay(stage.upper, stage.component, before)
        digest = _digest(changes)
        # Hooks that make the same at the same time: what one has kept, and others use, stays as it is.
        with self._keeping[digest]:
            if not self.has(digest):
                self._write(changes, stage.folder, digest)
        return digest

    def products(self, output: str) -> Products:
        """Return what a hook changed, as it is kept. Raises DatasetError where it is not there."""
        try:
            value = read_json(self._sidecar(output))
            entries = entry.loads(value["list"].encode("ascii"))
            return Products(entries, [str(path) for path in value["removed"]], self._products / _name(output))
        except (OSError, ValueError, KeyError) as error:
            raise _gone(self._sidecar(output)) from error

    def adopt(
        self, output: str, entries: FileList, removed: Sequence[str], fill: Callable[[Path], object]
    ) -> None:
        """Keep what a hook changed on another machine. fill: makes the tree of it in a directory that is not
        there yet, contents verified by their digests in the entries.

        Raises GraphError where this is not the output that it is said to be, and what `fill` raises.
        """
        rows = [entries[path] for path in sorted(entries)]
        paths = tuple(map(os.fsencode, removed))
        if _digest(Changes(tuple(rows), paths)) != output:
            raise GraphError(f"what came as the products {output[:19]} of a hook are others")
        with self._keeping[output]:
            if not self.has(output):
                with self._filling(output, Changes(tuple(rows), paths)) as part:
                    fill(part)

    def _write(self, changes: Changes, folder: Path, digest: str) -> None:
        with self._filling(digest, changes) as part:
            part.mkdir()
            copy, made = Copier(), set[str]()
            for row in changes.entries:
                name = os.fsdecode(row.path)
                if row.path:
                    copy.one(folder / name, part, name, made)

    @contextlib.contextmanager
    def _filling(self, digest: str, changes: Changes) -> Iterator[Path]:
        """Yield a path at which the block makes the products; they get their name at the end of it."""
        private_dir(self._products)
        final = self._products / _name(digest)
        part = self._products / f".{_name(digest)}.{os.getpid()}.{time.monotonic_ns()}.part"
        try:
            yield part
        except BaseException:
            remove_tree(part)
            raise
        self._sidecar(digest).unlink(missing_ok=True)
        remove_tree(final)  # damaged, or of a run that was killed
        part.rename(final)
        rows = {row.path: row for row in changes.entries if row.path}
        value = {
            "format": 1,
            "removed": [os.fsdecode(path) for path in changes.removed],
            "list": entry.dumps(rows).decode("ascii"),
            # What a crash of the machine or a person did to them is seen by these.
            "files": {
                os.fsdecode(row.path): (row.sha256, files.stamp(final / os.fsdecode(row.path)))
                for row in changes.entries
                if row.kind == "f"
            },
        }
        write_json(self._sidecar(digest), value, durable=False)

    def _sidecar(self, output: str) -> Path:
        return self._products / f"{_name(output)}.json"


def _digest(changes: Changes) -> str:
    rows = [line(row) for row in changes.entries if row.path]
    rows += [b"removed\t" + path for path in changes.removed]
    return "sha256:" + sha256_bytes(b"\n".join(rows))


def _name(output: str) -> str:
    return output.removeprefix("sha256:")


def _is_below(name: str, path: str) -> bool:
    return path in ("", ".") or name == path or name.startswith(path + "/")


def _removed(sidecar: Path) -> list[str]:
    try:
        return [str(path) for path in read_json(sidecar)["removed"]]
    except (OSError, ValueError, KeyError) as error:
        raise _gone(sidecar) from error


def _gone(sidecar: Path) -> DatasetError:
    return DatasetError(f"the products of a hook are gone: {sidecar}", hint="build it again")


def _walk(top: Path) -> Iterable[tuple[str, list[str], list[str]]]:
    """As os.walk, with links to directories, and directories, among the names; sorted."""
    for full, folders, names in os.walk(top):
        folders.sort()
        yield full, [], sorted([*folders, *names])


def free_bytes(state: Path) -> int:
    """Return the bytes that are free where stages are."""
    there = next(path for path in (state, *state.parents) if path.is_dir())
    return shutil.disk_usage(there).free
