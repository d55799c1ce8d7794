"""Which pool a command works with: one rule, asked by every command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from buildstep.pool.layout import MARK, owners_of
from buildstep.system import host, userns
from buildstep.system.location import default_location

_NAMES = {"overlay": "overlay", "dir": "dir", "dir-subids": "dir"}
"""Directory of a pool that nobody named, below `default_location`, to its scheme."""


class Older(NamedTuple):
    """A pool that this user has and commands do not use. what: why not; fix: what can be done with it."""

    uri: str
    what: str
    fix: str


class Choice(NamedTuple):
    """A pool. why: for a person; namespace: this process has to become root of a user namespace to use it.

    older: the user's other pools, from when the rule gave another one.
    """

    uri: str
    why: str
    namespace: bool = False
    older: tuple[Older, ...] = ()


def choose(named: str | None, environ: Mapping[str, str], *, by: str = "") -> Choice:
    """Return the pool of a command; changes nothing. This is the only place that knows the rule.

    named: the URI that a flag, a file or a variable gives, which wins; by: which of them, for the reason.
    Without a name: on illumos the dataset that the zone was given. For root `overlay` where it works, else
    `dir`, below /var/lib/buildstep. For another user one below the user's data folder: `dir-subids`, used as
    root of a user namespace, where this user can be that; else `dir`. What a build wants (packages or none)
    never matters, so that every command finds what another one left. Raises DatasetError in a zone that was
    given none.
    """
    if named is not None:
        return Choice(named, f"named by {by}" if by else "named", _needs_namespace(named))
    if (given := host.HERE.pool()) is not None:
        return Choice(given, "the dataset that this zone was given")
    location = default_location(environ)
    namespace = False
    if os.geteuid() == 0:
        name, why = _of_namespace_root() if userns.in_user_namespace() else _of_root(location)
    elif lacks := userns.lacks():
        name, why = "dir", f"this user has no user namespace: {lacks[0][0]}"
    else:
        (name, why), namespace = _of_namespace_root(), True
    others = [other for other in _NAMES if other != name and os.path.exists(location / other / MARK)]
    older = tuple(_older(name, other, location) for other in others)
    return Choice(_uri(location, name), why, namespace, older)


def _of_namespace_root() -> tuple[str, str]:
    # Its trees have owners that the same user cannot handle outside of the namespace.
    return "dir-subids", "this user can be root of a user namespace, and every command is"


def _of_root(location: Path) -> tuple[str, str]:
    if (location / "overlay" / MARK).exists():
        return "overlay", "this is root, and it is there"
    there = next(path for path in (location, *location.parents) if path.is_dir())
    from buildstep.pool import overlay  # only root asks for it, and it is large

    if overlay.works_on(there):
        return "overlay", f"this is root, and {there} can hold overlays"
    return "dir", f"this is root, and overlays do not work on {there}"


def _uri(location: Path, name: str) -> str:
    return f"{_NAMES[name]}:{location / name}"


def _needs_namespace(named: str) -> bool:
    """Whether a pool that was named is to be used from a user namespace: as it was made, if it is there."""
    scheme, _, path = named.partition(":")
    if os.geteuid() == 0 or scheme != "dir" or not path:
        return False
    owners = owners_of(Path(path))
    return owners != "recorded" and not userns.lacks()


def _older(used: str, other: str, location: Path) -> Older:
    """Return what to tell of a pool that the rule gave before."""
    uri, path = _uri(location, other), location / other
    if other == "dir-subids":
        what = "holds files of subordinate ids, and this user has none now"
        return Older(uri, what, f"get the ids back (`buildstep doctor` says how), or as root: rm -rf {path}")
    what = (
        "was made before this user had subordinate ids"
        if used == "dir-subids"
        else f"was made when this machine allowed no {used}"
    )
    return Older(uri, what, f"name it to use it: --pool {uri}; or remove it: rm -rf {path}")
