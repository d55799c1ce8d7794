"""Blobs of a registry's repository in ranges, and whether they are there."""

from __future__ import annotations

import contextlib
from urllib.parse import urljoin

from buildstep.formats.oci.spec import Descriptor
from buildstep.net.errors import HttpError
from buildstep.net.ranges import range_header, take
from buildstep.net.registry import RegistryClient
from buildstep.net.request import HttpRequest

_NONE = frozenset({404, 410})
_PAST_THE_END = 416


class BlobRegistry(RegistryClient):
    """A RegistryClient that reads parts of blobs. Raises HttpError."""

    def read_range(self, digest: str, start: int = 0, count: int | None = None) -> bytes | None:
        """Return a blob, or `count` bytes of it from `start` on, not verified; None if there is none."""
        wanted = range_header(start, count)
        request = HttpRequest(
            "GET",
            self._blob_url(digest),
            headers={"Range": wanted} if wanted else {},
            ok=frozenset({200, 206, _PAST_THE_END}),
        )
        try:
            response = self._call(request)
        except HttpError as error:
            if error.status in _NONE:
                return None
            raise
        if response.status == _PAST_THE_END:
            return b""
        # A registry need not know ranges; then everything comes.
        return take([response.body], *((start, count) if response.status == 200 else (0, count)))

    def size_of(self, digest: str) -> int | None:
        """Return the size of a blob; None if there is none."""
        try:
            response = self._call(HttpRequest("HEAD", self._blob_url(digest)))
        except HttpError as error:
            if error.status in _NONE:
                return None
            raise
        length = response.headers.get("content-length", "")
        return int(length) if length.isdigit() else 0

    def mount(self, entry: Descriptor) -> bool:
        """Have a blob taken over from the repository that is known to have it; False where that cannot be."""
        begun = self._call(self._upload_request(entry), "pull,push")
        if begun.status == 201:
            self.mounted += 1
            return True
        with contextlib.suppress(HttpError):  # an upload that nobody wants now
            location = urljoin(begun.url, begun.headers.get("location", ""))
            self._call(HttpRequest("DELETE", location, ok={202, 204}), "pull,push")
        return False

    def tags(self) -> list[str]:
        """Return the tags of the repository, up to a thousand; none where it is not there."""
        request = HttpRequest("GET", f"{self._base}/tags/list", params={"n": "1000"})
        try:
            value = self._call(request).json()
        except HttpError as error:
            if error.status in _NONE:
                return []
            raise
        tags = value.get("tags") if isinstance(value, dict) else None
        return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []

    def push(self, media_type: str, digest: str, data: bytes) -> Descriptor:
        """Store a blob that is in memory, unless it is there, and return its descriptor."""
        entry = Descriptor(media_type=media_type, digest=digest, size=len(data))
        self.push_blob(entry, data)
        return entry
