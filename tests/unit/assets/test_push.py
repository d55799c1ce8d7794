"""A push of many: what a store that fails, waits or is gone does to it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.assets.blob_index import parse_details, parse_index
from buildstep.assets.interface import Asset, Details
from buildstep.assets.names import Name
from buildstep.assets.pack import Packing
from buildstep.assets.pack import tarball as tarball_of
from buildstep.assets.push import Options, Upload, push
from buildstep.cli.guard import signals
from buildstep.errors import Interrupted, StoreError, UsageError
from buildstep.events import Bus
from buildstep.files.interface import Unlistable
from tests.servers.archives import tarball
from tests.unit.assets.pulling import MemoryAssets


def uploads(folder: Path, count: int) -> list[Upload]:
    names = [Name("web", str(number), ".tar.gz") for number in range(count)]
    return [Upload(name, tarball(folder / name.file)) for name in names]


class Gone(MemoryAssets):
    """A store that takes nothing: it does not respond, or does not let us write."""

    tries = 0
    again = True

    def put(self, name: Name, path: Path, details: Details, *, replace: bool = False) -> bool:
        self.tries += 1
        raise StoreError("no response", retryable=self.again)

    def list(self, service: str = "") -> Iterator[Asset]:
        return iter(())


@pytest.mark.parametrize("again", [True, False])
def test_a_store_that_takes_nothing_is_not_tried_a_thousand_times(tmp_path: Path, again: bool) -> None:
    store = Gone()
    store.again = again
    done = push(store, uploads(tmp_path, 60), Options())
    assert all(row.error for row in done)
    assert store.tries <= 2 * store.at_once
    assert sum(row.skipped for row in done) == 60 - store.tries
    assert {str(row.error).partition(" was ")[2] for row in done if row.skipped} == {
        "not tried: memory: has taken none of the others"
    }


class Waiting(MemoryAssets):
    """A store whose calls last until they are interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()
        self.begun = threading.Event()

    def put(self, name: Name, path: Path, details: Details, *, replace: bool = False) -> bool:
        self.begun.set()
        assert self.ended.wait(20)
        raise StoreError("interrupted")

    def interrupt(self) -> None:
        self.ended.set()


def test_a_signal_ends_calls_that_wait(tmp_path: Path) -> None:
    store = Waiting()

    def send() -> None:
        store.begun.wait(20)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(Interrupted), signals():
        push(store, uploads(tmp_path, 12), Options())
    thread.join()
    assert store.ended.is_set()


def test_progress_counts_each_with_its_bytes(tmp_path: Path) -> None:
    from collections.abc import Callable
    from contextlib import contextmanager

    seen: list[tuple[int, int]] = []

    @contextmanager
    def begin(files: int, size: int) -> Iterator[Callable[[int, int], None]]:
        seen.append((files, size))
        yield lambda files, size: seen.append((-files, -size))

    chosen = uploads(tmp_path, 7)
    push(MemoryAssets(), chosen, Options(), begin)
    total = sum(upload.path.stat().st_size for upload in chosen)
    assert seen[0] == (7, total)
    assert sum(size for _, size in seen) == 0
    assert sum(files for files, _ in seen) == 0


class Slow(MemoryAssets):
    """A store to which somebody pushes a file that is written meanwhile. at: the call in which it is."""

    at = "put"

    def change(self, call: str, _name: str) -> None:
        if call == self.at:
            os.utime(self.path, (1, 1))

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.before = self.change


@pytest.mark.parametrize(
    ("call", "told", "stored"),
    [("list", "nothing was stored", 0), ("put", "what is stored may be damaged", 1)],
)
def test_a_file_that_changes_while_it_is_pushed_is_told(
    tmp_path: Path, call: str, told: str, stored: int
) -> None:
    [upload] = uploads(tmp_path, 1)
    store = Slow(upload.path)
    store.at = call
    [done] = push(store, [upload], Options())
    assert told in str(done.error)
    assert len(store.objects) == stored


def test_who_may_not_list_can_push(tmp_path: Path) -> None:
    class Closed(MemoryAssets):
        def list(self, service: str = "") -> Iterator[Asset]:
            raise Unlistable("list memory: 403 AccessDenied")

    store = Closed()
    assert [row.stored for row in push(store, uploads(tmp_path, 2), Options())] == [True, True]


def test_a_pipe_is_no_asset_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "web.tar.gz")
    with pytest.raises(UsageError, match="neither a file nor a directory"):
        tarball_of(tmp_path / "web.tar.gz", tmp_path, Packing(), Bus(), {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "1e999"),
        ("size", "[" * 100_000),
        ("size", "-5"),
        ("sha256", '"../../etc/passwd"'),
        ("sha256", f'"{"0" * 63}G"'),
        ("signature", r'"\u001b[31m"'),
    ],
    ids=["endless number", "endless nesting", "negative", "path", "no hex", "escape sequence"],
)
def test_details_that_are_made_to_do_harm_are_an_error_of_the_store(field: str, value: str) -> None:
    fields = {"sha256": '""', "signature": '""', "modified": "0", "size": "1", field: value}
    row = f"{{{', '.join(f'{json.dumps(name)}: {it}' for name, it in fields.items())}}}"
    with pytest.raises(StoreError, match="cannot be read"):
        parse_details(f'{{"format": 1, {row[1:]}'.encode(), "here")
    with pytest.raises(StoreError, match="cannot be read"):
        parse_index(f'{{"format": 1, "assets": {{"web-1.tar.gz": {row}}}}}'.encode(), "here")
