"""A manifest is one wherever it stands, the ones that are here are the defaults, and -D needs a template."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from buildstep.cli.inputs import find_inputs
from buildstep.net import jenkins, jenkins_agents
from tests.unit.cli.conftest import GOOD, Run

pytestmark = pytest.mark.commands  # the doctor asks tools for their versions

TEXT = json.dumps(GOOD)
TEMPLATE = TEXT.replace("1.0.0", "{{ version }}")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proto").mkdir()
    (tmp_path / "m.json").write_text(TEXT)
    (tmp_path / "service").write_text(f"\n  {TEXT}")
    (tmp_path / "app.tar").write_bytes(b"\x1f\x8b")
    (tmp_path / "odd.json").mkdir()
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "manifest", "proto"),
    [
        ([], None, None),
        (["m.json"], "m.json", None),
        (["proto"], None, "proto"),
        (["m.json", "proto"], "m.json", "proto"),
        (["proto", "m.json"], "m.json", "proto"),
        (["service"], "service", None),
        (["not-there.json.j2"], "not-there.json.j2", None),
        (["not-there"], None, "not-there"),
        (["app.tar"], None, "app.tar"),
        (["odd.json"], None, "odd.json"),
        (["fifo"], "fifo", None),
        (["-", "proto"], "-", "proto"),
        ([TEXT], TEXT, None),
        (["x" * 5000], None, "x" * 5000),
    ],
)
def test_a_file_that_is_a_manifest_is_taken_as_one(
    words: list[str], manifest: str | None, proto: str | None
) -> None:
    assert find_inputs(words, None) == (manifest, proto)
    if manifest is None:
        assert find_inputs(words, "other.json") == ("other.json", proto)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "manifest", "said"),
    [
        (["m.json", "service"], None, "one m.json is built from, and there are 2: m.json and service"),
        (["m.json"], "b.json", "m.json and b.json"),
        (
            ["proto", "odd.json"],
            None,
            "one proto directory is built from, and there are 2: proto and odd.json",
        ),
    ],
)
def test_two_of_a_kind_are_refused(words: list[str], manifest: str | None, said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        find_inputs(words, manifest)


def verdict(run: Run, *argv: str) -> tuple[str, str]:
    """What a command that looks at a build says that it is about: doctor's name, a dry run's step."""
    told = json.loads(run("doctor", "--json", *argv)[1])
    planned = run("build", "--dry-run", *argv)
    return f"{told['name']} {told['version']}", planned[1] or planned[2]


def test_doctor_and_build_take_them_alike(run: Run, manifest: Callable[..., str]) -> None:
    manifest()
    Path("other.json").write_text(TEXT.replace("hello", "other"))
    Path("proto/file").touch()
    Path("second").mkdir()
    for argv, name, files in (
        ((), "hello 1.0.0", "1 file"),
        (("m.json",), "hello 1.0.0", "1 file"),
        (("second", "other.json"), "other 1.0.0", "0 files"),
        (("-m", "other.json", "second"), "other 1.0.0", "0 files"),
    ):
        told, planned = verdict(run, *argv)
        assert told == name
        assert f"sync      {'proto' if files == '1 file' else 'second'}/, {files}" in planned, planned


def test_a_proto_that_the_m_json_names_wins_over_the_default(run: Run, manifest: Callable[..., str]) -> None:
    manifest(GOOD | {"build": {"image": "scratch", "proto": "mine"}})
    Path("mine").mkdir()
    assert "sync      mine/, 0 files" in run("build", "--dry-run")[1]


def test_where_nothing_is_named_nor_here_each_says_what_it_can(run: Run) -> None:
    status, _, err = run("build")
    assert status == 2
    assert "--manifest: is required (give a file or JSON text, or build where there is an m.json)" in err
    assert json.loads(run("doctor", "--json")[1])["name"] is None


def test_a_manifest_and_a_template_that_are_both_here(run: Run, manifest: Callable[..., str]) -> None:
    manifest()
    Path("m.json.j2").write_text(TEMPLATE)
    for name in ("build", "doctor"):
        status, _, err = run(name)
        assert (status, "m.json and m.json.j2 are both here (name one of them)" in err) == (2, True), err


@pytest.mark.parametrize("argv", [("m.json",), ("-m", "m.json"), (TEXT,), ("-",), ()])
def test_values_for_what_is_no_template_are_an_error(
    run: Run, manifest: Callable[..., str], argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest()
    for name in ("build", "doctor"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT))
        status, out, err = run(name, *argv, "-D", "version=2")
        assert status == 2
        assert "version: values are for templates, and" in out + err
        assert "m.json.j2" in out + err


def test_a_template_that_is_here_gets_its_values(run: Run) -> None:
    Path("m.json.j2").write_text(TEMPLATE)
    Path("proto").mkdir()
    assert json.loads(run("doctor", "--json", "-D", "version=7")[1])["version"] == "7"
    assert run("build", "--dry-run", "-D", "version=7")[0] == 0


def test_jenkins_agents_takes_them_too(
    run: Run, manifest: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest(GOOD | {"build": {"image": "mmdebstrap:bookworm"}})
    Path("other.json").write_text(TEXT)
    Path("t.json.j2").write_text(TEXT.replace("scratch", "{{ image }}"))
    seen: list[object] = []
    real = jenkins_agents.needs_of

    def needs_of(document: dict[str, object], **wanted: str) -> object:
        seen.append(document.get("build"))
        return real(document, **wanted)

    monkeypatch.setattr(jenkins_agents, "needs_of", needs_of)
    monkeypatch.setattr(jenkins_agents, "list_nodes", lambda _server: [])
    monkeypatch.setattr(jenkins, "JenkinsServer", lambda *_, **__: None)
    monkeypatch.setenv("JENKINS_URL", "http://127.0.0.1:1")
    for argv in ((), ("other.json",), ("--for", "other.json"), ("t.json.j2", "-D", "image=scratch")):
        assert run("jenkins", "agents", *argv)[0] == 3, "there is no node"
    assert [row["image"] for row in seen if isinstance(row, dict)] == [
        "mmdebstrap:bookworm", "scratch", "scratch", "scratch",
    ]  # fmt: skip
    assert run("jenkins", "agents", "proto")[0] == 2
