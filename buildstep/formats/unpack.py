"""Checked extraction of a tar archive, compressed or not, into a private directory.

An archive is not trusted: nothing of it is written outside the directory or beyond the limits, and one error
lists every refusal. The caller discards the directory after an error. Names and the targets of hard links are
paths from the root, and links among their parents are followed inside it (`buildstep.formats.member_path`). A
member that comes twice replaces what came before, as in tar: a directory also a link to one. A directory that
comes twice keeps its content and takes the later metadata.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

from buildstep.errors import ImageError
from buildstep.events import Bus
from buildstep.formats.acl import AclText
from buildstep.formats.decompress import Decompressed
from buildstep.formats.member_path import MemberFault, inside
from buildstep.formats.tar_reader import Member, members, parse, raw, with_acls
from buildstep.formats.tar_writer import OPAQUE, WHITEOUT
from buildstep.formats.tree_writer import EntryWriter, Lister, TreeWriter
from buildstep.system.accounts import TABLES
from buildstep.system.text import plural, shown, shown_path
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.scan import link_groups


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an archive may hold. size: bytes of all files, holes included.

    ratio: content to compressed size, once the content is over `floor` bytes; 0 for no limit.
    """

    entries: int = 10_000_000
    devices: int = 4096
    size: int = 1 << 42
    ratio: int = 250
    floor: int = 1 << 30
    faults_shown: int = 20


_LIMITS = Limits()


def unpack(
    stream: IO[bytes],
    into: Path,
    *,
    privileged: bool,
    limits: Limits = _LIMITS,
    bus: Bus | None = None,
    ahead: bool = True,
) -> FileList:
    """Extract an archive into an empty directory; returns the true entries, hashed.

    privileged: owners, device nodes and all attributes are set. Otherwise only the result has them: files
    get u+rw, directories u+rwx, and devices are left out. Raises ImageError, with every refusal, and
    ToolMissing for zstd without its library. ahead: see `Decompressed`.
    """
    writer = partial(TreeWriter, into, privileged=privileged, bus=bus)
    return _Extraction({}, writer, limits=limits, layer=False).run(stream, ahead=ahead)


def apply_layer(
    stream: IO[bytes],
    into: Path,
    entries: FileList,
    *,
    privileged: bool,
    limits: Limits = _LIMITS,
    bus: Bus | None = None,
) -> FileList:
    """Apply an OCI layer to a directory that holds `entries`; returns the entries of the result.

    Whiteouts and opaque directories remove what lower layers had, wherever in the layer they are (OCI
    image-spec, layer.md). Otherwise like `unpack`, except that the layer may end right after the content of
    its last member, as some tools leave it: the caller compares the layer's digest.
    """
    writer = partial(TreeWriter, into, privileged=privileged, bus=bus)
    return _Extraction(entries, writer, limits=limits, layer=True).run(stream)


def list_archive(
    stream: IO[bytes], lister: Lister, *, limits: Limits = _LIMITS, ahead: bool = True
) -> FileList:
    """Return what `unpack` does, with nothing written to a disk. ahead: see `Decompressed`."""
    return _Extraction({}, lister.over, limits=limits, layer=False).run(stream, ahead=ahead)


def list_layer(stream: IO[bytes], lister: Lister, entries: FileList, *, limits: Limits = _LIMITS) -> FileList:
    """Return what `apply_layer` does, with nothing written to a disk."""
    return _Extraction(entries, lister.over, limits=limits, layer=True).run(stream)


class _Extraction:
    def __init__(
        self,
        found: FileList,
        writer: Callable[[FileList], EntryWriter],
        *,
        limits: Limits,
        layer: bool,
    ) -> None:
        self._found = {path: replace(entry) for path, entry in found.items()}
        self._found.setdefault(b"", Entry(b"", "d", 0o755, 0, 0))
        self._writer = writer(self._found)
        self._limits = limits
        self._layer = layer
        self._new: set[bytes] = set()
        self._touched: set[bytes] = {b""}
        self._links: dict[bytes, int] = {}
        self._named_acls: dict[bytes, tuple[tuple[bytes, AclText], ...]] = {}
        self._count = itertools.count()
        self._faults: list[str] = []
        self._fault_count = 0
        self._members = 0
        self._devices = 0
        self._size = 0
        for path, entry in self._found.items():
            if entry.first:
                number = self._links.setdefault(entry.first, next(self._count))
                self._links[path] = number

    def run(self, stream: IO[bytes], *, ahead: bool = True) -> FileList:
        try:
            floor = self._limits.floor
            with Decompressed(stream, ratio=self._limits.ratio, floor=floor, ahead=ahead) as source:
                for info in members(source, verified=self._layer):
                    if not self._take(info, source):
                        break
            if not self._fault_count:
                self._drop_notes()
                self._finish()
        except OSError as error:
            where = f" {shown(os.fsencode(error.filename))}" if error.filename else ""
            raise ImageError(
                f"cannot unpack{where}: {error.strerror}",
                retryable=error.errno in (errno.ENOSPC, errno.EDQUOT),
            ) from error
        except ImageError as error:
            if self._fault_count:
                self._fault("", error.message)
            else:
                raise
        finally:
            self._writer.cancel_hashes()
        if self._fault_count:
            raise self._refusal()
        return {path: self._found[path] for path in sorted(self._found)}

    # -- refusals

    def _fault(self, name: str, why: str) -> None:
        self._fault_count += 1
        if len(self._faults) < self._limits.faults_shown:
            self._faults.append(f"  {shown_path(raw(name))}: {why}" if name else f"  {why}")

    def _refusal(self) -> ImageError:
        rest = self._fault_count - len(self._faults)
        lines = [*self._faults, *([f"  and {rest} more"] if rest else [])]
        count = plural(self._fault_count, "fault")
        return ImageError(
            f"the archive is refused: {count}",
            detail="\n".join(lines),
            hint="nothing of it is used",
        )

    def _over_limit(self, member: Member) -> str:
        self._members += 1
        self._devices += member.entry.kind in "cb"
        self._size += member.entry.size
        if self._members > self._limits.entries:
            return f"more than {self._limits.entries} entries"
        if self._devices > self._limits.devices:
            return f"more than {self._limits.devices} device nodes"
        if self._size > self._limits.size:
            return f"files of more than {self._limits.size} bytes together"
        return ""

    # -- one member

    def _take(self, info: tarfile.TarInfo, source: Decompressed) -> bool:
        """Check a member and write it. Returns False when it is useless to read on."""
        try:
            member = parse(info)
            if why := self._over_limit(member):
                self._fault(info.name, why)
                return False
            member = self._inside(member)
            if self._layer and self._whiteout(member.entry):
                return True
            entry = self._admit(member)
        except MemberFault as fault:
            self._fault(info.name, str(fault))
            return True
        if entry is None:
            return True
        old = self._found.get(entry.path)
        if old is not None and not (old.kind == entry.kind == "d"):
            self._drop(entry.path)
        if not self._fault_count:
            self._write(entry, member, source, exists=old is not None and old.kind == "d")
        self._found[entry.path] = entry
        self._new.add(entry.path)
        self._named_acls.pop(entry.path, None)
        if member.acls:
            self._named_acls[entry.path] = member.acls
        return True

    def _inside(self, member: Member) -> Member:
        """Return a member with its path, and its hard link's target, where the links of the tree lead."""
        member.entry.path = inside(member.entry.path, self._found)
        return member if member.link is None else replace(member, link=inside(member.link, self._found))

    def _write(self, entry: Entry, member: Member, source: Decompressed, *, exists: bool) -> None:
        if member.link is not None:
            self._writer.link(entry, member.link)
            self._links[entry.path] = self._links.setdefault(member.link, next(self._count))
        elif entry.kind == "f":
            self._writer.file(entry, member.extents, source)
        elif entry.kind == "d":
            self._make_dir(entry, exists=exists)
        else:
            self._writer.other(entry)

    def _make_dir(self, entry: Entry, *, exists: bool) -> None:
        self._writer.directory(entry, exists=exists)
        self._touched.add(entry.path)

    def _admit(self, member: Member) -> Entry | None:
        """Return the entry to write, its parents made; None when there is nothing to do."""
        entry = member.entry
        if not entry.path and entry.kind != "d":
            raise MemberFault("the top of the tree is not a directory")
        if member.link is not None:
            if member.link == entry.path:
                return None
            leader = self._found.get(member.link)
            if leader is None or leader.kind == "d":
                what = "a directory" if leader else "nothing that came before it"
                raise MemberFault(f"a hard link to {shown(member.link)}, which is {what}")
            entry = replace(leader, path=entry.path, first=b"")
        if entry.path:
            self._parents(entry.path.rpartition(b"/")[0])
        return entry

    def _parents(self, parent: bytes) -> None:
        missing = []
        while (known := self._found.get(parent)) is None:  # the top is always there
            missing.append(parent)
            parent = parent.rpartition(b"/")[0]
        if known.kind != "d":
            raise MemberFault(f"written below {shown_path(parent)}, which is not a directory")
        self._touched.add(parent)
        for path in reversed(missing):
            made = Entry(path, "d", 0o755, 0, 0)
            if not self._fault_count:
                self._make_dir(made, exists=False)
            self._found[path] = made
            self._new.add(path)
            self._touched.add(path)

    def _drop(self, path: bytes) -> None:
        """Remove what an earlier member, or a lower layer, left at a path."""
        self._links.pop(path, None)
        self._named_acls.pop(path, None)
        if self._found.pop(path).kind == "d":
            prefix = path + b"/"
            for below in [p for p in self._found if p.startswith(prefix)]:
                del self._found[below]
                self._links.pop(below, None)
                self._named_acls.pop(below, None)
        if not self._fault_count:
            self._writer.remove(path)

    def _finish(self) -> None:
        """Finish ACLs, then the directories, innermost first, then the hashes and the hard-link groups."""
        self._resolve_acls()
        for path in sorted(self._touched, reverse=True):
            entry = self._found.get(path)
            if entry is not None and entry.kind == "d":
                self._writer.finish_in_place(entry)
        self._writer.finish_hashes()
        link_groups(self._found, {path: (0, number) for path, number in self._links.items()})
        digests = {self._links[p]: e.sha256 for p in self._links if (e := self._found[p]).sha256}
        for path, number in self._links.items():
            # A link made while its file was still being hashed, in a thread, does not know yet.
            self._found[path].sha256 = digests.get(number, "")

    def _resolve_acls(self) -> None:
        """Set the ACLs that name users and groups, with the numbers that these have in the tree itself."""
        if not self._named_acls:
            return
        number = functools.cache(self._writer.number_of)
        groups: dict[int, list[bytes]] = {}
        for path, group in self._links.items():
            groups.setdefault(group, []).append(path)
        for path, acls in self._named_acls.items():
            names = set().union(*(acl.names for _, acl in acls))
            numbers = {key: found for key in names if (found := number(*key)) is not None}
            for what, name in sorted(names - numbers.keys()):
                self._fault(
                    os.fsdecode(path),
                    f"its ACL names the {what} {name!r}, which the image's {TABLES[what]} does not have;"
                    " add it there, or pack with bsdtar, which writes the number too",
                )
            if self._fault_count:
                continue
            for member in groups[self._links[path]] if path in self._links else [path]:
                try:
                    with_acls(self._found[member], acls, numbers)
                except ValueError as error:  # a number that no ACL can have
                    self._fault(os.fsdecode(path), str(error))
                    break
            else:
                if self._found[path].kind != "d":
                    self._writer.finish_in_place(self._found[path])

    # -- whiteouts

    def _whiteout(self, entry: Entry) -> bool:
        """Do what a member that removes something says. Returns False for any other member."""
        parent, slash, name = entry.path.rpartition(b"/")
        if not name.startswith(WHITEOUT):
            return False
        if name == OPAQUE:
            self._remove_lower(parent, below=True)
        elif not name.startswith(WHITEOUT * 2):  # else a note of aufs to itself
            target = name[len(WHITEOUT) :]
            if target in (b"", b".", b".."):
                raise MemberFault("a whiteout of nothing")
            self._remove_lower(parent + slash + target, below=False)
        return True

    def _drop_notes(self) -> None:
        """Remove what aufs keeps for itself at a layer's top: hard links may have led to files in there."""
        if self._layer:
            for path in [p for p in self._found if p.startswith(WHITEOUT * 2) and b"/" not in p]:
                self._drop(path)

    def _remove_lower(self, path: bytes, *, below: bool) -> None:
        """Remove what lower layers have at, or only below, a path, but nothing that this layer brought."""
        prefix = path + b"/" if path else b""
        doomed = [p for p in self._found if p.startswith(prefix) and p != path]
        if not below and path in self._found:
            doomed.append(path)
        kept: set[bytes] = set()
        for new in doomed:
            if new in self._new:
                at = new
                while at not in kept:
                    kept.add(at)
                    at = at.rpartition(b"/")[0]
        for victim in sorted(doomed, reverse=True):
            if victim not in kept and victim in self._found:
                self._touched.add(victim.rpartition(b"/")[0])
                self._drop(victim)
