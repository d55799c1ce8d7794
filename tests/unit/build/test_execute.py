"""execute(): the routes, what a failure in each step leaves, and that the outputs appear together."""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from buildstep.build.execute import execute
from buildstep.build.plan import plan as plan_build
from buildstep.build.steps import STEPS, in_order
from buildstep.build.steps.interface import Route
from buildstep.emit.oci_config import PATH
from buildstep.errors import EmitError
from buildstep.formats.oci.layout import open_layout
from buildstep.formats.oci.spec import OciPlatform
from buildstep.rootfs import packaging
from buildstep.system.root import Root
from tests.servers.layouts import layer, make_layout
from tests.unit.build.workshop import ENVIRON, Workshop, make_workshop

pytestmark = pytest.mark.commands("cp", "find", "rsync")  # trees are really walked and copied


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return make_workshop(tmp_path, monkeypatch)


def outputs(workshop: Workshop) -> set[str]:
    return set(os.listdir(workshop.out)) if workshop.out.exists() else set()


WHOLE = {
    "hello-1.0.0.oci.tar", "hello-1.0.0.imgmanifest", "hello-1.0.0.buildrecord.json", "hello-1.0.0.events.jsonl",
}  # fmt: skip


ASKED_FOR: dict[str, dict[str, Any]] = {
    "accounts": {"groups": [{"name": "g", "gid": 77}]},
    "run": {"run": ["true"]},
    "units": {"units": {"mask": ["x.service"]}},
    "trust": {"trust": True},
}
"""The steps that are only there where they are asked for, and what asks for each."""
ALL_ASKED_FOR = {name: value for asked in ASKED_FOR.values() for name, value in asked.items()}


def test_every_step_has_a_file_that_plans_and_runs() -> None:
    for step in STEPS:
        module = step.load()
        assert callable(module.plan)
        assert callable(module.run)
        assert Route.FULL in step.routes
    assert len({step.name for step in STEPS}) == len(STEPS)


def test_the_order_of_a_build_is_a_permutation_of_the_table(workshop: Workshop) -> None:
    for order in ("proto-first", "packages-first"):
        names = [step.name for step in in_order(workshop.spec(["a"], order=order, **ALL_ASKED_FOR))]
        assert sorted(names) == sorted(step.name.replace("run", "run:1") for step in STEPS)
        without = [step.name for step in in_order(workshop.spec(["a"], order=order))]
        assert without == [name for name in names if name.partition(":")[0] not in ASKED_FOR]


def test_commands_with_inputs_precede_the_proto_directory_where_packages_do(workshop: Workshop) -> None:
    run = ["a", {"name": "b", "argv": ["b"]}, {"name": "c", "argv": ["c"], "inputs": ["srv/page"]}]

    def middle(order: str, packages: list[str]) -> list[str]:
        names = [step.name for step in in_order(workshop.spec(packages, order=order, run=run))]
        return names[names.index("clone") + 1 : names.index("clean")]

    first = ["packages", "run:c", "sync", "run:1", "run:b"]
    assert middle("packages-first", ["a"]) == middle("packages-first", []) == first
    assert middle("proto-first", ["a"]) == ["sync", "packages", "run:1", "run:b", "run:c"]


def test_a_full_build_then_an_up_to_date_one(workshop: Workshop) -> None:
    first = workshop.build()
    assert outputs(workshop) == WHOLE
    assert list(workshop.steps()) == [step.name for step in STEPS if step.name not in ASKED_FOR]
    again = workshop.build()
    assert (again.uuid, again.tree_digest, again.files) == (first.uuid, first.tree_digest, first.files)
    assert {state for state, _ in workshop.steps().values()} == {"reuse"}
    assert outputs(workshop) == WHOLE


def test_what_is_kept_of_a_build_takes_no_memory_for_its_trees(workshop: Workshop) -> None:
    """The list of a large base takes more than all that is kept after the steps."""
    workshop.build()
    store, cache, bus = workshop.open()
    plan = plan_build(workshop.spec(version="2"), store, cache, environ=ENVIRON)
    assert plan.base
    execute(plan, store=store, cache=cache, bus=bus, environ=ENVIRON)
    assert not plan.base


def test_a_base_that_was_made_anew_since_the_plan_has_its_own_times(workshop: Workshop) -> None:
    """With the same tree otherwise."""
    base = workshop.top / "base.tar"

    def write_base(time: int) -> None:
        with tarfile.open(base, "w") as archive:
            member = tarfile.TarInfo("etc")
            member.type, member.mtime = tarfile.DIRTYPE, time
            archive.addfile(member)

    write_base(1000)
    workshop.build(image=f"tar:{base}")
    store, cache, bus = workshop.open()
    spec = workshop.spec(image=f"tar:{base}", formats=["tar"], compression="gzip")
    plan = plan_build(spec, store, cache, environ=ENVIRON)
    write_base(2000)
    execute(plan, store=store, cache=cache, bus=bus, environ=ENVIRON)
    (made,) = workshop.out.glob("*.tar.*")
    with tarfile.open(made) as archive:
        assert archive.getmember("etc").mtime == 2000


def test_a_base_whose_configuration_is_odd_is_built_on(workshop: Workshop) -> None:
    """Found by replacing its values at random: each of these ended a build when its files were written."""
    process = {"Env": True, "Volumes": "/data", "Labels": [None], "Cmd": ["sh"], "Mine": "\ud800"}
    odd = {"variant": ["v8"], "config": process, "history": 1}
    make_layout(workshop.top / "base", [layer({"etc/": b""})], config=odd)
    more = {"env": {"A": "1"}, "volumes": ["/srv"], "labels": {"a": "b"}}
    workshop.build(image=f"oci:{workshop.top}/base", oci=more)
    made = open_layout(workshop.out / "hello-1.0.0.oci.tar", "made")
    image = made.image(made.find(""), OciPlatform.here())
    found = json.loads(made.read(image.config))["config"]
    assert found.pop("Labels")["a"] == "b"
    assert found == {"Cmd": ["sh"], "Env": [PATH, "A=1"], "Volumes": {"/srv": {}}, "Mine": "\ud800"}
    for name in ("variant", "history", "config.Env", "config.Volumes", "config.Labels"):
        assert f"{name} of the base image's configuration is not what it may be" in workshop.notes()


def test_steps_are_the_same_in_events_record_and_result(workshop: Workshop) -> None:
    result = workshop.build(["a", "b"], order="packages-first")
    names = list(workshop.steps())
    assert names == [step["name"] for step in workshop.record()["steps"]]
    assert names == [step.name for step in result.recorder.steps]
    assert names == [step.name for step in in_order(workshop.spec(["a"], order="packages-first"))]
    total = sum(step["seconds"] for step in workshop.record()["steps"])
    assert total <= workshop.record()["seconds"] + 0.05


@pytest.mark.parametrize("step", [step.name for step in STEPS])
def test_a_failure_in_a_step_leaves_nothing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    row = next(row for row in STEPS if row.name == step)
    module = row.load()
    real = module.run

    def fails(*args: object) -> None:
        real(*args)  # type: ignore[arg-type]
        raise EmitError("made to fail")

    monkeypatch.setattr(module, "run", fails)
    inside = SimpleNamespace(run=lambda *_args, **_options: "", root=Root(workshop.top))
    monkeypatch.setattr(packaging, "enter", lambda *_args: contextlib.nullcontext(inside))
    asked = {"motd": {"motd": True}, **ASKED_FOR}
    with pytest.raises(EmitError, match="made to fail"):
        workshop.build(["a"], order="packages-first", source_repo="x", **asked.get(step, {}))
    assert outputs(workshop) == set()
    assert os.listdir(workshop.top / "pool/build") == []
    assert os.listdir(workshop.top / "pool/state/journal") == []
    assert workshop.steps()[step.replace("run", "run:1")][0] == "failed"
    monkeypatch.undo()


def test_an_earlier_image_stays_when_a_build_fails(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.build()
    before = {name: (workshop.out / name).read_bytes() for name in WHOLE}
    (workshop.proto / "srv/page").write_text("other")
    module = next(row for row in STEPS if row.name == "destroy").load()

    def fails(*_args: object) -> None:
        raise EmitError("made to fail")

    monkeypatch.setattr(module, "run", fails)
    with pytest.raises(EmitError):
        workshop.build()
    assert {name: (workshop.out / name).read_bytes() for name in outputs(workshop)} == before


def test_a_failed_build_keeps_its_log_in_the_pool(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = next(row for row in STEPS if row.name == "clean").load()

    def fails(*_args: object) -> None:
        raise EmitError("made to fail", hint="a hint")

    monkeypatch.setattr(module, "run", fails)
    with pytest.raises(EmitError):
        workshop.build()
    kept = sorted(path.name.partition(".")[2] for path in (workshop.top / "pool/state/logs").iterdir())
    assert kept == ["buildrecord.json", "events.jsonl"]


def test_a_step_that_is_not_asked_for_does_not_run(workshop: Workshop) -> None:
    without = workshop.build(cache=False)
    assert workshop.steps()["motd"] == ("skip", "not asked for")
    with_motd = workshop.build(cache=False, motd=True, source_repo="here")
    assert workshop.steps()["motd"][0] == "run"
    assert without.tree_digest != with_motd.tree_digest


def test_a_source_that_is_not_utf_8_is_in_the_motd_as_it_is(workshop: Workshop) -> None:
    workshop.build(motd=True, source_repo=os.fsdecode(b"of M\xfcller"), formats=["tar"], compression="none")
    with tarfile.open(workshop.out / "hello-1.0.0.tar") as archive:
        motd = archive.extractfile("etc/motd")
        assert motd is not None
        assert b"of M\xfcller\n" in motd.read()


def test_files_that_were_copied_are_read_for_the_record_and_known_then(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buildstep.tree.proto.FEW_FILES", 0)
    assert "no index yet" in {step.name: step.reason for step in workshop.plan().steps}["sync"]
    workshop.build(plain=True)
    assert len(workshop.record()["inputs"]["proto"]["digest"]) == 64
    assert "no index yet" not in {step.name: step.reason for step in workshop.plan().steps}["sync"]
