"""`files get`, `mount` and images: as root and as a user, killed half way, on full disks, with shared blocks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.files.checkout import Options, checkout
from buildstep.files.checkout_writer import Writer
from buildstep.files.content import LINKABLE, ContentStore
from buildstep.files.list_check import BadList
from buildstep.tree import entry as tree_entry
from buildstep.tree.entry import FileList
from tests.integration import pools
from tests.integration.conftest import demand
from tests.integration.ordinary_user import LOGIN_PATH, UID, usable_python
from tests.integration.support import REPOSITORY
from tests.unit.files.stored import file, listed, new_store, put_contents, put_tree
from tests.unit.trees import scanned

CAPABILITY = bytes.fromhex("0000000200200000000000000000000000000000")
ACL = bytes.fromhex("02000000" "01000600ffffffff" "02000400e8030000" "04000400ffffffff" "10000600ffffffff"
                    "20000400ffffffff")  # fmt: skip
DEFAULT_ACL = bytes.fromhex("0200000001000700ffffffff04000500ffffffff20000500ffffffff")


def fill(top: Path) -> None:
    """A tree with every kind of file, owner and attribute that root can make."""
    pools.fill(top)
    os.mknod(top / "var/disk", stat.S_IFBLK | 0o660, os.makedev(7, 200))
    os.link(top / "var/null", top / "var/null2")
    os.link(top / "var/pipe", top / "var/pipe2")
    os.link(top / "etc/link", top / "etc/link2", follow_symlinks=False)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(top / "var/socket"))
    for number, name in enumerate(("var/socket", "etc/link", "var/null", "empty", "bin/tool")):
        os.chown(top / name, 5 + number, 50 + number, follow_symlinks=False)
    (top / "bin/tool").chmod(0o6755)
    (top / "bin/ping").write_bytes(b"ping")
    os.setxattr(top / "bin/ping", "security.capability", CAPABILITY)
    os.setxattr(top / "bin/ping", "trusted.note", b"t")
    os.setxattr(top / "etc/link", "trusted.link", b"l", follow_symlinks=False)
    os.setxattr(top / "etc/conf", "system.posix_acl_access", ACL)
    os.setxattr(top / "empty", "system.posix_acl_default", DEFAULT_ACL)
    (top / "closed").mkdir()
    (top / "closed/secret").write_text("s")
    for number, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, ns=(0, 10**18 + number * 1_000_000_007), follow_symlinks=False)
    (top / "closed").chmod(0)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that every user may enter."""
    top = Path(tempfile.mkdtemp(prefix="buildstep-get-"))
    top.chmod(0o755)
    yield top
    shutil.rmtree(top)


@pytest.fixture(scope="module")
def tree(place: Path) -> Path:
    demand("root", "setfattr")
    made = place / "tree"
    made.mkdir()
    fill(made)
    return made


@pytest.fixture(scope="module")
def store(place: Path) -> ContentStore:
    return new_store(place / "store")


@pytest.fixture(scope="module")
def entries(store: ContentStore, tree: Path, place: Path) -> FileList:
    done = command("put", os.fspath(tree), "--ref", "all", "--store", store.storage.url)
    assert done.returncode == 0, done.stderr
    (place / "store").chmod(0o755)  # what is below it may be read
    return scanned(tree)


def command(*words: str, **popen: Any) -> subprocess.CompletedProcess[str]:
    argv = popen.pop("python", [sys.executable])
    env = {**os.environ, "PYTHONPATH": os.fspath(REPOSITORY), **popen.pop("env", {})}
    return subprocess.run(
        [*argv, "-m", "buildstep", "files", *words],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        **popen,
    )


def dumped(top: Path) -> bytes:
    return tree_entry.dumps(scanned(top))


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", os.fspath(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-R", os.fspath(folder)], check=True)


# -- every kind of file ----------------------------------------------------------------------------------


def test_root_gets_all_of_a_tree(entries: FileList, store: ContentStore, tmp_path: Path) -> None:
    done = command(
        "get", "all", os.fspath(tmp_path / "out"), "--store", store.storage.url, "--json", "--strict"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["left_out"] == {}
    assert dumped(tmp_path / "out") == tree_entry.dumps(entries)
    assert (tmp_path / "out/var/holes").stat().st_blocks * 512 < 1 << 20


def test_an_update_sets_all_that_a_tree_has(entries: FileList, store: ContentStore, tmp_path: Path) -> None:
    """Of a tree in which everything differs but the contents."""
    out = tmp_path / "out"
    checkout(store, entries, out)
    for path in sorted(out.rglob("*"), reverse=True):
        os.chown(path, 3, 3, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o700)
            os.setxattr(path, "trusted.more", b"")
    report = checkout(store, entries, out, Options(update=True))
    assert (report.files, report.left_out) == (0, {})
    assert dumped(out) == tree_entry.dumps(entries)


@pytest.mark.parametrize("options", [Options(hardlink=True), Options(swap=True)], ids=["hardlink", "swap"])
def test_root_gets_all_in_every_way(
    options: Options, entries: FileList, store: ContentStore, place: Path, request: pytest.FixtureRequest
) -> None:
    out = place / f"way-{request.node.callspec.id}"
    (out / "old").mkdir(parents=True)
    if options.hardlink:
        shutil.rmtree(out)
    checkout(store, entries, out, options)
    assert dumped(out) == tree_entry.dumps(entries)


def test_a_user_gets_what_he_can(entries: FileList, store: ContentStore, place: Path) -> None:
    python, packages = usable_python()
    home = place / "home"
    home.mkdir()
    os.chown(home, UID, UID)
    more: dict[str, Any] = {
        "python": [python], "user": UID, "group": UID, "extra_groups": [], "cwd": home,
        "env": {"PYTHONPATH": packages, "HOME": os.fspath(home), "PATH": LOGIN_PATH, "XDG_CACHE_HOME": ""},
    }  # fmt: skip
    done = command("get", "all", "out", "--store", store.storage.url, "--json", **more)
    assert done.returncode == 0, done.stderr
    left = json.loads(done.stdout)["left_out"]
    assert left == {
        "devices": 3, "owners": len([e for e in entries.values() if not e.first and e.kind not in "cb"]),
        "security attributes": 1, "trusted attributes": 2, "setuid and setgid bits": 1,
    }  # fmt: skip
    assert "left out: 3 devices" in done.stderr
    found = scanned(home / "out")
    assert found.keys() == {path for path, entry in entries.items() if entry.kind not in "cb"}
    for path, entry in found.items():
        known = entries[path]
        assert (entry.kind, entry.size, entry.sha256, entry.target, entry.first, entry.mtime) == (
            known.kind, known.size, known.sha256, known.target, known.first, known.mtime
        )  # fmt: skip
        assert (entry.uid, entry.gid) == (UID, UID)
        assert entry.mode == (
            known.mode & 0o1777 if known.sha256 == entries[b"bin/tool"].sha256 else known.mode
        )
    # Again, with nothing to do but a change in a directory that nobody may write in.
    (home / "out/closed").chmod(0o700)
    (home / "out/closed/secret").unlink()
    (home / "out/closed").chmod(0)
    done = command("get", "all", "out", "--update", "--store", store.storage.url, "--json", **more)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert (again["files"], again["changed"]) == (1, 1)
    assert dumped(home / "out") == tree_entry.dumps(found)
    done = command("get", "all", "strict", "--strict", "--store", store.storage.url, **more)
    assert done.returncode == 16
    assert not (home / "strict").exists()
    assert [path.name for path in home.iterdir()] == ["out"]


# -- images of file systems ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["erofs", "squashfs"])
def test_a_mounted_list_is_the_same_tree(kind: str, store: ContentStore, tree: Path, tmp_path: Path) -> None:
    demand("root", "mkfs.erofs" if kind == "erofs" else "mksquashfs")
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", os.fspath(tree), os.fspath(copy)], check=True)
    if kind == "squashfs":  # which has no ACLs
        os.removexattr(copy / "etc/conf", "system.posix_acl_access")
        os.removexattr(copy / "empty", "system.posix_acl_default")
        (copy / "etc/link2").unlink()  # and no hard links of symbolic links
    url = store.storage.url
    assert command("put", os.fspath(copy), "--ref", kind, "--store", url).returncode == 0
    folder = os.fspath(tmp_path / "m")
    done = command("mount", kind, folder, "--kind", kind, "--store", url)
    assert done.returncode == 0, done.stderr
    try:
        assert tree_entry.tree_digest(scanned(Path(folder))) == tree_entry.tree_digest(scanned(copy))
        assert command("mount", kind, folder, "--store", url).returncode == 2
    finally:
        done = command("umount", folder)
    assert done.returncode == 0, done.stderr
    assert command("umount", folder).returncode == 16
    assert folder not in Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize("kind", ["erofs", "squashfs"])
def test_an_image_has_the_same_bytes_each_time(
    kind: str, entries: FileList, store: ContentStore, tmp_path: Path
) -> None:
    demand("root", "mkfs.erofs" if kind == "erofs" else "mksquashfs")
    for name in ("a", "b"):
        done = command("get", "all", os.fspath(tmp_path / f"{name}.{kind}"), "--store", store.storage.url)
        assert done.returncode == 0, done.stderr
        assert ("left out: 2 system attributes" in done.stderr) is (kind == "squashfs")
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert sorted(os.listdir(tmp_path)) == [f"a.{kind}", f"b.{kind}"]


def test_an_image_without_its_tool(entries: FileList, store: ContentStore, tmp_path: Path) -> None:
    driver = (
        "import sys; from buildstep.cli import main; from buildstep.system import process\n"
        "process.find = lambda *a, **k: None; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", driver, "files", "get", "all", "x.erofs", "--store", store.storage.url],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.fspath(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 5
    assert "apt-get install erofs-utils" in done.stderr


# -- file systems ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["btrfs", "dir-reflink"])
def test_a_checkout_shares_the_blocks_of_the_store(kind: str, tmp_path: Path) -> None:
    with pools.location(kind, tmp_path) as place:
        top = Path(place)
        top.mkdir()
        store = new_store(top / "store", LINKABLE)
        contents = {b"%d" % number: os.urandom(2 << 20) for number in range(10)}
        put_contents(store, contents)
        entries = listed(*(file(path, data) for path, data in contents.items()))
        os.sync()
        before = os.statvfs(top).f_bfree
        report = checkout(store, entries, top / "out")
        os.sync()
        used = (before - os.statvfs(top).f_bfree) * os.statvfs(top).f_frsize
        assert report.shared == 10
        assert used < 2 << 20
        assert scanned(top / "out")[b"3"].sha256 == entries[b"3"].sha256


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """Also where it is only noticed half way: a small file takes a whole page."""
    demand("root")
    store = new_store(tmp_path / "store")
    contents = {b"%d" % number: b"%d" % number for number in range(600)}
    contents[b"large"] = os.urandom(3 << 20)
    put_contents(store, contents)
    small = listed(*(file(path, data) for path, data in contents.items() if path != b"large"))
    large = listed(file(b"large", contents[b"large"]))
    for number, (entries, size) in enumerate(((small, "1m"), (large, "2m"))):
        with disk(tmp_path / f"disk{number}", size) as top:
            (tmp_path / "list").write_bytes(tree_entry.dumps(entries))
            done = command("get", f"file:{tmp_path}/list", f"{top}/out", "--store", store.storage.url)
            assert done.returncode == 6, done.stderr
            assert "No space left on device" in done.stderr
            assert list(top.iterdir()) == []
            (top / "out").mkdir()
            done = command(
                "get", f"file:{tmp_path}/list", f"{top}/out", "--update", "--store", store.storage.url
            )
            assert done.returncode == 6, done.stderr
            assert [name for name in os.listdir(top / "out") if name.startswith(".")] == []


def test_a_mount_is_not_crossed(store: ContentStore, tmp_path: Path) -> None:
    demand("root")
    out = tmp_path / "out"
    entries = listed(file(b"a"))
    (out / "d").mkdir(parents=True)
    with disk(out / "d/m", "1m") as inside:
        (inside / "theirs").touch()
        from buildstep.errors import DatasetError, UsageError

        with pytest.raises(DatasetError, match="mount point"):
            checkout(store, entries, out, Options(update=True, delete=True))
        with pytest.raises(UsageError, match="is a mount point"):
            checkout(store, entries, out, Options(swap=True))
        more = {**entries, **{path: folder_entry(path) for path in (b"d", b"d/m")}}
        with pytest.raises(BadList, match="1 fault") as caught:
            checkout(store, more, out, Options(update=True))
        assert "d/m: is a mount point" in caught.value.detail
        assert (inside / "theirs").exists()
    assert (out / "a").exists()


def folder_entry(path: bytes) -> tree_entry.Entry:
    return tree_entry.Entry(path, "d", 0o755, 0, 0)


def test_an_empty_file_system_is_filled_in_its_place(
    entries: FileList, store: ContentStore, tmp_path: Path
) -> None:
    demand("root")
    with disk(tmp_path / "out", "40m") as out:
        checkout(store, entries, out)
        assert dumped(out) == tree_entry.dumps(entries)


def test_names_that_collide_on_the_file_system(store: ContentStore, tmp_path: Path) -> None:
    demand("root", "mkfs.ext4", "chattr")
    image, top = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as stream:
        stream.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "casefold", os.fspath(image)], check=True)
    top.mkdir()
    mounted = subprocess.run(
        ["mount", "-o", "loop", os.fspath(image), os.fspath(top)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this kernel has no file system that folds cases")
    try:
        (top / "folded").mkdir()
        subprocess.run(["chattr", "+F", os.fspath(top / "folded")], check=True)
        entries = listed(file(b"README"), file(b"Readme"))
        with pytest.raises(BadList, match="1 fault"):
            checkout(store, entries, top / "folded/out")
        assert list((top / "folded").iterdir()) == []
        checkout(store, entries, top / "out")
    finally:
        subprocess.run(["umount", os.fspath(top)], check=True)


# -- killed ----------------------------------------------------------------------------------------------

STEPS = ("folder", "file", "other", "link", "finish_folder", "_settle")


def killed_at(number: int, store: ContentStore, entries: FileList, out: Path, options: Options) -> bool:
    """Check out in a process that is killed after so many steps; return whether it was."""
    pid = os.fork()
    if pid == 0:
        left = number

        def stopping(real: Any) -> Any:
            def step(*args: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **more)

            return step

        for name in STEPS:
            setattr(Writer, name, stopping(getattr(Writer, name)))
        try:
            checkout(store, entries, out, options)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("how", ["new", "swap", "update", "hardlink"])
def test_killed_at_any_step_and_run_again(how: str, tmp_path: Path) -> None:
    demand("root")
    tree, out = tmp_path / "tree", tmp_path / "out"
    tree.mkdir()
    fill(tree)
    store = new_store(tmp_path / "store")
    entries = put_tree(store, tree)
    options = Options(swap=how == "swap", update=how == "update", hardlink=how == "hardlink")
    for number in (0, 3, 17, 29, 41, 57, 66):
        shutil.rmtree(out, ignore_errors=True)
        if how in ("swap", "update"):
            out.mkdir()
            (out / "etc").write_text("old, and no directory")
            (out / "bin").mkdir()
        before = sorted(os.listdir(out)) if out.exists() else None
        killed = killed_at(number, store, entries, out, options)
        assert killed or number > 50
        if killed and how != "update":
            assert (sorted(os.listdir(out)) if out.exists() else None) == before
        if not killed and how != "update":
            continue
        checkout(store, entries, out, options)
        assert dumped(out) == tree_entry.dumps(entries)
        assert sorted(os.listdir(tmp_path)) == ["out", "store", "tree"]
