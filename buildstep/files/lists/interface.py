"""The contract of a form of file list, and what is known after a list was read or written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from buildstep.errors import StoreError
from buildstep.files.interface import Damaged, Missing
from buildstep.system.accounts import numbers
from buildstep.system.text import plural, shown_path
from buildstep.tree.entry import Entry, FileList

# -- values ------------------------------------------------------------------------------------------------


class Named(NamedTuple):
    """A content as another store names it: the algorithm (md5) and the hex digest."""

    algorithm: str
    digest: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something about a list that a person should know, counted.

    kind: a stable word for scripts. text: what it means. count: how often. example: the first case.
    left_out: of what was written, whether these paths are missing from the list.
    """

    kind: str
    text: str
    count: int
    example: str
    left_out: bool = False

    def __str__(self) -> str:
        return f"{self.text}: {self.count:,}, first {self.example}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadList:
    """What a list says. entries: sorted by path, with every directory above them and the top.

    digests: the files whose content the list names by another digest than SHA-256; their entries have none.
    notes: what was odd in the list, and what its form cannot say and was assumed.
    """

    entries: FileList
    digests: Mapping[bytes, Named] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[Note, ...] = ()

    def wanted(self) -> dict[Named, int]:
        """Return each content that `digests` names once, with its size, in the order of the paths."""
        return {named: self.entries[path].size for path, named in self.digests.items()}

    def firsts(self) -> dict[Named, bytes]:
        """Return the first path that has each content of `wanted`."""
        found: dict[Named, bytes] = {}
        for path, named in self.digests.items():
            found.setdefault(named, path)
        return found

    def resolved(self, names: Mapping[Named, str]) -> FileList:
        """Return the entries with the SHA-256 of every content. names: that of each of `wanted`.

        Raises StoreError that names the files whose content is not among them.
        """
        entries = dict(self.entries)
        missing = []
        for path, named in self.digests.items():
            if named in names:
                entries[path] = replace(entries[path], sha256=names[named])
            else:
                missing.append(f"{shown_path(path)} ({named})")
        if missing:
            raise StoreError(
                f"{plural(len(missing), 'file')} without content", detail=few(missing), hint=FIND_CONTENT
            )
        return entries


FIND_CONTENT = "name the store that the list was made for, or another that holds them"

TOLD = 50
"""Of how many things of a kind an error tells each."""


def few(rows: list[str]) -> str:
    """Return the first of many lines for an error's detail, and how many are left out."""
    more = [f"and {len(rows) - TOLD:,} more"] if len(rows) > TOLD else []
    return "\n".join(f"  {row}" for row in [*rows[:TOLD], *more])


class Take(Protocol):
    """What brings contents from another store into ours: called once for each content, in their order."""

    def __call__(self, named: Named, size: int, /) -> str:
        """Store this content, verified, and return its SHA-256. Raises Missing, Damaged for one that cannot
        be had; StoreError."""


def resolve(found: ReadList, take: Take) -> FileList:
    """Take every content that a list names by another digest; return the entries with their SHA-256.

    Raises StoreError that names all contents that are missing or damaged; the others are taken. Any other
    error of a store, such as a full disk, ends it at once.
    """
    names: dict[Named, str] = {}
    failures = []
    firsts = found.firsts()
    for named, size in found.wanted().items():
        try:
            names[named] = take(named, size)
        except (Missing, Damaged) as error:
            failures.append(f"{error.message} ({shown_path(firsts[named])})")
    if failures:
        message = f"{plural(len(failures), 'content')} of the list could not be had"
        raise StoreError(message, detail=few(failures), hint=FIND_CONTENT)
    return found.resolved(names)


# -- owners ------------------------------------------------------------------------------------------------

_DIGITS = re.compile(r"[0-9]{1,10}")
_PLAIN_NAME = re.compile(r"[^\s|:]+")

NOBODYS = 2**32 - 1
"""The number that chown(2) takes for "leave it as it is"; no file has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owners:
    """Names of users and groups for forms that tell owners by name.

    users, groups: number by name, beside root, which is 0. unknown: the number for a name that is not there;
    None makes such a name a fault.
    """

    users: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    groups: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    unknown: int | None = None

    @classmethod
    def of_tables(cls, passwd: bytes, group: bytes, *, unknown: int | None = None) -> Owners:
        """Return the names that a tree's own etc/passwd and etc/group have."""
        return cls(users=numbers(passwd), groups=numbers(group), unknown=unknown)


def number(name: str, names: Mapping[str, int]) -> int | None:
    """Return the number of an owner that a list names; None if there is no such name.

    Digits are the number itself: who makes a list writes the number of an owner without a name.
    """
    if _DIGITS.fullmatch(name):
        return int(name) if int(name) < NOBODYS else None
    return names.get(name, 0 if name == "root" else None)


def by_number(names: Mapping[str, int]) -> dict[int, str]:
    """Return the name to write for each number: the first, and none that would be read as something else."""
    found = {0: "root"}
    for name, value in names.items():
        if number(name, names) == value and _PLAIN_NAME.fullmatch(name) and not _DIGITS.fullmatch(name):
            found.setdefault(value, name)
    return found if names.get("root", 0) == 0 else {key: name for key, name in found.items() if key}


# -- reading and writing -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How to read a list. source: as messages call it.

    conflicts: what to do where lines say different things of one path: refuse the list, or take the last
    line, as the first readers of AYS did. file_mode: of files in a form that tells no modes.
    """

    source: str = "list"
    conflicts: Literal["refuse", "last"] = "refuse"
    owners: Owners = field(default_factory=Owners)
    file_mode: int = 0o755


@dataclass(frozen=True, kw_only=True, slots=True)
class Writing:
    """How to write a list. md5: returns the hex MD5 of a file's content, for forms that name contents by it;
    not called for empty files.

    lossy: leave out what the form cannot say, where else the list is refused.
    """

    md5: Callable[[Entry], str] | None = None
    lossy: bool = False
    owners: Owners = field(default_factory=Owners)


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A written list. lines: with their line ends. losses: what the form cannot say of these entries; with
    `left_out` the paths themselves are missing."""

    lines: list[bytes]
    losses: tuple[Note, ...] = ()

    @property
    def data(self) -> bytes:
        return b"".join(self.lines)


class ListForm(Protocol):
    """A form of file list: one row of LISTS."""

    name: str

    def matches(self, line: bytes) -> bool:
        """Tell whether a list whose first line this is, without its line end, is of this form."""

    def read(self, data: bytes, reading: Reading) -> ReadList:
        """Read a list. Raises SpecError with every fault and its line; StoreError for an unknown version.

        Entries that are read can be checked out: paths lead nowhere else, and what is above one is a
        directory. Whatever the list says that is not in the entries is in the notes.
        """

    def write(self, entries: FileList, writing: Writing) -> Written:
        """Write a list, sorted. Raises SpecError that names what the form cannot say, unless lossy."""
