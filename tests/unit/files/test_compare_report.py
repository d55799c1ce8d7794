"""A comparison as JSON and as text."""

from __future__ import annotations

import json
import re
from pathlib import Path

from buildstep.files.compare import Listing, compare
from buildstep.files.compare_causes import Evidence, causes
from buildstep.files.compare_gate import Verdict
from buildstep.files.compare_layers import Layer, Layers, compare_layers
from buildstep.files.compare_packages import PackageChange
from buildstep.files.compare_privileges import shifts
from buildstep.files.compare_report import Diff, Named, groups, lines
from buildstep.tree.entry import Entry, tree_digest

A, B, C = "a" * 64, "b" * 64, "c" * 64


def file(path: bytes, sha256: str = A, size: int = 10, mode: int = 0o644, first: bytes = b"") -> Entry:
    return Entry(path, "f", mode, 0, 0, size, sha256, first=first)


def folder(path: bytes) -> Entry:
    return Entry(path, "d", 0o755, 0, 0)


OLD = [folder(b"etc"), file(b"etc/a"), file(b"etc/moving", C, 7), folder(b"gone"), file(b"gone/x", B, 2000)]
NEW = [
    folder(b"etc"), file(b"etc/a", B, 2048, 0o4644), folder(b"new"), folder(b"new/deep"),
    file(b"new/deep/moving", C, 7), file(b"new/twin", C, 7, first=b"new/deep/moving"),
    Entry(b"new/link", "l", 0o777, 0, 0, target=b"a\x1b[31m"), Entry(b"\xff", "c", 0o600, 0, 0, rdev=(1, 3)),
]  # fmt: skip


def diff(old: list[Entry] = OLD, new: list[Entry] = NEW, **more: object) -> Diff:
    sides = [Listing.of({it.path: it for it in tree}) for tree in (old, new)]
    found = compare(*sides)
    return Diff(
        old=Named("old.tar", "tar", sides[0]), new=Named("new.tar", "tar", sides[1], "20260101"), found=found, shifts=shifts(found.changes),
        causes=causes(found.changes, Evidence(cleaned={b"gone/x": "logs"})), **more,  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_json_has_everything() -> None:
    value = json.loads(
        json.dumps(diff(packages=[PackageChange("x", "amd64", "upgraded", "1", "2")]).to_json())
    )
    assert (value["format"], value["same"]) == (1, False)
    assert value["old"] == {
        "name": "old.tar", "kind": "tar", "tree_digest": tree_digest({it.path: it for it in OLD}), "build": None, "entries": 5, "files": 3,
        "bytes": 2017, "unique_bytes": 2017,
    }  # fmt: skip
    assert value["new"]["build"] == "20260101"
    assert value["growth"] == {
        "bytes": 38, "percent": 1.88, "unique_bytes": 38, "unique_percent": 1.88,
    }  # fmt: skip
    rows = {row["path"]: row for row in value["changes"]}
    assert rows["etc/a"]["what"] == ["content", "size", "mode"]
    assert (rows["etc/a"]["old"]["mode"], rows["etc/a"]["new"]["mode"]) == ("0644", "4644")
    assert rows["etc/a"]["bytes"] == 2038
    assert (rows["new/deep/moving"]["change"], rows["new/deep/moving"]["from"]) == ("moved", "etc/moving")
    assert rows["new/twin"]["copy_of"] == "etc/moving"
    assert (rows["new/twin"]["bytes"], rows["new/twin"]["new"]["linked_to"]) == (0, "new/deep/moving")
    assert rows["\udcff"]["new"]["device"] == [1, 3]
    assert (rows["gone/x"]["cause"], rows["gone/x"]["cause_detail"]) == ("clean", "logs")
    assert value["causes"] == {"base": 0, "proto": 0, "packages": 0, "clean": 1, "unknown": 8}
    unknown = {"cause": "unknown", "cause_detail": "", "old_layer": None, "new_layer": None}
    gained = {"path": "etc/a", "change": "gained", "kind": "setuid", "detail": "as uid 0"}
    assert gained | unknown in value["privileges"]
    assert value["packages"] == [
        {"name": "x", "arch": "amd64", "change": "upgraded", "old": "1", "new": "2", "layer": None}
    ]
    assert value["layers"] is None
    assert diff().to_json()["packages"] is None


def layered() -> Diff:
    one = Layer(digest="1", diff_id="1", size=10, title="base", packages=("y 3",))
    two, three = (
        Layer(digest=name, diff_id=name, size=20, title="packages: x", packages=(f"x {name}",))
        for name in "23"
    )
    was = Layers([one, two], {b"etc/a": 1, b"gone": 2, b"gone/x": 2, b"etc/moving": 1})
    now = Layers([one, three], {b"etc/a": 2, b"new": 2}, {b"gone": 2})
    packages = [
        PackageChange("x", "amd64", "upgraded", "2", "3"),
        PackageChange("y", "", "removed", "3", ""),
    ]
    return diff(layers=compare_layers(was, now), packages=packages)


def test_every_key_of_the_json_is_documented() -> None:
    value = layered().to_json()
    found: set[str] = set()
    stack: list[object] = [{**value, "causes": {}}]
    while stack:
        match stack.pop():
            case dict() as row:
                found |= row.keys()
                stack += row.values()
            case list() as rows:
                stack += rows
    page = (Path(__file__).parents[3] / "docs/reference/files-diff.md").read_text()
    told = set(re.findall(r"`(\w+)`", page))
    assert found - told == set()
    assert len(found) > 30


def test_of_an_empty_tree_there_are_no_per_cents() -> None:
    assert diff(old=[]).to_json()["growth"]["percent"] is None
    assert diff(old=NEW).to_json()["growth"]["percent"] == 0
    assert diff(old=NEW).to_json()["same"] is True


def test_directories_that_came_or_went_are_counted_as_a_whole() -> None:
    found = {group.path: group for group in groups(diff().found.changes)}
    assert list(found) == [b"etc", b"gone", b"", b"new"]  # by how much each changed
    assert (found[b"gone"].whole, found[b"gone"].count("removed"), found[b"gone"].growth) == (
        "removed",
        2,
        -2000,
    )
    assert (found[b"new"].whole, found[b"new"].count("added"), found[b"new"].count("moved")) == (
        "added",
        4,
        1,
    )
    assert (found[b"etc"].whole, found[b"etc"].count("changed")) == (None, 1)
    assert found[b""].to_json()["path"] == ""


def text_of(made: Diff, limit: int = 0) -> str:
    return "\n".join(row for row, _ in lines(made, limit=limit))


def test_the_text() -> None:
    made = diff(
        packages=[
            PackageChange("x", "amd64", "upgraded", "1", "2"),
            PackageChange("y", "", "removed", "3", ""),
        ],
        notes=["something \x1b[31m" + "long " * 100],
        verdicts=[Verdict("max-growth", True, "fine"), Verdict("no-new-setuid", False, "one")],
    )
    text = text_of(made)
    for part in (
        "old  old.tar (tar): 5 entries, 2.0 KiB\n",
        "5 added, 2 removed, 1 changed, 1 moved; size +38 B (+1.9 %), unique content +38 B (+1.9 %)\n",
        "note: something ?[31m" + "long " * 100 + "\n",
        "  + setuid as uid 0              /etc/a\n",
        "  ^ x:amd64 1 -> 2\n",
        "  - y 3\n",
        "\n/etc: 1 changed, +2.0 KiB\n  ~ f a  4644 0:0  10 B -> 2.0 KiB  content, size, mode\n",
        "\n/gone (removed): 2 removed, -2.0 KiB\n  - f x  0644 0:0  2.0 KiB  [clean: logs]\n  - d .  0755 0:0\n",
        "  > f deep/moving  0644 0:0  7 B  from /etc/moving\n",
        "a copy of /etc/moving\n",
        "caused by: clean 1, unknown 8\n",
        "--max-growth: kept: fine\n",
        "--no-new-setuid: EXCEEDED: one",
    ):
        assert part in text, part
    assert "\x1b" not in text


def test_the_limit_keeps_the_largest_and_tells_the_rest() -> None:
    text = text_of(diff(), limit=2)
    assert "  ~ f a" in text
    assert "  - f x" in text
    assert "  - d ." not in text
    assert "and 7 more changes (--limit 0 shows all)" in text
    assert "more change" not in text_of(diff(), limit=9)


def test_no_difference() -> None:
    text = text_of(diff(new=OLD))
    assert text.splitlines()[2:] == ["no difference"]


def test_only_what_differs_is_coloured() -> None:
    colours = dict(lines(diff()))
    assert colours["  + setuid as uid 0              /etc/a"] == "red"
    assert {colour for row, colour in colours.items() if row.startswith("  - ")} == {"red"}


def test_layers_of_paths_packages_and_privileges() -> None:
    value = layered().to_json()
    numbers = {row["path"]: (row["old_layer"], row["new_layer"]) for row in value["changes"]}
    assert (numbers["etc/a"], numbers["gone/x"], numbers["new"]) == ((1, 2), (2, 2), (None, 2))
    assert [row["layer"] for row in value["packages"]] == [2, 1]
    assert [(row["path"], row["cause"], row["new_layer"]) for row in value["privileges"]] == [
        ("etc/a", "unknown", 2),
        ("\udcff", "unknown", None),
    ]
    text = text_of(layered())
    for part in (
        "layers: 1 of 2 are the same; who has the old image fetches 20 B\n",
        "  + setuid as uid 0              /etc/a  [layer 2]\n",
        "  ^ x:amd64 2 -> 3  [layer 2]\n",
        "  - y 3\n",
        "[clean: logs, removed by layer 2]",
    ):
        assert part in text, text
