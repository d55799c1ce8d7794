"""Which Jenkins server is meant, and who we are there: flags, and what the environment says."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from buildstep.errors import UsageError
from buildstep.net.errors import safe_url
from buildstep.net.request import HttpOptions

_LOCAL: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Login:
    """Address of the server, and the user. token: an API token, never shown."""

    url: str
    user: str = ""
    token: str = ""
    ca_bundle: str = ""

    def __repr__(self) -> str:
        return f"Login(url={self.url!r}, user={self.user!r})"


def login(
    environ: Mapping[str, str], *, url: str = "", user: str = "", token_file: Path | None = None
) -> Login:
    """Return the login of flags and JENKINS_URL, JENKINS_USER, JENKINS_TOKEN_FILE or JENKINS_TOKEN.

    There is no flag for the token itself: everybody on a machine can read the arguments of a process.
    """
    url = url or environ.get("JENKINS_URL", "")
    if not url:
        raise UsageError("no Jenkins server is given", hint="use --url or set JENKINS_URL")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"{safe_url(url)!r} is not the address of a server", hint="as https://ci.example.org/"
        )
    if parts.username or parts.password:
        raise UsageError("the server's address holds a password", hint="use --user and JENKINS_TOKEN_FILE")
    user = user or environ.get("JENKINS_USER", environ.get("JENKINS_USER_ID", ""))
    name = os.fspath(token_file) if token_file else environ.get("JENKINS_TOKEN_FILE", "")
    token = environ.get("JENKINS_TOKEN", environ.get("JENKINS_API_TOKEN", ""))
    if name:
        try:
            token = Path(name).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise UsageError(f"the token file {name} cannot be read", detail=str(error)) from error
    if bool(user) != bool(token):
        lacking = "JENKINS_TOKEN_FILE" if user else "--user or JENKINS_USER"
        raise UsageError("a user and an API token belong together", hint=f"set {lacking}")
    if token and parts.scheme == "http" and parts.hostname not in _LOCAL:
        raise UsageError(
            "an API token is not sent over http, where everybody on the way can read it",
            hint=f"use https://{parts.netloc}",
        )
    return Login(url=url, user=user, token=token, ca_bundle=HttpOptions.of(environ).ca_bundle)


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Take these variables out of this process's environment for the length of a block."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
