"""The stat index: what it knows is so, and what it cannot know it asks again."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.tree import proto as tree_proto
from buildstep.tree import stat_index
from buildstep.tree.exclude import excluder
from buildstep.tree.proto import ProtoDir, scan_proto
from buildstep.tree.proto_changes import explain
from buildstep.tree.stat_index import StatIndex

pytestmark = pytest.mark.commands  # find walks large trees; rsync is the measure of patterns

# -- exclude patterns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "directory", "excluded"),
    [
        ("*.o", b"a/b/c.o", False, True),
        ("*.o", b"a/b.o/c", False, False),  # its folder is, and the walk never gets here
        ("/a", b"a", False, True),
        ("/a", b"b/a", False, False),
        ("a/", b"b/a", True, True),
        ("a/", b"b/a", False, False),
        ("a/b", b"x/a/b", False, True),
        ("a/b", b"x/aa/b", False, False),
        ("**/a", b"a", False, True),
        ("a/**", b"a/b/c", False, True),
        ("a/**", b"a", True, False),
        ("a?c", b"a/c", False, False),
        ("[!a]b", b"/b", False, False),
        ("x/[^a]y", b"x//y", False, False),
        ("a.c", b"abc", False, False),
        ("[a-c]1", b"b1", False, True),
    ],
)
def test_patterns(pattern: str, path: bytes, directory: bool, excluded: bool) -> None:
    rule = excluder([pattern])
    assert rule is not None
    assert rule(path, directory) is excluded


@pytest.mark.parametrize(
    "pattern", ["+ a", "- a", "!", "a***", "a\\*", "[[:alpha:]]", "a//b", "[z-a]", "[", "/", "[a"]
)
def test_patterns_that_we_leave_to_rsync(pattern: str) -> None:
    assert excluder(["good", pattern]) is None


# -- a proto directory that is built again and again ----------------------------------------------------------

Make = Callable[[str, str], Path]


class Bench:
    """A proto directory and its index."""

    def __init__(self, top: Path) -> None:
        self.proto = top / "proto"
        self.proto.mkdir()
        self.index = StatIndex(top / "state", self.proto)

    def write(self, name: str, text: str) -> Path:
        path = self.proto / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def scan(self) -> ProtoDir:
        return scan_proto(self.proto, index=self.index)

    def build(self, *, wait: bool = True) -> ProtoDir:
        """Scan, read what is not known, and note it, as a build does."""
        if wait:
            time.sleep(0.03)
        scan = self.scan()
        scan.read_all()
        scan.digest(owners=True, epoch=None)
        scan.save(self.index)
        return scan

    def told(self) -> dict[str, str]:
        scan = self.scan()
        scan.read_few()
        return dict(explain(scan))

    def content(self) -> dict[str, str]:
        """What the index and the reads of one more build say of every file, against the truth."""
        scan = self.scan()
        scan.read_all()
        return {os.fsdecode(path): entry.sha256 for path, entry in scan.entries.items() if entry.kind == "f"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def truth(proto: Path) -> dict[str, str]:
    from buildstep.system.digest import sha256_file

    return {
        os.path.relpath(path, proto): sha256_file(path)
        for path in proto.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_what_did_not_change_is_not_read(bench: Bench) -> None:
    bench.write("a/b", "1")
    first = bench.build()
    assert (first.unchanged, first.files, first.bytes_read) == (False, 1, 1)
    second = bench.scan()
    assert second.unchanged
    assert second.unread == 0
    assert second.read_few()
    assert second.bytes_read == 0
    assert second.entries[b"a/b"].sha256
    assert second.digest(owners=True, epoch=None) == first.digest(owners=True, epoch=None)


def test_without_an_index_everything_is_read(bench: Bench) -> None:
    bench.write("a", "1")
    bench.build()
    scan = scan_proto(bench.proto, index=None)
    assert not scan.unchanged
    assert scan.unread == 1
    assert not scan.entries[b"a"].sha256


def test_a_young_file_is_read_again(bench: Bench) -> None:
    """It could change again within the tick of the clock in which it was read."""
    bench.write("a", "1")
    bench.build(wait=False)
    scan = bench.scan()
    assert scan.unread == 1
    assert not scan.notes
    bench.build()
    assert bench.scan().unchanged


def test_a_change_in_the_tick_of_the_last_build_is_seen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        path = bench.write("a", f"{number:05}")
        bench.build(wait=False)
        info = path.stat()
        path.write_text(f"{number:05}"[::-1])
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
        assert bench.content() == truth(bench.proto)


def test_touch_and_time_set_back(bench: Bench) -> None:
    path = bench.write("a", "one")
    bench.build()
    os.utime(path)
    assert bench.told() == {"a": "time, the same otherwise"}
    bench.build()
    info = path.stat()
    path.write_text("two")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert bench.told() == {"a": "content (3 -> 3 bytes)"}
    bench.build()
    path.chmod(0o600)
    path.chmod(0o644)
    assert bench.told() == {"a": "touched, the same otherwise"}


def test_an_inode_that_is_used_again(bench: Bench) -> None:
    """Another file of the same name, size, time and inode."""
    for _attempt in range(50):
        path = bench.write("a", "one")
        bench.build()
        info = path.stat()
        path.unlink()
        path.write_text("two")
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
        assert bench.content() == truth(bench.proto)
        if path.stat().st_ino == info.st_ino:
            assert bench.told() == {"a": "content (3 -> 3 bytes)"}
            return
    pytest.skip("this file system does not use an inode again at once")


def test_a_file_that_came_with_the_inode_of_one_that_went_is_no_rename(bench: Bench) -> None:
    bench.write("old", "one")
    bench.build()
    (bench.proto / "old").unlink()
    bench.write("new", "two!")
    assert bench.told() == {"new": "added", "old": "removed"}


def test_hard_links(bench: Bench) -> None:
    path = bench.write("a", "one")
    bench.write("z", "other")
    bench.build()
    os.link(path, bench.proto / "b")
    assert bench.told() == {"b": "added, a hard link to a", "a": "hard link added (b)"}
    bench.build()
    scan = bench.scan()
    assert scan.unchanged
    assert scan.entries[b"b"].first == b"a"
    # Written through one name, changed under both.
    path.write_text("two")
    assert bench.content() == truth(bench.proto)
    assert set(bench.told()) == {"a", "b"}
    bench.build()
    (bench.proto / "a").unlink()
    assert bench.told() == {"a": "removed", "b": "hard link removed (a)"}
    bench.build()
    assert bench.scan().entries[b"b"].first == b""


def test_a_hard_link_is_not_two_files(bench: Bench) -> None:
    path = bench.write("a", "one")
    bench.write("b", "one")
    bench.build()
    before = bench.scan().digest(owners=True, epoch=0)
    (bench.proto / "b").unlink()
    os.link(path, bench.proto / "b")
    scan = bench.scan()
    scan.read_few()
    assert scan.digest(owners=True, epoch=0) != before


def test_a_clock_that_is_set_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("a", "one")
    bench.build()
    real = time.time_ns
    monkeypatch.setattr("buildstep.tree.stat_lines.time.time_ns", lambda: real() - 3_600_000_000_000)
    scan = bench.scan()
    assert scan.unread == 1
    assert explain(scan) == [("", "the clock was set back since the last build")]
    # With that clock every file is from the future: nothing is trusted, and nothing is wrong.
    bench.build()
    assert bench.scan().unread == 1
    assert bench.content() == truth(bench.proto)
    monkeypatch.setattr("buildstep.tree.stat_lines.time.time_ns", real)
    bench.build()
    assert bench.scan().unchanged


def test_a_clock_that_jumps_ahead(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("a", "one")
    real = time.time_ns
    monkeypatch.setattr("buildstep.tree.stat_lines.time.time_ns", lambda: real() + 3_600_000_000_000)
    bench.build()
    monkeypatch.setattr("buildstep.tree.stat_lines.time.time_ns", real)
    bench.write("a", "two")
    assert bench.content() == truth(bench.proto)


def test_changes_are_named(bench: Bench) -> None:
    for name in ("keep/a", "keep/b", "gone", "dir/x", "dir/y", "to-dir"):
        bench.write(name, name)
    (bench.proto / "link").symlink_to("a")
    bench.build()
    (bench.proto / "keep/a").chmod(0o600)
    (bench.proto / "keep/b").rename(bench.proto / "keep/c")
    (bench.proto / "gone").unlink()
    (bench.proto / "dir").rename(bench.proto / "moved")
    (bench.proto / "to-dir").unlink()
    (bench.proto / "to-dir").mkdir()
    (bench.proto / "link").unlink()
    (bench.proto / "link").symlink_to("b")
    assert bench.told() == {
        "keep/a": f"mode {0o644:04o} -> 0600",
        "keep/c": "renamed from keep/b",
        "gone": "removed",
        "moved": "renamed from dir",
        "to-dir": "type f -> d",
        "link": "target a -> b",
    }


def test_what_is_large_is_left_for_the_build_to_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.write("a", "one")
    bench.build()
    monkeypatch.setattr(tree_proto, "FEW_BYTES", 2)
    os.utime(path)
    scan = bench.scan()
    assert not scan.read_few()
    assert dict(explain(scan)) == {"a": "touched; its content has to be read"}


def test_a_digest_is_of_what_counts(bench: Bench) -> None:
    path = bench.write("a", "one")
    os.utime(path, ns=(0, 10**18))

    def now(*, owners: bool, epoch: int | None) -> str:
        scan = scan_proto(bench.proto)
        scan.read_all()
        return scan.digest(owners=owners, epoch=epoch)

    os.utime(bench.proto, ns=(0, 0))
    before = {
        (owners, epoch): now(owners=owners, epoch=epoch) for owners in (True, False) for epoch in (None, 5)
    }
    assert len(set(before.values())) >= 2
    os.utime(path, ns=(0, 10**18 + 1))
    assert now(owners=False, epoch=5) == before[False, 5]
    assert now(owners=False, epoch=None) != before[False, None]
    os.utime(path, ns=(0, 10**18))
    if os.geteuid() == 0:
        os.chown(path, 12, 13)
        assert now(owners=False, epoch=5) == before[False, 5]
        assert now(owners=True, epoch=5) != before[True, 5]


# -- the file ---------------------------------------------------------------------------------------------------


def filled(bench: Bench, count: int = 60) -> None:
    for number in range(count):
        bench.write(f"d{number % 5}/f{number}", f"{number}")
    bench.build()


def test_a_few_changes_are_added_to_the_file(bench: Bench) -> None:
    filled(bench)
    size = bench.index.path.stat().st_size
    for number in range(3):
        bench.write("d1/f1", f"new {number}")
        (bench.proto / f"d2/f{number * 5 + 2}").unlink()
        bench.build()
        assert bench.scan().unchanged
    assert size < bench.index.path.stat().st_size < 2 * size
    # It is written anew when there are many, and before it has grown to twice its size.
    for number in range(40):
        bench.write("d1/f1", f"{number}")
        bench.build(wait=number % 10 == 0)
        assert bench.index.path.stat().st_size < 2.5 * size
    bench.build()
    assert bench.scan().unchanged


def test_a_torn_end_is_not_read_and_mended(bench: Bench) -> None:
    filled(bench)
    whole = bench.index.path.read_bytes()
    bench.write("d1/f1", "new")
    bench.build()
    longer = bench.index.path.read_bytes()
    assert longer.startswith(whole)
    for cut in (len(whole) + 1, len(whole) + 39, len(whole) + 41, len(longer) - 1):
        bench.index.path.write_bytes(longer[:cut])
        scan = bench.scan()
        assert not scan.unchanged
        assert scan.unread == 1
        assert bench.content() == truth(bench.proto)
        bench.build()
        assert bench.scan().unchanged, "what is added after a torn piece would never be read"


def test_a_flipped_bit_is_noticed(bench: Bench) -> None:
    filled(bench)
    bench.write("d1/f1", "new")
    bench.build()
    good = bench.index.path.read_bytes()
    rng = random.Random(5)
    for _ in range(60):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        bench.index.path.write_bytes(data)
        assert bench.content() == truth(bench.proto)
    for junk in (b"", b"x" * 50, b"\0" * 5000, good[:30]):
        bench.index.path.write_bytes(junk)
        assert bench.scan().unread == 60


def test_an_index_of_another_version_is_none(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(bench)
    monkeypatch.setattr(stat_index, "FORMAT", stat_index.FORMAT + 1)
    assert bench.scan().unread == 60


def test_random_changes_are_all_seen(tmp_path: Path) -> None:
    """Whatever is done to a tree, index and reads together tell the truth."""
    for seed in range(4):
        (tmp_path / str(seed)).mkdir()
        bench = Bench(tmp_path / str(seed))
        rng = random.Random(seed)
        filled(bench, 30)
        for step in range(25):
            files = sorted(path for path in bench.proto.rglob("*") if path.is_file())
            path = rng.choice(files)
            act = rng.randrange(7)
            if act == 0:
                path.write_text(str(rng.random()))
            elif act == 1:
                info, text = path.stat(), path.read_text()
                path.write_text(text[::-1])
                os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
            elif act == 2:
                path.rename(path.with_name(f"r{step}"))
            elif act == 3:
                os.link(path, bench.proto / f"l{step}")
            elif act == 4 and len(files) > 5:
                path.unlink()
            elif act == 5:
                path.parent.rename(bench.proto / f"d{step}x") if path.parent != bench.proto else None
            else:
                os.utime(path)
            assert bench.content() == truth(bench.proto), f"seed {seed}, step {step}"
            if rng.random() < 0.7:
                bench.build(wait=rng.random() < 0.3)
        bench.build()
        scan = bench.scan()
        fresh = scan_proto(bench.proto)
        fresh.read_all()
        assert scan.digest(owners=True, epoch=None) == fresh.digest(owners=True, epoch=None)


# -- beside rsync -------------------------------------------------------------------------------------------------


ATOMS = (
    "a", "b", "ab", "*.o", "*", "**", "?", "[ab]", "[!a]", "[^b]*", "foo", "a*", "c-d", "é", "[a-c]", "**a",
    "b**", "*a*", "?b",
)  # fmt: skip


def test_patterns_mean_what_rsync_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random patterns over a random tree. Unit tests start no programs; this one is worth it."""
    rng = random.Random(11)
    top = tmp_path / "tree"

    def fill(folder: Path, depth: int) -> None:
        folder.mkdir()
        for name in ("a", "b", "ab", "a.o", "b.o", "c-d", "foo", "é"):
            kind = rng.random()
            if kind < 0.35:
                (folder / name).touch()
            elif kind < 0.65 and depth < 3:
                fill(folder / name, depth + 1)

    fill(top, 0)
    for _ in range(60):
        patterns = []
        for _ in range(rng.randint(1, 3)):
            text = "/".join(rng.choice(ATOMS) for _ in range(rng.choice([1, 1, 2, 3])))
            patterns.append(("/" if rng.random() < 0.3 else "") + text + ("/" if rng.random() < 0.25 else ""))
        rule = excluder(patterns)
        if rule is None:
            continue
        argv = ["rsync", "-rln", "-8", "--out-format=%n", *(f"--exclude={text}" for text in patterns)]
        try:
            done = subprocess.run(
                [*argv, f"{top}/", f"{tmp_path}/void/"], capture_output=True, text=True, check=True
            )
        except FileNotFoundError:
            pytest.skip("rsync is not installed")
        rows = done.stdout.splitlines()
        theirs = {row.rstrip("/") for row in rows if row != "./" and not row.startswith("created directory")}
        ours = set(map(os.fsdecode, scan_proto(top, exclude=rule).paths))
        assert ours == theirs, patterns
