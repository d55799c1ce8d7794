"""What a build tells of a shared cache, and what of it is to be put there again."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.build.shared_put import Uploads, put_all
from buildstep.cache import adopt
from buildstep.cache.remote.interface import Output, Record, Wanted
from buildstep.cache.shared import Shared
from buildstep.events import Bus, Event, Note
from buildstep.spec.shared_cache import SharedCache
from buildstep.system.digest import sha256_bytes

KEY = "a" * 64
WANTED: Wanted = ("base", KEY)
DATA = b"layer" * 4000
OUTPUT = Output(name="layer", digest=sha256_bytes(DATA), size=len(DATA))
RECORD = Record(kind="base", key=KEY, outputs=(OUTPUT,), seconds=60)


def put(settings: SharedCache, state: Path, *again: Wanted) -> list[dict[str, object]]:
    said: list[dict[str, object]] = []
    uploads = Uploads(rows=[(RECORD, {"layer": DATA})], seconds=30, again=frozenset(again))
    put_all(uploads, settings, state, {}, lambda row: said.append(dict(row)))
    return said


def opened(settings: SharedCache, state: Path, events: list[Event]) -> Shared:
    return Shared(settings, state, {}, Bus(events.append))


def test_a_record_that_does_not_count_is_named_once(tmp_path: Path) -> None:
    put(SharedCache(url=f"dir:{tmp_path}/cache"), tmp_path / "one")
    (tmp_path / "policy").write_text('format = 1\n[unsigned]\nscopes = ["branch/*"]\n')
    events: list[Event] = []
    strict = SharedCache(url=f"dir:{tmp_path}/cache", policy=str(tmp_path / "policy"))
    shared = opened(strict, tmp_path / "two", events)
    assert shared.find([WANTED, ("base", "b" * 64)]) == {}
    assert "nobody has signed it" in shared.why(WANTED, "")
    assert shared.why(("base", "b" * 64), "none") == "none"
    shared.settled()
    shared.settled()
    shared.close()
    (note,) = [event.text for event in events if isinstance(event, Note)]
    assert "nobody has signed it: it is not used" in note
    assert shared.usable, "it is no trouble with the store"


@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_what_came_damaged_is_put_there_again(tmp_path: Path, how: str) -> None:
    """Though its record is there, and counts: or no agent would ever get it."""
    settings = SharedCache(url=f"dir:{tmp_path}/cache")
    put(settings, tmp_path / "one")
    (blob,) = [path for path in (tmp_path / "cache/cas").rglob("*") if path.is_file()]
    if how == "gone":
        blob.unlink()
    else:
        blob.chmod(0o644)
        blob.write_bytes(b"?" + DATA[1:])
    shared = opened(settings, tmp_path / "two", [])
    found = shared.find([WANTED])[WANTED]
    assert not shared.fetch(found.outputs[0], tmp_path / "file", cost=60)
    shared.close()
    assert shared.usable
    assert shared.spoiled == {WANTED}
    assert put(settings, tmp_path / "two", *shared.spoiled)[0]["new"]
    assert blob.read_bytes() == DATA
    third = opened(settings, tmp_path / "three", [])
    assert third.fetch(third.find([WANTED])[WANTED].outputs[0], tmp_path / "file", cost=60)
    third.close()


@pytest.mark.parametrize(
    "wrong", [{"digest": "b" * 64}, {"size": 1}, {"media_type": "text/plain"}, {"key": "packages x"}]
)
def test_a_layer_that_is_not_what_its_facts_say_is_not_kept(tmp_path: Path, wrong: dict[str, object]) -> None:
    file = tmp_path / "file"
    file.write_bytes(DATA)
    facts = {
        "key": "base x gzip", "digest": OUTPUT.digest, "size": OUTPUT.size, "diff_id": "c" * 64,
        "media_type": OUTPUT.media, "brought": None, "seconds": 1.0,
    }  # fmt: skip
    assert not adopt.adopt(tmp_path / "state", file, OUTPUT, {**facts, **wrong}, "base x ")
    assert file.exists()
    assert adopt.adopt(tmp_path / "state", file, OUTPUT, facts, "base x ")
    assert not file.exists()
