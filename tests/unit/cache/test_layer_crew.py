"""Many layers at once: the same bytes and counts with any number of workers, and nothing left of a failure."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from buildstep.cache import content_layer, layer_crew
from buildstep.cache.blobs import BlobStore
from buildstep.cache.layer_crew import Wanted
from buildstep.checks import texts
from buildstep.emit import layer as emit_layer
from buildstep.emit.interface import ArchiveStyle, Blob
from buildstep.errors import EmitError
from buildstep.events import Bus, Event, Note, Progress
from buildstep.formats.codecs import codec
from buildstep.pool.journal import open_journal
from buildstep.system import workers
from buildstep.system.digest import sha256_file
from buildstep.tree import scan
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry, FileList, line
from buildstep.tree.hashing import hash_entries, spread_digests
from tests.unit import trees

STYLE = ArchiveStyle(epoch=trees.EPOCH, sparse=True)
PARTS = 6


class Pool:
    """A tree in parts, and stores of its layers, one for each build and number of workers."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top = top
        self.root = top / "root"
        rng = random.Random(7)
        for number in range(240):
            path = self.root / f"part{number % PARTS}/{number % 7}/file{number:03d}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rng.randbytes(rng.choice((0, 1, 511, 512, 4000, 60_000))) * rng.choice((1, 3)))
        (self.root / "part1/twin").hardlink_to(self.root / "part1/0/file007")
        (self.root / "part2/link").symlink_to("somewhere")
        with (self.root / "part3/hole").open("wb") as stream:
            stream.truncate(3 << 20)
            stream.write(b"x" * 70_000)
        self._setenv = monkeypatch.setenv
        self.stack = ExitStack()
        self.events: list[Event] = []
        self.bus = Bus()

    def open(self, count: int, **options: Any) -> BlobStore:
        """A build's store for so many workers; the one before is closed."""
        self.stack.close()
        self._setenv(workers.VARIABLE, str(count))
        self.events = []
        self.bus = Bus(self.events.append)
        state = self.top / f"state{count}"
        journal = self.stack.enter_context(open_journal(state, "test"))
        values: dict[str, Any] = {"slot": "/out/hello", "style": STYLE, "bus": self.bus} | options
        return self.stack.enter_context(BlobStore(state, codec("gzip"), journal=journal, **values))

    def layers(self, store: BlobStore, *, hashed: bool = False) -> tuple[list[Blob], FileList]:
        """All layers, in order, and the tree with what is known of it then."""
        tree = scan.scan(self.root)
        if hashed:
            hash_entries(self.root, tree.values())
            spread_digests(tree)
        wanted = []
        for part in range(PARTS):
            below = b"part%d/" % part
            entries = [entry for path, entry in tree.items() if path.startswith(below) and entry.kind != "d"]
            wanted.append(Wanted(Changes(tuple(entries), ()), f"part {part}"))
        wanted.insert(0, Wanted(Changes((), (b"gone",)), "removed"))
        return list(store.for_contents(self.root, wanted, tree)), tree

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]

    def folder(self, store: BlobStore) -> dict[str, bytes]:
        """The store's files, but for the records, which have times."""
        return {
            path.name: path.read_bytes() for path in sorted(store.folder.iterdir()) if path.suffix != ".json"
        }


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    made = Pool(tmp_path, monkeypatch)
    yield made
    made.stack.close()


Change = Callable[[Path], object]
_NOTHING: Change = lambda _root: None  # noqa: E731


@pytest.mark.parametrize("count", [2, 3, 7])
def test_any_number_of_workers_gives_the_same_bytes_and_counts(pool: Pool, count: int) -> None:
    """Cold, unchanged, with files changed, renamed and added; hashed before and not."""
    steps: list[tuple[Change, bool]] = [
        (_NOTHING, False),
        (_NOTHING, False),
        (_NOTHING, True),
        (lambda root: (root / "part0/0/file000").write_bytes(b"other"), True),
        (lambda root: (root / "part0/0/file000").write_bytes(b"thing"), False),
        (lambda root: (root / "part4/1").rename(root / "part5/new"), True),
        (lambda root: [path.write_bytes(b"n" * 900) for path in root.glob("part*/3/*")], True),
    ]
    for change, hashed in steps:
        change(pool.root)
        found = []
        for number in (1, count):
            store = pool.open(number)
            blobs, tree = pool.layers(store, hashed=hashed)
            store.remember()
            told = [(blob.digest, blob.diff_id, blob.size, blob.comment, blob.brought) for blob in blobs]
            for blob in blobs:
                assert sha256_file(blob.path) == blob.digest
            counts = {name: amount for name, amount in pool.bus.counts.items() if amount}
            found.append((told, pool.folder(store), counts, {path: line(tree[path]) for path in tree}))
        assert found[0] == found[1]


def test_entries_know_what_a_worker_read(pool: Pool) -> None:
    _, tree = pool.layers(pool.open(2))
    anew = scan.scan(pool.root)
    hash_entries(pool.root, anew.values())
    spread_digests(anew)
    for path, entry in tree.items():
        assert entry.sha256 == anew[path].sha256
        assert entry.text in (b"", line(anew[path]))
    assert sum(bool(entry.text) for entry in tree.values()) > 240


def test_a_stored_layer_that_is_damaged_is_made_again(pool: Pool) -> None:
    blobs, _ = pool.layers(pool.open(2))
    pool.stack.close()
    data = bytearray(blobs[3].path.read_bytes())
    data[50] ^= 1
    blobs[3].path.write_bytes(data)
    again, _ = pool.layers(pool.open(2))
    assert [blob.digest for blob in again] == [blob.digest for blob in blobs]
    assert sum("it is made again" in note for note in pool.notes) == 1
    assert pool.bus.counts["layers_made"] == 1
    assert pool.bus.counts["layers_reused"] == PARTS


def test_what_workers_say_is_told_in_order(pool: Pool) -> None:
    listening = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    for number, item in enumerate(listening):
        item.bind(os.path.relpath(pool.root / f"part{4 - number}/socket"))
        item.close()
    pool.layers(pool.open(3))
    assert [note.split()[0] for note in pool.notes if "is a socket" in note] == [
        "part3/socket",
        "part4/socket",
    ]


@pytest.mark.parametrize("count", [1, 3])
def test_files_are_looked_through_while_they_are_read(pool: Pool, count: int) -> None:
    """Those of more than is read in one go, too."""
    (pool.root / "part2/0/place").write_bytes(b"x" * 500 + b"/here/it/is" + b"y")
    (pool.root / "part4/large").write_bytes(b"x" * 200_000 + b"/here/it/is")
    (pool.root / "part4/other").write_bytes(b"x" * 200_000)
    store = pool.open(count)
    store.search(texts.clean([b"/here/it", b"/here/it/is", b"/there"]))
    _, tree = pool.layers(store)
    files = [(path, entry) for path, entry in tree.items() if entry.kind == "f" and not entry.first]
    wanted = {
        bytes.fromhex(entry.sha256)
        for path, entry in files
        if 0 < entry.size <= 1 << 20 and path not in (b"part2/0/place", b"part4/large")
    }
    assert store.clean == wanted


# -- failures ---------------------------------------------------------------------------------------------


def _left(store: BlobStore) -> list[str]:
    return [path.name for path in store.folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("count", [1, 3])
def test_a_file_that_changes_is_told_as_without_workers(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    real = emit_layer.fill_layer

    def fill(job: emit_layer.LayerJob, *args: Any) -> Any:
        if any(entry.path.startswith(b"part2/") for entry in job.changes.entries):
            (pool.root / "part2/2/file002").write_bytes(b"y" * 77_777)
        return real(job, *args)

    monkeypatch.setattr(content_layer, "fill_layer", fill)
    store = pool.open(count)
    with pytest.raises(EmitError) as caught:
        pool.layers(store)
    assert caught.value.message == "part2/2/file002 changed its size while the image was written"
    assert caught.value.retryable
    pool.stack.close()
    assert _left(store) == []


@pytest.mark.parametrize("count", [1, 3])
def test_a_full_disk_is_the_cause(pool: Pool, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    def write_all(_fd: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("buildstep.formats.chunked.write_all", write_all)
    store = pool.open(count)
    with pytest.raises(EmitError, match=r"cannot write the layer [0-9a-f]{64}: No space left") as caught:
        pool.layers(store)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    pool.stack.close()
    assert _left(store) == []


def test_a_worker_that_is_killed_is_a_clear_error(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-way through a layer, as by the kernel where memory ran out."""
    real, main = emit_layer.fill_layer, os.getpid()

    def fill(job: emit_layer.LayerJob, fd: int, path: Path) -> Any:
        if any(entry.path.startswith(b"part3/") for entry in job.changes.entries):
            os.write(fd, b"half")
            assert os.getpid() != main
            os.kill(os.getpid(), signal.SIGKILL)
        return real(job, fd, path)

    monkeypatch.setattr(content_layer, "fill_layer", fill)
    store = pool.open(2)
    with pytest.raises(EmitError, match="a worker process was killed by SIGKILL while it made a layer"):
        pool.layers(store)
    assert _left(store) != []
    pool.stack.close()
    assert _left(store) == []


def test_progress_is_what_all_of_them_read(pool: Pool) -> None:
    _, tree = pool.layers(pool.open(2))
    files = [entry for entry in tree.values() if entry.kind == "f" and not entry.first]
    (end,) = [event for event in pool.events if isinstance(event, Progress) and event.state == "end"]
    assert end.job == f"compress {PARTS + 1} layers"
    assert end.done == pool.bus.counts["bytes_read"]
    assert end.total == sum(entry.size for entry in files)
    assert pool.bus.counts["files_read"] == len(files)


@pytest.mark.parametrize(("unread", "threads"), [(0, 0), (1, 4), (3, 4), (4, 0), (6, 0)])
def test_threads_share_a_layer_where_there_is_less_to_read_than_workers(unread: int, threads: int) -> None:
    files = [Entry(b"f%d" % n, "f", 0o644, 0, 0, 1, "" if n < unread else "00" * 32) for n in range(6)]
    wanted = [Wanted(Changes((Entry(b"d", "d", 0o755, 0, 0), file), ()), "layer") for file in files]
    assert layer_crew._threads(wanted, 4) == threads
