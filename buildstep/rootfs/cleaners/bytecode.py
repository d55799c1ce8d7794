"""The cleaner of compiled Python files."""

from __future__ import annotations

from buildstep.rootfs.cleaners.interface import Cleaning


def clean(work: Cleaning) -> None:
    """Remove compiled Python files below /usr and /opt."""
    for top in ("/usr", "/opt"):
        for path in work.walk(top):
            if path.endswith(".pyc"):
                work.remove(path)
