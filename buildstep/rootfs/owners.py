"""Who owns the files of a proto directory in the image."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from buildstep.errors import Fault, SpecError
from buildstep.system import userns
from buildstep.system.accounts import number_of
from buildstep.system.root import Root
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.scan import Owner, plain_mode


def fits(pattern: str, path: str) -> bool:
    """Return whether a pattern of a rule names a path of the proto directory, or a directory above it."""
    plain = pattern.strip("/")
    return fnmatch.fnmatchcase(path, plain) or path.startswith(plain.removesuffix("/**") + "/")


@dataclass(frozen=True, slots=True)
class OwnerRule:
    """Who owns what comes from the proto directory: patterns to (uid, gid), the first match wins.

    None instead of numbers keeps the proto's own owner.
    """

    rules: tuple[tuple[str, tuple[int, int] | None], ...]

    def of(self, path: str) -> tuple[int, int] | None:
        """Return the (uid, gid) for a path of the proto directory, None for its own."""
        return next((ids for pattern, ids in self.rules if fits(pattern, path)), (0, 0))

    @property
    def keeps(self) -> bool:
        """Return whether something keeps the owner that it has on the CI host."""
        return any(ids is None for _, ids in self.rules)

    @property
    def uniform(self) -> bool:
        """Return whether one owner is right for everything."""
        return len(self.rules) == 1 and self.rules[0][0] == "*"


def recorded(
    rule: OwnerRule,
    base: FileList,
    brought: Mapping[bytes, bytes],
    made: Mapping[bytes, tuple[int, int]] = MappingProxyType({}),
    mode: Callable[[str, int, str], int] = lambda _path, mode, _kind: mode,
) -> Owner:
    """Return the function that gives the owner to record for an entry, where owners could not be set.

    base: the tree before the build; brought: paths that came from the proto directory, each with its path
    there; made: owners of other new paths; mode: gives the mode of what was brought (`ModeRule.of`). What the
    base had keeps its owner, and the mode and attributes that could not be set.
    """

    def owner(entry: Entry) -> tuple[int, int]:
        if entry.path in brought:
            source = os.fsdecode(brought[entry.path])
            entry.mode = mode(source, entry.mode, entry.kind)
            ids = rule.of(source)
            return (entry.uid, entry.gid) if ids is None else ids
        old = base.get(entry.path)
        if old is None or old.kind != entry.kind:
            return made.get(entry.path, (0, 0))
        if entry.mode == plain_mode(old):
            entry.mode = old.mode
        there = tuple(pair for pair in entry.xattrs if pair[0].startswith(b"user."))
        kept = tuple(pair for pair in old.xattrs if not pair[0].startswith(b"user."))
        entry.xattrs = tuple(sorted(there + kept))
        return old.uid, old.gid

    return owner


def owner_rule(owner: Mapping[str, str], root: Root) -> OwnerRule:
    """Resolve names with the image's own passwd and group. Raises SpecError naming every unknown one."""
    faults: list[Fault] = []
    rules = [
        (pattern, _ids(value, root, f"$.build.owner[{pattern!r}]", faults))
        for pattern, value in owner.items()
    ]
    if faults:
        raise SpecError("owner", faults)
    return OwnerRule(tuple(rules))


def own_owner(uid: int, gid: int) -> tuple[int, int]:
    """Return the owner that the CI host knows for a file of this uid and gid.

    In a user namespace the user's own files look like root's; outside of it they are not.
    """
    outer = userns.outer_owner()
    return uid or outer[0], gid or outer[1]


def _ids(owner: str, root: Root, where: str, faults: list[Fault]) -> tuple[int, int] | None:
    if owner == "keep":
        if not userns.has_owner(own := userns.outer_owner()):
            message = f"this user namespace has no owner {own[0]}:{own[1]}, who has these files"
            faults.append(Fault(where=where, message=message, hint="give USER:GROUP, names or numbers"))
        return None
    user, _, group = owner.partition(":")
    group = group or user
    uid = number_of("user", user, root)
    gid = number_of("group", group, root)
    for name, found, what in ((user, uid, "user"), (group, gid, "group")):
        if found is None:
            hint = f"use a number, make it with build.{what}s, or order packages-first if a package adds it"
            faults.append(Fault(where=where, message=f"the image has no {what} {name!r}", hint=hint))
    return (uid or 0, gid or 0)


def hard_link_groups(proto: Path, copied: Mapping[str, str]) -> list[list[str]]:
    """Return the hard-link groups of a proto directory as paths in it, sorted by where they were copied to.

    copied: where each path was copied to.
    """
    found: dict[tuple[int, int], list[str]] = {}
    for path in sorted(copied, key=lambda path: os.fsencode(copied[path])):
        info = os.lstat(proto / path)
        if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            found.setdefault((info.st_dev, info.st_ino), []).append(path)
    return [group for group in found.values() if len(group) > 1]


def apply_owners(proto: Path, root: Root, copied: Mapping[str, str], rule: OwnerRule) -> None:
    """Give copied files the owners of the rule. copied: where each path of the proto was copied to."""
    # A hard-link group has one owner: its first member decides.
    decided = {path: group[0] for group in hard_link_groups(proto, copied) for path in group[1:]}
    for path, there in copied.items():
        ids = rule.of(path)
        if ids is None or path in decided:
            continue
        info = root.lstat(there)
        if info is None or (info.st_uid, info.st_gid) == ids:
            continue
        with root.parent(there) as (fd, last):
            _chown(last, fd, ids, info)


def _chown(name: str, fd: int, ids: tuple[int, int], info: os.stat_result) -> None:
    """Call lchown, and restore what the kernel takes away with it: set-id bits and capabilities."""
    path = f"/proc/self/fd/{fd}/{name}"
    caps = None
    if stat.S_ISREG(info.st_mode):
        with contextlib.suppress(OSError):
            caps = os.getxattr(path, "security.capability", follow_symlinks=False)
    os.chown(name, *ids, dir_fd=fd, follow_symlinks=False)
    if stat.S_ISREG(info.st_mode):
        os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=fd)
        if caps is not None:
            os.setxattr(path, "security.capability", caps, follow_symlinks=False)
