"""One HTTP session for every client: time limits everywhere, bounded retries, and no secret in an error.

Nothing here waits for ever. There are limits for connecting, for the complete head of a response, for
silence within a body and for each piece of it: a server that sends byte by byte is given up as well.
`requests` is imported on first use: a plan or --help must not pay for it.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Self, TypeVar

from buildstep.errors import BuildstepError
from buildstep.events import Bus
from buildstep.net.errors import HttpError, clean_text, safe_url
from buildstep.net.request import HttpOptions, HttpRequest, HttpResponse

if TYPE_CHECKING:
    from buildstep.net.direct_http import DirectStream
    from buildstep.net.transport import HttpStream, Transport

_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_RETRY_AFTER = 30.0
_HINTS = {
    401: "check the credentials",
    403: "these credentials do not permit this call",
    407: "the proxy needs credentials",
    413: "the server does not accept a body of this size",
}

T = TypeVar("T")


@contextlib.contextmanager
def translated(into: type[BuildstepError], what: str = "") -> Iterator[None]:
    """Raise an HttpError as the error class of the caller's area, which has the area's exit code."""
    try:
        yield
    except HttpError as error:
        message = f"{what}: {error.message}" if what else error.message
        raise into(message, detail=error.detail, hint=error.hint, retryable=error.retryable) from error


class Http:
    """A session: open connections, and the rules by which calls are made and repeated."""

    def __init__(
        self, *, environ: Mapping[str, str], options: HttpOptions | None = None, bus: Bus | None = None
    ) -> None:
        self.environ = environ
        self.options = options or HttpOptions.of(environ)
        self.bus = bus or Bus()
        self.stopped = threading.Event()
        self._transport: Transport | None = None

    def stop(self) -> None:
        """Make calls of other threads fail soon, with an error that is not retried."""
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

    @contextlib.contextmanager
    def stream(self, request: HttpRequest) -> Iterator[HttpStream]:
        """Make one attempt at a call whose body is then read piece by piece, by `HttpStream.chunks`.

        Raises HttpError for a status that is not ok.
        """
        if self._transport is None:
            from buildstep.net.transport import Transport

            self._transport = Transport(self.environ, self.options, self.stopped)
        with self._transport.open(request) as stream:
            if stream.status not in request.ok:
                raise failure_of(request, stream)
            yield stream

    def send(self, request: HttpRequest) -> HttpResponse:
        """Make a call and return its complete response. Raises HttpError for a status that is not ok."""

        def once() -> HttpResponse:
            with self.stream(request) as stream:
                return _response(stream, b"" if request.method == "HEAD" else stream.read(request.limit))

        return self.retrying(once, repeat=request.idempotent or request.method in _IDEMPOTENT)

    def retrying(self, call: Callable[[], T], *, repeat: bool = True) -> T:
        """Make a call and return its result; repeat it after a pause if its failure may be temporary."""
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
        """Wait before the next attempt: twice as long each time, or as long as the server wants."""
        seconds = backoff_seconds(self.options.backoff, attempt)
        wanted = error.response.headers.get("retry-after", "") if error.response else ""
        if wanted.isascii() and wanted.isdigit():
            seconds = min(max(seconds, float(wanted)), _MAX_RETRY_AFTER)
        self.bus.note(f"{error.message}; trying again in {seconds:.1f} s", level="warning")
        if self.stopped.wait(seconds):
            raise HttpError("stopped, because something else failed") from error


def backoff_seconds(first: float, attempt: int) -> float:
    """Return the pause after a failed attempt: twice as long each time, and never just the same."""
    # So that many hosts do not come back at once.
    return first * 2.0 ** (attempt - 1) * random.uniform(0.8, 1.2)  # noqa: S311


def _response(stream: HttpStream | DirectStream, body: bytes) -> HttpResponse:
    return HttpResponse(
        status=stream.status, headers=stream.headers, body=body, url=stream.url, reason=stream.reason
    )


def failure_of(request: HttpRequest, stream: HttpStream | DirectStream) -> HttpError:
    """Return the error for a response whose status is not ok."""
    body = b""
    # The status is what counts: if the body does not come, nothing is lost.
    with contextlib.suppress(HttpError):
        if request.method != "HEAD":
            body = stream.read(request.limit, patient=False)
    text = body.decode("utf-8", "replace")
    reason = clean_text(stream.reason, 60)
    return HttpError(
        f"{request.method} {safe_url(stream.url)}: {stream.status} {reason}".rstrip(),
        status=stream.status,
        response=_response(stream, body),
        detail="" if "<html" in text[:500].lower() else clean_text(text),
        hint=_HINTS.get(stream.status, ""),
        retryable=stream.status in _TEMPORARY,
    )
