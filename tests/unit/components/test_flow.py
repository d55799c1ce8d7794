"""Builds of components whose jobs are hooks: what they hand over, what is kept, and what is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.components import flow
from buildstep.components.base_images import find_bases, known_bases
from buildstep.components.builders import Buildah
from buildstep.components.console import View
from buildstep.components.flow import How, Opened, build, open_components, recorded
from buildstep.components.interface import GraphError, State
from buildstep.components.run import Rules
from buildstep.components.settings import Flags
from buildstep.errors import ToolMissing, UsageError
from buildstep.report.job_view import Silent
from buildstep.tree.scan import fingerprint_of
from tests.unit.components.componentdata import write

pytestmark = pytest.mark.commands("build-pre.sh", "build-post.sh")

TOML = "[hooks]\nsandbox = false\n"
LOW = "#!/bin/sh\ncat src/low/source > $BUILDSTEP_GENERATED_DIR/product\ntouch src/low/dropping\n"
HIGH = (
    "#!/bin/sh\ncat $BUILDSTEP_DEPENDENCY_DIR/low/generated/product $BUILDSTEP_CHANGED_FILES"
    " > $BUILDSTEP_GENERATED_DIR/all\n"
)
REPOSITORY = {
    "components.toml": TOML,
    "src/low/build/build-pre.sh": LOW,
    "src/low/source": "one\n",
    "src/high/build/build-pre.sh": HIGH,
    "src/high/build/build-post.sh": "#!/bin/sh\ntest -s src/high/generated/all\n",
    "src/high/build/component.dep": "low\n",
    "src/high/a": "a",
}


class Rig:
    """A repository on disk, opened anew for each build."""

    def __init__(self, top: Path) -> None:
        self.root, self.state = write(top / "repo", REPOSITORY), top / "state"
        self.told: list[str] = []

    def open(self) -> Opened:
        return open_components(self.root, Flags(), environ={"HOME": "/nowhere"}, state=self.state)

    def build(self, *names: str, keep: bool = False, rules: Rules = Rules()) -> dict[str, State]:  # noqa: B008
        how = How(rules=rules, keep=keep, at_once=1, tell=self.told.append)
        self.outcome = build(self.open(), names, View(Silent()), how)
        return {name: result.state for name, result in self.outcome.results.items()}

    def product(self, job: str) -> Path:
        return self.state / "products" / self.outcome.results[job].output.removeprefix("sha256:")


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_products_go_from_hook_to_hook_and_the_sources_stay_as_they_are(rig: Rig) -> None:
    before = fingerprint_of(rig.root)
    assert set(rig.build().values()) == {State.BUILT}
    assert list(rig.outcome.results) == ["low:pre", "high:pre", "high:post"]
    text = (rig.product("high:pre") / "generated/all").read_text()
    assert text.startswith("one\na\nbuild/")
    assert fingerprint_of(rig.root) == before
    assert not (rig.state / "stage").exists()
    assert set(rig.build().values()) == {State.REUSED}


def test_a_hook_is_told_which_files_changed_since_it_last_ran(rig: Rig) -> None:
    rig.build()
    write(rig.root, {"src/high/a": "b", "src/high/new": "n"})
    assert rig.build()["low:pre"] is State.REUSED
    assert (rig.product("high:pre") / "generated/all").read_text() == "one\na\nnew\n"


def test_d06_a_hook_that_makes_the_same_again_builds_nobody_else(rig: Rig) -> None:
    rig.build()
    write(rig.root, {"src/low/build/build-pre.sh": LOW + "# a comment\n"})
    states = rig.build()
    assert (states["low:pre"], states["high:pre"]) == (State.BUILT, State.REUSED)


def test_a_stage_goes_when_the_last_job_of_its_component_has_ended(rig: Rig) -> None:
    write(rig.root, {
        "src/high/build/build-post.sh": f"#!/bin/sh\nls {rig.state}/stage > $BUILDSTEP_GENERATED_DIR/stages\n",
    })  # fmt: skip
    rig.build()
    assert (rig.product("high:post") / "generated/stages").read_text() == "high\n"


def test_d11_stages_are_left_where_that_is_asked_for(rig: Rig) -> None:
    rig.build("low", keep=True)
    assert rig.told == [f"the staged components are kept: {rig.state / 'stage'}"]
    assert (rig.state / "stage/low/src/low/dropping").exists()
    rig.build()
    assert not (rig.state / "stage").exists()


def test_d12_what_ends_a_build_before_its_first_job_is_told_and_leaves_nothing(rig: Rig) -> None:
    with pytest.raises(UsageError, match="no executor has the name 'locals'") as caught:
        build(rig.open(), (), View(Silent()), How(executor="locals"))
    assert caught.value.hint == "did you mean local?"
    assert not (rig.state / "stage").exists()
    write(rig.root, {"src/low/build/component.dep": "high\n"})
    with pytest.raises(GraphError, match="cycle"):
        rig.build()
    assert not (rig.state / "stage").exists()


def test_d10_a_name_is_taken_as_it_is_written(rig: Rig) -> None:
    write(rig.root, {"src/Upper/build/build-pre.sh": "#!/bin/sh\n"})
    assert rig.build("Upper") == {"Upper:pre": State.BUILT}
    with pytest.raises(UsageError, match="upper"):
        rig.build("upper")


def test_a_failing_hook_has_its_output_in_a_log_and_the_next_run_begins_there(rig: Rig) -> None:
    write(rig.root, {"src/high/build/build-pre.sh": "#!/bin/sh\necho why it failed; exit 3\n"})
    states = rig.build()
    assert states == {"low:pre": State.BUILT, "high:pre": State.FAILED, "high:post": State.BLOCKED}
    result = rig.outcome.results["high:pre"]
    assert result.log is not None
    assert result.log.read_text() == "why it failed\n"
    assert "exited with status 3" in result.message
    write(rig.root, {"src/high/build/build-pre.sh": HIGH})
    assert rig.build()["low:pre"] is State.REUSED


def test_what_was_built_is_known_only_for_the_sources_as_they_are(rig: Rig) -> None:
    rig.build()
    assert all(recorded(rig.open(), ["low:pre", "high:pre"]).values())
    write(rig.root, {"src/low/source": "two\n"})
    assert recorded(rig.open(), ["low:pre", "high:pre"]) == {"low:pre": None, "high:pre": None}


def test_an_image_without_a_builder_fails_and_says_what_is_missing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, environ: object) -> Buildah:
        raise ToolMissing("nothing is here that builds Dockerfiles", hint="apt-get install buildah")

    monkeypatch.setattr(flow, "open_builder", missing)
    write(rig.root, {"src/low/build/low.common.dockerfile": "FROM scratch\n"})
    states = rig.build("low")
    assert states == {"low:pre": State.BUILT, "low": State.FAILED}
    assert "apt-get install buildah" in rig.outcome.results["low"].message
    known_bases(rig.open())  # a plan needs no builder


class Shelf:
    """A builder's store, with the registry that it fetches from."""

    def __init__(self, *names: str) -> None:
        self.names, self.fetched = list(names), []  # type: tuple[list[str], list[str]]

    def resolve(self, text: str, _platform: str) -> str:
        return "sha256:1" if text in self.names else ""

    def fetch(self, text: str, _platform: str, _run: object) -> None:
        self.fetched.append(text)
        self.names.append(text)


@pytest.mark.parametrize(("setting", "most", "there", "fetched"), [
    ("missing", "always", False, True),
    ("missing", "always", True, False),
    ("always", "always", True, True),
    ("always", "missing", True, False),
    ("always", "missing", False, True),
    ("never", "missing", False, False),
    ("always", "never", False, False),
])  # fmt: skip
def test_a_base_is_fetched_where_the_setting_and_the_caller_allow_it(
    rig: Rig, setting: str, most: str, there: bool, fetched: bool
) -> None:
    write(rig.root, {
        "components.toml": f'pull = "{setting}"\n', "src/low/build/low.dockerfile": "FROM elsewhere:1\n",
    })  # fmt: skip
    shelf = Shelf(*["elsewhere:1"] * there)
    opened = replace(rig.open(), builder=lambda: shelf)  # type: ignore[arg-type,return-value]
    find_bases(opened, opened.graph.jobs, rig.told.append, pull=most)
    assert shelf.fetched == ["elsewhere:1"] * fetched
    assert list(opened.bases.values()) == ["sha256:1"] * (there or fetched)
