"""Read ranges of S3 objects by calls of our own, in several threads, without waiting for boto3."""

from __future__ import annotations

from buildstep.net.ranges import range_header, take
from buildstep.net.request import MAX_RESPONSE
from buildstep.net.s3_direct import DirectS3
from buildstep.net.s3_errors import S3Error

_PAST_THE_END = 416
_GONE = frozenset({404, 410})


class S3Reader(DirectS3):
    """A DirectS3 that reads objects into memory."""

    def read(self, key: str, start: int = 0, count: int | None = None) -> bytes | None:
        """Return an object, or `count` bytes of it from `start` on; None if there is no object.

        A negative start counts from the end. Fewer bytes come where the object ends.
        """
        found = self.load(key, start, count)
        return None if found is None else found[0]

    def load(self, key: str, start: int = 0, count: int | None = None) -> tuple[bytes, str] | None:
        """Return what `read` returns, and the ETag of the object."""
        if count == 0:
            head = self.head(key)
            return None if head is None else (b"", head.etag)
        wanted = range_header(start, count)
        try:
            data, whole, etag = self._done(
                f"get {key} from",
                lambda: self._call("GET", self._base + key, headers={"range": wanted} if wanted else {}),
                lambda reply: (
                    reply.read_all(MAX_RESPONSE),
                    "content-range" not in reply.headers,
                    reply.headers.get("etag", ""),
                ),
            )
        except S3Error as error:
            if error.status == _PAST_THE_END:
                if start >= 0:
                    return b"", ""
                # Some stores refuse to send the last bytes of what is shorter than that.
                found = self.load(key)
                return None if found is None else (take([found[0]], start, count), found[1])
            if error.status in _GONE and error.server_code != "NoSuchBucket":
                return None
            raise
        if whole and wanted:
            return take([data], start, count), etag
        return (data if count is None else data[:count]), etag
