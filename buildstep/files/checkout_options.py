"""What a checkout is asked for, and what it tells."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from buildstep.errors import StoreError


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a tree is made.

    update: change a tree that is there so that it is as listed. delete: there, remove what is not listed.
    check_content: there, read files instead of trusting size and time. swap: make the tree aside and give it
    the place of one that is there, in one step. hardlink: share files with other checkouts of this store, for
    trees that are only read. strict: what cannot be made here as listed is an error. mtime: of everything, in
    nanoseconds since the epoch; None: as listed. dry_run: only look at what would be done.
    """

    update: bool = False
    delete: bool = False
    check_content: bool = False
    swap: bool = False
    hardlink: bool = False
    strict: bool = False
    mtime: int | None = None
    dry_run: bool = False


@dataclass(slots=True)
class Report:
    """What was done, or would be.

    files, size: made of contents. shared: of these, files that share blocks or inodes with the store.
    entries: what else was made.
    changed: only owner, mode, attributes or time were set. same: nothing was to be done. removed, extra:
    paths that are not listed, and were removed, or left. left_out: what could not be made here as listed, by
    what it is.
    """

    files: int = 0
    size: int = 0
    shared: int = 0
    entries: int = 0
    changed: int = 0
    same: int = 0
    removed: int = 0
    extra: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Return the counts by name; what is made is told as `made`."""
        return {
            "files": self.files,
            "bytes": self.size,
            "shared": self.shared,
            "made": self.entries,
            "changed": self.changed,
            "same": self.same,
            "removed": self.removed,
            "extra": self.extra,
            "left_out": dict(sorted(self.left_out.items())),
        }


def refuse_losses(report: Report, where: str) -> None:
    """Raise StoreError where something was left out. where: what was made, for the message."""
    if report.left_out:
        told = ", ".join(f"{count:,} {what}" for what, count in sorted(report.left_out.items()))
        raise StoreError(
            f"not all of the list can be made at {where}: {told}",
            hint="as root, and on a file system of Linux's own, all of it can; or leave out --strict",
        )
