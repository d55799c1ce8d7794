"""Which hosts a command in an image may reach through the build's proxy, and which way."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from buildstep.errors import SandboxError
from buildstep.rootfs.proxies import hide_password, split_proxy

ALLOW = "BUILDSTEP_NETWORK_ALLOW"
"""The variable that names what commands may reach though it is the CI host: HOST:PORT, commas between."""

_METADATA = frozenset(
    map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254", "168.63.129.16", "100.100.100.200"))
)
"""Where clouds give a host its credentials. All but the first are not link-local."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_THIS_HOST = ipaddress.ip_network("0.0.0.0/8")
_PORTS = {"http": 80, "https": 443}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]


class Endpoint(NamedTuple):
    """A host, as a name or an address, and a port of it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RefusedError(Exception):
    """A host that commands in images may not reach. Its text is for the reader of the build."""


def endpoint_of(text: str, scheme: str = "http") -> Endpoint:
    """Return the endpoint of HOST:PORT or of a URL. Raises ValueError."""
    parts = urlsplit(text if "://" in text else f"{scheme}://{text}")
    port = parts.port or _PORTS.get(parts.scheme, 0)
    if not parts.hostname or not port:
        raise ValueError(f"{text!r} names no host and port")
    return Endpoint(parts.hostname.lower(), port)


def allowed_by(environ: Mapping[str, str], urls: Iterable[str] = ()) -> frozenset[Endpoint]:
    """Return what the user's own configuration names: `BUILDSTEP_NETWORK_ALLOW`, and mirrors.

    Raises SandboxError for what is no HOST:PORT.
    """
    found = set()
    for text in filter(None, (environ.get(ALLOW) or "").replace(",", " ").split()):
        try:
            found.add(endpoint_of(text))
        except ValueError as error:
            raise SandboxError(f"{ALLOW}: {error}", hint="write HOST:PORT, separated by commas") from None
    for url in urls:
        if urlsplit(url).scheme in _PORTS:
            found.add(endpoint_of(url))
    return frozenset(found)


# -- addresses ----------------------------------------------------------------------------------------------


def resolve_all(host: str, port: int) -> list[str]:
    """Return the addresses that the CI host's resolver gives, in its order. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def own_addresses(net: Path = Path("/proc/net")) -> frozenset[Address]:
    """Return the addresses of this host's interfaces, by the kernel's tables."""
    found: set[Address] = set()
    try:
        leaf = ""
        for row in (net / "fib_trie").read_text().splitlines():
            if match := re.search(r"\|-- (\S+)", row):
                leaf = match[1]
            elif "/32 host LOCAL" in row:
                found.add(ipaddress.ip_address(leaf))
        for row in (net / "if_inet6").read_text().splitlines():
            found.add(ipaddress.ip_address(int(row.split()[0], 16).to_bytes(16, "big")))
    except OSError:
        pass  # a kernel without IPv6 has no such table
    return frozenset(found)


def embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, else the address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is None and (address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1)):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


def is_host(text: str, own: frozenset[Address]) -> bool:
    """Return whether an address leads to the CI host itself, or to what gives it its credentials."""
    address = embedded(ipaddress.ip_address(text.partition("%")[0]))
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or address in _METADATA
        or (address.version == 4 and address in _THIS_HOST)
        or address in own
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What commands may reach. allowed: what they may reach though it is the host."""

    allowed: frozenset[Endpoint] = frozenset()
    resolve: Resolve = resolve_all
    own: Callable[[], frozenset[Address]] = own_addresses

    def addresses(self, wanted: Endpoint) -> list[str]:
        """Return the addresses to connect to. Raises RefusedError, and OSError where the name has none."""
        found = list(self.resolve(wanted.host, wanted.port))
        if wanted in self.allowed:
            return found
        own = self.own()
        good = [address for address in found if not is_host(address, own)]
        if not good:
            raise RefusedError(
                f"{wanted} is the CI host itself ({found[0]}): builds reach it only if network.allow in"
                " buildstep.toml names it"
            )
        return good

    def check_name(self, wanted: Endpoint) -> None:
        """Check a host that another proxy will look up, as far as it is known here. Raises RefusedError."""
        try:
            self.addresses(wanted)
        except OSError:
            return


# -- the CI host's own proxy --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class UpstreamProxy:
    """A proxy of the CI host's. auth: the value of a Proxy-Authorization header, if it wants one."""

    at: Endpoint
    tls: bool = False
    auth: str = ""


def upstream(environ: Mapping[str, str], scheme: str, wanted: Endpoint) -> UpstreamProxy | None:
    """Return the proxy that the CI host uses for a host; None for none. Raises SandboxError."""
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY")
    if no_proxy and _is_bypassed(wanted, no_proxy):
        return None
    for variable in (f"{scheme}_proxy", "all_proxy"):
        for name in (variable, variable.upper()):
            if value := environ.get(name):
                return _proxy(name, value)
    return None


def _is_bypassed(wanted: Endpoint, no_proxy: str) -> bool:
    """Return whether a list of hosts, of endings of their names, or of networks has a host, or is `*`."""
    for word in no_proxy.replace(",", " ").lower().split():
        name, _, port = word.rpartition(":") if re.search(r"[^:]:[0-9]+$", word) else (word, "", "")
        if port and int(port) != wanted.port:
            continue
        name = name.removeprefix("*").removeprefix(".").strip("[]")
        if not name or wanted.host == name or wanted.host.endswith(f".{name}"):
            return True
        try:
            if ipaddress.ip_address(wanted.host) in ipaddress.ip_network(name, strict=False):
                return True
        except ValueError:
            continue
    return False


def _proxy(name: str, value: str) -> UpstreamProxy:
    parts = split_proxy(name, value)
    if parts.scheme not in _PORTS:
        raise SandboxError(
            f"{name}={hide_password(value)} is no HTTP proxy, which is what builds can go through",
            hint=f"set {name} to http://HOST:PORT/, or unset it",
        )
    auth = ""
    if parts.username is not None:
        # As the bytes that they are: a password need not be UTF-8.
        pair = b":".join(
            unquote_to_bytes(os.fsencode(text)) for text in (parts.username, parts.password or "")
        )
        auth = f"Basic {base64.b64encode(pair).decode()}"
    assert parts.hostname
    at = Endpoint(parts.hostname, parts.port or _PORTS[parts.scheme])
    return UpstreamProxy(at=at, tls=parts.scheme == "https", auth=auth)
