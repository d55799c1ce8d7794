"""What is said of a shared cache: in which order, relative to what, and every fault at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import SpecError
from buildstep.spec import shared_cache
from buildstep.spec.shared_cache import SharedCache
from tests.unit.specdata import Load, faults, with_build


def merged(
    tmp_path: Path,
    given: bool | dict[str, Any] = True,
    flags: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    environ: dict[str, str] | None = None,
) -> SharedCache | None:
    return shared_cache.merged(given, flags or {}, config or {}, environ or {}, tmp_path)


def test_nothing_is_shared_where_nobody_asks_for_it_or_where_nothing_may_be_reused(tmp_path: Path) -> None:
    assert merged(tmp_path) is None
    assert merged(tmp_path, {"scope": "branch/x"}) is None
    assert merged(tmp_path, False, {"shared": "s3://a"}) is None


def test_flags_win_over_the_file_over_the_configuration_over_variables(tmp_path: Path) -> None:
    where = [{"shared": f"s3://{name}", "scope": f"branch/{name}"} for name in ("flag", "file", "config")]
    environ = {"BUILDSTEP_SHARED_CACHE": "s3://variable", "BUILDSTEP_CACHE_SCOPE": "branch/variable"}
    for name in ("flag", "file", "config"):
        flags, given, config = where
        found = merged(tmp_path, given or True, flags, config, environ)
        assert found is not None
        assert (found.url, found.scope) == (f"s3://{name}", f"branch/{name}")
        where[("flag", "file", "config").index(name)] = {}
    assert merged(tmp_path, environ=environ) == SharedCache(url="s3://variable", scope="branch/variable")


def test_each_key_is_taken_from_where_it_is_said(tmp_path: Path) -> None:
    found = merged(tmp_path, {"budget": 0.5}, {"required": True}, {"shared": "s3://a", "min_cost": 0})
    assert found == SharedCache(url="s3://a", budget=0.5, required=True, min_cost=0)


@pytest.mark.parametrize(("text", "value"), [("0", False), ("yes", True), ("detach", "detach")])
def test_a_variable_says_whether_to_upload(tmp_path: Path, text: str, value: object) -> None:
    found = merged(tmp_path, environ={"BUILDSTEP_SHARED_CACHE": "s3://a", "BUILDSTEP_CACHE_UPLOAD": text})
    assert found is not None
    assert found.upload == value


def test_paths_are_relative_to_where_they_are_given(build: Load, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").touch()
    spec = build(with_build(cache={"shared": "dir:cache", "policy": "policy.toml", "key": "~/key"}))
    assert spec.cache == {
        "shared": f"dir:{tmp_path}/cache",
        "policy": f"{tmp_path}/policy.toml",
        "key": os.path.expanduser("~/key"),
    }
    assert spec.to_json()["cache"] == spec.cache


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    config = {"shared": "s3://a", "key": f"{tmp_path}/none", "trust": "release"}
    with pytest.raises(SpecError) as raised:
        merged(tmp_path, config=config, environ={"BUILDSTEP_CACHE_SCOPE": "x y"})
    assert {fault.where for fault in raised.value.faults} == {"cache.scope", "cache.key", "cache.trust"}


def test_flags_and_variables_are_held_to_the_same_rules(build: Load) -> None:
    assert faults(build, flags={"shared_cache": "ftp://a"}).keys() == {"--shared-cache"}
    assert faults(build, flags={"cache_trust": "none"}).keys() == {"--cache-trust"}
    spec = build(flags={"shared_cache": "s3://a", "cache_required": True, "cache_trust": "release"})
    assert (spec.shared_cache, spec.cache_required, spec.cache_trust) == ("s3://a", True, "release")
