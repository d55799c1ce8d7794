"""A record goes to JSON and back without loss, and what is worked out from it is right."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from buildstep.report.parse import from_json, load
from buildstep.report.record import (
    Audit,
    BuildRecord,
    Cleaner,
    Failure,
    ImageFile,
    Layer,
    Remark,
    Step,
    critical_path,
    verify,
)
from buildstep.rootfs.interface import Finding, Package
from tests.unit import reportdata

NUMBERS = st.floats(0, 2e9)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def rows(kind: type, **fields: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    """A few rows of one kind; the fields that are not named get any text."""
    texts = {name: st.text() for name in kind.__dataclass_fields__ if name not in fields}  # type: ignore[attr-defined]
    return st.lists(st.builds(kind, **texts, **fields), max_size=3).map(tuple)


RECORDS = st.builds(
    BuildRecord,
    build_id=st.text(),
    name=st.text(),
    version=st.text(),
    uuid=st.text(),
    ok=st.booleans(),
    exit_code=st.integers(0, 255),
    error=st.none() | st.builds(Failure, message=st.text(), detail=st.text(), hint=st.text()),
    inputs=st.dictionaries(st.text(), JSON),
    started=st.integers(0, 4_000_000_000_000).map(lambda ms: datetime.fromtimestamp(ms / 1000, UTC)).map(
        lambda when: when.replace(microsecond=when.microsecond // 1000 * 1000)
    ),
    seconds=NUMBERS,
    steps=rows(Step, state=st.sampled_from(["run", "reuse", "skip", "failed"]), seconds=NUMBERS, started=NUMBERS),
    cleaned=rows(Cleaner, paths=st.integers(), bytes=st.integers(), names=st.lists(st.text()).map(tuple)),
    notes=rows(Remark, level=st.sampled_from(["debug", "info", "warning", "error"])),
    counts=st.dictionaries(st.text(), st.integers()),
    packages=rows(Package),
    audit=st.none() | st.builds(Audit, text=st.text(), findings=rows(Finding)),
    entropy=st.lists(st.text()).map(tuple),
    layers=rows(Layer, size=st.integers()),
    artifacts=rows(ImageFile, size=st.integers(), extra=st.dictionaries(st.text(), JSON)),
    files_added=st.lists(st.tuples(st.text(), st.integers())).map(tuple),
    tree_digest=st.text(),
    tools=st.dictionaries(st.text(), st.text()),
)  # fmt: skip


@given(RECORDS)
def test_a_record_comes_back_from_its_json(record: BuildRecord) -> None:
    text = json.dumps(record.to_json())
    read = from_json(json.loads(text), Path("hello.buildrecord.json"))
    assert read == record
    assert json.dumps(read.to_json()) == text


def test_the_json_has_the_keys_in_the_order_of_the_reference() -> None:
    value = reportdata.record()
    written = from_json(value, Path("hello.buildrecord.json")).to_json()
    assert list(written) == [
        "format", "build_id", "name", "version", "uuid", "ok", "exit_code", "error", "inputs", "started", "seconds",
        "steps", "cleaned", "notes", "counts", "packages", "audit", "entropy", "layers", "artifacts", "files_added",
        "tree_digest", "tools",
    ]  # fmt: skip
    value["artifacts"][0]["extra"] = {}
    assert json.loads(json.dumps(written)) == value


def test_a_build_without_an_image_has_null_for_what_names_one() -> None:
    record = BuildRecord(
        build_id="b", name="n", version="1", ok=False, started=datetime(2026, 1, 2, tzinfo=UTC), seconds=1.0
    )
    value = record.to_json()
    assert (value["uuid"], value["tree_digest"], value["error"], value["audit"]) == (None, None, None, None)
    assert value["started"] == "2026-01-02T00:00:00.000Z"
    assert (record.size, record.base, record.source, record.findings) == (0, "", "m.json", ())


def test_critical_path_of_steps_in_a_row_is_all_that_took_time(tmp_path: Path) -> None:
    record = load(reportdata.write(tmp_path / "r.json", reportdata.record()))
    names = [step.name for step in critical_path(record.steps)]
    assert names == ["clone", "packages", "sync", "clean", "snapshot", "emit", "destroy"]


def test_critical_path_takes_the_slow_side() -> None:
    steps = [
        Step(name="fetch", state="run", started=10, seconds=2),
        Step(name="slow", state="run", started=12, seconds=8),
        Step(name="fast", state="run", started=12, seconds=3),
        Step(name="after fast", state="run", started=15, seconds=1),
        Step(name="emit", state="run", started=20, seconds=1),
    ]
    assert [step.name for step in critical_path(steps)] == ["fetch", "slow", "emit"]
    assert critical_path([]) == ()


def test_artifacts_are_verified_where_they_are(tmp_path: Path) -> None:
    value = reportdata.record()
    data = b"an image"
    value["artifacts"][0] |= {"size": len(data), "sha256": reportdata.digest(data)}
    record = load(reportdata.write(tmp_path / "r.json", value))
    assert verify(record, record.artifacts[0]).good is None
    image = tmp_path / "hello-1.4.2.oci.tar"
    image.write_bytes(data)
    assert verify(record, record.artifacts[0]).good is True
    image.write_bytes(b"an imagE")
    assert verify(record, record.artifacts[0]).good is False
    image.write_bytes(b"cut")
    assert "3 bytes; 8 were written" in verify(record, record.artifacts[0]).text
