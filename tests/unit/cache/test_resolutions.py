"""Kept resolutions: found by their inputs, valid for a while, and compared with what was installed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from buildstep.cache import resolutions
from buildstep.cache.resolutions import KeptResolution
from buildstep.rootfs.interface import Resolution

KEPT = KeptResolution(index="i", versions={"a": "1", "b": ""}, exact=True, asked=5.0, order=("a", "b"))


def test_what_is_saved_is_found_until_it_is_forgotten(tmp_path: Path) -> None:
    key = resolutions.key_of({"packages": ["a"]})
    assert resolutions.find(tmp_path, key) is None
    resolutions.save(tmp_path, key, KEPT)
    assert resolutions.find(tmp_path, key) == KEPT
    resolutions.forget(tmp_path, key)
    assert resolutions.find(tmp_path, key) is None
    resolutions.forget(tmp_path, key)


def test_the_key_is_of_the_values_and_not_of_their_order() -> None:
    assert resolutions.key_of({"a": 1, "b": 2}) == resolutions.key_of({"b": 2, "a": 1})
    assert resolutions.key_of({"a": 1}) != resolutions.key_of({"a": True})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 2, "index": "i"}'])
def test_a_damaged_record_is_none(tmp_path: Path, text: str) -> None:
    resolutions.save(tmp_path, "k", KEPT)
    (tmp_path / "resolved/k.json").write_text(text)
    assert resolutions.find(tmp_path, "k") is None


def test_how_long_a_resolution_is_valid() -> None:
    now = time.time()
    resolution = Resolution(versions={"a": "1"}, exact=True, order=("a",))
    kept = KeptResolution.of("i", resolution, asked=now - 10)
    assert kept.fresh(60)
    assert not kept.fresh(5)
    assert not KeptResolution.of("i", resolution, asked=now + 1000).fresh(60), "a clock that went back"
    assert KeptResolution.of("", resolution, asked=0).fresh(5), "without an index it cannot be queried"


def test_the_index_counts_only_where_versions_are_not_exact() -> None:
    assert KEPT.inputs() == {"versions": {"a": "1", "b": ""}}
    loose = KeptResolution(index="i", versions={}, exact=False, asked=0.0)
    assert loose.inputs() == {"versions": {}, "index": "i"}


def test_contradictions() -> None:
    check = resolutions.contradiction
    assert check(KEPT, {"a": "1", "other": "3"}) == ""
    assert check(KEPT, {"a": "2"}) == "a 1 was expected, 2 was installed"
    assert check(KEPT, {"a": "1", "b": "3"}) == "b removed was expected, 3 was installed"
    assert check(KEPT, {}) == "a 1 was expected, nothing was installed"
