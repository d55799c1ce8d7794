"""Locks: a later build takes what was written down, from the cache or a dated mirror, or says what is gone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.build import make_lock
from buildstep.errors import LockError
from buildstep.events import Bus
from buildstep.spec import lock
from tests.integration.conftest import Require
from tests.integration.repository import Repository, clear_layers, make_repository
from tests.integration.yard import Outcome, Yard, environment, forget_outputs
from tests.rounds import FULL

Private = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def repository(place: Yard, tmp_path: Path) -> Repository:
    """A repository with alpha, which needs beta; and builds that know nothing of any before."""
    made = make_repository(place, tmp_path / "repository")
    made.put("beta", "1.0")
    made.put("alpha", "1.0", depends="beta")
    made.put("gamma", "1.0")
    place.build = {"packages": ["alpha", "gamma"], "order": "packages-first"}
    place.source = "m.json"
    _lock_file(place).unlink(missing_ok=True)
    clear_layers(place)
    return made


def _lock_file(place: Yard) -> Path:
    return place.out.parent / "m.lock.json"


def room(place: Yard, bus: Bus | None = None) -> make_lock.Room:
    environ = environment(None) | place.environ
    store, _ = place.open(bus or Bus(), environ)
    return make_lock.Room(store=store, bus=store.bus, environ=environ)


def made(place: Yard, *names: str) -> lock.Lock:
    """Write the lock, as the command does. names: of packages to update."""
    spec = place.spec(environment(None))
    place_ = room(place)
    new = make_lock.update(spec, place_, names) if names else make_lock.make(replace(spec, lock=None), place_)
    lock.write(_lock_file(place), new)
    found = lock.read(_lock_file(place))
    assert found == new
    return new


def build(place: Yard, **more: Any) -> Outcome:
    forget_outputs(place.pool)
    done = place.run(**more)
    assert not done.error, done.error
    return done


def versions(place: Yard) -> dict[str, str]:
    names = ("alpha", "beta", "gamma", "delta")
    return {row["name"]: row["version"] for row in place.record["packages"] if row["name"] in names}


def forget_packages(place: Yard) -> None:
    """Nothing of an earlier build is in the cache."""
    clear_layers(place)
    for name in ("resolved", "packages"):
        shutil.rmtree(place.out.parent / "pool/state" / name, ignore_errors=True)


def test_a_build_a_day_later_gives_the_old_digests_with_the_lock(
    place: Yard, repository: Repository, private: Private
) -> None:
    def job() -> None:
        with repository.served():
            locked = made(place)
            assert locked.versions() == {"alpha": "1.0", "beta": "1.0", "gamma": "1.0"}
            (row,) = [row for row in locked.packages if row.name == "beta"]
            assert row.file == "beta_1.0_all.deb"
            assert row.repository == f"http://127.0.0.1:{repository.port}"
            first = build(place)
            assert place.record["inputs"]["spec"]["lock"]["path"] == os.fspath(_lock_file(place))
            # The next day another beta is there, and the old one is gone.
            repository.put("beta", "1.1")
            (repository.folder / "beta_1.0_all.deb").unlink()
            clear_layers(place)
            repository.asked.clear()
            second = build(place)
            assert second.same == first.same
            assert versions(place) == {"alpha": "1.0", "beta": "1.0", "gamma": "1.0"}
            assert repository.asked == []
            # The lock is found current or not, and what moved is named.
            assert make_lock.check(place.spec(environment(None)), room(place)) == ["beta: 1.0 -> 1.1"]
            free = build(place, locked=False, index_max_age=0)
            assert free.files != first.files
            assert versions(place)["beta"] == "1.1"
            # And with it again.
            assert build(place).same == first.same

    private(job)


def test_what_is_gone_is_named_and_a_dated_mirror_has_it(
    place: Yard, repository: Repository, private: Private, tmp_path: Path
) -> None:
    def job() -> None:
        with repository.served():
            locked = made(place)
            first = build(place)
            dated = tmp_path / "snapshot" / locked.date
            shutil.copytree(repository.folder, dated)
            repository.put("beta", "1.1")
            (repository.folder / "beta_1.0_all.deb").unlink()
            forget_packages(place)
            failed = place.run()
            assert failed.error.startswith(
                "LockError: m.lock.json names package files that are gone: beta 1.0"
            )
            (row,) = [row for row in locked.packages if row.name == "beta"]
            for told in (row.sha256, row.uri, "the package cache", "their repository"):
                assert told in failed.error
            place.build["installer_options"] = {"snapshot": f"file://{tmp_path}/snapshot/{{date}}"}
            assert build(place).same == first.same
            # The same by a server, laid out as Debian's own: by archive and date.
            forget_packages(place)
            shutil.copytree(dated, repository.folder / "debian" / locked.date)
            url = f"http://127.0.0.1:{repository.port}/{{archive}}/{{date}}"
            place.build["installer_options"] = {"snapshot": url}
            repository.asked.clear()
            assert build(place).same == first.same
            fetched = [path for path, code in repository.asked if code == 200]
            assert f"/debian/{locked.date}/beta_1.0_all.deb" in fetched
            assert "/alpha_1.0_all.deb" in fetched
            place.build["installer_options"] = {"snapshot": f"file://{tmp_path}/snapshot/{{date}}"}
            # A file of the right name that is not the one that is locked.
            forget_packages(place)
            shutil.copyfile(dated / "alpha_1.0_all.deb", dated / "beta_1.0_all.deb")
            failed = place.run()
            assert "gone: beta 1.0" in failed.error
            assert any("it is not what is locked" in note for note in failed.notes)

    private(job)


def test_one_package_moves_with_what_it_needs(place: Yard, repository: Repository, private: Private) -> None:
    def job() -> None:
        repository.put("delta", "1.0")
        with repository.served():
            old = made(place)
            repository.put("gamma", "2.0", depends="delta")
            repository.put("beta", "1.1")
            new = made(place, "gamma")
            assert new.versions() == {"alpha": "1.0", "beta": "1.0", "gamma": "2.0", "delta": "1.0"}
            assert new.base == old.base
            build(place)
            assert versions(place) == new.versions()
            # A new version that needs a new version of another, and something no more.
            repository.put("gamma", "3.0", depends="beta (>= 1.1)")
            newest = made(place, "gamma")
            assert newest.versions() == {"alpha": "1.0", "beta": "1.1", "gamma": "3.0"}
            assert make_lock.differences(new, newest) == [
                "beta: 1.0 -> 1.1", "delta: 1.0 -> not there", "gamma: 2.0 -> 3.0",
            ]  # fmt: skip
            assert made(place, "gamma") == newest
            # One that is gone everywhere can move all the same.
            repository.put("beta", "1.2")
            (repository.folder / "beta_1.1_all.deb").unlink()
            forget_packages(place)
            assert made(place, "beta").versions() == {"alpha": "1.0", "beta": "1.2", "gamma": "3.0"}
            with pytest.raises(LockError, match="bash: not in m"):
                made(place, "bash")

    private(job)


def test_a_lock_of_something_else(place: Yard, repository: Repository, private: Private) -> None:
    def job() -> None:
        with repository.served():
            made(place)
            place.build["packages"] = ["alpha"]
            build(place)
            problem = place.record["inputs"]["spec"]["lock_problem"]
            assert "the package gamma is asked for no more; it is not used" in problem
            with pytest.raises(LockError, match="asked for no more"):
                place.spec(environment(None) | {"CI": "true"})
            with pytest.raises(LockError, match="asked for no more"):
                place.spec(environment(None), locked=True)
            place.spec(environment(None) | {"CI": "true"}, locked=False)

    private(job)


def test_a_changed_base_archive_is_not_the_locked_one(
    place: Yard, repository: Repository, private: Private, tmp_path: Path
) -> None:
    def job() -> None:
        base = tmp_path / "base.tar"
        shutil.copyfile(place.base, base)
        place.build["image"] = f"tar:{base}"
        with repository.served():
            locked = made(place)
            first = build(place)
            with base.open("ab") as stream:
                stream.write(b"\0" * 512)
            # It is in the store, whatever the file is by now.
            assert build(place).same == first.same
            value = json.loads(_lock_file(place).read_text())
            value["base"]["key"] = locked.base.key[:-4] + "0000"
            _lock_file(place).write_text(json.dumps(value))
            failed = place.run()
            assert failed.error.startswith("LockError: the base image of m.lock.json is gone")

    private(job)


@pytest.mark.skipif(not FULL, reason="make check-full: makes two Debian roots")
def test_a_root_of_a_suite_is_made_again_of_the_same_packages(
    tmp_path: Path, require: Require, private: Private
) -> None:
    """In another pool that has its package files alone, with no mirror to be had; and one of them gone."""
    require("root", "namespaces", "overlay", "mmdebstrap", "mirror", "rsync")

    def job() -> None:
        places = []
        for name in ("one", "two"):
            place = Yard(
                pool=f"overlay:{tmp_path}/{name}", out=tmp_path / "out", proto=tmp_path / "proto",
                base=tmp_path, build={"image": "mmdebstrap:bookworm"}, formats=("oci",), source="m.json",
            )  # fmt: skip
            places.append(place)
        one, two = places
        one.proto.mkdir()
        (one.proto / "file").write_text("x\n")
        locked = made(one)
        assert len(locked.base.packages) > 50
        first = build(one)
        there = tmp_path / "two/state/packages/apt"
        two.open(Bus(), {})
        shutil.copytree(tmp_path / "one/state/packages/apt/debs", there / "debs")
        nowhere = {"BUILDSTEP_APT_MIRROR": "http://127.0.0.1:9/debian"}
        again = build(two, more=nowhere)
        assert again.same == first.same
        assert "made again of" in again.plan["import"][1]
        # One that is gone is named.
        forget = two.open(Bus(), {})[0]
        forget.delete(forget.records()[0])
        row = locked.base.packages[0]
        path = _lock_file(two)
        path.write_text(path.read_text().replace(row.sha256, "0" * 64))
        failed = two.run(more=nowhere)
        assert failed.error.startswith(f"LockError: m.lock.json names package files that are gone: {row}")

    private(job)
