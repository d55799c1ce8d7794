"""Where a Consul agent is, and who asks it: from options, and from the variables of Consul's own program."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from buildstep.errors import UsageError
from buildstep.net.errors import clean_text
from buildstep.net.request import HttpOptions

DEFAULT: Final = "127.0.0.1:8500"

_LOCAL = re.compile(r"localhost|127\.[0-9.]+|\[?::1\]?")
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?/?")
_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")


@dataclass(frozen=True, kw_only=True, slots=True)
class Login:
    """Where the agent is, and who we are. token_file: read for each call, as it may be replaced; secrets are
    not shown. auth: user:password of a proxy in front of it."""

    host: str
    port: int
    tls: bool = False
    token: str = ""
    token_file: str = ""
    auth: str = ""
    datacenter: str = ""
    namespace: str = ""
    consistency: str = "default"
    verify: bool = True
    ca_bundle: str = ""
    client_cert: tuple[str, str] | None = None

    def __repr__(self) -> str:
        return f"Login({self.address})"

    @property
    def address(self) -> str:
        """HOST:PORT, for messages."""
        return f"{self.host}:{self.port}"

    @property
    def local(self) -> bool:
        """Whether nothing leaves this machine on the way to the agent."""
        return _LOCAL.fullmatch(self.host) is not None

    @property
    def anonymous(self) -> bool:
        """Whether no token is given."""
        return not (self.token or self.token_file)

    def headers(self) -> dict[str, str]:
        """Return what tells Consul who asks. Raises UsageError for a token file that cannot be read."""
        found = {}
        token = _read_token(self.token_file) if self.token_file else self.token
        if token:
            found["X-Consul-Token"] = token
        if self.namespace:
            found["X-Consul-Namespace"] = self.namespace
        if self.auth:
            found["Authorization"] = f"Basic {base64.b64encode(self.auth.encode()).decode()}"
        return found


def _read_token(path: str) -> str:
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"the file of Consul's token cannot be read: {path}", detail=str(error)) from error
    if not token or not token.isascii() or not token.isprintable():
        raise UsageError(f"the file of Consul's token has no token: {path}")
    return token


def login(
    address: str, options: Mapping[str, str], environ: Mapping[str, str], *, tls: bool = False
) -> Login:
    """Return the login of an address, HOST:PORT or empty, and of options; else of Consul's own variables.

    options: token_file, datacenter, namespace, consistency, ca_file, cert_file, key_file. tls: speak TLS,
    whatever the variables say. Raises UsageError. https://developer.hashicorp.com/consul/commands#environment-variables
    """
    given = environ.get("CONSUL_HTTP_ADDR", "")
    scheme, separator, rest = given.rpartition("://")
    if not address and separator and scheme not in ("http", "https"):
        raise UsageError(
            f"CONSUL_HTTP_ADDR: {clean_text(given, 100)!r} is no address that is supported", hint="HOST:PORT"
        )
    match = _HOST_PORT.fullmatch(address or rest or DEFAULT)
    if match is None or not 0 < int(match["port"] or 8500) < 65536:
        # Neither a password nor, as ?token=..., a token.
        text = clean_text((address or rest).rpartition("@")[2].partition("?")[0], 100)
        raise UsageError(
            f"{text!r} is not the address of a Consul agent", hint=f"HOST:PORT, such as {DEFAULT}"
        )

    def pick(name: str, *variables: str) -> str:
        return options.get(name, "") or next((environ[it] for it in variables if environ.get(it)), "")

    cert, key = pick("cert_file", "CONSUL_CLIENT_CERT"), pick("key_file", "CONSUL_CLIENT_KEY")
    if bool(cert) != bool(key):
        raise UsageError("a client's certificate and its key belong together", hint="give both, or none")
    return Login(
        host=match["host"],
        port=int(match["port"] or 8500),
        tls=tls or _switch(environ, "CONSUL_HTTP_SSL", default=not address and scheme == "https"),
        token=environ.get("CONSUL_HTTP_TOKEN", ""),
        token_file=pick("token_file", "CONSUL_HTTP_TOKEN_FILE"),
        auth=environ.get("CONSUL_HTTP_AUTH", ""),
        datacenter=pick("datacenter"),
        namespace=pick("namespace", "CONSUL_NAMESPACE"),
        consistency=pick("consistency") or "default",
        verify=_switch(environ, "CONSUL_HTTP_SSL_VERIFY", default=True),
        ca_bundle=pick("ca_file", "CONSUL_CACERT", "CONSUL_CAPATH") or HttpOptions.of(environ).ca_bundle,
        client_cert=(cert, key) if cert else None,
    )


def _switch(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    """Return a switch as Go's strconv.ParseBool reads it. Raises UsageError."""
    text = environ.get(name, "").lower()
    if text and text not in (*_TRUE, *_FALSE):
        raise UsageError(f"{name}={text!r} is neither true nor false")
    return text in _TRUE if text else default
