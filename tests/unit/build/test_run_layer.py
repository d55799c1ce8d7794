"""Commands as layers: which are run again after which change, and that the image is the same in any case."""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildstep.build import run_layer
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.run_rows import Row
from buildstep.build.secrets import Secrets
from buildstep.errors import CommandFailed, SpecError
from buildstep.report.record import Command
from tests.unit.build.workshop import Workshop, make_workshop

pytestmark = pytest.mark.commands("cp", "find", "rsync")  # trees are really walked and copied

Do = Callable[[Path], None]


class Bench(Workshop):
    """A workshop whose commands are functions of the image's root, by the name of the row."""

    ran: list[str]
    doing: dict[str, Do]

    def execute(self, context: BuildContext, state: BuildState, row: Row) -> tuple[Command, Secrets]:
        self.ran.append(row.name)
        root = state.root.path
        saw = sorted(os.path.relpath(path, root) for path in root.rglob("*") if path.is_file())
        (root / "opt").mkdir(exist_ok=True)
        (root / "opt" / row.name).write_text("\n".join(name for name in saw if not name.startswith("opt/")))
        if row.name in self.doing:
            self.doing[row.name](root)
        done = Command(command=row.name, name=row.command.name)
        context.recorder.commands.append(done)
        return done, Secrets()

    def made(self, packages: Any = (), **build: Any) -> list[str]:
        """Build, and return the commands that ran."""
        time.sleep(
            0.03
        )  # files grow older than the clock's grain: what is as young as an index is read again
        self.ran.clear()
        self.build(packages, **build)
        return list(self.ran)

    def states(self) -> dict[str, str]:
        return {step.removeprefix("run:"): state for step, (state, _) in self.steps().items() if ":" in step}

    def content(self) -> dict[str, bytes]:
        with tarfile.open(self.out / "hello-1.0.0.tar") as tar:
            return {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}  # type: ignore[union-attr]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = make_workshop(tmp_path, monkeypatch)
    found = Bench(made.top, made.repository)
    found.ran, found.doing = [], {}
    monkeypatch.setattr(run_layer, "execute", found.execute)
    (found.proto / "srv/lock").write_text("1")
    (found.proto / "srv/app.js").write_text("1")
    return found


def row(name: str, *inputs: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "argv": [name], **({"inputs": list(inputs)} if inputs else {}), **more}


FIRST: dict[str, Any] = {
    "order": "packages-first",
    "run": [row("deps", "srv/lock"), row("build", "srv/*.js"), row("check")],
}


def test_only_what_a_change_touches_is_run_again(bench: Bench) -> None:
    assert bench.made(["a"], **FIRST) == ["deps", "build", "check"]
    assert bench.made(["a"], **FIRST) == []
    (bench.proto / "srv/page").write_text("other")
    assert bench.made(["a"], **FIRST) == ["check"], "the inputs of the others are as they were"
    assert bench.states() == {"deps": "reuse", "build": "reuse", "check": "run"}
    (bench.proto / "srv/app.js").write_text("2")
    assert bench.made(["a"], **FIRST) == ["build", "check"]
    (bench.proto / "srv/lock").write_text("2")
    assert bench.made(["a"], **FIRST) == ["deps", "build", "check"]
    assert bench.repository.installs == [("a",)]
    assert bench.made(["a", "b"], **FIRST) == ["deps", "build", "check"], "it stands on the packages"
    assert bench.made([], **FIRST) == ["deps", "build", "check"]
    assert bench.made([], **FIRST) == []


def test_a_command_with_inputs_sees_nothing_else_of_the_proto_directory(bench: Bench) -> None:
    bench.made([], formats=["tar"], compression="none", **FIRST)
    found = bench.content()
    assert found["opt/deps"] == b"srv/lock"
    assert found["opt/build"] == b"srv/app.js\nsrv/lock", "and what earlier ones had"
    assert found["opt/check"] == b"srv/app.js\nsrv/lock\nsrv/page"


@pytest.mark.parametrize("order", ["packages-first", "proto-first"])
@pytest.mark.parametrize("packages", [[], ["a"]])
def test_an_image_from_kept_results_is_the_one_that_is_made_without(
    bench: Bench, order: str, packages: list[str]
) -> None:
    def change(root: Path) -> None:
        (root / "opt/stamp").write_text("x")
        (root / "tmp").mkdir(exist_ok=True)
        (root / "tmp/rest").write_text("rest")

    bench.doing = dict.fromkeys(("deps", "build", "check"), change)
    build: dict[str, Any] = {**FIRST, "order": order}
    bench.made(packages, **build)
    (bench.proto / "srv/page").write_text("other")
    kept = bench.build(packages, **build)
    blobs = [row.digest for row in layers(bench)]
    assert bench.states()["deps"] == ("reuse" if order == "packages-first" else "run")
    fresh = bench.build(packages, cache=False, **build)
    assert kept.tree_digest == fresh.tree_digest
    assert blobs == [row.digest for row in layers(bench)], "layer by layer"


def layers(bench: Bench) -> Any:
    from buildstep.formats.oci.layout import open_layout
    from buildstep.formats.oci.spec import OciPlatform

    made = open_layout(bench.out / "hello-1.0.0.oci.tar", "made")
    return made.image(made.find(""), OciPlatform.here()).layers


def test_a_later_command_that_is_edited_leaves_the_earlier_ones(bench: Bench) -> None:
    build = {"run": [row("a"), "line", row("b"), row("c")]}
    assert bench.made([], **build) == ["a", "2", "b", "c"]
    build["run"][3] = row("c", env={"A": "1"})
    assert bench.made([], **build) == ["c"], "what has no name is under what has one"
    build["run"][1] = "other line"
    assert bench.made([], **build) == ["2", "b", "c"]
    build["run"][0] = row("renamed", argv=["a"]) | {"name": "renamed"}
    assert bench.made([], **build) == [], "a name decides nothing"


def test_a_failure_leaves_the_results_before_it(bench: Bench) -> None:
    def fails(_root: Path) -> None:
        raise CommandFailed(["b"], 1)

    bench.doing["build"] = fails
    with pytest.raises(CommandFailed):
        bench.made(["a"], **FIRST)
    bench.doing.clear()
    assert bench.made(["a"], **FIRST) == ["build", "check"]
    assert os.listdir(bench.top / "pool/build") == []


def test_a_mode_of_an_input_counts_and_its_time_does_not(bench: Bench) -> None:
    bench.made([], **FIRST)
    os.utime(bench.proto / "srv/lock", (1, 1))
    assert "deps" not in bench.made([], **FIRST)
    (bench.proto / "srv/lock").chmod(0o600)
    assert "deps" in bench.made([], **FIRST)


@pytest.mark.parametrize(("setting", "value"), [("modes", "0640"), ("owner", "0:0")])
def test_of_rules_only_what_they_say_of_an_input_counts(bench: Bench, setting: str, value: str) -> None:
    if os.geteuid() != 0 and setting == "owner":
        pytest.skip("only root has another owner")
    bench.made(["a"], **FIRST)
    assert bench.made(["a"], **FIRST, **{setting: {"srv/page": value}}) == ["check"]
    found = bench.made(["a"], **FIRST, **{setting: {"srv/app.js": "33:33" if setting == "owner" else value}})
    assert found == ["build", "check"]
    folder = {"srv": "33:33" if setting == "owner" else "D0750"}
    assert bench.made(["a"], **FIRST, **{setting: folder}) == ["deps", "build", "check"]


def test_inputs_that_are_not_there_are_told_together(bench: Bench) -> None:
    run = [row("a", "srv/lock", "srv/none"), row("b", "*.none")]
    with pytest.raises(SpecError) as caught:
        bench.plan([], run=run)
    assert [fault.where for fault in caught.value.faults] == [
        "$.build.run[0].inputs[1]", "$.build.run[1].inputs[0]",
    ]  # fmt: skip


def test_the_plan_tells_what_is_reused_and_why_not(bench: Bench) -> None:
    def told() -> dict[str, tuple[str, str]]:
        return {step.name: (step.state, step.reason) for step in bench.plan(["a"], **FIRST).full_steps}

    bench.made(["a"], **FIRST)
    found = told()
    assert {found[name][0] for name in ("packages", "run:deps", "run:build", "sync", "run:check")} == {
        "reuse"
    }
    (bench.proto / "srv/app.js").write_text("2")
    found = told()
    assert found["run:deps"][0] == "reuse"
    assert found["run:build"][0] == "run"
    assert "input.srv/app.js" in found["run:build"][1]
    assert found["sync"][0] == "run"


def test_a_damaged_layer_is_made_again(bench: Bench) -> None:
    bench.made(["a"], **FIRST)
    (bench.proto / "srv/page").write_text("other")
    cache = bench.open()[1]
    (record,) = [row for row in cache.records() if row.slot == "hello/run:build"]
    (place,) = (bench.top / "pool/layer" / record.key).rglob("opt/build")
    place.write_text("damaged")
    assert bench.made(["a"], **FIRST) == ["build", "check"]
    assert "is damaged" in bench.notes()


def test_the_content_of_an_input_takes_the_full_route_and_of_another_file_does_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buildstep.emit.split_layer.LAYER_TARGET", 4000)
    for number in range(40):
        (bench.proto / f"srv/{number}").write_bytes(os.urandom(2000))
    build: dict[str, Any] = {"order": "packages-first", "run": [row("deps", "srv/lock", "srv/1")]}
    bench.made(["a"], **build)
    (bench.proto / "srv/2").write_bytes(os.urandom(2000))
    assert bench.made(["a"], **build) == []
    assert "only the content of" in bench.steps()["run:deps"][1]
    updated = [blob.digest for blob in layers(bench)]
    tree = bench.build(["a"], cache=False, **build).tree_digest
    assert [blob.digest for blob in layers(bench)] == updated
    (bench.proto / "srv/2").write_bytes(os.urandom(2000))
    (bench.proto / "srv/1").write_bytes(os.urandom(2000))
    assert bench.made(["a"], **build) == ["deps"]
    assert bench.steps()["sync"][0] == "run"
    assert bench.build(["a"], cache=False, **build).tree_digest != tree
