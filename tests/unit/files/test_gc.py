"""What a garbage collection deletes, and what it leaves, each rule by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import pytest

from buildstep.errors import StoreError
from buildstep.files import catalogue, condemned, gc, layout, pack, refs
from buildstep.files.condemned import Claimed
from buildstep.files.content import ContentStore, Settings
from buildstep.files.gc import Collected
from buildstep.files.leases import Lease, LeaseLost
from buildstep.files.refs import Ref
from buildstep.files.session import Session
from buildstep.files.verify import verify
from buildstep.tree.entry import Entry
from tests.unit.files.memory import Memory

OBJECTS = Settings(compress=False, pack_below=0, chunk_above=0)
OLD, YOUNG = b"old" * 9, b"young" * 9


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def name(data: bytes) -> str:
    return layout.object_name(digest(data))


@pytest.fixture
def memory() -> Memory:
    memory = Memory()
    ContentStore(memory).create(OBJECTS)
    return memory


def packing(memory: Memory) -> None:
    """Make the store one that puts all in packs."""
    memory.blobs.pop(layout.MARKER)
    ContentStore(memory).create(Settings(compress=False, pack_below=1000, chunk_above=0))


def put(memory: Memory, ref: str, *contents: bytes) -> None:
    with Session(ContentStore(memory), f"put {ref}") as session:
        finish(session, memory, ref, *contents)


def finish(session: Session, memory: Memory, ref: str, *contents: bytes) -> None:
    entries = {}
    for number, data in enumerate(contents):
        path = b"%d" % number
        entries[path] = Entry(path, "f", 0o644, 0, 0, len(data), session.put(data))
    stored = session.put_list(entries)
    session.set_ref(Ref(name=ref, list=stored.digest, tree=stored.tree), refs.read(memory, ref))


def remove(memory: Memory, ref: str) -> None:
    refs.remove(memory, refs.get(memory, ref))


def collect(memory: Memory, grace: float = 0, *, dry_run: bool = False) -> Collected:
    return gc.collect(ContentStore(memory), grace=grace, dry_run=dry_run)


def contents_of(memory: Memory, ref: str) -> Collection[bytes]:
    store = ContentStore(memory)
    return [store.get(item.sha256) for item in store.get_list(refs.get(memory, ref).list).values()]


def test_what_a_ref_reaches_stays_and_the_rest_goes(memory: Memory) -> None:
    put(memory, "one", b"both", b"first")
    put(memory, "two", b"both", b"second")
    gone = refs.get(memory, "one").list
    remove(memory, "one")
    found = collect(memory)
    assert found.deleted.keys() == {name(b"first"), layout.list_name(gone)}
    assert found.deleted[name(b"first")] == 5
    assert set(found.reasons.values()) == {gc.UNREACHED}
    assert name(b"first") not in memory.blobs
    assert contents_of(memory, "two") == [b"both", b"second"]
    assert condemned.read(memory).names == {}


def test_contents_that_a_ref_names_itself_stay(memory: Memory) -> None:
    with Session(ContentStore(memory), "put") as session:
        kept = session.put(b"kept")
        session.put(b"other")
        session.set_ref(Ref(name="asset", contents=(kept,)), None)
    assert collect(memory).deleted.keys() == {name(b"other")}


def test_what_is_young_stays_and_so_do_the_contents_of_a_young_list(memory: Memory) -> None:
    with Session(ContentStore(memory), "put") as session:
        session.put(OLD)
        session.put(b"alone")
    memory.age(100)
    with Session(ContentStore(memory), "put") as session:  # interrupted before its ref
        session.put(YOUNG)
        session.put_list({b"a": Entry(b"a", "f", 0o644, 0, 0, len(OLD), digest(OLD))})
    assert collect(memory, grace=50).deleted.keys() == {name(b"alone")}
    assert {name(OLD), name(YOUNG)} <= memory.blobs.keys()


def test_a_dry_run_tells_the_same_and_changes_nothing(memory: Memory) -> None:
    put(memory, "one", OLD)
    remove(memory, "one")
    before = dict(memory.blobs)
    foretold = collect(memory, dry_run=True)
    assert memory.blobs == before
    assert foretold == collect(memory)
    assert len(foretold.deleted) == 2


def test_a_writer_who_began_before_holds_what_is_condemned_after(memory: Memory) -> None:
    put(memory, "one", OLD)
    remove(memory, "one")
    with Session(ContentStore(memory), "put two") as session:
        assert session.has([digest(OLD)])
        foretold, found = collect(memory, dry_run=True), collect(memory)
        assert found.deleted == foretold.deleted == {}
        assert found.waiting == foretold.waiting
        assert name(OLD) in found.waiting
        assert "put two" in found.held_by[0]
        assert not collect(memory).deleted
        finish(session, memory, "two", OLD)
    assert collect(memory).deleted.keys() == {n for n in found.waiting if n.startswith("lists/")} - {
        layout.list_name(refs.get(memory, "two").list)
    }
    assert contents_of(memory, "two") == [OLD]


def test_a_writer_who_began_after_does_not(memory: Memory) -> None:
    put(memory, "one", OLD)
    remove(memory, "one")
    with Lease(memory, "get"):
        assert collect(memory).waiting
    with Session(ContentStore(memory), "put two") as session:
        assert not session.has([digest(OLD)])
        assert name(OLD) in collect(memory).deleted


def test_a_writer_takes_what_it_needs_off_the_list(memory: Memory) -> None:
    put(memory, "one", OLD)
    remove(memory, "one")
    with Lease(memory, "get"):
        assert collect(memory).waiting
    with Session(ContentStore(memory), "put two") as session:
        session.put(OLD)
        assert name(OLD) not in collect(memory).deleted
        finish(session, memory, "two", OLD)
    collect(memory)
    assert contents_of(memory, "two") == [OLD]


def test_a_reader_holds_everything(memory: Memory) -> None:
    put(memory, "one", OLD)
    with Lease(memory, "get"):
        remove(memory, "one")
        assert not collect(memory).deleted
        assert not collect(memory).deleted
    assert collect(memory).deleted


def test_who_ends_between_the_list_and_the_leases_is_seen(memory: Memory) -> None:
    """It has no lease when these are listed, and its ref was not there when the refs were."""
    put(memory, "one", OLD)
    remove(memory, "one")
    session = Session(ContentStore(memory), "put two")
    session.__enter__()
    assert session.has([digest(OLD)])

    def before(call: str) -> None:
        if call == "swap" and condemned.read(memory).by and "two" not in done:
            done.append("two")
            finish(session, memory, "two", OLD)
            session.__exit__(None, None, None)

    done: list[str] = []
    gc.collect(ContentStore(memory.seen_by(before)), grace=0)
    assert done
    assert contents_of(memory, "two") == [OLD]


def test_a_chunk_may_be_condemned_longer_than_its_recipe(memory: Memory) -> None:
    """Its writer relied on the chunk, as it began before; who begins later may not."""
    memory.blobs.pop(layout.MARKER)
    ContentStore(memory).create(Settings(compress=False, pack_below=0, chunk_above=20))
    whole = OLD + YOUNG
    put(memory, "one", OLD)
    remove(memory, "one")
    with Session(ContentStore(memory), "put") as early:
        collect(memory)  # condemns it, and may not delete it
        early.put(OLD)
        recipe = layout.object_name(digest(whole), layout.CHUNKS)
        early.put(YOUNG)
        lines = ["buildstep-chunks 1", *(f"{digest(data)} {len(data)}" for data in (OLD, YOUNG)), ""]
        early.write(recipe, "\n".join(lines).encode())
    with Session(ContentStore(memory), "put") as late:
        assert not late.has([digest(whole)])


def test_one_at_a_time(memory: Memory) -> None:
    with Lease(memory, "garbage collection") as lease:
        condemned.claim(memory, lease)
        with pytest.raises(Claimed, match="'garbage collection' on"):
            collect(memory)
        assert len([n for n in memory.blobs if n.startswith("leases/")]) == 1


def test_the_next_one_ends_what_a_dead_one_was_deleting(memory: Memory) -> None:
    put(memory, "one", OLD)
    remove(memory, "one")

    def before(call: str) -> None:
        if call == "delete":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gc.collect(ContentStore(memory.seen_by(before)), grace=0)
    assert condemned.read(memory).deleting
    collect(memory)
    assert name(OLD) not in memory.blobs
    assert condemned.read(memory).by == ""


def test_nothing_goes_while_a_list_cannot_be_read(memory: Memory) -> None:
    put(memory, "one", OLD)
    put(memory, "two", YOUNG)
    memory.put(layout.list_name(refs.get(memory, "one").list), b"damaged")
    with pytest.raises(StoreError):
        collect(memory)
    del memory.blobs[layout.list_name(refs.get(memory, "one").list)]
    with pytest.raises(StoreError, match="a ref keeps a list that is not there"):
        collect(memory)
    assert name(OLD) in memory.blobs
    remove(memory, "one")
    assert name(OLD) in collect(memory).deleted


@pytest.mark.parametrize("there", [False, True], ids=["new", "changed"])
def test_a_ref_is_taken_back_if_the_lease_went_meanwhile(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """A process that was stopped between the renewal of its lease and the writing of its ref."""
    if there:
        put(memory, "one", OLD)
    before = refs.read(memory, "one")
    writing = refs.write

    def write(storage: Memory, ref: Ref, was: Ref | None) -> None:
        writing(storage, ref, was)
        for lease in [name for name in memory.blobs if name.startswith("leases/")]:
            del memory.blobs[lease]

    with Session(ContentStore(memory), "put") as session:
        monkeypatch.setattr(refs, "write", write)
        with pytest.raises(LeaseLost):
            finish(session, memory, "one", YOUNG)
    assert refs.read(memory, "one") == before


# -- packs -------------------------------------------------------------------------------------------------


def packs(memory: Memory) -> list[str]:
    return [n for n in memory.blobs if n.startswith("packs/")]


def test_a_pack_with_much_garbage_is_written_anew(memory: Memory) -> None:
    packing(memory)
    put(memory, "one", *(b"%d" % number * 20 for number in range(10)))
    put(memory, "two", b"1" * 20, b"2" * 20)
    remove(memory, "one")
    [old] = packs(memory)
    size = len(memory.blobs[old].data)
    found = collect(memory)
    assert found.rewritten == 1
    assert found.reasons[old] == gc.REWRITTEN
    [new] = packs(memory)
    assert len(memory.blobs[new].data) == found.written < size
    assert contents_of(memory, "two") == [b"1" * 20, b"2" * 20]
    assert not collect(memory).reasons


def test_whole_frames_are_copied_as_they_are(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "FRAME", 40)
    memory.blobs.pop(layout.MARKER)
    ContentStore(memory).create(Settings(compress=True, pack_below=1000, chunk_above=0))
    contents = [b"%d" % number * 20 for number in range(10)]  # two in each frame
    put(memory, "one", *contents)
    put(memory, "two", *contents[:2], contents[4], *contents[6:8])
    remove(memory, "one")
    [old] = packs(memory)
    before = memory.blobs[old].data
    assert collect(memory).rewritten == 1
    assert contents_of(memory, "two") == [*contents[:2], contents[4], *contents[6:8]]
    [new] = packs(memory)
    index = pack.read_index(lambda count: memory.blobs[new].data[-count:])
    stored = [memory.blobs[new].data[frame.offset :][: frame.stored] for frame in index.frames]
    assert [frame in before for frame in stored] == [False, True, True]
    assert verify(ContentStore(memory)).damage == ()


def test_a_damaged_frame_is_not_copied(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "FRAME", 40)
    memory.blobs.pop(layout.MARKER)
    ContentStore(memory).create(Settings(compress=True, pack_below=1000, chunk_above=0))
    contents = [b"%d" % number * 20 for number in range(10)]
    put(memory, "one", *contents)
    put(memory, "two", *contents[:4])
    remove(memory, "one")
    [old] = packs(memory)
    data = memory.blobs[old].data
    memory.put(old, bytes([*data[:12], data[12] ^ 1, *data[13:]]))
    assert collect(memory).damaged == (old,)
    assert old in memory.blobs


def test_a_pack_with_little_garbage_stays(memory: Memory) -> None:
    packing(memory)
    put(memory, "one", *(b"%d" % number * 20 for number in range(10)))
    put(memory, "two", *(b"%d" % number * 20 for number in range(8)))
    remove(memory, "one")
    assert not [n for n in collect(memory).reasons if n.startswith("packs/")]


def test_many_small_packs_are_joined(memory: Memory) -> None:
    packing(memory)
    for number in range(9):
        put(memory, f"ref{number}", b"%d" % number * 20)
    assert len(packs(memory)) == 9
    assert collect(memory).rewritten == 9
    assert len(packs(memory)) == 1
    assert contents_of(memory, "ref3") == [b"3" * 20]


def test_of_two_packs_with_the_same_content_one_stays(memory: Memory) -> None:
    packing(memory)
    put(memory, "one", OLD)
    [first] = packs(memory)
    hidden = memory.blobs.pop(layout.CATALOGUE)
    put(memory, "two", OLD, YOUNG)
    memory.blobs[layout.CATALOGUE] = hidden
    [second] = set(packs(memory)) - {first}
    parsed = layout.parse(second)
    assert parsed is not None
    catalogue.change(memory, add=[parsed.digest])
    assert collect(memory).deleted.keys() == {first}
    assert (contents_of(memory, "one"), contents_of(memory, "two")) == ([OLD], [OLD, YOUNG])


def test_what_is_copied_can_be_a_pack_that_was_to_go(memory: Memory) -> None:
    packing(memory)
    hidden = b"buildstep-packs 1\n"
    for ref, contents in (("one", [OLD]), ("two", [OLD, YOUNG]), ("three", [YOUNG, b"third" * 9])):
        memory.put(layout.CATALOGUE, hidden)  # so that each has its own copy
        put(memory, ref, *contents)
    del memory.blobs[layout.CATALOGUE]
    assert collect(memory).rewritten == 1
    assert contents_of(memory, "two") == [OLD, YOUNG]
    collect(memory)
    assert contents_of(memory, "two") == [OLD, YOUNG]
    assert len(packs(memory)) == 2


def test_a_pack_of_a_killed_writer_is_adopted(memory: Memory) -> None:
    packing(memory)
    put(memory, "one", OLD)
    del memory.blobs[layout.CATALOGUE]
    assert collect(memory).adopted == 1
    assert contents_of(memory, "one") == [OLD]


def test_a_pack_that_is_not_complete_goes(memory: Memory) -> None:
    broken = layout.pack_name("a" * 64)
    memory.put(broken, b"half")
    assert collect(memory).reasons == {broken: gc.BROKEN}
    assert broken not in memory.blobs


def test_a_damaged_pack_is_left_alone_and_named(memory: Memory) -> None:
    packing(memory)
    put(memory, "one", OLD, YOUNG)
    put(memory, "two", OLD)
    remove(memory, "one")
    [damaged] = packs(memory)
    data = memory.blobs[damaged].data
    memory.put(damaged, data.replace(b"old", b"bad"))
    found = collect(memory)
    assert found.damaged == (damaged,)
    assert damaged not in found.reasons
    assert damaged in memory.blobs
