"""The directory layout that file-based pools share: mark, state, and one folder per dataset.

Nobody but its owner may enter PATH (`privacy`).

PATH/buildstep-pool.json      {"format": 1, "scheme": ...}: without it nothing here is ours
PATH/state/                   records, locks, journals, caches
PATH/{image,layer,build}/ID/  one dataset each
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from buildstep.errors import DatasetError
from buildstep.pool import privacy, scratch
from buildstep.pool.interface import Dataset, Kind
from buildstep.system import root_namespace, sealed
from buildstep.system.files import fsync_dir, read_json
from buildstep.system.locks import try_lock
from buildstep.system.private import private_dir
from buildstep.system.remove import remove_tree

MARK = "buildstep-pool.json"
FORMAT = 1

_EARLY = frozenset(("lost+found", "state", *Kind))
"""What may be there before the mark is: a file system's own, and what a build that begins makes first."""

_IDENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class DirectoryPool:
    """A marked directory, made with the first dataset. One that holds something else is refused.

    It has the part of a `Backend` that does not depend on how trees are cloned.
    """

    scheme: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state"
        self.mark = path / MARK
        # Root, here or of a user namespace, sets the owners of what it makes; anybody else records them, and
        # so does root of a container that has not all of a root's rights.
        self._owners = "recorded" if os.geteuid() != 0 or root_namespace.is_needed() else "real"
        with self._usable():
            self._check()

    @property
    def uri(self) -> str:
        return f"{self.scheme}:{self.path}"

    @property
    def wall(self) -> Path:
        return self.path

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatasetError(
                f"cannot use the pool {self.uri}: {error.strerror}",
                hint="choose another with --pool or BUILDSTEP_POOL",
            ) from error

    def _check(self) -> bool:
        """Say whether the pool is there. Raises DatasetError for one that is not ours to use."""
        privacy.refuse_foreign(self.path, self.uri)
        try:
            found = _read_mark(self.mark)
            there = (found["format"], found["scheme"])
            owners = found.get("owners", self._owners)
        except FileNotFoundError:
            if self._holds_more():
                raise DatasetError(
                    f"{self.path} holds files that are not ours",
                    hint="give an empty directory, or a pool made by buildstep, to --pool",
                ) from None
            return False
        except (ValueError, KeyError) as error:
            if not self._holds_more():
                return False  # it is written again, as one that was lost
            raise DatasetError(
                f"{self.mark} is damaged: {error}",
                hint="remove it, and what is not the pool's beside it; the next build writes it again",
            ) from error
        if there != (FORMAT, self.scheme):
            raise DatasetError(
                f"{self.path} is a pool of {there[1]}, format {there[0]},"
                f" not of {self.scheme}, format {FORMAT}",
                hint=f"use --pool {there[1]}:{self.path}, or another directory",
            )
        if owners != self._owners:
            who = {"real": "root, here or of a user namespace", "recorded": "a user without root"}
            raise DatasetError(
                f"{self.path} was made by {who.get(owners, owners)}, and cannot be used by"
                f" {who[self._owners]}",
                hint="choose another with --pool or BUILDSTEP_POOL",
            )
        return True

    def make_pool(self) -> None:
        """Make the pool, if it is not there yet. Two builds may do so at once."""
        with self._usable():
            if self._check():
                return
            private_dir(self.path)
            self.path.chmod(0o700)
            for folder in (*(self.path / kind for kind in Kind), self.state):
                private_dir(folder)
            self.write_mark()
            for path in self.path.iterdir():
                if _is_half_mark(path.name):
                    _remove_unless_locked(path)

    def write_mark(self) -> bool:
        """Mark the directory as a pool."""
        sealed.write(self.mark, {"format": FORMAT, "scheme": self.scheme, "owners": self._owners})
        return True

    def mark_problem(self) -> str:
        """Return what is wrong with the mark; empty if nothing is, or if there is no pool yet."""
        try:
            _read_mark(self.mark)
        except FileNotFoundError:
            return "it is missing" if (self.path / Kind.IMAGE).is_dir() else ""
        except ValueError as error:
            return str(error)
        return ""

    def _holds_more(self) -> bool:
        """Say whether the directory holds anything that is not a pool's."""
        with contextlib.suppress(FileNotFoundError):
            ours = {*_EARLY, MARK}
            return any(name not in ours and not _is_half_mark(name) for name in os.listdir(self.path))
        return False

    def folder(self, kind: Kind, ident: str) -> Path:
        """Return where a dataset is or would be. Raises DatasetError for a name that is not allowed."""
        if not _IDENT.fullmatch(ident):
            raise DatasetError(f"{ident!r} is not a dataset name")
        return self.path / kind / ident

    def make_folder(self, ident: str) -> Path:
        """Make the directory of a new working dataset, and the pool if it is missing."""
        folder = self.folder(Kind.BUILD, ident)
        self.make_pool()
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise DatasetError(f"cannot make the dataset {ident}: {error.strerror}") from error
        return folder

    def make_tree(self, folder: Path) -> Path:
        """Make the empty tree of a dataset, with the mode of a system's top, whatever the umask."""
        tree = folder / "tree"
        tree.mkdir(mode=0o755)
        tree.chmod(0o755)
        return tree

    def keep(self, ident: str, kind: Kind, final: str) -> None:
        """Rename a working dataset to its permanent name. An existing one of that name is an error."""
        target = self.folder(kind, final)
        try:
            self.folder(Kind.BUILD, ident).rename(target)
        except OSError as error:
            raise DatasetError(f"cannot keep {ident} as {kind} {final}: {error.strerror}") from error
        fsync_dir(target.parent)

    def tree_of(self, kind: Kind, ident: str) -> Path:
        """Return the tree of a dataset. Raises DatasetError if there is no such dataset."""
        if not self.exists(kind, ident):
            raise DatasetError(f"there is no {kind} {ident} in {self.uri}")
        return self.folder(kind, ident) / "tree"

    @contextlib.contextmanager
    def tree(self, kind: Kind, ident: str) -> Iterator[Path]:
        yield self.tree_of(kind, ident)

    def scratch(self, dataset: Dataset) -> AbstractContextManager[Path]:
        """A view of a working dataset that can be written to; see `Backend.scratch`."""
        return scratch.beside(dataset.path, self.folder(Kind.BUILD, dataset.ident))

    def exists(self, kind: Kind, ident: str) -> bool:
        return self.folder(kind, ident).is_dir()

    def idents(self, kind: Kind) -> list[str]:
        with self._usable():
            try:
                names = os.listdir(self.path / kind)
            except FileNotFoundError:  # nothing has been built in this pool yet
                return []
        return sorted(name for name in names if _IDENT.fullmatch(name))

    def remove(self, kind: Kind, ident: str) -> None:
        """Remove a dataset's directory: renamed first, so that a half-removed one is never found."""
        folder = self.folder(kind, ident)
        if kind is Kind.BUILD:
            remove_tree(folder)
            return
        aside = self.path / Kind.BUILD / aside_name(kind, ident)
        try:
            folder.rename(aside)
        except FileNotFoundError:
            return
        remove_tree(aside)


def _read_mark(path: Path) -> dict[str, Any]:
    """Return what a mark says. Raises FileNotFoundError, and ValueError for a damaged one."""
    try:
        return sealed.read(path)
    except sealed.Unsealed:
        found: Any = read_json(path)
        # Older versions wrote marks without a digest.
        known = isinstance(found, dict) and {"format", "scheme"} <= found.keys()
        if not known or found.keys() - {"format", "scheme", "owners"}:
            raise
        return dict(found)


def owners_of(path: Path) -> str:
    """Return how the pool in a directory has the owners of files: `real` or `recorded`.

    Empty where there is no pool, or one that cannot be read. Older versions did not write it down:
    `recorded`, as most commands of a user used such a pool without a namespace.
    """
    try:
        return str(_read_mark(path / MARK).get("owners", "recorded"))
    except (OSError, ValueError):
        return ""


def aside_name(kind: Kind, ident: str) -> str:
    """Return the name of a dataset that is being removed; of one that cannot be, the name stays taken."""
    return f"removing-{kind}-{ident[:80]}-{secrets.token_hex(4)}"


def _is_half_mark(name: str) -> bool:
    """Whether this is a mark that a build was writing when it died, or is writing now."""
    return name.startswith(f".{MARK}.") and name.endswith(".part")


def _remove_unless_locked(path: Path) -> None:
    with try_lock(path, create=False) as abandoned:
        if abandoned:
            path.unlink(missing_ok=True)


def state_of(uri: str) -> Path | None:
    """Return the state of a pool of this layout without opening it, as its trees do not matter; None where
    there is none of ours."""
    location = uri.partition(":")[2]
    path = Path(location).absolute()
    with contextlib.suppress(OSError, ValueError, KeyError, DatasetError):
        privacy.refuse_foreign(path, uri)
        if location and _read_mark(path / MARK)["format"] == FORMAT:
            return path / "state"
    return None
