"""What a check of a store finds, whom it hits, and what a repair brings back."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest

from buildstep.errors import StoreError
from buildstep.files import catalogue, chunks, condemned, gc, layout, refs
from buildstep.files.content import ContentStore, Settings
from buildstep.files.interface import Damaged
from buildstep.files.leases import Lease
from buildstep.files.refs import Ref
from buildstep.files.repair import repair
from buildstep.files.session import Session
from buildstep.files.verify import Hit, Report, verify
from buildstep.tree.entry import Entry
from tests.unit.files.memory import Memory
from tests.unit.files.test_gc import digest

SMALL, OTHER = b"small", b"small too"
OBJECT = b"an object of its own, of some length"
LARGE = b"first chunk of many bytes in it|s|and another one that is as long as that|"
CONTENTS = (SMALL, OTHER, OBJECT, LARGE)
PIECES = [piece + b"|" for piece in LARGE.split(b"|")[:-1]]


def cut(stream: io.BytesIO) -> Iterator[bytes]:
    yield from (piece + b"|" for piece in stream.read().split(b"|")[:-1])


@pytest.fixture(autouse=True)
def _cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "cut", cut)


def filled(*, compress: bool = False) -> Memory:
    """A store with a content in every form, which the ref `web` keeps."""
    memory = Memory()
    store = ContentStore(memory)
    store.create(Settings(compress=compress, pack_below=10, chunk_above=60))
    put(store, "web", CONTENTS)
    return memory


def put(store: ContentStore, ref: str, contents: tuple[bytes, ...]) -> None:
    entries = {}
    with Session(store, "put") as session:
        for number, data in enumerate(contents):
            path = b"file%d" % number
            found = session.put_stream(io.BytesIO(data), len(data))
            entries[path] = Entry(path, "f", 0o644, 0, 0, len(data), found)
        stored = session.put_list(entries)
        session.set_ref(Ref(name=ref, list=stored.digest, tree=stored.tree), refs.read(store.storage, ref))


@pytest.fixture
def memory() -> Memory:
    return filled()


def check(memory: Memory, *, quick: bool = False) -> Report:
    return verify(ContentStore(memory), quick=quick)


def problems(report: Report) -> dict[str, str]:
    return {damage.name: damage.problem for damage in report.damage}


def pack_of(memory: Memory) -> str:
    [found] = [name for name in memory.blobs if name.startswith("packs/")]
    return found


def spoil(memory: Memory, name: str, old: bytes = b"", new: bytes = b"") -> None:
    data = memory.blobs[name].data
    memory.put(name, data.replace(old, new) if old else data[:-1])


def all_read(memory: Memory) -> None:
    store = ContentStore(memory)
    listed = store.get_list(refs.get(memory, "web").list)
    assert tuple(store.get(item.sha256) for item in listed.values()) == CONTENTS


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("quick", [False, True], ids=["all", "quick"])
def test_a_whole_store(quick: bool, compress: bool) -> None:
    memory = filled(compress=compress)
    before = memory.blobs.keys()
    found = check(memory, quick=quick)
    assert found.damage == ()
    assert (found.refs, found.lists, found.packs) == (1, 1, 1)
    assert found.contents == len({*CONTENTS, *PIECES})
    assert memory.blobs.keys() == before


def test_a_damaged_object_and_whom_it_hits(memory: Memory) -> None:
    name = layout.object_name(digest(OBJECT))
    spoil(memory, name, b"own", b"one")
    [damage] = check(memory).damage
    assert (damage.name, damage.contents, damage.refs) == (name, (digest(OBJECT),), ("web",))
    assert damage.hits == (Hit("web", b"file2"),)
    assert check(memory, quick=True).damage == ()
    spoil(memory, name)
    assert problems(check(memory, quick=True)) == {name: "it has 35 bytes, and a list says 36"}


def test_a_content_that_is_nowhere(memory: Memory) -> None:
    del memory.blobs[layout.object_name(digest(OBJECT))]
    [damage] = check(memory, quick=True).damage
    assert (damage.name, damage.problem) == (digest(OBJECT), "a content that is not there")
    assert damage.hits == (Hit("web", b"file2"),)


def test_a_content_that_a_ref_names_itself(memory: Memory) -> None:
    lost = "a" * 64
    refs.write(memory, Ref(name="asset", contents=(lost,)), None)
    [damage] = check(memory).damage
    assert (damage.name, damage.refs, damage.hits) == (lost, ("asset",), (Hit("asset", b""),))


def test_a_damaged_content_of_a_pack(memory: Memory) -> None:
    pack = pack_of(memory)
    spoil(memory, pack, OTHER, b"SMALL too")
    found = check(memory)
    [damage] = found.damage
    assert (damage.name, damage.contents, damage.hits) == (pack, (digest(OTHER),), (Hit("web", b"file1"),))
    done = repair(ContentStore(memory), found)
    assert done.quarantined == (pack,)
    assert layout.QUARANTINE + pack in memory.blobs
    assert pack not in memory.blobs
    [left] = done.left.damage
    assert left.contents == (digest(OTHER),)
    assert ContentStore(memory).get(digest(SMALL)) == SMALL  # the rest of the pack is kept
    put(ContentStore(memory), "web", CONTENTS)
    assert check(memory).damage == ()
    all_read(memory)


def test_a_pack_that_nobody_can_read(memory: Memory) -> None:
    pack = pack_of(memory)
    spoil(memory, pack)
    found = check(memory)
    recipe = layout.object_name(digest(LARGE), layout.CHUNKS)
    assert {pack, recipe} <= problems(found).keys()
    assert found.lost == {digest(data) for data in (SMALL, OTHER, LARGE)}
    with pytest.raises(StoreError):
        gc.collect(ContentStore(memory), grace=0)  # it could hold anything
    done = repair(ContentStore(memory), found)
    assert set(done.quarantined) == {pack, recipe}
    put(ContentStore(memory), "web", CONTENTS)
    assert check(memory).damage == ()
    all_read(memory)


def test_a_chunk_that_is_not_there(memory: Memory) -> None:
    del memory.blobs[layout.object_name(digest(PIECES[2]))]
    found = check(memory)
    [damage] = found.damage
    assert damage.problem == "1 of its chunks are damaged or not there"
    assert damage.hits == (Hit("web", b"file3"),)
    repair(ContentStore(memory), found)
    put(ContentStore(memory), "web", CONTENTS)
    all_read(memory)


def test_a_list_of_chunks_with_another_content(memory: Memory) -> None:
    recipe = layout.object_name(digest(LARGE), layout.CHUNKS)
    rows = memory.blobs[recipe].data.splitlines(keepends=True)
    memory.put(recipe, b"".join([rows[0], *reversed(rows[1:])]))
    assert check(memory, quick=True).damage == ()
    assert check(memory).damage[0].name == recipe


def test_a_list_of_chunks_that_names_itself(memory: Memory) -> None:
    own = "d" * 64
    name = layout.object_name(own, layout.CHUNKS)
    memory.put(name, f"buildstep-chunks 1\n{own} 5\n".encode())
    for read in (ContentStore(memory).get, lambda digest: ContentStore(memory).write_to(digest, -1)):
        with pytest.raises(Damaged, match="is damaged"):
            read(own)
    assert name in problems(check(memory))
    gc.collect(ContentStore(memory), grace=0)
    assert name not in memory.blobs


def test_a_catalogue_that_cannot_be_read_is_made_again(memory: Memory) -> None:
    memory.put(layout.CATALOGUE, b"nonsense")
    found = check(memory)
    assert layout.CATALOGUE in problems(found)
    done = repair(ContentStore(memory), found)
    assert done.quarantined == ()  # not the list of chunks, which is whole
    assert done.left.damage == ()
    all_read(memory)


def test_a_pack_that_the_catalogue_lacks_is_put_there(memory: Memory) -> None:
    catalogue.change(memory, remove=catalogue.read(memory))
    found = check(memory)
    assert digest(SMALL) in found.lost
    assert repair(ContentStore(memory), found).left.damage == ()
    all_read(memory)


def test_a_pack_that_only_the_catalogue_has(memory: Memory) -> None:
    catalogue.change(memory, add=["b" * 64])
    found = check(memory)
    assert problems(found) == {layout.pack_name("b" * 64): "the catalogue has it, and it is not there"}
    assert repair(ContentStore(memory), found).left.damage == ()


def spoil_list(memory: Memory) -> None:
    spoil(memory, layout.list_name(refs.get(memory, "web").list))


def lose_list(memory: Memory) -> None:
    del memory.blobs[layout.list_name(refs.get(memory, "web").list)]


@pytest.mark.parametrize("how", [spoil_list, lose_list])
def test_the_list_of_a_ref(memory: Memory, how: Callable[[Memory], None]) -> None:
    name = layout.list_name(refs.get(memory, "web").list)
    how(memory)
    found = check(memory, quick=True)
    [damage] = found.damage
    assert (damage.name, damage.refs) == (name, ("web",))
    assert [left.name for left in repair(ContentStore(memory), found).left.damage] == [name]
    done = repair(ContentStore(memory), check(memory), ContentStore(filled()))
    assert done.left.damage == ()
    all_read(memory)


def test_a_ref_that_cannot_be_read(memory: Memory) -> None:
    memory.put("refs/web", b"{}")
    found = check(memory)
    assert list(problems(found)) == ["refs/web"]
    assert repair(ContentStore(memory), found).left.damage == ()
    assert memory.blobs["quarantine/refs/web"].data == b"{}"


def test_another_store_has_what_is_lost(memory: Memory) -> None:
    for name in list(memory.blobs):
        if name.startswith(("objects/", "packs/", "lists/")):
            spoil(memory, name)
    source = filled(compress=True)
    done = repair(ContentStore(memory), check(memory), ContentStore(source))
    assert done.left.damage == ()
    assert set(done.fetched) >= {digest(data) for data in CONTENTS}
    assert check(memory).damage == ()
    all_read(memory)


def test_another_store_that_is_damaged_as_well(memory: Memory) -> None:
    del memory.blobs[layout.object_name(digest(OBJECT))]
    source = filled()
    spoil(source, layout.object_name(digest(OBJECT)), b"own", b"one")
    done = repair(ContentStore(memory), check(memory), ContentStore(source))
    assert done.fetched == ()
    assert done.left.lost == {digest(OBJECT)}


def test_what_no_ref_needs_is_checked_too(memory: Memory) -> None:
    with Session(ContentStore(memory), "put") as session:
        session.put(b"nobody needs this, but it is here")
    name = layout.object_name(digest(b"nobody needs this, but it is here"))
    spoil(memory, name)
    [damage] = check(memory).damage
    assert (damage.name, damage.refs, damage.contents) == (name, (), ())


def test_a_ref_that_is_removed_meanwhile_lacks_nothing(memory: Memory) -> None:
    name = layout.object_name(digest(OBJECT))

    def before(call: str) -> None:
        if call == "list":
            calls.append(call)
        if len(calls) == 3 and name in memory.blobs:  # leases are not listed; refs, lists, packs, objects are
            refs.remove(memory, refs.get(memory, "web"))
            del memory.blobs[name]

    calls: list[str] = []
    assert verify(ContentStore(memory.seen_by(before))).damage == ()
    assert name not in memory.blobs


def test_nothing_is_deleted_while_a_store_is_verified_nor_repaired_while_something_is(memory: Memory) -> None:
    before = memory.blobs.copy()

    def collect(call: str) -> None:
        if call == "read" and "refs/web" in memory.blobs:
            refs.remove(memory, refs.get(memory, "web"))
            assert not gc.collect(ContentStore(memory), grace=0).deleted

    assert verify(ContentStore(memory.seen_by(collect))).damage == ()
    memory.blobs.clear()
    memory.blobs.update(before)
    with Lease(memory, "garbage collection") as lease:
        condemned.claim(memory, lease)
        with pytest.raises(condemned.Claimed):
            repair(ContentStore(memory), check(memory))
