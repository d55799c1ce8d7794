"""The two sides of a comparison: what a word on the command line can name, and how its list is had.

KINDS is the table: a row for each kind of thing, the first that fits is taken. `KIND:` before the name takes
a certain one.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from buildstep.cli.files_side import Opening, Side, read_below
from buildstep.cli.files_side_images import archive_side, build_side, image_side, is_archive, is_build
from buildstep.errors import BuildstepError, UsageError
from buildstep.files.compare import Aspect, Listing
from buildstep.files.compare_packages import database_files
from buildstep.files.compare_report import Named
from buildstep.tree.entry import HEADER, Entry

_BEGINNING = 64 << 10
"""Bytes of a file by which a list is told from an archive."""

_LACKS: Mapping[str, frozenset[Aspect]] = {
    "ays1": frozenset(("mode", "owner", "target", "device", "xattrs", "hard links", "time")),
    "ays3": frozenset(("xattrs", "hard links")),
}
"""What a form of list cannot tell."""

_NOBODY = 65534
"""The number that stands for the owners of a list whose names are not known here."""


@dataclass(frozen=True, slots=True)
class SideKind:
    """A kind of thing that can be compared. fits: whether a word names one; open: makes the side; pool:
    whether that needs the pool."""

    about: str
    fits: Callable[[str, Opening], bool]
    open: Callable[[str, Opening], Side]
    pool: bool = False


def kind_of_side(text: str, opening: Opening) -> tuple[str, SideKind, str]:
    """Return what a word names: the kind's name, the kind, and the word without `KIND:`.

    Raises UsageError where it names nothing.
    """
    name, colon, rest = text.partition(":")
    if colon and rest and name in KINDS:
        return name, KINDS[name], rest
    for name, kind in KINDS.items():
        if (not opening.kinds or name in opening.kinds) and kind.fits(text, opening):
            return name, kind, text
    raise UsageError(f"{text!r} names nothing that can be compared", hint=f"a side is {sides_text()}")


def sides_text() -> str:
    """Return what a side can be, in words."""
    return "; ".join(kind.about for kind in KINDS.values())


def side_of(text: str, opening: Opening) -> Side:
    """Return the side that a word names. Raises UsageError, and what its kind raises."""
    _, kind, rest = kind_of_side(text, opening)
    side = kind.open(rest, opening)
    side.notes += opening.notes
    opening.notes.clear()
    return side


# -- lists ------------------------------------------------------------------------------------------------


def _is_list(text: str, _opening: Opening) -> bool:
    from buildstep.files.lists import detect

    if not os.path.isfile(text):
        return False
    with open(text, "rb") as stream:
        head = stream.read(_BEGINNING)
    return detect(head) is not None


def _list(text: str, _opening: Opening) -> Side:
    from buildstep.files.lists import detect, read_list
    from buildstep.files.lists.interface import Owners, Reading

    try:
        data = Path(text).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the list {text}: {error.strerror}") from error
    if data.startswith(HEADER):
        listing = Listing.read(data)
        return Side(named=Named(text, "list", listing))
    form = detect(data) or ""
    found = read_list(data, reading=Reading(source=text, conflicts="last", owners=Owners(unknown=_NOBODY)))
    entries = dict(found.entries)
    for path, named in found.digests.items():
        # Two such lists can be compared by it. It must not be taken for the SHA-256 of anything.
        entries[path] = replace(entries[path], sha256=str(named))
    lacks = _LACKS.get(form, frozenset())
    if any(note.kind == "short-mode" for note in found.notes):  # whether something is setuid is not told
        lacks |= {"mode"}
    return Side(
        named=Named(text, f"{form} list", Listing.of(entries, lacks=lacks)),
        notes=[f"{text}: {note}" for note in found.notes],
        foreign=bool(found.digests),
    )


# -- trees ------------------------------------------------------------------------------------------------


def _is_tree(text: str, _opening: Opening) -> bool:
    return os.path.isdir(text) and not os.path.isfile(os.path.join(text, "oci-layout"))


def _tree(text: str, _opening: Opening) -> Side:
    from buildstep.tree.hashing import hash_entries, spread_digests
    from buildstep.tree.scan import scan

    if not os.path.isdir(text):
        raise UsageError(f"there is no directory {text}")
    try:
        entries = scan(Path(text))
        hash_entries(Path(text), entries.values())
    except OSError as error:
        where = os.fsdecode(error.filename or text)
        raise UsageError(f"cannot read {where}: {error.strerror}") from error
    spread_digests(entries)
    listing = Listing.of(entries)
    return Side(
        named=Named(text, "directory", listing),
        content=partial(read_below, os.fsencode(text)),
    )


# -- stores -----------------------------------------------------------------------------------------------

_DIGITS = re.compile("[0-9a-f]{6,64}")
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _is_stored(text: str, opening: Opening) -> bool:
    from buildstep.files import refs

    if _UUID.fullmatch(text):  # an image's: no store need be asked
        return False
    try:
        store = opening.store()
        if not store.is_there():
            return False
        return _DIGITS.fullmatch(text) is not None or refs.read(store.storage, text) is not None
    except UsageError:  # a name that no ref can have
        return False


def _stored(text: str, opening: Opening) -> Side:
    from buildstep.files.lookup import find

    store = opening.store()
    found = find(store, text)
    listing = Listing.read(found.data)

    @functools.cache
    def databases() -> dict[str, bytes]:
        """Return the contents that are asked for: a store far away is asked a few times, not hundreds."""
        try:
            return dict(store.get_many({it.sha256 for it in database_files(listing)}))
        except BuildstepError as error:
            opening.notes.append(f"{text}: {error.message}")
            return {}

    def content(entry: Entry) -> bytes | None:
        return databases().get(entry.sha256)

    return Side(
        named=Named(text, f"list {found.digest[:12]} of {store.storage.url}", listing),
        content=content,
    )


KINDS: Mapping[str, SideKind] = {
    "build": SideKind("a build record, for its image file", is_build, build_side),
    "list": SideKind("a file list", _is_list, _list),
    "tree": SideKind("a directory", _is_tree, _tree),
    "archive": SideKind(
        "an image file (tar, OCI, docker-archive) or docker://HOST/NAME:TAG", is_archive, archive_side
    ),
    "store": SideKind("a ref, or a digest of a list, in the store", _is_stored, _stored),
    "image": SideKind(
        "an image in the pool: uuid, name@version, name", lambda text, _: bool(text), image_side, pool=True
    ),
}
"""Kinds of sides by name, the first that fits first."""
