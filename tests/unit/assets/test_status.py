"""What a host wants, has and runs, with a store in memory and a register in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from buildstep.assets import open_register
from buildstep.assets.activate import Hooks, roll_back
from buildstep.assets.interface import Register, RegisterAccess
from buildstep.assets.mapping import add
from buildstep.assets.metrics import text_of
from buildstep.assets.retention import Retention
from buildstep.assets.status import METRICS, Status, gather, lines, metrics
from buildstep.errors import StoreError
from buildstep.events import Bus
from tests.unit.assets.pulling import MemoryAssets, pulled, simple
from tests.unit.assets.test_metrics import parse

CLOCK = 1764455699.5


class Host:
    """A host with a store of assets and a register."""

    def __init__(self, top: Path) -> None:
        self.top, self.install = top, top / "services"
        self.register: Register = open_register(
            f"file:{top}/maps.json", RegisterAccess(environ={}, bus=Bus())
        )
        self.store = MemoryAssets()

    def push(self, service: str, version: str, text: str = "") -> None:
        self.store.add(f"{service}-{version}.tar.gz", simple(text or version))

    def pull(self, *services: str, **how: Any) -> None:
        pulled(self.store, self.install, *services, **how).check()

    def status(self, keep: int = 0, host: str = "web-1") -> Status:
        return gather(
            host=host, install=self.install, register=self.register, store=self.store,
            retention=Retention(keep=keep), clock=lambda: CLOCK,
        )  # fmt: skip


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    add(made.register, "web-*", ["web"])
    made.push("web", "1.0")
    return made


def told(status: Status) -> dict[str, dict[str, str]]:
    return {row.service: {it.version: str(it.state) for it in row.versions} for row in status.services}


def test_from_nothing_to_up_to_date(host: Host) -> None:
    before = host.status()
    assert told(before) == {"web": {"1.0": "missing"}}
    assert not before.up_to_date
    assert list(lines(before)) == [
        "web-1: web-* -> web",
        "web: no version is current; 0 of 1 installed",
        "  1.0: missing, is not there yet",
        "not up to date: `buildstep assets pull`",
    ]
    host.pull("web", activate=True)
    after = host.status()
    assert told(after) == {"web": {"1.0": "ok"}}
    assert after.up_to_date
    assert list(lines(after)) == ["web-1: web-* -> web", "web: runs 1.0; 1 of 1 installed", "up to date"]


def test_each_way_in_which_a_host_can_differ(host: Host) -> None:
    for version in ("1.1", "1.2", "1.3"):
        host.push("web", version)
    add(host.register, "*", ["old"])
    host.push("old", "1")
    host.pull("web", "old", activate=True)
    host.push("web", "1.4")
    host.push("web", "1.2", "another one")
    os.unlink(host.install / "web/1.3/.buildstep-asset.json")
    found = host.status(keep=4)
    assert told(found) == {
        "old": {"1": "extra"},
        "web": {"1.4": "missing", "1.3": "unmarked", "1.2": "changed", "1.1": "ok", "1.0": "extra"},
    }
    web = found.services[1]
    assert (web.current, web.newest, web.told) == ("1.3", "1.4", "runs 1.3, the newest is 1.4")
    assert found.losers == ["*"]
    assert [row.mapped for row in found.services] == [False, True]


def test_a_version_that_was_rolled_back_says_why_it_does_not_run(host: Host) -> None:
    host.pull("web", activate=True)
    host.push("web", "1.1")
    host.pull("web", activate=True)
    roll_back(host.install, "web", Hooks(), Bus())
    host.pull("web", activate=True)
    (web,) = host.status().services
    assert web.told == "runs 1.0, the newest is 1.1, which is not activated: it was rolled back"
    assert (web.previous, web.rejected, web.up_to_date) == ("1.1", "it was rolled back", True)
    found = parse(text_of(metrics(host.status())))
    assert found["buildstep_assets_rejected_info", (("service", "web"), ("version", "1.1"))] == 1


def test_notes_of_activations_that_cannot_be_read_are_told(host: Host) -> None:
    host.pull("web", activate=True)
    (host.install / "web/.buildstep-activations.json").write_text("{")
    (web,) = host.status().services
    assert (web.current, "cannot be read" in web.error) == ("1.0", True)


def test_a_register_that_cannot_be_asked_leaves_what_the_disk_tells(host: Host) -> None:
    host.pull("web", activate=True)
    (host.top / "maps.json").write_text("{")
    found = host.status()
    assert list(found.errors) == ["register"]
    assert told(found) == {"web": {"1.0": "unknown"}}
    assert found.services[0].current == "1.0"
    assert found.services[0].mapped is None
    assert not found.up_to_date
    assert found.to_json()["errors"]["register"]


def test_a_store_that_cannot_be_asked_leaves_what_the_disk_tells(host: Host) -> None:
    host.pull("web")

    def fail(call: str, _name: str) -> None:
        raise StoreError(f"no {call} today")

    host.store.before = fail
    found = host.status()
    assert list(found.errors) == ["store"]
    assert told(found) == {"web": {"1.0": "unknown"}}
    assert not found.up_to_date


def test_a_service_that_cannot_be_listed_keeps_no_other_from_being_told(host: Host) -> None:
    add(host.register, "web-*", ["api"])
    host.push("api", "3")
    host.pull("web", "api")

    def fail(call: str, name: str) -> None:
        if (call, name) == ("list", "api"):
            raise StoreError("denied")

    host.store.before = fail
    found = host.status()
    assert told(found) == {"api": {"3": "unknown"}, "web": {"1.0": "ok"}}
    assert [row.error for row in found.services] == ["denied", ""]
    assert not found.up_to_date


def test_a_service_without_an_asset_is_told(host: Host) -> None:
    add(host.register, "web-*", ["nothing"])
    found = host.status()
    assert found.services[0].error == "the store has no version that is wanted"
    assert not found.up_to_date


def test_a_host_that_no_pattern_matches_wants_nothing(host: Host) -> None:
    found = host.status(host="db-1")
    assert (found.pattern, found.services, found.up_to_date) == ("", [], True)
    assert lines(found)[0] == "db-1: no mapping matches it"


def test_metrics_say_the_same(host: Host) -> None:
    host.pull("web", activate=True)
    host.push("web", "1.1")
    found = parse(text_of(metrics(host.status())))
    values = {
        f"{name}{''.join(f' {value}' for _, value in labels)}": number
        for (name, labels), number in found.items()
    }
    assert values.pop("buildstep_assets_last_install_timestamp_seconds web") > 1e9
    assert {name.removeprefix("buildstep_assets_"): number for name, number in values.items() if number} == {
        "reachable register": 1,
        "reachable store": 1,
        "services web-*": 1,
        "versions web ok": 1,
        "versions web missing": 1,
        "current_info web 1.0": 1,
        "newest_info web 1.1": 1,
        "status_timestamp_seconds": CLOCK,
    }
    assert {name for name, _ in found} <= set(METRICS)


def test_metrics_without_a_register_do_not_claim_that_nothing_is_mapped(host: Host) -> None:
    host.pull("web")
    (host.top / "maps.json").write_text("{")
    found = parse(text_of(metrics(host.status())))
    names = {name for name, _ in found}
    assert found["buildstep_assets_reachable", (("what", "register"),)] == 0
    assert found["buildstep_assets_up_to_date", ()] == 0
    assert "buildstep_assets_services" not in names
    assert ("buildstep_assets_reachable", (("what", "store"),)) not in found
