"""From a list and a store the tree again: new, in the place of another, and changed where it differs."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from buildstep.errors import StoreError, UsageError
from buildstep.files import checkout_contents, checkout_writer, layout
from buildstep.files.checkout import Options, checkout
from buildstep.files.checkout_farm import sweep_links
from buildstep.files.content import LINKABLE, ContentStore, Settings
from buildstep.files.interface import Damaged, Missing
from buildstep.files.list_check import BadList
from buildstep.tree import entry as tree_entry
from buildstep.tree.entry import FileList
from tests.unit import trees
from tests.unit.files.stored import file, listed, made, new_store, plausible, put_contents, put_tree
from tests.unit.trees import scanned

UPDATE = Options(update=True)
MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return new_store(tmp_path / "store")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A tree with one of everything that any user can make."""
    top = tmp_path / "tree"
    for name in ("etc", "bin", "var/lib/deep", "empty", "closed"):
        (top / name).mkdir(parents=True)
    (top / "etc/conf").write_text("one\n")
    (top / "etc/same").write_text("one\n")
    (top / "etc/none").touch()
    (top / os.fsdecode(b"etc/new\nline \xff")).write_text("odd")
    (top / "bin/tool").write_bytes(os.urandom(3 * MIB))
    (top / "bin/twin").write_bytes((top / "bin/tool").read_bytes())
    (top / "bin/tool").chmod(0o4755)
    os.link(top / "bin/tool", top / "bin/also")
    os.symlink("../bin/tool", top / "etc/link")
    os.link(top / "etc/link", top / "etc/link2", follow_symlinks=False)
    os.symlink("/nowhere", top / "broken")
    os.mkfifo(top / "var/pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as made_one:
        made_one.bind(os.path.relpath(top / "var/socket"))
    with (top / "var/holes").open("wb") as stream:
        stream.write(b"begin")
        stream.seek(20 * MIB)
        stream.write(b"end")
        stream.truncate(24 * MIB)
    (top / "var/lib/deep").chmod(0o1777)
    (top / "closed/secret").write_text("s")
    (top / "closed/secret").chmod(0o400)
    for number, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, ns=(0, 10**18 + number * 1_000_000_007), follow_symlinks=False)
    (top / "closed").chmod(0o500)
    yield top
    (top / "closed").chmod(0o700)


def dumped(top: Path) -> bytes:
    """All of a tree, times too."""
    return tree_entry.dumps(scanned(top))


def ctimes(top: Path) -> dict[str, int]:
    return {os.fspath(path): path.lstat().st_ctime_ns for path in [top, *top.rglob("*")]}


def names(top: Path) -> list[str]:
    return sorted(os.listdir(top))


# -- a new tree ------------------------------------------------------------------------------------------


def test_a_tree_comes_back_with_all_that_it_has(store: ContentStore, tree: Path, tmp_path: Path) -> None:
    entries = put_tree(store, tree)
    report = checkout(store, entries, tmp_path / "a/b/out")
    assert dumped(tmp_path / "a/b/out") == tree_entry.dumps(entries) == dumped(tree)
    files = [entry for entry in entries.values() if entry.kind == "f" and not entry.first]
    assert (report.files, report.size) == (len(files), sum(entry.size for entry in files))
    assert not report.left_out
    assert names(tmp_path / "a/b") == ["out"]


def test_runs_of_zeros_become_holes(store: ContentStore, tree: Path, tmp_path: Path) -> None:
    entries = put_tree(store, tree)
    checkout(store, entries, tmp_path / "out")
    assert (tmp_path / "out/var/holes").stat().st_blocks * 512 < MIB
    assert (tmp_path / "out/var/holes").stat().st_size == 24 * MIB


@pytest.mark.parametrize("settings", [Settings(), LINKABLE, Settings(compress=False, chunk_above=MIB, pack_below=0)],
                         ids=["default", "linkable", "chunks"])  # fmt: skip
def test_every_form_that_a_content_is_stored_in(settings: Settings, tree: Path, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", settings)
    entries = put_tree(store, tree)
    checkout(store, entries, tmp_path / "out")
    assert dumped(tmp_path / "out") == tree_entry.dumps(entries)


def test_a_content_that_comes_twice_is_read_once(
    store: ContentStore, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = put_tree(store, tree)
    read: list[str] = []
    real = ContentStore.write_to

    def counted(self: ContentStore, digest: str, fd: int, **more: Any) -> int:
        read.append(digest)
        return real(self, digest, fd, **more)

    monkeypatch.setattr(ContentStore, "write_to", counted)
    checkout(store, entries, tmp_path / "out")
    assert sorted(read) == sorted({entries[b"bin/tool"].sha256, entries[b"var/holes"].sha256})


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees.entries())
def test_any_tree_comes_back(made_up: tuple[FileList, dict[bytes, bytes]]) -> None:
    """Of a made-up tree, all that this user can have is there."""
    entries, contents = plausible(made_up[0]), made_up[1]
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        store = new_store(top / "store")
        put_contents(store, contents)
        report = checkout(store, entries, top / "out")
        for path, entry in entries.items():
            if path.count(b"/") > 15 or len(path) > 1500:
                continue
            full = os.fsencode(top / "out") + b"/" + path
            if entry.kind in "cb" and report.left_out["devices"]:
                continue
            info = os.lstat(full)
            assert stat.S_IFMT(info.st_mode) == tree_entry.TYPE_BITS[entry.kind]
            if os.geteuid() == 0 and not report.left_out:
                assert (info.st_uid, info.st_gid) == (entry.uid, entry.gid)
                assert entry.kind == "l" or stat.S_IMODE(info.st_mode) == entry.mode
            if entry.kind == "f":
                assert info.st_size == entry.size
                assert Path(os.fsdecode(full)).read_bytes() == contents[entry.first or path]
            elif entry.kind == "l":
                assert os.readlink(full) == entry.target
            if entry.first:
                leader = os.lstat(os.fsencode(top / "out") + b"/" + entry.first)
                assert leader.st_ino == info.st_ino
        if not report.left_out:
            assert tree_entry.tree_digest(scanned(top / "out")) == tree_entry.tree_digest(entries)


def test_an_empty_directory_is_replaced_and_a_full_one_is_not(
    store: ContentStore, tree: Path, tmp_path: Path
) -> None:
    entries = put_tree(store, tree)
    out = tmp_path / "out"
    out.mkdir()
    checkout(store, entries, out)
    assert dumped(out) == tree_entry.dumps(entries)
    with pytest.raises(UsageError, match="is not empty"):
        checkout(store, entries, out)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="no directory"):
        checkout(store, entries, tmp_path / "file")


def test_a_link_that_is_named_as_the_place_is_followed(
    store: ContentStore, tree: Path, tmp_path: Path
) -> None:
    entries = put_tree(store, tree)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    checkout(store, entries, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert dumped(tmp_path / "real") == tree_entry.dumps(entries)


def test_another_tree_is_swapped_for_a_new_one(store: ContentStore, tree: Path, tmp_path: Path) -> None:
    entries = put_tree(store, tree)
    out = tmp_path / "out"
    (out / "old/deep").mkdir(parents=True)
    (out / "old/deep/file").touch()
    before = out.stat().st_ino
    checkout(store, entries, out, Options(swap=True))
    assert dumped(out) == tree_entry.dumps(entries)
    assert out.stat().st_ino != before
    assert names(tmp_path) == ["out", "store", "tree"]


def test_a_tree_that_fails_half_way_leaves_what_was_there(
    store: ContentStore, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = put_tree(store, tree)
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()

    def full(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkout_writer, "write_all", full)
    with pytest.raises(StoreError, match="cannot write"):
        checkout(store, entries, out, Options(swap=True))
    assert names(out) == ["old"]
    assert names(tmp_path) == ["out", "store", "tree"]


def test_times_as_asked_for(store: ContentStore, tree: Path, tmp_path: Path) -> None:
    entries = put_tree(store, tree)
    checkout(store, entries, tmp_path / "out", Options(mtime=1_234_567_890_123_456_789))
    found = scanned(tmp_path / "out")
    assert {entry.mtime for entry in found.values()} == {1_234_567_890_123_456_789}
    assert tree_entry.tree_digest(found) == tree_entry.tree_digest(entries)


def test_a_dry_run_makes_nothing(store: ContentStore, tree: Path, tmp_path: Path) -> None:
    entries = put_tree(store, tree)
    report = checkout(store, entries, tmp_path / "out", Options(dry_run=True))
    assert report.files == 8
    assert not (tmp_path / "out").exists()
    report = checkout(store, entries, tmp_path / "out", Options(dry_run=True, update=True))
    assert report.files == 8
    assert not (tmp_path / "out").exists()


# -- what must not be ------------------------------------------------------------------------------------


def test_a_hostile_list_touches_nothing(store: ContentStore, tmp_path: Path) -> None:
    entries = listed(
        file(b"../escaped"), made(b"l", "l", mode=0o777, target=b"/tmp"), file(b"l/x"), file(b"good")
    )
    for options in (Options(), UPDATE, Options(swap=True)):
        with pytest.raises(BadList, match="2 faults"):
            checkout(store, entries, tmp_path / "out", options)
        assert names(tmp_path) == ["store"]


def test_a_size_that_does_not_fit_the_content(tmp_path: Path) -> None:
    for number, how in enumerate((Settings(), LINKABLE, Settings(compress=True, pack_below=0))):
        data = os.urandom(10) * 10_000
        store = new_store(tmp_path / str(number), how)
        put_contents(store, {b"": data})
        entry = file(b"a", data, size=99_999)
        with pytest.raises(StoreError, match="99999 bytes by the list, but its content has 100000"):
            checkout(store, listed(entry), tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_content_that_the_store_lacks(store: ContentStore, tmp_path: Path) -> None:
    with pytest.raises(Missing, match="lacks 2 contents") as caught:
        checkout(store, listed(file(b"a", b"1"), file(b"b", b"2"), file(b"c")), tmp_path / "out")
    assert "a, b" in caught.value.detail
    assert names(tmp_path) == ["store"]


@pytest.mark.parametrize("size", [100, 2 * MIB])
def test_a_damaged_content_gets_no_name(size: int, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", LINKABLE)
    entry = file(b"a", os.urandom(size))
    good = file(b"b", b"good")
    put_contents(store, {b"": b"good"})
    name = tmp_path / "store" / layout.object_name(entry.sha256)
    name.parent.mkdir(exist_ok=True)
    name.write_bytes(bytes(size))
    with pytest.raises(Damaged):
        checkout(store, listed(entry, good), tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(Damaged):
        checkout(store, listed(entry, good), tmp_path / "out", UPDATE)
    assert not (tmp_path / "out/a").exists()
    assert names(tmp_path) == ["out", "store"]
    assert [name for name in names(tmp_path / "out") if name != "b"] == []


def test_where_there_is_no_store_none_is_made(tmp_path: Path) -> None:
    from buildstep.files import open_storage

    store = ContentStore(open_storage(f"dir:{tmp_path}/none", environ={}))
    with pytest.raises(StoreError, match="there is no store"):
        checkout(store, listed(), tmp_path / "out")
    assert names(tmp_path) == []


def test_what_a_killed_run_left_is_removed(store: ContentStore, tmp_path: Path) -> None:
    left, alive = tmp_path / ".out.buildstep-get-0", tmp_path / ".out.buildstep-get-1"
    (left / "d").mkdir(parents=True)
    alive.mkdir()
    fd = os.open(alive, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    checkout(store, listed(file(b"a")), tmp_path / "out")
    os.close(fd)
    assert names(tmp_path) == [alive.name, "out", "store"]
    (tmp_path / "out/.buildstep-get-2").mkdir()
    checkout(store, listed(file(b"a")), tmp_path / "out", UPDATE)
    assert names(tmp_path / "out") == ["a"]


# -- a tree that is there --------------------------------------------------------------------------------


def test_what_is_right_is_not_touched(store: ContentStore, tree: Path, tmp_path: Path) -> None:
    entries = put_tree(store, tree)
    out = tmp_path / "out"
    checkout(store, entries, out)
    before = ctimes(out)
    for options in (UPDATE, Options(update=True, check_content=True, delete=True)):
        report = checkout(store, entries, out, options)
        assert (report.same, report.files, report.changed, report.entries) == (len(entries), 0, 0, 0)
    assert ctimes(out) == before


def test_only_what_differs_is_touched(store: ContentStore, tree: Path, tmp_path: Path) -> None:
    entries = put_tree(store, tree)
    out = tmp_path / "out"
    checkout(store, entries, out)
    before = ctimes(out)
    (out / "etc/conf").write_text("changed\n")
    (out / "etc/none").chmod(0o600)
    (out / "broken").unlink()
    (out / "bin/tool").unlink()
    (out / "var/pipe").unlink()
    (out / "var/pipe").mkdir()
    (out / "empty").rmdir()
    (out / "empty").write_text("a file now")
    report = checkout(store, entries, out, UPDATE)
    assert dumped(out) == tree_entry.dumps(entries)
    assert (report.files, report.changed) == (1, 4)  # etc/none, and three directories
    touched = {path for path, when in ctimes(out).items() if before.get(path) != when}
    names = ("", "/etc", "/etc/conf", "/etc/none", "/broken", "/bin", "/bin/also", "/bin/tool", "/var",
             "/var/pipe", "/empty")  # fmt: skip
    assert touched == {os.fspath(out) + name for name in names}


def test_an_update_below_keeps_the_times_of_what_is_above(
    store: ContentStore, tree: Path, tmp_path: Path
) -> None:
    entries = put_tree(store, tree)
    out = tmp_path / "out"
    checkout(store, entries, out)
    (out / "etc/conf").write_text("changed\n")
    checkout(store, entries, out, UPDATE)
    assert dumped(out) == tree_entry.dumps(entries)


def test_a_file_of_the_same_size_and_time(store: ContentStore, tmp_path: Path) -> None:
    """Only whoever asks for it has every file read."""
    put_contents(store, {b"": b"right"})
    entries, out = listed(file(b"a", b"right")), tmp_path / "out"
    checkout(store, entries, out)
    (out / "a").write_bytes(b"wrong")
    os.utime(out / "a", ns=(0, 10**18))
    assert checkout(store, entries, out, UPDATE).files == 0
    assert checkout(store, entries, out, Options(update=True, check_content=True)).files == 1
    assert (out / "a").read_bytes() == b"right"


def test_a_file_with_another_time_only_is_not_fetched(store: ContentStore, tmp_path: Path) -> None:
    put_contents(store, {b"": b"right"})
    entries, out = listed(file(b"a", b"right")), tmp_path / "out"
    checkout(store, entries, out)
    inode = (out / "a").stat().st_ino
    (out / "a").touch()
    report = checkout(store, entries, out, UPDATE)
    assert (report.files, report.changed) == (0, 1)
    assert ((out / "a").stat().st_ino, (out / "a").stat().st_mtime_ns) == (inode, 10**18)


def test_what_is_not_listed_stays_or_goes(store: ContentStore, tmp_path: Path) -> None:
    entries, out = listed(made(b"d", "d"), file(b"d/a")), tmp_path / "out"
    checkout(store, entries, out)
    (out / "d/more/deep").mkdir(parents=True)
    (out / "d/more/deep/file").touch()
    (out / "else").touch()
    report = checkout(store, entries, out, UPDATE)
    assert (report.extra, report.removed) == (2, 0)
    assert (out / "d/more/deep/file").exists()
    report = checkout(store, entries, out, Options(update=True, delete=True, dry_run=True))
    assert report.removed == 2
    assert (out / "else").exists()
    report = checkout(store, entries, out, Options(update=True, delete=True))
    assert (report.extra, report.removed) == (0, 2)
    assert dumped(out) == tree_entry.dumps(entries | {b"": scanned(out)[b""]})


def test_a_full_directory_in_the_place_of_a_file(store: ContentStore, tmp_path: Path) -> None:
    put_contents(store, {b"": b"data"})
    entries, out = listed(file(b"a", b"data")), tmp_path / "out"
    (out / "a/more").mkdir(parents=True)
    with pytest.raises(BadList, match="1 fault") as caught:
        checkout(store, entries, out, UPDATE)
    assert "--delete replaces it" in caught.value.detail
    checkout(store, entries, out, Options(update=True, delete=True))
    assert (out / "a").read_bytes() == b"data"
    assert names(out) == ["a"]


def test_no_link_in_a_tree_leads_out_of_it(store: ContentStore, tmp_path: Path) -> None:
    put_contents(store, {b"": b"data"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_text("theirs")
    (outside / "keep").touch()
    entries = listed(made(b"d", "d"), file(b"d/a", b"data"), file(b"f", b"data"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "d").symlink_to(outside)
    (out / "f").symlink_to(outside / "a")
    (out / "extra").symlink_to(outside)
    before = ctimes(outside)
    checkout(store, entries, out, Options(update=True, delete=True))
    assert ctimes(outside) == before
    assert (outside / "a").read_text() == "theirs"
    assert not (out / "d").is_symlink()
    assert names(out) == ["d", "f"]


def test_a_file_that_is_linked_elsewhere_is_made_anew(store: ContentStore, tmp_path: Path) -> None:
    put_contents(store, {b"": b"data"})
    entries, out = listed(file(b"a", b"data")), tmp_path / "out"
    checkout(store, entries, out)
    os.link(out / "a", tmp_path / "mine")
    (tmp_path / "mine").chmod(0o600)
    checkout(store, entries, out, UPDATE)
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o600
    assert stat.S_IMODE((out / "a").stat().st_mode) == 0o644


def test_links_that_are_none_are_parted_and_groups_are_joined(store: ContentStore, tmp_path: Path) -> None:
    put_contents(store, {b"": b"data"})
    group = file(b"a", b"data"), file(b"b", b"data", first=b"a")
    apart, joined, out = listed(file(b"a", b"data"), file(b"b", b"data")), listed(*group), tmp_path / "out"
    checkout(store, joined, out)
    for entries in (apart, joined, apart):
        checkout(store, entries, out, UPDATE)
        found = scanned(out)
        assert [found[path].first for path in (b"a", b"b")] == [entries[path].first for path in (b"a", b"b")]


def test_attributes_that_are_not_listed_go(store: ContentStore, tmp_path: Path) -> None:
    entries, out = listed(file(b"a", xattrs=((b"user.kept", b"1"),)), made(b"d", "d")), tmp_path / "out"
    try:
        os.setxattr(tmp_path, "user.probe", b"")
    except OSError:
        pytest.skip("no attributes here")
    checkout(store, entries, out)
    for path in (out / "a", out / "d", out):
        os.setxattr(path, "user.more", b"2")
    checkout(store, entries, out, UPDATE)
    assert scanned(out)[b"a"].xattrs == ((b"user.kept", b"1"),)
    assert scanned(out)[b"d"].xattrs == scanned(out)[b""].xattrs == ()


def test_two_updates_of_one_tree_at_once(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fd = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(StoreError, match="another checkout") as caught:
        checkout(store, listed(), tmp_path / "out", UPDATE)
    os.close(fd)
    assert caught.value.retryable


# -- shared files ----------------------------------------------------------------------------------------


def test_checkouts_share_files_but_not_the_stores(tree: Path, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", LINKABLE)
    entries = put_tree(store, tree)
    options = Options(hardlink=True)
    for name in ("one", "two"):
        checkout(store, entries, tmp_path / name, options)
        assert dumped(tmp_path / name) == tree_entry.dumps(entries)
    one, two = ({e.path: (tmp_path / name / os.fsdecode(e.path)).lstat().st_ino for e in entries.values()}
                for name in ("one", "two"))  # fmt: skip
    shared = {path for path in one if one[path] == two[path]}
    assert shared == {path for path, entry in entries.items() if entry.kind == "f"}
    objects = {path.stat().st_ino for path in (tmp_path / "store/objects").rglob("*")}
    assert not objects & set(one.values())


def test_equal_files_of_one_tree_stay_apart(store: ContentStore, tmp_path: Path) -> None:
    put_contents(store, {b"": b"data"})
    entries = listed(file(b"a", b"data"), file(b"b", b"data"))
    for name in ("one", "two"):
        checkout(store, entries, tmp_path / name, Options(hardlink=True))
        assert dict(scanned(tmp_path / name).items())[b"b"].first == b""


def test_a_shared_file_that_somebody_wrote_to_is_made_anew(store: ContentStore, tmp_path: Path) -> None:
    put_contents(store, {b"": b"data"})
    entries = listed(file(b"a", b"data"))
    checkout(store, entries, tmp_path / "one", Options(hardlink=True))
    (tmp_path / "one/a").write_bytes(b"evil")
    checkout(store, entries, tmp_path / "two", Options(hardlink=True))
    assert (tmp_path / "two/a").read_bytes() == b"data"
    (tmp_path / "two/a").write_bytes(b"evil")
    os.utime(tmp_path / "two/a", ns=(0, 10**18))  # only reading it tells
    checkout(store, entries, tmp_path / "three", Options(hardlink=True, check_content=True))
    assert (tmp_path / "three/a").read_bytes() == b"data"


def test_shared_files_that_nobody_has_are_swept(store: ContentStore, tmp_path: Path) -> None:
    put_contents(store, {b"": b"data"})
    for name in ("one", "two"):
        checkout(store, listed(file(b"a", b"data")), tmp_path / name, Options(hardlink=True))
    (tmp_path / "one/a").unlink()
    assert sweep_links(store) == (0, 0)
    (tmp_path / "two/a").unlink()
    assert sweep_links(store, dry_run=True) == (1, 4)
    assert sweep_links(store) == (1, 4)
    assert sweep_links(store) == (0, 0)


def test_files_are_cloned_only_after_they_were_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone of a file system that can is stood in for by a copy; what is hashed is the clone."""
    store = new_store(tmp_path / "store", LINKABLE)
    put_contents(store, {b"": b"data"})
    cloned = []

    def clone(source: int, target: int) -> bool:
        cloned.append(source)
        os.write(target, os.pread(source, 100, 0))
        return True

    monkeypatch.setattr(checkout_contents, "clone", clone)
    entries = listed(file(b"a", b"data"), file(b"b", b"data"))
    assert checkout(store, entries, tmp_path / "out").shared == 2
    assert len(cloned) == 2
    name = tmp_path / "store" / layout.object_name(entries[b"a"].sha256)
    name.chmod(0o600)
    name.write_bytes(b"evil")
    with pytest.raises(Damaged):
        checkout(store, entries, tmp_path / "other")


def test_the_list_that_is_checked_out_is_not_changed(store: ContentStore, tmp_path: Path) -> None:
    entries = listed(file(b"a"))
    kept = {path: replace(entry) for path, entry in entries.items()}
    checkout(store, entries, tmp_path / "out", Options(mtime=0))
    assert entries == kept


def test_the_sweep_of_shared_files_goes_through_no_link(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    outside = tmp_path / "outside"
    (outside / "ab").mkdir(parents=True)
    (outside / "ab/file").write_text("kept")
    links = tmp_path / "store/links"
    links.symlink_to(outside)
    with pytest.raises(StoreError, match="links is a link where a directory of the store should be"):
        sweep_links(store)
    links.unlink()
    links.mkdir()
    (links / "ab").symlink_to(outside / "ab")
    with pytest.raises(StoreError, match="links/ab is a link"):
        sweep_links(store)
    assert (outside / "ab/file").read_text() == "kept"
