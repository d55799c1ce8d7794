"""The page of a comparison as text: closed to the network, nothing unescaped, long tables cut."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import Any

from buildstep.report import diff_page
from tests.unit import reportdata
from tests.unit.report.test_html import Page

NASTY = reportdata.NASTY


def entry(size: int, mode: str = "0644", **more: Any) -> dict[str, Any]:
    return {"kind": "f", "mode": mode, "uid": 0, "gid": 0, "size": size, "sha256": "a" * 64, **more}


def row(change: str, path: str, **more: Any) -> dict[str, Any]:
    made = {"cause": "unknown", "cause_detail": "", "old_layer": None, "new_layer": 2}
    return {"change": change, "path": path, "bytes": 0, **made, **more}


def layer(number: int) -> dict[str, Any]:
    return {
        "number": number, "digest": "a" * 64, "diff_id": "b" * 64, "size": 5000, "title": NASTY, "base": True,
        "created_by": NASTY, "files": 7, "bytes": 9000, "removed": 1, "packages": [NASTY],
    }  # fmt: skip


def diff(**more: Any) -> dict[str, Any]:
    side = {
        "name": NASTY, "kind": NASTY, "tree_digest": "a" * 64, "build": NASTY, "entries": 3, "files": 2,
        "bytes": 5000, "unique_bytes": 4000,
    }  # fmt: skip
    return {
        "format": 1,
        "old": side,
        "new": side,
        "same": False,
        "growth": {"bytes": -5, "percent": 1.0, "unique_bytes": 5, "unique_percent": None},
        "changes": [
            row("added", NASTY, new=entry(10), copy_of=NASTY, cause="packages", cause_detail=NASTY),
            row("removed", "old", old=entry(2000)),
            row("changed", "same-size", old=entry(7), new=entry(7), what=["content"]),
            row("changed", "mode", old=entry(7), new=entry(7, "4755"), what=["mode"]),
            row("moved", "to", old=entry(9), new=entry(9), **{"from": NASTY}),
            row("added", "link", new={"kind": "l", "mode": "0777", "uid": 0, "gid": 0, "target": NASTY}),
        ],
        "directories": [
            {"path": NASTY, "whole": "added", "added": 1, "removed": 0, "changed": 0, "moved": 0, "bytes": -3}
        ],
        "privileges": [
            {
                "path": NASTY,
                "change": "gained",
                "kind": "setuid",
                "detail": NASTY,
                "cause": "clean",
                "cause_detail": NASTY,
                "new_layer": 2,
            }
        ],
        "packages": [
            {"name": NASTY, "arch": NASTY, "change": "upgraded", "old": NASTY, "new": NASTY, "layer": 2}
        ],
        "layers": {
            "old": [layer(1), layer(2)],
            "new": [{**layer(1), "size": None, "files": None}, layer(2)],
            "changes": [
                {"change": "same", "old": 1, "new": 1},
                {"change": "removed", "old": 2, "new": None},
                {"change": "added", "old": None, "new": 2},
            ],
            "bytes_to_fetch": 5000,
        },
        "causes": {"packages": 1, "unknown": 5},
        "gate": [{"name": "no-new-setuid", "ok": False, "text": NASTY}],
        "notes": [NASTY],
        **more,
    }


def rendered(value: dict[str, Any]) -> str:
    out = io.BytesIO()
    diff_page.render(value, out)
    return out.getvalue().decode()


def test_nothing_breaks_out() -> None:
    text = rendered(diff())
    page = Page(text)
    assert "<img" not in text
    assert "<script>alert" not in text
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert [attrs.get("type") for tag, attrs in page.tags if tag == "script"] == ["application/json", None]


def test_nothing_is_fetched_and_only_our_script_and_style_are_allowed() -> None:
    page = Page(rendered(diff()))
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv")) or ""
    [script], [style] = page.scripts(None), [text for tag, _, text in page.texts if tag == "style"]
    for text in (script, style):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; ")
    for tag, attrs in page.tags:
        assert not {"src", "srcset", "href"} & attrs.keys() or (attrs["href"] or "").startswith("#"), tag


def test_the_map_has_what_puts_bytes_in_or_takes_them_away() -> None:
    [data] = Page(rendered(diff())).scripts("application/json")
    assert json.loads(data)["files"] == [
        ["old", 2000, "removed", "removed, 2.0 KiB"],
        [NASTY, 10, "added", "added, 10 B"],
        ["to", 9, "moved", "moved, 9 B"],
        ["same-size", 7, "changed", "changed, 7 B -> 7 B"],
    ]


def test_a_later_name_of_a_file_adds_no_bytes() -> None:
    twin = row("added", "twin", new=entry(10, linked_to="first"))
    [data] = Page(rendered(diff(changes=[twin]))).scripts("application/json")
    assert json.loads(data)["files"] == []


def test_tables_have_the_largest_and_say_so() -> None:
    many = [row("added", f"file{size}", new=entry(size)) for size in range(diff_page.ROWS + 5)]
    text = rendered(diff(changes=many))
    assert text.count('<td class="path">/file') == diff_page.ROWS
    assert ">/file4<" not in text
    assert f"The largest {diff_page.ROWS:,} of {diff_page.ROWS + 5:,}" in text


def test_without_differences_there_are_no_tables() -> None:
    empty: dict[str, Any] = {
        "changes": [],
        "directories": [],
        "privileges": [],
        "packages": None,
        "layers": None,
        "gate": [],
    }
    text = rendered(diff(same=True, notes=[], **empty))
    assert "No difference" in text
    assert "<table" not in text
    assert 'id="treemap"' not in text
