"""The key-value store of a Consul agent: read, wait for a change, and write what nobody changed meanwhile.

The only importer of `consul` (py-consul), which knows Consul's addresses and answers. Its calls are made by
our own session: with time limits, also while Consul holds an answer back; with nothing of the process's
environment, of which py-consul would prefer a token to the one that it is given; and tried again.
https://developer.hashicorp.com/consul/api-docs/kv
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from buildstep.errors import ToolMissing, UsageError
from buildstep.events import Bus
from buildstep.net.consul_login import Login
from buildstep.net.errors import HttpError, clean_text
from buildstep.net.http import Http, backoff_seconds
from buildstep.net.request import HttpOptions, HttpRequest

T = TypeVar("T")

LONGEST_WAIT: Final = 60.0
"""Seconds for which Consul is asked to hold an answer back; who waits longer asks again. Consul adds up to a
sixteenth, and a restarted one may have begun its numbers anew, which nobody notices meanwhile."""

_JITTER = 1 / 16
_FILTERED = "x-consul-results-filtered-by-acls"
_ANY_STATUS = range(100, 600)


class ConsulError(HttpError):
    """A call that failed. status: of Consul's answer, 0 if none came."""


class Denied(ConsulError):
    """Consul does not let this token do that, or does not know the token."""


class Pair(NamedTuple):
    """A key and its value. version: of the key, the number of its last change."""

    key: str
    value: bytes
    version: int


class Listing(NamedTuple):
    """All keys below a prefix. number: what a later listing can wait for a change of."""

    pairs: tuple[Pair, ...]
    number: int


class ConsulKv:
    """The keys of one agent's datacenter and namespace. Calls raise ConsulError, and may be made from several
    threads. What another try may not meet is tried again: a write cannot be done twice, as it names the
    version that it replaces.

    limits: of the session; response is how long an answer may take that is not held back on purpose.
    """

    def __init__(self, login: Login, *, environ: Mapping[str, str], bus: Bus, limits: HttpOptions) -> None:
        self.login = login
        self._bus = bus
        self._limits = replace(
            limits,
            verify=login.verify,
            ca_bundle=login.ca_bundle,
            client_cert=login.client_cert,
        )
        # As Consul's own program: no proxy is between this machine and itself, whatever no_proxy says.
        self._http = Http(environ={} if login.local else environ, options=self._limits, bus=bus)
        login.headers()  # a token file that cannot be read is told before anything is done
        if not (login.anonymous or login.tls or login.local):
            bus.note(
                f"Consul's token goes to {login.address} over http: everybody on the way can read it",
                level="warning",
            )

    @cached_property
    def _client(self) -> Any:
        return _connect(self.login, self._http)

    def list(self, prefix: str, *, index: int = 0, wait: float = 0.0) -> Listing:
        """Return all keys below a prefix that this token may read. The others are left out without a word
        by a Consul before 1.12; see `may_read`.

        index: answer only when the listing is another than the one that had this index, or after `wait`
        seconds.
        """
        held = {"index": index, "wait": f"{max(1, round(wait * 1000))}ms"} if index > 0 else {}
        # Another try does not wait: a Consul that was started again may count from one again.
        tries = iter([held])
        number, rows = self._call(
            f"list the keys below {prefix}",
            lambda: self._client.kv.get(prefix, recurse=True, **next(tries, {})),
        )
        return Listing(tuple(map(_pair, rows or ())), int(number))

    def get(self, key: str) -> Pair | None:
        """Return a key; None if it is not there. Raises Denied."""
        _, row = self._call(f"read {key}", lambda: self._client.kv.get(key))
        return None if row is None else _pair(row)

    def may_read(self, prefix: str) -> None:
        """Raise Denied unless this token may read the keys below a prefix: a listing does not tell.

        Asked for is one below it: who has a rule for the prefix as a single key may read that, and no other.
        """
        self._call(f"read the keys below {prefix}", lambda: self._client.kv.get(f"{prefix}~"))

    def put(self, key: str, value: bytes, version: int) -> bool:
        """Set a key if it still has this version, 0: if it is not there. Return whether that was so."""
        return bool(self._call(f"write {key}", lambda: self._client.kv.put(key, value, cas=version)))

    def delete(self, key: str, version: int) -> bool:
        """Remove a key if it still has this version. Return whether that was so."""
        return bool(self._call(f"remove {key}", lambda: self._client.kv.delete(key, cas=version)))

    def _call(self, what: str, act: Callable[[], T]) -> T:
        attempt = 1
        while True:
            try:
                return self._once(what, act)
            except ConsulError as error:
                if not error.retryable or attempt >= self._limits.attempts:
                    raise
                pause = backoff_seconds(self._limits.backoff, attempt)
                self._bus.note(f"{error.message}; trying again in {pause:.1f} s", level="warning")
                time.sleep(pause)
                attempt += 1

    def _once(self, what: str, act: Callable[[], T]) -> T:
        library = _library()
        try:
            return act()
        except ConsulError:
            raise
        except UsageError as error:  # the token's file is gone, perhaps while it is replaced
            raise ConsulError(error.message, detail=error.detail, retryable=True) from error
        except HttpError as error:
            raise self._unreachable(error) from error
        except library.ConsulException as error:
            if re.match(r"[45][0-9]{2} ", str(error)) or type(error) is not library.ConsulException:
                raise self._refused(what, error) from error
            raise self._stranger() from error
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # of JSON, headers or rows
            raise self._stranger() from error

    def _stranger(self) -> ConsulError:
        return ConsulError(
            f"what {self.login.address} answers is not of Consul", hint="check the address of the agent"
        )

    def _unreachable(self, error: HttpError) -> ConsulError:
        why = error.message.partition(": ")[2] or error.message  # without our own address of the call
        hint = error.hint or "is the agent running? another address: consul://HOST:PORT or CONSUL_HTTP_ADDR"
        if "not secure" in why:
            hint = "CONSUL_CACERT, or ca_file in buildstep.toml, names the authorities of its certificate"
        return ConsulError(
            f"no answer from the Consul agent at {self.login.address}: {why}",
            hint=hint,
            retryable=error.retryable,
        )

    def _refused(self, what: str, error: Exception) -> ConsulError:
        """Return the error for an answer of Consul. Some versions tell a refusal of another server as 500."""
        text = self._clean(str(error))
        lower = text.lower()
        at = f"Consul at {self.login.address}"
        if "acl not found" in lower:
            return Denied(
                f"{at} does not know the token; it may not {what}",
                status=403,
                hint="it was revoked, or is of another datacenter; CONSUL_HTTP_TOKEN or a token file has it",
            )
        if "permission denied" in lower or type(error).__name__ == "ACLPermissionDenied":
            whose = "who has no token" if self.login.anonymous else "this token"
            return Denied(
                f"{at} does not permit {whose} to {what}",
                status=403,
                detail=text,
                hint="give a token whose policy permits it: CONSUL_HTTP_TOKEN or a token file",
            )
        status = int(found[0]) if (found := re.match(r"[45][0-9]{2}\b", text)) else 0
        if "no cluster leader" in lower:
            message = f"{at} has no leader at the moment: it could not {what}"
            return ConsulError(
                message, status=status, hint="`consul operator raft list-peers`", retryable=True
            )
        hint = next((hint for words, hint in _HINTS.items() if words in lower), "")
        # A datacenter that is not there comes as 500 as well.
        again = (status >= 500 or status in (408, 429)) and not hint
        hint = hint or "the log of the agent says more"
        return ConsulError(f"{at} could not {what}: {text}", status=status, hint=hint, retryable=again)

    def _clean(self, text: str) -> str:
        token = self.login.token
        return clean_text(text.replace(token, "***") if token else text)


_HINTS = {
    "no path to datacenter": "check the name of the datacenter",
    "enterprise feature": "leave the namespace out: this Consul is the community's",
    "exceeds": "a value has 512 KiB at most",
    "too large": "a value has 512 KiB at most",
}


def _pair(row: Mapping[str, Any]) -> Pair:
    return Pair(row["Key"], row["Value"] or b"", int(row["ModifyIndex"]))


# -- py-consul ---------------------------------------------------------------------------------------------


def _library() -> Any:
    try:
        import consul
    except ImportError as error:
        raise ToolMissing(
            "Consul needs the Python package py-consul", hint="pip install 'buildstep[consul]'"
        ) from error
    return consul


class _Answer(NamedTuple):
    """An answer as py-consul's callbacks take it."""

    code: int
    headers: Mapping[str, str]
    body: str


class _Calls:
    """What py-consul makes its calls with, in place of its own `base.HTTPClient`."""

    def __init__(self, login: Login, http: Http) -> None:
        self._login, self._http = login, http
        self._base = f"{'https' if login.tls else 'http'}://{login.address}"

    def get(self, callback: Callback, path: str, params: Params = (), **_: Any) -> Any:
        return self._call("GET", callback, path, params)

    def put(self, callback: Callback, path: str, params: Params = (), data: Any = b"", **_: Any) -> Any:
        return self._call("PUT", callback, path, params, data)

    def delete(self, callback: Callback, path: str, params: Params = (), **_: Any) -> Any:
        return self._call("DELETE", callback, path, params)

    def _call(
        self, method: str, callback: Callback, path: str, params: Params, data: bytes | None = None
    ) -> Any:
        from requests.structures import CaseInsensitiveDict

        wait = float(str(dict(params).get("wait", "0ms")).removesuffix("ms")) / 1000
        request = HttpRequest(
            method,
            f"{self._base}{quote(path, safe='/:')}?{urlencode(list(params))}",
            headers=self._login.headers(),
            data=data,
            ok=_ANY_STATUS,
            held=wait * (1 + _JITTER),
        )
        with self._http.stream(request) as stream:
            body = stream.read(request.limit).decode("utf-8", "replace")
        if stream.headers.get(_FILTERED, "").lower() == "true":
            raise Denied(
                f"Consul at {self._login.address} leaves out what this token may not read",
                status=403,
                hint="give a token whose policy permits it to read all mappings",
            )
        return callback(_Answer(stream.status, CaseInsensitiveDict(stream.headers), body))


Params = Sequence[tuple[str, Any]]
Callback = Callable[[_Answer], Any]


def _connect(login: Login, http: Http) -> Any:
    """Return py-consul's client, whose calls are made by our session."""
    _library()
    from consul import base

    class Client(base.Consul):  # type: ignore[misc]  # the library has no types
        def http_connect(self, *_: Any, **__: Any) -> _Calls:
            return _Calls(login, http)

    # All that it would else take from the environment is given; its own headers are not used.
    return Client(
        host=login.host,
        port=login.port,
        scheme="https" if login.tls else "http",
        verify=login.verify,
        consistency=login.consistency,
        dc=login.datacenter or None,
    )
