"""A pull: what is fetched, what is left alone, what goes; and that an error of one keeps no other back."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import time
from pathlib import Path

import pytest

from buildstep.assets import install as module
from buildstep.assets.interface import Details, Incomplete
from buildstep.assets.mark import MARK, read_mark
from buildstep.assets.names import Name
from buildstep.assets.policy import Policy
from buildstep.assets.retention import Retention
from buildstep.errors import DiskError, Interrupted, SigningError, StoreError, UsageError
from buildstep.system import beneath
from buildstep.system.locks import try_lock
from tests.servers.fixtures import Notes
from tests.unit.assets.pulling import MemoryAssets, archive, member, pulled, simple, tree


@pytest.fixture
def store() -> MemoryAssets:
    found = MemoryAssets()
    for version in ("1", "2", "10"):
        found.add(f"web-{version}.tar.gz", simple(f"web {version}"))
    found.add("db-7.tar.gz", simple("db 7"))
    found.add("webapp-3.tar.gz", simple("another"))
    return found


@pytest.fixture
def install(tmp_path: Path) -> Path:
    return tmp_path / "srv"


def opened(store: MemoryAssets) -> list[str]:
    """The calls to the store from now on, without those of the workers, which are other processes."""
    calls: list[str] = []
    before = store.before

    def note(call: str, name: str) -> None:
        before(call, name)
        if call != "read":
            calls.append(f"{call} {name}")

    store.before = note
    return calls


def test_all_versions_of_all_services(store: MemoryAssets, install: Path) -> None:
    report = pulled(store, install, "web", "db")
    assert tree(install) == {
        "db/7/run": "db 7",
        "web/1/run": "web 1",
        "web/10/run": "web 10",
        "web/2/run": "web 2",
    }
    assert report.installed == 4
    assert report.failed == []
    report.check()
    mark = read_mark(install / "web/10")
    assert mark is not None
    assert mark.sha256 == store.objects["web-10.tar.gz"].details.sha256
    assert (mark.file, mark.store, mark.entries) == ("web-10.tar.gz", "memory:", 2)
    assert os.listdir(install / ".staging") == ["lock"]
    assert (install / "web/1/run").stat().st_mode & 0o777 == 0o755


def test_a_service_without_a_version_is_told(store: MemoryAssets, install: Path) -> None:
    bus = Notes()
    report = pulled(store, install, "web", "unknown", bus=bus)
    assert report.services["unknown"].failed == {}
    assert [text for text in bus.texts if "unknown" in text] == ["memory: has no wanted version of unknown"]


def test_d11_what_is_there_and_the_same_is_not_fetched_again(store: MemoryAssets, install: Path) -> None:
    pulled(store, install)
    inode = (install / "web/1").stat().st_ino
    calls = opened(store)
    report = pulled(store, install)
    assert calls == ["list web"]
    assert report.services["web"].present == ["10", "2", "1"]
    assert (report.installed, report.size) == (0, 0)
    assert (install / "web/1").stat().st_ino == inode


def test_d11_only_the_newest_are_kept(store: MemoryAssets, install: Path) -> None:
    pulled(store, install, retention=Retention(keep=2))
    assert sorted(os.listdir(install / "web")) == ["10", "2"]


def test_d11_versions_by_pattern(store: MemoryAssets, install: Path) -> None:
    pulled(store, install, retention=Retention(versions=("1*",)))
    assert sorted(os.listdir(install / "web")) == ["1", "10"]


def test_d11_a_dry_run_tells_and_changes_nothing(store: MemoryAssets, install: Path) -> None:
    report = pulled(store, install, dry_run=True)
    assert not install.exists()
    assert report.services["web"].planned == dict.fromkeys(("10", "2", "1"), "is not there yet")
    assert report.to_json()["dry_run"] is True
    pulled(store, install)
    report = pulled(store, install, dry_run=True, prune=True, retention=Retention(keep=1))
    assert report.services["web"].removed == ["1", "2"]
    assert sorted(os.listdir(install / "web")) == ["1", "10", "2"]


def test_d11_a_prune_removes_what_is_not_wanted_any_more(store: MemoryAssets, install: Path) -> None:
    pulled(store, install, "web", "db")
    del store.objects["web-2.tar.gz"]
    (install / "web/by_hand").mkdir()
    report = pulled(store, install, "web", prune=True, retention=Retention(versions=("2", "10")))
    assert report.services["web"].removed == ["1", "2"]
    assert report.services["web"].planned == {
        "1": "is not among those that are kept",
        "2": "is not in the store any more",
    }
    assert report.services["db"].removed == ["7"]
    assert not report.services["db"].mapped
    assert sorted(os.listdir(install / "web")) == ["10", "by_hand"]
    assert os.listdir(install / ".staging") == ["lock"]


def test_a_prune_has_a_limit_and_then_removes_nothing(store: MemoryAssets, install: Path) -> None:
    pulled(store, install)
    for dry_run in (True, False):
        report = pulled(
            store, install, prune=True, max_delete=1, retention=Retention(keep=1), dry_run=dry_run
        )
        assert "2 versions would be removed, more than --max-delete 1" in report.failed[0]
        assert not report.pruned
        with pytest.raises(Incomplete, match="the pull is not complete"):
            report.check()
    assert sorted(os.listdir(install / "web")) == ["1", "10", "2"]


def test_nothing_is_pruned_after_an_error_or_for_an_empty_listing(store: MemoryAssets, install: Path) -> None:
    pulled(store, install, "web", "db")
    store.add("db-8.tar.gz", b"no archive")
    bus = Notes()
    report = pulled(store, install, "web", "db", prune=True, bus=bus, retention=Retention(keep=1))
    assert not report.pruned
    assert bus.texts == ["nothing is removed, as not all was pulled"]
    assert sorted(os.listdir(install / "web")) == ["1", "10", "2"]
    store.objects.clear()
    assert pulled(store, install, "web", "db", prune=True).services["web"].removed == []
    assert pulled(store, install, services=(), prune=True).services == {}
    assert sorted(os.listdir(install / "web")) == ["1", "10", "2"]


def test_what_runs_and_what_ran_before_are_never_pruned(store: MemoryAssets, install: Path) -> None:
    for version in ("1", "2"):
        pulled(store, install, activate=True, retention=Retention(versions=(version,)))
    report = pulled(store, install, prune=True, retention=Retention(keep=1))
    assert report.services["web"].removed == []
    assert sorted(os.listdir(install / "web")) == [".buildstep-activations.json", "1", "10", "2", "current"]


def test_d12_an_error_of_one_asset_keeps_no_other_back(store: MemoryAssets, install: Path) -> None:
    store.add("web-3.tar.gz", b"no archive at all")
    report = pulled(store, install, "web", "db")
    assert sorted(os.listdir(install / "web")) == ["1", "10", "2"]
    assert (install / "db/7/run").exists()
    [line] = report.failed
    assert line.startswith("web 3: the archive ")
    with pytest.raises(Incomplete, match="1 service of 2 could not be pulled completely") as caught:
        report.check()
    assert "web 3" in caught.value.detail
    assert caught.value.code == 22


def test_d12_a_service_that_cannot_be_listed_keeps_no_other_back(store: MemoryAssets, install: Path) -> None:
    def before(call: str, name: str) -> None:
        if (call, name) == ("list", "db"):
            raise StoreError("no answer")

    store.before = before
    report = pulled(store, install, "web", "db")
    assert report.failed == ["db: no answer"]
    assert (install / "web/10/run").exists()
    with pytest.raises(StoreError, match="no answer"):
        pulled(store, install, "db")  # nothing at all could be done


@pytest.mark.parametrize("call", ["list", "details"])
def test_a_signal_is_no_error_of_a_service(store: MemoryAssets, install: Path, call: str) -> None:
    def before(made: str, _name: str) -> None:
        if made == call:
            raise Interrupted(15, "SIGTERM")

    pulled(store, install, "db")
    store.add("db-7.tar.gz", store.objects["db-7.tar.gz"].data)
    store.before = before
    with pytest.raises(Interrupted):
        pulled(store, install, "db")


def test_d12_a_connection_that_breaks_off_is_one_assets_error(store: MemoryAssets, install: Path) -> None:
    def before(call: str, name: str) -> None:
        if (call, name) == ("read", "web-2.tar.gz"):
            raise StoreError("the connection broke off")

    store.before = before
    assert pulled(store, install).failed == ["web 2: the connection broke off"]
    store.before = lambda _call, _name: None
    assert pulled(store, install).services["web"].installed == ["2"]


def test_d12_pulls_wait_for_each_other(store: MemoryAssets, install: Path) -> None:
    pulled(store, install)
    bus = Notes()
    with try_lock(install / ".staging/lock") as ours:
        assert ours
        thread = threading.Thread(target=lambda: pulled(store, install, "db", bus=bus))
        thread.start()
        time.sleep(1.3)
        assert not (install / "db").exists()
    thread.join()
    assert (install / "db/7/run").exists()
    assert "has" in bus.texts[0]
    assert "locked" in bus.texts[0]


def test_d12_many_are_fetched_at_once(store: MemoryAssets, install: Path) -> None:
    def before(call: str, _name: str) -> None:
        if call == "open":
            time.sleep(0.3)

    store.before = before
    begin = time.monotonic()
    pulled(store, install, "web", "db")
    assert time.monotonic() - begin < 1.0  # one after the other it would be 1.2 s


def test_many_new_directories_are_made_durable_at_once(
    store: MemoryAssets, install: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fsync of a directory is a commit of the journal."""
    calls: list[str] = []
    monkeypatch.setattr("buildstep.assets.install.fsync_dir", lambda path: calls.append(f"fsync {path}"))
    monkeypatch.setattr("buildstep.assets.install.sync_filesystem", lambda path: calls.append("syncfs"))
    for number in range(30):
        store.add(f"many{number}-1.tar.gz", simple(str(number)))
    pulled(store, install, *(f"many{number}" for number in range(30)))
    assert calls.count("syncfs") >= 2
    assert len(calls) <= 20, "two for each batch, and a few for small ones"
    calls.clear()
    pulled(store, install, "web")
    assert f"fsync {install / 'web'}" in calls
    assert f"fsync {install}" in calls, "it has a new directory"


def test_d10_an_altered_or_shortened_object_is_never_seen(store: MemoryAssets, install: Path) -> None:
    good = store.objects["web-1.tar.gz"]
    altered = bytearray(good.data)
    altered[len(altered) // 2] ^= 1
    good.data = bytes(altered)
    store.objects["web-2.tar.gz"].data = store.objects["web-2.tar.gz"].data[:-20]
    other = simple("other")
    store.add("web-4.tar.gz", other, sha256=hashlib.sha256(b"").hexdigest())
    report = pulled(store, install)
    assert sorted(os.listdir(install / "web")) == ["10"]
    assert "web-1.tar.gz is damaged: its sha256 is" in report.services["web"].failed["1"]
    assert "of" in report.services["web"].failed["2"]
    assert "web-4.tar.gz is damaged" in report.services["web"].failed["4"]
    assert os.listdir(install / ".staging") == ["lock"]


def test_d10_half_a_directory_that_daybook_left_is_replaced(store: MemoryAssets, install: Path) -> None:
    (install / "web/1").mkdir(parents=True)
    (install / "web/1/run").write_text("we")
    (install / "web/2").mkdir()
    report = pulled(store, install)
    assert report.services["web"].planned["1"] == "is there without a mark that it is complete"
    assert tree(install)["web/1/run"] == "web 1"
    assert read_mark(install / "web/2") is not None


def test_files_that_the_asset_does_not_have_are_not_thrown_away(store: MemoryAssets, install: Path) -> None:
    (install / "web/1").mkdir(parents=True)
    (install / "web/1/data").write_text("mine")
    report = pulled(store, install)
    assert "is there without a mark, and has 1 path that web-1.tar.gz does not have: data" in report.failed[0]
    assert tree(install)["web/1/data"] == "mine"
    pulled(store, install, policy=Policy(replace=True))
    assert tree(install)["web/1/run"] == "web 1"
    assert not (install / "web/1/data").exists()


def test_another_asset_of_the_same_version_replaces_the_first(store: MemoryAssets, install: Path) -> None:
    pulled(store, install)
    store.add("web-1.tar.gz", archive(member("new", b"x")))
    report = pulled(store, install)
    assert report.services["web"].planned == {"1": "the store has another one now"}
    assert {path for path in tree(install) if path.startswith("web/1/")} == {"web/1/new"}


def test_the_same_content_as_another_object_is_not_fetched(store: MemoryAssets, install: Path) -> None:
    pulled(store, install)
    store.url = "memory:moved"
    store.add("web-1.tar.gz", store.objects["web-1.tar.gz"].data)
    calls = opened(store)
    assert pulled(store, install).installed == 0
    assert "details web-1.tar.gz" in calls
    calls.clear()
    pulled(store, install)
    assert calls == ["list web"]  # the marks know the new place


def test_a_damaged_mark_is_none(store: MemoryAssets, install: Path) -> None:
    pulled(store, install)
    for text in ("", "{", "[]", "[" * 60_000, json.dumps({"format": 1}), json.dumps({"format": 2})):
        (install / "web/1" / MARK).write_text(text)
        assert read_mark(install / "web/1") is None
    assert pulled(store, install).services["web"].installed == ["1"]


def test_what_is_there_must_have_the_signature_as_well(store: MemoryAssets, install: Path) -> None:
    def verify(name: Name, details: Details) -> str:
        if not details.signature:
            raise SigningError(f"{name.file} is not signed")
        return details.signature

    signed = Policy(verify=verify)
    store.add("db-7.tar.gz", store.objects["db-7.tar.gz"].data, signature="ours")
    pulled(store, install, "web", "db")
    report = pulled(store, install, "web", "db", policy=signed)
    assert report.services["web"].failed["1"] == "web-1.tar.gz is not signed"
    assert report.services["db"].failed == {}
    mark = read_mark(install / "db/7")
    assert mark is not None
    assert mark.key == "ours"
    calls = opened(store)
    pulled(store, install, "db", policy=signed)
    assert calls == ["list db"]
    store.add("db-8.tar.gz", simple("8"))
    assert pulled(store, install, "db", policy=signed).failed == ["db 8: db-8.tar.gz is not signed"]


def test_hyphens_and_two_forms(store: MemoryAssets, install: Path) -> None:
    store.add("web-1-rc1.tar.gz", simple("rc"))
    store.add("web-1.tar.zst", b"never read")
    pulled(store, install)
    assert not (install / "web/1-rc1").exists()
    pulled(store, install, retention=Retention(hyphens=True))
    assert (install / "web/1-rc1/run").exists()


def test_what_a_killed_pull_has_staged_is_taken_over(store: MemoryAssets, install: Path) -> None:
    pulled(store, install)
    run = (
        install / ".staging" / (Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    )
    run = run.with_name(f"{run.name}.0123")
    run.mkdir()
    (install / "web/1").rename(run / "0")
    (install / "web/2").rename(run / "1")
    (run / "1" / MARK).unlink()  # not complete
    calls = opened(store)
    report = pulled(store, install)
    assert report.adopted == 1
    assert sorted(report.services["web"].installed) == ["1", "2"]
    assert tree(install)["web/1/run"] == "web 1"
    assert calls == ["list web"]
    assert os.listdir(install / ".staging") == ["lock"]


def test_nothing_is_taken_over_from_before_the_machine_was_started(
    store: MemoryAssets, install: Path
) -> None:
    pulled(store, install)
    run = install / ".staging/another-start.0123"
    run.mkdir()
    (install / "web/1").rename(run / "0")
    assert pulled(store, install).adopted == 0
    assert os.listdir(install / ".staging") == ["lock"]


def test_a_full_disk_is_told_before_anything_is_fetched(store: MemoryAssets, install: Path) -> None:
    stored = store.objects["web-1.tar.gz"]
    stored.details = type(stored.details)(sha256="", size=1 << 60)
    calls = opened(store)
    with pytest.raises(DiskError, match="cannot pull 3 assets"):
        pulled(store, install)
    assert calls == ["list web"]


def test_d10_nothing_is_seen_that_the_disk_does_not_have(
    store: MemoryAssets, install: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(_path: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/srv")

    monkeypatch.setattr(module, "sync_filesystem", sync)
    report = pulled(store, install)
    assert set(report.services["web"].failed.values()) == {"/srv: Input/output error"}
    assert not (install / "web").exists()


def test_a_file_system_that_cannot_exchange_two_directories(
    store: MemoryAssets, install: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchange(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(beneath, "exchange", exchange)
    pulled(store, install)
    store.add("web-1.tar.gz", simple("another"))
    assert pulled(store, install).failed == []
    assert tree(install)["web/1/run"] == "another"
    assert os.listdir(install / ".staging") == ["lock"]


def test_where_everybody_can_write_a_service_of_another_user_is_refused(
    store: MemoryAssets, install: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes a directory of another user")
    (install / "web").mkdir(parents=True)
    os.chown(install / "web", 1234, 1234)
    install.chmod(0o1777)
    assert "belongs to another user" in pulled(store, install).failed[0]
    install.chmod(0o755)
    assert pulled(store, install).failed == []


def test_a_staging_directory_of_somebody_else_is_refused(store: MemoryAssets, install: Path) -> None:
    install.mkdir()
    (install / ".staging").symlink_to("/tmp")
    with pytest.raises(UsageError, match="is not a directory of this user alone"):
        pulled(store, install)


def test_a_link_in_the_place_of_a_service_is_not_followed(
    store: MemoryAssets, install: Path, tmp_path: Path
) -> None:
    install.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (install / "web").symlink_to(tmp_path / "elsewhere")
    report = pulled(store, install)
    assert len(report.failed) == 3
    assert "is no directory" in report.failed[0]
    assert os.listdir(tmp_path / "elsewhere") == []
