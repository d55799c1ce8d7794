"""A newer version of a layer: what is new of it is stored and moved, and less where the older one is here."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.cache.remote import parts
from buildstep.cache.remote.interface import Output, Record, Seed, Settings, Unusable
from buildstep.cache.remote.names import blob_name, shared_key
from buildstep.cache.remote.store import SharedStore
from buildstep.events import Bus
from tests.unit.cache.remote.layers import tree, write_layer


def opened(tmp_path: Path, state: str = "state") -> SharedStore:
    return SharedStore.open(Settings(url=str(tmp_path / "store"), state=tmp_path / state), {}, Bus())


def record(version: int, output: Output) -> Record:
    key = shared_key("packages", {"version": version})
    return Record(kind="packages", key=key, outputs=(output,), slot="fifty", made_at=1.0 + version)


def found(store: SharedStore, version: int) -> Output:
    one = store.find([record(version, Output(name="x", digest="", size=0)).wanted])
    assert len(one) == 1, store.troubles
    return next(iter(one.values())).outputs[0]


@pytest.fixture(scope="module", params=["gzip", "zstd"])
def two(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Output, Output]:
    """A store with two versions of a layer of fifty packages, of which one is updated."""
    top = tmp_path_factory.mktemp("two")
    old = write_layer(top / "old", tree(20), request.param)
    new = write_layer(top / "new", tree(20, updated=7), request.param)
    with opened(top) as store:
        assert store.put(record(1, old), {"layer": top / "old"}), store.troubles
        assert store.put(record(2, new), {"layer": top / "new"}, seeds=[top / "old"]), store.troubles
        assert store.troubles == []
        assert store.facts.bytes_out < 1.2 * old.size
    return top, old, new


def test_what_is_new_is_stored_alone(two: tuple[Path, Output, Output]) -> None:
    top, _, new = two
    assert not (top / "store" / blob_name(new.digest)).exists()


def test_a_fresh_agent_gets_all_of_it(two: tuple[Path, Output, Output], tmp_path: Path) -> None:
    top, _, new = two
    with opened(top, "fresh") as store:
        store.fetch(found(store, 2), tmp_path / "layer")
        assert (tmp_path / "layer").read_bytes() == (top / "new").read_bytes()
        assert new.size < store.facts.bytes_in <= 1.05 * new.size
        assert store.facts.requests < 20


def test_parts_and_patches_come_from_the_older_version(
    two: tuple[Path, Output, Output], tmp_path: Path
) -> None:
    top, old, new = two
    with opened(top, "with_old") as store:
        # The table of the older version is fetched too, as nothing is kept of it here.
        store.fetch(found(store, 2), tmp_path / "layer", seeds=[Seed(top / "old", old.digest)])
        assert (tmp_path / "layer").read_bytes() == (top / "new").read_bytes()
        assert store.facts.bytes_in < 0.04 * new.size


def test_without_patches_parts_still_come_from_it(two: tuple[Path, Output, Output], tmp_path: Path) -> None:
    top, _, new = two
    with opened(top, "damaged") as store:
        output = found(store, 2)
        table = parts.parse((top / "store" / blob_name(output.parts)).read_bytes(), output.size)
        assert table.patch
        patch = top / "store" / blob_name(table.patch.digest)
        sound = patch.read_bytes()
        patch.unlink()
        patch.write_bytes(bytes([*sound[:40], sound[40] ^ 1, *sound[41:]]))
        try:
            store.fetch(output, tmp_path / "layer", seeds=[top / "old"])
        finally:
            patch.write_bytes(sound)
        assert (tmp_path / "layer").read_bytes() == (top / "new").read_bytes()
        assert store.facts.bytes_in < 0.15 * new.size
        assert blob_name(table.patch.digest) in store.trouble


def test_a_seed_that_is_not_what_it_was_is_no_harm(two: tuple[Path, Output, Output], tmp_path: Path) -> None:
    top, old, _ = two
    data = bytearray((top / "old").read_bytes())
    for at in range(1000, len(data), 100_000):
        data[at] ^= 255
    (tmp_path / "seed").write_bytes(data)
    with opened(top, "seed") as store:
        store.fetch(found(store, 2), tmp_path / "layer", seeds=[Seed(tmp_path / "seed", old.digest)])
        assert (tmp_path / "layer").read_bytes() == (top / "new").read_bytes()


def test_a_writer_without_the_older_version_stores_what_is_new(tmp_path: Path) -> None:
    old = write_layer(tmp_path / "old", tree(12))
    new = write_layer(tmp_path / "new", tree(12, updated=3))
    with opened(tmp_path, "one") as store:
        store.put(record(1, old), {"layer": tmp_path / "old"})
    with opened(tmp_path, "two") as store:
        assert store.put(record(2, new), {"layer": tmp_path / "new"})
        assert store.facts.bytes_out < 0.25 * new.size
        assert store.facts.bytes_in < 0.25 * new.size  # for patches
        output = found(store, 2)
        assert parts.parse((tmp_path / "store" / blob_name(output.parts)).read_bytes(), output.size).frames


def test_a_pack_that_is_gone_is_stored_again(tmp_path: Path) -> None:
    one = write_layer(tmp_path / "one", tree(4))
    with opened(tmp_path, "first") as store:
        store.put(record(1, one), {"layer": tmp_path / "one"})
        output = found(store, 1)
        table = parts.parse((tmp_path / "store" / blob_name(output.parts)).read_bytes(), output.size)
    (tmp_path / "store" / blob_name(table.sources[0].digest)).unlink()
    with opened(tmp_path, "second") as store:
        assert store.put(record(1, one), {"layer": tmp_path / "one"})
        store.fetch(found(store, 1), tmp_path / "layer")


def test_a_pack_that_was_found_damaged_is_replaced(tmp_path: Path) -> None:
    one = write_layer(tmp_path / "one", tree(4))
    with opened(tmp_path) as store:
        store.put(record(1, one), {"layer": tmp_path / "one"})
        output = found(store, 1)
        table = parts.parse((tmp_path / "store" / blob_name(output.parts)).read_bytes(), output.size)
    pack = tmp_path / "store" / blob_name(table.sources[0].digest)
    sound = pack.read_bytes()
    pack.chmod(0o644)
    pack.write_bytes(sound[:-1] + b"?")
    with opened(tmp_path) as store:
        with pytest.raises(Unusable, match=pack.name):
            store.fetch(found(store, 1), tmp_path / "layer")
        assert store.put(record(1, one), {"layer": tmp_path / "one"})
        assert pack.read_bytes() == sound
    with opened(tmp_path) as store:
        store.fetch(found(store, 1), tmp_path / "layer")


def test_all_that_is_damaged_of_a_record_is_replaced_at_once(tmp_path: Path) -> None:
    """A reader stops at the first piece that is not sound: the others are damaged all the same."""
    one = write_layer(tmp_path / "one", tree(4))
    with opened(tmp_path, "first") as store:
        store.put(record(1, one), {"layer": tmp_path / "one"})
    blobs = {path: path.read_bytes() for path in (tmp_path / "store/cas").rglob("*") if path.is_file()}
    assert len(blobs) > 1
    for path, sound in blobs.items():
        path.chmod(0o644)
        path.write_bytes(b"?" + sound[1:])
    with opened(tmp_path, "second") as store:
        assert store.put(record(1, one), {"layer": tmp_path / "one"}, doubted=True)
    assert {path: path.read_bytes() for path in blobs} == blobs


def test_a_store_that_somebody_emptied_gets_all_again(tmp_path: Path) -> None:
    """What this machine has put there a moment ago is taken to be there, unless a few of it are gone."""
    one = write_layer(tmp_path / "one", tree(4))
    with opened(tmp_path) as store:
        store.put(record(1, one), {"layer": tmp_path / "one"})
    shutil.rmtree(tmp_path / "store")
    with opened(tmp_path) as store:
        assert store.put(record(1, one), {"layer": tmp_path / "one"})
    with opened(tmp_path, "fresh") as store:
        store.fetch(found(store, 1), tmp_path / "layer")
    assert (tmp_path / "layer").read_bytes() == (tmp_path / "one").read_bytes()


def table_of(count: int = 3) -> parts.Table:
    rows = tuple(
        parts.Part(hashlib.sha256(b"%d" % n).digest(), 10, 20, 0, 10 * n, 10 * n) for n in range(count)
    )
    source = parts.Source("a" * 64, 10 * count)
    return parts.Table(size=10 * count, codec="gzip", ident="x", sources=(source,), parts=rows)


def test_a_table_is_read_as_it_was_written() -> None:
    table = replace(
        table_of(),
        before=("b" * 64, "c" * 64),
        patch=parts.Source("d" * 64, 5),
        frames=(parts.Frame(0, 1, 0, 5, 0, 1),),
    )
    assert parts.parse(parts.dumps(table), 30) == table


@pytest.mark.parametrize("size", [0, 29, 31])
def test_a_table_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(Unusable):
        parts.parse(parts.dumps(table_of()), size)


def test_parts_outside_of_their_source_are_refused() -> None:
    table = replace(table_of(), sources=(parts.Source("a" * 64, 29),))
    with pytest.raises(Unusable, match="outside"):
        parts.parse(parts.dumps(table), 30)


def test_no_bit_of_a_table_makes_anything_but_a_refusal() -> None:
    data = parts.dumps(table_of())
    for at in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        try:
            parts.parse(bytes(flipped), 30)
        except Unusable:
            continue


def test_gaps_are_between_what_both_have() -> None:
    def rows(text: str) -> list[parts.Part]:
        return [parts.Part(letter.encode(), 1, 1, 0, 0, 0) for letter in text]

    assert parts.gaps(rows("abXcd"), rows("abYZcd")) == [parts.Gap(2, 3, 2, 4)]
    assert parts.gaps(rows("abc"), rows("abc")) == []
    assert parts.gaps(rows("Xab"), rows("ab")) == [parts.Gap(0, 1, 0, 0)]
    assert parts.gaps(rows("abX"), rows("abY")) == [parts.Gap(2, 3, 2, 3)]
    assert parts.gaps(rows("XY"), rows("ab")) == [parts.Gap(0, 2, 0, 2)]
