"""`fileExistenceTests` and `fileContentTests` of container-structure-test: files of the finished tree."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from buildstep.checks.expressions import problems
from buildstep.checks.image import Image, Test
from buildstep.errors import BuildstepError

_EXECUTABLE = {"owner": 0o100, "group": 0o010, "other": 0o001, "any": 0o111}

_LARGEST = 256 << 20
"""Bytes of a file whose content is tested."""


def existence(test: Test, image: Image) -> Iterator[str]:
    """Yield why a file is not what it has to be. Its mode and owners are those of what a link leads to."""
    path = test["path"]
    info = image.tree.lstat(path) if path.strip("/") else image.tree.path.lstat()
    if not test.get("shouldExist", True):
        if info is not None:
            yield f"{path} is in the image, and should not be"
        return
    if info is None:
        yield f"{path} is not in the image"
        return
    if stat.S_ISLNK(info.st_mode):
        target = image.tree.host_path(path)
        if target is None:
            yield f"{path} is a link that leads to nothing"
            return
        info = target.lstat()
    yield from _judged(test, info)


def _judged(test: Test, info: os.stat_result) -> Iterator[str]:
    path, wanted = test["path"], test.get("permissions")
    forms = _forms(info.st_mode)
    if wanted is not None and wanted not in forms:
        yield f"{path} has the permissions {forms[0]}, and {wanted} is expected"
    for key, number in (("uid", info.st_uid), ("gid", info.st_gid)):
        asked = test.get(key, -1)
        if asked not in (-1, number):
            yield f"{path} belongs to {key} {number}, and {asked} is expected"
    who = test.get("isExecutableBy")
    if who is not None and not info.st_mode & _EXECUTABLE[who]:
        yield f"{path} cannot be executed by {who} (mode {stat.S_IMODE(info.st_mode):04o})"


def _forms(mode: int) -> list[str]:
    """Return a mode as ls(1) writes it, and as Go does, whose form container-structure-test compares."""
    kind = {stat.S_IFDIR: "d", stat.S_IFLNK: "L", stat.S_IFBLK: "D", stat.S_IFCHR: "Dc", stat.S_IFIFO: "p"}
    letters = kind.get(stat.S_IFMT(mode), "")
    bits = ((stat.S_ISUID, "u"), (stat.S_ISGID, "g"), (stat.S_ISVTX, "t"))
    letters += "".join(letter for bit, letter in bits if mode & bit)
    plain = stat.filemode(stat.S_IFREG | (mode & 0o777))[1:]
    return [stat.filemode(mode), (letters or "-") + plain]


def content(test: Test, image: Image) -> Iterator[str]:
    """Yield why the content of a file is not what it has to be."""
    path = test["path"]
    found = image.tree.host_path(path)
    if found is None or not image.tree.is_file(path):
        yield f"{path} is {'not in the image' if found is None else 'not a regular file'}"
        return
    if found.lstat().st_size > _LARGEST:
        yield f"{path} is too large to look into"
        return
    try:
        text = image.tree.read(path).decode(errors="replace")
    except (OSError, BuildstepError) as error:
        yield f"{path} cannot be read: {error}"
        return
    yield from problems(
        text, path, expected=test.get("expectedContents", ()), excluded=test.get("excludedContents", ())
    )
