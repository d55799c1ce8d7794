"""The two sides of a comparison: what a word on the command line can name, and how its list is had.

KINDS is the table: a row for each kind of thing, the first that fits is taken. `KIND:` before the name takes
a certain one.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.errors import BuildstepError, ImageError, UsageError
from buildstep.events import Bus, Note
from buildstep.files.compare import Aspect, Content, Listing
from buildstep.files.compare_packages import DATABASES, Packages
from buildstep.files.compare_report import Named
from buildstep.tree.entry import HEADER, Entry

if TYPE_CHECKING:
    from buildstep.cli.files_options import Work
    from buildstep.cli.session import Session
    from buildstep.files.content import ContentStore
    from buildstep.images.record import ImageRecord
    from buildstep.report.record import BuildRecord

_BEGINNING = 64 << 10
"""Bytes of a file by which a list is told from an archive."""

_LACKS: Mapping[str, frozenset[Aspect]] = {
    "ays1": frozenset(("mode", "owner", "target", "device", "xattrs", "hard links", "time")),
    "ays3": frozenset(("xattrs", "hard links")),
}
"""What a form of list cannot tell."""

_NOBODY = 65534
"""The number that stands for the owners of a list whose names are not known here."""

_ARCHIVES = ("tar", "oci", "docker-archive", "docker")
"""Schemes of sources whose image can be listed; those of the others need a pool to be unpacked in."""


@dataclass(kw_only=True, slots=True)
class Side:
    """One of two trees. content: returns that of some files, those of package databases at least; None for a
    mere list. packages: by a record, for where the tree itself does not tell. build: the record of the build
    that made it; image: of the image in the pool."""

    named: Named
    listing: Listing
    content: Content | None = None
    packages: Packages | None = None
    build: BuildRecord | None = None
    image: ImageRecord | None = None
    notes: list[str] = field(default_factory=list)
    foreign: bool = False
    """Whether contents are named by another digest than SHA-256, with its name before it: `md5:...`."""

    def without_foreign(self) -> Listing:
        """Return the list with no content named by another digest."""
        if not self.foreign:
            return self.listing
        entries = {it.path: replace(it, sha256="") for it in self.listing.entries()}
        return Listing.of(entries, lacks=self.listing.lacks | {"content"})


@dataclass(slots=True)
class Opening:
    """What sides are opened with. stack: what stays open as long as a side is used; work: the store; pool:
    the URI of a flag."""

    stack: ExitStack
    work: Work
    pool: str | None = None
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
        if kind.fits(text, opening):
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
        return Side(named=Named(text, "list", listing.digest), listing=listing)
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
        named=Named(text, f"{form} list"),
        listing=Listing.of(entries, lacks=lacks),
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
        named=Named(text, "directory", listing.digest),
        listing=listing,
        content=partial(_read, os.fsencode(text)),
    )


def _read(top: bytes, entry: Entry) -> bytes | None:
    """Return the content of a file of a tree; None where it is not what it was when it was listed."""
    from buildstep.tree.hashing import open_content

    try:
        with os.fdopen(open_content(top, entry), "rb") as stream:
            return stream.read()
    except OSError:
        return None


# -- archives ---------------------------------------------------------------------------------------------


def _is_archive(text: str, _opening: Opening) -> bool:
    scheme, colon, _ = text.partition(":")
    return os.path.exists(text) or bool(colon and scheme in _ARCHIVES)


def _archive(text: str, opening: Opening) -> Side:
    from buildstep.formats.tree_writer import Lister
    from buildstep.formats.unpack import list_archive, list_layer
    from buildstep.images.file_kind import kind_of
    from buildstep.images.interface import SourceContext
    from buildstep.images.sources import parse
    from buildstep.images.sources.local_file import path_of

    ref = f"{kind_of(Path(text))}:{text}" if os.path.exists(text) else text
    scheme = ref.partition(":")[0]
    bus = opening.bus()
    if scheme not in _ARCHIVES or (parsed := parse(ref, bus=bus)) is None:
        raise ImageError(
            f"the files of {text} cannot be listed: it is of the kind {scheme}",
            hint="import it with `buildstep image import`, then compare the image in the pool",
        )
    source, locator = parsed
    path = path_of(ref)
    if path is not None and not path.exists():
        raise ImageError(f"there is no file {path}")
    lister = Lister(lambda path: DATABASES.fullmatch(path) is not None)
    folder = Path(opening.stack.enter_context(tempfile.TemporaryDirectory(prefix="buildstep-diff-")))
    (folder / "into").mkdir()
    (folder / "cache").mkdir()
    context = SourceContext(
        cache=folder / "cache",
        downloads=folder,
        privileged=False,
        bus=bus,
        environ=os.environ,
        unpack=lambda stream, _into: list_archive(stream, lister),
        apply_layer=lambda stream, _into, below: list_layer(stream, lister, below),
    )
    try:
        if path is not None:
            source.identify(locator, lambda _path: "")  # it says what is wrong with a file
        found = source.fetch(locator, folder / "into", context)
    except OSError as error:
        raise ImageError(f"cannot read {text}: {error.strerror}") from error
    listing = Listing.of(found.entries or {})
    side = Side(named=Named(text, scheme, listing.digest), listing=listing, content=lister.content)
    if path is not None and (build := _record_of(path, listing.digest, side.notes)) is not None:
        side.build = build
        side.named = replace(side.named, build=build.build_id)
        side.packages = packages_of(build)
    return side


def _record_of(path: Path, digest: str, notes: list[str]) -> BuildRecord | None:
    """Return the record of the build that made an image file, if it lies beside it and is of this tree."""
    from buildstep.report import parse
    from buildstep.report.record import RECORD_SUFFIX

    for file in sorted(path.absolute().parent.glob(f"*{RECORD_SUFFIX}")):
        if not path.name.startswith(file.name.removesuffix(RECORD_SUFFIX)):
            continue
        try:
            record = parse.load(file)
        except BuildstepError as error:
            notes.append(f"the build record {file} is not used: {error.message}")
            continue
        if path.name in [artifact.name for artifact in record.artifacts]:
            if record.tree_digest == digest:
                return record
            notes.append(f"the build record {file} is not used: it is of another tree than {path.name}")
    return None


def packages_of(record: BuildRecord) -> Packages | None:
    """Return the packages that a build record names; None for none, as it may not know them."""
    if not record.packages:
        return None
    return Packages(record.packages, str(record.inputs.get("installer", "")))


def _is_build(text: str, _opening: Opening) -> bool:
    from buildstep.report.record import RECORD_SUFFIX

    return text.endswith(RECORD_SUFFIX) and os.path.isfile(text)


def _build(text: str, opening: Opening) -> Side:
    from buildstep.images.file_kind import kind_of
    from buildstep.report import parse

    record = parse.load(Path(text))
    for artifact in record.artifacts:
        for path in (Path(text).with_name(artifact.name), Path(artifact.path)):
            if path.exists() and kind_of(path) in _ARCHIVES:
                side = _archive(os.fspath(path), opening)
                side.named = replace(side.named, name=text)
                return side
    raise ImageError(
        f"{text} names no image file that is here and whose files can be listed",
        hint="give the image file itself, or build it again with --format tar or oci",
    )


# -- stores -----------------------------------------------------------------------------------------------

_DIGITS = re.compile("[0-9a-f]{6,64}")


def _is_stored(text: str, opening: Opening) -> bool:
    from buildstep.files import refs

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

    def content(entry: Entry) -> bytes | None:
        try:
            return store.get(entry.sha256)
        except BuildstepError as error:
            opening.notes.append(f"{text}: {error.message}")
            return None

    return Side(
        named=Named(text, f"list {found.digest[:12]} of {store.storage.url}", listing.digest),
        listing=listing,
        content=content,
    )


# -- images -----------------------------------------------------------------------------------------------


def _image(text: str, opening: Opening) -> Side:
    from buildstep.pool.interface import Kind

    store = opening.session().store
    record = store.get(text)
    listing = image_listing(store, record)
    tree = opening.stack.enter_context(store.backend.tree(Kind.IMAGE, record.uuid))
    return Side(
        named=Named(f"{record.name}@{record.version}", f"image {record.uuid}", record.tree_digest),
        listing=listing,
        content=partial(_read, os.fsencode(tree)),
        packages=Packages(record.packages, record.installer) if record.packages else None,
        image=record,
    )


def image_listing(store: Any, record: ImageRecord) -> Listing:
    """Return the file list of an image in a pool, its lines unparsed where what is stored is whole."""
    data = store.stored_list(record)
    return Listing.read(data) if data is not None else Listing.of(store.entries(record))


KINDS: Mapping[str, SideKind] = {
    "build": SideKind("a build record, for its image file", _is_build, _build),
    "list": SideKind("a file list", _is_list, _list),
    "tree": SideKind("a directory", _is_tree, _tree),
    "archive": SideKind(
        "an image file (tar, OCI, docker-archive) or docker://HOST/NAME:TAG", _is_archive, _archive
    ),
    "store": SideKind("a ref, or a digest of a list, in the store", _is_stored, _stored),
    "image": SideKind(
        "an image in the pool: uuid, name@version, name", lambda text, _: bool(text), _image, pool=True
    ),
}
"""Kinds of sides by name, the first that fits first."""
