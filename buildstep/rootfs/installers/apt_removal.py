"""Debian packages are taken away, with the result of an install that never had them, or not at all.

They can if they could be added to what stays (see `apt_incremental`): then the root is what stays, and what
they unpacked. That is known here without their package files, from dpkg's database and the files themselves.
What dpkg leaves where a package was and would not be there without it is refused as well: a directory that
is empty now, and one that others have too but whose owner and mode are of the package that came first.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import tarfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from buildstep.rootfs.installers import apt_incremental
from buildstep.rootfs.installers.apt_archives import ArchiveStore
from buildstep.rootfs.installers.apt_settings import ENV
from buildstep.rootfs.installers.common import failures
from buildstep.rootfs.installers.deb_file import Deb, file_stem
from buildstep.rootfs.installers.dpkg_database import INFO, STATUS
from buildstep.rootfs.interface import InstallJob
from buildstep.system.digest import sha256_file
from buildstep.system.root import Root
from buildstep.tree.entry import FileList

_STATES = "/var/lib/apt/extended_states"
_CONTROL = ("preinst", "postinst", "prerm", "postrm", "config", "templates", "triggers")

Mode = tuple[int, int, int]
"""Permissions, owner and group of a directory."""


class Lists:
    """Which packages of a root have which paths, by dpkg's lists; a path with no link at its top."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._tops: dict[str, str] = {}
        self.owners: dict[str, list[str]] = {}
        for stem in _stems(root):
            for path in paths_of(root, stem):
                self.owners.setdefault(self.plain(path), []).append(stem.partition(":")[0])

    def plain(self, path: str) -> str:
        """Return a path with what its first directory is a link to: /usr/bin/x for /bin/x."""
        top, slash, rest = path[1:].partition("/")
        if top not in self._tops:
            self._tops[top] = self._root.real(f"/{top}") or f"/{top}"
        return self._tops[top] + slash + rest


def _stems(root: Root) -> list[str]:
    """Return NAME or NAME:ARCH of every package in dpkg's database, as its files are called."""
    folder = root.host_path(INFO)
    names = os.listdir(folder) if folder is not None and folder.is_dir() else []
    return sorted(name.removesuffix(".list") for name in names if name.endswith(".list"))


def paths_of(root: Root, stem: str) -> list[str]:
    """Return the paths that a package owns, by the name of its files in dpkg's database."""
    text = root.read(f"{INFO}/{stem}.list").decode(errors="surrogateescape")
    return [path for path in text.splitlines() if path not in ("", "/.")]


def installed(root: Root, name: str) -> Deb | None:
    """Return an installed package as its file would have it, with the owners and modes that are there; None
    for one that is not there, or for several architectures at once."""
    bare = name.partition(":")[0]
    stems = [stem for stem in _stems(root) if stem.partition(":")[0] == bare]
    status = root.read(STATUS).decode(errors="replace").split("\n\n")
    stanzas = [part for part in status if re.search(rf"^Package: {re.escape(bare)}$", part, re.MULTILINE)]
    if len(stems) != 1 or len(stanzas) != 1:
        return None
    control = {"control": stanzas[0].strip("\n")}
    for kind in _CONTROL:
        if root.exists(where := f"{INFO}/{stems[0]}.{kind}"):
            control[kind] = root.read(where).decode(errors="replace")
    files, paths = [], paths_of(root, stems[0])
    folders = {path.rpartition("/")[0] for path in paths}
    for path in paths:
        # /lib is a directory of the package, and a link to one in the root.
        place = (root.real(path) if path in folders else None) or path
        if (there := root.lstat(place)) is not None:  # else a cleaner took it
            info = tarfile.TarInfo(f".{path}")
            info.mode, info.uid, info.gid = stat.S_IMODE(there.st_mode), there.st_uid, there.st_gid
            info.type = tarfile.DIRTYPE if stat.S_ISDIR(there.st_mode) else tarfile.REGTYPE
            files.append(info)
    return Deb(name=bare, control=control, files=files)


class Removal(NamedTuple):
    """What came of it. problem: why the root is not what it would be without the packages, empty if it is;
    paths: all that was theirs."""

    problem: str
    paths: frozenset[str] = frozenset()


def remove(
    job: InstallJob, names: Sequence[str], base: FileList, order: Sequence[str], store: ArchiveStore
) -> Removal:
    """Take packages away (see `interface.RemovesPackages`), if that can be told from nothing that stays.

    store: of package files, which say what directories were like before others had them. Raises InstallError.
    """
    root = job.sandbox.root
    debs = [deb for name in names if (deb := installed(root, name)) is not None]
    if len(debs) < len(names):
        return Removal("dpkg's database is not as expected")
    lists = Lists(root)
    problem = next((found for deb in debs if (found := deb.runs(("prerm", "postrm")))), "")
    problem = problem or apt_incremental.acting(root, debs) or _shared_file(lists, debs, base)
    if problem:
        return Removal(problem)
    stems = [stem for stem in _stems(root) if stem.partition(":")[0] in {deb.name for deb in debs}]
    paths = {path for stem in stems for path in paths_of(root, stem)}
    paths |= {f"{INFO}/{stem}" for stem in stems}
    with failures("removing packages", names):
        job.sandbox.run(["dpkg", "--purge", *names], env={**ENV, **job.env}, what="dpkg")
    _forget_marks(root, names)
    modes = partial(_mode_in_store, store, root)
    problem = _left_folder(root, lists, debs, base, _places(order), modes)
    return Removal(problem or apt_incremental.addable(root, base, debs), frozenset(paths))


def _shared_file(lists: Lists, debs: Sequence[Deb], base: FileList) -> str:
    """Return whether a file of these packages is not theirs alone; empty if all are."""
    names = {deb.name for deb in debs}
    for deb in debs:
        for info in deb.files:
            path = lists.plain(info.name.removeprefix("."))
            if not info.isdir() and (set(lists.owners[path]) - names or os.fsencode(path[1:]) in base):
                return f"{path} is not of {deb.name} alone"
    return ""


def _forget_marks(root: Root, names: Sequence[str]) -> None:
    """Take packages out of apt's list of those that were installed automatically."""
    found = root.lstat(_STATES)
    if found is None or not stat.S_ISREG(found.st_mode):
        return
    gone = {f"Package: {name.partition(':')[0]}".encode() for name in names}
    text = root.read(_STATES)
    kept = [part for part in text.split(b"\n\n") if not gone & set(part.split(b"\n"))]
    if (new := b"\n\n".join(kept)) != text:
        root.write(_STATES, new, mode=stat.S_IMODE(found.st_mode))


def _places(order: Sequence[str]) -> dict[str, int]:
    """Return when each package was unpacked, counted from 0. order: see `Resolution.order`."""
    rows = [row.partition(" ") for row in order]
    return {name.partition(":")[0]: number for number, (act, _, name) in enumerate(rows) if act == "Inst"}


def _left_folder(
    root: Root,
    lists: Lists,
    debs: Sequence[Deb],
    base: FileList,
    places: Mapping[str, int],
    modes: Callable[[str, str], Mode | None],
) -> str:
    """Return a directory that packages which are gone left in another way than it would be without them;
    empty for none.

    lists: from before; places: when each package came; modes: a directory's permissions as a package has it.
    """
    gone = {deb.name for deb in debs}
    found = {lists.plain(info.name.removeprefix(".")) for deb in debs for info in deb.files if info.isdir()}
    for path in sorted(found):
        there = root.lstat(path)
        if os.fsencode(path[1:]) in base:
            if there is None:  # dpkg removes a directory that is empty and of no other package
                return f"{path} was there before, and went too"
            continue
        if there is None:
            continue
        place = root.host_path(path)
        if place is None or not stat.S_ISDIR(there.st_mode) or not os.listdir(place):
            return f"{path} is left, and nothing in it"
        owners = sorted(lists.owners[path], key=lambda name: places.get(name, -1))
        stay = [name for name in owners if name not in gone]
        if owners[0] in gone:
            now = stat.S_IMODE(there.st_mode), there.st_uid, there.st_gid
            if not stay or modes(stay[0], path) != now:
                return f"{path} has the permissions that {owners[0]} gave it"
    return ""


def _mode_in_store(store: ArchiveStore, root: Root, package: str, path: str) -> Mode | None:
    """Return the permissions of a directory as the file of an installed package has it; None where there is
    no such file, or several."""
    there = installed(root, package)
    if there is None:
        return None
    stem = file_stem(package, there.field("Version").strip())
    files = list(store.folder.glob(f"{glob.escape(stem)}_*.deb.*"))
    if len(files) != 1 or sha256_file(files[0]) != files[0].name.rpartition(".")[2]:
        return None
    for info in Deb.read(package, files[0]).files:
        if info.isdir() and "/" + info.name.removeprefix("./").strip("/") == path:
            return info.mode & 0o7777, info.uid, info.gid
    return None
