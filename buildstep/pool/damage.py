"""What `buildstep cache verify` finds: a kept file that is not what was written, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MADE_AGAIN = "remove it: the next build that needs it makes it again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """One damaged thing. kind: see `build.kept`; name: its key; about: what it is, for a person; file: where
    it is; remedy: what a person can do.

    mend: removes it or makes it good unless a build uses it, and returns whether that is done; None where
    nothing can be done before it is needed again.
    """

    kind: str
    name: str
    problem: str
    file: Path
    about: str = ""
    remedy: str = MADE_AGAIN
    mend: Callable[[], bool] | None = None


def unlink(path: Path) -> Callable[[], bool]:
    """Return what removes a damaged file that is only ever replaced as a whole."""

    def mend() -> bool:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return False
        return True

    return mend
