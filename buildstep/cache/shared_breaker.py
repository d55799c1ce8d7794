"""Whether a shared cache is asked at all: one that failed is left alone for a while.

state/shared/NAME.json   how often in a row the store of this address failed, and until when it is left alone

A failure costs a build a moment, and the same moment again in each build after it. So after so many builds in
a row that it failed in, it is not asked for an hour.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from buildstep.cache import records
from buildstep.cache.blob_files import name_of
from buildstep.system.private import private_dir

_FORMAT: Final = 1
IN_A_ROW: Final = 3
"""Builds that a store may fail in before it is left alone."""
PAUSE: Final = 3600.0
"""Seconds for which it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    failures: int = 0
    until: float = 0.0
    why: str = ""


class Breaker:
    """What is known of one store's failures. Nothing of it is worth an error. keep: write it down as well."""

    def __init__(self, state: Path, url: str, *, keep: bool = True) -> None:
        self._keep = keep
        self._path = state / "shared" / f"{name_of(url)[:32]}.json"

    def reason(self) -> str:
        """Return why the store is left alone now; empty if it is not."""
        known = self._known()
        left = known.until - time.time()
        if not 0 < left <= PAUSE:  # a clock that was set back must not close it for years
            return ""
        return f"it failed in {known.failures} builds in a row; it is asked again in {left / 60:.0f} min"

    def failed(self, why: str) -> None:
        """Note that it failed in a build."""
        failures = self._known().failures + 1
        until = time.time() + PAUSE if failures >= IN_A_ROW else 0.0
        self._save(_State(failures=failures, until=until, why=why))

    def worked(self) -> None:
        """Note that it did not."""
        if self._known().failures:
            self._save(_State())

    def _known(self) -> _State:
        return records.find(_State, self._path, _FORMAT) or _State()

    def _save(self, state: _State) -> None:
        if not self._keep:
            return
        with contextlib.suppress(OSError):
            private_dir(self._path.parent)
            records.save(self._path, state, _FORMAT)
