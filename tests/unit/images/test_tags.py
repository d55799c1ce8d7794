"""Tags of registries: when they are asked for, what they were, and what is said of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from buildstep.errors import ImageError
from buildstep.events import Bus, Event, Note
from buildstep.images import verify
from buildstep.images.freshness import Freshness
from buildstep.images.interface import Identity
from buildstep.images.record import ImageRecord
from buildstep.images.tags import Tags
from buildstep.pool.directory import DirectoryBackend

REF = "docker://registry.example/base:1"
TODAY = time.strftime("%Y-%m-%d", time.gmtime())


def image(name: str, label: str = REF) -> ImageRecord:
    return ImageRecord(
        uuid=name, key=f"docker:{name}", label=label, tree_digest="", fingerprint="", manifest={}, inputs={},
        packages=(), config={}, imported=1_700_000_000, files=2, size=0,
    )  # fmt: skip


class Place:
    """A store, and a registry in which the tag is something."""

    def __init__(self, top: Path) -> None:
        self.folder = top
        self.images: list[ImageRecord] = []
        self.now, self.asked = "one", 0
        self.events: list[Event] = []
        self.down: ImageError | None = None

    def ask(self) -> Identity:
        self.asked += 1
        if self.down:
            raise self.down
        return Identity(key=f"docker:{self.now}", label=REF)

    def command(
        self, max_age: int | None = None, ref: str = REF, platform: str = "linux/amd64"
    ) -> tuple[str, str]:
        """What the tag is in a new command, and what is said of it."""
        bus = Bus(self.events.append)
        freshness = Freshness(self.folder, {}, {}, bus)
        freshness.max_age = max_age
        self.tags = Tags(self.folder, platform, freshness, bus)
        found = self.tags.identify(ref, self.ask, self.images)
        return found.key, freshness.said.get(found.key, "")

    def imported(self) -> None:
        self.images.append(image(self.now))
        self.tags.imported(f"docker:{self.now}")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    assert made.command() == ("docker:one", "")
    made.imported()
    return made


def test_without_an_age_it_is_asked_for_each_time(place: Place) -> None:
    assert place.command() == ("docker:one", f"the tag is the same as on {TODAY}")
    place.now = "two"
    assert place.command() == ("docker:two", f"the tag {REF} changed since {TODAY}: a new base")
    assert place.asked == 3


def test_a_young_answer_is_good(place: Place) -> None:
    place.now = "two"
    assert place.command(60) == ("docker:one", "the tag was asked for 0 min ago")
    assert place.asked == 1
    assert place.command(0)[0] == "docker:two"


def test_one_whose_image_is_gone_is_asked_for(place: Place) -> None:
    place.images.clear()
    assert place.command(60) == ("docker:one", f"the tag is the same as on {TODAY}")
    assert place.asked == 2


def test_a_dry_run_before_the_build_takes_nothing_from_what_it_says(place: Place) -> None:
    place.now = "two"
    for _ in range(2):
        assert "changed since" in place.command(0)[1]
    place.imported()
    assert place.command(0)[1] == f"the tag is the same as on {TODAY}"


def test_another_build_has_imported_the_newer_one(place: Place) -> None:
    place.now = "two"
    place.images.append(image("two", label="docker://registry.example/other:7"))
    assert "changed since" in (said := place.command()[1])
    assert said.endswith("the newer base is in the store")
    assert "the same" in place.command()[1]


def test_where_the_registry_does_not_answer_it_is_what_it_was(place: Place) -> None:
    place.down = ImageError("no answer", retryable=True)
    assert place.command()[0] == "docker:one"
    assert "using the image that" in "".join(it.text for it in place.events if isinstance(it, Note))
    # One of another name has the same content.
    place.images[:] = [image("one", label="docker://registry.example/other:7")]
    assert place.command()[0] == "docker:one"
    place.down = ImageError("there is no such image")
    with pytest.raises(ImageError, match="no such image"):
        place.command()


def test_of_another_platform_it_is_another_image(place: Place) -> None:
    other = place.command(60, platform="linux/s390x")
    assert other[0] == "docker:one"
    assert place.asked == 2


def test_a_digest_is_what_it_says(place: Place) -> None:
    ref = f"docker://registry.example/base@sha256:{'0' * 64}"
    assert place.command(60, ref) == ("docker:one", "")
    assert len(list(place.folder.glob("*.tag"))) == 1


def test_damaged_notes_are_as_if_there_were_none(place: Place) -> None:
    (path,) = place.folder.glob("*.tag")
    path.write_bytes(path.read_bytes().replace(b"one", b"two"))
    assert place.command(60) == ("docker:one", "")
    assert place.asked == 2


def test_what_no_image_needs_is_forgotten(place: Place) -> None:
    place.tags.forget(place.images)
    assert os.listdir(place.folder)
    place.tags.forget([])
    assert os.listdir(place.folder) == []


def test_damaged_notes_are_found_and_removed(place: Place, tmp_path: Path) -> None:
    (note,) = place.folder.glob("*.tag")
    backend = DirectoryBackend(os.fspath(tmp_path / "pool"))
    (backend.state / "images").mkdir(parents=True)
    path = backend.state / "images" / note.name
    path.write_bytes(note.read_bytes())
    assert list(verify.images(backend)) == []
    path.write_bytes(note.read_bytes()[:-20])
    (found,) = verify.images(backend)
    assert (found.kind, found.file) == ("image", path)
    assert found.mend is not None
    assert found.mend()
    assert list(verify.images(backend)) == []
