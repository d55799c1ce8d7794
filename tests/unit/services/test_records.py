"""What is kept of services: it round-trips, is replaced as a whole, and damage is not taken for nothing."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildstep.services.interface import Action, Answer, ServiceError, Side
from buildstep.services.records import (
    KEPT,
    Begun,
    Book,
    Kept,
    Ran,
    Record,
    Underway,
    Unit,
    from_json,
    to_json,
)
from buildstep.services.states import State

texts = st.text(max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
inputs = st.dictionaries(texts, plain, max_size=3)
units = st.builds(Unit, st.integers(0, 20), st.sampled_from(Side), st.sampled_from(Action), texts)
rans = st.builds(
    Ran, answer=st.sampled_from(Answer), message=texts, digest=texts, inputs=inputs, token=texts,
    started=st.floats(0, 2e9), values=st.lists(texts, max_size=2).map(tuple), result=plain,
)  # fmt: skip
begun = st.builds(Begun, units, texts, texts, inputs, st.floats(0, 2e9), st.integers(1, 9))
underways = st.builds(
    Underway, verb=texts, run=texts, before=st.sampled_from(State), pending=texts,
    done=st.lists(st.builds(Kept, units, st.sampled_from(Answer)), max_size=3).map(tuple),
    begun=st.none() | begun,
)  # fmt: skip
records = st.builds(
    Record, state=st.sampled_from(State), since=st.floats(0, 2e9), disabled=st.booleans(), pending=texts,
    failed=texts, last=texts, actions=st.dictionaries(texts, rans, max_size=3),
    underway=st.none() | underways,
)  # fmt: skip


@given(records)
def test_a_record_comes_back_as_it_was_written(record: Record) -> None:
    assert from_json(json.loads(json.dumps(to_json(record)))) == record


def book(tmp_path: Path) -> Book:
    (tmp_path / "a").mkdir()
    return Book(lambda key: tmp_path / key, durable=False)


def test_none_was_written_yet(tmp_path: Path) -> None:
    assert book(tmp_path).load("a") == Record()


def test_it_is_for_its_owner_and_leaves_no_part(tmp_path: Path) -> None:
    mine = book(tmp_path)
    mine.save("a", Record(state=State.UP))
    assert mine.load("a").state is State.UP
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["state.json"]
    assert stat.S_IMODE((tmp_path / "a/state.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99}', '{"format": 1, "state": "odd"}'])
def test_damage_is_an_error_and_not_a_new_service(tmp_path: Path, text: str) -> None:
    mine = book(tmp_path)
    (tmp_path / "a/state.json").write_text(text)
    with pytest.raises(ServiceError, match=r"state\.json is no state of a service"):
        mine.load("a")


def test_logs_have_numbers_and_the_old_ones_go(tmp_path: Path) -> None:
    mine = book(tmp_path)
    for number in range(1, KEPT + 4):
        with mine.log("a", "node.start") as (given_number, line):
            assert given_number == number
            line(f"run {number}")
    with mine.log("a", "mgmt.consume:redis!main") as (number, line):
        line("of another action")
    assert [number for number, _ in mine.logs("a", "node.start")] == list(range(4, KEPT + 4))
    newest = mine.log_path("a", "node.start", KEPT + 3)
    assert newest is not None
    assert newest.read_text().endswith(f"Z run {KEPT + 3}\n")
    assert mine.log_path("a", "node.start", 1) is None
    assert [number for number, _ in mine.logs("a", "mgmt.consume:redis!main")] == [1]
    assert stat.S_IMODE(newest.stat().st_mode) == 0o600


def test_what_a_killed_run_has_left_goes_and_what_is_no_file_is_told(tmp_path: Path) -> None:
    mine = book(tmp_path)
    mine.save("a", Record(state=State.UP))
    (tmp_path / "a/.state.json.71.42.part").write_text("{")
    mine.tidy("a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["state.json"]
    (tmp_path / "a/state.json").unlink()
    (tmp_path / "a/state.json").mkdir()
    with pytest.raises(ServiceError, match=r"state\.json is no state of a service"):
        mine.load("a")


def test_a_log_is_kept_of_an_action_with_a_producer_that_lies_deep(tmp_path: Path) -> None:
    mine = book(tmp_path)
    names = [f"mgmt.consume:node!{'n' * 100}:{'a' * 100}!{last * 100}" for last in "bc"]
    for name in names:
        with mine.log("a", name) as (_, line):
            line(name[-1])
    texts = [path.read_text()[-2] for name in names for _, path in mine.logs("a", name)]
    assert texts == ["b", "c"]
