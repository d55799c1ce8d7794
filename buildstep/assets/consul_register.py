"""Mappings in Consul's key-value store, as daybook writes them: both can work on one Consul.

daybook/hosts/PATTERN        the services of a pattern, with commas between them
"""

from __future__ import annotations

import time
from typing import ClassVar, Final

from buildstep.assets import values
from buildstep.assets.interface import Mappings, RegisterAccess, RegisterError, Versioned
from buildstep.errors import UsageError
from buildstep.net import consul
from buildstep.net.consul_login import login
from buildstep.net.http import translated

PREFIX: Final = "daybook/hosts/"

_PAUSE = 0.25
"""Seconds after a change of something else, of which a Consul without mappings tells as well."""


class ConsulRegister:
    """consul://HOST:PORT, or consul: for the agent that CONSUL_HTTP_ADDR names"""

    scheme: ClassVar[str] = "consul"

    def __init__(self, rest: str, access: RegisterAccess) -> None:
        address = rest.removeprefix("//").removesuffix("/")
        secure = self.scheme == SecureConsulRegister.scheme
        who = login(address, access.options, access.environ, tls=secure)
        self._seen: frozenset[str] = frozenset()
        self._at = ("", 0)
        """The index of the last reading, and Consul's number of it: this moves with other keys too."""
        self._kv = consul.ConsulKv(who, environ=access.environ, bus=access.bus, limits=access.http)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self._kv.login.address}"

    def read(self) -> Mappings:
        return self._read(0, 0.0)

    def _read(self, number: int, wait: float) -> Mappings:
        """Return all mappings; after a number of Consul's, when there are others or the time is over.

        Consul leaves out of a listing what the token may not read, and so shows no mappings to who may read
        none: that is asked as well, and an empty listing was made when it was known. Who waits need not ask
        when all is there that was there before: many are told of one change, all at once.
        """
        with translated(RegisterError):
            found = self._kv.list(PREFIX, index=number, wait=wait)
            keys = frozenset(pair.key for pair in found.pairs)
            if not (number and self._seen and self._seen <= keys):
                self._kv.may_read(PREFIX)
                if not keys:
                    found = self._kv.list(PREFIX)
            self._seen = frozenset(pair.key for pair in found.pairs)
        rows: dict[str, list[str]] = {}
        faults = []
        for pair in found.pairs:
            pattern = pair.key.removeprefix(PREFIX)
            if pattern:
                rows[pattern] = _names(pair.value)
            elif pair.value:
                faults.append(f"the key {PREFIX} has a value, and no pattern")
        read = values.mappings(rows, faults=faults)
        self._at = (read.index, found.number)
        return read

    def wait(self, index: str, seconds: float) -> Mappings:
        end = time.monotonic() + seconds
        while True:
            read, number = self._at
            held = number if read == index else 0
            left = max(0.0, end - time.monotonic())
            found = self._read(held, min(left, consul.LONGEST_WAIT))
            if found.index != index or end <= time.monotonic():
                return found
            if self._at[1] != number:
                time.sleep(min(_PAUSE, max(0.0, end - time.monotonic())))

    def load(self, pattern: str) -> Versioned | None:
        with translated(RegisterError):
            pair = self._kv.get(_key(pattern))
        if pair is None:
            return None
        services, faults = values.sifted(pattern, _names(pair.value))
        return Versioned(services, str(pair.version), tuple(faults))

    def swap(self, pattern: str, services: tuple[str, ...] | None, version: str | None) -> bool:
        with translated(RegisterError):
            if services is not None:
                return self._kv.put(_key(pattern), ",".join(services).encode(), int(version or 0))
            if version is not None:
                return self._kv.delete(_key(pattern), int(version))
            return self._kv.get(_key(pattern)) is None


class SecureConsulRegister(ConsulRegister):
    """consul+https://HOST:PORT, as consul:// over TLS"""

    scheme: ClassVar[str] = "consul+https"


def _key(pattern: str) -> str:
    """Return the key of a pattern. Raises UsageError for one that would be another key as a path of a URL."""
    if not pattern or "//" in pattern or any(name in (".", "..") for name in pattern.split("/")):
        raise UsageError(
            f"{pattern!r} cannot be a pattern in Consul",
            hint="such a key can be removed by a transaction: /v1/txn of Consul's API",
        )
    return PREFIX + pattern


def _names(value: bytes) -> list[str]:
    text = value.decode("utf-8", "backslashreplace")
    return text.split(",") if text.strip() else []
