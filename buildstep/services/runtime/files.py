"""Files and directories that actions lay: whole or not at all, with mode and owner, and known afterwards."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
import pwd
import stat
from collections.abc import Iterator
from typing import Any

from buildstep.services.runtime.answers import Failure
from buildstep.services.runtime.records import Records, read_json, write

_READ = 1 << 20


def owner_of(user: str, group: str) -> tuple[int, int] | None:
    """Return numbers of a user and a group; None where neither is named. A user's own group where none is.

    Raises Failure where there is no such account.
    """
    if not user and not group:
        return None
    try:
        account = pwd.getpwnam(user) if user else None
        number = grp.getgrnam(group).gr_gid if group else account.pw_gid if account else -1
    except KeyError as error:
        raise Failure(f"there is no such account: {error.args[0]}") from None
    return (account.pw_uid if account else -1), number


def put(path: str, text: str | bytes, *, mode: int = 0o644, user: str = "", group: str = "") -> bool:
    """Write a file whole, if it is not just so already; return whether anything changed. Raises Failure.

    Directories above it are made. What is there under this name is replaced, unless it is a directory.
    """
    _check_path(path)
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    owner = owner_of(user, group)
    with _failing(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if _same(path, data, mode, owner):
            return False
        write(path, data, mode, owner)
    return True


def put_directory(path: str, *, mode: int = 0o755, user: str = "", group: str = "") -> bool:
    """Have a directory with this mode and owner; return whether anything changed. Raises Failure."""
    _check_path(path)
    owner = owner_of(user, group)
    changed = False
    with _failing(path):
        if not os.path.isdir(path):
            os.makedirs(path)
            changed = True
        found = os.stat(path)
        if owner is not None and not _owned(found, owner):
            os.chown(path, *owner)
            changed = True
        if stat.S_IMODE(found.st_mode) != mode:
            os.chmod(path, mode)
            changed = True
    return changed


def _check_path(path: str) -> None:
    if not os.path.isabs(path) or "\0" in path or ".." in path.split("/"):
        raise Failure(f"{path!r} is no absolute path")


@contextlib.contextmanager
def _failing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failure(f"{error.filename or path}: {error.strerror}") from None


def _owned(found: os.stat_result, owner: tuple[int, int]) -> bool:
    return owner[0] in (-1, found.st_uid) and owner[1] in (-1, found.st_gid)


def _same(path: str, data: bytes, mode: int, owner: tuple[int, int] | None) -> bool:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_size != len(data) or stat.S_IMODE(found.st_mode) != mode:
        return False
    if owner is not None and not _owned(found, owner):
        return False
    with open(path, "rb") as file:
        return file.read() == data


# -- what `install` lays ------------------------------------------------------------------------------


class Installed:
    """The files that a service's `install` has laid, with what they were: `installed.json` of its records."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._path = records.path("installed.json")
        known = read_json(self._path) or {}
        self._files: dict[str, str] = dict(known.get("files", {}))
        self._folders: list[str] = list(known.get("folders", []))

    def lay(self, wanted: dict[str, str], trees: dict[str, str]) -> tuple[int, int]:
        """Have files with these texts, and the contents of directories at their targets; remove what an
        earlier call laid and this one does not. Return how many were written and removed. Raises Failure."""
        plan = {**_tree_plan(trees), **{path: wanted[path] for path in sorted(wanted)}}
        empty = list(_empty_folders(trees))
        for path in (*plan, *empty):
            _check_path(path)
        before = dict(self._files)
        # Known before they are laid: what a kill leaves is removed by the next install or uninstall.
        self._files.update({path: before.get(path, "") for path in plan})
        above = [*map(os.path.dirname, plan), *empty]
        self._folders = sorted({*self._folders, *self._new_folders(above)})
        self._save()
        written = 0
        for path in empty:
            with _failing(path):
                os.makedirs(path, exist_ok=True)
        for path, what in plan.items():
            with _failing(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                written += _lay(path, what)
            self._files[path] = digest(path)
        removed = sum(self._remove(path) for path in sorted(set(before) - set(plan), reverse=True))
        self._save()
        return written, removed

    def remove(self) -> tuple[int, list[str]]:
        """Remove what was laid; return how many files, and those that somebody has changed and that stay."""
        removed, stay = 0, []
        for path in sorted(self._files, reverse=True):
            known = self._files[path]
            if known and os.path.lexists(path) and digest(path) != known:
                stay.append(path)
            removed += self._remove(path)
        for folder in sorted(self._folders, reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        return removed, sorted(stay)

    def _remove(self, path: str) -> int:
        known = self._files.pop(path)
        if not os.path.lexists(path) or (known and digest(path) != known):
            return 0
        with _failing(path):
            os.unlink(path)
        return 1

    def _new_folders(self, folders: list[str]) -> Iterator[str]:
        for lowest in folders:
            folder = lowest
            while folder != "/" and not os.path.lexists(folder):
                yield folder
                folder = os.path.dirname(folder)

    def _save(self) -> None:
        self._records.make()
        text = json.dumps({"files": self._files, "folders": self._folders}, sort_keys=True, indent=1)
        write(self._path, text + "\n", 0o600)


class _Source:
    """A file of a directory that is laid."""

    def __init__(self, path: str) -> None:
        self.path = path


def _tree_plan(trees: dict[str, str]) -> dict[str, Any]:
    plan: dict[str, Any] = {}
    for target in sorted(trees):
        source = trees[target]
        if not os.path.isdir(source):
            raise Failure(f"{source}, which is to be laid at {target}, is no directory")
        for folder, folders, names in os.walk(source):
            folders.sort()
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in sorted([*names, *links]):
                path = os.path.join(folder, name)
                plan[os.path.normpath(os.path.join(target, os.path.relpath(path, source)))] = _Source(path)
    return plan


def _empty_folders(trees: dict[str, str]) -> Iterator[str]:
    """Yield the targets of directories with nothing in them."""
    for target in sorted(trees):
        for folder, folders, names in os.walk(trees[target]):
            if not folders and not names:
                yield os.path.normpath(os.path.join(target, os.path.relpath(folder, trees[target])))


def _lay(path: str, what: Any) -> bool:
    if isinstance(what, str):
        return put(path, what)
    found = os.lstat(what.path)
    if stat.S_ISLNK(found.st_mode):
        return _lay_link(path, os.readlink(what.path))
    if not stat.S_ISREG(found.st_mode):
        raise Failure(f"{what.path} is neither a file nor a link")
    with open(what.path, "rb") as file:
        return put(path, file.read(), mode=stat.S_IMODE(found.st_mode))


def _lay_link(path: str, target: str) -> bool:
    if os.path.islink(path) and os.readlink(path) == target:
        return False
    new = os.path.join(os.path.dirname(path), f".{os.path.basename(path)[:200]}.buildstep-new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    os.symlink(target, new)
    os.replace(new, path)
    return True


def digest(path: str) -> str:
    """Return what tells the contents of a file, or the target of a link, from others; empty if it is gone."""
    try:
        if os.path.islink(path):
            return f"link:{os.readlink(path)}"
        hasher = hashlib.sha256()
        with open(path, "rb") as file:
            while data := file.read(_READ):
                hasher.update(data)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    return f"sha256:{hasher.hexdigest()}"
