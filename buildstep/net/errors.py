"""What HTTP clients raise, and the options they share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from buildstep import __version__
from buildstep.errors import StoreError

if TYPE_CHECKING:
    pass


USER_AGENT = f"buildstep/{__version__}"

MAX_ANSWER = 64 << 20
"""Bytes of an answer that is kept in memory; a file is streamed instead."""
MAX_RETRY_AFTER = 30.0

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
