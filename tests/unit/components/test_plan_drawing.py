"""A plan as a drawing: a box for each component with what is to become, or became, of its jobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.components.affected import affected, find_change
from buildstep.components.inputs import Inputs
from buildstep.components.interface import Built, Result, State
from buildstep.components.plan import NoHistory, Plan, make_plan, select
from buildstep.components.plan_drawing import critical_path, drawing, job_rows, write_drawing, write_run
from buildstep.errors import UsageError
from tests.unit.components.repositories import NINE, graph, images, write


def plan_of(root: Path, *words: str) -> Plan:
    made = graph(root)
    jobs = affected(made, find_change(root, words, cwd=root))[0] if words else None
    return make_plan(made, select(made, affected=jobs), Inputs(made), NoHistory())


def test_a_plan_has_a_box_for_each_component_and_says_why_it_runs() -> None:
    made = drawing(plan_of(NINE), {})
    assert made.subtitle == "14 jobs of 9 components: 14 to run"
    assert {box.name: (box.state, box.note) for box in made.boxes}["drivers"] == (
        "run",
        "to run · not built before",
    )
    assert made.edges["hadoop-ai", "hadoop-run"] == "src/hadoop-run/build/component.dep:1"
    assert len(made.edges) == 6


def test_what_is_there_only_for_others_is_dim() -> None:
    made = drawing(plan_of(NINE, "src/hadoop-ai"), {})
    assert [box.name for box in made.boxes if box.dim] == ["base-image"]
    assert len(made.boxes) == 5
    assert len(made.edges) == 4


def test_what_became_of_jobs_has_its_state_and_time(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x", b="FROM a", c="FROM b", d="FROM x")
    write(tmp_path, {"a/build/build-pre.sh": "", "sdk/f": "", "d/build/component.dep": "sdk"})
    results = {
        row.job: row
        for row in (
            Result(job="a:pre", state=State.REUSED),
            Result(job="a", state=State.BUILT, seconds=65.0),
            Result(job="b", state=State.FAILED, seconds=1.5, message="b: COPY failed"),
            Result(job="c", state=State.BLOCKED, message="blocked by b"),
        )
    }
    plan = plan_of(tmp_path)
    made = drawing(plan, results)
    assert {box.name: (box.state, box.note) for box in made.boxes} == {
        "a": ("built", "1 of 2 built · 1 min 05 s"),
        "b": ("failed", "failed · 1.5 s · b: COPY failed"),
        "c": ("blocked", "blocked · blocked by b"),
        "d": ("run", "to run · not built before"),
        "sdk": ("reuse", "only files"),
    }
    assert [(row["name"], row["state"]) for row in job_rows(plan, results)] == [
        ("a:pre", "reuse"), ("d", "run"), ("a", "built"), ("b", "failed"), ("c", "blocked"),
    ]  # fmt: skip


def test_the_name_of_the_file_says_what_is_written(tmp_path: Path) -> None:
    plan = plan_of(NINE)
    write_drawing(plan, tmp_path / "g.svg")
    write_drawing(plan, tmp_path / "g.html")
    assert (tmp_path / "g.svg").read_text().startswith("<svg")
    assert (tmp_path / "g.html").read_text().startswith("<!doctype html>")
    with pytest.raises(UsageError, match=r"\.svg or \.html"):
        write_drawing(plan, tmp_path / "g.png")
    assert not (tmp_path / "g.png").exists()


def ran(name: str, started: float, seconds: float, state: State = State.BUILT) -> Result:
    return Result(job=name, state=state, started=started, seconds=seconds, worker="local")


def test_the_critical_path_is_what_decided_when_the_run_ended(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x", b="FROM x", c="FROM a\nCOPY --from=b / /", d="FROM b", e="FROM d")
    results = {
        row.job: row
        for row in (
            ran("a", 100, 5), ran("b", 100, 8), ran("c", 108, 9), ran("d", 108, 2),
            Result(job="e", state=State.REUSED),
        )
    }  # fmt: skip
    made = graph(tmp_path)
    assert critical_path(made, results) == ["b", "c"]
    assert critical_path(made, {"e": results["e"]}) == []


class Memory:
    def find(self, job: str, key: str) -> Built | None:
        raise AssertionError((job, key))

    def last(self, job: str) -> Built | None:
        return Built(job=job, key="k", output="o", seconds=61.0)


def test_the_page_of_a_run_has_its_timeline_and_what_reuse_saved(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x", b="FROM a", c="FROM x")
    made = graph(tmp_path)
    results = {
        "c": Result(job="c", state=State.REUSED, why="unchanged", message="built in 61.0 s before"),
        "a": replace(ran("a", 100, 5), why="build/a.dockerfile changed"),
        "b": ran("b", 105, 1, State.FAILED),
    }
    page = tmp_path / "run.html"
    write_run(made, made.order(), results, Memory(), page, 6.0)
    text = page.read_text()
    assert "The critical path is 2 jobs, 6.0 s of 6.0 s: <b>a</b> 5.0 s, <b>b</b> 1.0 s." in text
    assert "What was reused took 1 min 01 s when it was built." in text
    assert '<span class="bar failed critical" style="--l:83.333%;--w:16.667%"' in text
    assert "built · 5.0 s · build/a.dockerfile changed" in text
    assert "c: reused, unchanged, built in 61.0 s before" in text
    assert '<p class="verdict">1 reused, 1 built, 1 failed</p>' in text
    write_run(made, ["c"], {"c": results["c"]}, Memory(), page, 0.0)
    assert "Nothing ran." in page.read_text()
