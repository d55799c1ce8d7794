"""Timelines: no two bars on one another, in as few rows as that takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from buildstep.report.timeline import Span, lanes, ticks


def span(name: str, worker: str, started: float, seconds: float) -> Span:
    return Span(name=name, state="built", worker=worker, started=started, seconds=seconds)


def test_a_worker_has_a_row_for_each_job_at_a_time() -> None:
    rows = lanes(
        [span("a", "w", 10, 2), span("b", "w", 11, 2), span("c", "w", 12, 2), span("d", "v", 10, 4)], 4
    )
    assert [(row["name"], [bar["span"].name for bar in row["bars"]], row["busy"]) for row in rows] == [
        ("v", ["d"], 4), ("w 1", ["a", "c"], 4), ("w 2", ["b"], 2),
    ]  # fmt: skip
    assert [(bar["left"], bar["width"]) for bar in rows[1]["bars"]] == [(0.0, 50.0), (50.0, 50.0)]


def test_nothing_has_no_rows_and_no_time_is_no_fault() -> None:
    assert lanes([], 0) == []
    assert lanes([span("a", "w", 5, 0)], 0)[0]["bars"][0]["width"] == 0


SPANS = st.lists(st.tuples(st.sampled_from("vw"), st.integers(0, 20), st.integers(1, 6)), max_size=12)


@given(SPANS)
def test_bars_of_a_row_are_one_after_another_and_rows_are_as_few_as_can_be(
    rows: list[tuple[str, int, int]],
) -> None:
    spans = [span(str(number), worker, at, long) for number, (worker, at, long) in enumerate(rows)]
    made = lanes(spans, 26)
    assert sum(len(row["bars"]) for row in made) == len(spans)
    for row in made:
        ends = 0.0
        for bar in row["bars"]:
            assert bar["span"].started >= ends
            ends = bar["span"].started + bar["span"].seconds
    for worker in "vw":
        own = [one for one in spans if one.worker == worker]
        most = max((sum(o.started <= t < o.started + o.seconds for o in own) for t in range(27)), default=0)
        assert sum(row["worker"] == worker for row in made) == most


def test_the_axis_has_few_round_marks() -> None:
    assert [tick["text"] for tick in ticks(10)] == ["0", "2 s", "4 s", "6 s", "8 s"]
    assert [tick["text"] for tick in ticks(0.5)][:2] == ["0", "100 ms"]
