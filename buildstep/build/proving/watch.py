"""Which step of a build last changed a path, found by looking at the tree after each."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from buildstep.build.context import BuildState
from buildstep.system.root import Root

_Seen = tuple[int, int, int, int, int, int]
_READING = ("snapshot", "check", "emit", "destroy")
"""Steps that change nothing in the tree."""
_INFO = "/var/lib/dpkg/info"
_SCRIPTS = (".postinst", ".preinst", ".config")
"""Those that run at an install, the likeliest first."""
_SHORTEST = 4
"""Letters of a file's name by which the script that makes it may be found."""


class Watch:
    """Looks at the clone after each step, by what lstat says of every path.

    steps: by path, which step last changed it; of what the base brought and nobody touched there is nothing.
    packages: by path, of what came with packages: the package that has the file, or whose script names it.
    """

    def __init__(self) -> None:
        self.steps: dict[str, str] = {}
        self.packages: dict[str, str] = {}
        self._seen: dict[bytes, _Seen] | None = None

    def __call__(self, step: str, state: BuildState) -> None:
        for path in state.overlay:  # what is read where it is covers what lies below
            self.steps[_text(path)] = "sync"
        if state.clone is None or step in _READING:
            return
        now = _look(os.fsencode(state.dataset.path))
        if self._seen is not None:
            changed = [path for path, seen in now.items() if self._seen.get(path) != seen]
            for path in changed:
                self.steps[_text(path)] = step
            if step == "packages":
                self.packages |= _packages(state.root, [_text(path) for path in changed])
        self._seen = now


def _text(path: bytes) -> str:
    return os.fsdecode(path)


def _look(top: bytes) -> dict[bytes, _Seen]:
    """Return what lstat says of every path of a tree that is on its file system."""
    found: dict[bytes, _Seen] = {}
    device = os.lstat(top).st_dev
    todo = [(top, b"")]
    while todo:
        place, prefix = todo.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                path = prefix + entry.name
                found[path] = (
                    info.st_ctime_ns, info.st_mtime_ns, info.st_size, info.st_mode, info.st_uid, info.st_gid,
                )  # fmt: skip
                if stat.S_ISDIR(info.st_mode) and info.st_dev == device:
                    todo.append((entry.path, path + b"/"))
    return found


def _packages(root: Root, paths: list[str]) -> dict[str, str]:
    """Return whose file each path is, or whose script names it: `NAME`, or `NAME (postinst)`."""
    info = root.host_path(_INFO)
    if info is None or not info.is_dir():
        return {}
    owners, scripts = _lists(info), _scripts(info)
    found = {}
    for path in paths:
        owner = owners.get(path) or owners.get(path.removeprefix("usr/"))
        told = owner or _maker(path, scripts)
        if told:
            found[path] = told
    return found


def _lists(info: Path) -> dict[str, str]:
    """Return the package of each file, as dpkg has it."""
    owners: dict[str, str] = {}
    for path in sorted(info.glob("*.list")):
        name = path.name.removesuffix(".list").partition(":")[0]
        for line in path.read_bytes().splitlines():
            owners.setdefault(_text(line.lstrip(b"/")), name)
    return owners


def _scripts(info: Path) -> list[tuple[str, str]]:
    """Return the scripts of packages: what each is called, and its text."""
    return [
        (f"{path.stem.partition(':')[0]} ({path.suffix[1:]})", path.read_bytes().decode(errors="replace"))
        for ending in _SCRIPTS
        for path in sorted(info.glob(f"*{ending}"))
        if path.is_file()
    ]


def _maker(path: str, scripts: list[tuple[str, str]]) -> str:
    """Return the script that names a path, or else the only one that names its last part."""
    for who, text in scripts:
        if f"/{path}" in text or f"/{path.removeprefix('usr/')}" in text:
            return who
    name = path.rpartition("/")[2]
    if len(name) < _SHORTEST:
        return ""
    word = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")
    named = [who for who, text in scripts if word.search(text)]
    return named[0] if len({who.partition(" ")[0] for who in named}) == 1 else ""
