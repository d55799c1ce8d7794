"""A record goes to JSON and back without loss, and what is worked out from it is right."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildstep.report.parse import from_json, load
from buildstep.report.record import (
    Audit,
    BuildRecord,
    Cleaner,
    Command,
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

TEXT = st.text(max_size=6)
NUMBERS = st.floats(0, 2e9)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=3,
)


def rows(kind: type, **fields: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    """A few rows of one kind; the fields that are not named get any text."""
    texts = {name: TEXT for name in kind.__dataclass_fields__ if name not in fields}  # type: ignore[attr-defined]
    return st.lists(st.builds(kind, **texts, **fields), max_size=2).map(tuple)


RECORDS = st.builds(
    BuildRecord,
    build_id=TEXT,
    name=TEXT,
    version=TEXT,
    uuid=TEXT,
    ok=st.booleans(),
    exit_code=st.integers(0, 255),
    error=st.none() | st.builds(Failure, message=TEXT, detail=TEXT, hint=TEXT),
    inputs=st.dictionaries(TEXT, JSON, max_size=2),
    started=st.integers(0, 4_000_000_000_000).map(lambda ms: datetime.fromtimestamp(ms / 1000, UTC)).map(
        lambda when: when.replace(microsecond=when.microsecond // 1000 * 1000)
    ),
    seconds=NUMBERS,
    steps=rows(Step, state=st.sampled_from(["run", "reuse", "skip", "failed"]), seconds=NUMBERS, started=NUMBERS),
    commands=rows(Command, status=st.integers(), seconds=NUMBERS),
    cleaned=rows(Cleaner, paths=st.integers(), bytes=st.integers(), names=st.lists(TEXT, max_size=2).map(tuple)),
    notes=rows(Remark, level=st.sampled_from(["debug", "info", "warning", "error"])),
    counts=st.dictionaries(TEXT, st.integers(), max_size=2),
    packages=rows(Package),
    audit=st.none() | st.builds(Audit, text=TEXT, findings=rows(Finding)),
    entropy=st.lists(TEXT, max_size=2).map(tuple),
    layers=rows(
        Layer, size=st.integers(), base=st.booleans(), files=st.none() | st.integers(), bytes=st.none() | st.integers(),
        removed=st.none() | st.integers(), packages=st.lists(TEXT, max_size=2).map(tuple),
    ),
    artifacts=rows(ImageFile, size=st.integers(), extra=st.dictionaries(TEXT, JSON, max_size=2)),
    files_added=st.lists(st.tuples(TEXT, st.integers()), max_size=2).map(tuple),
    tree_digest=TEXT,
    tools=st.dictionaries(TEXT, TEXT, max_size=2),
)  # fmt: skip


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
        "steps", "commands", "checks", "cleaned", "notes", "counts", "packages", "package_files", "audit", "entropy", "layers",
        "artifacts", "files_added", "tree_digest", "tools", "trust",
    ]  # fmt: skip
    value["artifacts"][0]["extra"] = {}
    value |= {"package_files": [], "trust": {}}
    assert json.loads(json.dumps(written)) == value


def test_a_build_without_an_image_has_null_for_what_names_one() -> None:
    record = BuildRecord(
        build_id="b", name="n", version="1", ok=False, started=datetime(2026, 1, 2, tzinfo=UTC), seconds=1.0
    )
    value = record.to_json()
    assert (value["uuid"], value["tree_digest"], value["error"], value["audit"]) == (None, None, None, None)
    assert value["started"] == "2026-01-02T00:00:00.000Z"
    assert (record.size, record.base, record.source, record.findings) == (0, "", "m.json", ())


def test_what_the_shared_cache_was_good_for_is_told_in_words() -> None:
    counts = {"shared_hits": 2, "shared_bytes_in": 69 << 20, "shared_seconds": 1, "shared_saved_seconds": 15}
    record = BuildRecord(
        build_id="b", name="n", version="1", ok=True, started=datetime.now(UTC), seconds=1.0, counts=counts
    )
    assert record.shared == "2 hits of the shared cache: 69.0 MiB in 1 s, 15 s saved"
    assert replace(record, counts={"shared_hits": 0, "shared_requests": 3}).shared == ""


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
