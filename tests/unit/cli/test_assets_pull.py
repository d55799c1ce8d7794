"""`buildstep assets pull` and `rollback`: what is printed, what the options mean, and the exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.unit.assets.pulling import archive, member, simple
from tests.unit.cli.conftest import Run


@pytest.fixture
def store(run: Run) -> Path:
    """Assets, a register and hooks in the current directory."""
    folder = Path("store")
    folder.mkdir()
    for version in (1, 2, 10):
        (folder / f"web-{version}.tar.gz").write_bytes(simple(str(version)))
    (folder / "db-7.tar.gz").write_bytes(simple("7"))
    Path("hosts.toml").write_text('[hosts]\n"web-*" = ["web", "gone"]\n"db-1" = ["db"]\n')
    return folder


HERE = ("--store=store", "--install-dir=srv", "--quiet")
BY_HOST = (*HERE, "--register=hosts.toml")


def test_a_host_gets_the_services_that_it_is_mapped_to(run: Run, store: Path) -> None:
    status, out, err = run("assets", "pull", *BY_HOST, "--host=web-1")
    assert (status, err) == (0, "")
    size = sum(path.stat().st_size for path in store.glob("web-*"))
    assert out == (f"web: installed 10, 2, 1\n2 services, 3 versions installed ({size} B), 0 there already\n")
    status, out, _ = run("assets", "pull", *BY_HOST, "--host=web-1", "--json")
    value = json.loads(out)
    assert (value["host"], value["pattern"]) == ("web-1", "web-*")
    assert value["store"] == f"dir:{store.resolve()}"
    assert value["install_dir"] == os.path.abspath("srv")
    assert value["services"]["web"]["present"] == ["10", "2", "1"]
    assert value["services"]["gone"]["wanted"] == []


def test_a_host_that_no_pattern_matches_is_told(run: Run, store: Path) -> None:
    status, out, err = run(
        "assets", "pull", "--store=store", "--install-dir=srv", "--register=hosts.toml", "--host=mail"
    )
    assert status == 0
    assert out == "0 services, 0 versions installed, 0 there already\n"
    assert "no pattern of " in err
    assert " matches mail" in err


def test_settings_of_the_configuration_count(run: Run, store: Path) -> None:
    Path("buildstep.toml").write_text(
        '[assets]\nstore = "dir:store"\nregister = "hosts.toml"\ninstall_dir = "there"\nhost = "web-1"\nkeep = 1\n'
    )
    assert run("assets", "pull", "--quiet")[0] == 0
    assert os.listdir("there/web") == ["10"]
    assert run("assets", "pull", "--quiet", "--keep=0")[0] == 0
    assert sorted(os.listdir("there/web")) == ["1", "10", "2"]


def test_a_dry_run_tells_why(run: Run, store: Path) -> None:
    status, out, _ = run("assets", "pull", "web", *HERE, "--dry-run", "--keep=1")
    assert status == 0
    assert out == (
        "web: would be installed 10; 10 is not there yet\n1 service, 1 version would be installed, 0 there already\n"
    )
    assert not Path("srv").exists()


def test_of_many_versions_the_newest_are_named(run: Run, store: Path) -> None:
    for version in range(20, 30):
        (store / f"db-{version}.tar.gz").write_bytes(simple("x"))
    assert "db: installed 29, 28, 27, 26, 25 and 6 more\n" in run("assets", "pull", "db", *HERE)[1]


def test_what_failed_is_told_and_all_else_is_done(run: Run, store: Path) -> None:
    (store / "web-2.tar.gz").write_bytes(archive(member("../x", b"x")))
    status, out, err = run("assets", "pull", "web", "db", *HERE)
    assert status == 22
    assert "web: installed 10, 1; not complete\n" in out
    assert "1 service of 2 could not be pulled completely\n  web 2: the archive is refused" in err
    assert "leads out of the root" in err


def test_a_link_that_leads_out_is_only_taken_where_that_is_permitted(run: Run, store: Path) -> None:
    import tarfile

    (store / "db-8.tar.gz").write_bytes(
        archive(member("mtab", kind=tarfile.SYMTYPE, linkname="/proc/mounts"))
    )
    status, _, err = run("assets", "pull", "db", *HERE)
    assert status == 22
    assert "a symbolic link out of the asset" in err
    assert run("assets", "pull", "db", *HERE, "--links-out")[0] == 0
    assert os.readlink("srv/db/8/mtab") == "/proc/mounts"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("web", "--watch"), "--watch follows the mappings of this host"),
        (("--watch", "--dry-run"), "--watch follows the mappings of this host"),
        (("a-b",), "'a-b' is no name of a service"),
        (("web", "--hooks=nowhere"), "--hooks nowhere: there is no such directory"),
        (("--host=a/b",), "'a/b' is no name of a host"),
    ],
)
def test_options_that_make_no_sense(run: Run, store: Path, words: tuple[str, ...], why: str) -> None:
    status, _, err = run("assets", "pull", *words, *BY_HOST)
    assert status == 2
    assert why in err


def test_a_prune_that_goes_too_far_is_told_with_what_was_done(run: Run, store: Path) -> None:
    assert run("assets", "pull", "web", *HERE)[0] == 0
    (store / "web-11.tar.gz").write_bytes(simple("11"))
    status, out, err = run("assets", "pull", "web", *HERE, "--keep=1", "--prune", "--max-delete=2")
    assert status == 22
    assert "web: installed 11" in out
    assert "3 versions would be removed, more than --max-delete 2" in err
    assert sorted(os.listdir("srv/web")) == ["1", "10", "11", "2"]


def test_activate_and_roll_back(run: Run, store: Path) -> None:
    assert run("assets", "pull", "web", *HERE, "--activate", "--only-version=2")[0] == 0
    status, out, _ = run("assets", "pull", "web", *HERE, "--activate")
    assert (status, out.splitlines()[0]) == (0, "web: installed 10, 1; runs 10")
    assert run("assets", "rollback", "web", "--install-dir=srv")[1] == "web runs 2, not 10 any more\n"
    status, out, err = run("assets", "pull", "web", "--store=store", "--install-dir=srv", "--activate")
    assert status == 0
    assert "web 10 is not activated: it was rolled back" in err
    assert os.readlink("srv/web/current") == "2"
    assert run("assets", "rollback", "web", "--install-dir=srv", "--to=9")[0] == 2


@pytest.mark.commands
def test_archives_of_a_content_store_come_from_there(run: Run, store: Path) -> None:
    assert run("assets", "push", "log", "1", "store/web-1.tar.gz", "--store=pushed")[0] == 0
    assert run("files", "put", "pushed", "--store=contents", "-q")[0] == 0
    archive = Path("pushed/log-1.tar.gz")
    archive.write_bytes(bytes(archive.stat().st_size))  # it is not read
    words = ("assets", "pull", "log", "--store=pushed", "--install-dir=srv", "--quiet")
    assert run(*words)[0] == 22
    assert run(*words, "--contents=contents")[0] == 0
    assert Path("srv/log/1/run").read_text() == "1"
