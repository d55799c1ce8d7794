"""A fresh checkout is not a change: what it costs, which times its image has, and where its outputs are."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildstep.build import kept
from buildstep.events import Bus
from buildstep.spec.check_rules import RULES
from buildstep.system import share as sharing
from buildstep.system import workers
from tests.integration.conftest import demand
from tests.integration.yard import EPOCH, Yard, forget_outputs, tiny_base

pytestmark = pytest.mark.usefixtures("capable", "small")

Private = Callable[[Callable[[], Any]], Any]

COUNT = 60


@pytest.fixture
def capable() -> None:
    demand("root", "namespaces", "overlay", "rsync", "git")


@pytest.fixture
def warm(tmp_path: Path) -> Yard:
    proto = tmp_path / "proto"
    rng = random.Random(3)
    for number in range(COUNT):
        path = proto / f"d{number % 5}/f{number:03}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(3000))
    return Yard(
        pool=f"overlay:{tmp_path / 'pool'}", out=tmp_path / "out", proto=proto,
        base=tiny_base(tmp_path / "base.tar"), formats=("oci",),
        build={"checks": {"rules": dict.fromkeys(RULES, "off")}},
    )  # fmt: skip


def checkout(warm: Yard, *, place: str = "") -> None:
    """Make every file anew, with the time of now; place: at another path."""
    old = warm.proto
    new = old.parent / (place or "before")
    if not place:
        old.rename(new)
        old, new = new, old
    subprocess.run(["cp", "-a", old, new], check=True)
    for path in sorted([new, *new.rglob("*")], reverse=True):
        os.utime(path, follow_symlinks=False)
    if not place:
        shutil.rmtree(old)
    warm.proto = new
    time.sleep(0.03)


def git(folder: Path, *words: str) -> None:
    settings = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    environ = {"PATH": os.environ["PATH"], "HOME": "/nowhere"}
    subprocess.run(["git", *settings, *words], cwd=folder, env=environ, check=True, capture_output=True)


def times(archive: Path) -> dict[str, int]:
    """The time of each path of the proto directory in an image, by the topmost layer that has it."""
    found: dict[str, int] = {}
    with tarfile.open(archive) as image:
        (row,) = json.load(image.extractfile("manifest.json"))  # type: ignore[arg-type]
        for name in row["Layers"][1:]:
            with tarfile.open(fileobj=image.extractfile(name)) as layer:
                found |= {member.name: int(member.mtime) for member in layer if member.name.startswith("d")}
    return found


def image(warm: Yard) -> Path:
    return warm.out / "hello-1.0.0.oci.tar"


# -- what it costs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [EPOCH, None])
def test_a_clean_work_tree_of_git_is_not_read(warm: Yard, private: Private, epoch: int | None) -> None:
    def job() -> None:
        for words in (["init"], ["add", "-A"], ["commit", "-m", "x"]):
            git(warm.proto, *words)
        warm.build["exclude"] = [".git"]
        time.sleep(0.03)
        git(warm.proto, "update-index", "--refresh", "--force-write-index")
        first = warm.run(epoch=epoch)
        inodes = {path: path.stat().st_ino for path in warm.out.iterdir()}
        clone = warm.proto.parent / "clone"
        git(warm.proto, "clone", "--no-hardlinks", ".", os.fspath(clone))
        time.sleep(0.03)
        git(clone, "update-index", "--refresh", "--force-write-index")
        warm.proto = clone
        done = warm.run(epoch=epoch)
        assert done.same == first.same
        assert f"fresh checkout, same content (git's index vouches for {COUNT} files)" in done.reasons()
        assert done.reasons(planned=True).count("fresh checkout") == done.reasons().count("fresh checkout")
        assert done.counts["files_by_git"] == COUNT
        assert done.counts["files_hashed"] == 0
        assert done.counts["started"] <= workers.cores(), "find, which walks it, and no git"
        assert not {"files_read", "layers_made", "layers_reused", "bytes_compressed"} & done.counts.keys()
        assert {path: path.stat().st_ino for path in warm.out.iterdir()} == inodes
        # The next build of it knows all by its inodes.
        again = warm.run(epoch=epoch)
        assert again.counts.get("files_by_git", 0) == 0
        assert "checkout" not in again.reasons()
        # A file that is not as it was committed is read, and no other.
        (clone / "d1/f001").write_bytes(b"x" * 3000)
        changed = warm.run(epoch=epoch)
        assert "only the content of 1 file changed" in changed.reasons()
        assert changed.counts["layers_made"] == 1

    private(job)


def test_no_epoch_and_one_file_changed(warm: Yard, private: Private) -> None:
    """The route is that of an edit in place, and so is what it makes again."""

    def job() -> None:
        first = warm.run(epoch=None)
        before = times(image(warm))
        checkout(warm)
        (warm.proto / "d2/f002").write_bytes(b"x" * 3000)
        done = warm.run(epoch=None)
        assert "only the content of 1 file changed" in done.reasons()
        assert "fresh checkout, " in done.steps["sync"][1]
        assert done.counts["layers_made"] == 1
        assert done.counts["layers_reused"] == first.counts["layers_made"] - 2  # without the base's
        after = times(image(warm))
        assert {path for path in after if after[path] != before[path]} <= {"d2/f002"}

    private(job)


def test_another_version_goes_on_from_the_last_one(warm: Yard, private: Private) -> None:
    def job() -> None:
        first = warm.run(epoch=None)
        checkout(warm, place="next")
        warm.document["version"] = "1.0.1"
        done = warm.run(epoch=None)
        assert "only times changed" in done.reasons()
        assert done.counts.get("layers_made", 0) == 0
        assert done.tree == first.tree

    private(job)


# -- which times an image has -------------------------------------------------------------------------------


def test_what_did_not_change_keeps_its_time(warm: Yard, private: Private) -> None:
    """By every route: outputs gone, copied into a clone, another checkout in between."""

    def job() -> None:
        proto = warm.proto
        os.link(proto / "d0/f000", proto / "d0/linked")
        (proto / "d0/link").symlink_to("f005")
        os.setxattr(proto / "d1/f001", "user.a", b"b")
        with (proto / "d1/sparse").open("wb") as stream:
            stream.truncate(400_000)
        os.utime(proto / "d2/f002", (4_000_000_000, 4_000_000_000))
        os.utime(proto / "d3", (5, 5))
        first = warm.run(epoch=None)
        before, layers = times(image(warm)), [row["digest"] for row in warm.record["layers"]]
        assert before["d2/f002"] == 4_000_000_000
        for step in range(4):
            checkout(warm, place=f"ws{step % 2}") if step < 2 else checkout(warm)
            forget_outputs(warm.pool)
            if step == 1:  # without the list of the finished tree
                for path in (Path(warm.pool.partition(":")[2]) / "state/artifacts").glob("tree-*"):
                    path.unlink()
            done = warm.run(epoch=None, plain=step == 2)
            assert (done.tree, times(image(warm))) == (first.tree, before), step
            assert [row["digest"] for row in warm.record["layers"]] == layers
        (warm.proto / "d4/f004").chmod(0o600)
        (warm.proto / "d1/f001").unlink()
        (warm.proto / "d1/f001").symlink_to("f006")
        warm.run(epoch=None)
        now = times(image(warm))
        assert {path for path in now if now[path] != before.get(path)} == {"d4/f004", "d1/f001"}

    private(job)


def test_the_files_own_times_for_who_asks(warm: Yard, private: Private) -> None:
    def job() -> None:
        warm.build["times"] = "keep"
        first = warm.run(epoch=None)
        before = times(image(warm))
        for path in sorted(warm.proto.rglob("*"), reverse=True):
            os.utime(path, (EPOCH + 5, EPOCH + 5))
        done = warm.run(epoch=None)
        assert done.tree == first.tree
        assert set(times(image(warm)).values()) == {EPOCH + 5}
        # The policy alone is a change, and the epoch says all by itself.
        warm.build["times"] = "stable"
        warm.run(epoch=None)
        assert times(image(warm)) == before
        one = warm.run(epoch=EPOCH)
        warm.build["times"] = "keep"
        two = warm.run(epoch=EPOCH)
        assert two.files == one.files
        assert "up to date" in two.reasons()

    private(job)


def test_names_of_one_file_have_one_time(warm: Yard, private: Private) -> None:
    """Where one comes to them, in this checkout or in another one."""

    def job() -> None:
        (warm.proto / "d0/a").write_bytes(b"x" * 3000)
        os.link(warm.proto / "d0/a", warm.proto / "d0/b")
        warm.run(epoch=None)
        first = times(image(warm))
        for place, name in (("", "d1/c"), ("next", "d1/e")):
            time.sleep(1.1)
            checkout(warm, place=place)
            os.link(warm.proto / "d0/a", warm.proto / name)
            done = warm.run(epoch=None)
            assert not done.error
            now = times(image(warm))
            assert len({now["d0/a"], now["d0/b"], now["d1/c"]}) == 1
            assert now["d0/a"] > first["d0/a"]
            assert now["d2/f002"] == first["d2/f002"]
            first = now

    private(job)


# -- outputs elsewhere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formats", [["oci", "tar"], ["oci-dir"]])
def test_outputs_are_brought_to_another_place(warm: Yard, private: Private, formats: list[str]) -> None:
    def job() -> None:
        warm.build["formats"] = formats
        first = warm.run(epoch=None)
        old = warm.out
        record = warm.record
        warm.out = old.parent / "other"
        checkout(warm, place="elsewhere")
        done = warm.run(epoch=None)
        assert done.files == first.files
        assert f"up to date with build {record['build_id']}" in done.reasons()
        assert f", in {old}; fresh checkout" in done.reasons()
        assert "layers_made" not in done.counts
        now = warm.record
        names = {path.name for path in old.iterdir()}
        assert {path.name for path in warm.out.iterdir()} == names
        for row, was in zip(now["artifacts"], record["artifacts"], strict=True):
            assert row == {**was, "path": was["path"].replace(f"{old}/", f"{warm.out}/")}
        assert now["inputs"]["spec"]["output_dir"] == os.fspath(warm.out)
        assert now["inputs"]["proto"]["path"] == os.fspath(warm.proto)
        for name in names - {"hello-1.0.0.buildrecord.json", "hello-1.0.0.oci"}:
            one, two = old / name, warm.out / name
            assert one.read_bytes() == two.read_bytes()
            assert two.stat().st_nlink == 1
        # Both stand from now on, and neither is the other.
        assert ", in " not in warm.run(epoch=None).reasons()
        shutil.rmtree(old)
        assert "up to date" in warm.run(epoch=None).reasons()
        _, cache = warm.open(Bus(), {})
        assert kept.verify(cache.backend, mend=False) == []

    private(job)


def test_outputs_that_go_while_they_are_brought(
    warm: Yard, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job() -> None:
        first = warm.run()
        old, warm.out = warm.out, warm.out.parent / "other"
        real = sharing.share

        def share(source: Path, target: Path, *, link: bool) -> Any:
            done = real(source, target, link=link)
            (old / "hello-1.0.0.imgmanifest").unlink(missing_ok=True)
            return done

        monkeypatch.setattr("buildstep.build.elsewhere.share", share)
        done = warm.run()
        assert done.same == first.same
        assert "up to date with" in done.reasons(planned=True)
        assert not [path for path in warm.out.iterdir() if path.name.startswith(".")]
        assert image(warm).exists()

    private(job)


def test_outputs_that_cannot_be_read_are_made_again(
    warm: Yard, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is going, or another user's files."""

    def job() -> None:
        first = warm.run()
        warm.out = warm.out.parent / "other"

        def share(source: Path, target: Path, *, link: bool) -> Any:
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(source))

        monkeypatch.setattr("buildstep.build.elsewhere.share", share)
        done = warm.run()
        assert done.same == first.same
        assert not [path for path in warm.out.iterdir() if path.name.startswith(".")]

    private(job)
