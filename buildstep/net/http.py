"""One HTTP session for every client: timeouts everywhere, bounded retries, and no secret in an error.

Nothing here waits for ever. Connecting and the whole of the response's head have their limits; a body
has one for silence and one for each piece of it, so that a server that drips is given up as well.
`requests` is imported on first use: a plan or --help must not pay for it.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from buildstep.errors import BuildstepError
from buildstep.events import Bus

if TYPE_CHECKING:
    from buildstep.net.transport import Reply, Transport

from buildstep.net.errors import (
    MAX_ANSWER,
    MAX_RETRY_AFTER,
    Answer,
    HttpError,
    HttpOptions,
    Sign,
    clean_text,
    safe_url,
)
from buildstep.system.files import Slice

_WORTH_RETRYING = frozenset({408, 425, 429, 500, 502, 503, 504})
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS"})

T = TypeVar("T")


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
            from buildstep.net.transport import Transport

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
            seconds = min(max(seconds, float(asked)), MAX_RETRY_AFTER)
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
