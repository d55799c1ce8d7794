"""Accounts of an image with fixed numbers, made as useradd(8) and groupadd(8) of its distribution make them.

What they would write is written here, without running them: nothing of the CI host decides, an image without
these programs gets its accounts too, and two builds give the same bytes. The day of the last change of a
password is that of SOURCE_DATE_EPOCH, and left empty without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from buildstep.errors import Fault, SpecError
from buildstep.rootfs.account_tables import Table, Tables, definitions
from buildstep.rootfs.home import Home, make_home
from buildstep.spec import schema
from buildstep.spec.accounts import Group, User
from buildstep.system import userns
from buildstep.system.root import Root

_NOLOGIN = ("/usr/sbin/nologin", "/sbin/nologin", "/usr/bin/nologin", "/bin/false", "/usr/bin/false")
_LIMITS = "/etc/login.defs"
_DAY = 24 * 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked for. packages: whether packages follow, which may bring groups; epoch: the time of the
    build in seconds, if it is given; owners: whether owners can be set in the tree."""

    users: Sequence[User] = ()
    groups: Sequence[Group] = ()
    packages: bool = False
    epoch: int | None = None
    owners: bool = True

    def __bool__(self) -> bool:
        return bool(self.users or self.groups)

    @property
    def memberships(self) -> Iterator[tuple[str, str, str]]:
        """Yield who is in which group (group, user), and where that was asked for."""
        for number, group in enumerate(self.groups):
            for place, user in enumerate(group.members):
                yield group.name, user, f"$.build.groups[{number}].members[{place}]"
        for number, account in enumerate(self.users):
            for place, name in enumerate(account.groups):
                yield name, account.name, f"$.build.users[{number}].groups[{place}]"


@dataclass(kw_only=True, slots=True)
class Made:
    """What was made. homes: to make; owners: of paths that are new, for trees that cannot hold them; waiting:
    groups that are not there yet."""

    homes: list[Home] = field(default_factory=list)
    owners: dict[str, tuple[int, int]] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()


def check(asked: Request, tables: Tables, base: str) -> None:
    """Raise SpecError with all that cannot be made beside what an image has. base: its name."""
    if faults := list(_faults(asked, tables, base)):
        raise SpecError("accounts", faults)


def make(asked: Request, root: Root, base: str) -> Made:
    """Make the accounts in an image's root. base: the name of the image.

    Raises SpecError as `check` does, before anything is changed.
    """
    tables = Tables.read(root)
    check(asked, tables, base)
    made = fill(asked, tables, root)
    tables.write(root, owners=asked.owners)
    limits = definitions(root, _LIMITS)
    for home in made.homes:
        made.owners |= make_home(home, root, limits, owners=asked.owners)
    return made


def fill(asked: Request, tables: Tables, root: Root) -> Made:
    """Put the accounts into the tables of an image; nothing is written. root: that of the image."""
    made, limits = Made(), definitions(root, _LIMITS)
    for group in asked.groups:
        _put_group(tables, group.name, group.gid)
    for user in asked.users:
        gid = _first_group(asked, tables, user)
        if gid not in tables.by_gid:
            _put_group(tables, user.name, gid)
        home = _put_user(tables, user, gid, root, limits, asked.epoch)
        if user.wants_home:
            made.homes.append(Home(home, user.uid, gid))
    made.waiting = _join(asked, tables)
    return made


def join(asked: Request, root: Root) -> None:
    """Put users into the groups that packages brought. Raises SpecError for those that did not come."""
    tables = Tables.read(root)
    waiting = set(_join(asked, tables))
    faults = [
        Fault(
            where=where,
            message=f"there is no group {group}, and no package brought it",
            hint=schema.near(group, tables.group.names),
        )
        for group, _, where in asked.memberships
        if group in waiting
    ]
    if faults:
        raise SpecError("accounts", faults)
    tables.write(root, owners=asked.owners)


# -- what is in the way --------------------------------------------------------------------------------------


def _faults(asked: Request, tables: Tables, base: str) -> Iterator[Fault]:
    for number, group in enumerate(asked.groups):
        where = f"$.build.groups[{number}].gid"
        yield from _taken(where, group.name, group.gid, tables, tables.group, base)
    for number, user in enumerate(asked.users):
        where = f"$.build.users[{number}]"
        yield from _taken(f"{where}.uid", user.name, user.uid, tables, tables.passwd, base)
        yield from _first_group_faults(asked, tables, user, where, base)
        ids = (user.uid, _first_group(asked, tables, user))
        if asked.owners and user.wants_home and not userns.has_owner(ids):
            message = f"this user namespace has no owner {ids[0]}:{ids[1]}, who would have the home"
            yield Fault(where=f"{where}.uid", message=message, hint="take lower numbers, or build as root")
    groups = {group.name for group in asked.groups} | {user.name for user in asked.users}
    users = {user.name for user in asked.users}
    for group_name, user_name, where in asked.memberships:
        if not asked.packages and group_name not in groups and tables.group.find(group_name) is None:
            hint = schema.near(group_name, tables.group.names)
            yield Fault(where=where, message=f"{base} has no group {group_name}", hint=hint)
        if user_name not in users and tables.passwd.find(user_name) is None:
            known = [row.partition(":")[0] for row in tables.passwd.lines]
            yield Fault(
                where=where, message=f"{base} has no user {user_name}", hint=schema.near(user_name, known)
            )


def _taken(where: str, name: str, wanted: int, tables: Tables, table: Table, base: str) -> Iterator[Fault]:
    """Yield the fault of a name that has another number, or a number that has another name."""
    what, owners = ("user", tables.by_uid) if table is tables.passwd else ("group", tables.by_gid)
    has, owner = tables.number(table, name), owners.get(wanted)
    if table.find(name) is not None and has != wanted:
        message = f"{base} has the {what} {name} with {'no number' if has is None else has}, not {wanted}"
        yield Fault(where=where, message=message, hint="its files have that number: ask for it, or rename")
    elif owner not in (None, name):
        yield Fault(where=where, message=f"{wanted} is the number of the {what} {owner} in {base}")


def _first_group_faults(asked: Request, tables: Tables, user: User, where: str, base: str) -> Iterator[Fault]:
    asked_for = {group.name: group.gid for group in asked.groups}
    if user.group is not None:
        if user.group not in asked_for and tables.group.find(user.group) is None:
            hint = "$.build.groups can make it; one that a package brings comes too late"
            yield Fault(where=f"{where}.group", message=f"{base} has no group {user.group}", hint=hint)
        return
    gid = _first_group(asked, tables, user)
    if gid in asked_for.values() or (user.gid is not None and gid in tables.by_gid):
        return
    place = f"{where}.uid" if user.gid is None else f"{where}.gid"
    yield from _taken(place, user.name, gid, tables, tables.group, base)


# -- rows ----------------------------------------------------------------------------------------------------


def _first_group(asked: Request, tables: Tables, user: User) -> int:
    """Return the number of a user's first group: as asked for, or that of the group of its name, or its own
    number. A user that is there keeps the one it has."""
    asked_for = {group.name: group.gid for group in asked.groups}
    if user.group is not None:
        return asked_for.get(user.group, tables.number(tables.group, user.group) or 0)
    if user.gid is not None:
        return user.gid
    there = tables.passwd.find(user.name)
    if there is not None and there[3].isdecimal():
        return int(there[3])
    named = asked_for.get(user.name, tables.number(tables.group, user.name))
    return user.uid if named is None else named


def _put_group(tables: Tables, name: str, gid: int) -> None:
    if tables.group.find(name) is None:
        tables.group.put((name, "x", str(gid), ""))
        if tables.gshadow.there:
            tables.gshadow.put((name, "!", "", ""))
    tables.by_gid.setdefault(gid, name)


def _put_user(
    tables: Tables, user: User, gid: int, root: Root, limits: Mapping[str, str], epoch: int | None
) -> str:
    """Write the rows of a user, and return its home. One that is there gets what is asked for, and keeps the
    rest."""
    row = tables.passwd.find(user.name)
    if row is None:
        home = "/nonexistent" if user.is_system else f"/home/{user.name}"
        shell = _nologin(root) if user.is_system else _login_shell(root)
        locked = "x" if tables.shadow.there else "!"
        row = [user.name, locked, str(user.uid), "", "", home, shell]
        if tables.shadow.there and tables.shadow.find(user.name) is None:
            tables.shadow.put(_shadow(user, limits, epoch))
    row[3] = str(gid)
    for column, value in ((4, user.comment), (5, user.home), (6, user.shell)):
        row[column] = row[column] if value is None else value
    tables.passwd.put(row)
    return row[5]


def _shadow(user: User, limits: Mapping[str, str], epoch: int | None) -> list[str]:
    """Return the row of an account without a password, as useradd writes it: `!` locks it."""
    day = "" if epoch is None else str(epoch // _DAY)
    names = ("PASS_MIN_DAYS", "PASS_MAX_DAYS", "PASS_WARN_AGE")
    ages = ["", "", ""] if user.is_system else [_age(limits.get(name, "")) for name in names]
    return [user.name, "!", day, *ages, "", "", ""]


def _age(value: str) -> str:
    return value if value.isdecimal() else ""


def _nologin(root: Root) -> str:
    return next((path for path in _NOLOGIN if root.is_program(path)), _NOLOGIN[0])


def _login_shell(root: Root) -> str:
    return definitions(root, "/etc/default/useradd").get("SHELL") or "/bin/sh"


def _join(asked: Request, tables: Tables) -> tuple[str, ...]:
    """Put users into groups, and return the groups that are not there."""
    waiting: list[str] = []
    for group, user, _ in asked.memberships:
        if tables.group.find(group) is None:
            waiting.append(group)
            continue
        tables.group.join(group, user)
        tables.gshadow.join(group, user)
    return tuple(dict.fromkeys(waiting))
