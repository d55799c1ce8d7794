"""Assets in a storage of blobs: a directory, one behind ssh, one behind a web server.

An asset is a blob of its plain name, as daybook has it. What is told of it is in a second one, which is
written right after it: until then, and where daybook itself has put the asset, its sha256 is not known. A web
server cannot be listed; an index says for it what there is (`blob_index`).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, ClassVar

from buildstep.assets import names
from buildstep.assets.blob_index import (
    INDEX,
    Row,
    pack_details,
    pack_index,
    parse_details,
    parse_index,
    sidecar,
)
from buildstep.assets.interface import Asset, AssetTaken, Details, Incoming, NoStore
from buildstep.assets.names import Name
from buildstep.assets.taken import settle, sha256_of
from buildstep.errors import StoreError
from buildstep.files import open_storage
from buildstep.files.interface import Access, Missing, Storage, Unlistable
from buildstep.files.parallel import parallel

_PIECE = 4 << 20
"""Bytes that one call gets; most assets are smaller, and need one call only."""
_IN_MEMORY = 64 << 20
"""Bytes of an asset that is replaced without a moment in which none is there."""
_TRIES = 20
"""Rounds in which others may change the same blob before ours."""

Change = Callable[[bytes | None], bytes | None]
"""Returns what a blob is to be, None to leave it, from what it is."""


class BlobAssets:
    """`dir:PATH`, `ssh://HOST/PATH`, `http(s)://HOST/PATH`: see the storages of these names."""

    scheme: ClassVar[str] = "dir"

    def __init__(self, url: str, access: Access) -> None:
        self._storage: Storage = open_storage(
            url, environ=access.environ, bus=access.bus, http=access.http, endpoint=access.endpoint
        )
        self.url = self._storage.url
        self.at_once = self._storage.at_once
        self._guard = threading.Lock()
        self._changed: dict[str, Row | None] = {}
        self._index: Mapping[str, Row] = {}

    # -- reading

    def list(self, service: str = "") -> Iterator[Asset]:
        """See `AssetStore`."""
        prefix = f"{names.checked_service(service)}-" if service else ""
        return self._listed(prefix)

    def _listed(self, prefix: str) -> Iterator[Asset]:
        folder = self._storage.root
        if folder is not None and not folder.exists():
            # An empty listing would say that all versions were deleted.
            raise NoStore(
                f"there is no directory {folder}",
                hint="is the path right, and is it mounted? `assets push` makes a new store",
            )
        try:
            for item in self._storage.list(""):
                name = names.parse(item.name, hyphens=True) if item.name.startswith(prefix) else None
                if name is not None:
                    yield Asset(name=name, size=item.size, modified=item.modified)
        except Unlistable as error:
            self._index = self._read_index(error)
            for file, row in self._index.items():
                name = names.parse(file, hyphens=True) if file.startswith(prefix) else None
                if name is not None:
                    yield Asset(name=name, size=row.details.size, modified=row.modified)

    def _read_index(self, error: Unlistable) -> Mapping[str, Row]:
        there = self._storage.load(INDEX)
        if there is None:
            raise Unlistable(
                f"{self.url} cannot be listed, and has no {INDEX}",
                hint="make it where the store is written: `buildstep assets index --store dir:PATH`",
            ) from error
        return parse_index(there.data, f"{self.url}/{INDEX}")

    def details(self, name: Name) -> Details:
        """See `AssetStore`."""
        found = self._recorded(name)
        if found is None:
            return Details(sha256="", size=self._size(name))
        if not self._storage.exists([name.file]):
            raise self._missing(name)
        return found

    def _recorded(self, name: Name) -> Details | None:
        """Return what was recorded of an asset; None if nothing was."""
        if (row := self._index.get(name.file)) is not None:
            return row.details
        there = self._storage.load(sidecar(name))
        return None if there is None else parse_details(there.data, f"{self.url}/{sidecar(name)}")

    def _size(self, name: Name) -> int:
        """Return the size of an asset of which nothing is recorded. Raises Missing."""
        if self._storage.root is not None:
            with contextlib.suppress(OSError):
                return os.stat(self._storage.root / name.file, follow_symlinks=False).st_size
            raise self._missing(name)
        with self._copied(name) as file:
            return os.fstat(file.fileno()).st_size

    def _missing(self, name: Name) -> Missing:
        return Missing(f"{self.url} has no {name.file}")

    @contextlib.contextmanager
    def open(self, name: Name) -> Iterator[Incoming]:
        """See `AssetStore`."""
        details = self._recorded(name)
        if details is None and self._storage.root is not None:
            details = Details(sha256="", size=self._size(name))
        if details is not None:
            found = _Pieces(self._storage, name, details)
            found.begin()
            yield found
        else:
            # How long it is shows when all of it is here.
            with self._copied(name) as file:
                yield _Copy(file)

    @contextlib.contextmanager
    def _copied(self, name: Name) -> Iterator[IO[bytes]]:
        with tempfile.TemporaryDirectory(prefix="buildstep-asset-") as folder:
            target = Path(folder, "asset")
            self._storage.fetch(name.file, target)
            with target.open("rb") as file:
                yield file

    # -- writing

    def put(self, name: Name, path: Path, details: Details, *, replace: bool = False) -> bool:
        """See `AssetStore`."""
        if replace:
            self._replace(name, path, details)
        elif not self._storage.write(name.file, path):
            return settle(self, name, details, self._recorded(name) or self._record_anew(name))
        self._record(name, details)
        return True

    def _replace(self, name: Name, path: Path, details: Details) -> None:
        """Put an asset in the place of another one: at once, unless one of them is large."""
        there = self._recorded(name)
        # What is told of an asset goes first: the new one must never be told the old one's sha256.
        self._storage.delete([sidecar(name)])
        if details.size <= _IN_MEMORY and (there is None or there.size <= _IN_MEMORY):
            self._change(name.file, lambda _there: path.read_bytes())
            return
        self._storage.delete([name.file])
        if not self._storage.write(name.file, path):
            raise AssetTaken(f"somebody else pushes {name.file} to {self.url} right now", retryable=True)

    def _record_anew(self, name: Name) -> Details:
        """Record what nobody has recorded: its writer was killed right after it was there, or was daybook."""
        details = Details(sha256=sha256_of(self, name), size=self._size(name))
        self._record(name, details)
        return details

    def _record(self, name: Name, details: Details) -> None:
        self._change(sidecar(name), lambda _there: pack_details(details))
        self._note(name, Row(details, time.time()))

    def _change(self, blob: str, change: Change) -> None:
        """Change a blob by compare-and-set, until nobody else has done so meanwhile."""
        for _ in range(_TRIES):
            there = self._storage.load(blob)
            data = change(None if there is None else there.data)
            if data is None or (there is not None and there.data == data):
                return
            if self._storage.swap(blob, data, None if there is None else there.version):
                return
        raise StoreError(f"{self.url}/{blob} is changed by others all the time", retryable=True)

    def delete(self, name: Name) -> None:
        """See `AssetStore`."""
        if not self._storage.exists([name.file]):
            raise self._missing(name)
        self._storage.delete([name.file])
        self._storage.delete([sidecar(name)])
        self._note(name, None)

    # -- the index

    def _note(self, name: Name, row: Row | None) -> None:
        with self._guard:
            self._changed[name.file] = row

    def interrupt(self) -> None:
        """Do nothing: calls to a storage are short."""

    def finish(self) -> None:
        """See `AssetStore`: an index that is there is kept up to date."""
        with self._guard:
            changed, self._changed = self._changed, {}

        def changed_index(there: bytes | None) -> bytes | None:
            if there is None:
                return None
            rows = {**parse_index(there, f"{self.url}/{INDEX}"), **changed}
            return pack_index({file: row for file, row in rows.items() if row is not None})

        if changed:
            self._change(INDEX, changed_index)

    def make_index(self) -> int:
        """Make the index anew, for readers behind a web server; it is kept up to date from then on.

        Returns how many assets are in it.
        """
        found: dict[str, Row] = {}
        if not self._storage.writable:
            self._storage.delete([])  # it says why not

        def row(asset: Asset) -> tuple[str, Row]:
            details = self._recorded(asset.name) or Details(sha256="", size=asset.size)
            return asset.name.file, Row(details, asset.modified)

        def index(_there: bytes | None) -> bytes:
            found.clear()
            with contextlib.suppress(NoStore):  # the index of a new store is empty, and makes it
                found.update(parallel(row, self.list(), self.at_once))
            return pack_index(found)

        self._change(INDEX, index)
        return len(found)


class _Pieces:
    """The bytes of an asset, a piece with each call; one that fails is made again by the storage."""

    def __init__(self, storage: Storage, name: Name, details: Details) -> None:
        self._storage = storage
        self._file = name.file
        self._at = 0
        self._piece = memoryview(b"")
        self.details = details

    def begin(self) -> None:
        """Get the first piece. Raises Missing."""
        self._piece = memoryview(self._storage.read(self._file, 0, _PIECE))

    def read(self, size: int = -1) -> bytes:
        """See `Incoming`."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_PIECE), b""))
        if not self._piece and self._at and self._at % _PIECE == 0:  # the last piece is shorter
            self._piece = memoryview(self._storage.read(self._file, self._at, _PIECE))
        data = bytes(self._piece[:size])
        self._piece = self._piece[size:]
        self._at += len(data)
        return data


class _Copy:
    """The bytes of an asset that is here already."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.details = Details(sha256="", size=os.fstat(file.fileno()).st_size)

    def read(self, size: int = -1) -> bytes:
        """See `Incoming`."""
        return self._file.read(size)
