"""Bases that are asked for again when they are old."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.events import Bus, Event, Note
from buildstep.images.freshness import RELEASE, Freshness, digest_of
from buildstep.images.record import ImageRecord
from buildstep.images.store import ImageStore
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.interface import Kind
from buildstep.system.digest import sha256_bytes

UUID = "11111111-2222-4333-8444-555555555555"


class Place:
    """A pool with one base, and the mirror that it was made from."""

    def __init__(self, top: Path) -> None:
        self.top, self.events = top, list[Event]()
        self.bus = Bus(self.events.append)
        self.backend = DirectoryBackend(os.fspath(top / "pool"))
        dataset = self.backend.create("one")
        (dataset.path / "etc/apt").mkdir(parents=True)
        (dataset.path / "etc/apt/sources.list").write_text(f"deb file://{top}/mirror stable main\n")
        self.backend.snapshot(dataset, Kind.IMAGE, UUID)
        (self.backend.state / "images").mkdir(parents=True)
        self.release(b"one")
        self.record = ImageRecord(
            uuid=UUID, key="k", label="mmdebstrap:stable", tree_digest="", fingerprint="", manifest={},
            inputs={RELEASE: digest_of([sha256_bytes(b"one")])}, packages=(), config={}, imported=time.time() - 100,
            files=2, size=0,
        )  # fmt: skip

    def release(self, data: bytes, name: str = "InRelease") -> None:
        folder = self.top / "mirror/dists/stable"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        (folder / name).write_bytes(data)

    def current(self, max_age: int | None) -> bool:
        """As a new command sees it."""
        self.events.clear()
        self.made = Freshness(self.backend.state / "images", {}, {}, self.bus)
        self.made.max_age = max_age
        return self.made.is_current(self.record, self.backend)

    def notes(self) -> str:
        return "\n".join(event.text for event in self.events if isinstance(event, Note))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_nothing_is_asked_without_an_age(place: Place) -> None:
    place.release(b"two")
    assert place.current(None)
    assert place.notes() == ""


def test_a_young_base_is_not_asked_for(place: Place) -> None:
    place.release(b"two")
    assert place.current(3600)
    assert not place.current(50)


def test_the_same_is_told_and_good_for_as_long_again(place: Place) -> None:
    assert place.current(50)
    assert "the Release file is the same" in place.notes()
    assert "its Release file is the same as on" in place.made.said["k"]
    place.release(b"two")
    assert place.current(50), "it was asked for just now"
    assert place.notes() == ""
    assert not place.current(0)


def test_another_one_is_told(place: Place) -> None:
    place.release(b"two", "Release")
    assert not place.current(0)
    assert not place.made.is_current(place.record, place.backend), "asked once in a command"
    assert "the Release file of mmdebstrap:stable changed since" in place.made.said["k"]


def test_a_source_that_is_away_does_not_end_a_build(place: Place) -> None:
    for path in (place.top / "mirror/dists/stable").iterdir():
        path.unlink()
    assert place.current(0)
    assert "cannot be asked" in place.notes()


def test_a_base_of_before_is_taken_as_it_is(place: Place) -> None:
    place.record = replace(place.record, inputs={})
    assert place.current(0)


def test_a_plan_tells_of_its_own_suite(place: Place) -> None:
    """And not of one whose name only begins alike."""
    store = ImageStore(place.backend, bus=place.bus, environ={})
    other = store.identify("mmdebstrap:stable-updates")
    assert other is not None
    store.freshness.said[other.key] = "the Release file of mmdebstrap:stable-updates changed"
    assert store.foresee("mmdebstrap:stable") == "mmdebstrap:stable is not in the store"
    assert store.foresee("mmdebstrap:stable-updates?variant=minbase").endswith("changed"), "the same base"
