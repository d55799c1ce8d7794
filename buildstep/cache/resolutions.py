"""Keep what packages resolve to: the versions that the repository had when it was last queried.

state/resolved/KEY.json   one resolution; KEY is made of the base, the packages and how they are installed

With it a build knows the layer that it needs without starting the package manager. A resolution is valid for
a while (`index_max_age`). After that the repository's index is fetched again, which costs little where it has
not changed, and the package manager resolves again only if the index is another one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildstep.cache import records
from buildstep.rootfs.interface import Resolution
from buildstep.system.private import private_dir

FORMAT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptResolution:
    """A resolution, and when the repository was last queried for it (asked). index: digest of its index.

    versions, exact, order: see `rootfs.interface.Resolution`.
    """

    index: str
    versions: Mapping[str, str]
    exact: bool
    asked: float
    order: tuple[str, ...] = ()

    @classmethod
    def of(cls, index: str, resolution: Resolution, *, asked: float) -> KeptResolution:
        return cls(
            index=index, versions=resolution.versions, exact=resolution.exact, asked=asked,
            order=resolution.order,
        )  # fmt: skip

    def fresh(self, max_age: float) -> bool:
        """Tell whether the repository need not be queried again. One without an index cannot be queried."""
        return not self.index or 0 <= time.time() - self.asked < max_age

    def inputs(self) -> dict[str, Any]:
        """Return what this adds to a layer's key: the versions, and the index where they are not exact."""
        found: dict[str, Any] = {"versions": dict(self.versions)}
        return found if self.exact else found | {"index": self.index}


def key_of(question: Mapping[str, Any]) -> str:
    """Return the name under which the resolution of these inputs is kept."""
    text = json.dumps([FORMAT, question], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _path(state: Path, key: str) -> Path:
    return state / "resolved" / f"{key}.json"


def find(state: Path, key: str) -> KeptResolution | None:
    """Return the resolution of this key; None if there is none, or its record is damaged."""
    return records.find(KeptResolution, _path(state, key), FORMAT)


def save(state: Path, key: str, resolution: KeptResolution) -> None:
    """Keep a resolution."""
    path = _path(state, key)
    private_dir(path.parent)
    records.save(path, resolution, FORMAT)


def forget(state: Path, key: str) -> None:
    """Drop a resolution that turned out wrong."""
    _path(state, key).unlink(missing_ok=True)


def contradiction(resolution: KeptResolution, installed: Mapping[str, str]) -> str:
    """Return the first package that was installed in another version than resolved; empty if there is none.

    installed: versions by name, and by name:architecture.
    """
    for name, version in sorted(resolution.versions.items()):
        there = installed.get(name, "")
        if there != version:
            return f"{name} {version or 'removed'} was expected, {there or 'nothing'} was installed"
    return ""
