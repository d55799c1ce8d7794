"""One contract over every store: a directory, S3 that obeys conditions and S3 that does not, web servers, ssh."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from buildstep.errors import StoreError
from buildstep.files import layout, leases, refs
from buildstep.files.content import ContentStore, Settings
from buildstep.files.interface import Damaged, Missing, ReadOnly, Storage, Unlistable
from buildstep.files.leases import LeaseLost
from buildstep.files.refs import Ref, RefChanged
from buildstep.files.s3 import S3
from buildstep.files.session import Session
from buildstep.net.s3_errors import S3Error
from buildstep.tree import entry
from buildstep.tree.entry import Entry
from tests.integration.conftest import demand
from tests.servers.faulty import FAULTS, faulty
from tests.servers.fixtures import Notes, S3Store, bus, rclone, weed
from tests.servers.stores import Place, rclone_serving, serving, sshd_serving

__all__ = ["bus", "rclone", "weed"]

WRITABLE = ["dir", "weed", "rclone", "ssh"]
WEB = ["web", "web-no-ranges", "web-no-head"]


@pytest.fixture(scope="module")
def web_top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def web(web_top: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rclone_serving(web_top, tmp_path_factory.mktemp("log")) as url:
        yield url


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    demand("sshd", "ssh", "rsync")
    with sshd_serving(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture(scope="module", params=[*WRITABLE, *WEB])
def any_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from place_of(request, request.param)


@pytest.fixture(scope="module", params=WRITABLE)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from place_of(request, request.param)


def place_of(request: pytest.FixtureRequest, kind: str) -> Iterator[Place]:
    """A new, empty place for the tests of this file."""
    top = request.getfixturevalue("tmp_path_factory").mktemp("store") / "top"
    name = os.urandom(4).hex()
    if kind == "dir":
        yield Place(write=f"dir:{top}")
    elif kind in ("weed", "rclone"):
        yield s3_place(request.getfixturevalue(kind), f"contract/{name}")
    elif kind == "ssh":
        url, config = request.getfixturevalue("sshd")
        yield Place(write=f"{url}{top}", environ={"BUILDSTEP_SSH_CONFIG": str(config)})
    elif kind == "web":
        yield Place(
            write=f"dir:{request.getfixturevalue('web_top')}/{name}",
            read=f"{request.getfixturevalue('web')}/{name}",
        )
    else:
        top.mkdir(mode=0o700)
        with serving(top, head=kind != "web-no-head") as url:
            yield Place(write=f"dir:{top}", read=url)


def s3_place(store: S3Store, prefix: str, endpoint: str = "") -> Place:
    return Place(
        write=f"s3://{store.bucket}/{prefix}",
        environ=store.environ,
        endpoint=endpoint or store.endpoint,
        conditional=store.folder is None,
    )


def name_of(text: str) -> str:
    """The name of a blob of the running test."""
    return f"objects/{hashlib.sha256(text.encode()).hexdigest()[:2]}/{text}"


# -- a storage -----------------------------------------------------------------------------------------------


DATA = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def blobs_there(any_place: Place) -> Place:
    """A place with a few blobs."""
    found = any_place.sub("reading")
    storage = found.writer()
    storage.write("objects/aa/plain", DATA)
    storage.write("objects/aa/empty", b"")
    storage.swap("refs/web~1.0", b"value", None)
    return found


class TestReading:
    @pytest.mark.parametrize(
        ("start", "count"),
        [
            (0, None), (0, 0), (0, 1), (0, 10_240), (0, 20_000), (1, None), (100, 50), (10_239, 1), (10_239, 9),
            (10_240, 1), (10_240, None), (50_000, 3), (5, 0), (-1, None), (-300, None), (-300, 10), (-20_000, None),
            (-20_000, 7), (-10_240, None),
        ],
    )  # fmt: skip
    def test_ranges(self, blobs_there: Place, start: int, count: int | None) -> None:
        begin = max(0, len(DATA) + start) if start < 0 else start
        wanted = DATA[begin:][:count]
        assert blobs_there.reader().read("objects/aa/plain", start, count) == wanted

    @pytest.mark.parametrize(("start", "count"), [(0, None), (0, 0), (0, 5), (3, None), (-5, None), (-5, 2)])
    def test_ranges_of_an_empty_blob(self, blobs_there: Place, start: int, count: int | None) -> None:
        assert blobs_there.reader().read("objects/aa/empty", start, count) == b""

    @pytest.mark.parametrize(("start", "count"), [(0, None), (0, 0), (5, 5), (-5, None)])
    def test_a_blob_that_is_not_there(self, blobs_there: Place, start: int, count: int | None) -> None:
        with pytest.raises(Missing, match="objects/zz/gone"):
            blobs_there.reader().read("objects/zz/gone", start, count)

    def test_exists(self, blobs_there: Place) -> None:
        storage = blobs_there.reader()
        there = {"objects/aa/plain", "objects/aa/empty"}
        names = [*there, *(f"objects/aa/no{number}" for number in range(20)), "objects/aa", "other/x"]
        assert storage.exists(names) >= there
        assert storage.exists(names) - {"objects/aa"} == there  # a web server may answer for a directory
        assert storage.exists([]) == set()

    def test_fetch(self, blobs_there: Place, tmp_path: Path) -> None:
        storage = blobs_there.reader()
        for name, data in (("plain", DATA), ("empty", b"")):
            storage.fetch(f"objects/aa/{name}", tmp_path / name)
            assert (tmp_path / name).read_bytes() == data
        with pytest.raises(Missing):
            storage.fetch("objects/zz/gone", tmp_path / "gone")

    def test_values(self, blobs_there: Place) -> None:
        storage = blobs_there.reader()
        found = storage.load("refs/web~1.0")
        assert found is not None
        assert found.data == b"value"
        assert storage.load("refs/other") is None

    def test_names_that_no_blob_can_have(self, blobs_there: Place) -> None:
        storage = blobs_there.reader()
        for name in ("../x", "/etc/passwd", "a b", "-x", "a/../b"):
            with pytest.raises(StoreError, match="no name of a blob"):
                storage.read(name)
            with pytest.raises(StoreError, match="no name of a blob"):
                storage.exists([name])

    def test_its_address_tells_no_secret(self, blobs_there: Place) -> None:
        assert "sktestsecret" not in blobs_there.reader().url


class TestWriting:
    @pytest.fixture
    def own(self, place: Place, request: pytest.FixtureRequest) -> Place:
        """An empty place for one test."""
        return place.sub(request.function.__name__)

    def test_a_blob_is_written_once(self, own: Place, tmp_path: Path) -> None:
        storage = own.writer()
        big = random.Random(1).randbytes(3 << 20)
        (tmp_path / "big").write_bytes(big)
        for name, data, raw in (
            (name_of("small"), b"first", b"first"),
            (name_of("big"), tmp_path / "big", big),
        ):
            assert storage.write(name, data)
            assert not storage.write(name, data)
            assert not storage.write(name, b"other")
            assert own.reader().read(name) == raw
        assert (tmp_path / "big").read_bytes() == big
        with storage.spool() as spool:
            (spool / "x").write_bytes(big)
            assert storage.write(name_of("spooled"), spool / "x")
            assert (spool / "x").exists()
        assert not spool.exists()
        assert storage.read(name_of("spooled")) == big

    def test_many_writers_of_one_blob(self, own: Place) -> None:
        name, data = name_of("raced"), os.urandom(100_000)
        storages = [own.fresh(), own.fresh()]
        won = at_once(8, lambda number: storages[number % 2].write(name, data))
        assert own.writer().read(name) == data
        if own.conditional:
            assert sorted(won) == [False] * 7 + [True]

    def test_list_and_delete(self, own: Place) -> None:
        storage = own.writer()
        names = {f"packs/{number % 3:02x}/item{number}" for number in range(30)}
        for number, name in enumerate(sorted(names)):
            storage.write(name, b"x" * number)
        found = list(storage.list("packs/"))
        assert {item.name for item in found} == names
        assert {item.name: item.size for item in found} == {name: n for n, name in enumerate(sorted(names))}
        assert all(abs(item.modified - time.time()) < 300 for item in found)
        assert {item.name for item in storage.list("packs/01/")} == {n for n in names if "/01/" in n}
        assert list(storage.list("nothing/")) == []
        assert names <= {item.name for item in storage.list("")}
        assert not any(item.name.startswith("tmp/") for item in storage.list(""))
        gone = {name for name in names if "/01/" in name}
        storage.delete([*gone, "packs/01/never"])
        assert {item.name for item in storage.list("packs/")} == names - gone
        assert storage.exists(names) == names - gone
        storage.delete([])

    def test_values_change_by_compare_and_set(self, own: Place) -> None:
        storage = own.writer()
        assert storage.load("refs/value") is None
        assert storage.swap("refs/value", None, None)
        assert storage.swap("refs/value", b"one", None)
        assert not storage.swap("refs/value", b"two", None)
        first = storage.load("refs/value")
        assert first is not None
        assert storage.swap("refs/value", b"two", first.version)
        assert not storage.swap("refs/value", b"three", first.version)
        assert not storage.swap("refs/value", None, first.version)
        second = storage.load("refs/value")
        assert second is not None
        assert second.data == b"two"
        assert storage.swap("refs/value", None, second.version)
        assert storage.load("refs/value") is None
        assert not storage.swap("refs/value", b"four", second.version)
        assert not storage.swap("refs/value", None, second.version)
        assert storage.load("refs/value") is None

    def test_of_many_that_change_a_value_one_wins(self, own: Place) -> None:
        if not own.conditional:
            pytest.skip("this server ignores conditions")
        storage, storages = own.writer(), [own.fresh(), own.fresh()]
        version = None
        for round_ in range(3):
            won = at_once(
                8, lambda number, version=version, round_=round_: storages[number % 2].swap(
                    "refs/raced", b"%d %d" % (round_, number), version
                ),
            )  # fmt: skip
            assert sorted(won) == [False] * 7 + [True]
            found = storage.load("refs/raced")
            assert found is not None
            assert found.data == b"%d %d" % (round_, won.index(True))
            version = found.version

    def test_a_server_that_ignores_conditions_is_found_out_once(self, rclone: S3Store, bus: Notes) -> None:
        storage = s3_place(rclone, "ignores").fresh(bus)
        for number in range(3):
            assert storage.swap(f"refs/{number}", b"x", None)
            assert not storage.swap(f"refs/{number}", b"y", None)
        assert len([text for text in bus.texts if "ignores conditions" in text]) == 1

    def test_a_writer_that_is_killed_leaves_no_half_blob(self, own: Place, tmp_path: Path) -> None:
        size, storage = 24 << 20, own.writer()
        (tmp_path / "big").write_bytes(os.urandom(size))
        storage.write(name_of("small"), b"")
        begin = time.monotonic()
        storage.write(name_of("whole"), tmp_path / "big")
        took = time.monotonic() - begin
        for share in (0.2, 0.6):
            name = name_of(f"killed{int(share * 10)}")
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    fresh = own.fresh()
                    fresh.write(name_of("small"), b"")
                    os.write(write, b"x")
                    fresh.write(name, tmp_path / "big")
                finally:
                    os._exit(0)
            assert os.read(read, 1) == b"x"
            time.sleep(share * took)
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(read)
            os.close(write)
            sizes = {item.name: item.size for item in storage.list("objects/")}
            assert sizes.get(name, size) == size
            storage.write(name, tmp_path / "big")
            assert len(storage.read(name)) == size


def at_once(count: int, call: object) -> list[bool]:
    """Return what a function returns in so many threads that begin together, by the thread's number."""
    found: dict[int, bool] = {}
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        found[number] = call(number)  # type: ignore[operator]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [found[number] for number in range(count)]


@pytest.mark.parametrize("any_place", WEB, indirect=True)
def test_a_web_server_is_for_readers(any_place: Place) -> None:
    storage = any_place.reader()
    assert not storage.writable
    for call in (
        lambda: storage.write("a", b""),
        lambda: storage.swap("a", b"", None),
        lambda: storage.delete(["a"]),
    ):
        with pytest.raises(ReadOnly, match="web server") as caught:
            call()
        assert caught.value.hint
    with pytest.raises(Unlistable):
        list(storage.list(""))


# -- a store of contents ---------------------------------------------------------------------------------------


def contents_of(*sizes: int) -> dict[str, bytes]:
    """Contents of these sizes, and one that can be compressed and is too long for a pack."""
    made = [random.Random(size).randbytes(size) for size in sizes]
    return {hashlib.sha256(data).hexdigest(): data for data in [*made, b"the same line again\n" * 50_000]}


CONTENTS = contents_of(0, 5, 100_000, 300_000, 20 << 20)
FEW = contents_of(5, 300_000, 3 << 20)


def fill(place: Place, contents: Mapping[str, bytes] = CONTENTS, settings: Settings | None = None) -> Ref:
    """Store contents, a list of them and a ref of it."""
    store = ContentStore(place.writer())
    store.create(settings)
    with Session(store, "fill") as session:
        put_all(session, contents)
        entries = {
            b"file%d" % number: Entry(b"file%d" % number, "f", 0o644, 0, 0, len(data), sha256=digest)
            for number, (digest, data) in enumerate(contents.items())
        }
        stored = session.put_list(entries)
        ref = Ref(name="filled/1.0", list=stored.digest, tree=stored.tree, entries=len(entries))
        session.set_ref(ref, refs.read(store.storage, "filled/1.0"))
    return ref


def put_all(session: Session, contents: Mapping[str, bytes]) -> None:
    for digest, data in contents.items():
        assert session.put_stream(io.BytesIO(data), len(data)) == digest
    session.flush()


@pytest.fixture(scope="module")
def filled(any_place: Place) -> tuple[Place, Ref]:
    """A store with all contents, and the ref of their list."""
    found = any_place.sub("filled")
    return found, fill(found)


@pytest.fixture(scope="module")
def store_place(place: Place) -> Place:
    """A store with all contents that is written to."""
    found = place.sub("sessions")
    fill(found)
    return found


class TestContents:
    @pytest.fixture
    def store(self, filled: tuple[Place, Ref]) -> ContentStore:
        return ContentStore(filled[0].reader())

    def test_has(self, store: ContentStore) -> None:
        absent = {hashlib.sha256(b"absent %d" % number).hexdigest() for number in range(5)}
        assert store.has({*CONTENTS, *absent}) == set(CONTENTS)
        assert store.has([]) == set()

    def test_has_of_many(self, store: ContentStore) -> None:
        absent = {hashlib.sha256(b"absent %d" % number).hexdigest() for number in range(101)}
        assert store.has({*CONTENTS, *absent}) == set(CONTENTS)

    def test_get(self, store: ContentStore) -> None:
        for digest, data in CONTENTS.items():
            assert store.get(digest) == data
            assert store.get(digest, 3, 4) == data[3:7]
            assert store.get(digest, len(data) // 2) == data[len(data) // 2 :]
            assert store.get(digest, len(data), 5) == b""

    def test_get_many(self, store: ContentStore) -> None:
        wanted = {digest for digest, data in CONTENTS.items() if len(data) < 8 << 20}
        assert dict(store.get_many(CONTENTS)) == {digest: CONTENTS[digest] for digest in wanted}

    def test_write_to(self, store: ContentStore, tmp_path: Path) -> None:
        for number, (digest, data) in enumerate(CONTENTS.items()):
            with (tmp_path / str(number)).open("wb") as file:
                assert store.write_to(digest, file.fileno()) == len(data)
            assert (tmp_path / str(number)).read_bytes() == data

    def test_lists_and_refs(self, store: ContentStore, filled: tuple[Place, Ref]) -> None:
        ref = refs.get(store.storage, "filled/1.0")
        assert (ref.list, ref.tree) == (filled[1].list, filled[1].tree)
        found = store.get_list(ref.list)
        assert entry.tree_digest(found) == ref.tree
        assert {item.sha256 for item in found.values()} == set(CONTENTS)

    def test_what_is_not_there(self, store: ContentStore) -> None:
        absent = hashlib.sha256(b"absent").hexdigest()
        with pytest.raises(Missing):
            store.get(absent)
        with pytest.raises(Missing):
            store.get_list(absent)


class TestSessions:
    def test_again_stores_nothing(self, store_place: Place) -> None:
        before = {item.name for item in store_place.writer().list("")}
        store = ContentStore(store_place.writer())
        with Session(store, "again") as session:
            put_all(session, CONTENTS)
            assert session.new_objects == 0
        assert {item.name for item in store_place.writer().list("")} == before

    def test_a_lease_is_there_while_a_session_is_and_can_be_lost(self, store_place: Place) -> None:
        storage = store_place.writer()
        assert list(leases.living(storage)) == []
        with Session(ContentStore(storage), "look") as session:
            [(name, record)] = leases.living(storage)
            assert (record.what, record.saw) == ("look", 0)
            there = storage.load(name)
            assert there is not None
            assert storage.swap(name, None, there.version)
            with pytest.raises(LeaseLost):
                session.set_ref(Ref(name="lost"), None)
        assert refs.read(storage, "lost") is None
        assert list(storage.list(layout.LEASES)) == []

    def test_a_ref_changes_by_compare_and_set(self, store_place: Place) -> None:
        storage = store_place.writer()
        with Session(ContentStore(storage), "ref") as session:
            session.set_ref(Ref(name="moved", notes={"by": "one"}), None)
            first = refs.read(storage, "moved")
            session.set_ref(Ref(name="moved", notes={"by": "two"}), first)
            with pytest.raises(RefChanged):
                session.set_ref(Ref(name="moved", notes={"by": "three"}), first)
            with pytest.raises(RefChanged):
                session.set_ref(Ref(name="moved", notes={"by": "four"}), None)
        second = refs.get(storage, "moved")
        assert second.notes == {"by": "two"}
        assert {found.name for found in refs.every(storage)} >= {"moved", "filled/1.0"}
        refs.remove(storage, second)
        assert refs.read(storage, "moved") is None

    def test_after_a_session_that_was_killed(self, store_place: Place) -> None:
        """What it stored is found by the next one; nothing of it can be seen before."""
        put = [b"%d" % number * 90_000 for number in range(3)]
        child = os.fork()
        if child == 0:
            try:
                store = ContentStore(store_place.fresh())
                session = Session(store, "killed")
                session.__enter__()
                session.put(put[0])
                session.flush()
                session.put(put[1])  # in a pack that is not complete
                os.kill(os.getpid(), 9)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 9
        storage = store_place.writer()
        before = {found.name for found in refs.every(storage)}
        store = ContentStore(storage)
        digests = [hashlib.sha256(data).hexdigest() for data in put]
        assert store.has(digests) == {digests[0]}
        with Session(store, "next") as session:
            for data in put:
                session.put(data)
            session.flush()
            assert session.new_objects == 2
            session.set_ref(Ref(name="after", contents=tuple(digests)), None)
        fresh = ContentStore(store_place.writer())
        assert [fresh.get(digest) for digest in digests] == put
        assert {found.name for found in refs.every(storage)} == {*before, "after"}
        assert list(leases.living(storage)) == []


# -- damage ----------------------------------------------------------------------------------------------------


def damage(storage: Storage, name: str, how: str) -> bytes:
    """Spoil a blob; return what it was."""
    data = storage.read(name)
    spoiled = {
        "flipped": data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 1]) + data[len(data) // 3 + 1 :],
        "short": data[:-7],
        "empty": b"",
        "end": data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    }[how]
    if isinstance(storage, S3):  # its `write` sends the digest in the name along, and the server refuses
        storage._client.put(name, spoiled)
    else:
        storage.delete([name])
        storage.write(name, spoiled)
    return data


def test_s3_refuses_what_is_not_what_its_name_says(weed: S3Store) -> None:
    storage = s3_place(weed, f"refused/{os.urandom(4).hex()}").writer()
    name = layout.object_name(hashlib.sha256(b"this").hexdigest())
    with pytest.raises(S3Error, match="BadDigest"):
        storage.write(name, b"that")
    assert storage.exists([name]) == set()


@pytest.mark.parametrize("how", ["flipped", "short", "empty", "end"])
def test_a_damaged_blob_is_noticed_on_each_path(how: str, tmp_path: Path) -> None:
    check_damage(Place(write=f"dir:{tmp_path}/store"), tmp_path, how, each=True)


def test_damage_is_noticed_in_every_store(any_place: Place, tmp_path: Path) -> None:
    check_damage(any_place.sub("damaged"), tmp_path, "flipped", each=False)


def check_damage(place: Place, folder: Path, how: str, *, each: bool) -> None:
    """Damage one blob after the other, or one of each kind, and read everything each time."""
    fill(place, FEW, Settings(chunk_above=1 << 20))
    storage = place.writer()
    by_end: dict[str, list[str]] = {}
    for under in (layout.PACKS, layout.OBJECTS, layout.LISTS):
        for item in storage.list(under):
            parsed = layout.parse(item.name)
            assert parsed is not None
            by_end.setdefault(parsed.end, []).append(item.name)
    assert by_end.keys() == {"", ".zst", ".chunks", ".pack", ".list"}
    for names in by_end.values():
        for name in names if each else names[:1]:
            before = damage(storage, name, how)
            assert read_everything(place, folder, each=each) >= 1, f"{name} was damaged, and nobody noticed"
            storage.delete([name])
            storage.write(name, before)
    assert read_everything(place, folder, each=each) == 0


def read_everything(place: Place, folder: Path, *, each: bool) -> int:
    """Read a store by each path, or by two; return how many failed. What is returned is compared."""
    paths: list[Callable[[ContentStore, str], bytes]]
    paths = [_by_get, functools.partial(_by_write_to, folder), *([_by_range, _by_many] if each else [])]
    failed = 0
    store = ContentStore(place.reader())
    for digest, data in FEW.items():
        for path in paths:
            try:
                found = path(store, digest)
            except (Damaged, Missing, StoreError):
                failed += 1
            else:
                assert found in (data, data[10:20]), "damaged bytes were returned"
    try:
        found_list = store.get_list(refs.get(store.storage, "filled/1.0").list)
        assert {item.sha256 for item in found_list.values()} == set(FEW)
    except StoreError:
        failed += 1
    return failed


def _by_get(store: ContentStore, digest: str) -> bytes:
    return store.get(digest)


def _by_range(store: ContentStore, digest: str) -> bytes:
    return store.get(digest, 10, 10)


def _by_many(store: ContentStore, digest: str) -> bytes:
    return dict(store.get_many([digest])).get(digest, FEW[digest])


def _by_write_to(folder: Path, store: ContentStore, digest: str) -> bytes:
    path = folder / "written"
    with path.open("wb") as file:
        store.write_to(digest, file.fileno())
    return path.read_bytes()


# -- a bad network ---------------------------------------------------------------------------------------------


def many_contents(count: int = 120) -> dict[str, bytes]:
    source = random.Random(3)
    made = [source.randbytes(source.choice([100, 5_000, 140_000, 200_000])) for _ in range(count)]
    return {hashlib.sha256(data).hexdigest(): data for data in made}


def put_many(storage: Storage, contents: Iterable[bytes]) -> None:
    store = ContentStore(storage)
    store.create(Settings(pack_below=4_000))
    with Session(store, "bad network") as session:
        for data in contents:
            session.put(data)
        session.set_ref(Ref(name="all"), None)


def test_with_errors_on_the_way_to_s3(weed: S3Store, tmp_path: Path) -> None:
    contents = many_contents()
    with faulty(weed.endpoint, share=0.02) as proxy:
        place = s3_place(weed, f"faulty/{os.urandom(4).hex()}", proxy.url)
        put_many(place.writer(), contents.values())
        found = dict(ContentStore(place.reader()).get_many(contents))
        place.reader().fetch(next(place.reader().list(layout.PACKS)).name, tmp_path / "pack")
    assert found == contents
    assert sum(proxy.seen[fault] for fault in FAULTS) >= 3


def test_with_errors_on_the_way_from_a_web_server(web: str, web_top: Path, tmp_path: Path) -> None:
    contents = many_contents()
    name = os.urandom(4).hex()
    storage = Place(write=f"dir:{web_top}/{name}").writer()
    put_many(storage, contents.values())
    with faulty(web, share=0.02) as proxy:
        place = Place(write=f"dir:{web_top}/{name}", read=f"{proxy.url}/{name}")
        assert dict(ContentStore(place.reader()).get_many(contents)) == contents
        for number, item in enumerate(storage.list(layout.OBJECTS)):
            place.reader().fetch(item.name, tmp_path / str(number))
            assert (tmp_path / str(number)).stat().st_size == item.size
    assert sum(proxy.seen[fault] for fault in FAULTS) >= 3
