"""The example of actions in docs/reference/services.md works as it stands, and names what there is."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.services.interface import Action, Answer
from buildstep.services.runtime.defaults import ActionsBaseNode
from buildstep.services.runtime.service import Service
from tests.unit.services.calls import Bench

PAGE = (Path(__file__).parents[3] / "docs/reference/services.md").read_text()


@pytest.mark.commands
def test_the_example_of_actions_works(bench: Bench) -> None:
    source = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
    (bench.folder / "app.conf.in").write_text("$(where): $(param.port)\n")
    conf = bench.top / "app.conf"
    values = {"param.conf": str(conf), "param.port": 80, "param.enabled": False}
    call = bench.call(Action.CONFIGURE, facts={"values": values})
    (bench.folder / "actions_node.py").write_text(source)
    for action, answer, message in (
        (Action.CONFIGURE, Answer.NO_RESTART, ""),
        (Action.START, Answer.FAILED, "x!main is not enabled"),
        (Action.CHECK_UP, Answer.OK, ""),
    ):
        made = replace(call, action=action, source=bench.folder / "actions_node.py")
        outcome = bench.place.run(made, bench.lines.append, bench.stopped)
        assert (outcome.answer, outcome.message) == (answer, message)
    assert (conf.read_text(), conf.stat().st_mode & 0o777) == ("main: 80\n", 0o640)


def test_the_page_names_what_a_service_has_and_which_defaults_do_something() -> None:
    table = PAGE.partition("| of the service |")[2].partition("\n\n")[0]
    shown = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]+)`", table))))
    own = {name for name in vars(Service) if not name.startswith("_")}
    assert own - shown == set()
    done = {name for name in vars(ActionsBaseNode) if not name.startswith("_")}
    defaults = PAGE.partition("## Default actions")[2].partition("| others |")[0]
    assert {name for name in done if f"`{name}`" not in defaults} == set()
