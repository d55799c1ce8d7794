"""IMGAPI over HTTP: list, get and fetch images; import, fill, activate and delete them."""

from __future__ import annotations

import email.utils
import re
import time
import uuid as uuids
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from buildstep.net.download import Downloaded, Progress, download
from buildstep.net.errors import Answer, HttpError, clean_text, safe_url
from buildstep.net.http import Http
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
    "ImageHasDependentImages": "delete the images that stand on it first",
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
        """Raises HttpError when whatever answers there is no IMGAPI."""
        said = self._call("GET", "/ping", channel=False).json()
        if not isinstance(said, dict) or said.get("imgapi") is not True:
            raise HttpError(f"{self.label} is not an IMGAPI", hint="is the address right, with its path?")
        return said

    def images(self, **filters: str) -> Iterator[dict[str, Any]]:
        """The images of the server that pass the filters, fetched in pages as they are wanted."""
        unknown = [name for name in filters if name not in FILTERS and not name.startswith("tag.")]
        if unknown:  # a server would ignore them, and answer with more than was asked for
            raise HttpError(
                f"images cannot be filtered by {', '.join(unknown)}",
                hint=f"filters: {', '.join(FILTERS)}, tag.KEY",
            )
        marker = ""
        for _ in range(_MAX_PAGES):
            params = dict(filters) | {"limit": str(PAGE)} | ({"marker": marker} if marker else {})
            page = self._call("GET", "/images", params=params).json()
            if not isinstance(page, list) or not all(isinstance(row, dict) for row in page):
                raise HttpError(f"{self.label} did not answer with a list of images")
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
        """The manifest of an image, active or not; None where the server (or its channel) has none."""
        try:
            found = self._call("GET", f"/images/{quote(uuid, safe='')}").json()
        except HttpError as error:
            if error.status == 404 and error.server_code in ("ResourceNotFound", "ImageNotFound", ""):
                return None
            raise
        if not isinstance(found, dict) or found.get("uuid") != uuid:
            raise HttpError(f"{self.label} answered with another image than {uuid}")
        return found

    def fetch_file(
        self, manifest: Mapping[str, Any], target: Path, *, sha256: str = "", progress: Progress | None = None
    ) -> Downloaded:
        """Download an image's file, verified against its manifest (and a sha256 known from elsewhere)."""
        uuid = str(manifest["uuid"])
        return download(
            self.http,
            f"{self.base}/images/{uuid}/file",
            target,
            expected=expected_file(manifest, sha256),
            params=self._params({}),
            headers=self._head(),
            sign=self._sign if self.account else None,
            progress=progress,
            durable=False,
        )

    def channels(self) -> list[dict[str, Any]]:
        """The server's channels; none when it does not use them."""
        try:
            found = self._call("GET", "/channels", channel=False).json()
        except HttpError as error:
            if error.status == 404:
                return []
            raise
        return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []

    # -- writing -----------------------------------------------------------------------------------

    def import_image(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Make the image known to the server, unactivated.

        Not repeated: after a lost reply it is for the caller to ask what is there.
        """
        return self._object(self._act(manifest["uuid"], "import", value=dict(manifest)))

    def add_file(
        self, uuid: str, path: Path, *, compression: str, sha1: str, dataset_guid: str = ""
    ) -> dict[str, Any]:
        """Upload the image's file; until the image is active this may be repeated. Returns its manifest."""
        params = {"compression": compression, "sha1": sha1}
        if dataset_guid:
            params["dataset_guid"] = dataset_guid
        answer = self._call(
            "PUT",
            f"/images/{uuid}/file",
            params=params,
            data=path,
            headers={"Content-Type": "application/octet-stream"},
            idempotent=True,
        )
        return self._object(answer)

    def activate(self, uuid: str) -> dict[str, Any]:
        """Make the image visible and final. Not repeated either."""
        return self._object(self._act(uuid, "activate"))

    def delete(self, uuid: str) -> None:
        """Remove an image (from this channel); one that is not there is no error."""
        try:
            self._call("DELETE", f"/images/{uuid}", idempotent=True)
        except HttpError as error:
            if error.status != 404:
                raise

    def channel_add(self, uuid: str, channel: str) -> dict[str, Any]:
        """Put an image of this client's channel into another one as well."""
        return self._object(self._act(uuid, "channel-add", value={"channel": channel}))

    # -- calls -----------------------------------------------------------------------------------

    def _act(self, uuid: str, action: str, *, value: object = None) -> Answer:
        return self._call("POST", f"/images/{uuid}", params={"action": action}, value=value)

    def _object(self, answer: Answer) -> dict[str, Any]:
        found = answer.json() if answer.body else {}
        if not isinstance(found, dict):
            raise HttpError(f"{self.label} did not answer with an image")
        return found

    def _params(self, params: Mapping[str, str], *, channel: bool = True) -> dict[str, str]:
        extra = {"channel": self.channel} if channel and self.channel and "channel" not in params else {}
        return dict(params) | extra

    def _head(self) -> dict[str, str]:
        # The request's id must be a uuid: servers were seen to die of any other.
        return {"Accept": "application/json", "Accept-Version": "~2", "x-request-id": str(uuids.uuid4())}

    def _sign(self) -> dict[str, str]:
        assert self.account is not None
        return http_signature(self.account.user, self.account.signer)

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        channel: bool = True,
        value: object = None,
        data: bytes | Path | None = None,
        headers: Mapping[str, str] | None = None,
        ok: Container[int] = _OK,
        idempotent: bool | None = None,
    ) -> Answer:
        try:
            return self.http.request(
                method,
                self.base + path,
                headers=self._head() | dict(headers or {}),
                sign=self._sign if self.account else None,
                params=self._params(params or {}, channel=channel),
                value=value,
                data=data,
                ok=ok,
                idempotent=idempotent,
            )
        except HttpError as error:
            if error.answer is None:
                raise
            raise self._explained(error, error.answer) from error

    def _explained(self, error: HttpError, answer: Answer) -> HttpError:
        """The server's own code and words, and what they mean for the caller."""
        said: Any = None
        try:
            said = answer.json()
        except HttpError:
            return error
        if not isinstance(said, dict) or not isinstance(said.get("code"), str):
            return error
        code = said["code"]
        rows = said.get("errors")
        lines = [
            clean_text(": ".join(str(row[key]) for key in ("field", "code", "message") if row.get(key)))
            for row in (rows if isinstance(rows, list) else [])
            if isinstance(row, dict)
        ]
        hint = _HINTS.get(code, error.hint)
        if answer.status == 401 and self.account is not None:
            hint = _skew(answer) or hint
        return HttpError(
            f"{self.label}: {code}: {clean_text(str(said.get('message', '')), 300)}",
            status=answer.status,
            server_code=code,
            answer=answer,
            detail="\n".join(lines),
            hint=hint,
            retryable=error.retryable,
        )


def _skew(answer: Answer) -> str:
    """What to tell when it is our clock that made a signature invalid."""
    try:
        theirs = email.utils.parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (TypeError, ValueError):
        return ""
    off = time.time() - theirs
    if abs(off) <= _MAX_SKEW:
        return ""
    direction = "ahead of" if off > 0 else "behind"
    return f"this machine's clock is {abs(off):.0f} s {direction} the server's, which allows {_MAX_SKEW} s"


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def expected_file(manifest: Mapping[str, Any], sha256: str = "") -> Expected:
    """What a manifest says of its file. Raises HttpError when that is not enough to prove it."""
    files = manifest.get("files")
    entry = files[0] if isinstance(files, list) and files and isinstance(files[0], dict) else None
    if entry is None:
        raise HttpError(f"image {manifest.get('uuid')} has no file")
    size, sha1 = entry.get("size"), str(entry.get("sha1", "")).lower()
    if not isinstance(size, int) or size <= 0 or not re.fullmatch(r"[0-9a-f]{40}", sha1):
        raise HttpError(f"the manifest of image {manifest.get('uuid')} has no size and sha1 of its file")
    digest = str(entry.get("digest", ""))
    if not sha256 and re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        sha256 = digest.removeprefix("sha256:")
    return Expected(size=size, sha1=sha1, sha256=sha256)
