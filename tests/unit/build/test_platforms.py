"""What a build for another platform needs, known before anything is touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.build import cache_inputs, platforms
from buildstep.errors import ImageError, ToolMissing
from buildstep.images.store import ImageStore
from buildstep.rootfs import emulation
from buildstep.spec.fields import BuildSpec, OciConfig
from tests.unit.build.test_plan import IMAGE

SPEC = BuildSpec(
    name="web", version="1.0", source="m.json", manifest={}, origin_of={}, image="x", proto=Path("/proto"),
    image_prefix="web", output_dir=Path("/out"),
)  # fmt: skip
ARM = replace(SPEC, platform="linux/arm64")


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulation, "can_run", lambda platform: platform.architecture == "amd64")


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("platform", "config", "running", "refused"),
    [
        ("linux/arm64", {}, ["import", "clone", "sync", "emit"], ""),
        ("linux/arm64", {}, ["clone", "packages", "run"], "installing packages"),
        ("linux/arm64", {}, ["run"], "build.run"),
        ("linux/amd64", {}, ["packages"], ""),
        (None, {}, ["packages"], ""),
        (None, {"architecture": "arm64", "os": "linux"}, ["packages"], "installing packages"),
        (None, {"architecture": "amd64", "os": "linux"}, ["packages"], ""),
    ],
)
def test_only_steps_that_run_programs_need_an_emulator(
    platform: str | None, config: dict[str, str], running: list[str], refused: str
) -> None:
    spec, image = replace(SPEC, platform=platform), replace(IMAGE, config=config)
    if not refused:
        platforms.check_programs(spec, image, running)
        return
    with pytest.raises(ToolMissing) as caught:
        platforms.check_programs(spec, image, running)
    assert refused in caught.value.message


@pytest.mark.usefixtures("nothing_runs")
def test_checks_need_an_emulator_where_they_run_something() -> None:
    looked = replace(ARM, checks={"fileExistenceTests": [{"name": "a", "path": "/a"}]})
    platforms.check_programs(looked, None, ["check"])
    started = replace(ARM, checks={"commandTests": [{"name": "a", "command": "true"}]})
    with pytest.raises(ToolMissing, match=r"build\.checks"):
        platforms.check_programs(started, None, ["check"])


def test_a_base_of_another_platform_is_refused() -> None:
    store: Any = ImageStore
    image = replace(IMAGE, config={"architecture": "amd64"})
    platforms.check_base(SPEC, image, store, {})
    platforms.check_base(replace(SPEC, platform="linux/amd64"), image, store, {})
    with pytest.raises(ImageError, match=r"is for linux/amd64, not for linux/arm64"):
        platforms.check_base(ARM, image, store, {})


def test_two_platforms_of_one_component_have_names_and_notes_of_their_own() -> None:
    assert ARM.basename == f"{SPEC.basename}-arm64"
    assert replace(SPEC, platform="linux/arm/v7").basename == f"{SPEC.basename}-arm-v7"
    assert ARM.ref_name != SPEC.ref_name
    assert cache_inputs.component(ARM) != cache_inputs.component(SPEC)
    assert (ARM.architecture, SPEC.architecture) == ("arm64", "")
    assert replace(SPEC, oci=OciConfig(architecture="s390x")).architecture == "s390x"
    assert ARM.output_dir == SPEC.output_dir
