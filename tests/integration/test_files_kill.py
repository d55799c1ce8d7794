"""A store whose writers, readers and garbage collections are killed at any moment, or work all at once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from buildstep.files import gc, refs
from buildstep.files.checkout import checkout
from buildstep.files.content import ContentStore, Settings
from buildstep.files.leases import Lease
from buildstep.files.put import Options, put_tree
from buildstep.files.verify import verify
from tests.servers.processes import child, ended
from tests.unit.files.stored import new_store
from tests.unit.trees import scanned

SEED = 14
KILLS = 20


def make_tree(top: Path, rng: random.Random, *, files: int) -> Path:
    """A tree of contents in every form, most of which other trees have as well."""
    for number in range(files):
        size = rng.choice([10, 400, 400, 9000, 30_000])
        path = top / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(rng.randrange(80) * 100_003 + size).randbytes(size))
    return top


def open_store(path: Path) -> ContentStore:
    """Small files in packs, middle ones as objects, the others in chunks."""
    return new_store(path, Settings(pack_below=5000, chunk_above=20_000))


def put(path: Path, tree: Path, ref: str) -> None:
    put_tree(open_store(path), tree, ref=ref, options=Options(), state=None)


def get(path: Path, ref: str, dest: Path) -> None:
    store = open_store(path)
    checkout(store, store.get_list(refs.get(store.storage, ref).list), dest)


def collect(path: Path) -> None:
    gc.collect(open_store(path), grace=0)


def test_killed_at_any_moment(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    path = tmp_path / "store"
    trees = [make_tree(tmp_path / f"tree{number}", rng, files=80) for number in range(3)]
    for number in range(2):
        put(path, trees[number], f"ref{number}")
    killed, number = 0, -3
    usual = [0.0, 0.0, 0.0]  # seconds that each kind of job takes here, let alone
    # A job can end before its signal comes, on a machine that is less busy than it was: then there are more rounds.
    while number < KILLS or (killed <= KILLS // 3 and number < 10 * KILLS):
        store = open_store(path)
        there = sorted(ref.name for ref in refs.every(store.storage))
        if len(there) > 2:
            refs.remove(store.storage, refs.get(store.storage, there.pop(0)))
        dest = tmp_path / f"dest{number}"
        tree = trees[number % 3]
        jobs: list[Callable[[], None]] = [
            lambda tree=tree, number=number: put(path, tree, f"put{number + 3}"),  # type: ignore[misc]
            lambda: collect(path),
            lambda there=there, dest=dest: get(path, there[-1], dest),  # type: ignore[misc]
        ]
        begin = time.monotonic()
        pid = child(jobs[number % 3])
        if number < 0:
            assert ended(pid) == 0
            usual[number % 3] = time.monotonic() - begin
        else:
            time.sleep(rng.random() * usual[number % 3])
            os.kill(pid, signal.SIGKILL)  # it is not waited for yet, so its number is still its own
            if ended(pid) == -signal.SIGKILL:
                killed += 1
            else:
                usual[number % 3] = min(usual[number % 3], time.monotonic() - begin)
        assert verify(open_store(path), quick=True).damage == ()
        if dest.exists():
            wanted = open_store(path).get_list(refs.get(store.storage, there[-1]).list)
            assert {key: item.sha256 for key, item in scanned(dest).items()} == {
                key: item.sha256 for key, item in wanted.items()
            }
            shutil.rmtree(dest)
        number += 1
    assert killed > KILLS // 3
    put(path, trees[0], "last")
    for _ in range(2):
        collect(path)
    assert verify(open_store(path)).damage == ()
    assert not gc.collect(open_store(path), grace=0, dry_run=True).reasons
    get(path, "last", tmp_path / "last")
    assert scanned(tmp_path / "last").keys() == scanned(trees[0]).keys()
    assert not list(open_store(path).storage.list("leases/"))


def test_two_writers_and_a_collection_at_once(tmp_path: Path) -> None:
    path = tmp_path / "store"
    rng = random.Random(SEED)
    trees = [make_tree(tmp_path / f"tree{number}", rng, files=40) for number in range(4)]
    put(path, trees[0], "first")
    until = time.monotonic() + 2

    def write(who: int) -> None:
        random_ = random.Random(who)
        count = 0
        while time.monotonic() < until:
            put(path, random_.choice(trees), f"w{who}.{count}")
            storage = open_store(path).storage
            if count >= 2:
                refs.remove(storage, refs.get(storage, f"w{who}.{count - 2}"))
            count += 1
        assert count > 1

    def collect_on() -> None:
        while time.monotonic() < until:
            collect(path)

    writers = [child(lambda who=who: write(who)) for who in range(2)]  # type: ignore[misc]
    collector = child(collect_on)
    assert [ended(pid) for pid in (*writers, collector)] == [0, 0, 0]
    store = open_store(path)
    assert verify(store).damage == ()
    there = list(refs.every(store.storage))
    assert len(there) == 5
    for ref in there:
        get(path, ref.name, tmp_path / ref.name)
    collect(path)
    assert verify(open_store(path)).damage == ()


def test_a_collection_ends_the_lease_of_a_killed_process(tmp_path: Path) -> None:
    """At once on the same machine, not when it would be over."""
    path = tmp_path / "store"
    store = open_store(path)

    def hold() -> None:
        with Lease(store.storage, "put"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert ended(child(hold)) == -signal.SIGKILL
    assert [item.name for item in store.storage.list("leases/")]
    assert gc.collect(store, grace=0).held_by == ()
    assert not [item.name for item in store.storage.list("leases/")]
