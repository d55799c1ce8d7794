"""The recorder times steps, emits their events, and makes the record of a build."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from buildstep.errors import BuildstepError, InstallError
from buildstep.events import Bus, Cleaned, Event, StepFinished, StepStarted
from buildstep.report.record import Cleaner, Failure, Remark
from buildstep.report.recorder import Recorder
from buildstep.spec.load import BuildSpec


def test_a_failed_step_is_recorded_as_such() -> None:
    seen: list[Event] = []
    recorder = Recorder(Bus(seen.append))

    def fail() -> None:
        with recorder.step("sync", "laying"):
            raise BuildstepError("no")

    with pytest.raises(BuildstepError):
        fail()
    assert [(s.name, s.state, s.reason) for s in recorder.steps] == [("sync", "failed", "no")]
    finished = seen[-1]
    assert isinstance(finished, StepFinished)
    assert finished.state == "failed"
    assert recorder.bus.current == ""


def test_steps_are_numbered_in_order_with_the_skipped_ones() -> None:
    seen: list[Event] = []
    recorder = Recorder(Bus(seen.append), total=3)
    with recorder.step("one", "One"):
        pass
    recorder.skip("two", "not asked for")
    with recorder.step("three", "Three") as result:
        result.reason = "because"
    started = [(event.step, event.index, event.total) for event in seen if isinstance(event, StepStarted)]
    assert started == [("one", 1, 3), ("three", 3, 3)]
    assert [step.state for step in recorder.steps] == ["run", "skip", "run"]


@pytest.fixture
def recorder() -> Recorder:
    """A recorder of a build with two steps, of which the second failed."""
    made = Recorder(Bus(), total=2, begin=1_795_247_808.25)
    with made.step("import", "Import") as step:
        step.state, step.reason, step.key = "reuse", "in the store", "abc"
    with contextlib.suppress(InstallError), made.step("packages", "Install packages"):
        made.bus.note("slow mirror", level="warning")
        made.bus.note("a detail", level="debug")
        made.bus.emit(Cleaned(cleaner="logs", paths=2, bytes=30, names=("/var/log/a",)))
        made.bus.count("files_read", 3)
        raise InstallError("no such package", detail="E: nginx-lite", hint="nginx-light?")
    return made


@pytest.fixture
def spec(tmp_path: Path) -> BuildSpec:
    return BuildSpec(
        name="hello",
        version="1.0.0",
        source="m.json",
        manifest={"name": "hello", "version": "1.0.0"},
        origin_of={},
        image="scratch",
        proto=tmp_path,
        image_prefix="hello",
        output_dir=tmp_path,
    )


def test_the_record_holds_what_the_recorder_saw(recorder: Recorder, spec: BuildSpec) -> None:
    record = recorder.record(spec, "build-1")
    assert (record.build_id, record.title, record.ok, record.exit_code) == ("build-1", "hello 1.0.0", True, 0)
    assert record.started == datetime(2026, 11, 21, 7, 56, 48, 250_000, UTC)
    first, second = record.steps
    assert (first.name, first.state, first.reason, first.key) == ("import", "reuse", "in the store", "abc")
    assert (second.state, second.reason) == ("failed", "no such package")
    assert record.cleaned == (Cleaner(cleaner="logs", paths=2, bytes=30, names=("/var/log/a",)),)
    assert record.notes == (Remark(level="warning", text="slow mirror", step="packages"),)
    assert record.counts == {"files_read": 3}
    assert record.inputs == {"image": {}, "proto": {}, "manifest": spec.manifest, "spec": spec.to_json()}


def test_the_record_of_a_failure_says_why(recorder: Recorder, spec: BuildSpec) -> None:
    error = InstallError("no such package", detail="E: nginx-lite", hint="nginx-light?")
    record = recorder.failed_record(spec, "build-1", error, 12)
    assert (record.ok, record.exit_code, record.uuid) == (False, 12, "")
    assert record.error == Failure(message="no such package", detail="E: nginx-lite", hint="nginx-light?")
    assert len(record.steps) == 2
    record = recorder.failed_record(spec, "build-1", KeyboardInterrupt(), 130)
    assert record.error == Failure(message="KeyboardInterrupt")
