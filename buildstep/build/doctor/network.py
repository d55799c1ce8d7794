"""Whether a server answers, asked once and briefly."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from buildstep.net.errors import HttpError, safe_url
from buildstep.net.http import Http
from buildstep.net.request import HttpOptions, HttpRequest
from buildstep.rootfs.installers.apt_sources import host_mirror
from buildstep.spec.load import BuildSpec

SECONDS = 3.0
"""How long a server may take to answer. One that takes longer is no help to a build either."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """How a server answered. skew: seconds that our clock is ahead of its, None where it does not say."""

    url: str
    shown: str
    problem: str = ""
    seconds: float = 0.0
    skew: float | None = None


def reach(url: str, environ: Mapping[str, str], *, ok: Sequence[int], seconds: float = SECONDS) -> Answered:
    """Ask for the head of a URL, through the agent's proxy; a file: URL is looked at. Never raises."""
    shown = safe_url(url)
    if urlsplit(url).scheme == "file":
        there = Path(urlsplit(url).path).exists()
        return Answered(url=url, shown=shown, problem="" if there else "is not there")
    options = HttpOptions.of(environ, connect=seconds, response=seconds, idle=seconds, attempts=1)
    begin = time.monotonic()
    try:
        with Http(environ=environ, options=options) as http:
            headers = _headers(http, url, ok)
    except HttpError as error:
        return Answered(url=url, shown=shown, problem=error.message.removeprefix(f"HEAD {shown}: "))
    skew = None
    if date := headers.get("date"):
        try:
            skew = time.time() - parsedate_to_datetime(date).timestamp()
        except (ValueError, TypeError):
            skew = None
    return Answered(url=url, shown=shown, seconds=time.monotonic() - begin, skew=skew)


def _headers(http: Http, url: str, ok: Sequence[int]) -> Mapping[str, str]:
    try:
        return http.send(HttpRequest("HEAD", url, ok=ok)).headers
    except HttpError as error:
        if error.status not in (405, 501):  # a server that knows no HEAD
            raise
    with http.stream(HttpRequest("GET", url, ok=ok)) as answer:
        return answer.headers


def mirror_of(spec: BuildSpec, environ: Mapping[str, str]) -> str:
    """The Debian mirror that packages of this build come through; empty for the image's own sources."""
    return spec.installer_options.mirror or environ.get("BUILDSTEP_APT_MIRROR", "") or host_mirror(environ)
