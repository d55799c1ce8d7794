"""Where each path of a proto directory goes in the image."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from buildstep.rootfs.owners import OwnerRule
from buildstep.system.root import Root
from buildstep.tree.entry import FileList
from buildstep.tree.scan import link_groups


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the proto directory and where it goes: paths without a leading slash, "" for the top."""

    source: str
    target: str


def parts(proto: Path, root: Root) -> list[Part]:
    """How the proto directory is laid on this root, the top first."""
    found = [Part("", "")]
    _find_parts(proto, root, "", "", found)
    return found


def _find_parts(proto: Path, root: Root, source: str, target: str, found: list[Part]) -> None:
    with os.scandir(proto / source) as listing:
        folders = sorted(item.name for item in listing if item.is_dir(follow_symlinks=False))
    for name in folders:
        below, there = f"{source}/{name}".lstrip("/"), f"{target}/{name}".lstrip("/")
        info = root.lstat(there)
        if info is None:
            continue
        if stat.S_ISLNK(info.st_mode):
            real = root.real(there)
            if real is None or not root.is_dir(real):
                continue  # rsync puts the proto's directory in place of a link that leads nowhere
            there = real.lstrip("/")
            found.append(Part(below, there))
        elif not stat.S_ISDIR(info.st_mode):
            continue
        _find_parts(proto, root, below, there, found)


def part_of(path: bytes, plan: Sequence[Part]) -> Part:
    """The part that lays a path of the proto directory. plan: as `parts` gives it."""
    fitting = [part for part in plan if path == (top := os.fsencode(part.source)) or _below_bytes(path, top)]
    return max(fitting, key=lambda part: len(part.source))


def target_of(path: bytes, part: Part) -> bytes:
    """Where a path of the proto directory goes."""
    rest = path[len(os.fsencode(part.source)) :].lstrip(b"/")
    return b"/".join(piece for piece in (os.fsencode(part.target), rest) if piece)


def _below_bytes(path: bytes, top: bytes) -> bool:
    return not top or path.startswith(top + b"/")


def lay(entries: FileList, plan: Sequence[Part], rule: OwnerRule) -> FileList:
    """The proto directory's entries as they will be in the image: their paths and owners.

    The same as what `sync` leaves in a tree, without copying anything. Directories that the base has
    behind a link (all parts but the first) keep what the proto says of them.
    """
    single = rule.rules[0][1] if rule.uniform else None
    for path, entry in entries.items():
        ids = single if rule.uniform else rule.of(os.fsdecode(path))
        if ids is not None:
            entry.uid, entry.gid = ids
        entry.text = b""
    found = _mapped(entries, plan) if len(plan) > 1 else dict(entries)
    for entry in found.values():
        if entry.first:  # a hard-link group has one owner: its first member decides
            entry.uid, entry.gid = found[entry.first].uid, found[entry.first].gid
    return found


def _mapped(entries: FileList, plan: Sequence[Part]) -> FileList:
    """Entries by where they go. Of two that go to one path the later part's wins, as it is laid last."""
    groups: dict[bytes, tuple[int, int]] = {}
    for entry in entries.values():
        if entry.first:
            groups[entry.path] = groups.setdefault(entry.first, (0, len(groups)))
    order = {part: number for number, part in enumerate(plan)}
    found: FileList = {}
    inodes: dict[bytes, tuple[int, int]] = {}
    for path, part in sorted(
        ((path, part_of(path, plan)) for path in entries), key=lambda row: order[row[1]]
    ):
        entry = entries[path]
        entry.path = target_of(path, part)
        found[entry.path] = entry
        inodes.pop(entry.path, None)
        if path in groups:
            inodes[entry.path] = groups[path]
    link_groups(found, inodes)
    return found


def conflicts(entries: FileList, base: FileList) -> list[bytes]:
    """Paths where the proto has something else than the base's non-empty directory: rsync refuses those."""
    clashing = [
        path
        for path, entry in entries.items()
        if entry.kind != "d" and path in base and base[path].kind == "d"
    ]
    return [path for path in clashing if any(other.startswith(path + b"/") for other in base)]


def is_below(path: str, top: str) -> bool:
    return not top or path.startswith(top + "/")
