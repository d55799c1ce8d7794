"""How assets are installed, and one that waits for its name: what the parts of a pull tell each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from buildstep.assets.interface import Asset, Details
from buildstep.assets.mark import Mark
from buildstep.assets.names import Name

if TYPE_CHECKING:
    from buildstep.formats.unpack import Limits

Verify = Callable[[Name, Details], str]
"""Returns the fingerprint of the key that has signed an asset. Raises SigningError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How assets are unpacked. store: the URL that marks name; verify: see `Verify`, None: not asked for;
    keys: fingerprints of those that are trusted for it now, empty: all that marks name;
    owners: set owners and all attributes, as root does; replace: also take the place of a directory without a
    mark that has files which the asset does not have; links_out, limits: what an asset may hold,
    see `archive_check.Policy`; limits None: the usual ones."""

    store: str = ""
    verify: Verify | None = None
    owners: bool = False
    replace: bool = False
    links_out: bool = False
    limits: Limits | None = None
    keys: frozenset[str] = frozenset()

    def trusts(self, mark: Mark) -> bool:
        """Tell whether what has this mark was signed as it must be: by a key that is trusted still."""
        return self.verify is None or (mark.key in self.keys if self.keys else bool(mark.key))


class Staged(NamedTuple):
    """An asset that waits for its name. folder: where it is, complete."""

    asset: Asset
    folder: str
    mark: Mark
