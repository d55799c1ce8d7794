"""One side of a comparison, and what it is opened with."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from buildstep.events import Bus, Note
from buildstep.files.compare import Content, Listing
from buildstep.files.compare_layers import Layers
from buildstep.files.compare_packages import Packages
from buildstep.files.compare_report import Named
from buildstep.tree.entry import Entry

if TYPE_CHECKING:
    from buildstep.cli.files_options import Work
    from buildstep.cli.session import Session
    from buildstep.files.content import ContentStore
    from buildstep.report.record import BuildRecord


@dataclass(kw_only=True, slots=True)
class Side:
    """One of two trees. content: returns that of some files, those of package databases at least; None for a
    mere list. packages: by a record, for where the tree itself does not tell. build: the record of the build
    that made it. layers: None of what has none, and where they are not known."""

    named: Named
    content: Content | None = None
    packages: Packages | None = None
    build: BuildRecord | None = None
    layers: Layers | None = None
    notes: list[str] = field(default_factory=list)
    foreign: bool = False
    """Whether contents are named by another digest than SHA-256, with its name before it: `md5:...`."""

    @property
    def listing(self) -> Listing:
        return self.named.listing

    def without_foreign(self) -> Listing:
        """Return the list with no content named by another digest."""
        if not self.foreign:
            return self.listing
        entries = {it.path: replace(it, sha256="") for it in self.listing.entries()}
        return Listing.of(entries, lacks=self.listing.lacks | {"content"})


@dataclass(slots=True)
class Opening:
    """What sides are opened with. stack: what stays open as long as a side is used; work: the store; pool:
    the URI of a flag; kinds: those that a word without `KIND:` may be of, none of them for any."""

    stack: ExitStack
    work: Work
    pool: str | None = None
    kinds: Collection[str] = ()
    notes: list[str] = field(default_factory=list)
    _session: Session | None = None
    _store: ContentStore | None = None

    def store(self) -> ContentStore:
        """Return the store, opened once. Raises as `Work.open`."""
        if self._store is None:
            self._store = self.work.open()
        return self._store

    def session(self) -> Session:
        """Return the pool, opened once. Raises as `session.open_session`."""
        if self._session is None:
            from buildstep.cli import session

            self._session = session.open_session(self.pool, quiet=True, silent=True, healing=False)
        return self._session

    def bus(self) -> Bus:
        """Return a bus whose warnings become notes of the comparison."""
        return Bus(lambda event: self.notes.append(event.text) if isinstance(event, Note) else None)


def read_below(top: bytes, entry: Entry) -> bytes | None:
    """Return the content of a file of a tree; None where it is not what it was when it was listed."""
    from buildstep.tree.hashing import open_content

    try:
        with os.fdopen(open_content(top, entry), "rb") as stream:
            return stream.read()
    except OSError:
        return None
