"""What a record hides of a build's settings is given anew, or named: it is no value."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from buildstep.build.rebuild_settings import spec_of
from buildstep.errors import InputMissingError, UsageError
from buildstep.report.record import BuildRecord
from tests.unit.spec.conftest import build
from tests.unit.specdata import Load

__all__ = ["build"]


def record(build: Load, **settings: Any) -> BuildRecord:
    value = json.loads(json.dumps(build().to_json())) | settings
    return BuildRecord(
        build_id="b", name="hello", version="1", ok=True, tree_digest="0" * 64, inputs={"spec": value},
        path=Path("r.json"), started=datetime.now(UTC), seconds=1.0,
    )  # fmt: skip


def test_what_is_hidden_is_named_with_how_to_give_it(build: Load) -> None:
    hides = record(
        build,
        installer_options={"mirror": "http://me:***@mirror/debian", "env": {"TOKEN": "***"}},
        exclude=["a/***"],
    )
    with pytest.raises(InputMissingError) as caught:
        spec_of(hides, {"installer_options.env.TOKEN": "x"})
    assert "hidden in installer_options.mirror:" in str(caught.value)
    assert caught.value.hint.endswith("-D 'installer_options.mirror=VALUE'")
    given = {"installer_options.env.TOKEN": "word", "installer_options.mirror": "pass"}
    made = spec_of(hides, given)
    assert made.installer_options.mirror == "http://me:pass@mirror/debian"
    assert made.installer_options.env == {"TOKEN": "word"}
    assert made.exclude == ("a/***",)


def test_what_is_not_hidden_cannot_be_given(build: Load) -> None:
    with pytest.raises(UsageError, match="hides no such setting"):
        spec_of(record(build), {"version": "2"})
