"""What decides a shared layer is the same on every agent, and nothing of an agent is in it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from buildstep.build import shared_keys
from buildstep.cache.remote.interface import Record
from buildstep.cache.resolutions import KeptResolution
from buildstep.cache.shared import record_key
from buildstep.images.record import ImageRecord
from buildstep.spec.load import BuildSpec
from tests.unit.spec.conftest import build
from tests.unit.spec.test_repositories import ARMORED
from tests.unit.specdata import Load, with_build

__all__ = ["build"]

IMAGE = ImageRecord(
    uuid="11111111-2222-3333-4444-555555555555", key="mmdebstrap:bookworm", label="base", tree_digest="t",
    fingerprint="f", manifest={}, inputs={}, packages=(), config={}, imported=0.0, files=1, size=1,
    list_digest="l", installer="apt",
)  # fmt: skip
ANSWER = KeptResolution(index="i", versions={"nginx": "1.0"}, exact=True, asked=1000.0)


@pytest.fixture
def spec(build: Load) -> BuildSpec:
    return build(with_build(packages=["nginx"], order="packages-first", installer="auto"))


def test_a_key_has_the_list_of_the_base_and_nothing_of_an_agent(spec: BuildSpec) -> None:
    one = shared_keys.question(spec, IMAGE, {"HOME": "/home/a"})
    other = shared_keys.question(spec, IMAGE, {"HOME": "/home/b", "HOSTNAME": "b"})
    assert one == other
    assert one["base image"] == "l"
    text = json.dumps(one)
    assert not any(word in text for word in (spec.name, str(spec.proto), str(spec.output_dir)))
    wanted = record_key("packages", shared_keys.packages(one, ANSWER))
    assert wanted == record_key("packages", shared_keys.packages(other, ANSWER))
    newer = KeptResolution(index="j", versions={"nginx": "1.1"}, exact=True, asked=1000.0)
    assert wanted != record_key("packages", shared_keys.packages(one, newer))


def test_a_base_that_is_not_here_yet_asks_the_same(spec: BuildSpec) -> None:
    facts = {"tree_digest": "t", "list_digest": "l", "installer": "apt"}
    record = Record(kind="base", key="a" * 64, facts=facts)
    there = shared_keys.question(spec, shared_keys.of_record(record), {})
    assert there == shared_keys.question(spec, IMAGE, {})


def test_the_mirror_decides_an_answer_and_no_layer(spec: BuildSpec) -> None:
    near, far = (
        shared_keys.question(spec, IMAGE, {"BUILDSTEP_APT_MIRROR": f"http://{name}/debian"}) for name in "ab"
    )
    assert shared_keys.packages(near, ANSWER) == shared_keys.packages(far, ANSWER)
    assert shared_keys.answers(spec, near, "r", 7200.0) != shared_keys.answers(spec, far, "r", 7200.0)
    secret = shared_keys.question(spec, IMAGE, {"BUILDSTEP_APT_MIRROR": "http://user:word@a/debian"})
    assert "word" not in json.dumps(shared_keys.answers(spec, secret, "r", 7200.0))


def test_a_record_shows_nobody_s_secrets(build: Load) -> None:
    """What packages are asked for with decides the key, and is in clear in a record that many can read."""
    found = []
    for word in ("hidden-one", "hidden-two"):
        options = {
            "env": {"PROXY": f"http://me:{word}@proxy"}, "mirror": f"http://me:{word}@mirror/debian",
            "repositories": [
                {"name": "own", "uris": [f"https://{word}@host/debian"], "suites": ["./"], "signed_by": ARMORED}
            ],
        }  # fmt: skip
        spec = build(with_build(packages=["nginx"], order="packages-first", installer_options=options))
        asked = shared_keys.question(spec, IMAGE, {})
        text = json.dumps(
            [asked, shared_keys.packages(asked, ANSWER), shared_keys.answers(spec, asked, "r", 7200.0)]
        )
        assert "hidden" not in text
        assert "PROXY" in text, "so that a miss can be told by its name"
        found.append(record_key("packages", shared_keys.packages(asked, ANSWER)))
    assert found[0] != found[1]


def test_an_answer_holds_for_its_release_files_or_for_an_hour(spec: BuildSpec) -> None:
    asked = shared_keys.question(spec, IMAGE, {})
    rows = shared_keys.answers(spec, asked, "r", 7300.0)
    assert [(row.get("release"), row.get("hour")) for row in rows] == [("r", None), (None, 2), (None, 1)]
    assert len(shared_keys.answers(spec, asked, "", 7300.0)) == 2


@pytest.mark.parametrize(
    ("build_part", "why"),
    [
        ({"packages": []}, "no packages"),
        ({"order": "proto-first"}, "proto-first"),
        ({"pkg_audit": True}, "audit"),
        ({"secrets": {"s": {"env": "S"}}, "installer_options": {"secrets": ["s"]}}, "secrets"),
        ({}, ""),
    ],
)
def test_what_is_private_or_of_today_is_not_shared(build: Load, build_part: dict[str, Any], why: str) -> None:
    given = {"packages": ["nginx"], "order": "packages-first", **build_part}
    spec = build(with_build(**given), environ={"S": "x"})
    found = shared_keys.shareable(spec)
    assert why in found
    assert bool(why) == bool(found)


def test_an_answer_from_the_future_is_of_now() -> None:
    facts = {"index": "i", "versions": {"a": "1"}, "exact": True, "asked": time.time() + 9999, "order": ["x"]}
    assert shared_keys.answer_of(facts).asked <= time.time()
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        shared_keys.answer_of({"index": "i", "versions": 3})
