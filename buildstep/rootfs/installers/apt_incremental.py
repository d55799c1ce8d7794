"""The check whether Debian packages can be added to others with the result of one install of them all.

They can if nothing that ran before could notice that they were missing, and nothing that runs now can notice
that it comes late: no scripts and no questions; new files only, in places that nobody looks through; no name
that a script of the others, or a program that those run, looks for; the same directories, and no owner ids
but the fixed ones. All else is a blocker: then everything is installed again.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from buildstep.rootfs.installers.apt_script_scan import ScriptScan
from buildstep.rootfs.installers.deb_file import Deb, downloads, file_stem
from buildstep.rootfs.installers.dpkg_database import INFO
from buildstep.rootfs.interface import Package
from buildstep.system.root import Root
from buildstep.tree.entry import FileList

_DPKG = "/var/lib/dpkg"
_DATABASES = frozenset(("/", f"{_DPKG}/status", "/var/lib/apt/extended_states", "/etc/ld.so.cache"))
"""Package databases of dpkg, apt (see `sort_extended_states`) and ldconfig: the same whatever came first."""

_FIXED_IDS = 100
"""Below it Debian's base-passwd gives user and group ids; from it on they go to whoever asks first."""

_COMMANDS = frozenset(("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/games"))
_HOLDERS = re.compile(
    r"/(etc|opt|usr/share|usr/libexec|(usr/)?lib|(usr/)?lib/[a-z0-9_]+-linux-[a-z0-9]+|var/lib)"
)
"""Shared directories, where each package has a file or directory of its own name."""
_LIBRARIES = re.compile(r"/(usr/)?lib(/[a-z0-9_]+-linux-[a-z0-9]+)?/lib(?!nss_)[^/]+\.(so|a)(\.[0-9.]+)?")
_FREE = (
    "/usr/share/doc/", "/usr/share/man/", "/usr/share/info/", "/usr/share/locale/", "/usr/share/lintian/",
    "/usr/share/bug/", "/usr/share/bash-completion/completions/", "/usr/share/zsh/vendor-completions/",
    "/usr/share/fish/", "/usr/share/metainfo/", "/usr/share/pixmaps/", "/usr/share/applications/",
    "/usr/share/pkgconfig/", "/usr/share/aclocal/", "/usr/share/doc-base/",
    "/usr/share/menu/", "/usr/include/",
)  # fmt: skip
"""What is only for people and compilers. Triggers on files there are checked apart from this."""

_HARMLESS_WATCHERS = frozenset(("libc-bin", "man-db"))
"""Their index is made of what is there (man-db's is removed by a cleaner, else it is found changed)."""


def blocker(root: Root, base: FileList, archives: Path, added: Mapping[str, str]) -> str:
    """Return why these packages (version by name) cannot be added to those in the root; empty if they can.

    archives: the directory of downloads; base: the root before any package was installed.

    Raises InstallError for an archive that cannot be read.
    """
    there = downloads(archives)
    paths = {name: there.get(file_stem(name, version)) for name, version in sorted(added.items())}
    debs = [Deb.read(name, path) for name, path in paths.items() if path is not None]
    if len(debs) < len(added):
        return f"{next(name for name in paths if paths[name] is None)} is not among the downloads"
    return addable(root, base, debs)


def addable(root: Root, base: FileList, debs: Sequence[Deb]) -> str:
    """Return why these packages cannot be added to those in the root; empty if they can."""
    status = root.read(f"{_DPKG}/status").decode(errors="replace")
    return (
        _settings(root, base)
        or acting(root, debs)
        or next((problem for deb in debs if (problem := _alternative(deb, status))), "")
        or _visibility_blocker(root, base, debs)
    )


def acting(root: Root, debs: Sequence[Deb]) -> str:
    """Return what these packages do besides unpacking; empty for nothing."""
    brought = {info.name.rpartition("/")[2] for deb in debs for info in deb.files}

    def absent(name: str) -> bool:
        return name not in brought and not any(root.exists(f"{folder}/{name}") for folder in _COMMANDS)

    return next((problem for deb in debs if (problem := deb.acts(absent))), "")


def _visibility_blocker(root: Root, base: FileList, debs: Sequence[Deb]) -> str:
    """Return who could have noticed that the files of these packages were not there."""
    scan = ScriptScan(root)
    if scan.looks_at_all:
        return f"{scan.looks_at_all} looks through all files"
    for deb in debs:
        if who := scan.searcher(deb.name):
            return f"{who} looks for {deb.name}"
    places, watched = _Places(root, base), _watched(root)
    for deb in debs:
        for info in deb.files:
            where = "/" + info.name.removeprefix("./").strip("/")
            if where in ("/", "/."):
                continue
            problem = places.problem(where, info) or _watcher(places.real(where), watched)
            if not problem and (name := places.name_to_search(where, info.isdir())):
                problem = _searched(scan, name)
            if problem:
                return f"{deb.name}: {problem}"
    return ""


def unexpected_changes(
    root: Root, added: Sequence[Package], changed: Sequence[str], gone: AbstractSet[str] = frozenset()
) -> str:
    """Return what an install of these packages changed besides their own files; empty if nothing. gone: paths
    of packages that were taken away before, and how their files in dpkg's database begin."""
    own = set(gone)
    for package in added:
        for name in (package.name, f"{package.name}:{package.arch}"):
            if root.exists(f"{INFO}/{name}.list"):
                own.update(root.read(f"{INFO}/{name}.list").decode(errors="surrogateescape").splitlines())
    own_database = tuple(f"{INFO}/{package.name}{mark}" for package in added for mark in (".", ":"))
    own_database += tuple(f"{path}." for path in gone if path.startswith(f"{INFO}/"))
    for path in changed:
        # Lists still say /bin for /usr/bin.
        known = (
            path in own
            or path.removeprefix("/usr") in own
            or path in _DATABASES
            or path.startswith(own_database)
        )
        if not known:
            return f"{path} was changed by a script or a trigger"
        found = root.lstat(path)
        if found is not None and max(found.st_uid, found.st_gid) >= _FIXED_IDS:
            return f"the owner of {path} has an id that was given out"
    return ""


def sort_extended_states(root: Root) -> None:
    """Sort apt's list of automatically installed packages: apt appends what was installed last."""
    path = "/var/lib/apt/extended_states"
    found = root.lstat(path)
    if found is None or not stat.S_ISREG(found.st_mode):
        return
    text = root.read(path)
    parts = [part.strip(b"\n") for part in text.split(b"\n\n")]
    # One that says only that a package is wanted for itself says what its absence says.
    kept = sorted({part for part in parts if part and not re.search(rb"(?m)^Auto-Installed: 0$", part)})
    settled = b"".join(part + b"\n\n" for part in kept)
    if settled != text:
        root.write(path, settled, mode=stat.S_IMODE(found.st_mode))


# -- what is installed --------------------------------------------------------------------------------------


def _settings(root: Root, base: FileList) -> str:
    """Return a setting for dpkg or apt that a package brought: those installed before it were without it."""
    for folder in ("/etc/dpkg/dpkg.cfg.d", "/etc/apt/apt.conf.d", "/etc/apt/preferences.d"):
        where = root.host_path(folder)
        for name in sorted(os.listdir(where)) if where is not None and where.is_dir() else []:
            if os.fsencode(f"{folder[1:]}/{name}") not in base:
                return f"{folder}/{name} came with a package, and changes how others are installed"
    return ""


def _searched(scan: ScriptScan, name: str) -> str:
    if name.endswith("/"):
        return f"scripts may look through {name}"
    who = scan.searcher(name)
    return f"{who} looks for {name}" if who else ""


def _alternative(deb: Deb, status: str) -> str:
    """Return whether an installed package could use this one for another: it might be set up earlier."""
    names = {deb.name, *re.findall(r"[a-z0-9][a-z0-9+.-]+(?= *(?:,|\(|$))", deb.field("Provides"))}
    for line in re.findall(r"^(?:Pre-)?Depends:.*", status, re.MULTILINE):
        if named := names.intersection(re.findall(r"[a-z0-9][a-z0-9+.-]+", line)):
            return f"something installed can have {min(named)} for another package"
    return ""


def _watched(root: Root) -> list[tuple[str, str]]:
    """Return the paths whose changes set off a trigger, and the package of the trigger."""
    if not root.exists(f"{_DPKG}/triggers/File"):
        return []
    rows = root.read(f"{_DPKG}/triggers/File").decode(errors="replace").split("\n")
    found = [(words[0], words[1].partition("/")[0]) for row in rows if len(words := row.split()) > 1]
    return [(path, package) for path, package in found if package not in _HARMLESS_WATCHERS]


def _watcher(path: str, watched: Sequence[tuple[str, str]]) -> str:
    for top, package in watched:
        for form in (path, path.removeprefix("/usr")):
            if form == top or form.startswith(top.rstrip("/") + "/"):
                return f"{path} sets off a trigger of {package}"
    return ""


class _Places:
    """The places where new packages put files, and what is there."""

    def __init__(self, root: Root, base: FileList) -> None:
        self._root = root
        self._base = base
        self._reals: dict[str, str] = {}
        self._new: dict[str, tuple[int, int, int]] = {}
        self._special = {
            line
            for name in ("diversions", "statoverride")
            if root.exists(f"{_DPKG}/{name}")
            for row in root.read(f"{_DPKG}/{name}").decode(errors="replace").splitlines()
            for line in (row, row.rpartition(" ")[2])
        }

    def real(self, path: str) -> str:
        """Return the same path with no link in its directory."""
        folder, _, name = path.rpartition("/")
        return f"{self._real_folder(folder)}/{name}"

    def _real_folder(self, folder: str) -> str:
        if not folder:
            return ""
        if folder not in self._reals:
            real = self._root.real(folder)
            if real is None:
                above, _, name = folder.rpartition("/")
                real = f"{self._real_folder(above)}/{name}"
            self._reals[folder] = "" if real == "/" else real
        return self._reals[folder]

    def problem(self, path: str, info: tarfile.TarInfo) -> str:
        """Return what is wrong with a path of a package; empty for nothing."""
        if path in self._special:
            return f"{path} is diverted, or has other permissions by order"
        if max(info.uid, info.gid) >= _FIXED_IDS:
            return f"the owner of {path} has an id that is given out"
        real = self.real(path)
        there = self._root.lstat(real)
        owner = (info.mode & 0o7777, info.uid, info.gid)
        if not info.isdir():
            return f"{path} is there already" if there is not None or real in self._new else ""
        if there is None:
            return "" if self._new.setdefault(real, owner) == owner else f"{path} has two sets of permissions"
        if os.fsencode(real[1:]) in self._base:
            return ""  # it was there before any package: dpkg leaves it as it is
        same = (
            stat.S_ISDIR(there.st_mode) and (stat.S_IMODE(there.st_mode), there.st_uid, there.st_gid) == owner
        )
        return "" if same else f"{path} is there with other permissions"

    def name_to_search(self, path: str, is_dir: bool) -> str:
        """Return the name by which alone a script could find this path; "" where no script does.

        For a path in a directory that scripts might look through, that is the directory.
        """
        real = self.real(path)
        folder, _, name = real.rpartition("/")
        if folder in self._new or real.startswith(_FREE) or (is_dir and real not in self._new):
            return ""
        if is_dir and f"{real}/".startswith(_FREE):
            return ""
        if _LIBRARIES.fullmatch(real):
            return ""
        if (folder in _COMMANDS and not is_dir) or _HOLDERS.fullmatch(folder):
            return name
        # Hooks, plug-ins, settings in a folder that is there: whoever owns it may have read all of it.
        return f"{folder}/"
