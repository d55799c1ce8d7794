"""What is condemned: one deletes at a time, and a dead one's deletion is completed by one."""

from __future__ import annotations

import time

import pytest

from buildstep.files import catalogue, condemned, layout
from buildstep.files.condemned import Claimed, Condemned
from buildstep.files.leases import Lease, LeaseLost
from tests.unit.files.memory import Actor, Memory

A, B = (layout.object_name(letter * 64) for letter in "ab")
PACK = "c" * 64
DEAD = "leases/dead"


def condemn(memory: Memory, *, names: dict[str, int], deleting: set[str], by: str) -> None:
    value = Condemned(generation=3, names=names, deleting=frozenset(deleting), by=by)
    condemned.change(memory, lambda _: value)


def test_only_one_deletes() -> None:
    memory = Memory()
    with Lease(memory, "gc one") as one, Lease(memory, "gc two") as two:
        condemned.claim(memory, one)
        with pytest.raises(Claimed, match=r"'gc one' on .* deletes from memory: at the moment"):
            condemned.claim(memory, two)
        condemned.release(memory, one)
        assert condemned.claim(memory, two).by == two.name


def test_a_rescued_name_is_off_the_list() -> None:
    memory = Memory()
    condemn(memory, names={A: 1, B: 2}, deleting=set(), by="")
    with Lease(memory, "put") as lease:
        condemned.rescue(memory, [A], lease)
    assert condemned.read(memory).names == {B: 2}


def test_a_dead_deletion_is_completed_with_its_packs() -> None:
    memory = Memory()
    pack = layout.pack_name(PACK)
    memory.put(A, b"a")
    memory.put(pack, b"pack")
    catalogue.change(memory, add=[PACK])
    condemn(memory, names={B: 1}, deleting={A, pack}, by=DEAD)
    with Lease(memory, "put") as lease:
        condemned.rescue(memory, [A], lease)
    assert {A, pack}.isdisjoint(memory.blobs)
    assert catalogue.read(memory) == []
    now = condemned.read(memory)
    assert (now.deleting, now.by, now.names) == (frozenset(), "", {B: 1})


def test_two_writers_do_not_both_complete_a_deletion(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower one would delete what the quicker one has written again."""
    memory = Memory()
    memory.put(A, b"a")
    condemn(memory, names={}, deleting={A}, by=DEAD)

    def write(storage: Memory) -> None:
        with Lease(storage, "put") as lease:
            condemned.rescue(storage, [A], lease)
            storage.write(A, b"a")

    for ahead in range(20):
        quick, slow = Actor(memory, write), Actor(memory, write)
        monkeypatch.setattr(time, "sleep", lambda _, two=(quick, slow): _pause(*two))
        for _ in range(ahead):
            slow.step()
        for _ in range(300):  # it may have to wait for the slow one
            quick.step()
        slow.finish()
        quick.finish()
        assert (quick.error, slow.error) == (None, None)
        assert A in memory.blobs
        condemn(memory, names={}, deleting={A}, by=DEAD)


def _pause(*actors: Actor) -> None:
    for actor in actors:
        if actor.mine():
            actor.pause()


def test_who_lost_the_claim_does_not_end_it() -> None:
    memory = Memory()
    with Lease(memory, "gc") as lease:
        before = condemned.claim(memory, lease)
        condemn(memory, names={}, deleting={A}, by=DEAD)
        with pytest.raises(LeaseLost):
            condemned.delete(memory, before, lease)
        assert condemned.read(memory).deleting == {A}
