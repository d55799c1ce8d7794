"""`buildstep assets status` and `systemd`, as they are typed, with a directory and a file."""

from __future__ import annotations

import json
import os
import re
import shlex
import textwrap
from pathlib import Path

import pytest

from buildstep.spec import config as configs
from tests.unit.cli.conftest import Run


@pytest.fixture
def host(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A host that is mapped to a service, of which nothing is installed yet."""
    here = Path.cwd()
    monkeypatch.setenv("BUILDSTEP_ASSETS", f"dir:{here}/store")
    monkeypatch.setenv("BUILDSTEP_REGISTER", f"file:{here}/maps.toml")
    monkeypatch.setenv("BUILDSTEP_INSTALL_DIR", os.fspath(here / "services"))
    monkeypatch.setenv("BUILDSTEP_HOST", "web-1")
    Path("web").mkdir()
    Path("web/page").write_text("one")
    assert run("assets", "push", "web", "1.0", "web")[0] == 0
    assert run("map", "add", "web-*", "web")[0] == 0
    return run


def test_status_before_and_after_a_pull(host: Run) -> None:
    status, out, _ = host("assets", "status")
    assert status == 0
    assert out.splitlines() == [
        "web-1: web-* -> web",
        "web: no version is current; 0 of 1 installed",
        "  1.0: missing, is not there yet",
        "not up to date: `buildstep assets pull`",
    ]
    assert host("assets", "status", "--check", "--quiet")[:2] == (20, "")
    assert host("assets", "pull", "--quiet", "--activate")[0] == 0
    status, out, _ = host("assets", "status", "--check", "--json")
    found = json.loads(out)
    assert (status, found["up_to_date"], found["services"]["web"]["current"]) == (0, True, "1.0")


def test_status_of_another_host_that_no_pattern_matches(host: Run) -> None:
    assert host("assets", "status", "--host", "db-1")[1].splitlines()[0] == "db-1: no mapping matches it"


def test_status_without_a_register_shows_the_disk_and_fails(host: Run) -> None:
    host("assets", "pull")
    Path("maps.toml").unlink()
    status, out, err = host("assets", "status", "--metrics", "x.prom")
    assert (status, out.splitlines()[1].partition(";")[0]) == (21, "web: no version is current")
    assert "maps.toml" in err
    assert 'buildstep_assets_reachable{what="register"} 0' in Path("x.prom").read_text()


def test_metrics_under_a_name_that_nobody_reads_are_refused(host: Run) -> None:
    status, _, err = host("assets", "status", "--metrics", "x.txt")
    assert (status, "end in .prom" in err) == (2, True)


def test_status_tells_what_is_wrong_with_its_mapping(host: Run) -> None:
    Path("maps.toml").write_text('[hosts]\n"web-*" = ["web", "my-web"]\n"web-[" = ["a"]\n"db" = []\n')
    wrong = [
        "'web-*': 'my-web' is no name of a service",
        "'web-[' is no pattern: a class of characters is not closed",
    ]
    assert host("assets", "status")[1].splitlines()[1:3] == [f"  {text}" for text in wrong]
    assert json.loads(host("assets", "status", "--json")[1])["faults"] == wrong


def test_a_file_that_has_no_place_is_told(host: Run) -> None:
    status, _, err = host("assets", "status", "--metrics", "nowhere/x.prom")
    assert (status, "nowhere/x.prom cannot be written: No such file" in err) == (2, True)
    status, _, err = host("assets", "systemd", "--dir", "nowhere")
    assert (status, "nowhere/buildstep-pull.service cannot be written: No such file" in err) == (2, True)


def test_units_are_printed_or_written(run: Run) -> None:
    status, out, _ = run("assets", "systemd", "--program", "/opt/b/bin/buildstep")
    assert status == 0
    assert [line for line in out.splitlines() if line.startswith("# ")] == [
        "# buildstep-pull.service", "# buildstep-pull.timer", "# buildstep-pull-watch.service",
    ]  # fmt: skip
    assert "ExecStart=/opt/b/bin/buildstep assets pull\n" in out
    Path("units").mkdir()
    assert run("assets", "systemd", "--dir", "units", "--every", "1h")[0] == 0
    assert sorted(os.listdir("units")) == [
        "buildstep-pull-watch.service", "buildstep-pull.service", "buildstep-pull.timer",
    ]  # fmt: skip
    assert "OnUnitInactiveSec=1h\n" in Path("units/buildstep-pull.timer").read_text()


def test_options_of_the_pull_are_checked_and_reach_the_units(run: Run) -> None:
    status, _, err = run("assets", "systemd", "--", "--keep", "many")
    assert (status, "--keep" in err) == (2, True)
    assert run("assets", "systemd", "--", "--wathc")[0] == 2
    assert run("assets", "systemd", "--", "--watch")[0] == 2
    words = ("--install-dir", "/srv/x", "--only-version", "2.*", "--activate", "--host", "web-9", "--prune")
    out = run("assets", "systemd", "--program", "/b", "--metrics", "/m/b.prom", "--", *words)[1]
    lines = out.splitlines()
    assert (
        'ExecStart=/b assets pull --install-dir /srv/x --only-version "2.*" --activate --host web-9 --prune'
        in lines
    )
    (after,) = [line for line in lines if line.startswith("ExecStopPost=")]
    assert after.startswith("ExecStopPost=-/b assets status --quiet ")
    assert after.endswith(" --metrics /m/b.prom")
    assert set(after.split()[4:-2]) == {"--install-dir=/srv/x", '"--only-version=2.*"', "--host=web-9"}
    assert "ReadWritePaths=-/srv/x -/m" in lines


def test_what_a_unit_runs_is_a_pull_and_a_status(host: Run) -> None:
    argv = ("--program", "/b", "--metrics", "now.prom", "--", "--install-dir", "two words", "--activate")
    lines = host("assets", "systemd", *argv)[1].splitlines()

    def runs(key: str) -> list[str]:
        line = next(line for line in lines if line.startswith(f"{key}="))
        return shlex.split(line.partition("=")[2])[1:]

    assert host(*runs("ExecStart"))[0] == 0
    assert Path("two words/web/current/page").read_text() == "one"
    assert host(*runs("ExecStopPost"))[:2] == (0, "")
    assert "buildstep_assets_up_to_date 1" in Path("now.prom").read_text()


def test_a_unit_means_the_paths_that_were_typed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path.cwd()
    Path("hooks").mkdir()
    words = ("--hooks", "hooks", "--register=maps.toml", "--store", "assets", "--key", "a.pub", "--", "web")
    lines = run("assets", "systemd", "--program", "/b", "--", "--install-dir", "to", *words)[1].splitlines()
    assert (
        f"ExecStart=/b assets pull --install-dir {here}/to --hooks {here}/hooks"
        f" --register=file:{here}/maps.toml --store dir:{here}/assets --key {here}/a.pub -- web"
    ) in lines
    monkeypatch.setenv("BUILDSTEP_INSTALL_DIR", "/srv/x")
    lines = run("assets", "systemd", "--program", "/b", "--", "--store", "s3://assets")[1].splitlines()
    assert "ExecStart=/b assets pull --install-dir /srv/x --store s3://assets" in lines
    assert "ReadWritePaths=-/srv/x" in lines


def test_a_unit_of_another_user_is_told_where_to_install(run: Run) -> None:
    assert run("assets", "systemd", "--user", "web")[0] == 2
    assert run("assets", "systemd", "--user", "web", "--", "--install-dir", "/srv/x")[0] == 0


def test_a_unit_holds_no_password(run: Run) -> None:
    status, out, err = run("assets", "systemd", "--", "--store", "https://user:s3cret@files.example.org/x")
    assert (status, "/etc/buildstep/pull.env" in err) == (2, True)
    assert "s3cret" not in out + err
    assert run("assets", "systemd", "--", "--store", "ssh://user@files.example.org/x")[0] == 0


def test_hooks_are_not_shut_in(run: Run) -> None:
    Path("hooks").mkdir()
    shut_in = "ProtectSystem=strict"
    assert shut_in in run("assets", "systemd")[1]
    assert shut_in not in run("assets", "systemd", "--", "--hooks", "hooks")[1]


@pytest.mark.parametrize("page", ["tutorial/services-on-hosts.md", "how-to/pull-on-hosts.md"])
def test_settings_that_a_page_shows_are_valid(page: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / page).read_text()
    (block,) = re.findall(r"^ *```toml\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "buildstep.toml").write_text(textwrap.dedent(block))
    found = configs.load({}, tmp_path).assets
    assert (found.store, found.register, found.keep) == ("s3://assets", "consul:", 3)
