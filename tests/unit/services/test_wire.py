"""What travels to a place and back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from buildstep.services import wire
from buildstep.services.interface import Action, Answer, Call, Done, Facts, Outcome, Process, Side

PRODUCER = Facts(key="redis!main", name="redis", instance="main", role="redis", values={"param.port": 6379})
FACTS = Facts(
    key="web!main",
    name="web",
    instance="main",
    role="web",
    values={"a": [1, 2.5, "x"], "b": {"c": True, "d": None}, "raw": b"\x00\xff"},
    producers={"redis": [PRODUCER]},
    processes=[Process(1, "web", ["python3", "-m", "web"], environment={"A": "b"}, ports=(80, 443))],
    users=[{"name": "web", "uid": 800}],
    files={"/etc/web.conf": "x\n"},
    trees={"/opt/web": Path("/tmp/tree")},
)


def test_a_call_has_every_field_of_what_it_is_made_of() -> None:
    call = Call(facts=FACTS, side=Side.NODE, action=Action.CONSUME, digest="d", arguments={"id": 7})
    data = json.loads(wire.text(wire.call_json(call)))
    assert set(data) == {field.name for field in dataclasses.fields(Call)} | {"format"}
    assert set(data["facts"]) == {field.name for field in dataclasses.fields(Facts)}
    assert set(data["facts"]["processes"][0]) == set(Process._fields)
    assert data["facts"]["values"]["raw"] == {"$bytes": "AP8="}
    assert data["facts"]["producers"]["redis"][0]["values"] == {"param.port": 6379}
    assert data["arguments"] == {"id": 7}


def test_a_record_is_read_as_it_was_written() -> None:
    outcome = Outcome(
        answer=Answer.NO_RESTART, message="m", values={"k": 1}, result=["x"], started=1.5, tries=2
    )
    done = Done(Action.CONFIGURE, Side.NODE, "digest", outcome, "token")
    assert wire.done_of(json.loads(wire.text(wire.done_json(done)))) == done


def test_a_record_of_another_format_is_refused() -> None:
    done = Done(Action.CONFIGURE, Side.NODE, "digest", Outcome(answer=Answer.OK))
    with pytest.raises(ValueError, match="its format is 2, not 1"):
        wire.done_of({**wire.done_json(done), "format": 2})


def test_what_has_no_form_in_json_is_refused() -> None:
    with pytest.raises(TypeError, match="a object cannot be told"):
        wire.plain({"a": object()})
