"""AYS's store, in any storage: objects by MD5 in `files/H0/H1/MD5`, lists in `md/NAME.flist`.

H0 and H1 are the first two digits of the MD5. This is where AYS's builds put them and where its readers look,
below a directory `dedupe` (JumpScale 7 Sandboxer.py, ActionsBaseNode.py); its HTTP server kept objects in
`H0/H1/MD5`, with no directory above. Reading knows all three, writing the first.

MD5 says that a content was not damaged by chance. It does not say that nobody made another with the same MD5.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from buildstep.errors import StoreError, UsageError
from buildstep.files.interface import Damaged, Missing, Storage
from buildstep.system.digest import Digester
from buildstep.system.files import CHUNK
from buildstep.system.text import plural

PLACES = ("files/", "dedupe/files/", "")
"""Where objects can be; the first is where they are written."""
LIST_PLACES = ("md/", "dedupe/md/")

LARGEST_LIST = 256 << 20
"""Bytes of a list that is read; that of a whole distribution has some 20 MiB."""

_MD5 = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_PIECE = 8 * CHUNK
_TRIES = 5


class AysStore:
    """Reads and writes such a store. No name in it is made of anything but an MD5 or a checked name."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._places: tuple[str, ...] = PLACES
        self._found: dict[str, str] = {}

    # -- objects ---------------------------------------------------------------------------------------

    def missing(self, digests: Iterable[str]) -> set[str]:
        """Return those MD5s that have no object. Raises StoreError."""
        wanted = set(digests)
        return wanted - self._locate(wanted).keys()

    def open(self, md5: str, size: int) -> Object:
        """Return an object to read, a context manager; it is verified while it is read.

        The last bytes are only handed out if size and MD5 are right. Raises Missing; StoreError for an object
        that AYS compressed; reading raises Damaged.
        """
        name = self._locate({md5}).get(md5)
        if name is None:
            raise self.why_missing(md5)
        return Object(_Verified(self.storage, name, md5, size))

    def add(self, md5: str, data: bytes | Path) -> bool:
        """Store a content. data: its bytes, or a file that nobody writes to. Return False if it was there.

        What is there is read and compared, and left as it is. Raises Damaged for it, or StoreError.
        """
        name = _object_name(PLACES[0], md5)
        size, real = _measure(data)
        if real != md5:
            raise StoreError(f"a content has the MD5 {real}, not {md5}", hint="it changed; try again")
        if self.storage.write(name, data):
            return True
        with Object(_Verified(self.storage, name, md5, size)) as there:
            while there.read(CHUNK):
                pass
        return False

    def _locate(self, digests: set[str]) -> dict[str, str]:
        """Return the name of each object that is there."""
        found = {md5: self._found[md5] for md5 in digests if md5 in self._found}
        for place in self._places:
            names = {_object_name(place, md5): md5 for md5 in digests if md5 not in found}
            if not names:
                break
            there = self.storage.exists(names)
            found |= {names[name]: name for name in there}
            if there:  # where one is, the others are likely to be
                self._places = (place, *(other for other in self._places if other != place))
        self._found |= found
        return found

    def why_missing(self, md5: str) -> StoreError:
        """Return the error of an object that is not there, or is there as only AYS itself reads it."""
        packed = self.storage.exists([_object_name(place, md5) + ".bro" for place in PLACES])
        if packed:
            hint = "expand it with `brotli -d`, and list it by the MD5 of what comes out"
            name = min(packed)
            return StoreError(
                f"{self.storage.url} has {name}, compressed with brotli, which is not read", hint=hint
            )
        return Missing(f"{self.storage.url} has no object {md5}", hint="is it the store of this list?")

    # -- lists -----------------------------------------------------------------------------------------

    def check_name(self, name: str) -> None:
        """Raise UsageError for what no list can be called."""
        _list_name(LIST_PLACES[0], name)

    def lists(self) -> list[str]:
        """Return the names of the lists. Raises StoreError, Unlistable where that cannot be known."""
        found = set()
        for place in LIST_PLACES:
            names = (item.name.removeprefix(place) for item in self.storage.list(place))
            found |= {name.removesuffix(".flist") for name in names if name.endswith(".flist")}
        return sorted(name for name in found if _NAME.fullmatch(name))

    def read_list(self, name: str) -> bytes:
        """Return a list. name: as DOMAIN__SERVICE. Raises Missing, StoreError, UsageError for a bad name."""
        for place in LIST_PLACES:
            try:
                data = self.storage.read(_list_name(place, name), 0, LARGEST_LIST + 1)
            except Missing:
                continue
            if len(data) > LARGEST_LIST:
                raise StoreError(f"the list {name} of {self.storage.url} has over {LARGEST_LIST} bytes")
            return data
        raise Missing(f"{self.storage.url} has no list {name}")

    def write_list(self, name: str, data: bytes) -> None:
        """Store a list, in place of an older one of that name; add its objects before. Raises StoreError."""
        path = _list_name(LIST_PLACES[0], name)
        for _ in range(_TRIES):
            there = self.storage.load(path)
            if self.storage.swap(path, data, there.version if there else None):
                return
        raise StoreError(f"others write the list {name} of {self.storage.url} all the time", retryable=True)


def _object_name(place: str, md5: str) -> str:
    if not _MD5.fullmatch(md5):
        raise StoreError(f"{md5!r} is no MD5")
    return f"{place}{md5[0]}/{md5[1]}/{md5}"


def _list_name(place: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a list", hint="letters, digits and `._-`, as DOMAIN__SERVICE"
        )
    return f"{place}{name}.flist"


def _measure(data: bytes | Path) -> tuple[int, str]:
    """Return the size and the hex MD5 of a content."""
    if isinstance(data, bytes):
        return len(data), hashlib.md5(data, usedforsecurity=False).hexdigest()
    with data.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False))
        return stream.tell(), digest.hexdigest()


# -- reading -----------------------------------------------------------------------------------------------


class _Verified(io.RawIOBase):
    """An object, read piece by piece; its end is only reached if it is what its name says."""

    def __init__(self, storage: Storage, name: str, md5: str, size: int) -> None:
        self._storage = storage
        self._name = name
        self._wanted = (size, md5)
        self._digester = Digester("md5", "sha256")
        self.complete = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self.complete:
            return 0
        size, md5 = self._wanted
        view = memoryview(buffer)
        left = size - self._digester.size
        count = min(len(view), left)
        # One byte more at the end, so that one call shows that nothing follows.
        data = self._storage.read(self._name, self._digester.size, count + (count == left))
        self._digester.update(data)
        if self._digester.size > size or len(data) < count:
            raise self._damaged(
                f"it has {'more' if len(data) > count else 'fewer'} than {plural(size, 'byte')}"
            )
        if count == left:
            if (real := self._digester.digest("md5").hex()) != md5:
                raise self._damaged(f"its content has the MD5 {real}")
            self.complete = True
        view[:count] = data
        return count

    @property
    def sha256(self) -> str:
        assert self.complete, "the object was not read to its end"
        return self._digester.result().sha256

    def _damaged(self, why: str) -> Damaged:
        where = f"{self._storage.url}: the object {self._name}"
        return Damaged(f"{where} is damaged: {why}", name=self._name, hint="remove it, and store it again")


class Object(io.BufferedReader):
    """An object of an AYS store, to read from its beginning. What is read first is not verified before the
    last: keep it apart until then."""

    raw: _Verified

    def __init__(self, raw: _Verified) -> None:
        super().__init__(raw, _PIECE)

    @property
    def sha256(self) -> str:
        """The hex SHA-256, once all was read."""
        return self.raw.sha256
