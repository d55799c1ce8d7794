"""Modes of what comes from a proto directory, by rules: as chmod(1) takes them, with rsync's D and F.

A checkout knows two modes, 644 and 755, less the umask of whoever made it. What an image needs is said by
path.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from buildstep.formats.acl import with_mode
from buildstep.rootfs.owners import fits, hard_link_groups
from buildstep.system.root import Root
from buildstep.tree.entry import Xattrs

_BITS = {"r": 0o4, "w": 0o2, "x": 0o1, "X": 0o1}
_SPECIAL = {"s": stat.S_ISUID | stat.S_ISGID, "t": stat.S_ISVTX}
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_ACL = b"system.posix_acl_access"


@dataclass(frozen=True, slots=True)
class ModeRule:
    """Modes by pattern, the first match wins; what no pattern matches keeps its mode."""

    rules: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rules)

    def of(self, path: str, mode: int, kind: str) -> int:
        """Return the mode for a path of the proto directory that has this mode; a link has none to change."""
        if kind == "l" or not path:
            return mode
        for pattern, change in self.rules:
            if fits(pattern, path):
                return changed(change, mode, folder=kind == "d")
        return mode


def mode_rule(modes: Mapping[str, str]) -> ModeRule:
    """Return the rule of checked settings, in their order."""
    return ModeRule(tuple(modes.items()))


def changed(change: str, mode: int, *, folder: bool) -> int:
    """Return a mode changed as a rule says, which the settings have checked.

    As with chmod(1) an `X` is an `x` for directories and for what somebody may execute; without a name before
    the sign all are meant, whatever the umask. D and F are those of rsync(1), --chmod.
    """
    for term in change.split(","):
        if term[0] in "DF":
            if (term[0] == "D") != folder:
                continue
            term = term[1:]  # noqa: PLW2901
        mode = int(term, 8) if term[0].isdecimal() else _symbolic(term, mode, folder=folder)
    return mode


_REACH = {"u": 0o4700, "g": 0o2070, "o": 0o1007}
"""The bits that belong to whom: the sticky bit is the others'."""


def _symbolic(term: str, mode: int, *, folder: bool) -> int:
    whose = re.match("[ugoa]*", term)
    assert whose is not None
    named = "ugo" if not whose[0] or "a" in whose[0] else whose[0]
    reach = sum(_REACH[who] for who in set(named))
    for sign, wanted in re.findall(r"([-+=])([rwxXst]+|[ugo]|)", term[whose.end() :]):
        value = sum(_SPECIAL[letter] for letter in set(wanted) if letter in _SPECIAL)
        for letter in wanted:
            if letter in _SHIFTS:
                value |= (mode >> _SHIFTS[letter] & 0o7) * 0o111
            elif letter != "X" or folder or mode & 0o111:
                value |= _BITS.get(letter, 0) * 0o111
        value &= reach
        match sign:
            case "+":
                mode |= value
            case "-":
                mode &= ~value
            case _:
                mode = mode & ~reach | value
    return mode


def acl_changed(xattrs: Xattrs, mode: int) -> Xattrs:
    """Return the attributes of a file that gets a mode: an ACL says the same, as after chmod(2)."""
    return tuple((name, with_mode(value, mode) if name == _ACL else value) for name, value in xattrs)


def apply_modes(proto: Path, root: Root, copied: Mapping[str, str], rule: ModeRule) -> None:
    """Give copied files the modes of the rule. copied: where each path of the proto was copied to."""
    # A hard-link group has one mode: its first member decides.
    decided = {path for group in hard_link_groups(proto, copied) for path in group[1:]}
    for path, there in copied.items():
        info = root.lstat(there)
        if info is None or stat.S_ISLNK(info.st_mode) or path in decided:
            continue
        old = stat.S_IMODE(info.st_mode)
        new = rule.of(path, old, "d" if stat.S_ISDIR(info.st_mode) else "f")
        if new != old:
            with root.parent(there) as (fd, name):
                os.chmod(name, new, dir_fd=fd)
