"""A rebuild on an agent with an empty pool takes what there is from a shared cache in a directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

from tests.integration.conftest import demand
from tests.integration.support import LIMIT, REPOSITORY
from tests.integration.test_shared_cache import Agents, with_base

POLICY = """\
format = 1

[[key]]
name = "ci"
file = "ci.pub"
scopes = ["main"]
"""


class Rebuilt(NamedTuple):
    """How a rebuild ended."""

    status: int
    said: str
    value: dict[str, Any]


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Agents:
    """Agents of which the first has built, and has put it into the cache signed."""
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror", "rsync")
    found = Agents(tmp_path_factory.mktemp("agents"))
    with_base(found, "one")
    key = found.top / "ci"
    command(found, "keygen", os.fspath(key))
    (found.top / "policy.toml").write_text(POLICY)
    done = found.build("one", **environ(found), BUILDSTEP_CACHE_KEY=f"{key}.key")
    assert done.status == 0, done.said
    assert "uploaded to the shared cache" in done.said
    return found


def environ(place: Agents) -> dict[str, str]:
    return {"BUILDSTEP_CACHE_POLICY": os.fspath(place.top / "policy.toml")}


def command(place: Agents, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    keep = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
    return subprocess.run(
        [sys.executable, "-P", "-m", "buildstep", *words], capture_output=True, text=True, check=False,
        timeout=4 * LIMIT, cwd=place.top, env={**keep, "PYTHONPATH": os.fspath(REPOSITORY), **more},
    )  # fmt: skip


def rebuilt(place: Agents, pool: str, *words: str, **more: str) -> Rebuilt:
    record = place.top / "one-out/web-1.0.buildrecord.json"
    done = command(
        place, "rebuild", "--json", os.fspath(record), "-o", f"{pool}-again", "--pool",
        f"overlay:{place.top / pool}", *words, **more,
    )  # fmt: skip
    return Rebuilt(done.returncode, done.stderr, json.loads(done.stdout) if done.stdout else {})


def test_base_and_packages_come_from_a_directory(agents: Agents) -> None:
    done = rebuilt(agents, "two", "--shared-cache", agents.url, **environ(agents))
    assert done.status == 0, done.said
    assert done.value["compared"] == ["tree", "oci", "oci image"]
    where = {row["input"]: row["from"] for row in done.value["inputs"]}
    assert [where[name] for name in where if name.startswith(("base", "the layer"))] == [agents.url] * 2
    assert "packages were not installed again" in done.value["notes"][0]
    assert not list((agents.top / "two/state/proving").iterdir())


def test_package_files_of_the_pool_come_before_the_layer(agents: Agents) -> None:
    debs = agents.top / "three/state/packages/apt/debs"
    debs.parent.mkdir(parents=True, mode=0o700)
    shutil.copytree(agents.top / "one/state/packages/apt/debs", debs)
    done = rebuilt(agents, "three", "--shared-cache", agents.url, **environ(agents))
    assert done.status == 0, done.said
    assert done.value["notes"] == []
    assert [row["from"] for row in done.value["inputs"]][-1] == os.fspath(debs)


def test_what_is_missing_is_named_with_where_it_was_looked_for(agents: Agents) -> None:
    strict = agents.top / "strict.toml"
    strict.write_text('format = 1\n[unsigned]\nscopes = ["branch/*"]\n')
    for url, why, policy in (
        (agents.url, "nobody", os.fspath(strict)),
        (f"dir:{agents.top / 'nothing'}", "nothing", environ(agents)["BUILDSTEP_CACHE_POLICY"]),
        ("https://127.0.0.1:9/cache", "over a network alone", environ(agents)["BUILDSTEP_CACHE_POLICY"]),
    ):
        done = rebuilt(agents, "four", "--shared-cache", url, BUILDSTEP_CACHE_POLICY=policy)
        assert done.status == 38, done.said
        assert url in done.said
        assert why in done.said
