"""Cutting a large layer: every file once, hard links together, and cuts that stay where they are."""

from __future__ import annotations

import random

import pytest

from buildstep.emit import split_layer
from buildstep.emit.split_layer import cut, segments, timeless
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry


@pytest.fixture(autouse=True)
def small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_layer, "LAYER_TARGET", 200_000)


def files(count: int = 600, seed: int = 1) -> list[tuple[bytes, int]]:
    rng = random.Random(seed)
    return [(b"dir%02d/file%04d" % (n // 20, n), int(rng.expovariate(1 / 8000))) for n in range(count)]


def parts_of(rows: list[tuple[bytes, int]], links: dict[int, int] | None = None) -> list[list[int]]:
    return cut([path for path, _ in rows], [size for _, size in rows], links or {})


def as_paths(rows: list[tuple[bytes, int]]) -> set[tuple[bytes, ...]]:
    return {tuple(rows[number][0] for number in part) for part in parts_of(rows)}


def test_a_small_layer_is_not_cut() -> None:
    assert parts_of(files(20)) == []
    changes = Changes((Entry(b"a", "f", 0o644, 0, 0, 10),), ())
    assert segments(changes) == [changes]


def test_every_file_is_in_one_part_in_order() -> None:
    rows = files()
    parts = parts_of(rows)
    assert len(parts) > 10
    assert [number for part in parts for number in part] == list(range(len(rows)))


def test_parts_have_bounded_sizes() -> None:
    rows = files()
    target = 200_000
    sizes = [sum(rows[number][1] + 2048 for number in part) for part in parts_of(rows)]
    assert max(sizes) <= 3 * target
    assert min(sizes[:-1]) > target // 4


def test_a_file_larger_than_a_part_has_one_of_its_own() -> None:
    rows = files()
    before = as_paths(rows)
    rows[300:300] = [(b"dir14/large", 900_000), (b"dir14/larger", 1_900_000)]
    parts = parts_of(rows)
    assert parts[:2] == [[300], [301]]
    # And nothing else is cut elsewhere for it.
    assert as_paths(rows) - before == {(b"dir14/large",), (b"dir14/larger",)}
    linked = parts_of([*rows, (b"link", 0)], {len(rows): 301})
    assert linked[:2] == [[300], [301, len(rows)]]


def test_large_files_alone_are_a_part_each() -> None:
    assert parts_of([(b"a", 900_000), (b"b", 300_000)]) == [[0], [1]]


def test_an_edit_changes_few_parts() -> None:
    rows = files()
    before = as_paths(rows)
    added = [*rows[:250], (b"dir12/file0249-new", 5000), *rows[250:]]
    assert len(as_paths(added) - before) <= 2
    removed = [*rows[:400], *rows[401:]]
    assert len(as_paths(removed) - before) <= 2


def test_a_layer_that_grows_has_larger_parts_and_not_ever_more() -> None:
    assert len(parts_of(files(3000))) < 60
    assert len(parts_of(files(12_000))) < 80


def test_hard_links_stay_with_the_first_of_their_group() -> None:
    rows = files()
    links = {550: 10, 599: 10, 300: 299}
    parts = parts_of(rows, links)
    for later, first in links.items():
        (part,) = [part for part in parts if later in part]
        assert first in part
    assert sorted(number for part in parts for number in part) == list(range(len(rows)))


def test_directories_are_in_no_part() -> None:
    rows = [(b"a", -1), *files(), (b"z", -1)]
    numbers = {number for part in parts_of(rows) for number in part}
    assert numbers == set(range(1, len(rows) - 1))


def entries() -> tuple[Entry, ...]:
    made = [Entry(path, "f", 0o644, 0, 0, size) for path, size in files()]
    made.append(Entry(b"dir00/twin", "f", 0o644, 0, 0, made[7].size, first=made[7].path))
    made += [Entry(b"dir%02d" % number, "d", 0o755, 0, 0, mtime=5) for number in range(30)]
    return tuple(sorted(made, key=lambda entry: entry.path))


def test_segments_are_removals_files_and_directories() -> None:
    changes = Changes(entries(), (b"gone",))
    first, *middle, last = segments(changes)
    assert first == Changes((), (b"gone",))
    assert {entry.kind for entry in last.entries} == {"d"}
    assert len(last.entries) == 30
    assert all(entry.kind == "f" for part in middle for entry in part.entries)
    assert all(not part.removed for part in middle)
    together = sorted(entry.path for part in (*middle, last) for entry in part.entries)
    assert together == [entry.path for entry in changes.entries]
    (part,) = [part for part in middle if b"dir00/twin" in [entry.path for entry in part.entries]]
    assert b"dir00/file0007" in [entry.path for entry in part.entries]
    assert len(segments(Changes(entries(), ()))) == len(middle) + 1


def test_a_link_to_a_file_of_the_base_counts_like_any_other() -> None:
    lone = Entry(b"dir00/lone", "f", 0o644, 0, 0, 10, first=b"not/in/this/layer")
    changes = Changes(tuple(sorted((*entries(), lone), key=lambda entry: entry.path)), ())
    together = [entry.path for part in segments(changes) for entry in part.entries]
    assert together.count(b"dir00/lone") == 1


def test_directories_without_their_times() -> None:
    found = timeless({entry.path: entry for entry in entries()})
    assert len(found) == 30
    assert {entry.mtime for entry in found.values()} == {0}
