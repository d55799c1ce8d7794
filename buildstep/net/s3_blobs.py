"""S3 for a store of blobs: ranges, deletion in batches, and names that change by compare-and-set.

A write that depends on what is there is made with a condition, where the store obeys those. One that ignores
them is found out once, by a small object that is written twice. Then what is there is read and compared
before a write, and a warning says what that cannot exclude.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from buildstep.net.errors import clean_text
from buildstep.net.ranges import range_header, take
from buildstep.net.s3 import ABSENT, SHA256, WRITER, ObjectInfo, S3Client
from buildstep.net.s3_errors import HINTS, MISSING, S3Error, Taken
from buildstep.system.digest import sha256_file

_NO_BATCHES = frozenset({405, 501})
_BATCH = 1000
_NO_OBJECT = '"00000000000000000000000000000000"'
"""An ETag that no object has."""


class BlobClient(S3Client):
    """An S3Client whose objects can change by compare-and-set. probe: the key of an object that is written to
    find out what the store can do; it stays."""

    def __init__(self, *args: Any, probe: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._probe = probe
        self._probing = threading.Lock()
        self._conditional_delete: bool | None = None

    def read(self, key: str, start: int = 0, count: int | None = None) -> bytes | None:
        """Return an object, or `count` bytes of it from `start` on; None if there is no object.

        A negative start counts from the end. Fewer bytes come where the object ends.
        """
        if count == 0:
            return None if self.head(key) is None else b""
        try:
            data, found = self._read(key, wanted=range_header(start, count))
        except S3Error as error:
            if error.status == 416:
                # It is empty, or ends before the start. Some stores also refuse to send the last bytes of
                # what is shorter than that.
                return b"" if start >= 0 else take([self.read(key) or b""], start, count)
            if error.server_code in MISSING:
                return None
            raise
        if found.get("ContentRange"):
            return data if count is None else data[:count]
        return take([data], start, count)

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove objects, as many with a call as a store takes."""
        for begin in range(0, len(keys), _BATCH):
            batch = keys[begin : begin + _BATCH]
            try:
                with self._calling(f"delete {len(batch)} objects from"):
                    done = self._boto.delete_objects(
                        Bucket=self.bucket,
                        Delete={"Objects": [{"Key": self._key(key)} for key in batch], "Quiet": True},
                    )
            except S3Error as error:
                if error.status not in _NO_BATCHES:
                    raise
                for key in batch:
                    self.delete(key)
                continue
            for row in done.get("Errors", ()):
                code = str(row.get("Code", ""))
                if code not in MISSING:
                    raise S3Error(
                        f"delete {clean_text(str(row.get('Key')), 200)} from {self.uri}: {code}",
                        server_code=code,
                        hint=HINTS.get(code, ""),
                        retryable=code in ("InternalError", "SlowDown", "ServiceUnavailable"),
                    )

    # -- compare and set -----------------------------------------------------------------------------------

    def swap(self, key: str, data: bytes | Path, etag: str | None, *, sha256: str = "") -> bool:
        """Store an object if the name has still the one with this ETag; None: if it has none.

        Return False, and change nothing, if it is otherwise. Raises S3Error.
        """
        if isinstance(data, Path):
            size, sha256 = data.stat().st_size, sha256 or sha256_file(data)
        else:
            size, sha256 = len(data), sha256 or hashlib.sha256(data).hexdigest()
        writer = secrets.token_hex(8)
        condition = ABSENT if etag is None else {"IfMatch": etag}
        if not self._obeys_writes():
            if self._etag(key) != etag:
                return False
            condition = {}
        try:
            self._send(
                data,
                ObjectInfo(key=key, size=size, sha256=sha256),
                self._common(key, sha256, writer),
                condition,
            )
        except Taken:
            # Our own write may have been repeated after a lost response, and found itself.
            there = self.head(key)
            return there is not None and there.writer == writer
        except S3Error as error:
            if etag is not None and error.server_code in MISSING:
                return False
            raise
        return True

    def delete_if(self, key: str, etag: str) -> bool:
        """Remove an object if it has still this ETag; return whether it was removed. Raises S3Error."""
        if not self._obeys_deletes():
            if self._etag(key) != etag:
                return False
            self.delete(key)
            return True
        try:
            self._delete(key, etag)
        except Taken:
            return False
        except S3Error as error:
            if error.server_code in MISSING:
                return False
            raise
        return True

    def _etag(self, key: str) -> str | None:
        there = self.head(key)
        return None if there is None else there.etag

    def _common(self, key: str, sha256: str, writer: str) -> dict[str, Any]:
        return {
            "Bucket": self.bucket,
            "Key": self._key(key),
            "ContentType": "application/octet-stream",
            "Metadata": {SHA256: sha256, WRITER: writer},
        }

    def _delete(self, key: str, etag: str) -> None:
        with self._calling(f"delete {key} from"):
            self._boto.delete_object(Bucket=self.bucket, Key=self._key(key), IfMatch=etag)

    # -- what the store can do -----------------------------------------------------------------------------

    def _obeys_writes(self) -> bool:
        with self._probing:
            if self._conditional is None:
                info = ObjectInfo(key=self._probe, size=0, sha256=hashlib.sha256().hexdigest())
                common = self._common(self._probe, info.sha256, "probe")
                # It is there already, but for the first time: then it was made by the first of two writes.
                with contextlib.suppress(Taken):
                    self._send(b"", info, common, ABSENT)
                    self._conditional = self._obeys_conditions(b"", info, common)
                    return self._conditional
                self._conditional = True
            return self._conditional

    def _obeys_deletes(self) -> bool:
        if not self._obeys_writes():  # it also makes the object that is asked about here
            return False
        with self._probing:
            if self._conditional_delete is None:
                try:
                    self._delete(self._probe, _NO_OBJECT)
                    self._conditional_delete = False
                except Taken:
                    self._conditional_delete = True
                except S3Error as error:
                    if error.status not in (400, 404, 501):
                        raise
                    self._conditional_delete = False
            return self._conditional_delete
