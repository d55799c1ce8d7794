"""Builds of trees that change by chance, in every way that CI has: in place, checked out anew, from git's work trees,
into another directory, by any number of workers. What comes out is what a build makes that knows of none before it.

With SOURCE_DATE_EPOCH the outputs are the same, byte for byte. Without it the tree's digest is, and where the content is
the same as before, so are the layers.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from buildstep.spec.check_rules import RULES
from tests.integration import pools
from tests.integration.conftest import demand
from tests.integration.yard import EPOCH, Outcome, Yard, sha256, tiny_base
from tests.rounds import rounds

Private = Callable[[Callable[[], Any]], Any]

pytestmark = pytest.mark.usefixtures("capable", "small")

UNCHECKED = {"rules": dict.fromkeys(RULES, "off")}
"""Trees made by chance keep no rule."""

FORMATS = (("oci",), ("oci",), ("oci-dir",), ("oci", "oci-dir"))

CONFIG = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "core.autocrlf=false")


@pytest.fixture
def capable() -> None:
    demand("root", "namespaces", "overlay", "rsync")


def fresh_times(root: Path) -> None:
    """Give all the time of now, as a checkout does."""
    for path in sorted([root, *root.rglob("*")], reverse=True):
        os.utime(path, follow_symlinks=False)


def settle() -> None:
    """Let files grow older than the clock's grain."""
    time.sleep(0.02)


def git(folder: Path, *words: str) -> str:
    argv = ["git", *CONFIG, *words]
    environ = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(argv, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


@dataclass
class Walk:
    """One pool over many builds, each beside a build that uses nothing."""

    top: Path
    base: Path
    rng: random.Random
    places: int = 0
    proto: Path = field(init=False)

    def __post_init__(self) -> None:
        self.proto = self.top / "proto"
        self.proto.mkdir()

    def new_place(self) -> Path:
        self.places += 1
        return self.top / f"place{self.places}"

    def yard(self, name: str, out: str, build: dict[str, Any], formats: tuple[str, ...]) -> Yard:
        return Yard(
            pool=f"overlay:{self.top / name}-pool", out=self.top / out, proto=self.proto, base=self.base,
            formats=formats, build={"checks": UNCHECKED, **build},
        )  # fmt: skip

    def both(self, *, epoch: int | None, said: str, always: bool = False, **build: Any) -> Outcome:
        """Build with all that is kept and with nothing, and compare. Returns the first.

        always: into the same output directory, in the same formats.
        """
        os.environ["BUILDSTEP_WORKERS"] = str(self.rng.choice([1, 2, 3]))
        out = "out-a" if always else self.rng.choice(["out-a", "out-a", "out-b"])
        formats = FORMATS[-1] if always else self.rng.choice(FORMATS)
        plain = self.rng.random() < 0.1
        warm = self.yard("kept", out, build, formats).run(epoch=epoch, plain=plain)
        os.environ["BUILDSTEP_WORKERS"] = str(self.rng.choice([1, 2, 3]))
        anew = self.yard("anew", "out-anew", build, formats).run(epoch=epoch, cache=False)
        assert not warm.error, f"{said}: {warm.error}"
        assert warm.tree == anew.tree, said
        if epoch is not None:
            assert warm.same == anew.same, f"{said}: {warm.reasons()}"
        for path in (self.top / out).glob("*.oci/blobs/sha256/*"):
            assert sha256(path) == path.name, said
        return warm

    def layers(self) -> list[str]:
        """The layers' digests in the last record of the output directory that was written last."""
        found = max(self.top.glob("out-[ab]/*.buildrecord.json"), key=lambda path: path.stat().st_mtime_ns)
        return [row["digest"] for row in json.loads(found.read_bytes())["layers"]]


# -- copies that keep links, devices, attributes, and no time ------------------------------------------------


def copied(walk: Walk) -> None:
    """Another inode and time for all, at another path."""
    place = walk.new_place()
    subprocess.run(["cp", "-a", walk.proto, place], check=True)
    fresh_times(place)
    shutil.rmtree(walk.proto) if walk.rng.random() < 0.3 else None
    walk.proto = place


def replaced(walk: Walk) -> None:
    """The same at the same path: what CI does that wipes its workspace."""
    place = walk.new_place()
    walk.proto.rename(place)
    subprocess.run(["cp", "-a", place, walk.proto], check=True)
    shutil.rmtree(place)
    fresh_times(walk.proto)


def touched(walk: Walk) -> None:
    """The same inodes, and other times, some of them long ago."""
    for path in sorted(walk.proto.rglob("*"), reverse=True):
        if walk.rng.random() < 0.3:
            when = walk.rng.choice([EPOCH - 1000, EPOCH, EPOCH + 1, EPOCH + 10**7]) * 10**9 + 5
            os.utime(path, ns=(when, when), follow_symlinks=False)


def edited(walk: Walk) -> None:
    pools.change(walk.proto, walk.rng.randrange(10**9), walk.rng.choice([1, 1, 5, 25]))


def nothing(walk: Walk) -> None:
    del walk


CHECKOUTS = (nothing, copied, replaced, touched)


@pytest.mark.parametrize("epoch", [EPOCH, None], ids=["epoch", "no epoch"])
@pytest.mark.parametrize("seed", range(rounds(12, 1)))
def test_whatever_came_before(tmp_path: Path, private: Private, seed: int, epoch: int | None) -> None:
    def job() -> None:
        rng = random.Random(seed)
        walk = Walk(tmp_path, tiny_base(tmp_path / "base.tar"), rng)
        pools.fill(walk.proto)
        for number in range(60):
            path = walk.proto / f"d{number % 7}/f{number:03}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(rng.randbytes(rng.choice([10, 2000, 4000])))
        for step in range(rounds(25, 9)):
            acts = [rng.choice(CHECKOUTS)]
            if step % 3:
                acts.append(edited)
            rng.shuffle(acts)
            for act in acts:
                act(walk)
            if rng.random() < 0.8:
                settle()
            said = f"seed {seed}, step {step}: {', '.join(act.__name__ for act in acts)}"
            walk.both(epoch=epoch, said=said)

    private(job)


@pytest.mark.parametrize("act", [copied, replaced])
def test_a_fresh_checkout_has_the_layers_of_the_last_one(
    tmp_path: Path, private: Private, act: Callable[[Walk], None]
) -> None:
    """Without an epoch too; and an edit changes no layer but those with the file and its directory."""

    def job() -> None:
        walk = Walk(tmp_path, tiny_base(tmp_path / "base.tar"), random.Random(1))
        pools.fill(walk.proto)
        for number in range(200):
            path = walk.proto / f"d{number % 20:02}/f{number:03}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(walk.rng.randbytes(3000))
        settle()
        first = walk.both(epoch=None, said="first", always=True)
        layers = walk.layers()
        assert len(layers) > 5
        for _ in range(3):
            act(walk)
            settle()
            assert walk.both(epoch=None, said=act.__name__, always=True).files == first.files
            assert walk.layers() == layers
        act(walk)
        (walk.proto / "d03/f003").write_bytes(b"other")
        settle()
        walk.both(epoch=None, said="edited")
        assert len(set(walk.layers()) - set(layers)) <= 2

    private(job)


# -- git's work trees, where the index is asked --------------------------------------------------------------


def commit(walk: Walk) -> None:
    git(walk.proto, "add", "--all")
    git(walk.proto, "commit", "--quiet", "--allow-empty", "--message", "x")


def cloned(walk: Walk) -> None:
    """A fresh checkout of what was committed, at another path."""
    commit(walk)
    place = walk.new_place()
    git(walk.top, "clone", "--quiet", "--no-hardlinks", os.fspath(walk.proto), os.fspath(place))
    walk.proto = place


def work_tree(walk: Walk) -> None:
    """One whose .git is a file."""
    commit(walk)
    place = walk.new_place()
    git(walk.proto, "worktree", "add", "--quiet", "--detach", os.fspath(place))
    walk.proto = place


def looks_clean(walk: Walk) -> None:
    """Other content of the same size and time, in place: git itself sees it by the inode's change time alone."""
    for path in some_files(walk, 3):
        info, data = path.stat(), path.read_bytes()
        path.write_bytes(bytes(byte ^ 1 for byte in data))
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def told_to_be_clean(walk: Walk) -> None:
    """Files that the index is told not to look at, changed."""
    for number, path in enumerate(some_files(walk, 4)):
        flag = ("--assume-unchanged", "--skip-worktree")[number % 2]
        if subprocess.run(["git", "update-index", flag, path], cwd=walk.proto, check=False, stderr=subprocess.DEVNULL).returncode == 0:  # fmt: skip
            path.write_bytes(walk.rng.randbytes(50))


def lax_git(walk: Walk) -> None:
    """A repository whose settings make git compare less than it could."""
    for name, value in (
        ("core.trustctime", "false"),
        ("core.checkStat", "minimal"),
        ("core.fileMode", "false"),
    ):
        git(walk.proto, "config", name, value)
    git(walk.proto, "status")
    for path in some_files(walk, 2):
        path.chmod(walk.rng.choice([0o755, 0o600, 0o4755]))
    looks_clean(walk)


def filtered(walk: Walk) -> None:
    """Files whose blob is not what lies in the work tree."""
    (walk.proto / ".gitattributes").write_text("*.crlf text eol=crlf\n*.id ident\n*.f filter=shout\n")
    git(walk.proto, "config", "filter.shout.clean", "tr A-Z a-z")
    git(walk.proto, "config", "filter.shout.smudge", "tr a-z A-Z")
    for name in ("text.crlf", "text.id", "text.f"):
        (walk.proto / name).write_text(f"line {walk.rng.random()}\n$Id$\nother\n")
    commit(walk)
    for name in ("text.crlf", "text.id", "text.f"):
        (walk.proto / name).unlink()
    git(walk.proto, "checkout", "--", ".")


def unmerged(walk: Walk) -> None:
    """Names that the index has only as an intention, ignored files, a repository in the repository."""
    (walk.proto / f"intended{walk.places}").write_text("to be added")
    git(walk.proto, "add", "--intent-to-add", ".")
    (walk.proto / ".gitignore").write_text("*.ignored\n")
    (walk.proto / "some.ignored").write_bytes(walk.rng.randbytes(20))
    inner = walk.proto / "inner"
    if not inner.exists():
        inner.mkdir()
        git(inner, "init", "--quiet")
        (inner / "file").write_text("inner")
        git(inner, "add", ".")
        git(inner, "commit", "--quiet", "--message", "x")
    (inner / "file").write_bytes(walk.rng.randbytes(20))


def odd_modes(walk: Walk) -> None:
    """Permissions that git does not keep, owners, attributes, a hard link, an empty directory."""
    files = some_files(walk, 4)
    files[0].chmod(0o600)
    files[1].chmod(0o4755)
    os.chown(files[2], 5, 6)
    os.setxattr(files[3], "user.a", b"b")
    os.link(files[0], walk.proto / f"linked{walk.rng.random()}")
    (walk.proto / "empty").mkdir(exist_ok=True)


def edited_files(walk: Walk) -> None:
    for path in some_files(walk, walk.rng.choice([1, 5])):
        act = walk.rng.randrange(4)
        if act == 0:
            path.write_bytes(walk.rng.randbytes(walk.rng.choice([0, 10, 5000])))
        elif act == 1:
            path.rename(path.with_name(f"n{walk.rng.randrange(10**6)}"))
        elif act == 2:
            path.unlink()
            path.symlink_to("nowhere")
        else:
            path.with_name(f"n{walk.rng.randrange(10**6)}").write_bytes(path.read_bytes())


def some_files(walk: Walk, count: int) -> list[Path]:
    found = git(walk.proto, "ls-files", "-z").split("\0")[:-1]
    paths = [walk.proto / name for name in sorted(found) if not name.startswith((".git", "text", "inner"))]
    plain = [path for path in paths if path.is_file() and not path.is_symlink()]
    while len(plain) < count:  # the others were removed, or are links by now
        plain.append(walk.proto / f"more{walk.rng.randrange(10**9)}")
        plain[-1].write_bytes(walk.rng.randbytes(100))
        git(walk.proto, "add", os.fspath(plain[-1]))
    return walk.rng.sample(plain, count)


ODD = (looks_clean, told_to_be_clean, lax_git, filtered, unmerged, odd_modes, edited_files)


@pytest.mark.parametrize("epoch", [EPOCH, None], ids=["epoch", "no epoch"])
@pytest.mark.parametrize("seed", range(rounds(12, 1)))
def test_git_decides_nothing_but_speed(
    tmp_path: Path, private: Private, seed: int, epoch: int | None
) -> None:
    demand("git")

    def job() -> None:
        rng = random.Random(seed)
        walk = Walk(tmp_path, tiny_base(tmp_path / "base.tar"), rng)
        git(walk.proto, "init", "--quiet")
        for number in range(60):
            path = walk.proto / f"d{number % 7}/f{number:03}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(rng.randbytes(rng.choice([10, 2000, 4000])))
        acts = list(ODD)
        rng.shuffle(acts)
        for step in range(rounds(24, 10)):
            done = [rng.choice((nothing, cloned, cloned, work_tree)), acts[step % len(acts)]]
            if step % 4 == 3:
                done.reverse()
            for act in done:
                act(walk)
                if rng.random() < 0.7:
                    settle()
            said = f"seed {seed}, step {step}: {', '.join(act.__name__ for act in done)}"
            walk.both(epoch=epoch, said=said, exclude=[".git"])

    private(job)
