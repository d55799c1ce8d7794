"""IMGAPI over HTTP: list, get and fetch images; import, fill, activate and delete them."""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
import time
import uuid as uuids
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from buildstep.net.download import Downloaded, Progress, download
from buildstep.net.errors import HttpError, clean_text, safe_url
from buildstep.net.http import Http
from buildstep.net.request import HttpRequest, HttpResponse
from buildstep.net.ssh_keys import Signer, http_signature
from buildstep.system.digest import Expected

PAGE = 1000
_MAX_PAGES = 1000
_MAX_SKEW = 300  # seconds between two clocks beyond which servers refuse a signature
_OK = frozenset({200, 201, 202, 204})
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

FILTERS = (
    "name", "version", "owner", "os", "type", "public", "state", "billing_tag", "account", "channel",
    "inclAdminFields", "sort",
)  # fmt: skip
"""What a listing can be narrowed by; `tag.KEY` as well."""

_HINTS = {
    "ValidationFailed": "the server names the fields it does not accept",
    "InvalidParameter": "the server names the parameters it does not accept",
    "ImageFilesImmutable": "the image is active: its file can no longer change; use a new uuid",
    "ImageAlreadyActivated": "the image was published before",
    "NoActivationNoFile": "its file was never uploaded",
    "OwnerDoesNotExist": "the manifest's owner is no account of this server",
    "AccountDoesNotExist": "the account is not known to this server",
    "NotImageOwner": "the image belongs to somebody else",
    "OriginDoesNotExist": "publish the image's origin to this server first",
    "OriginIsNotActive": "activate the image's origin on this server first",
    "ImageHasDependentImages": "delete the images that depend on it first",
    "ImageUuidAlreadyExists": "an image of this uuid is there already",
    "OperatorOnly": "the call is for operators",
    "UnauthorizedError": "give the user's name and an RSA key that the server knows",
    "Upload": "the server did not get the file as it was sent",
    "InvalidVersion": "the server does not speak version 2 of the API",
    "ResourceNotFound": "there is no such image here; is it in another channel?",
    "StorageIsDown": "the server cannot reach its storage; try later",
    "NotAvailable": "this server is not set up for that",
    "ServiceUnavailableError": "this server does not offer that, or not now",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Who signs calls: a user the server knows, and the key."""

    user: str
    signer: Signer


class ImgapiClient:
    """One IMGAPI server. url: may have a path prefix, and `?channel=` for all calls. Raises HttpError."""

    def __init__(self, url: str, *, http: Http, channel: str = "", account: Account | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise HttpError(f"{safe_url(url)} is not the address of an IMGAPI", hint="such as https://HOST")
        self.base = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        self.channel = channel or parse_qs(parts.query).get("channel", [""])[0]
        self.http = http
        self.account = account

    @property
    def label(self) -> str:
        """The server's address as it may be shown."""
        return safe_url(self.base) + (f"?channel={self.channel}" if self.channel else "")

    # -- reading ------------------------------------------------------------------------------------

    def ping(self) -> dict[str, Any]:
        """Return the server's description of itself. Raises HttpError if it is no IMGAPI."""
        found = self._send(replace(self._request("GET", "/ping"), params={})).json()
        if not isinstance(found, dict) or found.get("imgapi") is not True:
            raise HttpError(f"{self.label} is not an IMGAPI", hint="is the address right, with its path?")
        return found

    def images(self, **filters: str) -> Iterator[dict[str, Any]]:
        """Yield the images of the server that pass the filters, fetched in pages on demand."""
        unknown = [name for name in filters if name not in FILTERS and not name.startswith("tag.")]
        if unknown:  # a server would ignore them, and return more than was asked for
            raise HttpError(
                f"images cannot be filtered by {', '.join(unknown)}",
                hint=f"filters: {', '.join(FILTERS)}, tag.KEY",
            )
        marker = ""
        for _ in range(_MAX_PAGES):
            params = {**filters, "limit": str(PAGE)} | ({"marker": marker} if marker else {})
            page = self._send(self._request("GET", "/images", params)).json()
            if not isinstance(page, list) or not all(isinstance(row, dict) for row in page):
                raise HttpError(f"{self.label} did not send a list of images")
            # The marker is inclusive: what the last page ended with begins this one.
            rows = page[1:] if marker and page and page[0].get("uuid") == marker else page
            yield from rows
            if len(page) < PAGE or not rows:
                return
            last = str(rows[-1].get("uuid", ""))
            if not last or last == marker:
                return
            marker = last
        raise HttpError(f"{self.label} lists images without an end")

    def get(self, uuid: str) -> dict[str, Any] | None:
        """Return the manifest of an image, active or not; None if the server (or its channel) has none."""
        try:
            found = self._send(self._request("GET", f"/images/{quote(uuid, safe='')}")).json()
        except HttpError as error:
            if error.status == 404 and error.server_code in ("ResourceNotFound", "ImageNotFound", ""):
                return None
            raise
        if not isinstance(found, dict) or found.get("uuid") != uuid:
            raise HttpError(f"{self.label} sent another image than {uuid}")
        return found

    def fetch_file(
        self, manifest: Mapping[str, Any], target: Path, *, progress: Progress | None = None
    ) -> Downloaded:
        """Download an image's file, verified against its manifest."""
        request = self._request("GET", f"/images/{manifest['uuid']}/file")
        expected = expected_file(manifest)
        return download(self.http, request, target, expected=expected, progress=progress, durable=False)

    # -- writing -----------------------------------------------------------------------------------

    def import_image(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Make the image known to the server, unactivated, and return its manifest there.

        Not repeated: after a lost response it is for the caller to look what is there.
        """
        request = self._request("POST", f"/images/{manifest['uuid']}", {"action": "import"})
        return self._change(request, "application/json", json.dumps(manifest).encode())

    def add_file(
        self, uuid: str, path: Path, *, compression: str, sha1: str, dataset_guid: str = ""
    ) -> dict[str, Any]:
        """Upload the image's file and return its manifest; may be repeated until the image is active."""
        params = {"compression": compression, "sha1": sha1}
        if dataset_guid:
            params["dataset_guid"] = dataset_guid
        request = self._request("PUT", f"/images/{uuid}/file", params)
        with self.http.bus.job(f"push {path.name}", path.stat().st_size) as gauge:
            request = replace(request, idempotent=True, gauge=gauge)
            return self._change(request, "application/octet-stream", path)

    def activate(self, uuid: str) -> dict[str, Any]:
        """Make the image visible and final, and return its manifest. Not repeated either."""
        request = self._request("POST", f"/images/{uuid}", {"action": "activate"})
        return self._change(request, "application/json", b"{}")  # as Triton's own client

    def delete(self, uuid: str) -> None:
        """Remove an image (from this channel); one that is not there is no error."""
        try:
            self._send(replace(self._request("DELETE", f"/images/{uuid}"), idempotent=True))
        except HttpError as error:
            if error.status != 404:
                raise

    # -- calls -----------------------------------------------------------------------------------

    def _request(self, method: str, path: str, params: Mapping[str, str] | None = None) -> HttpRequest:
        """Return a signed request for a path below the server, in the client's channel."""
        channel = {"channel": self.channel} if self.channel else {}
        return HttpRequest(
            method,
            self.base + path,
            # The request's id must be a uuid: servers were seen to die of any other.
            headers={
                "Accept": "application/json",
                "Accept-Version": "~2",
                "x-request-id": str(uuids.uuid4()),
            },
            sign=self._sign if self.account else None,
            params=channel | dict(params or {}),
            ok=_OK,
        )

    def _sign(self) -> dict[str, str]:
        assert self.account is not None
        return http_signature(self.account.user, self.account.signer)

    def _change(
        self, request: HttpRequest, content_type: str = "", data: bytes | Path | None = None
    ) -> dict[str, Any]:
        """Send a request with a body, and return the manifest that the server sends back."""
        headers = {**request.headers, "Content-Type": content_type} if content_type else request.headers
        response = self._send(replace(request, headers=headers, data=data))
        found = response.json() if response.body else {}
        if not isinstance(found, dict):
            raise HttpError(f"{self.label} did not send an image")
        return found

    def _send(self, request: HttpRequest) -> HttpResponse:
        try:
            return self.http.send(request)
        except HttpError as error:
            raise self._explained(error) from error

    def _explained(self, error: HttpError) -> HttpError:
        """Return the error with the server's own code and words, and what they mean for the caller."""
        found: Any = None
        with contextlib.suppress(HttpError):
            found = error.response.json() if error.response is not None else None
        if not isinstance(found, dict) or not isinstance(found.get("code"), str):
            return error
        code, rows = found["code"], found.get("errors")
        lines = [
            clean_text(": ".join(str(row[key]) for key in ("field", "code", "message") if row.get(key)))
            for row in (rows if isinstance(rows, list) else [])
            if isinstance(row, dict)
        ]
        hint = _HINTS.get(code, error.hint)
        if error.status == 401 and self.account is not None and error.response is not None:
            hint = _clock_hint(error.response) or hint
        return error.explained(
            message=f"{self.label}: {code}: {clean_text(str(found.get('message', '')), 300)}",
            server_code=code,
            detail="\n".join(lines),
            hint=hint,
        )


def _clock_hint(response: HttpResponse) -> str:
    """Return the hint that our clock is wrong, which makes a signature invalid; empty if it is right."""
    try:
        theirs = email.utils.parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except (TypeError, ValueError):
        return ""
    off = time.time() - theirs
    if abs(off) <= _MAX_SKEW:
        return ""
    direction = "ahead of" if off > 0 else "behind"
    return f"this machine's clock is {abs(off):.0f} s {direction} the server's, which allows {_MAX_SKEW} s"


def is_uuid(text: str) -> bool:
    """Return whether a text is a uuid in lower case."""
    return _UUID.fullmatch(text) is not None


def expected_file(manifest: Mapping[str, Any]) -> Expected:
    """Return what a manifest says of its file. Raises HttpError if that is not enough to verify it."""
    files = manifest.get("files")
    entry = files[0] if isinstance(files, list) and files and isinstance(files[0], dict) else None
    if entry is None:
        raise HttpError(f"image {manifest.get('uuid')} has no file")
    size, sha1 = entry.get("size"), str(entry.get("sha1", "")).lower()
    if not isinstance(size, int) or size <= 0 or not re.fullmatch(r"[0-9a-f]{40}", sha1):
        raise HttpError(f"the manifest of image {manifest.get('uuid')} has no size and sha1 of its file")
    digest = re.fullmatch(r"sha256:([0-9a-f]{64})", str(entry.get("digest", "")))
    return Expected(size=size, sha1=sha1, sha256=digest[1] if digest else "")
