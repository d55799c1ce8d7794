"""Acts that must not go wrong: nothing leads out of a root, no half-written file, no link followed."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.errors import SandboxError
from buildstep.system import files as system_files
from buildstep.system.files import atomic_write
from buildstep.system.locks import try_lock
from buildstep.system.remove import remove_tree
from buildstep.system.root import Root

SECRET = b"the agent's own"


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """What no path of an image may reach."""
    folder = tmp_path / "agent"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/passwd").write_bytes(SECRET)
    return folder


@pytest.fixture
def root(tmp_path: Path, agent: Path) -> Root:
    """A root full of links that would lead to the agent if they were followed from outside."""
    top = tmp_path / "root"
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/file").write_bytes(b"inside")
    up = os.path.relpath(agent, top / "a/b")
    (top / "absolute").symlink_to(agent)
    (top / "absolute-file").symlink_to(agent / "etc/passwd")
    (top / "a/b/relative").symlink_to(up)
    (top / "many-dots").symlink_to("../" * 40 + os.fspath(agent).lstrip("/"))
    (top / "chain").symlink_to("a/chain2")
    (top / "a/chain2").symlink_to("/absolute")
    (top / "to-proc").symlink_to("/proc/self/root")
    (top / "loop").symlink_to("loop")
    (top / "inside").symlink_to("/a/b")
    return Root(top)


def untouched(agent: Path) -> bool:
    return {
        os.path.relpath(os.path.join(top, name), agent)
        for top, folders, files in os.walk(agent)
        for name in folders + files
    } == {"etc", "etc/passwd"} and (agent / "etc/passwd").read_bytes() == SECRET


ESCAPES = (
    "/absolute", "/a/b/relative", "/many-dots", "/chain", "/to-proc", "/../agent", "/a/../../agent",
    "/a/b/../../../agent", "/inside/relative", "/loop",
)  # fmt: skip


@pytest.mark.parametrize("way", ESCAPES)
def test_nothing_read_through_a_planted_link_is_the_agents(root: Root, way: str) -> None:
    for name in ("/etc/passwd", ""):
        with pytest.raises((OSError, SandboxError)):
            root.read(way + name)
    assert root.real(f"{way}/etc/passwd") is None
    assert not root.is_dir(f"{way}/etc")


@pytest.mark.parametrize("way", ESCAPES)
@pytest.mark.parametrize(
    "act",
    [
        lambda root, path: root.write(path, b"x"),
        lambda root, path: root.make_dirs(path),
        lambda root, path: root.remove(path),
    ],
    ids=["write", "make_dirs", "remove"],
)
def test_nothing_is_changed_outside(
    root: Root, agent: Path, way: str, act: Callable[[Root, str], object]
) -> None:
    for name in ("etc/passwd", "etc", "new", "new/deep"):
        try:
            act(root, f"{way}/{name}")
        except (OSError, SandboxError):
            continue
    assert untouched(agent)
    assert {path.name for path in root.path.parent.iterdir()} == {"agent", "root"}


def test_a_link_at_every_component_stays_inside(tmp_path: Path, agent: Path) -> None:
    """Whichever directory of a path an image turns into a link, a write lands in the image or fails."""
    parts = ("usr", "lib", "x", "y")
    for index in range(len(parts)):
        top = tmp_path / f"root{index}"
        folder = top.joinpath(*parts[:index])
        folder.mkdir(parents=True)
        (folder / parts[index]).symlink_to(agent)
        inside = Root(top)
        with pytest.raises(OSError):
            inside.write("/" + "/".join((*parts, "passwd")), b"x")
        with pytest.raises((OSError, SandboxError)):
            inside.make_dirs("/" + "/".join((*parts, "deep")))
        inside.remove("/" + "/".join((*parts, "etc")))
        assert untouched(agent)


def test_a_link_inside_leads_where_the_image_would_see_it(root: Root) -> None:
    assert root.read("/inside/file") == b"inside"
    assert root.real("/inside/file") == "/a/b/file"
    assert root.host_path("/inside") == root.path / "a/b"
    assert root.real("/") == "/"
    root.write("/inside/new", b"x", mode=0o4755)
    made = (root.path / "a/b/new").stat()
    assert stat.S_IMODE(made.st_mode) == 0o4755


def test_a_link_under_the_last_name_is_replaced_or_removed_itself(root: Root, agent: Path) -> None:
    root.write("/absolute-file", b"new")
    assert (root.path / "absolute-file").read_bytes() == b"new"
    root.remove("/absolute")
    assert not os.path.lexists(root.path / "absolute")
    assert untouched(agent)


def test_a_name_that_is_none_is_refused(root: Root) -> None:
    for path in ("", "/", "/a/..", "/a/."):
        with pytest.raises(SandboxError, match="does not name"):
            root.write(path, b"x")


def test_a_planted_pipe_or_device_is_not_waited_for(root: Root) -> None:
    os.mkfifo(root.path / "pipe")
    with pytest.raises(SandboxError, match="not a regular file"):
        root.read("/pipe")


def test_a_failed_write_leaves_the_old_file_alone(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("buildstep.system.root.write_all", full)
    with pytest.raises(OSError, match="full"):
        root.write("/a/b/file", b"new")
    assert sorted(path.name for path in (root.path / "a/b").iterdir()) == ["file", "relative"]
    assert (root.path / "a/b/file").read_bytes() == b"inside"


def test_modes_do_not_depend_on_the_umask(root: Root) -> None:
    old = os.umask(0o077)
    try:
        assert root.make_dirs("/one/two") == ["/one", "/one/two"]
        root.write("/one/file", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((root.path / "one/two").stat().st_mode) == 0o755
    assert stat.S_IMODE((root.path / "one/file").stat().st_mode) == 0o644
    assert root.make_dirs("/one/two") == []


# Removal.


def test_removal_follows_no_link(tmp_path: Path, agent: Path) -> None:
    top = tmp_path / "tree"
    (top / "d").mkdir(parents=True)
    (top / "link").symlink_to(agent)
    (top / "d/link").symlink_to(agent / "etc")
    (top / "d/file").symlink_to(agent / "etc/passwd")
    os.link(agent / "etc/passwd", top / "hard")
    remove_tree(top)
    assert not top.exists()
    assert untouched(agent)


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path, agent: Path) -> None:
    (tmp_path / "link").symlink_to(agent)
    remove_tree(tmp_path / "link")
    assert not os.path.lexists(tmp_path / "link")
    assert untouched(agent)
    remove_tree(tmp_path / "never")


def test_removal_gets_by_modes_that_keep_others_out(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    (top / "d/e/f").mkdir(parents=True)
    (top / "d/e/file").touch()
    for path in (top / "d/e/f", top / "d/e", top / "d", top):
        path.chmod(0o500 if path == top / "d/e/f" else 0o100)
    remove_tree(top)
    assert not top.exists()


def test_odd_names_are_removed(tmp_path: Path) -> None:
    top = os.fsencode(tmp_path / "tree")
    os.mkdir(top)
    for name in (b"-rf", b"\xff\xfe", b"new\nline", b"*"):
        os.mkdir(top + b"/" + name)
    remove_tree(os.fsdecode(top))
    assert not os.path.exists(top)


def test_two_may_remove_one_tree_at_once(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    for number in range(300):
        (top / f"{number % 7}/{number}").mkdir(parents=True)
        (top / f"{number % 7}/{number}/file").touch()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            remove_tree(top)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # the other one has a directory open still
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    remove_tree(top)
    assert not top.exists()


# Writing.


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
        (half,) = [other for other in tmp_path.iterdir() if other != path]
        assert half.name.startswith(".file.")
        assert half.name.endswith(".part")
    assert path.read_bytes() == b"new"

    def fail() -> None:
        with atomic_write(path) as stream:
            stream.write(b"worse")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"new"
    assert [other.name for other in tmp_path.iterdir()] == ["file"]


def test_a_half_written_file_is_locked_by_its_writer(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as stream:
        (half,) = tmp_path.iterdir()
        with try_lock(half, create=False) as ours:
            assert not ours
        stream.write(b"x")
    with try_lock(tmp_path / "file", create=False) as ours:
        assert ours


def test_a_link_under_the_name_is_replaced_not_followed(tmp_path: Path, agent: Path) -> None:
    (tmp_path / "file").symlink_to(agent / "etc/passwd")
    with atomic_write(tmp_path / "file") as stream:
        stream.write(b"new")
    assert untouched(agent)
    assert not (tmp_path / "file").is_symlink()


def test_json_round_trips_and_ends_a_line(tmp_path: Path) -> None:
    system_files.write_json(tmp_path / "x.json", {"b": [1, "é"]})
    assert system_files.read_json(tmp_path / "x.json") == {"b": [1, "é"]}
    assert (tmp_path / "x.json").read_bytes().endswith(b"}\n")


# Holes.


def test_holes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.seek(1 << 20)
        stream.write(b"x" * 4096)
        stream.truncate(3 << 20)
    with path.open("rb") as stream:
        found = system_files.data_extents(stream.fileno(), 3 << 20)
    assert found == [(1 << 20, 4096)]


def test_copy_range_copies_or_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("wb") as target:
        source.seek(2)
        system_files.copy_range(source.fileno(), target.fileno(), 3)
        with pytest.raises(OSError, match="ended before"):
            system_files.copy_range(source.fileno(), target.fileno(), 100)
    assert (tmp_path / "b").read_bytes() == b"23456789"


def test_a_part_of_a_file_is_read_to_its_own_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with (tmp_path / "a").open("rb") as file:
        part = system_files.SliceReader(file, 2, 5)
        assert [part.read(2), part.read(100), part.read(1)] == [b"23", b"456", b""]
        assert len(part) == 5
        assert system_files.SliceReader(file, 8, 5).read() == b"89", "a file that is too short ends it"


@pytest.mark.parametrize(
    ("piece", "zeros"),
    [(b"", False), (b"\0", True), (bytes(1 << 20), True), (bytes(70000) + b"x", False), (b"x\0", False)],
)
def test_zeros_are_told(piece: bytes, zeros: bool) -> None:
    assert system_files.is_zeros(piece) is zeros
