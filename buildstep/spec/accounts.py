"""Accounts, modes and units of an image, as `build` asks for them, and what is wrong between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from buildstep.errors import Fault
from buildstep.spec.schema import BOOLEAN, Rule, array, at, integer, record, text

LAST_SYSTEM_ID: Final = 999
"""Up to here an account is the system's (login.defs(5): SYS_UID_MAX), unless its `system` says otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """An account, passwd(5). gid: the number of its first group, by default its own with the number of the
    user; group: an existing one by name instead; groups: further ones; system, shell, home, create_home: None
    for what fits its number."""

    name: str
    uid: int
    gid: int | None = None
    group: str | None = None
    groups: tuple[str, ...] = ()
    home: str | None = None
    shell: str | None = None
    comment: str | None = None
    system: bool | None = None
    create_home: bool | None = None

    @property
    def is_system(self) -> bool:
        """Whether this is no person's account."""
        return self.uid <= LAST_SYSTEM_ID if self.system is None else self.system

    @property
    def wants_home(self) -> bool:
        """Whether its home is made."""
        return not self.is_system if self.create_home is None else self.create_home


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A group, group(5). members: users that are in it beside those that have it among their `groups`."""

    name: str
    gid: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Units:
    """What is done with systemd's units, by name: as by systemctl(1) with `--root`."""

    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.enable or self.disable or self.mask)


# An id of all ones is "no id" for the kernel; useradd(8) and systemd take neither it nor the old 16-bit one.
_ID = integer(1, 4_294_967_294)
_NAME = text("[A-Za-z_][A-Za-z0-9_.-]{0,31}", say="a name of an account: A-Z a-z 0-9 _ . - and 32 at most")
_PATH = text(r"/[^:\x00-\x1f\x7f]*", say="an absolute path without a colon")
_FIELD = text(r"[^:\x00-\x1f\x7f]*", say="one line without a colon", least=0)
_TYPES = "service|socket|device|mount|automount|swap|target|path|timer|slice|scope"
UNIT_NAME: Final = rf"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?\.({_TYPES})"
"""A pattern of names of systemd's units."""
_UNIT = text(
    UNIT_NAME,
    say="a unit with its type, such as app.service or getty@tty1.service",
)
_SYMBOLIC = "[ugoa]*([-+=]([rwxXst]*|[ugo]))+"
MODE: Final = text(
    rf"[DF]?([0-7]{{3,4}}|{_SYMBOLIC})(,[DF]?([0-7]{{3,4}}|{_SYMBOLIC}))*",
    say='a mode such as "0640", "u=rwX,go=rX" or "D0755,F0644"',
)
"""What chmod(1) takes, with rsync's D and F in front for directories or files only."""

USERS: Final[Rule] = array(
    record(
        {
            "name": _NAME,
            "uid": _ID,
            "gid": _ID,
            "group": _NAME,
            "groups": array(_NAME, unique=True),
            "home": _PATH,
            "shell": _PATH,
            "comment": _FIELD,
            "system": BOOLEAN,
            "create_home": BOOLEAN,
        },
        required=("name", "uid"),
    )
)
GROUPS: Final[Rule] = array(
    record({"name": _NAME, "gid": _ID, "members": array(_NAME, unique=True)}, required=("name", "gid"))
)
UNITS: Final[Rule] = record({name: array(_UNIT, unique=True) for name in ("enable", "disable", "mask")})


# -- what is wrong between them -----------------------------------------------------------------------------

Place = tuple[str, Any]
"""Where a setting was given, and its value that keeps its rule."""


def faults(users: Place, groups: Place, units: Place) -> Iterator[Fault]:
    """Yield what can be told from the settings alone: what is given twice, and what contradicts itself."""
    for where, rows in (users, groups):
        yield from _twice(where, rows, "name")
    yield from _twice(users[0], users[1], "uid")
    yield from _twice(groups[0], groups[1], "gid")
    yield from _group_faults(users, groups)
    enable, others = units[1].get("enable", ()), ("disable", "mask")
    for other in others:
        for number, name in enumerate(units[1].get(other, ())):
            if name in enable:
                place = at(at(units[0], other), number)
                yield Fault(where=place, message=f"{name} is to be enabled as well")


def _twice(where: str, rows: Sequence[Mapping[str, Any]], key: str) -> Iterator[Fault]:
    first: dict[object, str] = {}
    for number, row in enumerate(rows):
        if row[key] in first:
            whose = "" if key == "name" else f", and is {first[row[key]]}'s already"
            yield Fault(where=at(at(where, number), key), message=f"{row[key]} is given twice{whose}")
        first.setdefault(row[key], row["name"])


def _group_faults(users: Place, groups: Place) -> Iterator[Fault]:
    """Yield faults of the groups that users come with."""
    by_name = {row["name"]: int(row["gid"]) for row in groups[1]}
    names = {number: name for name, number in by_name.items()}
    uids = [row["uid"] for row in users[1]]
    for number, row in enumerate(users[1]):
        place = at(users[0], number)
        if "gid" in row and "group" in row:
            hint = "gid is the number of its first group, group the name of one"
            yield Fault(where=at(place, "gid"), message="is given, and group as well", hint=hint)
        elif "gid" not in row and "group" not in row and row["name"] not in by_name:
            if row["uid"] in uids[:number]:  # told already
                continue
            # A group of its own, with its number.
            owner = names.setdefault(int(row["uid"]), row["name"])
            if owner != row["name"]:
                message = f"the group {row['name']} of its own would have {row['uid']}, which {owner} has"
                yield Fault(where=at(place, "uid"), message=message, hint="give it a gid, or a group by name")
