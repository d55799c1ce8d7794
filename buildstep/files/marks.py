"""What is in a store, and what of it the refs reach: the lists, the contents, and the chunks of these."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self, TypeVar

from buildstep.errors import StoreError
from buildstep.files import chunks, layout, refs
from buildstep.files.content import ContentStore
from buildstep.files.interface import Item, Missing, Storage
from buildstep.files.parallel import parallel
from buildstep.files.refs import Ref
from buildstep.tree import entry

T = TypeVar("T")

# A literal beginning is found ten times as quickly as a line's start.
_DIGEST = re.compile(r"\nf\t[^\t]*\t[^\t]*\t[^\t]*\t[0-9]+\t([0-9a-f]{64})\t")
_FILE = re.compile(r"\nf\t[^\t]*\t[^\t]*\t[^\t]*\t([0-9]+)\t([0-9a-f]{64})\t(-\t)?")


def contents_in(data: bytes) -> list[str]:
    """Return the digests of the files of a stored list, in its order; see `tree.entry.dumps`.

    Much quicker than reading the whole list. Raises StoreError for what is no list of hashed files.
    """
    return _checked(data, _DIGEST.findall(data.decode("latin-1")))


def files_in(data: bytes, *, linked: bool = True) -> list[tuple[str, int]]:
    """Return (digest, size) of each file of a stored list, as `contents_in`.

    linked: also of the later members of hard-link groups.
    """
    found = _checked(data, _FILE.findall(data.decode("latin-1")))
    return [(digest, int(size)) for size, digest, alone in found if linked or alone]


def _checked(data: bytes, found: list[T]) -> list[T]:
    if not data.startswith(entry.HEADER) or len(found) != data.count(b"\nf\t"):
        raise StoreError("a list cannot be read, or has files without a digest")
    return found


@dataclass(frozen=True, slots=True)
class Inventory:
    """The blobs of a store. objects: by name; packs, lists: by digest; forms: of each content that is an
    object, the names that it has."""

    objects: dict[str, Item] = field(default_factory=dict)
    packs: dict[str, Item] = field(default_factory=dict)
    lists: dict[str, Item] = field(default_factory=dict)
    forms: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, storage: Storage) -> Self:
        """List a storage. Raises Unlistable, StoreError."""
        found = cls()
        for under in (layout.LISTS, layout.PACKS, layout.OBJECTS):
            for item in storage.list(under):
                if (name := layout.parse(item.name)) is None:
                    continue
                if name.kind == "objects":
                    found.objects[item.name] = item
                    found.forms.setdefault(name.digest, []).append(item.name)
                else:
                    (found.packs if name.kind == "packs" else found.lists)[name.digest] = item
        return found

    def size(self, name: str) -> int:
        """Return the bytes of a blob, 0 for one that is not there."""
        parsed = layout.parse(name)
        assert parsed is not None, name
        item = {
            "objects": self.objects.get(name),
            "packs": self.packs.get(parsed.digest),
            "lists": self.lists.get(parsed.digest),
        }[parsed.kind]
        return 0 if item is None else item.size


class Reach:
    """What is reached so far. lists, contents: by digest; of a content made of chunks these as well.

    Each call reads only the lists and recipes that are new since the one before.
    """

    def __init__(self, store: ContentStore) -> None:
        self._store = store
        self.lists: set[str] = set()
        self.contents: set[str] = set()
        self._expanded: set[str] = set()

    def refs(self) -> list[Ref]:
        """Read all refs, and take in what they keep, without the chunks; return them.

        Raises StoreError for a ref or list that cannot be read: what it keeps cannot be known.
        """
        found = list(refs.every(self._store.storage))
        for ref in found:
            self.contents.update(ref.contents)
        try:
            self.take_lists(ref.list for ref in found if ref.list)
        except Missing as error:
            raise StoreError(
                f"a ref keeps a list that is not there: {error.message}",
                hint="`buildstep files verify` says which; get the list from elsewhere, or remove the ref",
            ) from error
        return found

    def take_lists(self, digests: Iterable[str]) -> None:
        """Take in lists and their contents, without the chunks. Raises Missing, Damaged, StoreError."""
        fresh = [digest for digest in dict.fromkeys(digests) if digest not in self.lists]
        for digest, data in zip(
            fresh, parallel(self._store.read_list, fresh, self._store.storage.at_once), strict=True
        ):
            self.contents.update(contents_in(data))
            self.lists.add(digest)

    def take_chunks(self, inventory: Inventory) -> None:
        """Take in the chunks of what is made of chunks. inventory: taken after the refs were read.

        Raises StoreError for a list of chunks that cannot be read.
        """
        storage = self._store.storage
        pending = self.contents - self._expanded
        while pending:
            self._expanded |= pending
            names = {layout.object_name(digest, layout.CHUNKS) for digest in pending & inventory.forms.keys()}
            recipes = parallel(storage.read, sorted(names & inventory.objects.keys()), storage.at_once)
            found = {piece.digest for data in recipes for piece in chunks.parse(data).pieces}
            self.contents |= found
            pending = found - self._expanded
