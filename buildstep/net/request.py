"""A request, its response, and the limits of the session that makes the call."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep import __version__
from buildstep.events import Gauge
from buildstep.net.errors import HttpError, safe_url
from buildstep.system.files import Slice

USER_AGENT = f"buildstep/{__version__}"

MAX_RESPONSE = 64 << 20
"""Most bytes of a response that is kept in memory; a file is streamed instead."""

Sign = Callable[[], Mapping[str, str]]
"""Returns the headers that authenticate a call; called for each attempt, as some hold the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpOptions:
    """Limits and trust of a session. Times in seconds.

    connect: until there is a connection. response: from the end of the request to the end of the response's
    head. idle: without a byte of the body. min_rate: bytes per second; a slower body is given up.
    attempts: how often a call that may be repeated is made. backoff: the first pause between two attempts.
    verify: whether certificates are checked. ca_bundle: a file of certificate authorities to trust instead
    of the usual ones. client_cert: files of a certificate and its key, by which a server knows us.
    """

    connect: float = 10.0
    response: float = 60.0
    idle: float = 30.0
    min_rate: float = 4096.0
    attempts: int = 4
    backoff: float = 0.5
    verify: bool = True
    ca_bundle: str = ""
    client_cert: tuple[str, str] | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str], *, insecure: bool = False, **limits: Any) -> HttpOptions:
        """Return options with the certificate authorities that the environment names.

        insecure: do not check certificates. limits: any of the other fields.
        """
        names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
        bundle = next((environ[name] for name in names if environ.get(name)), "")
        return cls(verify=not insecure, ca_bundle=bundle, **limits)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One call.

    sign: see Sign. data: the body: bytes, a file, or a part of one. ok: the statuses that are no error.
    idempotent: the call may be repeated after a temporary failure, as any GET may. limit: most bytes of the
    response that are accepted. held: for how many seconds more than usual the server may hold its response
    back, as it was asked to. gauge: is told how much of a body that is a file was sent.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    sign: Sign | None = None
    params: Mapping[str, str] | None = None
    data: bytes | Path | Slice | None = None
    ok: Container[int] = frozenset({200})
    idempotent: bool = False
    limit: int = MAX_RESPONSE
    held: float = 0.0
    gauge: Gauge | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpResponse:
    """A complete response. headers: by name in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    reason: str = field(default="", compare=False)

    def json(self) -> Any:
        """Return the body as JSON. Raises HttpError if it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            start = self.body[:200].decode("utf-8", "replace")
            raise HttpError(
                f"the response of {safe_url(self.url)} is not JSON",
                status=self.status,
                response=self,
                detail=f"it begins with {start!r}",
                hint="check the address; a proxy may have answered with its log-in page",
            ) from error
