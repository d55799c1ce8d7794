"""Records are read from JSON and from event logs, with every wrong value reported."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from buildstep import report
from buildstep.errors import SpecError, UsageError
from buildstep.report.parse import find_events, find_records, load
from tests.unit import reportdata


def test_record_is_read(tmp_path: Path) -> None:
    record = load(reportdata.write(tmp_path / "hello.buildrecord.json", reportdata.record()))
    assert record.title == "hello 1.4.2"
    assert record.base == "mmdebstrap:bookworm"
    assert record.source == "hello/m.json"
    assert record.started.isoformat() == "2026-11-21T07:56:48.048000+00:00"
    assert [step.name for step in record.steps][:3] == ["import", "clone", "packages"]
    assert record.audit is not None
    assert record.findings[0].severity == "high"
    assert record.size == 65_207_296
    assert not record.reproducible
    assert [note.text for note in record.problems] == ["the clock of the mirror is 4 s behind"]


def test_optional_parts_may_be_absent(tmp_path: Path) -> None:
    value = {
        key: reportdata.record()[key]
        for key in ("format", "build_id", "name", "version", "started", "seconds", "ok")
    }
    path = reportdata.write(tmp_path / "bare.json", value)
    record = load(path)
    assert record.steps == ()
    assert record.audit is None
    for name in report.REPORTS:
        report.render(name, [path], None, io.BytesIO())


def test_every_fault_is_told_with_its_place(tmp_path: Path) -> None:
    value = reportdata.record(seconds="long", ok=1)
    value["steps"][2]["state"] = "gone"
    value["artifacts"][0]["size"] = "big"
    value["audit"]["findings"][1] = "a word"
    value["files_added"][0] = ["/x"]
    del value["name"]
    with pytest.raises(SpecError) as caught:
        load(reportdata.write(tmp_path / "bad.json", value))
    places = {fault.where for fault in caught.value.faults}
    assert places >= {
        "$.name",
        "$.seconds",
        "$.ok",
        "$.steps[2].state",
        "$.artifacts[0].size",
        "$.audit.findings[1]",
        "$.files_added[0]",
    }


@pytest.mark.parametrize(
    ("version", "hint"), [(2, "upgrade this one"), (0, "build again"), ("1", "build again")]
)
def test_other_format_versions_are_refused(tmp_path: Path, version: object, hint: str) -> None:
    with pytest.raises(UsageError, match="this buildstep reads 1") as caught:
        load(reportdata.write(tmp_path / "other.json", reportdata.record(format=version)))
    assert hint in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}', "\xff", "[" * 200_000])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "not.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match="not a build record"):
        load(path)
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path / "absent.json")


def test_a_log_without_record_is_enough(tmp_path: Path) -> None:
    value = reportdata.failed()
    path = reportdata.write_events(tmp_path / "hello-1.4.2.events.jsonl", 40, value)
    record = load(path)
    assert not record.ok
    assert record.exit_code == 12
    assert record.error is not None
    assert "apt-get exited" in record.error.message
    assert [step.state for step in record.steps] == ["reuse", "run", "failed"]
    assert find_events(path) == path


def test_a_killed_build_fails_in_its_last_step(tmp_path: Path) -> None:
    path = reportdata.write_events(tmp_path / "hello.events.jsonl", 400)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b'"step": "packages", "tool"') + 5000])
    record = load(path)
    assert record.error is not None
    assert "ends before the build does" in record.error.message
    assert [step.state for step in record.steps][-1] == "failed"
    assert any("cut off" in note.text for note in record.notes)


def test_event_logs_and_records_are_found(tmp_path: Path) -> None:
    first = reportdata.write(tmp_path / "hello-1.buildrecord.json", reportdata.record())
    second = reportdata.write(tmp_path / "hello-2.buildrecord.json", reportdata.record())
    log = reportdata.write_events(tmp_path / "hello-1.events.jsonl", 4)
    assert find_records([tmp_path]) == [first, second]
    assert find_events(first) == log
    assert find_events(second) is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no build record"):
        find_records([tmp_path / "empty"])
