"""`buildstep map` as a person and a program use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildstep.assets import mapping, open_register
from buildstep.assets.interface import RegisterAccess
from buildstep.errors import ExitCode
from buildstep.events import Bus
from tests.unit.cli.conftest import Run


@pytest.fixture
def mapped(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """With a register of two mappings in the working directory."""
    monkeypatch.setenv("BUILDSTEP_REGISTER", "file:m.toml")
    Path("m.toml").write_text('[hosts]\n"web-*" = ["a", "b"]\n"web-prod-*" = ["c"]\n')
    return run


def test_it_works_with_nothing_but_a_file(run: Run, tmp_path: Path) -> None:
    for argv in (["add", "web-*", "a"], ["list"], ["resolve", "web-1"], ["check"]):
        status, out, err = run("map", *argv, "--register", "m.toml")
        assert (status, err) == (0, ""), argv
        assert "web-*" in out or argv == ["check"]
    assert run("map", "list")[0] == ExitCode.REGISTER, "the user's own is not made by looking"


def test_resolve_shows_winner_losers_and_why(mapped: Run) -> None:
    status, out, _ = mapped("map", "resolve", "web-prod-1", "--json")
    found = json.loads(out)
    assert (status, found["pattern"], found["services"]) == (0, "web-prod-*", ["c"])
    assert found["losers"] == [
        {"pattern": "web-*", "services": ["a", "b"], "reason": "has fewer literal characters: 4, not 9"}
    ]
    assert mapped("map", "resolve", "web-prod-1")[1].splitlines() == [
        "web-prod-1: c",
        "  web-prod-* wins",
        "  web-* loses: it has fewer literal characters: 4, not 9 (a, b)",
    ]
    status, out, _ = mapped("map", "resolve", "db")
    assert (status, out) == (0, "db: no pattern matches\n")
    assert json.loads(mapped("map", "resolve", "db", "--json")[1])["pattern"] is None


def test_resolve_takes_this_host_or_the_configured_one(mapped: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    assert json.loads(mapped("map", "resolve", "--json")[1])["host"] == os.uname().nodename
    monkeypatch.setenv("BUILDSTEP_HOST", "web-7")
    assert json.loads(mapped("map", "resolve", "--json")[1])["services"] == ["a", "b"]


def test_compat_by_flag_and_setting(mapped: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped("map", "add", "web-1", "exact")
    mapped("map", "add", "web-1*", "star")
    assert "exact" in mapped("map", "resolve", "web-1")[1].splitlines()[0]
    assert "star" in mapped("map", "resolve", "web-1", "--compat")[1].splitlines()[0]
    monkeypatch.setenv("BUILDSTEP_COMPAT", "true")
    assert "star" in mapped("map", "resolve", "web-1")[1].splitlines()[0]


def test_d13_no_arguments_last_service_and_all_mappings(mapped: Run) -> None:
    """daybook-map panics, exits with 1 though it is done, and cannot list all."""
    assert mapped("map")[0] == ExitCode.USAGE
    status, out, err = mapped("map", "remove", "web-prod-*", "c")
    assert (status, out, err) == (0, "web-prod-*: no mapping any more\n", "")
    assert mapped("map", "list") == (0, "web-*  a, b\n", "")
    status, _, err = mapped("map", "list", "web-prod-*")
    assert status == ExitCode.REGISTER
    assert "has no mapping" in err


def test_list_of_a_service(mapped: Run) -> None:
    assert list(json.loads(mapped("map", "list", "--service", "c", "--json")[1])["mappings"]) == [
        "web-prod-*"
    ]


def test_remove_says_what_was_not_there(mapped: Run) -> None:
    status, out, err = mapped("map", "remove", "web-*", "a", "zz")
    assert (status, out) == (0, "web-*: b\n")
    assert "zz was not mapped" in err
    assert mapped("map", "remove", "web-*")[0] == ExitCode.USAGE
    assert mapped("map", "remove", "web-*", "b", "--all")[0] == ExitCode.USAGE
    assert mapped("map", "remove", "web-*", "--all")[1] == "web-*: no mapping any more\n"
    assert mapped("map", "remove", "web-*", "--all")[0] == ExitCode.REGISTER


@pytest.mark.parametrize(
    ("pattern", "service"),
    [
        ("a/b", "x"),
        ("[a", "x"),
        ("", "x"),
        ("a b", "x"),
        ("..", "x"),
        ("a" * 600, "x"),
        ("a", "b-c"),
        ("a", ""),
        ("a", "b,,c"),
    ],
)
def test_d06_what_is_no_pattern_or_service_is_refused(mapped: Run, pattern: str, service: str) -> None:
    before = Path("m.toml").read_text()
    assert mapped("map", "add", "--", pattern, service)[0] == ExitCode.USAGE
    assert Path("m.toml").read_text() == before


def test_check_exits_with_its_verdict(mapped: Run) -> None:
    assert mapped("map", "check") == (0, "2 mappings: nothing is wrong\n", "")
    mapped("map", "add", "web-**", "x")
    status, out, _ = mapped("map", "check")
    assert status == ExitCode.REGISTER
    assert out.startswith("error: 'web-**' wins no host: 'web-*' matches all that it matches")
    found = json.loads(mapped("map", "check", "--json")[1])
    assert (found["wrong"], found["findings"][0]["kind"]) == (1, "never")


def editor(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = Path("editor.sh")
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(path.resolve()))


@pytest.mark.commands
def test_edit_makes_what_differs(mapped: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    editor(
        monkeypatch, """sed -i 's/^web-\\*:.*/web-*: b, z/; /^web-prod/d' "$1"; echo 'new-1: x' >> "$1" """
    )
    status, out, _ = mapped("map", "edit", "--yes")
    assert status == 0
    assert out.splitlines() == [
        "+ new-1: x", "- web-*: a, b", "+ web-*: b, z", "- web-prod-*: c", "3 mappings changed",
    ]  # fmt: skip
    assert mapped("map", "list")[1].split() == ["new-1", "x", "web-*", "b,", "z"]


@pytest.mark.commands
def test_edit_asks_and_checks(mapped: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path("m.toml").read_text()
    editor(monkeypatch, """echo 'new-1: x' >> "$1" """)
    assert mapped("map", "edit")[1].endswith("nothing was changed\n"), "nobody can be asked"
    editor(monkeypatch, """echo 'web-*: twice' >> "$1"; echo '[a: x' >> "$1"; echo 'no colon' >> "$1" """)
    status, _, err = mapped("map", "edit", "--yes")
    assert status == ExitCode.USAGE
    assert "line 6: 'web-*' is mapped a second time" in err
    assert "is no pattern for hosts" in err
    editor(monkeypatch, "true")
    assert mapped("map", "edit")[1] == "nothing was changed\n"
    assert Path("m.toml").read_text() == before


@pytest.mark.commands
def test_edit_leaves_alone_what_is_wrong_and_was_not_touched(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("m.toml")
    path.write_text('[hosts]\n"a/b" = ["x"]\n"db" = []\n"no[" = ["x-y", "z"]\n"web" = ["a"]\n')
    editor(monkeypatch, """sed -i 's/^web:.*/web: b/' "$1" """)
    assert run("map", "edit", "--yes", "--register", "m.toml")[0] == 0
    assert path.read_text() == '[hosts]\n"a/b" = ["x"]\n"db" = []\n"no[" = ["x-y", "z"]\n"web" = ["b"]\n'
    editor(monkeypatch, """sed -i 's,^a/b:.*,a/b: y,' "$1" """)
    status, _, err = run("map", "edit", "--yes", "--register", "m.toml")
    assert (status, "no host has a / in its name" in err) == (2, True)


@pytest.mark.commands
def test_d06_edit_overwrites_nothing_that_changed_meanwhile(
    mapped: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(monkeypatch, """sed -i 's/^web-\\*:.*/web-*: b, z/; s/^web-prod.*/web-prod-*: d/' "$1" """)
    real = mapping.replace

    def late(*args: object) -> bool:
        other = open_register("m.toml", RegisterAccess(environ={}, bus=Bus()))
        mapping.add(other, "web-*", ["somebody"])
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(mapping, "replace", late)
    status, _, err = mapped("map", "edit", "--yes")
    assert status == ExitCode.INCOMPLETE
    assert "web-*" in err
    found = json.loads(mapped("map", "list", "--json")[1])["mappings"]
    assert found == {"web-*": ["a", "b", "somebody"], "web-prod-*": ["d"]}
