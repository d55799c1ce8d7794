"""What `buildstep cache doctor` looks at, one after another, each with its number."""

from __future__ import annotations

import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.cache.shared import open_store
from buildstep.cli import shared
from buildstep.errors import BuildstepError
from buildstep.events import Bus
from buildstep.spec import config as configs
from buildstep.spec.shared_cache import SharedCache
from buildstep.system.digest import sha256_bytes
from buildstep.system.text import size_text

if TYPE_CHECKING:
    from buildstep.cache.remote.interface import Record
    from buildstep.cache.remote.store import SharedStore

_ASKED = 5
_TEST_SIZE = 4 << 20
_CLOCK = 60.0
"""Seconds by which clocks may differ: what an expired key signs, and an hour's answers, go by them."""


@dataclass(frozen=True, slots=True)
class _Row:
    check: str
    result: str
    text: str
    value: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"check": self.check, "result": self.result, "text": self.text, "value": self.value}


def examine(url: str | None, pool: str | None, *, writes: bool) -> list[dict[str, Any]]:
    """Return a row for each check: ok, warn or bad, in words, with its number. writes: put a test record
    there. Raises UsageError where no cache is named, SpecError for wrong settings, and what `open` raises."""
    config = configs.load(os.environ, Path.cwd(), pool=pool)
    settings = shared.of_command(url, config)
    store = open_store(settings, None, config.environ(os.environ), Bus())
    try:
        rows = [
            _Row("address", "ok", f"{settings.url}, scope {settings.scope}"),
            *_latency(store, settings),
            *_clock(settings),
            *_keys(store, settings),
            *(_write(store, settings) if writes else ()),
        ]
    finally:
        store.close()
    return [row.to_json() for row in rows]


def _latency(store: SharedStore, settings: SharedCache) -> Iterator[_Row]:
    """Ask for records that nobody has, one after another."""
    times = []
    for _ in range(_ASKED):
        begin = time.monotonic()
        store.find([("answer", secrets.token_hex(32))], max(2.0, settings.look_up))
        times.append(time.monotonic() - begin)
        if store.broken:
            yield _Row("read", "bad", f"it cannot be read: {store.broken}")
            return
    middle = statistics.median(times)
    yield _Row("read", "ok", f"{_ASKED} questions were answered")
    slow = middle > settings.look_up
    text = f"{middle * 1000:.0f} ms for an answer; a build waits {settings.look_up * 1000:.0f} ms"
    yield _Row("latency", "bad" if slow else "ok", text, round(middle, 4))


def _clock(settings: SharedCache) -> Iterator[_Row]:
    """Compare with what a web server says that it is; files of this machine have its own clock."""
    from buildstep.net.http import Http
    from buildstep.net.request import HttpRequest

    address = settings.url
    if address.startswith("s3:"):
        address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if not address.startswith("http"):
        return
    try:
        every = frozenset(range(200, 600))
        with Http(environ=os.environ) as http, http.stream(HttpRequest("HEAD", address, ok=every)) as answer:
            told = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (BuildstepError, OSError, ValueError, TypeError) as error:
        yield _Row("clock", "warn", f"its clock is not known: {error}")
        return
    apart = time.time() - told
    text = f"this machine is {abs(apart):.0f} s {'ahead' if apart > 0 else 'behind'}"
    yield _Row("clock", "warn" if abs(apart) > _CLOCK else "ok", text, round(apart, 1))


def _keys(store: SharedStore, settings: SharedCache) -> Iterator[_Row]:
    """Say who may sign what, and whether what this machine writes counts for itself."""
    rules = store.policy.rules
    for rule in rules:
        left = (rule.until - time.time()) / 86400
        state = "bad" if left < 0 else "warn" if left < 30 else "ok"
        until = "for ever" if left == float("inf") else f"for {left:.0f} more days"
        scopes, kinds = ", ".join(rule.scopes), ", ".join(rule.kinds)
        yield _Row("policy", state, f"{rule.name} may sign {kinds} in {scopes}, {until}")
    if store.policy.unsigned is not None:
        scopes = ", ".join(store.policy.unsigned.scopes)
        yield _Row("policy", "ok", f"records that nobody signed count in {scopes}")
    elif not rules:
        yield _Row("policy", "bad", "no record counts: there is no policy that names a key")
    why = store.would_count(_record(settings, b""))
    if not store.writable:
        yield _Row("key", "ok", "it is only read: nothing is signed")
    elif why:
        yield _Row("key", "warn", f"what this machine writes does not count here: {why}")
    else:
        yield _Row("key", "ok", "what this machine writes counts here")


def _write(store: SharedStore, settings: SharedCache) -> Iterator[_Row]:
    """Put something there, and fetch it again."""
    if not store.writable:
        yield _Row("write", "warn", "it is of a kind that is only read")
        return
    data = os.urandom(_TEST_SIZE)
    record = _record(settings, data)
    begin = time.monotonic()
    if not store.put(record, {"test": data}, deadline=60.0):
        yield _Row("write", "bad", f"nothing can be written: {store.trouble}")
        return
    out = time.monotonic() - begin
    yield _Row("write", "ok", f"{size_text(int(_TEST_SIZE / out))}/s out, in {out:.2f} s", round(out, 3))
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        try:
            store.fetch(record.outputs[0], Path(folder, "test"), deadline=60.0)
        except (BuildstepError, OSError) as error:
            yield _Row("bandwidth", "bad", f"what was written cannot be fetched: {error}")
            return
    into = time.monotonic() - begin
    yield _Row("bandwidth", "ok", f"{size_text(int(_TEST_SIZE / into))}/s in", round(_TEST_SIZE / into))


def _record(settings: SharedCache, data: bytes) -> Record:
    from buildstep.cache.remote.interface import Output, Record
    from buildstep.cache.remote.names import shared_key

    inputs = {"test": sha256_bytes(data)}
    output = Output(name="test", digest=sha256_bytes(data), size=len(data))
    return Record(
        kind="parts", key=shared_key("parts", inputs), inputs=inputs, outputs=(output,) if data else (),
        scope=settings.scope, made_at=time.time(),
    )  # fmt: skip
