"""What a prune removes, and when: records by age and size, bytes a day after nobody names them."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from buildstep.cache.remote import names
from buildstep.cache.remote.interface import Record, Settings, Wanted
from buildstep.cache.remote.prune import GRACE, Prune
from buildstep.cache.remote.store import SharedStore
from buildstep.events import Bus
from tests.unit.cache.remote.layers import tree, write_layer
from tests.unit.cache.remote.test_store import output

DAY = 24 * 3600.0
NOW = time.time()


def wanted(number: int) -> Wanted:
    return ("packages", names.shared_key("packages", {"number": number}))


def opened(tmp_path: Path) -> SharedStore:
    return SharedStore.open(Settings(url=f"dir:{tmp_path}/store"), {}, Bus())


@pytest.fixture
def store(tmp_path: Path) -> SharedStore:
    """Four records of 100,000 bytes each, made four, three, two and one day ago."""
    found = opened(tmp_path)
    for number in range(4):
        data = random.Random(number).randbytes(100_000)
        record = Record(
            kind="packages",
            key=wanted(number)[1],
            outputs=(output("layer", data),),
            slot="s",
            made_at=1.0 + number,
        )
        assert found.put(record, {"layer": data})
        for name in (names.record_name("main", wanted(number)), names.blob_name(record.outputs[0].digest)):
            at = NOW - (4 - number) * DAY
            os.utime(tmp_path / "store" / name, (at, at))
    return found


def prune(store: SharedStore, **limits: float) -> Prune:
    job = Prune(store._backend, store._calls, **{"now": NOW, **limits})  # type: ignore[arg-type]
    job.run()
    return job


def left(store: SharedStore) -> list[int]:
    found = store.find(map(wanted, range(4)), deadline=5)
    return [number for number in range(4) if wanted(number) in found]


def blobs(store: SharedStore) -> int:
    return len(list(store._backend.storage.list(names.CAS)))


def test_records_that_nobody_used_for_long_go_first(store: SharedStore) -> None:
    assert prune(store, older_than=2.5 * DAY).done.records == 2
    assert left(store) == [2, 3]
    assert len(list(store._backend.storage.list(names.slot_folder("main", "s")))) == 2
    assert blobs(store) == 4


def test_bytes_go_a_day_after_their_record(store: SharedStore) -> None:
    done = prune(store, older_than=2.5 * DAY).done
    assert (done.blobs, done.waiting, done.left) == (0, 200_000, 200_000)
    assert prune(store, now=NOW + GRACE - 60).done.blobs == 0
    done = prune(store, now=NOW + GRACE).done
    assert (done.blobs, done.freed, done.waiting) == (2, 200_000, 0)
    assert blobs(store) == 2


def test_bytes_that_were_named_again_stay(store: SharedStore) -> None:
    prune(store, older_than=2.5 * DAY)
    data = random.Random(0).randbytes(100_000)
    store.put(Record(kind="packages", key=wanted(0)[1], outputs=(output("layer", data),)), {"layer": data})
    assert prune(store, now=NOW + GRACE).done.blobs == 1
    assert left(store) == [0, 2, 3]


def test_bytes_of_an_upload_that_is_not_done_stay(store: SharedStore) -> None:
    data = os.urandom(1000)
    store._backend.write(names.blob_name(output("x", data).digest), data)
    prune(store)
    assert prune(store, now=NOW + GRACE - 60).done.blobs == 0
    assert blobs(store) == 5


def test_a_record_that_is_used_stays(store: SharedStore) -> None:
    assert left(store) == [0, 1, 2, 3]
    with store._guard:
        store._used = {names.record_name("main", wanted(0))}
    store.mark_used()
    store.mark_used()
    assert len(list(store._backend.storage.list(names.USED))) == 1
    prune(store, older_than=1.5 * DAY)
    assert left(store) == [0, 3]
    prune(store, older_than=1.5 * DAY, now=NOW + 4 * DAY)
    assert (left(store), len(list(store._backend.storage.list(names.USED)))) == ([], 0)


def test_a_mark_that_somebody_made_up_keeps_nothing(store: SharedStore) -> None:
    """Whoever may write to the store may write marks: one of no day ends no prune, one to come counts as today."""
    record = names.record_name("main", wanted(0))
    for day in ("20269999", "00000000", "99991231"):
        store._backend.write(names.used_name(day, record), b"")
    assert prune(store, older_than=2.5 * DAY).done.records == 1
    assert left(store) == [0, 2, 3]
    prune(store, max_size=100_000)
    assert len(left(store)) == 1


def test_the_longest_unused_go_until_the_size_is_right(store: SharedStore) -> None:
    done = prune(store, max_size=250_000).done
    assert (done.records, done.left) == (2, 200_000)
    assert left(store) == [2, 3]


def test_what_two_records_share_counts_once_and_stays(tmp_path: Path) -> None:
    store = opened(tmp_path)
    layers = [write_layer(tmp_path / f"{n}", tree(4, updated=n)) for n in (-1, 2)]
    for number, layer in enumerate(layers):
        record = Record(
            kind="packages", key=wanted(number)[1], outputs=(layer,), slot="s", made_at=1.0 + number
        )
        assert store.put(record, {"layer": tmp_path / str(-1 if not number else 2)})
        path = tmp_path / "store" / names.record_name("main", wanted(number))
        os.utime(path, (NOW - 5 + number,) * 2)
    total = sum(item.size for item in store._backend.storage.list(names.CAS))
    assert prune(store, max_size=total).done.records == 0
    # The older one goes; the packs of it that the newer one needs do not.
    assert prune(store, max_size=total - 1).done.records == 1
    prune(store, now=NOW + GRACE + 60)
    store.fetch(store.find([wanted(1)], deadline=5)[wanted(1)].outputs[0], tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_record_that_nobody_can_read_goes(store: SharedStore, tmp_path: Path) -> None:
    path = tmp_path / "store" / names.record_name("main", wanted(1))
    path.chmod(0o644)
    path.write_bytes(b"nonsense")
    done = prune(store).done
    assert (done.records, done.unreadable) == (1, 1)
    assert left(store) == [0, 2, 3]


def test_a_record_that_claims_much_makes_no_room(store: SharedStore) -> None:
    """Sizes are those of the blobs that there are, not those that somebody says."""
    from dataclasses import replace

    from buildstep.cache.remote import envelope

    huge = replace(output("layer", b"x"), digest="a" * 64, size=1 << 39)
    record = Record(kind="packages", key=wanted(9)[1], outputs=(huge,), made_at=1.0)
    store._backend.write(names.record_name("main", wanted(9)), envelope.dumps(record, "main", []))
    assert prune(store, max_size=400_000).done.records == 0
