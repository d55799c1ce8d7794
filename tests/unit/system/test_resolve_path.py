"""Walking a path by hand comes to the same place as openat2(2) does, on any tree."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildstep.system import host
from buildstep.system.root import Root

NAMES = st.sampled_from(["a", "b", "c", ".d"])
PATHS = st.lists(st.one_of(NAMES, st.sampled_from(["..", ".", ""])), max_size=5).map("/".join)
ENTRIES = st.lists(
    st.tuples(
        st.lists(NAMES, min_size=1, max_size=3).map("/".join),
        st.one_of(
            st.just("dir"), st.just("file"), st.just("program"), PATHS.map(lambda p: f"link {p}"),
            PATHS.map(lambda p: f"link /{p}"),
        ),
    ),
    max_size=8,
)  # fmt: skip


def inside(top: Path, path: Path) -> bool:
    real = os.path.realpath(path)
    return real == os.path.realpath(top) or real.startswith(os.path.realpath(top) + "/")


def make(top: Path, entries: list[tuple[str, str]]) -> None:
    for path, what in entries:
        full = top / path
        try:
            # A link made before can lead anywhere on this machine: nothing is made behind one.
            if os.path.lexists(full) or not inside(top, full.parent):
                continue
            full.parent.mkdir(parents=True, exist_ok=True)
            if what == "dir":
                full.mkdir()
            elif what.startswith("link "):
                full.symlink_to(what.removeprefix("link ") or ".")
            else:
                full.write_text(path)
                full.chmod(0o755 if what == "program" else 0o644)
        except OSError:  # below a file, or a link that leads round
            continue


def answers(root: Root, path: str) -> list[object]:
    found: list[object] = [root.real(path), root.is_dir(path), root.is_program(path)]
    for flags in (os.O_RDONLY, os.O_RDONLY | os.O_NOFOLLOW, os.O_RDONLY | os.O_DIRECTORY):
        found.append(inode(root, path, flags))
    return found


def inode(root: Root, path: str, flags: int) -> object:
    try:
        fd = root.open(path, flags)
    except OSError as error:
        return error.errno
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=ENTRIES, path=PATHS)
def test_the_same_as_openat2(
    monkeypatch: pytest.MonkeyPatch, entries: list[tuple[str, str]], path: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder) / "top"
        top.mkdir()
        make(top, entries)
        root = Root(top)
        by_kernel = answers(root, f"/{path}")
        with monkeypatch.context() as patch:
            patch.setattr(host, "HERE", host.ILLUMOS)
            by_hand = answers(root, f"/{path}")
    assert by_hand == by_kernel


def test_never_above_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "HERE", host.ILLUMOS)
    (tmp_path / "outside").write_text("secret")
    top = tmp_path / "top"
    top.mkdir()
    (top / "up").symlink_to("../../outside")
    (top / "absolute").symlink_to(tmp_path / "outside")
    (top / "round").symlink_to("round")
    root = Root(top)
    for path in ("/up", "/absolute", "/../outside", "/up/../../outside"):
        with pytest.raises(FileNotFoundError):
            root.open(path)
    with pytest.raises(OSError, match="symbolic links") as caught:
        root.open("/round")
    assert caught.value.errno == errno.ELOOP
    assert root.real("/round") is None


def test_new_files_are_made_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "HERE", host.ILLUMOS)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/planted").symlink_to("/etc/target")
    root = Root(tmp_path)
    root.write("/etc/planted", b"ours")
    assert not (tmp_path / "etc/planted").is_symlink()
    assert not (tmp_path / "etc/target").exists()
    with pytest.raises(FileExistsError):
        os.close(root.open("/etc/planted", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    assert root.make_dirs("/a/b") == ["/a", "/a/b"]
    root.remove("/a")
    assert root.lstat("/a") is None


def test_no_descriptor_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "HERE", host.ILLUMOS)
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/back").symlink_to("/a/b/../b/none")
    root = Root(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for path in ("/a/b", "/a/back", "/no/such", "/a/b/../../..", "/"):
        root.real(path)
        root.is_dir(path)
    assert len(os.listdir("/proc/self/fd")) == before
