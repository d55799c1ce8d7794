"""The CI host's proxy variables, made to work inside an image and kept out of logs."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from buildstep.errors import SandboxError

PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")

HIDDEN = "***"

Resolve = Callable[[str], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxies:
    """Proxy variables for commands in an image. notes: what the reader of the build should know."""

    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def mask(self, text: str) -> str:
        """Return the text without the proxies' passwords."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text


def resolve_host(host: str) -> str:
    """Return the first address that the CI host's resolver gives for a host name. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    # A link-local address with a zone means nothing without the zone's name, which a URL cannot carry.
    addresses = [str(entry[4][0]) for entry in found if "%" not in str(entry[4][0])]
    if not addresses:
        raise OSError(f"{host} has only link-local addresses")
    return addresses[0]


def proxies_from(environ: Mapping[str, str], *, resolve: Resolve = resolve_host) -> Proxies:
    """Return the CI host's proxy settings as commands in an image can use them. Raises SandboxError.

    The image has its own resolver and hosts file, which need not know the proxy, so its name is
    replaced by its address. A proxy spoken to over TLS keeps its name, which its certificate carries.
    A variable set in one case is given in both: tools differ in which they read.
    """
    env: dict[str, str] = {}
    secrets: set[str] = set()
    notes: list[str] = []
    for lower in PROXY_VARIABLES:
        for name, other in ((lower, lower.upper()), (lower.upper(), lower)):
            value = environ.get(name) or environ.get(other)
            if not value:
                continue
            if lower == "no_proxy":
                env[name] = value
                continue
            used = name if environ.get(name) else other
            env[name], note = _with_address(used, value, resolve)
            secrets |= _passwords(value)
            if note and note not in notes:
                notes.append(note)
    # Longest first, so that a secret that holds another is hidden whole.
    hidden = tuple(sorted(secrets, key=lambda secret: (-len(secret), secret)))
    return Proxies(env=env, secrets=hidden, notes=tuple(notes))


def hide_password(url: str) -> str:
    """Return a proxy URL without its password, for a message. Works on what is no URL as well."""
    return re.sub(r"(//|^)([^/@]*)@", rf"\1{HIDDEN}@", url)


def split_proxy(name: str, value: str) -> SplitResult:
    """Split a proxy setting, whose scheme may be left out. Raises SandboxError."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host = parts.hostname
        _ = parts.port  # reading it is what checks it
    except ValueError as error:
        raise SandboxError(
            f"{name}={hide_password(value)} is not a proxy address: {error}",
            hint=f"set {name} to http://HOST:PORT/, or unset it",
        ) from None  # the cause's text may show the password
    if not host:
        raise SandboxError(
            f"{name}={hide_password(value)} names no host",
            hint=f"set {name} to http://HOST:PORT/, or unset it",
        )
    return parts


def _with_address(name: str, value: str, resolve: Resolve) -> tuple[str, str]:
    """Return the setting with its host as an address, and a note where that was not done."""
    parts = split_proxy(name, value)
    host = parts.hostname
    assert host
    if _is_address(host):
        return value, ""
    if parts.scheme == "https":
        note = f"{name}: {host} keeps its name, for its certificate; the image's resolver must know it"
        return value, note
    try:
        address = resolve(host)
    except OSError as error:
        raise SandboxError(
            f"{name}: the proxy's name {host} has no address: {error.strerror or error}",
            hint=f"correct {name}, or unset it if the network can be reached without a proxy",
        ) from error
    user, at, _ = parts.netloc.rpartition("@")
    port = "" if parts.port is None else f":{parts.port}"
    literal = f"[{address}]" if ":" in address else address
    return urlunsplit(parts._replace(netloc=f"{user}{at}{literal}{port}")), ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


_TOO_SHORT = 4
"""Hiding every "a" of a log because it is somebody's password would tell what the password is."""


def _passwords(value: str) -> set[str]:
    """Return the texts that must not be shown: user and password together, and the password alone."""
    user, at, _ = urlsplit(value if "://" in value else f"http://{value}").netloc.rpartition("@")
    password = user.partition(":")[2]
    if not at or not password:
        return set()
    alone = {password, unquote(password)}
    return {f"{user}@", *(text for text in alone if len(text) >= _TOO_SHORT)}
