"""A registry as the storage of a shared cache: where a team has nothing else.

A record is an OCI artifact: a manifest of the type `application/vnd.buildstep.cache.record.v1`, whose layers
are the record itself and the blobs that it needs, so that the registry's own garbage collection leaves them.
The records of a scope are named by one tag, `buildstep-cache-1-SCOPE`, of an OCI index with an entry for
each: whoever looks for five records makes two calls after one another, not a call for each tag. No registry
has a tag that changes by compare-and-set: of two who write at the same moment, one may have to write again,
and a record that is lost all the same is a miss.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from buildstep.cache.remote import names
from buildstep.cache.remote.interface import is_digest
from buildstep.errors import StoreError, UsageError
from buildstep.files import remote
from buildstep.files.interface import Access, Item, Missing, Unlistable, Versioned
from buildstep.files.parallel import parallel
from buildstep.formats.oci.spec import MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST, Descriptor
from buildstep.net.credentials import credentials_for
from buildstep.net.errors import HttpError
from buildstep.net.http import Http
from buildstep.net.registry import Reference
from buildstep.net.registry_blobs import BlobRegistry
from buildstep.system.digest import sha256_bytes, sha256_file
from buildstep.system.files import Slice

TYPE = "application/vnd.buildstep.cache.record.v1"
_RECORD, _BLOB = f"{TYPE}+json", "application/vnd.buildstep.cache.blob.v1"
_EMPTY_TYPE, _EMPTY = "application/vnd.oci.empty.v1+json", b"{}"
_NAME, _DIGEST, _MADE, _SLOT = (f"vnd.buildstep.cache.{word}" for word in ("name", "record", "made", "slot"))
_TAG = "buildstep-cache-1-"
_MOST = 2000
"""Records of a scope: the oldest go, as an index has a largest size."""
_FRESH = 5.0
"""Seconds for which an index that was read is good enough to say that a record is not in it."""
_TRIES = 6

Row = dict[str, Any]
Rows = list[Row]
"""The entries of an index."""


class RegistryStorage:
    """`registry:HOST[:PORT]/REPOSITORY`. Credentials are those for images: see `net.credentials`."""

    scheme: ClassVar[str] = "registry"
    writable = True
    root = None
    at_once = 8

    def __init__(self, place: str, access: Access) -> None:
        ref = Reference.parse(place.removeprefix("//"), default_tag="cache")
        if ref.digest or ref.tag != "cache":
            raise UsageError(
                f"{place!r} has a tag or digest", hint="such as registry:host/team/build-cache, without one"
            )
        self.url = f"registry:{ref.host}/{ref.repository}"
        self._http = Http(environ=access.environ, options=access.http, bus=access.bus)
        self._client = BlobRegistry(
            ref, http=self._http, credentials=credentials_for(ref.host, access.environ, service="REGISTRY")
        )
        self._guard = threading.Lock()
        self._indexes: dict[str, tuple[float, Rows]] = {}
        self._pending: dict[str, int] = {}
        """Blobs, with their sizes, that the next record may need."""

    def interrupt(self) -> None:
        """Make calls of other threads fail soon, and all later ones."""
        self._http.stop()

    # -- reading ---------------------------------------------------------------------------------------

    def exists(self, names_: Collection[str]) -> set[str]:
        """See `Storage`."""

        def there(name: str) -> bool:
            digest = names.digest_of(name)
            if not digest:
                return self._row(name) is not None
            size = self._client.size_of(f"sha256:{digest}")
            if size is not None:
                self._pending[digest] = size
            return size is not None

        wanted = list(names_)
        return {
            name
            for name, is_there in zip(wanted, parallel(there, wanted, self.at_once), strict=True)
            if is_there
        }

    def list(self, under: str) -> Iterator[Item]:
        """See `Storage`; blobs cannot be listed."""
        if not under.startswith(names.AC):
            raise Unlistable(f"{self.url} cannot be listed: a registry tells no blobs")
        scope = under.removeprefix(names.AC).partition("/")[0]
        tags = [_TAG + scope] if scope else self._client.tags()
        rows = [
            row for tag in tags if tag.startswith(_TAG) for row in self._index(tag.removeprefix(_TAG), 0.0)
        ]
        for row in rows:
            notes = row["annotations"]
            made = float(notes.get(_MADE, "0"))
            for name in (notes.get(_NAME, ""), notes.get(_SLOT, "")):
                if name.startswith(under):
                    yield Item(name, int(row["size"]), made)

    def read(self, name: str, start: int = 0, count: int | None = None) -> bytes:
        """See `Storage`."""
        digest = names.digest_of(name)
        if not digest:
            row = self._row(name)
            digest = row["annotations"][_DIGEST] if row else ""
        data = self._client.read_range(f"sha256:{digest}", start, count) if digest else None
        if data is None:
            raise Missing(f"{self.url} has no {name}")
        return data

    def fetch(self, name: str, target: Path) -> None:
        """See `Storage`."""
        target.write_bytes(self.read(name))

    def load(self, name: str) -> Versioned | None:
        """See `Storage`; nothing here has a value that can change."""
        return None

    def _row(self, name: str) -> Row | None:
        parsed = names.record_of(name)
        if parsed is None:
            return None
        return _find(self._index(parsed[0], _FRESH), name)

    def _index(self, scope: str, age: float) -> Rows:
        """Return the entries of a scope's index, no older than so many seconds."""
        with self._guard:
            at, rows = self._indexes.get(scope, (0.0, []))
            if at and time.monotonic() - at <= age:
                return rows
            try:
                _, data = self._client.manifest(_TAG + scope)
                rows = _rows(data)
            except HttpError as error:
                if error.status != 404:
                    raise
                rows = []
            self._indexes[scope] = (time.monotonic(), rows)
            return rows

    # -- writing ---------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes | Path) -> bool:
        """See `Storage`. A record takes the blobs with it that were written, or asked for, before it."""
        if digest := names.digest_of(name):
            size = len(data) if isinstance(data, bytes) else data.stat().st_size
            real = sha256_bytes(data) if isinstance(data, bytes) else sha256_file(data)
            if real != digest:
                raise StoreError(f"{name} has other bytes than it should")
            self._pending[digest] = size
            body = data if isinstance(data, bytes) else Slice(path=data, offset=0, size=size)
            return self._client.push_blob(
                Descriptor(media_type=_BLOB, digest=f"sha256:{digest}", size=size), body
            )
        parsed = names.record_of(name)
        if parsed is None:
            return False  # marks, which an index makes superfluous
        assert isinstance(data, bytes)
        if _find(self._index(parsed[0], 0.0), name) is not None:
            return False
        row = self._manifest(name, data)
        self._change(
            parsed[0],
            lambda rows: rows if _find(rows, name) else [*rows, row],
            lambda rows: _find(rows, name) is not None,
        )
        return True

    def _manifest(self, name: str, data: bytes) -> Row:
        """Store a record as an artifact, and return its entry of an index."""
        record = self._client.push(_RECORD, f"sha256:{sha256_bytes(data)}", data)
        config = self._client.push(_EMPTY_TYPE, f"sha256:{sha256_bytes(_EMPTY)}", _EMPTY)
        pending, self._pending = self._pending, {}
        blobs = [
            Descriptor(media_type=_BLOB, digest=f"sha256:{digest}", size=size)
            for digest, size in sorted(pending.items())
        ]
        manifest = json.dumps(
            {
                "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": TYPE,
                "config": _json(config), "layers": [_json(entry) for entry in (record, *blobs)],
            }
        ).encode()  # fmt: skip
        digest = f"sha256:{sha256_bytes(manifest)}"
        self._client.push_manifest(digest, OCI_MANIFEST, manifest)
        notes = {_NAME: name, _DIGEST: record.hex, _MADE: f"{time.time():.3f}"}
        if slot := _slot_of(name, data):
            notes[_SLOT] = slot
        return {
            "mediaType": OCI_MANIFEST, "artifactType": TYPE, "digest": digest, "size": len(manifest),
            "annotations": notes,
        }  # fmt: skip

    def _change(self, scope: str, change: Callable[[Rows], Rows], is_done: Callable[[Rows], bool]) -> None:
        """Change a scope's index, again where another writer came between. Raises StoreError."""
        for number in range(_TRIES):
            rows = change(self._index(scope, 0.0))[-_MOST:]
            index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "artifactType": TYPE, "manifests": rows}
            data = json.dumps(index, separators=(",", ":")).encode()
            if len(data) > MAX_DOCUMENT:
                raise StoreError(
                    f"the index of {self.url} is too large", hint="buildstep cache prune --shared"
                )
            with contextlib.suppress(HttpError):
                self._client.push_manifest(_TAG + scope, OCI_INDEX, data)
            # Who wrote after us had read before us, and our record is gone.
            time.sleep(random.uniform(0.02, 0.1) * (1 + number))  # noqa: S311
            if is_done(self._index(scope, 0.0)):
                return
        raise StoreError(f"others write to {self.url} all the time", retryable=True)

    def delete(self, names_: Iterable[str]) -> None:
        """See `Storage`: records only; the registry's garbage collection removes their blobs."""
        by_scope: dict[str, set[str]] = {}
        for name in names_:
            if parsed := names.record_of(name):
                by_scope.setdefault(parsed[0], set()).add(name)
        for scope, gone in by_scope.items():
            self._change(scope, partial(_without, gone), partial(_has_none, gone))

    def swap(self, name: str, data: bytes | None, version: str | None) -> bool:
        """See `Storage`; nothing here has a value that can change."""
        return False

    def spool(self) -> AbstractContextManager[Path]:
        """See `Storage`."""
        return remote.spool()


def _without(gone: Collection[str], rows: Rows) -> Rows:
    return [row for row in rows if row["annotations"].get(_NAME) not in gone]


def _has_none(gone: Collection[str], rows: Rows) -> bool:
    return len(_without(gone, rows)) == len(rows)


def _find(rows: Iterable[Row], name: str) -> Row | None:
    return next((row for row in rows if row["annotations"].get(_NAME) == name), None)


def _rows(data: bytes) -> Rows:
    """Return the entries of an index that are of our form; somebody else may have written it."""
    try:
        found = json.loads(data)["manifests"]
        return [row for row in found if _is_row(row)]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


def _is_row(row: Any) -> bool:
    notes = row.get("annotations") if isinstance(row, dict) else None
    if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
        return False
    digest = notes.get(_DIGEST, "")
    try:
        float(notes.get(_MADE, "0"))
    except ValueError:
        return False
    return is_digest(digest) and type(row.get("size")) is int


def _json(entry: Descriptor) -> Mapping[str, Any]:
    return {"mediaType": entry.media_type, "digest": entry.digest, "size": entry.size}


def _slot_of(name: str, data: bytes) -> str:
    """Return the name of the mark of a record's slot, as the record says; empty if it has none."""
    import base64

    parsed = names.record_of(name)
    with contextlib.suppress(ValueError, TypeError, KeyError):
        value = json.loads(base64.b64decode(json.loads(data)["payload"]))
        if parsed and value["slot"]:
            return names.slot_mark(parsed[0], value["slot"], value["made_at"], parsed[1], parsed[2])
    return ""
