"""Drawings of graphs: no two boxes overlap, every line begins and ends where it should, nothing unescaped."""

from __future__ import annotations

import io
import itertools
import json
import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from buildstep.report import graph_layout, graph_page
from buildstep.report.graph_layout import BOX, Layout, lay_out
from buildstep.report.graph_page import Box, Drawing, render_page, render_svg
from buildstep.system.text import printable
from tests.unit import reportdata
from tests.unit.report.test_html import Page

NASTY = reportdata.NASTY


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[list[str]], list[tuple[str, str]]]:
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    levels = [[f"n{level}.{number}" for number in range(count)] for level, count in enumerate(counts)]
    pairs = [
        (one, other)
        for level, names in enumerate(levels)
        for one in names
        for later in levels[level + 1 :]
        for other in later
    ]
    return levels, draw(st.lists(st.sampled_from(pairs), unique=True, max_size=12)) if pairs else []


def laid(levels: list[list[str]], edges: list[tuple[str, str]]) -> Layout:
    return lay_out(levels, edges, {name: 100.0 for names in levels for name in names})


@given(graphs())
def test_boxes_do_not_overlap_and_lie_in_their_columns(
    graph: tuple[list[list[str]], list[tuple[str, str]]],
) -> None:
    levels, edges = graph
    layout = laid(levels, edges)
    for names in levels:
        places = sorted(layout.boxes[name] for name in names)
        assert len({place.x for place in places}) == 1
        heights = [place.y for place in places]
        assert all(below - above >= BOX for above, below in itertools.pairwise(heights))
    for place in layout.boxes.values():
        assert place.x >= 0
        assert place.x + place.width <= layout.width
        assert place.y >= 0
        assert place.y + BOX <= layout.height


@given(graphs())
def test_a_line_leads_from_box_to_box_and_crosses_none(
    graph: tuple[list[list[str]], list[tuple[str, str]]],
) -> None:
    levels, edges = graph
    layout = laid(levels, edges)
    assert set(layout.lines) == set(edges)
    for (start, end), path in layout.lines.items():
        numbers = [float(number) for number in re.findall(r"-?[0-9.]+", path)]
        first, last = layout.boxes[start], layout.boxes[end]
        assert abs(numbers[0] - first.x - first.width) < 0.1
        assert abs(numbers[1] - first.y - BOX / 2) < 0.1
        assert abs(numbers[-2] - last.x) < 0.1
        assert abs(numbers[-1] - last.y - BOX / 2) < 0.1
        for begin, height in re.findall(r"([0-9.]+) ([0-9.]+)H", path):
            crossed = [place for place in layout.boxes.values() if abs(place.x - float(begin)) < 0.1]
            assert all(not place.y < float(height) < place.y + BOX for place in crossed)


def test_what_is_connected_lies_side_by_side_and_the_rest_below() -> None:
    layout = laid([["a", "b", "alone"], ["x", "y"]], [("b", "x"), ("a", "y")])
    boxes = layout.boxes
    assert boxes["a"].y == boxes["y"].y
    assert boxes["b"].y == boxes["x"].y
    assert boxes["alone"].y > max(boxes["a"].y, boxes["b"].y)


def test_a_graph_with_too_many_crossing_lines_is_drawn_with_straight_ones() -> None:
    levels = [[f"n{number}"] for number in range(210)]
    edges = [(f"n{one}", f"n{other}") for one in range(210) for other in range(one + 1, 210)]
    crossed = sum(int(other[1:]) - int(one[1:]) - 1 for one, other in edges)
    assert crossed > graph_layout.MOST_PLACES
    assert all("H" not in path for path in laid(levels, edges).lines.values())


def drawing(**more: object) -> Drawing:
    names = ["a", "b", NASTY]
    boxes = [Box(name=name, state="run", note=NASTY, title=NASTY) for name in names]
    fields: dict[str, object] = {
        "title": NASTY, "subtitle": NASTY, "boxes": boxes, "levels": [["a"], ["b", NASTY]],
        "edges": {("a", "b"): NASTY, ("a", NASTY): ""},
    }  # fmt: skip
    return Drawing(**{**fields, **more})  # type: ignore[arg-type]


def svg(value: Drawing) -> ET.Element:
    out = io.BytesIO()
    render_svg(value, out)
    return ET.fromstring(out.getvalue().decode())


def test_the_svg_has_every_box_and_line_and_is_well_formed() -> None:
    root = svg(drawing())
    space = "{http://www.w3.org/2000/svg}"
    boxes = [group.get("data-name") for group in root.iter(f"{space}g") if group.get("data-name")]
    assert boxes == ["a", "b", printable(NASTY)]
    lines = [
        (path.get("data-from"), path.get("data-to"))
        for path in root.iter(f"{space}path")
        if path.get("data-from")
    ]
    assert lines == sorted([("a", "b"), ("a", printable(NASTY))])
    forbidden = {f"{space}{name}" for name in ("script", "image", "foreignObject")}
    assert not forbidden & {tag.tag for tag in root.iter()}


def test_a_long_text_is_cut_and_whole_in_the_title() -> None:
    long = "x" * 300
    root = svg(drawing(boxes=[Box(name=long, state="built", note=long)], levels=[[long]], edges={}))
    texts = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [len(text) for text in texts if "xx" in text] == [graph_page.LONGEST] * 2
    assert long in [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]


def test_an_empty_graph_is_drawn() -> None:
    assert svg(drawing(boxes=[], levels=[], edges={})).get("width") == "320"


def page(rows: list[dict[str, object]]) -> str:
    out = io.BytesIO()
    render_page(drawing(), rows, [NASTY], out)
    return out.getvalue().decode()


def test_the_page_lets_nothing_in_and_asks_nothing_of_a_network() -> None:
    row = {
        "name": NASTY,
        "component": NASTY,
        "state": "run",
        "reason": NASTY,
        "seconds": 3.0,
        "needs": [NASTY],
    }
    text = page([row, {**row, "state": "failed", "seconds": 0.0}])
    assert NASTY not in text
    assert [tag for tag, _ in Page(text).tags].count("script") == 2
    assert "http:" not in text.replace("http://www.w3.org", "")
    assert '<p class="verdict">1 to run, 1 failed</p>' in text
    assert '<div class="result bad">' in text
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert found
    assert json.loads(found[1]) == {"edges": sorted([["a", "b"], ["a", printable(NASTY)]])}
