"""zfs:DATASET. Clones and snapshots below a delegated dataset; nothing outside of it is ever touched.

    DATASET/<uuid>@final        an image; imgadm's own look the same and are used, but never removed
    DATASET/layer-<key>@final   a cached layer
    DATASET/build-<id>          a working dataset, imgadm:ignore=true
    DATASET/buildstep           records, locks, journals, caches

Datasets have mountpoint=legacy and are mounted by mount(2) where a build runs: with a mount namespace of
its own the host never sees the mount, and the kernel drops it with the build. What is ours carries the
user property buildstep:build; nothing else is destroyed.

Whoever is not root is refused on Linux before anything is made: `zfs allow` gives every operation but
mounting, and a build lays files into a mounted clone.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from buildstep.errors import DatasetError, SandboxError, ToolMissing
from buildstep.pool import privacy, scratch, zfs_permissions
from buildstep.pool.interface import Dataset, Kind
from buildstep.pool.journal import open_journal
from buildstep.pool.zfs_holders import holders, mounts_of
from buildstep.pool.zfs_library import AlreadyThere, Busy, InUse, Props, open_zfs
from buildstep.system import host
from buildstep.system.mount_table import mount_points, source_at
from buildstep.system.mounts import LASTING, MS_NODEV, MS_NOSUID, MS_RDONLY, are_noted, mount, unmount
from buildstep.system.private import private_dir
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.scan import scan, scan_changed

FORMAT = "1"
STATE = "buildstep"
MARK = "buildstep:build"
OWNER = "buildstep:owner"
FINAL = "final"

_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*(/[A-Za-z0-9_.:-]+)*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_IDENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PREFIX = {Kind.IMAGE: "", Kind.LAYER: "layer-", Kind.BUILD: "build-"}

_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Pauses, in seconds, before a busy dataset is tried again: namespaces go a moment after their processes."""


@dataclass(frozen=True, slots=True)
class ZfsDataset:
    """A mounted working dataset. since: ctime (ns) when the clone was complete, 0 for an import."""

    ident: str
    path: Path
    name: str
    since: int

    @property
    def kept_at(self) -> str:
        return os.fspath(self.path)

    def scan(self, base: FileList, *, owner: Callable[[Entry], tuple[int, int]] | None) -> FileList:
        del owner  # whoever can mount ZFS can set owners
        return scan_changed(self.path, base, since=self.since) if self.since else scan(self.path)


class ZfsBackend:
    """Clones cost the same whatever the size of their origin, and streams come from the file system."""

    scheme: ClassVar[str] = "zfs"
    stream_format: ClassVar[str] = "zfs"
    cheap_clone = True
    privileged = True

    def __init__(self, location: str) -> None:
        if not _DATASET.fullmatch(location):
            raise DatasetError(
                f"{location!r} is not the name of a ZFS dataset", hint="such as zfs:zones/agent/data"
            )
        self.dataset = location
        self._zfs = open_zfs()
        self.state = self._open_state()
        self._mounts = self.state / "mnt"
        private_dir(self._mounts)
        self._sweep_mount_points()

    @property
    def uri(self) -> str:
        return f"{self.scheme}:{self.dataset}"

    @property
    def wall(self) -> Path:
        # Trees are only ever mounted below the state, and so behind it.
        return self.state

    # -- state ---------------------------------------------------------------------------------------

    def _open_state(self) -> Path:
        """Return where the state dataset is mounted; it is made and mounted if missing."""
        name = f"{self.dataset}/{STATE}"
        found = self._zfs.get([self.dataset, name], "type", "mountpoint", MARK)
        if self.dataset not in found:
            raise DatasetError(
                f"there is no ZFS dataset {self.dataset}",
                hint=f"an administrator makes one: zfs create {self.dataset}; or choose another with --pool",
            )
        if found[self.dataset]["type"][0] != "filesystem":
            raise DatasetError(f"{self.dataset} is a volume, and a pool needs a file system")
        self._refuse_without_privilege()
        if name not in found:
            with contextlib.suppress(AlreadyThere):  # another build was quicker
                where = found[self.dataset]["mountpoint"][0]
                own = {} if where.startswith("/") else {"mountpoint": f"/var/lib/buildstep/{self.dataset}"}
                self._zfs.create(
                    name, {**own, MARK: STATE, "buildstep:format": FORMAT, "imgadm:ignore": "true"}
                )
            found = self._zfs.get([name], "type", "mountpoint", MARK)
        mark, source = found[name][MARK]
        if mark != STATE or source not in ("local", "received"):
            raise DatasetError(
                f"{name} was not made by buildstep", hint="rename it, or give another dataset to --pool"
            )
        where = found[name]["mountpoint"][0]
        if not where.startswith("/"):
            raise DatasetError(f"{name} has the mountpoint {where}", hint=f"zfs inherit mountpoint {name}")
        if source_at(os.path.realpath(where)) != name:
            # The property says where, so `zfsutil`: the kernel mounts no other dataset by hand.
            self._mount(name, Path(where), data=LASTING)
        privacy.refuse_foreign(Path(where), self.uri)
        return Path(where)

    def _mount(self, name: str, where: Path, *, read_only: bool = False, data: str = "") -> None:
        try:
            private_dir(where)
            mount(name, where, "zfs", MS_NODEV | MS_NOSUID | (MS_RDONLY if read_only else 0), data)
        except (SandboxError, OSError) as error:
            grant = "" if os.geteuid() == 0 else zfs_permissions.advice(self.dataset)
            raise DatasetError(
                f"cannot mount {name}: {error}", hint=grant or "is it mounted elsewhere with other options?"
            ) from error

    def _refuse_without_privilege(self) -> None:
        """Raises ToolMissing with all that this user lacks, before anything has been made."""
        if zfs_permissions.may_mount():
            return
        lines = ["  missing: the right to mount (CAP_SYS_ADMIN), which `zfs allow` cannot give on Linux"]
        # Root of a user namespace is whoever made it, and the table of `zfs allow` has that user's name.
        lacking = [] if os.geteuid() == 0 else zfs_permissions.missing(self.dataset)
        if lacking:
            lines.append(f"  missing: of `zfs allow` on {self.dataset}: {','.join(lacking)}")
        raise ToolMissing(
            f"this user cannot build in {self.uri}",
            detail="\n".join(lines),
            hint="run the build as root, or give a pool that needs no privilege: --pool dir:PATH",
        )

    def _sweep_mount_points(self) -> None:
        """Remove the directories of builds that were killed after their dataset had got its final name."""
        # Views stay: only the process that made one knows when it is done. They go with their image.
        for where in self._mounts.iterdir():
            name = f"{self.dataset}/{_PREFIX[Kind.BUILD]}{where.name}"
            if not where.name.startswith("view-") and not self._zfs.exists(name):
                with contextlib.suppress(OSError):
                    where.rmdir()

    # -- names ---------------------------------------------------------------------------------------

    def _name(self, kind: Kind, ident: str) -> str:
        """The dataset's name, whether it exists or not. Raises DatasetError for a name that is no name."""
        if not (_UUID if kind is Kind.IMAGE else _IDENT).fullmatch(ident):
            form = "a uuid, as an image needs" if kind is Kind.IMAGE else "a dataset name"
            raise DatasetError(f"{ident!r} is not {form}")
        return f"{self.dataset}/{_PREFIX[kind]}{ident}"

    def _final(self, kind: Kind, ident: str) -> str:
        name = f"{self._name(kind, ident)}@{FINAL}"
        if kind is Kind.BUILD or not self._zfs.exists(name):
            raise DatasetError(f"there is no {kind} {ident} in {self.uri}")
        return name

    def _props(self, ident: str) -> Props:
        """Of a working dataset. Nobody reads one after a crash, so it need not wait for the disk."""
        return {
            "mountpoint": "legacy",
            "atime": 0,
            "sync": 2,
            **host.HERE.zfs_props,
            "imgadm:ignore": "true",
            MARK: ident,
            OWNER: f"uid={os.getuid()} pid={os.getpid()}",
        }

    # -- Backend -------------------------------------------------------------------------------------

    def create(self, ident: str) -> Dataset:
        name = self._name(Kind.BUILD, ident)
        self._zfs.create(name, self._props(ident))
        return self._mounted(ident, name)

    def clone(self, kind: Kind, origin: str, ident: str) -> Dataset:
        source, name = self._final(kind, origin), self._name(Kind.BUILD, ident)
        self._zfs.clone(name, source, self._props(ident))
        dataset = self._mounted(ident, name)
        # The file system's own clock, without a trace in the tree: times are no part of an image's top.
        info = dataset.path.stat()
        os.utime(dataset.path, ns=(info.st_atime_ns, info.st_mtime_ns))
        return ZfsDataset(ident, dataset.path, name, dataset.path.stat().st_ctime_ns)

    def _mounted(self, ident: str, name: str) -> ZfsDataset:
        where = self._mounts / ident
        try:
            self._mount(name, where)
        except BaseException:
            self.destroy(Kind.BUILD, ident)
            raise
        return ZfsDataset(ident, where, name, 0)

    def snapshot(self, dataset: Dataset, kind: Kind, ident: str) -> None:
        assert isinstance(dataset, ZfsDataset)
        target = self._name(kind, ident)
        if self._zfs.exists(target):
            raise DatasetError(f"cannot keep {dataset.ident} as {kind} {ident}: it is there already")
        self._unmount(dataset.name)
        self._drop_mount_point(dataset.ident)
        if not self._zfs.exists(f"{dataset.name}@{FINAL}"):
            self._zfs.snapshot(f"{dataset.name}@{FINAL}")
        hidden = "false" if kind is Kind.IMAGE else "true"
        self._zfs.set(dataset.name, {"readonly": 1, "imgadm:ignore": hidden})
        # The name comes last: until then it is a working dataset, which heal removes.
        self._retry(lambda: self._zfs.rename(dataset.name, target), dataset.name)

    def scratch(self, dataset: Dataset) -> contextlib.AbstractContextManager[Path]:
        return scratch.in_memory(dataset.path, self.state / "scratch")

    def exists(self, kind: Kind, ident: str) -> bool:
        name = self._name(kind, ident)
        return self._zfs.exists(name if kind is Kind.BUILD else f"{name}@{FINAL}")

    def idents(self, kind: Kind) -> list[str]:
        rows = {row[0]: row for row in self._zfs.below(self.dataset, "imgadm:ignore")}
        start, form = f"{self.dataset}/{_PREFIX[kind]}", _UUID if kind is Kind.IMAGE else _IDENT
        found = []
        for name, row in rows.items():
            ident = name.removeprefix(start)
            if not name.startswith(start) or not form.fullmatch(ident):
                continue
            if kind is Kind.BUILD or (f"{name}@{FINAL}" in rows and (kind is Kind.LAYER or row[1] != "true")):
                found.append(ident)
        return sorted(found)

    @contextlib.contextmanager
    def tree(self, kind: Kind, ident: str) -> Iterator[Path]:
        name = self._final(kind, ident)
        # A directory of its own: to remove a mount point is to unmount it in every other namespace, too.
        view = self._mounts / f"view-{ident}-{secrets.token_hex(4)}"
        with contextlib.ExitStack() as stack:
            if not are_noted():  # outside of a build, where nothing else would know of it after a crash
                stack.enter_context(open_journal(self.state, f"a view of {kind} {ident}"))
            self._mount(name, view, read_only=True)
            try:
                yield view
            finally:
                unmount(view)
                with contextlib.suppress(OSError):
                    view.rmdir()

    # -- destroying ----------------------------------------------------------------------------------

    def destroy(self, kind: Kind, ident: str) -> None:
        name = self._name(kind, ident)
        found = self._zfs.get([name], MARK)
        if name not in found:
            self._drop_mount_point(ident)
            return
        mark, source = found[name][MARK]
        if source not in ("local", "received") or mark in ("-", STATE):
            raise DatasetError(
                f"{name} was not made by buildstep, and is not destroyed",
                hint="remove it with the tool that made it, such as `imgadm delete` or `zfs destroy`",
            )
        self._unmount(name)
        if kind is not Kind.BUILD:
            # Out of sight first: an image or layer is there as a whole or not at all.
            aside = self._name(Kind.BUILD, f"removing-{ident}")
            self._refuse_if_used(name, f"{kind} {ident}")
            try:
                self._retry(lambda: self._zfs.rename(name, aside), name)
            except AlreadyThere:
                self._remove(aside)
                self._zfs.rename(name, aside)
            try:
                self._remove(aside)
            except InUse:
                self._zfs.rename(aside, name)
                self._refuse_if_used(name, f"{kind} {ident}")
                raise
        else:
            self._remove(name)
        self._drop_mount_point(ident)

    def _remove(self, name: str) -> None:
        final = f"{name}@{FINAL}"
        if self._zfs.exists(final):
            self._retry(lambda: self._zfs.destroy_snapshot(final), name)
        self._retry(lambda: self._zfs.destroy(name), name)

    def _refuse_if_used(self, name: str, label: str) -> None:
        final = f"{name}@{FINAL}"
        clones = self._zfs.get([final], "clones").get(final, {}).get("clones", ("", ""))[0]
        if clones not in ("", "-"):
            users = ", ".join(clone.removeprefix(f"{self.dataset}/") for clone in clones.split(","))
            raise DatasetError(
                f"{label} is the origin of {users}", hint="remove those first, or `buildstep cache prune`"
            )

    def _unmount(self, name: str) -> None:
        for point in mounts_of([name, f"{name}@{FINAL}"]):
            # What a build without a namespace has mounted inside goes first; else there is nothing inside.
            for inner in mount_points(point) if host.HERE.mount_commands else [point]:
                unmount(inner)

    def _drop_mount_point(self, ident: str) -> None:
        """Remove the places where a dataset was mounted that is no more."""
        for where in (self._mounts / ident, *self._mounts.glob(f"view-{ident}-*")):
            with contextlib.suppress(OSError):
                where.rmdir()

    def _retry(self, act: Callable[[], None], name: str) -> None:
        """Do it, again while the dataset is busy; at last say who holds it."""
        for wait in _WAITS:
            try:
                return act()
            except Busy:
                time.sleep(wait)
        try:
            return act()
        except Busy as error:
            final = f"{name}@{FINAL}"
            who = holders([name, final])
            who += [f"hold {tag!r} on {final}" for tag in self._zfs.holds(final)]
            raise Busy(
                error.message,
                detail="\n".join(f"  {line}" for line in who) or "  nobody that this user may see",
                hint="end those processes, or `zfs release` the holds, then `buildstep heal`",
                retryable=True,
            ) from error

    # -- NativeStreams -------------------------------------------------------------------------------

    def receive(self, ident: str, fd: int, *, origin: str | None) -> Dataset:
        name = self._name(Kind.BUILD, ident)
        source = None if origin is None else self._final(Kind.IMAGE, origin)
        if self._zfs.exists(name):
            raise DatasetError(f"cannot receive into {name}: it is there already")
        self._zfs.receive(f"{name}@{FINAL}", fd, origin=source, props={**self._props(ident), "readonly": 1})
        where = self._mounts / ident
        try:
            self._mount(name, where, read_only=True)
        except BaseException:
            self.destroy(Kind.BUILD, ident)
            raise
        return ZfsDataset(ident, where, name, 0)

    def send(self, dataset: Dataset, fd: int, *, origin: str | None) -> None:
        assert isinstance(dataset, ZfsDataset)
        final = f"{dataset.name}@{FINAL}"
        if not self._zfs.exists(final):
            self._zfs.snapshot(final)
        self._zfs.send(final, None if origin is None else self._final(Kind.IMAGE, origin), fd)

    def guid(self, kind: Kind, ident: str) -> str:
        final = self._final(kind, ident)
        return self._zfs.get([final], "guid")[final]["guid"][0]
