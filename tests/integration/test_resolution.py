"""The layer with the packages: known by the versions that a repository has, asked of it and not guessed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from buildstep.cache import resolutions
from tests.integration.repository import Repository, clear_layers, make_repository
from tests.integration.yard import Outcome, Yard, differences, forget_outputs, unpacked

Private = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def repository(place: Yard, tmp_path: Path) -> Repository:
    """A repository with alpha, which needs beta; and builds that know nothing of any before."""
    made = make_repository(place, tmp_path / "repository")
    made.put("beta", "1.0")
    made.put("alpha", "1.0", depends="beta")
    place.build = {"packages": ["alpha"], "order": "packages-first"}
    return made


_counter = [0]


def build(place: Yard, **more: Any) -> Outcome:
    """A build whose proto directory changed, so that it cannot be over at once."""
    _counter[0] += 1
    (place.proto / "file").write_text(f"{_counter[0]} {time.time_ns()}\n")
    time.sleep(0.03)
    done = place.run(**more)
    assert not done.error, done.error
    return done


def versions(place: Yard) -> Mapping[str, str]:
    return {row["name"]: row["version"] for row in place.record["packages"]}


def test_an_answer_is_used_and_asked_for_again(place: Yard, repository: Repository, private: Private) -> None:
    def job() -> None:
        with repository.served():
            first = build(place)
            assert first.steps["packages"][0] == "run"
            assert {"alpha": "1.0", "beta": "1.0"}.items() <= versions(place).items()
            # Fresh: neither the repository nor its package manager is asked.
            repository.asked.clear()
            second = build(place)
            assert second.steps["packages"][0] == "reuse"
            assert "(saved " in second.steps["packages"][1]
            assert repository.asked == []
            assert second.counts["started"] == 0
            # Stale, and the index is what it was: one conditional request or two.
            asking = {"index_max_age": 0}
            assert "is queried again first" in place.plan(**asking)["packages"][1]
            assert repository.asked == []
            third = build(place, **asking)
            assert third.steps["packages"][0] == "reuse"
            assert "the repository's index is unchanged" in third.notes
            assert (304 in {code for _, code in repository.asked}) is True
            assert not any(path.endswith((".deb", "Packages", "Packages.gz")) for path, _ in repository.asked)
            # Another index that gives the same packages: the same layer.
            repository.put("gamma", "1.0")
            fourth = build(place, **asking)
            assert fourth.steps["packages"][0] == "reuse"
            assert first.counts["layers_kept"] == 1
            assert "layers_kept" not in fourth.counts
            # A dependency has a new version: seen when it is asked for, and told.
            repository.put("beta", "1.1")
            assert build(place).steps["packages"][0] == "reuse"
            before = place.record
            fifth = build(place, **asking)
            assert fifth.steps["packages"][0] == "run"
            assert "versions.beta: 1.0 -> 1.1" in fifth.steps["packages"][1]
            assert "s last time" in fifth.steps["packages"][1]
            assert versions(place)["beta"] == "1.1"
            assert "package beta:all: 1.0 -> 1.1" in differences(before, place.record)
            # And back: that layer is still there.
            repository.put("beta", "1.0")
            assert build(place, **asking).steps["packages"][0] == "reuse"
            assert versions(place)["beta"] == "1.0"

    private(job)


def test_a_build_that_would_change_nothing_sees_a_new_version(
    place: Yard, repository: Repository, private: Private
) -> None:
    """Outputs stand only as long as the answer is good."""

    def job() -> None:
        with repository.served():
            build(place)
            time.sleep(0.03)
            assert place.run().steps["emit"][0] == "reuse"
            repository.put("alpha", "2.0", depends="beta")
            assert place.run().steps["emit"][0] == "reuse"
            done = place.run(index_max_age=0)
            assert done.steps["packages"][0] == "run"
            assert versions(place)["alpha"] == "2.0"

    private(job)


def test_without_the_repository_the_last_answer_is_used(
    place: Yard, repository: Repository, private: Private
) -> None:
    def job() -> None:
        with repository.served():
            build(place)
        done = build(place, index_max_age=0)
        assert done.steps["packages"][0] == "reuse"
        assert any("cannot be queried; its state of 0.0 h ago is used" in note for note in done.notes)
        done = build(place, index_max_age=0, network=False)
        assert done.steps["packages"][0] == "reuse"
        place.build["packages"] = ["alpha", "beta"]
        failed = place.run(index_max_age=0)
        assert failed.error.startswith("InstallError: apt-get update failed")

    private(job)


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a package more": ({"packages": ["alpha", "delta"]}, "packages: delta added"),
    "an installer option": ({"installer_options": {"recommends": True}}, "recommends: False -> True"),
    "the package manager's environment": (
        {"installer_options": {"env": {"A": "b"}}}, "installer_options.env.A: b added",
    ),
    "an upgrade first": ({"upgrade_first": True}, "upgrade_first: False -> True"),
    "a cleaner": ({"clean": ["-tmp"]}, "clean: tmp removed"),
    "the other order": ({"order": "proto-first"}, "proto directory"),
}  # fmt: skip


def test_what_decides_the_layer_is_told_before_the_build(
    place: Yard, repository: Repository, private: Private
) -> None:
    def job() -> list[str]:
        wrong = []
        repository.put("delta", "1.0")
        with repository.served():
            build(place)
            plain = dict(place.build)
            for name, (change, told) in OPTIONS.items():
                place.build = plain | change
                state, reason = place.plan()["packages"]
                if state != "run" or told not in reason or "s last time" not in reason:
                    wrong.append(f"{name}: {state} {reason}")
            place.build = plain | OPTIONS["a package more"][0]
            done = build(place)
            assert done.steps["packages"][0] == "run"
            assert "packages: delta added" in done.steps["packages"][1]
        return wrong

    wrong = private(job)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("order", ["packages-first", "proto-first"])
def test_cached_and_cold_are_the_same_image(
    place: Yard, repository: Repository, private: Private, order: str
) -> None:
    def job() -> None:
        place.build["order"] = order
        with repository.served():
            made = build(place)
            forget_outputs(place.pool)
            cached = place.run()
            assert cached.steps["packages"][0] == "reuse"
            cold = place.run(cache=False)
            assert cold.steps["packages"][0] == "run"
            assert cached.same == made.same
            assert cold.tree == made.tree
            assert cold.same == made.same

    private(job)


def test_a_layer_that_was_tampered_with_is_not_used(
    place: Yard, repository: Repository, private: Private
) -> None:
    def job() -> None:
        with repository.served():
            first = build(place)
            (upper,) = (place.out.parent / "pool/layer").glob("*/upper/usr/share/alpha/made")
            good = upper.read_bytes()
            info = upper.stat()
            # Touched, and the same: proved by its content, and used.
            upper.write_bytes(good)
            again = build(place)
            assert again.steps["packages"][0] == "reuse"
            upper.write_bytes(b"1.1\n")
            os.utime(upper, ns=(info.st_atime_ns, info.st_mtime_ns))
            healed = build(place)
            assert healed.steps["packages"][0] == "run"
            assert any("is damaged and is not used" in note for note in healed.notes)
            assert first.steps["packages"][0] == "run"
            (upper,) = (place.out.parent / "pool/layer").glob("*/upper/usr/share/alpha/made")
            assert upper.read_bytes() == good
            # So is its file list, and its record.
            for suffix, damage in (("list", b"\n"), ("json", b"{")):
                (path,) = (place.out.parent / "pool/state/layers").glob(f"*.{suffix}")
                path.write_bytes(path.read_bytes()[:-5] + damage)
                assert build(place).steps["packages"][0] == "run", suffix
                assert build(place).steps["packages"][0] == "reuse", suffix

    clear_layers(place)
    private(job)


def test_an_answer_that_turns_out_wrong_keeps_no_layer() -> None:
    answer = resolutions.KeptResolution(index="i", versions={"a": "1", "b": ""}, exact=True, asked=0.0)
    assert resolutions.contradiction(answer, {"a": "1"}) == ""
    assert resolutions.contradiction(answer, {"a": "2"}) == "a 1 was expected, 2 was installed"
    assert (
        resolutions.contradiction(answer, {"a": "1", "b": "3"}) == "b removed was expected, 3 was installed"
    )
    assert resolutions.contradiction(answer, {}) == "a 1 was expected, nothing was installed"


# -- a layer from a smaller one ---------------------------------------------------------------------------


def test_one_package_more_is_all_that_is_installed(
    place: Yard, repository: Repository, private: Private, tmp_path: Path
) -> None:
    """On the layer that is there, with the result of an install from the base."""

    def job() -> None:
        repository.put("delta", "1.0")
        with repository.served():
            build(place)
            repository.asked.clear()
            place.build["packages"] = ["alpha", "delta"]
            grown = build(place)
            state, reason = grown.steps["packages"]
            assert state == "run"
            assert "packages: delta added" in reason
            assert "; extended layer " in reason
            # The index is young enough, and what was there is not fetched again.
            assert [path for path, _ in repository.asked] == ["/./delta_1.0_all.deb"]
            record = place.record
            # Nothing in the image tells that it was made in two steps.
            assert [layer["comment"] for layer in record["layers"]][1:2] == ["packages: alpha, delta"]
            assert {"alpha": "1.0", "beta": "1.0", "delta": "1.0"}.items() <= versions(place).items()
            # It is found again, and gives the same layers.
            again = build(place)
            assert again.steps["packages"][0] == "reuse"
            assert place.record["layers"][1:2] == record["layers"][1:2]
            # The image is the one of an install from the base, byte for byte.
            same = build_same(place, cache=False)
            assert same.same == again.same
            assert place.record["packages"] == record["packages"]
            # Where the times of a build are its own, the tree is the same.
            place.build["packages"] = ["alpha"]
            build(place, epoch=None)
            place.build["packages"] = ["alpha", "delta"]
            own = build(place, epoch=None)
            assert "; extended layer " in own.steps["packages"][1]
            assert own.tree == build_same(place, epoch=None, cache=False).tree
            # One more on top of that.
            repository.put("zeta", "1.0")
            place.build["packages"] = ["alpha", "delta", "zeta"]
            assert "; extended layer " in build(place, index_max_age=0).steps["packages"][1]
            assert unpacked(place.out / "hello-1.0.0.oci.tar", tmp_path / "u") == place.record["tree_digest"]

    clear_layers(place)
    private(job)


def test_what_could_differ_is_installed_anew(place: Yard, repository: Repository, private: Private) -> None:
    def job() -> None:
        repository.put("maker", "1.0", postinst="#!/bin/sh\nuseradd --system made\n")
        with repository.served():
            build(place)
            # A script: when it runs could show.
            place.build["packages"] = ["alpha", "maker"]
            done = build(place)
            assert "; extended layer " not in done.steps["packages"][1]
            assert (
                "all packages are installed again: maker has a script (postinst)" in done.steps["packages"][1]
            )
            assert any("not made of the layer" in note for note in done.notes)
            assert done.same == build_same(place, cache=False).same
            # Another version of what is there.
            repository.put("beta", "1.1")
            place.build["packages"] = ["alpha", "beta"]
            done = build(place, index_max_age=0)
            assert "; extended layer " not in done.steps["packages"][1]
            assert versions(place)["beta"] == "1.1"

    clear_layers(place)
    private(job)


def test_an_index_that_is_too_old_is_fetched_again(
    place: Yard, repository: Repository, private: Private
) -> None:
    """What it names has gone from the repository since."""

    def job() -> None:
        repository.put("delta", "1.0")
        with repository.served():
            build(place)
            repository.put("delta", "1.1")
            (repository.folder / "delta_1.0_all.deb").unlink()
            for path in (place.out.parent / "pool/state/packages/apt/lists").glob("*/*/fetched"):
                os.utime(path, (time.time() - 60, time.time() - 60))
            place.build["packages"] = ["delta"]
            done = build(place)
            assert any("the repository is queried again" in note for note in done.notes)
            assert versions(place)["delta"] == "1.1"
            assert build(place).steps["packages"][0] == "reuse"

    private(job)


def lists_asked(repository: Repository) -> int:
    """How many times the index was asked for, since this was asked last."""
    found = sum(path.endswith("/InRelease") for path, _ in repository.asked)
    repository.asked.clear()
    return found


def test_what_a_young_index_does_not_know_is_looked_up_once(
    place: Yard, repository: Repository, private: Private
) -> None:
    """A file that was replaced under its version, a package that was published since, one that never was."""

    def job() -> None:
        repository.put("delta", "1.0", files={"etc/one": "1\n"})
        with repository.served():
            build(place)
            for name in ("delta", "young"):
                repository.put(name, "1.0", files={"etc/one": "another\n"})
                repository.asked.clear()
                place.build["packages"] = [name]
                done = build(place)
                assert any("the repository is queried again" in note for note in done.notes)
                assert lists_asked(repository) == 1
            place.build["packages"] = ["alpha", "nonesuch"]
            failed = place.run()
            assert "failed for nonesuch: Unable to locate package nonesuch" in failed.error
            assert lists_asked(repository) == 1

    clear_layers(place)
    private(job)


def build_same(place: Yard, **more: Any) -> Outcome:
    """A build of the same proto directory as the last."""
    done = place.run(**more)
    assert not done.error, done.error
    return done
