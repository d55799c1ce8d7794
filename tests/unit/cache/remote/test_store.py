"""The shared cache: what is put is found and fetched, and what is wrong with a store ends nothing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from buildstep.cache.remote.interface import Gone, Output, Record, Settings, Stopped, TooSlow, Unusable
from buildstep.cache.remote.names import blob_name, shared_key
from buildstep.cache.remote.store import SharedStore
from buildstep.events import Bus

KEY = shared_key("base", {"suite": "bookworm"})


def opened(url: Path | str, **settings: object) -> SharedStore:
    return SharedStore.open(Settings(url=str(url), **settings), {}, Bus())  # type: ignore[arg-type]


def output(name: str, data: bytes) -> Output:
    return Output(name=name, digest=hashlib.sha256(data).hexdigest(), size=len(data))


def record(**files: bytes) -> Record:
    outputs = tuple(output(name, data) for name, data in files.items())
    return Record(
        kind="base", key=KEY, inputs={"suite": "bookworm"}, outputs=outputs, facts={"entries": 8}, seconds=12
    )


def test_what_was_put_is_found_and_fetched(tmp_path: Path) -> None:
    large = os.urandom(9 << 20)
    with opened(tmp_path / "store") as store:
        assert store.find([("base", KEY)]) == {}
        assert store.put(record(layer=large, list=b"few"), {"layer": large, "list": b"few"})
        found = store.find([("base", KEY), ("base", "0" * 64)])[("base", KEY)]
        assert (found.inputs, found.facts, found.seconds) == ({"suite": "bookworm"}, {"entries": 8}, 12)
        assert (found.scope, found.signer) == ("main", "")
        for one in found.outputs:
            store.fetch(one, tmp_path / one.name)
        assert (tmp_path / "layer").read_bytes() == large
        assert (tmp_path / "list").read_bytes() == b"few"
        assert store.troubles == []
        assert (store.facts.hits, store.facts.misses) == (1, 2)
        assert store.measured.rate > 0


def test_the_first_record_of_a_key_stays(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        assert store.put(record(layer=b"first"), {"layer": b"first"})
        assert store.put(record(layer=b"second"), {"layer": b"second"})
        assert store.find([("base", KEY)])[("base", KEY)].outputs[0].data == b"first"


def test_bytes_that_are_gone_make_a_miss(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    with opened(tmp_path / "store") as store:
        store.put(record(layer=data), {"layer": data})
        one = store.find([("base", KEY)])[("base", KEY)].outputs[0]
        (tmp_path / "store" / blob_name(one.digest)).unlink()
        with pytest.raises(Gone):
            store.fetch(one, tmp_path / "layer")
        assert not (tmp_path / "layer").exists()


def test_damaged_bytes_are_not_used(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    with opened(tmp_path / "store") as store:
        store.put(record(layer=data), {"layer": data})
        one = store.find([("base", KEY)])[("base", KEY)].outputs[0]
        path = tmp_path / "store" / blob_name(one.digest)
        path.chmod(0o644)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(Unusable, match=blob_name(one.digest)):
            store.fetch(one, tmp_path / "layer")
        assert list(tmp_path.iterdir()) == [tmp_path / "store"]


def test_a_fetch_can_be_given_up(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    with opened(tmp_path / "store") as store:
        store.put(record(layer=data), {"layer": data})
        one = store.find([("base", KEY)])[("base", KEY)].outputs[0]
        with pytest.raises(TooSlow):
            store.fetch(one, tmp_path / "layer", deadline=0)
        import threading

        stopped = threading.Event()
        stopped.set()
        with pytest.raises(Stopped):
            store.fetch(one, tmp_path / "layer", stopped=stopped)


def test_a_store_that_is_none_is_trouble_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no directory")
    with opened(tmp_path / "store") as store:
        assert store.find([("base", KEY)]) == {}
        assert not store.put(record(layer=b"x"), {"layer": b"x"})
        assert "no directory" in store.trouble


def test_files_that_are_not_the_outputs_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        with pytest.raises(ValueError, match="not what its record says"):
            store.put(record(layer=b"one"), {"layer": b"two"})
        with pytest.raises(ValueError, match="has no file"):
            store.put(record(layer=b"one"), {})
