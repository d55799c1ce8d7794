"""Put what a build has made into the shared cache, once the build is done.

It is put there by a process of its own, with a deadline: a build's files have their names before it begins,
and nothing of them depends on it. What does not get there in time is left out, and put there by whoever has
it next.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.cache import shared_there
from buildstep.cache.shared import open_store
from buildstep.errors import BuildstepError
from buildstep.events import Bus
from buildstep.spec.shared_cache import SharedCache
from buildstep.system import workers
from buildstep.system.text import plural, size_text

if TYPE_CHECKING:
    from buildstep.cache.remote.interface import Record, Seed, Wanted
    from buildstep.cache.remote.store import SharedStore

Files = Mapping[str, Path | bytes]
Upload = tuple["Record", Files]
Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Uploads:
    """What is to be put there, in this order. seconds: that may be taken; used: records that this build
    found, to be marked as used; seeds: files here that may have parts of it; again: records that are there,
    and whose bytes came damaged or not at all."""

    rows: Sequence[Upload]
    seconds: float
    used: Sequence[Wanted] = ()
    seeds: Sequence[Seed] = ()
    again: frozenset[Wanted] = frozenset()


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of it. records: that are new there; size: bytes that went for them; left: records that were
    left out."""

    records: int = 0
    size: int = 0
    left: int = 0


def upload(
    uploads: Uploads, settings: SharedCache, state: Path, environ: Mapping[str, str], bus: Bus
) -> Sent:
    """Put it there, in a process that is ended when its time is over. What became of it is a note."""
    begin = time.monotonic()
    read_end, write_end = os.pipe()
    parent, pid = os.getpid(), workers.fork()
    if pid == 0:
        os.close(read_end)
        _child(uploads, settings, state, environ, (parent, write_end))
    os.close(write_end)
    rows = _said(pid, read_end, begin + uploads.seconds)
    sizes = [row["bytes"] for row in rows if "bytes" in row]
    for row in rows:
        if "alarm" in row:
            bus.note(row["alarm"], level="warning")
    new = sum(row["new"] for row in rows if "bytes" in row)
    sent = Sent(new, sum(sizes), len(uploads.rows) - len(sizes))
    if sent.records or sent.left:
        late = f"; {sent.left} left out after {uploads.seconds:.1f} s" if sent.left else ""
        what = f"{plural(sent.records, 'record')}, {size_text(sent.size)}"
        bus.note(f"uploaded to the shared cache: {what} in {time.monotonic() - begin:.1f} s{late}")
    bus.count("shared_bytes_out", sent.size)
    return sent


def _said(pid: int, read_end: int, until: float) -> list[dict[str, Any]]:
    """Return what a child says until it ends, or its time does."""
    said = b""
    try:
        while (left := until - time.monotonic()) > 0 and select.select([read_end], [], [], left)[0]:
            data = os.read(read_end, 65536)
            if not data:
                break
            said += data
    finally:
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    rows = said.split(b"\n")[:-1]  # the last may be cut short
    return [json.loads(row) for row in rows]


def _child(
    uploads: Uploads, settings: SharedCache, state: Path, environ: Mapping[str, str], tells: tuple[int, int]
) -> None:
    """The whole life of the process that uploads: a line for each record that is there now. tells: whom, the
    process that started it, and by which pipe."""
    status, (parent, write_end) = 1, tells
    try:
        workers.die_with_parent(parent)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)

        def tell(row: Mapping[str, Any]) -> None:
            os.write(write_end, json.dumps(row).encode() + b"\n")

        put_all(uploads, settings, state, environ, tell)
        status = 0
    finally:
        os._exit(status)


def put_all(
    uploads: Uploads, settings: SharedCache, state: Path, environ: Mapping[str, str], tell: Tell
) -> None:
    """Put records into a shared cache, those that it does not have. tell: is given `bytes` of each, and an
    `alarm` where another builder made something else of the same. Raises nothing for trouble with it."""
    with contextlib.suppress(BuildstepError, OSError):
        store = open_store(settings, state, environ, Bus())
        try:
            _put_all(store, uploads, settings, state, tell)
        finally:
            store.close()


def _put_all(store: SharedStore, uploads: Uploads, settings: SharedCache, state: Path, tell: Tell) -> None:
    until = time.monotonic() + uploads.seconds
    asked = [*uploads.used, *(record.wanted for record, _ in uploads.rows)]
    there = store.find(asked, min(2.0, uploads.seconds))
    for record, files in uploads.rows:
        before = store.facts.bytes_out
        known = None if record.wanted in uploads.again else there.get(record.wanted)
        if known is not None:
            if alarm := _contradiction(record, known):
                tell({"alarm": alarm})
        elif not _put(store, replace(record, builder=_builder()), files, uploads, until):
            continue
        tell({"bytes": store.facts.bytes_out - before, "new": known is None})
        shared_there.note(state, settings.url, settings.scope, record.wanted)
    store.mark_used()


def _put(store: SharedStore, record: Record, files: Files, uploads: Uploads, until: float) -> bool:
    left = until - time.monotonic()
    try:
        doubted = record.wanted in uploads.again
        return left > 0 and store.put(record, files, deadline=left, seeds=uploads.seeds, doubted=doubted)
    except ValueError:  # a file changed, or went
        return False


def _builder() -> str:
    return f"buildstep on {platform.machine()}"


def _contradiction(ours: Record, theirs: Record) -> str:
    """Return what is wrong if two builders made something else of the same inputs: one of them is not to be
    trusted, or something decides that no key knows of."""
    if ours.kind != "layer":
        return ""
    one, other = (record.output("layer") for record in (ours, theirs))
    if one is None or other is None or one.digest == other.digest:
        return ""
    return (
        f"two builders have made two layers of the same content: {one.digest[:12]} here, {other.digest[:12]}"
        f" by {theirs.signer or 'nobody who signs'} ({theirs.builder}): is a machine not what it was?"
    )
