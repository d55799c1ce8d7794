"""Referrers of an image: artifacts in its repository that name it as their subject (distribution-spec 1.1).

A registry that does not know the call for them leaves the list to its clients: an index under a tag that is
made of the image's digest ("Referrers Tag Schema"). Rows of such an index are written by anybody, with wrong
types by some: each artifact is fetched, and what it says of itself counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from buildstep.errors import ImageError
from buildstep.formats.oci import artifact
from buildstep.formats.oci.artifact import Artifact
from buildstep.formats.oci.spec import MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST, descriptor
from buildstep.net.errors import HttpError
from buildstep.net.registry_blobs import BlobRegistry
from buildstep.net.request import HttpRequest, HttpResponse

MOST: Final = 256
"""Referrers of one image that are looked at: whoever may push can make any number."""
_ROWS: Final = 8192
"""Rows of a list that are read: with all that a client may keep, which has no more than 4 MiB."""
_BYTES: Final = 32 << 20
_PAGES: Final = 64
_NOT_KNOWN: Final = frozenset({404, 405, 501})
_BAD: Final = frozenset({0, 200, 404, 410})
"""Of a manifest that is gone, is not what its digest says, or is too large."""
_NO_ARTIFACTS: Final = frozenset({400, 405, 406, 415, 422, 501})
"""What a registry answers to a manifest with a subject or a type that it does not know."""
_REFUSED: Final = frozenset({400, 403, 405, 409, 412})
"""What a registry answers whose tags cannot be written again, or a write whose ETag is not that of today."""
_TRIES: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Tagged:
    """What a tag names. document: the manifest or index; etag: by which it is not written over unseen."""

    document: bytes
    etag: str

    @property
    def condition(self) -> Mapping[str, str]:
        return {"If-Match": self.etag} if self.etag else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What a registry lists. rows: as it has them; known: the registry keeps the list itself; cut: there are
    more."""

    rows: tuple[Mapping[str, Any], ...] = ()
    known: bool = False
    cut: bool = False

    @property
    def digests(self) -> frozenset[str]:
        return frozenset(str(row.get("digest")) for row in self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The referrers of an image. passed: those that were not taken, each with the reason."""

    artifacts: tuple[Artifact, ...] = ()
    passed: tuple[str, ...] = field(default=())


def fallback_tag(digest: str) -> str:
    """Return the tag of the index of an image's referrers (distribution-spec, "Referrers Tag Schema")."""
    kind, _, text = digest.partition(":")
    return f"{kind[:32]}-{text[:64]}"


class ReferrerRegistry(BlobRegistry):
    """A client that reads and writes referrers. Raises HttpError."""

    def referrers(self, digest: str, artifact_type: str = "", first: Collection[str] = ()) -> Found:
        """Return the artifacts whose subject is an image. artifact_type: of those that are wanted, else all;
        first: types that are looked at before others, where there are too many to look at all.

        Each is fetched and verified; what is no artifact of this image is passed over, whatever its row says.
        """
        listing = self.listing(digest, artifact_type)
        found: dict[str, Artifact] = {}
        left = _BYTES
        passed = []
        if listing.cut or len(listing.rows) > MOST:
            passed = [f"more than {MOST} referrers; the others were not looked at"]
        for row in sorted(listing.rows, key=lambda row: row.get("artifactType") not in first)[:MOST]:
            try:
                entry = descriptor(dict(row), "its row")
                if entry.digest in found:
                    continue
                if left <= 0:
                    passed.append(f"referrers of more than {_BYTES >> 20} MiB; the others were not looked at")
                    break
                item = artifact.parse(self.manifest(entry.digest)[1], entry.digest)
                left -= item.entry.size
            except ImageError as error:
                passed.append(error.message)
                continue
            except HttpError as error:
                if error.retryable or error.status not in _BAD:
                    raise
                passed.append(error.message)
                continue
            if item.subject is None or item.subject.digest != digest:
                passed.append(f"{entry.digest} is about {item.subject.digest if item.subject else 'nothing'}")
            elif artifact_type in ("", item.artifact_type):
                found[entry.digest] = item
        return Found(artifacts=tuple(found.values()), passed=tuple(passed))

    def listing(self, digest: str, artifact_type: str = "") -> Listing:
        """Return the rows of an image's referrers, of all pages; nothing of them is verified."""
        rows: list[Mapping[str, Any]] = []
        url, params = f"{self._base}/referrers/{digest}", _filter(artifact_type)
        seen = set()
        for _ in range(_PAGES):
            seen.add(url)
            try:
                response = self._call(HttpRequest("GET", url, params=params, limit=MAX_DOCUMENT))
            except HttpError as error:
                if error.status not in _NOT_KNOWN or len(seen) > 1:
                    raise
                return self._kept(digest)
            if not _is_index(response):
                return self._kept(digest)  # a page of a proxy, or of a registry that answers all with one
            rows += _rows(response.body)
            url, params = self._next(response), None
            if not url or url in seen or len(rows) > _ROWS:
                break
        return Listing(rows=tuple(rows[:_ROWS]), known=True, cut=bool(url) or len(rows) > _ROWS)

    def _next(self, response: HttpResponse) -> str:
        """Return where the next page is (RFC 8288), empty after the last; never on another server."""
        link, _, relation = response.headers.get("link", "").partition(";")
        if 'rel="next"' not in relation.replace("rel=next", 'rel="next"'):
            return ""
        url = urljoin(response.url, link.strip().strip("<>"))
        return url if urlsplit(url)[:2] == urlsplit(self._root)[:2] else ""

    def _kept(self, digest: str) -> Listing:
        """Return the list that clients keep."""
        there = self.tagged(fallback_tag(digest))
        rows = _rows(there.document) if there else []
        return Listing(rows=tuple(rows[:_ROWS]), cut=len(rows) > _ROWS)

    def tagged(self, tag: str) -> Tagged | None:
        """Return the document that a tag names now, None where there is none."""
        try:
            response = self._call(self._manifest_request("GET", tag))
        except HttpError as error:
            if error.status != 404:
                raise
            return None
        return Tagged(document=response.body, etag=response.headers.get("etag", ""))

    # -- writing ------------------------------------------------------------------------------------

    def attach(self, artifacts: Sequence[Artifact]) -> int:
        """Push manifests of artifacts of one image, whose blobs are there; return how many were not listed.

        All those that a registry does not list by itself come into the index of referrers in one write.
        """
        if not artifacts:
            return 0
        subject = artifacts[0].subject
        assert subject is not None
        listing = self.listing(subject.digest)
        new = [item for item in artifacts if item.entry.digest not in listing.digests]
        ours = []
        for item in new:
            response = self._put_artifact(item)
            if response.headers.get("oci-subject", "") != subject.digest:
                ours.append(item)
        if ours and listing.known:
            # It lists them, and a proxy took its word away.
            digests = self.listing(subject.digest).digests
            ours = [item for item in ours if item.entry.digest not in digests]
        if ours:
            self._keep(subject.digest, ours)
        return len(new)

    def _put_artifact(self, item: Artifact) -> HttpResponse:
        try:
            return self.put_manifest(item.entry.digest, OCI_MANIFEST, item.document)
        except HttpError as error:
            if error.status not in _NO_ARTIFACTS:
                raise
            raise HttpError(
                f"{self.label} does not take what refers to an image: {error.message}",
                status=error.status,
                server_code=error.server_code,
                response=error.response,
                detail=error.detail,
                hint="it may take it under tags: --attestations tags; or nothing of it: --attestations none",
            ) from error

    def _keep(self, digest: str, artifacts: Sequence[Artifact]) -> None:
        """Add artifacts to the index that clients keep."""

        def change(there: bytes | None) -> bytes | None:
            rows = _rows(there) if there is not None else []
            listed = {row.get("digest") for row in rows}
            missing = [item.listed() for item in artifacts if item.entry.digest not in listed]
            return _index([*rows, *missing]) if missing else None

        self.rewrite(fallback_tag(digest), OCI_INDEX, change)

    def rewrite(self, tag: str, kind: str, change: Callable[[bytes | None], bytes | None]) -> bool:
        """Change the document of a tag, and look whether it is changed; return whether it had to be.

        change: returns the new document for the one there is, None for one that is right already. Where
        several write at once, and the registry does not mind its ETag, one write is lost: whose that was
        writes again.
        """
        for attempt in range(_TRIES):
            there = self.tagged(tag)
            data = change(there.document if there else None)
            if data is None:
                return attempt > 0
            if attempt:
                self.http.pause(min(attempt, 4), HttpError(f"{self.label}: others write {tag} too"))
            if len(data) > MAX_DOCUMENT:
                raise HttpError(f"{self.label}: {tag} is too large already")
            condition = {"If-None-Match": "*"} if there is None else there.condition
            try:
                self.put_manifest(tag, kind, data, condition)
            except HttpError as error:
                if error.status not in _REFUSED:
                    raise
                if there == self.tagged(tag):
                    raise _unwritable(self.label, tag, error) if there else error from error
                # Somebody else has written it meanwhile.
        raise HttpError(
            f"{self.label}: others write {tag} all the time", hint="publish again", retryable=True
        )


def _filter(artifact_type: str) -> dict[str, str] | None:
    return {"artifactType": artifact_type} if artifact_type else None


def _is_index(response: HttpResponse) -> bool:
    return response.headers.get("content-type", "").partition(";")[0].strip() == OCI_INDEX


def _rows(data: bytes) -> list[Mapping[str, Any]]:
    """Return the rows of an index that are objects; none of what is no index."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return []
    rows = value.get("manifests") if isinstance(value, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _index(rows: Sequence[Mapping[str, Any]]) -> bytes:
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(rows)}
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _unwritable(label: str, tag: str, error: HttpError) -> HttpError:
    return HttpError(
        f"{label}: the tag {tag} cannot be written again",
        status=error.status,
        server_code=error.server_code,
        detail=error.detail or error.message,
        hint="its tags are immutable: sign before the first publication, which writes each of them once",
    )
