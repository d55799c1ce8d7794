"""Writers, readers and garbage collections, interleaved at every call of the storage, with crashes.

Nothing that a ref reaches is lost at any time, and in the end only that is there.
"""

from __future__ import annotations

import hashlib
import io
import time as real_time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from buildstep.files import chunks, condemned, gc, layout, refs
from buildstep.files.condemned import Claimed
from buildstep.files.content import ContentStore, Settings
from buildstep.files.leases import TTL, Lease, LeaseLost
from buildstep.files.refs import Ref
from buildstep.files.session import Session
from buildstep.files.verify import verify
from buildstep.tree.entry import Entry, FileList
from tests.unit.files.memory import Actor, Memory

SMALL, LARGE = 8, 30
"""Up to so many bytes in packs; from so many on in chunks."""
CONTENTS = (
    b"s0", b"s1", b"medium-object-0",
    b"s0|chunk-object-0|chunk-object-1", b"chunk-object-0|s1|chunk-object-2",
)  # fmt: skip


def cut(stream: io.BytesIO) -> Iterator[bytes]:
    pieces = stream.read().split(b"|")
    yield from [piece + b"|" for piece in pieces[:-1]]
    yield pieces[-1]


def file_list(contents: frozenset[bytes]) -> FileList:
    entries = {}
    for data in contents:
        digest = hashlib.sha256(data).hexdigest()
        path = digest[:8].encode()
        entries[path] = Entry(path, "f", 0o644, 0, 0, len(data), digest)
    return entries


class Clock:
    """What the modules see as `time`."""

    strftime, gmtime = real_time.strftime, real_time.gmtime

    def __init__(self, actors: list[Actor]) -> None:
        self.now = 1e9
        self._actors = actors

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, _seconds: float) -> None:
        for actor in self._actors:
            if actor.mine():
                actor.pause()


class Machine(RuleBasedStateMachine):
    """The actors share one process, so that only time tells that one is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.actors: list[Actor] = []
        self.kinds: dict[Actor, str] = {}
        self.late: set[Actor] = set()
        self.leases: list[tuple[Actor, Lease]] = []
        self.put: dict[str, frozenset[bytes]] = {}
        self.done: set[str] = set()
        self.clock = Clock(self.actors)
        self.memory = Memory(clock=self.clock.time)

    @initialize()
    def begin(self) -> None:
        for module in ("leases", "condemned", "catalogue", "gc", "refs"):
            self.stack.enter_context(mock.patch(f"buildstep.files.{module}.time", self.clock))
        self.stack.enter_context(mock.patch.object(chunks, "cut", cut))
        entering, machine = Lease.__enter__, self

        def enter(lease: Lease) -> Lease:
            entering(lease)
            machine.leases += [(actor, lease) for actor in machine.actors if actor.mine()]
            return lease

        self.stack.enter_context(mock.patch.object(Lease, "__enter__", enter))
        ContentStore(self.memory).create(Settings(pack_below=SMALL, chunk_above=LARGE))

    def start(self, kind: str, job: Any) -> None:
        actor = Actor(self.memory, job)
        self.actors.append(actor)
        self.kinds[actor] = kind

    def alive(self, *kinds: str) -> list[Actor]:
        return [actor for actor in self.actors if not actor.done and self.kinds[actor] in kinds]

    # -- what they do ------------------------------------------------------------------------------------

    @rule(contents=st.frozensets(st.sampled_from(CONTENTS), min_size=1, max_size=3))
    def writer(self, contents: frozenset[bytes]) -> None:
        if len(self.alive("writer")) < 2:
            self.writer_of(contents)

    def writer_of(self, contents: frozenset[bytes]) -> None:
        name = f"ref{len(self.put)}"
        self.put[name] = contents

        def write(storage: Memory) -> None:
            with Session(ContentStore(storage), "put") as session:
                for data in sorted(contents):
                    session.put_stream(io.BytesIO(data), len(data))
                stored = session.put_list(file_list(contents))
                session.set_ref(Ref(name=name, list=stored.digest, tree=stored.tree), None)
            self.done.add(name)

        self.start("writer", write)

    @rule(choice=st.integers(0, 9))
    def reader(self, choice: int) -> None:
        there = sorted(self.done)
        if not there or self.alive("reader"):
            return
        name = there[choice % len(there)]

        def read(storage: Memory) -> None:
            with Lease(storage, "get"):
                ref = refs.read(storage, name)
                if ref is not None:
                    check(ContentStore(storage), ref, self.put[name])

        self.start("reader", read)

    @rule(grace=st.sampled_from([0.0, 0.0, 0.0, TTL]))
    def collector(self, grace: float) -> None:
        if len(self.alive("gc")) < 2:
            self.start("gc", lambda storage: gc.collect(ContentStore(storage), grace=grace))

    @rule(choice=st.integers(0, 9))
    def remove_ref(self, choice: int) -> None:
        there = sorted(self.done)
        if there:
            name = there[choice % len(there)]
            self.done.remove(name)
            refs.remove(self.memory, refs.get(self.memory, name))

    # -- what happens to them ----------------------------------------------------------------------------

    @rule(turns=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), min_size=1, max_size=6))
    def step(self, turns: list[tuple[int, int]]) -> None:
        for choice, count in turns:
            there = self.alive("writer", "reader", "gc")
            if there:
                for _ in range(count):
                    there[choice % len(there)].step()

    @precondition(lambda self: self.done and not self.alive("writer", "reader", "gc"))
    @rule(
        choice=st.integers(0, 9),
        calls=st.integers(4, 40),
        more=st.integers(4, 40),
        first=st.sampled_from(["writer", "gc"]),
    )
    def put_again_what_goes(self, choice: int, calls: int, more: int, first: str) -> None:
        """What a ref kept is put again while it is collected: where they meet is what can go wrong."""
        there = sorted(self.done)
        contents = self.put[there[choice % len(there)]]
        for name in there:
            if self.put[name] & contents:
                self.done.remove(name)
                refs.remove(self.memory, refs.get(self.memory, name))
        self.writer_of(contents)
        self.step([(0, calls)])
        self.start("gc", lambda storage: gc.collect(ContentStore(storage), grace=0))
        for actor in self.alive("gc"):
            for _ in range(more):
                actor.step()
        for actor in self.alive(first):
            for _ in range(60):  # it may have to wait for the other
                actor.step()

    @rule(choice=st.integers(0, 9))
    def kill(self, choice: int) -> None:
        there = [actor for actor in self.alive("writer", "reader", "gc") if actor not in self.late]
        if choice < len(there):
            there[choice].kill()

    @rule(part=st.sampled_from([0.1, 0.3]))
    def wait(self, part: float) -> None:
        """Time passes, and the threads of those alive renew the leases."""
        for actor, lease in self.leases:
            while lease._guard.locked() and not actor.done:
                actor.step()
            if not actor.done and not lease._over.is_set() and actor not in self.late:
                try:
                    lease.renew()
                except LeaseLost:
                    # It was stopped before the lease had its thread.
                    assert lease._record.until < self.clock.now
                    self.late.add(actor)
        self.clock.now += part * TTL

    @precondition(lambda self: not self.alive("gc") and not condemned.read(self.memory).deleting)
    @rule()
    def suspend(self) -> None:
        """Everybody is stopped for longer than a lease is valid."""
        self.late.update(self.alive("writer", "reader"))
        self.clock.now += 2 * TTL

    # -- what must hold ----------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        for name in self.done:
            check(ContentStore(self.memory), refs.get(self.memory, name), self.put[name])
        if not self.late:
            for ref in refs.every(self.memory):
                check(ContentStore(self.memory), ref, self.put[ref.name])
        for actor in self.actors:
            allowed = (Claimed, LeaseLost) if actor in self.late or self.kinds[actor] == "gc" else ()
            if actor.error is not None and not isinstance(actor.error, allowed) and actor not in self.late:
                raise actor.error

    def teardown(self) -> None:
        try:
            if self.memory.blobs:
                self.end()
        finally:
            for actor in self.actors:
                actor.kill()
            self.stack.close()

    def end(self) -> None:
        for _ in range(3000):
            there = self.alive("writer", "reader", "gc")
            if not there:
                break
            for actor in there:
                for _ in range(20):
                    actor.step()
            self.wait(0.01)
        assert not self.alive("writer", "reader", "gc")
        self.nothing_is_lost()
        for _ in range(3):
            self.clock.now += 2 * TTL
            gc.collect(ContentStore(self.memory), grace=0)
        self.nothing_is_lost()
        self.only_what_is_reached()

    def only_what_is_reached(self) -> None:
        store = ContentStore(self.memory)
        found = gc.collect(store, grace=0, dry_run=True)
        assert not found.reasons
        assert verify(store).damage == ()
        assert not [name for name in self.memory.blobs if name.startswith(layout.LEASES)]
        there = list(refs.every(self.memory))
        lists = {layout.list_name(ref.list) for ref in there}
        assert lists == {name for name in self.memory.blobs if name.startswith(layout.LISTS)}
        wanted = set().union(*(self.put[ref.name] for ref in there))
        pieces = {piece for data in wanted if len(data) > LARGE for piece in cut(io.BytesIO(data))}
        digests = {hashlib.sha256(data).hexdigest() for data in wanted | pieces}
        objects = filter(None, (layout.parse(n) for n in self.memory.blobs if n.startswith(layout.OBJECTS)))
        assert {name.digest for name in objects} <= digests
        packs = {layout.pack_name(digest) for digest in store.catalogue.indexes}
        assert packs == {name for name in self.memory.blobs if name.startswith(layout.PACKS)}
        for index in store.catalogue.indexes.values():
            assert any(digest in digests for digest in index.rows)


def check(store: ContentStore, ref: Ref, contents: frozenset[bytes]) -> None:
    """Read all that a ref keeps."""
    listed = store.get_list(ref.list)
    assert listed == file_list(contents)
    assert {store.get(entry.sha256) for entry in listed.values()} == contents


Machine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # a shorter story is not worth the minutes that it takes
    suppress_health_check=list(HealthCheck),
)
TestMachine = Machine.TestCase
