"""Whether an archive can be an asset: it is opened, and every member is looked at, before it is stored and
again before it is unpacked on a host."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from buildstep.errors import ImageError
from buildstep.formats.decompress import MAGIC_SIZE, Decompressed, compression_of
from buildstep.formats.member_path import MemberFault, inside
from buildstep.formats.tree_writer import Lister
from buildstep.formats.unpack import Limits, list_archive
from buildstep.system.files import CHUNK, Extents
from buildstep.system.text import plural, shown, shown_path
from buildstep.tree.entry import Entry, FileList

COMPRESSIONS: Mapping[str, str] = {".tar.gz": "gzip", ".tar.zst": "zstd"}
"""How an asset is compressed, by the end of its name."""

LIMITS = Limits(entries=1_000_000, devices=0, size=1 << 38, ratio=250, floor=128 << 20)
"""Of one asset: it is unpacked as root on every host."""

_FAULTS_SHOWN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What an asset may hold. limits: see `Limits`; links_out: symbolic links that lead out of it, which are
    kept as they are and never followed: the tree of a whole image has some, such as `/etc/mtab`."""

    limits: Limits = LIMITS
    links_out: bool = False


STRICT = Policy()


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """An archive that can be an asset. size: of the file, content: of what is in it, both in bytes."""

    sha256: str
    size: int
    entries: int
    content: int


class _Skimmer(Lister):
    """Lists an archive without hashing what is in it: only that it is there counts."""

    def __init__(self) -> None:
        super().__init__(lambda _path: False)

    def file(self, entry: Entry, extents: Extents, source: Decompressed) -> None:
        if self._wanted(entry):  # tables of users, by which named ACLs are read
            super().file(entry, extents, source)
            return
        end = source.tell() + sum(length for _, length in extents)
        if source.seek(end) < end:
            raise ImageError(f"the archive ends inside of {shown(entry.path)}")


class _Hashing:
    """A file that is hashed as it is read, by whoever decompresses it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._sha256.update(data)
        self.size += len(data)
        return data

    def finish(self) -> str:
        """Return the digest of all of the file: a decompressor may have left its end unread."""
        while self.read(CHUNK):
            pass
        return self._sha256.hexdigest()


def check_archive(path: Path, form: str, policy: Policy = STRICT) -> Checked:
    """Read an archive once, and return what it is. form: the end of the name that it gets, of `names.FORMS`.

    Raises ImageError, with all that is wrong with it, and OSError.
    """
    with path.open("rb", buffering=0) as file:
        check_compression(file.read(MAGIC_SIZE), form)
        file.seek(0)
        stream: Any = _Hashing(file)
        entries = list_archive(stream, _Skimmer(), limits=policy.limits, ahead=False)
        sha256 = stream.finish()
    check_entries(entries, policy)
    content = sum(entry.size for entry in entries.values() if entry.kind == "f" and not entry.first)
    return Checked(sha256=sha256, size=stream.size, entries=len(entries), content=content)


def check_compression(head: bytes, form: str) -> None:
    """Raise ImageError where an archive is not compressed as its name says. head: its first bytes."""
    wanted = COMPRESSIONS[form]
    if not head:
        raise ImageError("the file is empty")
    if (found := compression_of(head)) != wanted:
        raise ImageError(
            f"it is no {form}: compressed with {found or 'nothing'}, not with {wanted}",
            hint="give the file the name of what it is",
        )


def check_entries(entries: FileList, policy: Policy = STRICT) -> None:
    """Raise ImageError, with all refusals, where a tree cannot be an asset. entries: as of `unpack`.

    That no member is written outside the tree, or through a link that leads there, `unpack` has seen to.
    """
    faults = [
        f"  {shown_path(path)}: {why}"
        for path, entry in entries.items()
        if (why := _fault(path, entry, entries, policy))
    ]
    if faults:
        rest = len(faults) - _FAULTS_SHOWN
        raise ImageError(
            f"the archive is refused: {plural(len(faults), 'fault')}",
            detail="\n".join([*faults[:_FAULTS_SHOWN], *([f"  and {rest} more"] if rest > 0 else [])]),
            hint="nothing of it is used",
        )
    if len(entries) <= 1:
        raise ImageError("the archive holds nothing")


_KINDS = {"c": "a character device", "b": "a block device", "p": "a named pipe", "s": "a socket"}


def _fault(path: bytes, entry: Entry, entries: FileList, policy: Policy) -> str:
    if entry.kind in _KINDS:
        return f"{_KINDS[entry.kind]}: an asset holds files, directories and links"
    if entry.kind == "l" and not policy.links_out and _leads_out(path, entry.target, entries):
        return f"a symbolic link out of the asset, to {shown_path(entry.target)}"
    return ""


def _leads_out(path: bytes, target: bytes, entries: FileList) -> bool:
    """Tell whether a symbolic link leads out of its tree, by itself or through other links; also a link of
    which that cannot be told, as it leads through a circle."""
    if target.startswith(b"/"):
        return True
    try:
        inside(b"/".join((path.rpartition(b"/")[0], target, b"_")).lstrip(b"/"), entries)
    except MemberFault:
        return True
    return False
