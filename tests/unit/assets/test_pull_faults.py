"""A pull where something else is in the way: files of others, a register of versions that is damaged, keys that
are trusted no more, patterns that fit nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from buildstep.assets import names, open_assets
from buildstep.assets.activate import STATE
from buildstep.assets.interface import Details, NoStore
from buildstep.assets.names import Name
from buildstep.assets.policy import Policy
from buildstep.assets.pull import told
from buildstep.assets.retention import Retention
from buildstep.cli.assets_rollback import command as rollback
from buildstep.errors import ExitCode, SigningError, StoreError, UsageError
from tests.unit.assets.pulling import MemoryAssets, pulled, simple


@pytest.fixture
def store() -> MemoryAssets:
    found = MemoryAssets()
    for file in ("web-1.tar.gz", "web-2.tar.gz", "db-7.tar.gz"):
        found.add(file, simple(file), signature="old")
    return found


@pytest.mark.parametrize("below", ["", "deeper"])
def test_an_install_directory_that_is_a_file_is_a_mistake_and_no_bug(
    store: MemoryAssets, tmp_path: Path, below: str
) -> None:
    (tmp_path / "srv").touch()
    with pytest.raises(UsageError, match="cannot make the directory"):
        pulled(store, tmp_path / "srv" / below)


def test_a_link_in_the_place_of_a_version_is_named_and_left(store: MemoryAssets, tmp_path: Path) -> None:
    install, elsewhere = tmp_path / "srv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (install / "web").mkdir(parents=True)
    (install / "web/1").symlink_to(elsewhere)
    report = pulled(store, install)
    assert report.services["web"].failed == {"1": f"{install}/web/1 is no directory"}
    assert report.services["web"].installed == ["2"]
    assert os.listdir(elsewhere) == []


def test_no_version_has_the_name_of_the_link(store: MemoryAssets, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'current' is no version") as caught:
        names.checked_version("current")
    assert "the link" in caught.value.hint
    assert names.parse("web-current.tar.gz") is None
    assert names.is_version("current2")
    store.add("web-current.tar.gz", simple("a trap"))
    report = pulled(store, tmp_path, activate=True)
    assert report.failed == []
    assert os.readlink(tmp_path / "web/current") == "2"


def test_patterns_that_no_version_fits_empty_no_host(store: MemoryAssets, tmp_path: Path) -> None:
    pulled(store, tmp_path)
    report = pulled(store, tmp_path, prune=True, retention=Retention(versions=("2o*",)))
    assert report.services["web"].removed == []
    assert sorted(os.listdir(tmp_path / "web")) == ["1", "2"]


@pytest.mark.parametrize("mapped", [True, False])
def test_what_is_damaged_of_one_service_keeps_no_other_back(
    store: MemoryAssets, tmp_path: Path, mapped: bool
) -> None:
    pulled(store, tmp_path, "web", "db")
    (tmp_path / "web" / STATE).write_text("{")
    store.add("db-8.tar.gz", simple("8"))
    report = pulled(store, tmp_path, *(["web"] if mapped else []), "db", prune=True)
    assert "cannot be read" in report.services["web"].failed[""]
    assert report.services["db"].installed == ["8"]
    assert sorted(set(os.listdir(tmp_path / "web")) - {STATE}) == ["1", "2"]


def test_a_key_that_is_trusted_no_more_is_not_trusted_for_what_is_there(
    store: MemoryAssets, tmp_path: Path
) -> None:
    def policy(key: str) -> Policy:
        def verify(name: Name, details: Details) -> str:
            if details.signature != key:
                raise SigningError(f"{name.file} is not signed by {key}")
            return key

        return Policy(verify=verify, keys=frozenset([key]))

    assert pulled(store, tmp_path, policy=policy("old")).failed == []
    assert pulled(store, tmp_path, policy=policy("old")).services["web"].present == ["2", "1"]
    report = pulled(store, tmp_path, policy=policy("new"))
    assert report.services["web"].failed["1"] == "web-1.tar.gz is not signed by new"
    store.add("web-1.tar.gz", simple("web-1.tar.gz"), signature="new")
    assert list(pulled(store, tmp_path, policy=policy("new")).services["web"].failed) == ["2"]


def test_a_rollback_in_a_directory_that_is_none_makes_none(tmp_path: Path) -> None:
    install = tmp_path / "typo"
    result = CliRunner().invoke(rollback, ["web", "--install-dir", str(install)], standalone_mode=False)
    assert result.return_value == ExitCode.USAGE, result.exception
    assert not install.exists()


def test_empty_lines_of_a_detail_are_left_out() -> None:
    assert told(StoreError("no", detail="\n  since\n\n  then")) == "no: since; then"


def test_a_store_that_is_not_there_is_no_empty_store(tmp_path: Path) -> None:
    """A misspelt path, or a file system that is not mounted: nothing may be taken for deleted."""
    store = open_assets(f"dir:{tmp_path}/none")
    with pytest.raises(NoStore, match=f"there is no directory {tmp_path}/none"):
        pulled(store, tmp_path / "srv")
