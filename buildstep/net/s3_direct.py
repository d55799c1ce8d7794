"""S3 by calls of our own: for who makes a thousand small calls, or must have begun in a moment.

boto3 needs 0.4 s to import and to read its model of the service, and one to two milliseconds a call; here it
is 0.1 ms. What is said of calls, conditions and errors in `net.s3` holds here too.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree as ET

from buildstep.net.connections import Body, Broken, Connections, Reply
from buildstep.net.errors import clean_text
from buildstep.net.http import Http
from buildstep.net.request import MAX_RESPONSE, HttpResponse
from buildstep.net.s3_account import Account
from buildstep.net.s3_errors import HINTS, TAKEN, S3Error, Taken, parse_s3
from buildstep.net.s3_signing import EMPTY_SHA256, encoded_path, encoded_query, sign
from buildstep.system.digest import sha256_bytes, sha256_slice
from buildstep.system.files import Slice

META = "x-amz-meta-"
ABSENT = {"if-none-match": "*"}
"""The condition that a name has no object."""
MULTIPART_FROM = 64 << 20
_PART = 32 << 20
_MAX_PARTS = 10_000
_PARTS_AT_ONCE = 4
_PAGE = 1000
_MISSING = frozenset({404, 410})
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_ALTERED = frozenset({"BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"})
"""Codes for a body that is not what was sent."""
_ELSEWHERE = frozenset({301, 307, 400})
_MAX_UPLOAD_ERROR = 64 << 10

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """An object in a listing. key: without the client's prefix; modified: seconds since the epoch."""

    key: str
    size: int
    modified: float
    etag: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What is told of an object. metadata: by name in lower case."""

    size: int
    etag: str
    metadata: Mapping[str, str]


class DirectS3:
    """The objects of a bucket under a prefix. Raises S3Error, and Broken for a call without a response.

    http: gives the environment, the limits and the bus; no call is made with it. See `Account` for
    credentials and endpoint. Calls that fail for a while are repeated, all of them: a write that was done and
    whose response was lost finds itself.
    """

    def __init__(self, uri: str, *, http: Http, endpoint: str = "") -> None:
        self.bucket, self.prefix = parse_s3(uri)
        self.uri = f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        self.http = http
        self._base = f"{self.prefix}/" if self.prefix else ""
        self._account = Account(http.environ, endpoint)
        self._guard = threading.Lock()
        self._links: Connections | None = None
        self._path = ""

    def interrupt(self) -> None:
        """Make calls of other threads fail soon, and all later ones."""
        self.http.stop()
        with self._guard:
            if self._links is not None:
                self._links.interrupt()

    # -- calls

    def _connections(self) -> tuple[Connections, str]:
        with self._guard:
            if self._links is None:
                base, self._path = self._account.address(self.bucket)
                options = self.http.options
                bundle = options.ca_bundle or self.http.environ.get("AWS_CA_BUNDLE", "")
                self._links = Connections(
                    base, environ=self.http.environ, options=replace(options, ca_bundle=bundle)
                )
            return self._links, self._path

    def _call(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body = b"",
        sha256: str = EMPTY_SHA256,
    ) -> Reply:
        """Make one attempt at a call. key: with the client's prefix, empty for the bucket."""
        for _ in range(2):
            signed_for = self._account.region
            reply = self._attempt(method, key, query or {}, headers or {}, body, sha256)
            region = reply.headers.get("x-amz-bucket-region", "")
            if reply.status not in _ELSEWHERE or region in ("", signed_for):
                break
            # The bucket is in another region. Another thread may have heard so before us.
            with self._guard:
                if self._account.region != region:
                    self._account.region, self._links = region, None
            with reply:
                reply.error_text()
        return reply

    def _attempt(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: Body,
        sha256: str,
    ) -> Reply:
        links, path = self._connections()
        if self.http.stopped.is_set():
            raise S3Error(f"{self.uri}: stopped, because something else failed")
        target = encoded_path(path + key) + (f"?{encoded_query(query)}" if query else "")
        asked = {"host": links.host_header, **headers}
        asked |= sign(self._account.keys(), self._account.region, method, target, asked, body_sha256=sha256)
        try:
            return links.call(method, target, asked, body)
        except Broken as error:
            if not error.reused:
                raise
            # The server has closed a connection that was idle: that is no failure, and needs no pause.
            return links.call(method, target, asked, body)

    def _done(self, what: str, call: Callable[[], Reply], use: Callable[[Reply], T]) -> T:
        """Make a call, repeated where that may help, and return what `use` makes of its reply."""

        def once() -> T:
            with call() as reply:
                if reply.status >= 300:
                    raise self._error(what, reply)
                return use(reply)

        return self.http.retrying(once)

    def _error(self, what: str, reply: Reply) -> S3Error:
        text = reply.error_text()
        code, message = _field(text, "Code"), _field(text, "Message")
        code = code or {403: "403", 404: "404"}.get(reply.status, "")
        taken = reply.status == 412 or code in TAKEN
        return (Taken if taken else S3Error)(
            f"{what} {self.uri}: {reply.status} {code} {clean_text(message, 200)}".rstrip(),
            status=reply.status,
            server_code=code,
            response=HttpResponse(status=reply.status, headers=reply.headers, body=b"", url=self.uri),
            hint=HINTS.get(code, ""),
            retryable=reply.status in _TEMPORARY or code in _ALTERED,
        )

    # -- reading

    def head(self, key: str) -> Head | None:
        """Return what is told of an object; None if there is none."""
        try:
            return self._done(
                f"look at {key} in",
                lambda: self._call("HEAD", self._base + key),
                lambda reply: _head(_drained(reply)),
            )
        except S3Error as error:
            if error.status in _MISSING and error.server_code != "NoSuchBucket":
                return None
            raise

    @contextlib.contextmanager
    def open(self, key: str, *, start: int = 0, etag: str = "") -> Iterator[tuple[Head, Reply] | None]:
        """Yield what is told of an object and its bytes, from `start` on; None if there is none.

        etag: raise S3Error (412) where it is another object by now. One attempt is made.
        """
        headers = {}
        if start:
            headers["range"] = f"bytes={start}-"
        if etag:
            headers["if-match"] = etag
        with self._call("GET", self._base + key, headers=headers) as reply:
            if reply.status >= 300:
                error = self._error(f"get {key} from", reply)
                if error.status in _MISSING and error.server_code != "NoSuchBucket":
                    yield None
                    return
                raise error
            yield _head(reply), reply

    def list(self, under: str = "", *, flat: bool = True) -> Iterator[Listed]:
        """Yield the objects whose keys begin so, in order of their keys.

        flat: leave out those with a slash in what follows.
        """
        query = {
            "list-type": "2",
            "prefix": self._base + under,
            "max-keys": str(_PAGE),
            "encoding-type": "url",
        }
        if flat:
            query["delimiter"] = "/"
        while True:
            page = self._done(
                "list", lambda: self._call("GET", "", query=query), lambda reply: reply.read_all(MAX_RESPONSE)
            )
            rows, token = _rows(page, self._base)
            yield from rows
            if not token:
                return
            if token == query.get("continuation-token"):
                raise S3Error(f"list {self.uri}: the store gives the same page again and again")
            query["continuation-token"] = token

    # -- writing

    def put(
        self,
        key: str,
        body: bytes | Path,
        *,
        size: int,
        sha256: str,
        headers: Mapping[str, str],
        if_absent: bool = False,
    ) -> None:
        """Store an object of `size` bytes, with one call if it is not large.

        headers: such as its type and metadata. if_absent: raise Taken if the name has an object: also where
        it is our own, stored by an attempt whose response was lost. Some stores ignore this.
        """
        condition = ABSENT if if_absent else {}
        data = Slice(path=body, offset=0, size=size) if isinstance(body, Path) else body
        # That the signature is over the digest as well, some stores do not look at.
        told = {**headers, **condition, "x-amz-checksum-sha256": b64encode(bytes.fromhex(sha256)).decode()}
        full = self._base + key
        if isinstance(body, Path) and size > MULTIPART_FROM:
            self._put_parts(full, body, size, headers, condition)
            return
        self._done(
            f"put {key} into",
            lambda: self._call("PUT", full, headers=told, body=data, sha256=sha256),
            _drained,
        )

    def _put_parts(
        self, key: str, path: Path, size: int, headers: Mapping[str, str], condition: Mapping[str, str]
    ) -> None:
        """Store an object in parts, several at a time, which nobody sees before the last call."""
        what = f"put {key} into"
        step = max(_PART, -(-size // _MAX_PARTS))
        parts = [Slice(path=path, offset=at, size=min(step, size - at)) for at in range(0, size, step)]
        answer = self._done(
            what, lambda: self._call("POST", key, query={"uploads": ""}, headers=headers), _text
        )
        upload = _field(answer, "UploadId")
        if not upload:  # calls without it are about the object itself, which the last one removes
            raise S3Error(f"{what} {self.uri}: the store has begun no upload in parts")

        def send(number: int) -> str:
            part = parts[number - 1]
            sha256 = sha256_slice(part)
            query = {"partNumber": str(number), "uploadId": upload}
            call = lambda: self._call("PUT", key, query=query, body=part, sha256=sha256)  # noqa: E731
            return self._done(what, call, lambda reply: _drained(reply).headers.get("etag", ""))

        try:
            with ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="s3-part") as pool:
                etags = list(pool.map(send, range(1, len(parts) + 1)))
            self._complete(what, key, upload, etags, condition)
        except BaseException:
            with contextlib.suppress(Exception):
                self._done(what, lambda: self._call("DELETE", key, query={"uploadId": upload}), _drained)
            raise

    def _complete(
        self, what: str, key: str, upload: str, etags: Sequence[str], condition: Mapping[str, str]
    ) -> None:
        """Make an object of the parts that were stored. Raises Taken, also where it may be there already."""
        rows = (
            f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in enumerate(etags, 1)
        )
        body = f"<CompleteMultipartUpload>{''.join(rows)}</CompleteMultipartUpload>".encode()
        query = {"uploadId": upload}

        def check(reply: Reply) -> None:
            text = _text(reply)
            if "<Error>" in text:  # this call may fail after its head has said that it did not
                raise S3Error(f"{what} {self.uri}: {_field(text, 'Code')}", retryable=True)

        try:
            self._done(
                what,
                lambda: self._call(
                    "POST", key, query=query, headers=condition, body=body, sha256=sha256_bytes(body)
                ),
                check,
            )
        except S3Error as error:
            if error.server_code != "NoSuchUpload":
                raise
            # An attempt whose response was lost has made the object. Who wrote it, its metadata says.
            raise Taken(error.message, server_code=error.server_code) from None

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        self._done(f"delete {key} from", lambda: self._call("DELETE", self._base + key), _drained)

    def obeys_conditions(self, probe: str) -> bool:
        """Find out whether the store refuses to write a name again. probe: the key of an object for this; it
        stays."""
        writer = secrets.token_hex(8)
        headers = {f"{META}writer": writer}

        def write() -> bool:
            try:
                self.put(probe, b"", size=0, sha256=EMPTY_SHA256, headers=headers, if_absent=True)
            except Taken:
                return False
            return True

        # It is there already, but for the first time: then the second of two writes is refused.
        return not write() or not write()


def _head(reply: Reply) -> Head:
    metadata = {n.removeprefix(META): v for n, v in reply.headers.items() if n.startswith(META)}
    size = reply.length or 0
    total = reply.headers.get("content-range", "").rpartition("/")[2]
    return Head(
        size=int(total) if total.isdigit() else size, etag=reply.headers.get("etag", ""), metadata=metadata
    )


def _drained(reply: Reply) -> Reply:
    reply.read_all(_MAX_UPLOAD_ERROR)
    return reply


def _text(reply: Reply) -> str:
    return reply.read_all(_MAX_UPLOAD_ERROR).decode("utf-8", "replace")


def _field(text: str, name: str) -> str:
    """Return an element's text in a small answer; empty if it has none."""
    _, _, rest = text.partition(f"<{name}>")
    found, end, _ = rest.partition(f"</{name}>")
    return found if end else ""


def _rows(page: bytes, base: str) -> tuple[list[Listed], str]:
    """Return the objects of a page of a listing, and the token of the next page; empty for the last."""
    from urllib.parse import unquote_plus

    try:
        top = ET.fromstring(page)  # noqa: S314 - expat limits what entities may grow to
        space = top.tag.partition("}")[0] + "}" if top.tag.startswith("{") else ""
        encoded = top.findtext(f"{space}EncodingType") == "url"
        rows = []
        for item in top.iterfind(f"{space}Contents"):
            key = item.findtext(f"{space}Key") or ""
            rows.append(
                Listed(
                    key=(unquote_plus(key) if encoded else key).removeprefix(base),
                    size=int(item.findtext(f"{space}Size") or 0),
                    modified=datetime.fromisoformat(item.findtext(f"{space}LastModified") or "").timestamp(),
                    etag=item.findtext(f"{space}ETag") or "",
                )
            )
        more = top.findtext(f"{space}IsTruncated") == "true"
        token = top.findtext(f"{space}NextContinuationToken") or ""
    except (ET.ParseError, ValueError) as error:
        raise S3Error(f"the answer of the store is no listing: {clean_text(str(error), 120)}") from None
    if more and not token:
        raise S3Error("the store says that its listing goes on, but not where")
    return rows, token if more else ""
