"""Whether a base that is in the store is still what its source has: asked where a base has a largest age.

A registry is asked for the image of a tag in every build, or where it was not for so long (`images.tags`). A
suite of Debian means another base from day to day, and is made once: its Release file, which has the digests
of all its packages, shows whether it changed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from buildstep.errors import ImageError
from buildstep.events import Bus
from buildstep.images.record import ImageRecord, root_in
from buildstep.net.errors import HttpError
from buildstep.net.request import HttpOptions, HttpRequest
from buildstep.pool.interface import Backend, Kind
from buildstep.system.digest import sha256_bytes
from buildstep.system.private import private_file
from buildstep.system.root import Root

if TYPE_CHECKING:
    from buildstep.net.http import Http
    from buildstep.rootfs.installers.apt_sources import Sources

RELEASE: Final = "release"
"""In a record's inputs: the digests of the Release files that a base was made from."""

_MOST: Final = 16 << 20
"""Bytes of a Release file."""


class Freshness:
    """What is asked of the sources of bases, once for each in a command.

    max_age: seconds for which an answer is good; None: nothing is asked. folder: of the store's records.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], http: Mapping[str, Any], bus: Bus) -> None:
        self._folder, self._environ, self._http, self._bus = folder, environ, http, bus
        self.max_age: int | None = None
        self._known: dict[str, str] = {}
        self._stale: set[str] = set()
        self.said: dict[str, str] = {}
        """What was found of references, by the keys that they have now: that it changed, or is the same."""

    def is_current(self, record: ImageRecord, backend: Backend) -> bool:
        """Say whether an image is what its source has, as far as that is asked."""
        if self.max_age is None or RELEASE not in record.inputs:
            return True
        if record.uuid in self._stale:
            return False
        if record.uuid in self._known or self.asked(record) > time.time() - self.max_age:
            return True
        day = day_of(record.imported)
        try:
            with backend.tree(Kind.IMAGE, record.uuid) as tree:
                now = self.release(root_in(tree, record.manifest))
        except (ImageError, OSError) as error:
            self._bus.note(
                f"{record.label}: whether it changed cannot be asked, using the base of {day}: {error}",
                level="warning",
            )
            self._known[record.uuid] = ""
            return True
        if now == record.inputs[RELEASE]:
            self._bus.note(f"{record.label}: the Release file is the same, the base of {day} is used")
            self._known[record.uuid] = now
            self.mark(record)
            self.said[record.key] = f"its Release file is the same as on {day}"
            return True
        self._stale.add(record.uuid)
        self.said[record.key] = f"the Release file of {record.label} changed since {day}: a new base"
        return False

    def asked(self, record: ImageRecord) -> float:
        """Return when it was last known that an image is what its source has, in seconds since the epoch."""
        with contextlib.suppress(OSError):
            return max(record.imported, self._mark(record).stat().st_mtime)
        return record.imported

    def mark(self, record: ImageRecord) -> None:
        """Note that an image was compared with its source now."""
        with contextlib.suppress(OSError):
            private_file(self._mark(record))

    def _mark(self, record: ImageRecord) -> Path:
        return self._folder / f"{record.uuid}.asked"

    def release(self, root: Root) -> str:
        """Return the digests of the Release files that the sources of a root have now, as one text.

        Raises ImageError, and OSError for a file that is not there.
        """
        from buildstep.rootfs.installers.apt_sources import Sources

        return self.release_of(Sources.of(root))

    def release_of(self, sources: Sources) -> str:
        """Return the digests of the Release files that sources have now; raises as `release` does."""
        from buildstep.net.http import Http, translated

        mirror = self._environ.get("BUILDSTEP_APT_MIRROR", "")
        options = HttpOptions.of(self._environ, **self._http)
        places = sources.through(mirror).release_urls()
        with translated(ImageError), Http(environ=self._environ, options=options, bus=self._bus) as http:
            return digest_of(sha256_bytes(_first(http, either)) for either in places)


def day_of(seconds: float) -> str:
    """Return the day of a time, in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def digest_of(digests: Iterable[str]) -> str:
    """Return one text for the digests of Release files, hex SHA-256 each, in any order."""
    return sha256_bytes("\n".join(sorted(digests)).encode())


def _first(http: Http, places: Iterable[str]) -> bytes:
    """Return the Release file that is at the first of these addresses that has one."""
    missing: Exception | None = None
    for place in places:
        if urlsplit(place).scheme in ("file", "copy"):
            from urllib.request import url2pathname  # which loads all of http.client

            path = Path(url2pathname(urlsplit(place).path))
            if path.is_file():
                return path.read_bytes()
            continue
        try:
            return http.send(HttpRequest("GET", place, limit=_MOST)).body
        except HttpError as error:
            if error.status != 404:
                raise
            missing = error
    raise missing or FileNotFoundError(os.fspath(next(iter(places), "")))
