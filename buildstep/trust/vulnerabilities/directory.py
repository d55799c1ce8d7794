"""A directory of databases: what `buildstep scan --import` has made, and feeds as they were downloaded.

A feed as it was downloaded is read whole each time, so that it is looked at only where no database was
made of it, or it is newer than that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from buildstep.errors import NoDatabaseError, UsageError
from buildstep.system.digest import sha256_file
from buildstep.system.location import default_location
from buildstep.trust.vulnerabilities.database import SUFFIX, Database, Key, Writer
from buildstep.trust.vulnerabilities.feeds import FORMS
from buildstep.trust.vulnerabilities.feeds.interface import Form, Reading, expanded
from buildstep.trust.vulnerabilities.model import Advisory, Feed

VARIABLE = "BUILDSTEP_VULNERABILITY_DB"
_HEAD = 64 << 10
_MOST_FILES = 1000


class Known(Protocol):
    """What tells of vulnerabilities: a database, or a feed as it was downloaded."""

    feed: Feed
    scopes: frozenset[str]

    def find(self, keys: Collection[Key]) -> dict[Key, list[Advisory]]:
        """Return the advisories of packages, of those that have any."""
        ...


def place(given: str, environ: Mapping[str, str]) -> Path:
    """Return the directory of databases: the one that is given, that of the environment, or the user's
    own."""
    return Path(given or environ.get(VARIABLE, "") or default_location(environ) / "vulnerabilities")


def form_of(path: Path) -> Form | None:
    """Return the form that a file's content has; None for none that is known. Raises OSError."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if head[:2] in (b"\x1f\x8b", b"BZ") or head[:6] == b"\xfd7zXZ\0" or head[:4] == b"\x28\xb5\x2f\xfd":
        with expanded(path) as content:
            head = content.read(_HEAD)
    ours = next((FORMS[name] for name in FORMS if FORMS[name].fits(head, path.name)), None)
    return ours or next((form for form in FORMS.plugins().values() if form.fits(head, path.name)), None)


def import_files(
    downloads: Sequence[Path], folder: Path, *, updated: float | None, note: Callable[[str], None]
) -> list[Feed]:
    """Make databases of feeds. updated: when their content was current, where they do not say it themselves.

    All files are looked at before anything is written. Raises UsageError for what is no feed.
    """
    forms = []
    for path in downloads:
        try:
            form = form_of(path)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        if form is None:
            raise UsageError(
                f"{path} is none of the forms of advisories that are known: {', '.join(FORMS)}",
                hint="Debian's tracker as JSON, a zip of OSV, pkg-vulnerabilities, or a list of debsecan",
            )
        forms.append((path, form))
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for path, form in forms:
        reading = form.read(path)
        if updated is not None:
            reading.updated, reading.dated = updated, "given"
        with Writer() as writer:
            _, feed = writer.write(reading, path, sha256_file(path), folder)
        for what, count in sorted(reading.skipped.items()):
            note(f"{path}: left out {count:,} {what}")
        made.append(feed)
    return made


def files(folder: Path) -> list[Path]:
    """Return the files of a directory of databases that could tell of something; the directory may be a file.

    Raises NoDatabaseError where there is nothing.
    """
    try:
        found = [folder] if folder.is_file() else sorted(folder.iterdir())[:_MOST_FILES]
    except OSError as error:
        raise NoDatabaseError(
            f"there is no database of vulnerabilities at {folder}: {os.strerror(error.errno or 0)}", hint=HINT
        ) from error
    return [path for path in found if not path.name.startswith(".") and path.is_file()]


def ready(folder: Path) -> list[Feed]:
    """Make sure that there is a database, or a download, and return the databases. Raises NoDatabaseError."""
    there, found = files(folder), list[Feed]()
    for path in there:
        if path.suffix == SUFFIX:
            with Database(path) as database:
                found.append(database.feed)
    if not found and not any(form_of(path) for path in there):
        raise NoDatabaseError(f"there is no database of vulnerabilities in {folder}", hint=HINT)
    return found


@contextlib.contextmanager
def opened(folder: Path, keys: Collection[Key], note: Callable[[str], None]) -> Iterator[list[Known]]:
    """Open the databases in a directory, in the order in which they are believed; the directory may be a
    file.

    keys: what will be asked for. Raises NoDatabaseError where there is none, or one cannot be read.
    """
    there = files(folder)
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(Database(path)) for path in there if path.suffix == SUFFIX]
        found: list[Known] = list(made)
        for path in there:
            if path.suffix == SUFFIX:
                continue
            form = form_of(path)
            same = next((database for database in made if database.feed.file == path.name), None)
            if form is None or (same and path.stat().st_mtime <= same.imported):
                continue
            note(f"{path} is read whole each time: `buildstep scan --import` makes it quick")
            if same:
                found.remove(same)
            found.append(_Whole(path, form.read(path), keys))
        if not found:
            raise NoDatabaseError(f"there is no database of vulnerabilities in {folder}", hint=HINT)
        yield sorted(found, key=_belief)


HINT = "make one of files that were downloaded: buildstep scan --import FILE... [--db DIR]"


def _belief(known: Known) -> tuple[int, str]:
    order = [index for index, name in enumerate(FORMS) if known.feed.name.startswith(name)]
    return min(order, default=len(FORMS)), known.feed.name


class _Whole:
    """A feed as it was downloaded, read to its end for some packages."""

    def __init__(self, path: Path, reading: Reading, keys: Collection[Key]) -> None:
        wanted = frozenset(keys)
        self._found: dict[Key, list[Advisory]] = {}
        scopes = set()
        count = 0
        for scope, name, advisory in reading.rows:
            scopes.add(scope)
            count += 1
            if (scope, name) in wanted:
                self._found.setdefault((scope, name), []).append(advisory)
        self.scopes = frozenset(scope for scope in scopes if reading.only(scope))
        self.feed = Feed(
            name=reading.name, file=path.name, digest=sha256_file(path), updated=reading.updated,
            dated=reading.dated, rows=count,
        )  # fmt: skip

    def find(self, keys: Collection[Key]) -> dict[Key, list[Advisory]]:
        return {key: rows for key in keys if key[0] in self.scopes and (rows := self._found.get(key))}
