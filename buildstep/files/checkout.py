"""Make a tree of a file list and a store: in a new place, in one that is there, or in its stead.

A new tree, and one that replaces another, is made beside its place, under a name that begins with a dot, and
gets its name in one step when all of it is there. In a tree that is there, only what differs is touched, each
path in one step. What a killed run left is found by its lock, which went with it, and removed by the next.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from dataclasses import replace
from pathlib import Path

from buildstep.errors import BuildstepError, StoreError, UsageError
from buildstep.files import leases
from buildstep.files.checkout_contents import Contents, least_size, locate
from buildstep.files.checkout_farm import Farm
from buildstep.files.checkout_options import Options, Report, refuse_losses
from buildstep.files.checkout_plan import STAGING, Plan, differing, everything
from buildstep.files.checkout_writer import Writer, private
from buildstep.files.content import ContentStore, Place
from buildstep.files.list_check import BadList, check, folding
from buildstep.report.progress import Begin, unseen
from buildstep.system import space
from buildstep.system.beneath import Beneath, exchange
from buildstep.system.files import sync_filesystem
from buildstep.system.locks import lock_directory
from buildstep.system.mount_table import mount_points
from buildstep.system.remove import remove_at, remove_tree
from buildstep.tree.entry import Entry, FileList, longest_below

__all__ = ["Options", "Report", "checkout"]

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEFAULTS = Options()
_NAME_SHOWN = 100


def checkout(
    store: ContentStore,
    entries: FileList,
    dest: Path,
    options: Options = _DEFAULTS,
    begin: Begin = unseen,
) -> Report:
    """Make the tree of a list at `dest`, and return what was done.

    entries: need not be trusted; every fault of them is told, in a BadList, before anything is touched.
    dest: missing or an empty directory, or any with `update` or `swap`; a link there is followed. begin:
    shows how far it is.

    Every content is verified before its file has its name. As root, the tree is as listed. Another user gets
    what he can have, and the report counts the rest; with `strict` that is an error, by which a new tree is
    not made. Raises BadList, UsageError, Missing, Damaged, StoreError, DiskError, DatasetError for what
    cannot be removed.
    """
    return _Checkout(store, entries, dest, options, begin).run()


class _Checkout:
    def __init__(
        self, store: ContentStore, entries: FileList, dest: Path, options: Options, begin: Begin
    ) -> None:
        self._store = store
        self._options = options
        self._begin = begin
        self._report = Report()
        self._dest = Path(os.path.realpath(dest))
        self._limit = longest_below(os.fsencode(self._dest))
        self._check(entries)
        self._entries = {path: entries[path] for path in sorted(entries)}
        self._entries.setdefault(b"", Entry(b"", "d", 0o755, os.geteuid(), os.getegid()))
        if options.mtime is not None:
            now = options.mtime
            self._entries = {path: replace(entry, mtime=now) for path, entry in self._entries.items()}

    def _check(self, entries: FileList, *, cases: bool = False, forms: bool = False) -> None:
        faults = check(entries, limit=self._limit, fold=folding(cases=cases, forms=forms))
        if faults:
            raise BadList("the file list", faults)

    def run(self) -> Report:
        try:
            _ = self._store.settings  # where there is no store, none is made
            with leases.reading(self._store.storage, "get"):
                if self._options.update:
                    self._update()
                elif self._dest.exists() and os.path.ismount(self._dest):
                    self._fill_mount()
                else:
                    self._make()
        except OSError as error:
            where = os.fsdecode(error.filename) if error.filename else self._dest
            raise StoreError(f"cannot check out to {where}: {error.strerror}") from error
        self._refuse_losses()
        return self._report

    def _refuse_losses(self) -> None:
        if self._options.strict:
            refuse_losses(self._report, os.fspath(self._dest))

    # -- a tree that is there ----------------------------------------------------------------------------

    def _update(self) -> None:
        if not self._dest.exists():
            if not self._options.dry_run:
                self._dest.parent.mkdir(parents=True, exist_ok=True)
                self._dest.mkdir()
            else:
                self._foresee(everything(self._entries.values()))
                return
        fd = _locked(self._dest)
        with Beneath(fd) as tree:
            if not self._options.dry_run:
                _sweep_inside(fd)
            plan = differing(tree, self._entries, self._options, self._report)
            if plan.faults:
                raise BadList(str(self._dest), plan.faults, hint="nothing was touched")
            if self._options.delete:
                self._report.removed = len(plan.extra)
            else:
                self._report.extra = len(plan.extra)
                plan.extra.clear()
            if self._options.dry_run:
                self._report.changed += len(plan.touch)
                self._foresee(plan)
                return
            self._change(tree, plan)

    def _fill_mount(self) -> None:
        """Make a tree on an empty mounted file system, whose top cannot be replaced."""
        if self._options.swap:
            raise UsageError(
                f"{self._dest} is a mount point, which nothing can replace",
                hint="--update changes what is in it",
            )
        left = [name for name in os.listdir(self._dest) if not name.startswith(os.fsdecode(STAGING))]
        if left:
            raise _not_empty(self._dest)
        self._update()

    def _change(self, tree: Beneath, plan: Plan) -> None:
        """Do what a plan says in a tree that people use."""
        for path in plan.extra:
            plan.finish.setdefault(path.rpartition(b"/")[0], ())
        writer = Writer(tree, None, (-1, -1), self._report)
        if os.geteuid() != 0:
            for path in sorted(plan.finish.keys() - {folder.path for folder in plan.folders}):
                writer.loosen(path)
        if not plan.makes:
            self._finish(writer, plan)
            return
        plan.finish.setdefault(b"", ())  # it gets, and loses, the directory where things are made
        name = STAGING + secrets.token_hex(6).encode()
        os.mkdir(name, 0o700, dir_fd=tree.fd)
        staging = os.open(name, _OPEN, dir_fd=tree.fd)
        try:
            born = private(staging)
            self._refuse_collisions(staging)
            writer = Writer(tree, staging, born, self._report)
            self._fill(writer, plan, staging)
        finally:
            os.close(staging)
            remove_at(tree.fd, name, os.fspath(self._dest / os.fsdecode(name)))
        self._finish(writer, plan)

    # -- a new tree --------------------------------------------------------------------------------------

    def _make(self) -> None:
        there = self._look()
        if self._options.dry_run:
            self._foresee(everything(self._entries.values()))
            return
        parent = self._dest.parent
        parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{self._dest.name[:_NAME_SHOWN]}{os.fsdecode(STAGING)}"
        _sweep(parent, prefix)
        aside = parent / f"{prefix}{secrets.token_hex(6)}"
        aside.mkdir(mode=0o700)
        try:
            fd = _locked(aside)
            with Beneath(fd) as tree:
                born = private(fd)
                self._refuse_collisions(fd)
                writer = Writer(tree, None, born, self._report)
                plan = everything(self._entries.values())
                self._fill(writer, plan, fd)
                self._finish(writer, plan)
                self._refuse_losses()
                self._swap_in(aside, there=there)
        except BaseException:
            with contextlib.suppress(BuildstepError, OSError):
                remove_tree(aside)
            raise
        if there:
            remove_tree(aside)

    def _look(self) -> bool:
        """Return whether a tree is to be replaced. Raises UsageError for what must not be."""
        try:
            info = os.lstat(self._dest)
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(info.st_mode):
            raise UsageError(f"{self._dest} is there, and no directory")
        if not os.listdir(self._dest):
            return False
        if not self._options.swap:
            raise _not_empty(self._dest)
        if inside := mount_points(self._dest):
            raise UsageError(f"{inside[0]} is a mount point in what is to be replaced", hint="unmount it")
        return True

    def _swap_in(self, aside: Path, *, there: bool) -> None:
        if not there:
            try:
                os.rename(aside, self._dest)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                raise _not_empty(self._dest) from error
            return
        sync_filesystem(aside)  # or a machine that stops now could have neither tree
        parent = os.open(aside.parent, _OPEN)
        try:
            exchange(parent, os.fsencode(aside.name), parent, os.fsencode(self._dest.name))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            raise StoreError(
                f"the file system of {self._dest} cannot replace a directory in one step",
                hint="--update changes it in place",
            ) from error
        finally:
            os.close(parent)

    # -- both --------------------------------------------------------------------------------------------

    def _foresee(self, plan: Plan) -> dict[str, Place]:
        places = locate(self._store, plan.files)
        if self._options.dry_run:
            self._report.files = len(plan.files)
            self._report.size = sum(entry.size for entry in plan.files)
            self._report.entries = len(plan.folders) + len(plan.others) + len(plan.links)
        return places

    def _fill(self, writer: Writer, plan: Plan, private_fd: int) -> None:
        places = self._foresee(plan)
        self._check_space(private_fd, plan, places)
        for entry in plan.folders:
            writer.folder(entry)
        farm = None
        if self._options.hardlink:
            farm = Farm(self._store, private_fd, thorough=self._options.check_content)
        with self._begin(len(plan.files), sum(entry.size for entry in plan.files)) as advance:
            Contents(self._store, writer, self._report, farm, advance).write(plan.files, places)
        for entry in plan.others:
            writer.other(entry)
        for entry in plan.links:
            writer.link(entry)

    def _check_space(self, fd: int, plan: Plan, places: dict[str, Place]) -> None:
        """Raise DiskError where there is certainly no room; where blocks can be shared, nobody knows."""
        where = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if self._options.hardlink or space.packs(where):
            return
        size = least_size(self._store, plan.files, places)
        space.check(where, size, what=f"cannot check out to {self._dest}", inodes=plan.inodes)

    def _finish(self, writer: Writer, plan: Plan) -> None:
        """Do what must come when all is in its place: metadata, removals, directories from the inside out."""
        for entry, owner, drop in plan.touch:
            writer.touch(entry, owner, drop)
        problems = []
        for path in plan.extra:
            folder, name = writer.place(path)
            try:
                remove_at(folder, name, os.path.join(self._dest, os.fsdecode(path)))
            except FileNotFoundError:
                pass
            except BuildstepError as error:
                problems.append(error)
        for path in sorted(plan.finish, reverse=True):
            writer.finish_folder(self._entries[path], plan.finish[path])
        if problems:
            self._report.removed -= len(problems)
            raise problems[0]

    def _refuse_collisions(self, fd: int) -> None:
        """Raise BadList for names that are the same for this file system."""
        cases, forms = _folds(fd)
        if cases or forms:
            self._check(self._entries, cases=cases, forms=forms)


def _not_empty(dest: Path) -> UsageError:
    return UsageError(
        f"{dest} is not empty",
        hint="--update changes what differs in it, --swap replaces it by a new tree in one step",
    )


def _locked(path: Path) -> int:
    fd = lock_directory(path)
    if fd is None:
        raise StoreError(
            f"another checkout to {path} is under way", hint="wait until it has ended", retryable=True
        )
    return fd


def _sweep(folder: Path, prefix: str) -> None:
    """Remove what killed runs left beside a place."""
    for item in list(os.scandir(folder)):
        if not item.name.startswith(prefix) or not item.is_dir(follow_symlinks=False):
            continue
        with contextlib.suppress(OSError, BuildstepError):
            if item.stat(follow_symlinks=False).st_uid == os.geteuid():
                fd = lock_directory(Path(item.path))
                if fd is not None:
                    remove_tree(item.path)
                    os.close(fd)


def _sweep_inside(fd: int) -> None:
    """Remove what killed runs left in a tree that we have locked."""
    for name in os.listdir(fd):
        if os.fsencode(name).startswith(STAGING):
            remove_at(fd, name, name)


def _folds(fd: int) -> tuple[bool, bool]:
    """Tell whether a directory takes upper for lower case, and one form of Unicode for the other."""
    os.mkdir("buildstep-probe-\u00e9", 0o700, dir_fd=fd)
    try:
        return tuple(  # type: ignore[return-value]
            _has(fd, name) for name in ("buildstep-PROBE-\u00e9", "buildstep-probe-e\u0301")
        )
    finally:
        os.rmdir("buildstep-probe-\u00e9", dir_fd=fd)


def _has(fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return False
    return True
