"""What packages resolve to: versions as the repository had them when it was last asked.

state/resolved/KEY.json   one answer; KEY is made of the base, the packages and how they are installed

With it a build knows the layer that it needs without starting the package manager. An answer is good for
a while (`index_max_age`); after that the repository's index is fetched again, which costs little where it
has not changed, and only another index makes the package manager resolve again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from buildstep.rootfs.interface import Resolution
from buildstep.system.files import read_json, write_json

FORMAT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A resolution, and when the repository last said so. index: a digest of what it says of itself.
    versions, exact, order: see `interfaces.Resolution`."""

    index: str
    versions: Mapping[str, str]
    exact: bool
    asked: float
    order: tuple[str, ...] = ()

    @classmethod
    def of(cls, index: str, resolution: Resolution, *, asked: float) -> Answer:
        return cls(
            index=index,
            versions=resolution.versions,
            exact=resolution.exact,
            asked=asked,
            order=resolution.order,
        )

    def fresh(self, max_age: float) -> bool:
        """Whether the repository need not be asked again. What has no index cannot be asked."""
        return not self.index or 0 <= time.time() - self.asked < max_age

    def inputs(self) -> dict[str, Any]:
        """What the answer adds to a layer's key: with versions of all packages known, just these."""
        found: dict[str, Any] = {"versions": dict(self.versions)}
        return found if self.exact else found | {"index": self.index}


def key_of(question: Mapping[str, Any]) -> str:
    """The name of an answer to this question."""
    text = json.dumps([FORMAT, question], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def find(state: Path, key: str) -> Answer | None:
    """What is known; None if the question was never asked."""
    try:
        value = read_json(state / "resolved" / f"{key}.json")
        if value.pop("format") != FORMAT:
            return None
        return Answer(**value | {"order": tuple(value.get("order", ()))})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(state: Path, key: str, answer: Answer) -> None:
    """Note an answer."""
    (state / "resolved").mkdir(parents=True, exist_ok=True)
    write_json(state / "resolved" / f"{key}.json", {"format": FORMAT, **asdict(answer)}, durable=False)


def forget(state: Path, key: str) -> None:
    """Drop an answer that turned out wrong."""
    (state / "resolved" / f"{key}.json").unlink(missing_ok=True)


def contradiction(answer: Answer, installed: Mapping[str, str]) -> str:
    """What was installed in another way than the answer told; empty if nothing. installed: by name, and
    by name:architecture."""
    for name, version in sorted(answer.versions.items()):
        there = installed.get(name, "")
        if there != version:
            return f"{name} {version or 'removed'} was expected, {there or 'nothing'} was installed"
    return ""
