"""The cleaner of documentation."""

from __future__ import annotations

from buildstep.rootfs.cleaners.interface import Cleaning


def clean(work: Cleaning) -> None:
    """Remove manual pages and documentation, but no licence: it must stay with what it covers."""
    for path in work.walk("/usr/share/doc"):
        if not path.endswith("/copyright"):
            work.remove(path)
    work.remove_matching("/usr/share/man/*", "/usr/share/info/*")
