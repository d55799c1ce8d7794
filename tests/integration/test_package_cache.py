"""What a pool keeps of packages: no script of an image writes to it, and nothing of it is used unchecked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.repository import Repository, clear_layers, make_repository
from tests.integration.yard import Outcome, Yard, forget_outputs, unpacked

Private = Callable[[Callable[[], Any]], Any]

HOSTILE = """#!/bin/sh
exec 2>&1
cd /run/buildstep-apt
for file in archives/*.deb lists/*Packages lists/*Release kept/*; do
  echo evil >> "$file" && echo "wrote to $file" >> /usr/share/hostile/did
  rm -f "$file" && echo "removed $file" >> /usr/share/hostile/did
done
for folder in archives lists kept; do
  echo evil > "$folder/new" && echo "made $folder/new" >> /usr/share/hostile/did
  mount -o remount,bind,rw "/run/buildstep-apt/$folder" && echo "remounted $folder" >> /usr/share/hostile/did
done
exit 0
"""


@pytest.fixture
def repository(place: Yard, tmp_path: Path) -> Repository:
    """A repository with alpha, which needs beta; and builds that know nothing of any before."""
    clear_layers(place)
    made = make_repository(place, tmp_path / "repository")
    made.put("beta", "1.0")
    made.put("alpha", "1.0", depends="beta")
    place.build = {"packages": ["alpha"], "order": "packages-first"}
    return made


def kept(place: Yard, pattern: str) -> list[Path]:
    return sorted((place.out.parent / "pool/state/packages/apt").glob(pattern))


def cold(place: Yard, **more: Any) -> Outcome:
    """A build that finds lists and package files in the pool, and no layer."""
    clear_layers(place)
    forget_outputs(place.pool)
    return good(place.run(**more))


def good(done: Outcome) -> Outcome:
    assert not done.error, done.error
    assert done.steps["packages"][0] == "run"
    return done


def flip(path: Path) -> None:
    """One bit of a file becomes another, and its times stay as they were."""
    info, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGE: dict[str, Callable[[Path], None]] = {"flip": flip, "cut": cut, "remove": Path.unlink}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_package_file_is_fetched_again(
    place: Yard, repository: Repository, private: Private, how: str
) -> None:
    def job() -> None:
        with repository.served():
            first = good(place.run())
            repository.asked.clear()
            again = cold(place)
            assert again.same == first.same
            assert not [path for path, _ in repository.asked if path.endswith(".deb")]
            # Each is hashed once, before dpkg sees it.
            assert again.counts["debs_hashed"] == 2
            (path,) = kept(place, "debs/beta_*")
            DAMAGE[how](path)
            healed = cold(place)
            assert healed.same == first.same
            assert [path for path, _ in repository.asked if path.endswith(".deb")] == ["/./beta_1.0_all.deb"]
            noted = [note for note in healed.notes if "beta_1.0_all.deb is" in note]
            assert bool(noted) is (how != "remove")
            assert all("fetched again" in note for note in noted)
            # And now it is good.
            assert not [note for note in cold(place).notes if "fetched again" in note]

    private(job)


def test_without_the_cache_nothing_kept_is_used(
    place: Yard, repository: Repository, private: Private
) -> None:
    def job() -> None:
        with repository.served():
            first = good(place.run())
            for path in (*kept(place, "debs/*"), *kept(place, "lists/*/*/lists/*Packages")):
                flip(path)
            before = {path: path.read_bytes() for path in kept(place, "debs/*")}
            repository.asked.clear()
            assert good(place.run(cache=False)).same == first.same
            asked = {path for path, code in repository.asked if code == 200}
            assert {"/./alpha_1.0_all.deb", "/./beta_1.0_all.deb"} < asked
            assert any("Packages" in path for path in asked)
            assert {path: path.read_bytes() for path in kept(place, "debs/*")} == before

    private(job)


LISTS = {
    "a list": "lists/*/*/lists/*Packages", "the signed index": "lists/*/*/lists/*Release",
    "apt's own form": "lists/*/*/parsed/*", "their record": "lists/*/*/record",
    "their time": "lists/*/*/fetched", "what they say of files": "lists/*/*/archives",
}  # fmt: skip


ALL = [(what, how) for what in LISTS for how in DAMAGE]
SAMPLE = [pair for pair in ALL if pair[0] == "a list"] + [("apt's own form", "flip"), ("their record", "cut")]


@pytest.mark.parametrize(("what", "how"), ALL if os.environ.get("BUILDSTEP_FULL") else SAMPLE)
def test_damaged_lists_are_fetched_again(
    place: Yard, repository: Repository, private: Private, what: str, how: str
) -> None:
    def job() -> None:
        with repository.served():
            first = good(place.run())
            (path,) = kept(place, LISTS[what])
            if not path.stat().st_size and how != "remove":
                return
            DAMAGE[how](path)
            healed = cold(place)
            assert healed.same == first.same
            # A record can be damaged where it says nothing of a file's content.
            if what != "what they say of files" and (what, how) != ("their record", "flip"):
                assert [note for note in healed.notes if "package lists are damaged" in note]
            repository.asked.clear()
            assert cold(place).same == first.same
            assert repository.asked == []

    private(job)


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_lists_are_healed_where_the_repository_did_not_change(
    place: Yard, repository: Repository, private: Private, how: str
) -> None:
    """The server would say that nothing changed: what is damaged is not asked about, but fetched whole."""

    def job() -> None:
        with repository.served():
            first = good(place.run())
            (path,) = kept(place, LISTS["a list"])
            DAMAGE[how](path)
            assert cold(place, index_max_age=0).same == first.same

    private(job)


def test_a_script_cannot_change_what_another_image_installs(
    place: Yard, repository: Repository, private: Private
) -> None:
    def job() -> None:
        repository.put("hostile", "1.0", postinst=HOSTILE, depends="beta")
        with repository.served():
            place.build["packages"] = ["hostile"]
            first = good(place.run())
            assert not list((place.out.parent / "pool/layer").glob("*/upper/usr/share/hostile/did"))
            # Whatever it did in its own image: what is kept is whole, and good for the next.
            place.build["packages"] = ["alpha"]
            next_one = good(place.run())
            assert not [note for note in next_one.notes if "fetched again" in note]
            place.build["packages"] = ["hostile"]
            assert cold(place, cache=False).tree == first.tree

    private(job)


def test_a_pool_of_before_is_mended(place: Yard, repository: Repository, private: Private) -> None:
    """Lists and package files that scripts could write to are dropped, and no build fails for them."""
    top = place.out.parent / "pool/state/packages/apt"
    for name in ("archives/partial", "archives/beta_1.0_all.deb", f"lists/{'0' * 32}/partial", "parsed/x"):
        (top / name).mkdir(parents=True)
    (top / f"lists/{'0' * 32}.fetched").touch()

    def job() -> None:
        with repository.served():
            good(place.run())
            assert {path.name for path in top.iterdir()} <= {"debs", "lists", "lock", "work", "mirror.json"}
            assert [len(path.name) for path in (top / "lists").iterdir()] == [64]
            assert list((top / "work").iterdir()) == []

    private(job)


def test_what_a_conffile_decision_leaves_is_cleaned_and_recorded(
    place: Yard, repository: Repository, private: Private, tmp_path: Path
) -> None:
    """The proto directory has the file first: dpkg keeps it, and puts the package's beside it."""

    def job() -> None:
        repository.put("conf", "1.0", files={"etc/conf": "theirs\n"}, extra={"conffiles": "/etc/conf\n"})
        (place.proto / "etc").mkdir()
        (place.proto / "etc/conf").write_text("ours\n")
        place.build = {"packages": ["conf"], "order": "proto-first"}
        with repository.served():
            good(place.run())
        cleaned = [row for row in place.record["cleaned"] if row["cleaner"] == "conffile-copies"]
        assert [name for row in cleaned for name in row["names"]] == ["/etc/conf.dpkg-dist"]
        unpacked(place.out / "hello-1.0.0.oci.tar", tmp_path / "u")
        left = [path.name for path in (tmp_path / "u/bundle/rootfs/etc").glob("conf*")]
        assert left == ["conf"]
        assert (tmp_path / "u/bundle/rootfs/etc/conf").read_text() == "ours\n"

    try:
        private(job)
    finally:
        shutil.rmtree(place.proto / "etc")
