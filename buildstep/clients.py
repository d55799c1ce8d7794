"""One HTTP session for every client: timeouts everywhere, bounded retries, and no secret in an error.

Nothing here waits for ever. Connecting and the whole of the response's head have their limits; a body
has one for silence and one for each piece of it, so that a server that drips is given up as well.
`requests` is imported on first use: a plan or --help must not pay for it.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from buildstep import __version__
from buildstep.errors import BuildstepError, StoreError
from buildstep.events import Bus

if TYPE_CHECKING:
    from buildstep.clients.transport import Reply, Transport

USER_AGENT = f"buildstep/{__version__}"

MAX_ANSWER = 64 << 20
"""Bytes of an answer that is kept in memory; a file is streamed instead."""

_WORTH_RETRYING = frozenset({408, 425, 429, 500, 502, 503, 504})
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_RETRY_AFTER = 30.0

T = TypeVar("T")

Sign = Callable[[], Mapping[str, str]]
"""Makes the headers that prove who we are; called for each attempt, as some carry the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpOptions:
    """Limits and trust of a session. Times in seconds.

    connect: to a connection. response: from the request's end to the end of the answer's head.
    idle: of silence within a body. min_rate: bytes per second below which a body is given up.
    attempts: how often a call that may be repeated is made. backoff: the first pause between two.
    verify: whether certificates are checked. ca_bundle: a file of authorities to trust instead.
    """

    connect: float = 10.0
    response: float = 60.0
    idle: float = 30.0
    min_rate: float = 4096.0
    attempts: int = 4
    backoff: float = 0.5
    verify: bool = True
    ca_bundle: str = ""
    user_agent: str = USER_AGENT

    @classmethod
    def of(cls, environ: Mapping[str, str], *, insecure: bool = False, **limits: Any) -> HttpOptions:
        """Options with the authorities that the environment names. insecure: do not check certificates."""
        names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
        bundle = next((environ[name] for name in names if environ.get(name)), "")
        return cls(verify=not insecure, ca_bundle=bundle, **limits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """A part of a file, such as one member of an archive."""

    path: Path
    offset: int
    size: int


class HttpError(StoreError):
    """A call that failed. status: the answer's, 0 where none came; server_code: its own error code."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        server_code: str = "",
        answer: Answer | None = None,
        detail: str = "",
        hint: str = "",
        retryable: bool = False,
    ) -> None:
        super().__init__(message, detail=detail, hint=hint, retryable=retryable)
        self.status = status
        self.server_code = server_code
        self.answer = answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole answer. headers: their names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    reason: str = field(default="", compare=False)

    def json(self) -> Any:
        """The body as JSON. Raises HttpError where it is none."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            start = self.body[:200].decode("utf-8", "replace")
            raise HttpError(
                f"{safe_url(self.url)} did not answer with JSON",
                status=self.status,
                answer=self,
                detail=f"it begins: {start!r}",
                hint="is this the right address, and no log-in page of a proxy?",
            ) from error


def safe_url(url: str) -> str:
    """A URL that may be shown: without user, password and query, where secrets travel."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is none"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def clean_text(text: str, limit: int = 500) -> str:
    """What a server says, fit for a message: one line, no control characters, no credentials in URLs."""
    text = re.sub(r"//[^/@\s]+@", "//", text)
    text = re.sub(r"(https?://[^\s?\"']+)\?[^\s\"']+", r"\1", text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else text[:limit] + "..."


@contextlib.contextmanager
def translated(into: type[BuildstepError], what: str = "") -> Iterator[None]:
    """Give a failed call the class of the area it was made for, as an exit code belongs to the area."""
    try:
        yield
    except HttpError as error:
        message = f"{what}: {error.message}" if what else error.message
        raise into(message, detail=error.detail, hint=error.hint, retryable=error.retryable) from error


class Http:
    """A session: connections that are kept open, and the rules by which calls are made and repeated."""

    def __init__(
        self, *, environ: Mapping[str, str], options: HttpOptions | None = None, bus: Bus | None = None
    ) -> None:
        self.environ = environ
        self.options = options or HttpOptions.of(environ)
        self.bus = bus
        self.stopped = threading.Event()
        self._transport: Transport | None = None

    def stop(self) -> None:
        """Make calls of other threads end soon, with an error that is not worth a retry."""
        self.stopped.set()
        if self._transport is not None:
            self._transport.interrupt()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def transport(self) -> Transport:
        if self._transport is None:
            from buildstep.clients.transport import Transport

            self._transport = Transport(self.environ, self.options, self.stopped)
        return self._transport

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        sign: Sign | None = None,
        params: Mapping[str, str] | None = None,
        value: object = None,
        data: bytes | Path | Slice | None = None,
        ok: Container[int] = frozenset({200}),
        idempotent: bool | None = None,
        redirects: bool = True,
        limit: int = MAX_ANSWER,
    ) -> Answer:
        """Make a call and return its whole answer; raise HttpError for a status that is not ok.

        value: sent as JSON. data: the body's bytes, or the file or part of one that has them.
        idempotent: whether the call may be repeated after a failure that could pass (default: by method).
        limit: bytes of an answer that are accepted.
        """
        head = dict(headers or {})
        if value is not None:
            data = json.dumps(value).encode()
            head.setdefault("Content-Type", "application/json")

        def once() -> Answer:
            signed = head | dict(sign() if sign else {})
            with self.transport.open(
                method, url, headers=signed, params=params, data=data, redirects=redirects
            ) as reply:
                return self._answer(reply, method, ok, limit)

        return self.retrying(once, repeat=method in _IDEMPOTENT if idempotent is None else idempotent)

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        ok: Container[int] = frozenset({200}),
    ) -> Iterator[Reply]:
        """One attempt at a call whose body is read piece by piece, by `Reply.chunks`."""
        with self.transport.open(method, url, headers=dict(headers or {}), params=params) as reply:
            if reply.status not in ok:
                self._answer(reply, method, ok, MAX_ANSWER)
            yield reply

    def _answer(self, reply: Reply, method: str, ok: Container[int], limit: int) -> Answer:
        good = reply.status in ok
        try:
            body = b"" if method == "HEAD" else reply.read(limit, patient=good)
        except HttpError:
            # Of a failure we know what we need from its status: a body that does not come changes nothing.
            if good:
                raise
            body = b""
        answer = Answer(
            status=reply.status, headers=reply.headers, body=body, url=reply.url, reason=reply.reason
        )
        if not good:
            raise failure(method, answer)
        return answer

    def retrying(self, call: Callable[[], T], *, repeat: bool = True) -> T:
        """Make a call, again after a growing pause where it failed with something that could pass."""
        attempt = 1
        while True:
            try:
                return call()
            except HttpError as error:
                if not (repeat and error.retryable) or attempt >= self.options.attempts:
                    raise
                self.pause(attempt, error)
                attempt += 1

    def pause(self, attempt: int, error: HttpError) -> None:
        """Wait before the next attempt: twice as long each time, or as long as the server asks."""
        seconds = self.options.backoff * 2 ** (attempt - 1)
        seconds *= random.uniform(0.8, 1.2)  # noqa: S311 - so that many agents do not come back at once
        asked = error.answer.headers.get("retry-after", "") if error.answer else ""
        if asked.isascii() and asked.isdigit():
            seconds = min(max(seconds, float(asked)), _MAX_RETRY_AFTER)
        if self.bus is not None:
            self.bus.note(f"{error.message}; trying again in {seconds:.1f} s", level="warning")
        if self.stopped.wait(seconds):
            raise HttpError("stopped, as something else failed") from error


def failure(method: str, answer: Answer) -> HttpError:
    """The error of an answer that was not the one hoped for."""
    said = answer.body.decode("utf-8", "replace") if answer.body else ""
    if "<html" in said[:500].lower():
        said = ""
    hints = {
        401: "check the credentials",
        403: "these credentials may not do this",
        407: "the proxy wants credentials",
        413: "the server does not accept this many bytes",
    }
    return HttpError(
        f"{method} {safe_url(answer.url)}: {answer.status} {clean_text(answer.reason, 60)}".rstrip(),
        status=answer.status,
        answer=answer,
        detail=clean_text(said),
        hint=hints.get(answer.status, ""),
        retryable=answer.status in _WORTH_RETRYING,
    )
