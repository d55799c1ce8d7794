"""Links that lead to nothing."""

from __future__ import annotations

from collections.abc import Iterator

from buildstep.checks.interface import Found, Subject
from buildstep.system.text import shown


def dangling(subject: Subject) -> Iterator[Found]:
    """Yield the links that lead to nothing in the image."""
    for path, entry in subject.files():
        if entry.kind == "l" and not subject.tree.leads(entry.target, via=path.rpartition(b"/")[0]):
            yield Found(path, f"leads to {shown(entry.target)}, which is not in the image")
