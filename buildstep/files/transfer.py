"""Contents on their way from one store to another: whole, verified, and of the size that the list says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from buildstep.errors import StoreError
from buildstep.files.content import ContentStore
from buildstep.files.interface import Missing
from buildstep.files.lists.interface import FIND_CONTENT, few
from buildstep.files.session import Session
from buildstep.report.progress import Advance
from buildstep.system.text import plural, shown_path
from buildstep.tree.entry import FileList

LARGE = 8 << 20
"""Bytes of the largest content that is held in memory."""


def sizes(entries: FileList, source: str) -> dict[str, int]:
    """Return the contents of a list, by digest, with their sizes. source: the list, as messages call it.

    Raises StoreError for files without a digest, and for a content with two sizes.
    """
    found: dict[str, int] = {}
    wrong = []
    for path, entry in entries.items():
        if entry.kind != "f":
            continue
        if not entry.sha256:
            wrong.append(f"{shown_path(path)}: its content is not named")
        elif found.setdefault(entry.sha256, entry.size) != entry.size:
            wrong.append(f"{shown_path(path)}: {entry.sha256} has {entry.size} bytes, and elsewhere others")
    if wrong:
        raise StoreError(f"{source} has {plural(len(wrong), 'wrong entry')}", detail=few(wrong))
    return found


def lacking(url: str, entries: FileList, digests: set[str]) -> Missing:
    """Return the error for contents that a store lacks; it names all of them, each with its first path."""
    rows = []
    left = set(digests)
    for path, entry in entries.items():
        if entry.sha256 in left:
            left.remove(entry.sha256)
            rows.append(f"{entry.sha256} ({shown_path(path)})")
    message = f"{url} lacks {plural(len(rows), 'content')} of the list"
    return Missing(message, detail=few(rows), hint=FIND_CONTENT)


def contents(
    store: ContentStore, wanted: Mapping[str, int], spool: Path
) -> Iterator[tuple[str, bytes | Path]]:
    """Yield (digest, content) of each, verified: its bytes, or a file in `spool` that the caller removes.

    wanted: digests with the sizes that they are to have. Raises Missing, Damaged, StoreError, OSError.
    """
    left = dict(wanted)
    for digest, data in store.get_many(digest for digest, size in wanted.items() if size <= LARGE):
        _check_size(digest, len(data), left.pop(digest))
        yield digest, data
    for digest, size in left.items():
        path = spool / digest
        with path.open("xb", buffering=0) as stream:
            _check_size(digest, store.write_to(digest, stream.fileno()), size)
        yield digest, path


def _check_size(digest: str, real: int, wanted: int) -> None:
    # The digest was verified: it is the list that is wrong, and every reader of it would be misled.
    if real != wanted:
        raise StoreError(f"the content {digest} has {real} bytes, not {wanted} as the list says")


def copy(store: ContentStore, session: Session, wanted: Mapping[str, int], advance: Advance) -> None:
    """Put contents of one store into another. Raises as `contents`."""
    for digest, data in contents(store, wanted, session.spool):
        if isinstance(data, bytes):
            session.put(data, digest)
        else:
            with data.open("rb") as stream:
                session.put_stream(stream, wanted[digest])
            data.unlink()
        advance(1, wanted[digest])
