"""The doctor resolves the packages of an m.json as their build would, and leaves nothing but an index."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildstep.events import Bus
from buildstep.images.importing import Importer
from buildstep.pool.journal import open_journal
from tests.integration.repository import Repository, make_repository
from tests.integration.yard import Yard, environment

Private = Callable[[Callable[[], Any]], Any]
REPO = Path(__file__).parents[2]


@pytest.fixture
def repository(place: Yard, tmp_path: Path) -> Repository:
    made = make_repository(place, tmp_path / "repository")
    made.put("beta", "1.0")
    made.put("alpha", "1.0", depends="beta")
    return made


def import_base(place: Yard, private: Private) -> None:
    def job() -> None:
        store, _ = place.open(Bus(), environment(None))
        with open_journal(store.backend.state, "a test") as journal:
            Importer(store, journal).ensure(f"tar:{place.base}")

    private(job)


def doctor(place: Yard, *packages: str, **build: object) -> tuple[int, dict[str, tuple[str, str]], str]:
    """Its exit code, what it says of packages (level and text, by place), and the fixes."""
    document = {
        "name": "hello", "version": "1",
        "build": {"image": f"tar:{place.base}", "packages": list(packages), **build},
    }  # fmt: skip
    argv = [sys.executable, "-P", "-m", "buildstep", "doctor", "--json", "--pool", place.pool]
    done = subprocess.run(
        [*argv, json.dumps(document), os.fspath(place.proto)], capture_output=True, text=True, check=False,
        env={**environment(None), **place.environ, "PYTHONPATH": os.fspath(REPO)}, cwd=place.out.parent,
    )  # fmt: skip
    assert done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    found = [row for row in json.loads(done.stdout)["findings"] if row["area"] == "packages"]
    fixes = " ".join(row["fix"] for row in found)
    return done.returncode, {row["where"]: (row["level"], row["what"]) for row in found}, fixes


def kept(place: Yard) -> set[str]:
    """What is in the pool, but for the package manager's cache and the files that only locks are taken of."""
    top = place.out.parent / "pool"
    found = [path for name in ("build", "layer", "state") for path in (top / name).rglob("*")]
    return {text for text in map(os.fspath, found) if not re.search("state/(packages|locks)", text)}


def test_packages_are_resolved_as_a_build_resolves_them(
    place: Yard, repository: Repository, private: Private
) -> None:
    import_base(place, private)
    before = kept(place)
    url = f"http://127.0.0.1:{repository.port}/"
    with repository.served():
        status, told, _ = doctor(place, "alpha", "beta=1.0", "base-files")
        assert status == 0, told
        assert told["alpha"] == told["beta=1.0"] == ("ok", "1.0 can be had")
        assert told["base-files"] == ("ok", "is in the base image")
        assert told["resolving"] == ("ok", "2 packages would be installed or upgraded")
        assert told[f"{url}Release"][0] == "ok"
        # The index is young now: nothing is fetched, but one that lacks a name is refreshed, as in a build.
        repository.put("gamma", "2.0")
        assert doctor(place, "gamma")[1]["gamma"] == ("ok", "2.0 can be had")
        status, told, _ = doctor(place, "beta", "no-such-package", "alpha=9", "gamma:arm64")
        ((level, text),) = [row for where, row in told.items() if where.startswith("beta, ")]
        assert (status, level) == (12, "error")
        assert "failed for no-such-package, gamma:arm64, alpha" in text
    # Offline: the index of before is asked, and that is said; so is each source that does not answer.
    status, told, _ = doctor(place, "alpha", index_max_age=0)
    assert (status, told["alpha"]) == (0, ("ok", "1.0 can be had"))
    assert (told["index"][0], "index of 0.0 h ago is asked" in told["index"][1]) == ("warning", True)
    assert told[f"{url}InRelease"][0] == "warning"
    after = kept(place)
    assert after - before == set(), "neither a clone nor a layer nor a journal is left"


def test_without_any_index_that_is_an_error(place: Yard, repository: Repository, private: Private) -> None:
    import_base(place, private)
    del repository
    status, told, fixes = doctor(place, "alpha")
    assert (status, told["index"][0]) == (12, "error")
    assert fixes
