"""`buildstep hrd` as a person and a program use it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from buildstep.errors import ExitCode
from tests.unit.cli.conftest import Run

TEXT = """\
# of a service
name   = web
ports  = 80, 443
env =
  LANG:C,

url = 'http://$(name)/'
port = @ASK type:int
"""


@pytest.fixture
def file(run: Run) -> Path:
    """A file in the working directory."""
    Path("s.hrd").write_text(TEXT)
    return Path("s.hrd")


@pytest.mark.parametrize(
    ("argv", "out"),
    [
        (["name"], "web\n"),
        (["ports"], "80\n443\n"),
        (["env"], "LANG:C\n"),
        (["url"], "http://$(name)/\n"),
        (["url", "--resolve"], "http://web/\n"),
        (["port"], "@ASK type:int\n"),
        (["ports", "--json"], '["80", "443"]'),
        (["port", "--json"], '{"$ask": {"type": "int"}}'),
    ],
)
def test_get(run: Run, file: Path, argv: list[str], out: str) -> None:
    status, told, err = run("hrd", "get", str(file), *argv)
    assert (status, err) == (0, "")
    assert (json.loads(told) == json.loads(out)) if "--json" in argv else (told == out)


def test_get_all_and_what_is_not_there(run: Run, file: Path) -> None:
    assert run("hrd", "get", str(file))[1].splitlines()[:3] == [
        "name = web",
        "ports = 80 | 443",
        "env = LANG:C",
    ]
    assert json.loads(run("hrd", "get", str(file), "--json")[1])["env"] == {"LANG": "C"}
    status, out, err = run("hrd", "get", str(file), "prot")
    assert (status, out) == (ExitCode.USAGE, "")
    assert 'there is no key prot (did you mean "port"?)' in err
    for argv in (
        ["get", "no.hrd"],
        ["convert", "no.toml", "--to", "hrd"],
        ["check", "s.hrd", "--schema", "no.hrd"],
    ):
        status, out, err = run("hrd", *argv)
        assert (status, out) == (ExitCode.USAGE, "")
        assert "cannot be read: No such file or directory" in err


def test_check_tells_all_faults_of_all_files(run: Run, file: Path) -> None:
    assert run("hrd", "check", str(file)) == (0, "1 file: nothing is wrong\n", "")
    Path("bad.hrd").write_text("a = x#y\nb =\n\tc,\n")
    status, out, err = run("hrd", "check", str(file), "bad.hrd", "nowhere.hrd")
    assert (status, err) == (ExitCode.USAGE, "")
    assert [line.partition(": ")[0] for line in out.splitlines()] == [
        "bad.hrd:1:6",
        "bad.hrd:3:1",
        "nowhere.hrd",
        "3 files",
    ]
    status, out, _ = run("hrd", "check", "bad.hrd", "--json")
    assert [it["where"] for it in json.loads(out)["faults"]] == ["bad.hrd:1:6", "bad.hrd:3:1"]


def test_check_with_a_schema_and_references(run: Run, file: Path) -> None:
    Path("schema.hrd").write_text("name = type:int\n")
    Path("one.hrd").write_text("name = $(other)\n")
    assert (
        "name is '$(other)', not a whole number"
        in run("hrd", "check", "one.hrd", "--schema", "schema.hrd")[1]
    )
    status, out, _ = run("hrd", "check", "one.hrd", "--references")
    assert status == ExitCode.USAGE
    assert "one.hrd:1:1: nothing has the name other" in out


@pytest.mark.parametrize("form", ["json", "toml"])
def test_convert_there_and_back(run: Run, file: Path, form: str) -> None:
    status, out, err = run("hrd", "convert", str(file), "--to", form)
    assert (status, err) == (0, "note: 1 comment of s.hrd left out\n")
    Path(f"s.{form}").write_text(out)
    status, out, err = run("hrd", "convert", f"s.{form}", "--to", "hrd")
    assert (status, err) == (0, "")
    Path("again.hrd").write_text(out)
    assert run("hrd", "get", "again.hrd", "--json")[1] == run("hrd", "get", str(file), "--json")[1]
    Path("bad.json").write_bytes(b'{"a": "\xff"}')
    assert "no UTF-8" in run("hrd", "convert", "bad.json", "--to", "hrd")[2]


def test_fmt_changes_layout_and_keeps_the_mode_and_links(run: Run, file: Path) -> None:
    file.chmod(0o640)
    Path("link.hrd").symlink_to(file)
    status, out, _ = run("hrd", "fmt", "--check", "link.hrd")
    assert (status, out, file.read_text()) == (ExitCode.GATE, "link.hrd\n", TEXT)
    status, out, _ = run("hrd", "fmt", "--diff", "link.hrd")
    assert (status, file.read_text()) == (0, TEXT)
    assert "-name   = web\n-ports  = 80, 443\n+name = web\n+ports = 80, 443\n" in out
    assert run("hrd", "fmt", "link.hrd") == (0, "link.hrd\n", "")
    assert file.read_text() == TEXT.replace("   =", " =").replace("ports  =", "ports =").replace(
        "  LANG", "    LANG"
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert Path("link.hrd").is_symlink()
    assert run("hrd", "fmt", "--check", "link.hrd") == (0, "", "")


def test_fmt_changes_nothing_if_one_file_is_no_hrd(run: Run, file: Path) -> None:
    Path("bad.hrd").write_text("x\n")
    status, out, err = run("hrd", "fmt", str(file), "bad.hrd", "nowhere.hrd")
    assert (status, out, file.read_text()) == (ExitCode.USAGE, "", TEXT)
    assert "bad.hrd:1:1" in err
    assert "nowhere.hrd" in err


def test_set_changes_a_key_and_nothing_else(run: Run, file: Path) -> None:
    assert run("hrd", "set", str(file), "name", "it's, new") == (0, "", "")
    assert file.read_text() == TEXT.replace("name   = web", r"name = 'it\EAs, new'")
    assert run("hrd", "set", str(file), "ports", "1, 'a, b'", "--hrd")[0] == 0
    assert run("hrd", "get", str(file), "ports")[1] == "1\na, b\n"
    before = file.read_text()
    status, out, _ = run("hrd", "set", str(file), "new", "x", "--dry-run")
    assert (status, out, file.read_text()) == (0, before + "new = x\n", before)
    for key, value in (("a=b", "x"), ("k", "\x01")):
        status, out, err = run("hrd", "set", str(file), key, value)
        assert (status, file.read_text()) == (ExitCode.USAGE, before), err


def test_the_grammar_is_json(run: Run) -> None:
    assert json.loads(run("hrd", "grammar")[1])["scopeName"] == "source.hrd"


def test_fmt_changes_all_files_before_it_prints(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a reader who leaves after the first name leaves no file unchanged."""
    from buildstep.cli import options

    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError

    Path("second.hrd").write_text("a   = 1\n")
    monkeypatch.setattr(options, "echo", gone)
    run("hrd", "fmt", str(file), "second.hrd")
    assert Path("second.hrd").read_text() == "a = 1\n"
    assert file.read_text() != TEXT
