"""What was built, and how a run finds it again."""

from __future__ import annotations

from pathlib import Path

from buildstep.components.interface import Built
from buildstep.components.records import KEPT, Records, state_directory


def built(key: str, output: str = "sha256:o") -> Built:
    return Built(job="a:pre", key=key, output=output, inputs={"file": key}, seconds=1.5, ended=2.0)


def test_a_build_is_found_by_its_key_and_the_last_one_without(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert (records.find("a:pre", "1"), records.last("a:pre")) == (None, None)
    for key in ("1", "2"):
        records.add(built(key))
    again = Records(tmp_path)
    assert again.find("a:pre", "1") == built("1")
    assert again.last("a:pre") == built("2")
    again.add(built("1", "sha256:other"))
    assert [again.last("a:pre"), again.find("a:pre", "2")] == [built("1", "sha256:other"), built("2")]
    assert again.outputs() == {"sha256:other", "sha256:o"}


def test_a_result_that_is_gone_is_not_found_but_still_explains(tmp_path: Path) -> None:
    Records(tmp_path).add(built("1"))
    records = Records(tmp_path, usable=lambda _: False)
    assert records.find("a:pre", "1") is None
    assert records.last("a:pre") == built("1")


def test_only_the_last_builds_of_a_job_are_kept(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for number in range(KEPT + 2):
        records.add(built(str(number)))
    assert records.find("a:pre", "1") is None
    assert records.find("a:pre", "2") == built("2")


def test_a_damaged_record_is_no_record(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.add(built("1"))
    next((tmp_path / "records").iterdir()).write_text('{"format": 1, "builds": [{}]}')
    assert Records(tmp_path).last("a:pre") is None


def test_two_checkouts_of_one_name_have_a_state_each(tmp_path: Path) -> None:
    places = {state_directory(tmp_path / x / "repo", {"HOME": "/h"}) for x in "ab"}
    assert len(places) == 2
    named = state_directory(tmp_path, {"BUILDSTEP_COMPONENTS_STATE": "/s"})
    assert named == Path("/s")
