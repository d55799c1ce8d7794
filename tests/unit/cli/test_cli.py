"""The command line: what it answers, what it refuses, and that asking changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from buildstep import __version__, cli
from buildstep.cli import session
from buildstep.cli.build import load_spec
from buildstep.errors import SpecError
from buildstep.spec import template
from buildstep.spec.document import Document
from buildstep.system import process

REPOSITORY = Path(__file__).parents[3]

Run = Callable[..., tuple[int, str, str]]


def snapshot(top: Path) -> dict[str, tuple[int, float]]:
    return {
        os.path.relpath(os.path.join(folder, name), top): (info.st_ino, info.st_mtime)
        for folder, folders, files in os.walk(top)
        for name in [*folders, *files]
        for info in [os.lstat(os.path.join(folder, name))]
    }


GOOD = {"name": "hello", "version": "1.0.0", "os": "linux", "type": "other", "build": {"image": "scratch"}}


# What it answers.


def test_version_and_help(run: Run) -> None:
    assert run("--version") == (0, f"buildstep, version {__version__}\n", "")
    assert run("build", "--version")[0] == 0
    status, out, _ = run("--help")
    assert status == 0
    for name, (_, about) in cli.COMMANDS.items():
        # One without a line of help is called by other parts of ours, not by people.
        assert (f"\n  {name} " in out) == bool(about), name


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help(run: Run, name: str) -> None:
    status, out, _ = run(name, "--help")
    assert status == 0
    assert out.startswith(f"Usage: buildstep {name}")


def test_the_original_flags_are_there(run: Run) -> None:
    out = run("build", "--help")[1]
    for flag in ("-m", "-d", "-i", "-p", "-P", "-M", "-S", "-u", "-a", "-v", "--version"):
        assert f" {flag}" in out, flag
    for flag in ("--output-dir", "--format", "--compression", "--pool", "--installer", "--order", "--no-cache",
                 "--dry-run", "--keep-on-failure", "--shell-on-failure", "--json", "-D"):  # fmt: skip
        assert flag in out, flag


@pytest.mark.commands
def test_help_loads_no_driver_and_is_quick() -> None:
    code = (
        "import resource, sys; from buildstep import cli; cli.main(['build', '--help']);"
        "loaded = {m for m in sys.modules if '.' not in m} & {'sh', 'requests', 'jinja2', 'rich', 'boto3',"
        " 'zstandard', 'libzfs_core', 'jenkins', 'hypothesis'};"
        "used = resource.getrusage(resource.RUSAGE_SELF);"
        "print(sorted(loaded), used.ru_utime + used.ru_stime, file=sys.stderr)"
    )
    env = {**os.environ, "PYTHONPATH": os.fspath(REPOSITORY)}
    argv = [sys.executable, "-P", "-c", code]
    told = [
        subprocess.run(argv, check=True, capture_output=True, text=True, env=env).stderr.split()
        for _ in range(3)
    ]
    assert {words[0] for words in told} == {"[]"}
    # 0.2 s is promised. Processor time hardly depends on what else the agent does.
    assert min(float(words[1]) for words in told) < 0.25


# What it refuses.


def test_an_unknown_command_gets_its_near_miss(run: Run) -> None:
    status, _, err = run("biuld")
    assert status == 2
    assert "Did you mean build?" in err
    assert run("--nonsense")[0] == 2
    assert run("build", "--formatt", "oci")[0] == 2


def test_every_fault_of_a_manifest_is_told_at_once(
    run: Run, manifest: Callable[..., str], tmp_path: Path
) -> None:
    bad = {
        "name": "-bad name",
        "version": "1/0",
        "stray": 1,
        "os": "lunix",
        "build": {"image": "scratch", "packagess": ["a"], "packages": ["-rf", "ok"]},
    }
    path = manifest(bad)
    before = snapshot(tmp_path)
    status, out, err = run("build", "-m", path, "proto")
    assert status == 2
    assert out == ""
    for text in (
        "$.name", "$.version", "$.stray", "$.os", "$.build.packagess", "packages", "$.build.packages[0]",
    ):  # fmt: skip
        assert text in err, text
    assert "Traceback" not in err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("text", ["[]", "null", '"x"', "{", '{"build": 7}', '{"name": null}', "", "{}"])
def test_what_is_no_manifest_is_no_crash(run: Run, manifest: Callable[..., str], text: str) -> None:
    path = Path(manifest())
    path.write_text(text)
    status, _, err = run("build", "-m", os.fspath(path), "proto")
    assert status == 2, err
    assert "Traceback" not in err


def test_a_missing_manifest_proto_or_image_is_usage(run: Run, manifest: Callable[..., str]) -> None:
    status, _, err = run("build", "proto")
    assert (status, "--manifest: is required" in err) == (2, True)
    path = manifest()
    assert run("build", "-m", "no-such.json", "proto")[0] == 2
    status, _, err = run("build", "-m", path, "no-such-proto")
    assert (status, "no-such-proto does not exist" in err) == (2, True)
    path = manifest({key: value for key, value in GOOD.items() if key != "build"})
    status, _, err = run("build", "-m", path, "proto")
    assert (status, "--image" in err) == (2, True)


def test_a_pool_that_is_none_is_usage(run: Run, manifest: Callable[..., str]) -> None:
    for pool in ("nonsense", "zip:/x", "dir:"):
        status, _, err = run("build", "-m", manifest(), "--pool", pool, "proto")
        assert status == 2, err
        assert "--pool" in err


def test_a_folder_that_is_not_ours_is_no_pool(run: Run, manifest: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious").touch()
    status, _, err = run("build", "-m", manifest(), "--pool", f"dir:{tmp_path}/mine", "proto")
    assert status == 10
    assert "not ours" in err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious"]


def test_an_image_that_is_not_there_is_told_before_any_work(
    run: Run, manifest: Callable[..., str], tmp_path: Path
) -> None:
    for image in ("nobody@1", "7b5981c4-1889-11e7-b4c5-3f3bdfc9b88b", f"tar:{tmp_path}/none.tar"):
        status, _, err = run("build", "-m", manifest(), "-i", image, "proto")
        assert status == 11, err
        assert not (tmp_path / "work/bits").exists()


# What it does not do.


@pytest.mark.commands
def test_a_dry_run_changes_nothing(run: Run, manifest: Callable[..., str], tmp_path: Path) -> None:
    path = manifest()
    before = snapshot(tmp_path)
    status, out, err = run("build", "-m", path, "--dry-run", "proto")
    assert status == 0, err
    for name in ("import", "clone", "sync", "packages", "clean", "snapshot", "check", "emit", "destroy"):
        assert any(line.split()[1:2] == [name] for line in out.splitlines()), name
    names = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert sorted(names) == ["image", "pool", "proto"], "each setting once"
    assert f"  pool               dir:{tmp_path}/pool  (environment)\n" in out
    assert snapshot(tmp_path) == before


@pytest.mark.commands
def test_a_dry_run_counts_files_and_names_the_pool_it_found(
    run: Run, manifest: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = manifest()
    monkeypatch.delenv("BUILDSTEP_POOL")
    for count, text in ((0, "0 files"), (1, "1 file"), (2, "2 files")):
        if count:
            (tmp_path / f"work/proto/{count}").touch()
        status, out, _ = run("build", "-m", path, "--dry-run", "proto")
        assert status == 0
        assert f" proto/, {text}, read in place;" in out
    assert [line.split()[2] for line in out.splitlines() if line.startswith("  pool ")] == ["(default)"]


@pytest.mark.commands
def test_a_dry_run_in_a_pool_that_is_used_changes_nothing(
    run: Run, manifest: Callable[..., str], tmp_path: Path
) -> None:
    path = manifest()
    assert run("build", "-m", path, "proto")[0] == 0
    before = snapshot(tmp_path)
    status, out, _ = run("build", "-m", path, "--dry-run", "--json", "proto")
    assert status == 0
    plan = json.loads(out)
    assert {step["name"]: step["state"] for step in plan["steps"]}["import"] == "reuse"
    assert plan["image"]
    assert all(step["reason"] for step in plan["steps"])
    assert snapshot(tmp_path) == before


@pytest.mark.commands
def test_results_go_to_stdout_and_all_else_to_stderr(run: Run, manifest: Callable[..., str]) -> None:
    status, out, err = run("build", "-m", manifest(), "-f", "tar", "-v", "proto")
    assert status == 0
    assert out.splitlines() == [
        "bits/hello/hello-1.0.0.tar.zst",
        "bits/hello/hello-1.0.0.imgmanifest",
        "bits/hello/hello-1.0.0.buildrecord.json",
    ]
    assert "1/10 import the base image" in err
    status, out, err = run("build", "-m", manifest(), "-f", "tar", "-q", "--json", "proto")
    assert (status, err) == (0, "")
    assert json.loads(out)["files"][0]["format"] == "tar"


def git_facts_on_main(real: Callable[..., Any], folder: Path, **more: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "query", lambda *_argv, **_more: SimpleNamespace(stdout="main\n"))
        return real(folder, **more)


@pytest.mark.commands
def test_a_variable_that_wins_over_the_branch_is_told(
    run: Run, manifest: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(manifest({**GOOD, "version": "{{ git.branch }}"})).rename("m.json.j2")
    monkeypatch.setenv("BRANCH_NAME", "release-1")
    monkeypatch.setattr(template, "git_facts", partial(git_facts_on_main, template.git_facts))
    text = "the branch of git and stamp is release-1, as BRANCH_NAME says; main is checked out"
    status, _, err = run("build", "-m", "m.json.j2", "proto", "--dry-run")
    assert (status, err) == (0, f"buildstep: {text}\n")
    status, out, err = run("build", "-m", "m.json.j2", "proto")
    assert (status, "hello-release-1" in out) == (0, True), err
    assert f"warning: {text}" in err


@pytest.mark.commands
def test_every_event_can_be_had_as_json(run: Run, manifest: Callable[..., str], tmp_path: Path) -> None:
    assert run("build", "-m", manifest(), "--log-json", "log.jsonl", "proto")[0] == 0
    rows = [json.loads(row) for row in (tmp_path / "work/log.jsonl").read_text().splitlines()]
    assert len(rows) > 15


def test_heal_of_a_clean_pool_says_so(run: Run) -> None:
    assert run("heal")[:2] == (0, "nothing was left by dead builds\n")
    assert json.loads(run("heal", "--json", "--dry-run")[1])["left"] == []


def test_the_schema_is_json_schema(run: Run) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(run("schema")[1])
    jsonschema.validators.validator_for(schema).check_schema(schema)
    jsonschema.validate(GOOD, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**GOOD, "stray": 1}, schema)


def test_a_bug_shows_its_traceback_and_ends_with_1(
    run: Run, manifest: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(session, "heal", broken)
    status, _, err = run("build", "-m", manifest(), "proto")
    assert status == 1
    assert "boom" in err
    assert "Traceback" in err


def test_a_format_of_another_package_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point = metadata.EntryPoint("theirs", "buildstep.emit.tar:TarEmitter", "buildstep.emitters")
    monkeypatch.setattr(
        metadata, "entry_points", lambda group: [point] if group == "buildstep.emitters" else []
    )
    (tmp_path / "proto").mkdir()
    document = Document("m.json", {**GOOD, "build": {"image": "scratch", "formats": ["theirs"]}})
    spec = load_spec(document, {"proto": str(tmp_path / "proto")})
    assert tuple(spec.formats) == ("theirs",)
    wrong = Document("m.json", {**GOOD, "build": {"image": "scratch", "formats": ["their"]}})
    with pytest.raises(SpecError) as caught:
        load_spec(wrong, {"proto": str(tmp_path / "proto")})
    assert "theirs" in str(caught.value.faults[0].hint)
