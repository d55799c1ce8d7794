"""Directories of commands: kept for their component, one command at a time, listed and pruned."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from buildstep.cache import prune, step_caches
from buildstep.cache.layers import LayerCache
from buildstep.pool.directory import DirectoryBackend

OWNER = (os.getuid(), os.getgid())


def silent(_text: str) -> None:
    """Is told of waits."""


def test_it_is_as_it_was_left_and_of_its_component_alone(tmp_path: Path) -> None:
    with step_caches.opened(tmp_path, "a", "/c", OWNER, silent) as place:
        (place / "x").write_text("1")
    with step_caches.opened(tmp_path, "a", "/c", OWNER, silent) as again:
        assert again == place
        assert (again / "x").read_text() == "1"
    for component, path in (("b", "/c"), ("a", "/d")):
        with step_caches.opened(tmp_path, component, path, OWNER, silent) as other:
            assert os.listdir(other) == []
    ((_, record),) = [row for row in step_caches.kept(tmp_path) if row[0] == place]
    assert (record.component, record.path, record.inodes) == ("a", "/c", 1)


def test_a_link_in_its_place_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "step-caches").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/x").write_text("1")
    (tmp_path / "step-caches" / step_caches.name_of("a", "/c")).symlink_to(tmp_path / "victim")
    with step_caches.opened(tmp_path, "a", "/c", OWNER, silent) as place:
        assert not place.is_symlink()
        assert os.listdir(place) == []
    assert (tmp_path / "victim/x").read_text() == "1"


def test_a_second_command_waits(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with step_caches.opened(tmp_path, "a", "/c", OWNER, order.append):
            order.append("second")

    with step_caches.opened(tmp_path, "a", "/c", OWNER, silent):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert [text for text in order if text in ("first", "second")] == ["first", "second"]


def test_one_that_is_apart_comes_back_and_goes_with_its_area(tmp_path: Path) -> None:
    area = tmp_path / "area"
    area.mkdir()
    with (
        step_caches.opened(tmp_path, "a", "/c", OWNER, silent) as place,
        step_caches.apart(place, area) as inside,
    ):
        (inside / "x").write_text("1")
        assert inside.parent == area
        assert not place.exists()
        assert step_caches.kept(tmp_path) == []
    assert os.listdir(area) == []
    assert (place / "x").read_text() == "1"


def test_an_empty_one_goes_with_the_command(tmp_path: Path) -> None:
    with step_caches.fresh(tmp_path, OWNER) as place:
        (place / "x").write_text("1")
    assert not place.exists()
    assert os.listdir(tmp_path) == []


@pytest.mark.commands("cp", "find")
def test_it_is_listed_and_pruned_unless_it_is_in_use(tmp_path: Path) -> None:
    backend = DirectoryBackend(os.fspath(tmp_path / "pool"))
    cache = LayerCache(backend)
    with step_caches.opened(backend.state, "a", "/c", OWNER, silent) as place:
        (place / "x").write_bytes(b"x" * 10_000)
    (item,) = [item for item in prune.items(cache) if item.kind == "cache"]
    assert (item.about, item.inodes) == ("a /c", 1)
    assert item.size >= 10_000
    with step_caches.opened(backend.state, "a", "/c", OWNER, silent):
        assert not [item for item in prune.prune(cache) if item.kind == "cache"]
        assert place.exists()
    (gone,) = [item for item in prune.prune(cache) if item.kind == "cache"]
    assert gone.name == os.fspath(place)
    assert not place.exists()
    assert step_caches.kept(backend.state) == []
