"""OCI distribution: pull and push manifests and blobs, with tokens or a password."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit, urlunsplit

from buildstep.errors import UsageError
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
from buildstep.net.errors import Answer, HttpError, clean_text, safe_url
from buildstep.net.http import Http
from buildstep.system.digest import Expected
from buildstep.system.files import Slice

_REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ACCEPT = ", ".join(sorted(INDEXES | MANIFESTS))
_MAX_DEPTH = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """An image in a registry. One of tag and digest is set, or both; a digest wins."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str, *, default_tag: str = "latest") -> Reference:
        """`docker://HOST[:PORT]/NAME[:TAG|@DIGEST]`; the prefix may be left out, and HOST for the public hub.

        Raises UsageError.
        """
        rest = text.removeprefix("docker:").removeprefix("//")
        rest, _, digest = rest.partition("@")
        head, slash, tail = rest.partition("/")
        if slash and ("." in head or ":" in head or head == "localhost"):
            host, name = head, tail
        else:
            host, name = HUB, rest
        name, colon, tag = name.partition(":")
        if host == HUB and "/" not in name:
            name = f"library/{name}"
        wrong = (
            not _REPOSITORY.fullmatch(name)
            or len(name) > 255
            or (colon and not _TAG.fullmatch(tag))
            or ("@" in text and not _DIGEST.fullmatch(digest))
            or not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9a-fA-F:]+\](:[0-9]{1,5})?", host)
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
    """Whether a registry is on this machine, where plain http harms nobody."""
    name = urlsplit(f"//{host}").hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost" or name.endswith(".localhost")


class RegistryClient:
    """One repository of one registry. Raises HttpError; ImageError for content that is no image.

    plain: speak http without TLS (default: to loopback only).
    """

    def __init__(
        self,
        ref: Reference,
        *,
        http: Http,
        credentials: Credentials | None = None,
        plain: bool | None = None,
    ) -> None:
        self.ref = ref
        self.http = http
        self._credentials = credentials
        host = HUB_HOST if ref.host == HUB else ref.host
        scheme = "http" if (is_loopback(host) if plain is None else plain) else "https"
        self._root = f"{scheme}://{host}"
        self._base = f"{self._root}/v2/{ref.repository}"
        self._authorization = ""
        self._lock = threading.Lock()

    @property
    def label(self) -> str:
        return f"{self.ref.host}/{self.ref.repository}"

    # -- pulling ------------------------------------------------------------------------------------

    def resolve(self, wanted: str) -> Descriptor | None:
        """What a tag or digest stands for now; None when there is no such thing."""
        try:
            answer = self._call("HEAD", f"/manifests/{wanted}", headers={"Accept": _ACCEPT})
        except HttpError as error:
            if error.status == 404:
                return None
            raise
        digest = answer.headers.get("docker-content-digest", "")
        length = answer.headers.get("content-length", "")
        if not _DIGEST.fullmatch(digest) or not length.isdigit():
            return self._manifest(wanted)[0]  # a registry need not tell in answer to a HEAD
        kind = answer.headers.get("content-type", "").partition(";")[0]
        return Descriptor(media_type=kind, digest=digest, size=int(length))

    def image(self, wanted: str, platform: OciPlatform) -> OciImage:
        """The image of a tag or digest: through an index to the platform's own."""
        for _ in range(_MAX_DEPTH):
            entry, data = self._manifest(wanted)
            if entry.media_type not in INDEXES:
                return parse_manifest(data, entry, f"{self.label}@{entry.digest[:19]}")
            wanted = choose(parse_index(data, self.label), platform, self.label).digest
        raise HttpError(f"{self.label}: its indexes are nested too deeply")

    def _manifest(self, wanted: str) -> tuple[Descriptor, bytes]:
        try:
            answer = self._call(
                "GET", f"/manifests/{wanted}", headers={"Accept": _ACCEPT}, limit=MAX_DOCUMENT
            )
        except HttpError as error:
            if error.status == 404:
                raise HttpError(
                    f"{self.label} has no image {wanted}", status=404, answer=error.answer
                ) from error
            raise
        digest = "sha256:" + hashlib.sha256(answer.body).hexdigest()
        for claimed in (wanted, answer.headers.get("docker-content-digest", digest)):
            if claimed.startswith("sha256:") and claimed != digest:
                raise HttpError(f"{self.label} answered with {digest} when asked for {claimed}")
        kind = media_type(answer.body, answer.headers.get("content-type", "").partition(";")[0])
        return Descriptor(media_type=kind, digest=digest, size=len(answer.body)), answer.body

    def read(self, entry: Descriptor) -> bytes:
        """A small blob, proved by its digest."""
        if entry.size > MAX_DOCUMENT:
            raise HttpError(f"{self.label}: {entry.digest} is too large for a document: {entry.size} bytes")
        body = self._call("GET", f"/blobs/{entry.digest}", limit=MAX_DOCUMENT).body
        if len(body) != entry.size or hashlib.sha256(body).hexdigest() != entry.hex:
            raise HttpError(f"{self.label}: {entry.digest} came with another digest or size")
        return body

    def fetch(self, entry: Descriptor, target: Path, *, progress: Progress | None = None) -> Downloaded:
        """Download a blob, resumed where that is possible, proved by its digest."""
        url = f"{self._base}/blobs/{entry.digest}"
        expected = Expected(size=entry.size, sha256=entry.hex)
        self.authorize("pull")

        def sign() -> dict[str, str]:
            return self._headers()

        try:
            return download(
                self.http, url, target, expected=expected, sign=sign, progress=progress, durable=False
            )
        except HttpError as error:
            # The token may have run out since. A reader behind us has been told of the failure already.
            if error.status != 401 or error.answer is None or progress is not None:
                raise
            self._prove_identity(error.answer, "pull")
            return download(self.http, url, target, expected=expected, sign=sign, durable=False)

    def tags(self) -> list[str]:
        """The repository's tags (one page); none when there is no such repository."""
        try:
            found = self._call("GET", "/tags/list").json().get("tags")
        except HttpError as error:
            if error.status == 404:
                return []
            raise
        return sorted(str(tag) for tag in found or [])

    # -- pushing ------------------------------------------------------------------------------------

    def has_blob(self, digest: str) -> bool:
        try:
            self._call("HEAD", f"/blobs/{digest}", scope="pull,push")
        except HttpError as error:
            if error.status == 404:
                return False
            raise
        return True

    def push_blob(self, entry: Descriptor, data: bytes | Slice) -> bool:
        """Upload a blob unless it is there; False when it was. The registry checks its digest."""
        if self.has_blob(entry.digest):
            return False

        def once() -> None:
            # Each attempt has an upload of its own: what became of a broken one is not known.
            begun = self._call(
                "POST", "/blobs/uploads/", ok={202}, scope="pull,push", data=b"", idempotent=False
            )
            location = urljoin(begun.url, begun.headers.get("location", ""))
            parts = urlsplit(location)
            query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), ("digest", entry.digest)])
            try:
                self._call(
                    "PUT",
                    urlunsplit(parts._replace(query=query)),
                    ok={201, 204},
                    scope="pull,push",
                    data=data,
                    headers={"Content-Type": "application/octet-stream"},
                    idempotent=False,
                )
            except HttpError:
                with contextlib.suppress(HttpError):
                    self._call("DELETE", location, ok={202, 204}, scope="pull,push", idempotent=False)
                raise

        self.http.retrying(once)
        return True

    def push_manifest(self, name: str, kind: str, data: bytes) -> None:
        """Put a manifest under a digest or tag, and see that it is there."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self._call(
            "PUT",
            f"/manifests/{quote(name, safe=':')}",
            ok={200, 201, 202},
            scope="pull,push",
            data=data,
            headers={"Content-Type": kind},
            idempotent=True,
        )
        there = self.resolve(name)
        if there is None or there.digest != digest:
            raise HttpError(
                f"{self.label} accepted {name} but has {there.digest if there else 'nothing'} there"
            )

    # -- calls --------------------------------------------------------------------------------------

    def authorize(self, scope: str) -> None:
        """Get what later calls need to be let in, by asking once."""
        with self._lock:
            if self._authorization:
                return
            try:
                self.http.request("GET", f"{self._root}/v2/", ok={200})
            except HttpError as error:
                if error.status != 401 or error.answer is None:
                    raise
                self._challenge(error.answer, scope)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._authorization} if self._authorization else {}

    def _call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        ok: set[int] | frozenset[int] = frozenset({200}),
        scope: str = "pull",
        data: bytes | Slice | None = None,
        idempotent: bool | None = None,
        limit: int = MAX_DOCUMENT,
    ) -> Answer:
        """A call to the repository; asked who we are, we say so and ask again."""
        url = path if path.startswith("http") else self._base + path
        # An upload may be sent elsewhere by the registry; our password is for the registry alone.
        ours = urlsplit(url).netloc == urlsplit(self._root).netloc

        def once() -> Answer:
            return self.http.request(
                method,
                url,
                headers=headers,
                sign=self._headers if ours else None,
                ok=ok,
                data=data,
                idempotent=idempotent,
                limit=limit,
            )

        try:
            return once()
        except HttpError as error:
            if error.answer is None:
                raise
            if error.status != 401 or not ours:
                raise self._explained(error, error.answer) from error
            self._prove_identity(error.answer, scope)
        try:
            return once()
        except HttpError as error:
            raise self._explained(error, error.answer) from error

    def _prove_identity(self, answer: Answer, scope: str) -> None:
        with self._lock:
            self._challenge(answer, scope)

    def _challenge(self, answer: Answer, scope: str) -> None:
        """Answer a 401: with the password, or with a token that is had for it."""
        kind, _, rest = answer.headers.get("www-authenticate", "").partition(" ")
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if kind.lower() == "basic":
            header = self._credentials.header() if self._credentials else ""
            if not header or header == self._authorization:
                raise self._refused(answer)
            self._authorization = header
        elif kind.lower() == "bearer" and fields.get("realm"):
            self._authorization = "Bearer " + self._token(fields, scope)
        else:
            raise self._refused(answer)

    def _token(self, fields: Mapping[str, str], scope: str) -> str:
        realm = fields["realm"]
        parts = urlsplit(realm)
        if parts.scheme != "https" and not (parts.scheme == "http" and self._root.startswith("http:")):
            raise HttpError(f"{self.label} wants credentials sent to {safe_url(realm)}, which is not secure")
        params = {"scope": f"repository:{self.ref.repository}:{scope}"}
        if fields.get("service"):
            params["service"] = fields["service"]
        head = {"Authorization": self._credentials.header()} if self._credentials else {}
        try:
            said = self.http.request("GET", realm, headers=head, params=params).json()
        except HttpError as error:
            if error.status in (401, 403) and error.answer is not None:
                raise self._refused(error.answer) from error
            raise
        token = said.get("token") or said.get("access_token") if isinstance(said, dict) else None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise HttpError(f"{safe_url(realm)} gave no token")
        return token

    def _refused(self, answer: Answer) -> HttpError:
        if self._credentials is None:
            hint = f"log in: docker login {self.ref.host}, or BUILDSTEP_REGISTRY_USER and _PASSWORD"
        else:
            hint = f"the credentials of {self._credentials.user} are not accepted, or not for this repository"
        return HttpError(f"{self.label}: unauthorized", status=401, answer=answer, hint=hint)

    def _explained(self, error: HttpError, answer: Answer | None) -> HttpError:
        """With the registry's own codes and words."""
        said: Any = None
        if answer is not None and answer.body:
            with contextlib.suppress(HttpError):
                said = answer.json()
        rows = said.get("errors") if isinstance(said, dict) else None
        lines = [
            clean_text(f"{row.get('code', '')}: {row.get('message', '')}")
            for row in (rows if isinstance(rows, list) else [])
            if isinstance(row, dict)
        ]
        if answer is not None and answer.status == 401:
            return self._refused(answer)
        if not lines:
            return error
        return HttpError(
            error.message,
            status=error.status,
            server_code=lines[0].partition(":")[0],
            answer=answer,
            detail="\n".join(lines),
            hint=error.hint,
            retryable=error.retryable,
        )
