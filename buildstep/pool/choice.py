"""Which pool a command works with: one rule, asked by every command."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from buildstep.pool.layout import MARK, owners_of
from buildstep.system import host, root_namespace, userns
from buildstep.system.location import default_location

_NAMES = {"overlay": "overlay", "dir": "dir", "overlay-subids": "overlay", "dir-subids": "dir"}
"""Directory of a pool that nobody named, below `default_location`, to its scheme."""

_OF_ROOT = ("overlay", "dir")
_OF_NAMESPACE_ROOT = ("overlay-subids", "dir-subids")
"""The better one first; the other works anywhere. Trees of a user namespace have owners that the same user
cannot handle outside of it, so they are apart from others."""


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
    `dir`, below /var/lib/buildstep. For another user one below the user's data folder: where this user can
    be root of a user namespace `overlay-subids` if overlays work in there, else `dir-subids`; else `dir`.
    Outside of the namespace, where nothing can be mounted, one that is not there yet is called `dir-subids`.
    What a build wants (packages or none) never matters, so that every command finds what another one left.
    Raises DatasetError in a zone that was given none.
    """
    if named is not None:
        return Choice(named, f"named by {by}" if by else "named", _needs_namespace(named))
    if (given := host.HERE.pool()) is not None:
        return Choice(given, "the dataset that this zone was given")
    location = default_location(environ)
    namespace = False
    if _is_root():
        inside = userns.in_user_namespace()
        names, who = (_OF_NAMESPACE_ROOT, _SUBIDS) if inside else (_OF_ROOT, "this is root")
        name, why = _there(names, location, who) or _works(names, location, who)
    elif lacks := userns.lacks(had=any((location / name / MARK).exists() for name in _OF_NAMESPACE_ROOT)):
        name, why = "dir", f"this user has no user namespace: {lacks[0][0]}"
    else:
        names, namespace = _OF_NAMESPACE_ROOT, True
        name, why = _there(names, location, _SUBIDS) or (names[1], _SUBIDS)
    others = [other for other in _NAMES if other != name and os.path.exists(location / other / MARK)]
    older = tuple(_older(name, other, location) for other in others)
    return Choice(_uri(location, name), why, namespace, older)


def _is_root() -> bool:
    """Whether this is root that may mount; that of most containers may not, and is like any other user."""
    return os.geteuid() == 0 and not root_namespace.is_needed()


_SUBIDS = "this user can be root of a user namespace, and every command is"


def _there(names: Sequence[str], location: Path, who: str) -> tuple[str, str] | None:
    """Return the overlay pool of two if it is there, and why; one of copies keeps nobody from it."""
    return (names[0], f"{who}, and it is there") if (location / names[0] / MARK).exists() else None


def _works(names: Sequence[str], location: Path, who: str) -> tuple[str, str]:
    """Return the overlay pool of two if overlays work at a place, found by trying; else the other."""
    from buildstep.pool.overlay import OverlayBackend  # only root asks for it, and it is large

    there = next(path for path in (location, *location.parents) if path.is_dir())
    if refusal := OverlayBackend.refusal(there):
        return names[1], f"{who}, and overlays do not work on {there}: {refusal}"
    return names[0], f"{who}, and {there} can hold overlays"


def _uri(location: Path, name: str) -> str:
    return f"{_NAMES[name]}:{location / name}"


def _needs_namespace(named: str) -> bool:
    """Whether a pool that was named is to be used from a user namespace: as it was made, if it is there."""
    scheme, _, path = named.partition(":")
    if _is_root() or scheme not in _NAMES.values() or not path:
        return False
    owners = owners_of(Path(path))
    return owners != "recorded" and not userns.lacks(had=owners == "real")


def _older(used: str, other: str, location: Path) -> Older:
    """Return what to tell of a pool that the rule gave before."""
    uri, path = _uri(location, other), location / other
    if other in _OF_NAMESPACE_ROOT and used not in _OF_NAMESPACE_ROOT:
        what = "holds files of subordinate ids, and this user has none now"
        return Older(uri, what, f"get the ids back (`buildstep doctor` says how), or as root: rm -rf {path}")
    what = (
        "was made before this user had subordinate ids"
        if used in _OF_NAMESPACE_ROOT and other not in _OF_NAMESPACE_ROOT
        else f"was made when this machine allowed no {used}"
    )
    return Older(uri, what, f"name it to use it: --pool {uri}; or remove it: rm -rf {path}")
