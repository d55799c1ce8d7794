"""OCI distribution: pull and push manifests and blobs, with tokens or a password."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit, urlunsplit

from buildstep.errors import UsageError
from buildstep.events import Gauge
from buildstep.formats.oci import naming
from buildstep.formats.oci.spec import (
    INDEXES,
    MANIFESTS,
    MAX_DOCUMENT,
    Descriptor,
    OciImage,
    OciPlatform,
    choose,
    media_type,
    parse_index,
    parse_manifest,
)
from buildstep.net.credentials import HUB, HUB_HOST, Credentials
from buildstep.net.download import Downloaded, Progress, download
from buildstep.net.errors import HttpError, clean_text, safe_url
from buildstep.net.http import Http
from buildstep.net.request import HttpRequest, HttpResponse
from buildstep.system.digest import Expected
from buildstep.system.files import Slice

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ACCEPT = ", ".join(sorted(INDEXES | MANIFESTS))
_MAX_DEPTH = 4
_PUSH = "pull,push"
_NO_WORD = frozenset({404, 405, 501})
"""What a HEAD is answered where there is no such thing, and by registries that do not know the method."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """An image in a registry. Tag or digest is set, or both; the digest wins."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str, *, default_tag: str = "latest") -> Reference:
        """Parse `docker://HOST[:PORT]/NAME[:TAG|@DIGEST]`, the prefix is optional, no HOST is the public hub.

        Raises UsageError.
        """
        rest = text.removeprefix("docker:").removeprefix("//")
        rest, _, digest = rest.partition("@")
        host, name = naming.split_host(rest)
        host = host or HUB
        name, colon, tag = name.partition(":")
        if host == HUB and "/" not in name:
            name = f"library/{name}"
        wrong = (
            not naming.REPOSITORY.fullmatch(name)
            or len(name) > naming.MAX_REPOSITORY
            or (colon and not naming.TAG.fullmatch(tag))
            or ("@" in text and not _DIGEST.fullmatch(digest))
            or not naming.HOST.fullmatch(host)
        )
        if wrong:
            raise UsageError(
                f"{clean_text(text, 200)!r} does not name an image in a registry",
                hint="docker://HOST[:PORT]/NAME[:TAG|@sha256:...]; names are in lower case",
            )
        return cls(host=host, repository=name, tag=tag or ("" if digest else default_tag), digest=digest)

    @property
    def wanted(self) -> str:
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"docker://{self.host}/{self.repository}{tag}{digest}"


def is_loopback(host: str) -> bool:
    """Return whether a registry is on this machine, where plain http is safe."""
    name = urlsplit(f"//{host}").hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost" or name.endswith(".localhost")


class RegistryClient:
    """One repository of one registry. Raises HttpError; ImageError for content that is no image.

    plain: speak http without TLS (default: to loopback only). mount_from: another repository of the registry,
    in which blobs that are pushed may be already: those are not sent (distribution-spec, "Mounting a blob
    from another repository").
    """

    def __init__(
        self,
        ref: Reference,
        *,
        http: Http,
        credentials: Credentials | None = None,
        plain: bool | None = None,
        mount_from: str = "",
    ) -> None:
        self.ref, self._mount_from = ref, mount_from
        self.http = http
        self._credentials = credentials
        host = HUB_HOST if ref.host == HUB else ref.host
        scheme = "http" if (is_loopback(host) if plain is None else plain) else "https"
        self._root = f"{scheme}://{host}"
        self._base = f"{self._root}/v2/{ref.repository}"
        self._authorization = ""
        self.mounted = 0
        """Blobs that were not sent, as the registry has them in another repository."""
        self._lock = threading.Lock()

    @property
    def label(self) -> str:
        return f"{self.ref.host}/{self.ref.repository}"

    # -- pulling ------------------------------------------------------------------------------------

    def resolve(self, wanted: str) -> Descriptor | None:
        """Return what a tag or digest stands for now; None if there is no such thing.

        A HEAD costs no pull where pulls are counted. OCI distribution-spec ("Pulling manifests") wants it
        answered, but not every registry or proxy does: only the answer to a GET is final.
        """
        try:
            response = self._call(self._manifest_request("HEAD", wanted))
        except HttpError as error:
            if error.status not in _NO_WORD:
                raise
            return self._got(wanted)
        digest = response.headers.get("docker-content-digest", "")
        length = response.headers.get("content-length", "")
        if not _DIGEST.fullmatch(digest) or not length.isdigit():
            return self._got(wanted)  # a registry need not give them for a HEAD
        return Descriptor(media_type=_content_type(response), digest=digest, size=int(length))

    def _got(self, wanted: str) -> Descriptor | None:
        try:
            return self._manifest(wanted)[0]
        except HttpError as error:
            if error.status == 404:
                return None
            raise

    def manifest(self, wanted: str) -> tuple[str, bytes]:
        """Return the type and text of a manifest or index, verified where a digest is wanted."""
        entry, data = self._manifest(wanted)
        return entry.media_type, data

    def image(self, wanted: str, platform: OciPlatform) -> OciImage:
        """Return the image of a tag or digest: through an index to the platform's own."""
        for _ in range(_MAX_DEPTH):
            entry, data = self._manifest(wanted)
            if entry.media_type not in INDEXES:
                return parse_manifest(data, entry, f"{self.label}@{entry.digest[:19]}")
            wanted = choose(parse_index(data, self.label), platform, self.label).digest
        raise HttpError(f"{self.label}: its indexes are nested too deeply")

    def _manifest(self, wanted: str) -> tuple[Descriptor, bytes]:
        try:
            response = self._call(self._manifest_request("GET", wanted))
        except HttpError as error:
            if error.status == 404:
                raise HttpError(
                    f"{self.label} has no image {wanted}", status=404, response=error.response
                ) from error
            raise
        digest = _sha256(response.body)
        for claimed in (wanted, response.headers.get("docker-content-digest", digest)):
            if claimed.startswith("sha256:") and claimed != digest:
                raise HttpError(f"{self.label} sent {digest} instead of {claimed}")
        kind = media_type(response.body, _content_type(response))
        return Descriptor(media_type=kind, digest=digest, size=len(response.body)), response.body

    def _manifest_request(self, method: str, wanted: str) -> HttpRequest:
        url = f"{self._base}/manifests/{wanted}"
        return HttpRequest(method, url, headers={"Accept": _ACCEPT}, limit=MAX_DOCUMENT)

    def read(self, entry: Descriptor, limit: int = MAX_DOCUMENT) -> bytes:
        """Return a small blob, verified by its digest."""
        if entry.size > limit:
            raise HttpError(f"{self.label}: {entry.digest} is too large for a document: {entry.size} bytes")
        body = self._call(HttpRequest("GET", self._blob_url(entry.digest), limit=limit)).body
        if len(body) != entry.size or _sha256(body) != entry.digest:
            raise HttpError(f"{self.label}: {entry.digest} came with another digest or size")
        return body

    def fetch(self, entry: Descriptor, target: Path, *, progress: Progress | None = None) -> Downloaded:
        """Download a blob, resumed where that is possible, verified by its digest."""
        request = HttpRequest("GET", self._blob_url(entry.digest), sign=self._headers)
        expected = Expected(size=entry.size, sha256=entry.hex)
        self.authorize("pull")
        try:
            return download(self.http, request, target, expected=expected, progress=progress, durable=False)
        except HttpError as error:
            # The token may have expired. With a progress, its reader knows of the failure already.
            if error.status != 401 or error.response is None or progress is not None:
                raise
            self._authenticate(error.response, "pull")
            return download(self.http, request, target, expected=expected, durable=False)

    def _blob_url(self, digest: str) -> str:
        return f"{self._base}/blobs/{digest}"

    # -- pushing ------------------------------------------------------------------------------------

    def push_blob(self, entry: Descriptor, data: bytes | Slice, gauge: Gauge | None = None) -> bool:
        """Upload a blob, checked by the registry, and return True; False if it was there. gauge: is told."""
        gauge = gauge or Gauge("push")
        try:
            self._call(HttpRequest("HEAD", self._blob_url(entry.digest)), _PUSH)
            gauge.advance(entry.size)
            return False
        except HttpError as error:
            # Where a HEAD gets no word, the blob may be there: it is sent again, to the same digest.
            if error.status not in _NO_WORD:
                raise

        def once() -> None:
            # Each attempt has an upload of its own: what became of a broken one is not known.
            begun = self._call(self._upload_request(entry), _PUSH)
            if begun.status == 201:
                self.mounted += 1
                gauge.advance(entry.size)
                return
            location = urljoin(begun.url, begun.headers.get("location", ""))
            parts = urlsplit(location)
            query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), ("digest", entry.digest)])
            upload = HttpRequest(
                "PUT",
                urlunsplit(parts._replace(query=query)),
                headers={"Content-Type": "application/octet-stream"},
                ok={201, 204},
                data=data,
                gauge=gauge,
            )
            try:
                self._call(upload, _PUSH)
            except HttpError:
                with contextlib.suppress(HttpError):
                    self._call(HttpRequest("DELETE", location, ok={202, 204}), _PUSH)
                raise

        self.http.retrying(once)
        return True

    def _upload_request(self, entry: Descriptor) -> HttpRequest:
        """Return the call that begins an upload; 201: the registry had the blob, and there is no upload."""
        url, params = f"{self._base}/blobs/uploads/", {}
        if self._mount_from:
            params = {"mount": entry.digest, "from": self._mount_from}
        return HttpRequest("POST", url, params=params, ok={201, 202}, data=b"")

    def push_manifest(self, name: str, kind: str, data: bytes) -> None:
        """Store a manifest under a digest or tag, and check that it is there."""
        self.put_manifest(name, kind, data)
        there = self.resolve(name)
        if there is None or there.digest != _sha256(data):
            have = there.digest if there else "nothing"
            raise HttpError(f"{self.label} accepted {name} but has {have} there")

    def put_manifest(
        self, name: str, kind: str, data: bytes, condition: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Store a manifest and return the response. condition: headers that say when (RFC 9110, 13.1)."""
        headers = {"Content-Type": kind} | dict(condition or {})
        url = f"{self._base}/manifests/{quote(name, safe=':')}"
        ok = {200, 201, 202}
        return self._call(HttpRequest("PUT", url, headers=headers, ok=ok, data=data, idempotent=True), _PUSH)

    # -- calls --------------------------------------------------------------------------------------

    def authorize(self, scope: str) -> None:
        """Get the credentials that later calls need, by one call without any."""
        with self._lock:
            if self._authorization:
                return
            try:
                self.http.send(HttpRequest("GET", f"{self._root}/v2/"))
            except HttpError as error:
                if error.status != 401 or error.response is None:
                    raise
                self._challenge(error.response, scope)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._authorization} if self._authorization else {}

    def _call(self, request: HttpRequest, scope: str = "pull") -> HttpResponse:
        """Make a call; after a 401, authenticate and make it again."""
        # An upload may be sent elsewhere by the registry; our password is for the registry alone.
        ours = urlsplit(request.url).netloc == urlsplit(self._root).netloc
        if ours:
            request = replace(request, sign=self._headers)
        try:
            return self.http.send(request)
        except HttpError as error:
            if error.status != 401 or error.response is None or not ours:
                raise self._explained(error) from error
            self._authenticate(error.response, scope)
        try:
            return self.http.send(request)
        except HttpError as error:
            raise self._explained(error) from error

    def _authenticate(self, response: HttpResponse, scope: str) -> None:
        with self._lock:
            self._challenge(response, scope)

    def _challenge(self, response: HttpResponse, scope: str) -> None:
        """Answer a 401: with the password, or with a token that the password gets."""
        kind, _, rest = response.headers.get("www-authenticate", "").partition(" ")
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if kind.lower() == "basic":
            header = self._credentials.header() if self._credentials else ""
            if not header or header == self._authorization:
                raise self._refused(response)
            self._authorization = header
        elif kind.lower() == "bearer" and fields.get("realm"):
            self._authorization = "Bearer " + self._token(fields, scope)
        else:
            raise self._refused(response)

    def _token(self, fields: Mapping[str, str], scope: str) -> str:
        realm = fields["realm"]
        parts = urlsplit(realm)
        if parts.scheme != "https" and not (parts.scheme == "http" and self._root.startswith("http:")):
            raise HttpError(f"{self.label} wants credentials sent to {safe_url(realm)}, which is not secure")
        # Several scopes of one token are words of one parameter (RFC 6749, section 3.3).
        also = f" repository:{self._mount_from}:pull" if self._mount_from and scope == _PUSH else ""
        params = {"scope": f"repository:{self.ref.repository}:{scope}{also}"}
        if fields.get("service"):
            params["service"] = fields["service"]
        head = {"Authorization": self._credentials.header()} if self._credentials else {}
        try:
            found = self.http.send(HttpRequest("GET", realm, headers=head, params=params)).json()
        except HttpError as error:
            if error.status in (401, 403) and error.response is not None:
                raise self._refused(error.response) from error
            raise
        token = found.get("token") or found.get("access_token") if isinstance(found, dict) else None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise HttpError(f"{safe_url(realm)} gave no token")
        return token

    def _refused(self, response: HttpResponse) -> HttpError:
        if self._credentials is None:
            hint = f"log in: docker login {self.ref.host}, or BUILDSTEP_REGISTRY_USER and _PASSWORD"
        else:
            hint = f"the credentials of {self._credentials.user} are not accepted, or not for this repository"
        return HttpError(f"{self.label}: unauthorized", status=401, response=response, hint=hint)

    def _explained(self, error: HttpError) -> HttpError:
        """Return the error with the registry's own codes and words."""
        response = error.response
        if response is None:
            return error
        if response.status == 401:
            return self._refused(response)
        found: Any = None
        with contextlib.suppress(HttpError):
            found = response.json()
        rows = found.get("errors") if isinstance(found, dict) else None
        lines = [
            clean_text(f"{row.get('code', '')}: {row.get('message', '')}")
            for row in (rows if isinstance(rows, list) else [])
            if isinstance(row, dict)
        ]
        if not lines:
            return error
        code = lines[0].partition(":")[0]
        return error.explained(
            message=error.message, server_code=code, detail="\n".join(lines), hint=error.hint
        )


def _content_type(response: HttpResponse) -> str:
    return response.headers.get("content-type", "").partition(";")[0]


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
