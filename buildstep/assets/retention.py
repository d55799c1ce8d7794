"""Which versions of a service a host wants, and which of those it has go."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from buildstep.assets.interface import Asset
from buildstep.assets.names import FORMS, order
from buildstep.errors import UsageError
from buildstep.system.text import plural

MOST_REMOVED = 20
"""Versions that one prune removes unless it is told to remove more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """keep: the newest so many versions of each service, 0: all; versions: only those that fit one of these
    patterns of a shell, empty: all; hyphens: also versions with hyphens, which daybook cuts off there."""

    keep: int = 0
    versions: tuple[str, ...] = ()
    hyphens: bool = False

    def wanted(self, assets: Iterable[Asset]) -> list[Asset]:
        """Return the assets of one service that are wanted, the newest version first.

        Of a version that is there in several forms, that which daybook reads as well.
        """
        found: dict[str, Asset] = {}
        for asset in assets:
            name = asset.name
            if "-" in name.version and not self.hyphens:
                continue
            if self.versions and not any(fnmatchcase(name.version, pattern) for pattern in self.versions):
                continue
            known = found.get(name.version)
            if known is None or FORMS.index(name.form) < FORMS.index(known.name.form):
                found[name.version] = asset
        newest = sorted(found.values(), key=lambda asset: order(asset.name.version), reverse=True)
        return newest[: self.keep] if self.keep else newest


@dataclass(frozen=True, kw_only=True, slots=True)
class Going:
    """An installed version that a prune removes."""

    service: str
    version: str
    reason: str


def going(
    service: str,
    marked: Iterable[str],
    wanted: Collection[str],
    kept: Collection[str],
    reason: str,
) -> list[Going]:
    """Return the versions of a service that go: those with a mark that are not wanted.

    kept: versions that stay in any case: the one that runs, and the one before it, for a rollback.
    """
    return [
        Going(service=service, version=version, reason=reason)
        for version in sorted(marked, key=order)
        if version not in wanted and version not in kept
    ]


def guard(found: Sequence[Going], most: int) -> None:
    """Raise UsageError where more would be removed than a prune may: a wrong pattern, an emptied register."""
    if len(found) > most:
        raise UsageError(
            f"{plural(len(found), 'version')} would be removed, more than --max-delete {most}:"
            " nothing was removed",
            detail="\n".join(f"  {item.service} {item.version}: {item.reason}" for item in found[:most]),
            hint="`--dry-run` shows all of them; raise --max-delete if they may go",
        )
