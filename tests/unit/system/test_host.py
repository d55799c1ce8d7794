"""illumos piece by piece: its commands, its table of mounts, what is undone when one fails, and what it is.

A whole build is in tests/integration/test_illumos.py. The tools here only record.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from buildstep import pool as pool_module
from buildstep.errors import DatasetError, SandboxError
from buildstep.events import Bus
from buildstep.pool import heal, journal, zfs_library
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.interface import Kind
from buildstep.rootfs import sandbox
from buildstep.rootfs.sandbox import SandboxOptions
from buildstep.system import host, mount_table, mounts, process
from buildstep.system.root import Root

FOLDERS = ("dev", "lib", "proc", "sbin", "usr")

FAKE = """#!/bin/sh
echo "${0##*/} $*" >>"$LOG"
case "${0##*/} $*" in "$FAIL"*) echo "no such thing" >&2; exit 1;; esac
for last; do :; done
case ${0##*/} in
  mount) printf 'source\\t%s\\tlofs\\tro\\t0\\n' "$last" >>"$TABLE" ;;
  umount) grep -v "	$last	" "$TABLE" >"$TABLE.new"; mv "$TABLE.new" "$TABLE" ;;
  zonename) echo "$ZONE" ;;
esac
exit 0
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """illumos with mount, umount, zonename and zfs that write down how they were called."""
    (tmp_path / "tools").mkdir()
    table, log = tmp_path / "mnttab", tmp_path / "log"
    table.touch()
    log.touch()
    monkeypatch.setattr(host, "HERE", host.ILLUMOS)
    monkeypatch.setattr(mount_table, "MNTTAB", table)
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}:/usr/bin:/bin")
    failing(log, "none")
    return log


def failing(log: Path, command: str, zone: str = "agent-1") -> None:
    """Tools of which one refuses: the call that starts so."""
    text = FAKE.replace("$LOG", str(log)).replace("$TABLE", str(log.parent / "mnttab"))
    for name in ("mount", "umount", "zonename", "zfs"):
        path = log.parent / "tools" / name
        path.write_text(text.replace("$FAIL", command).replace("$ZONE", zone))
        path.chmod(0o755)


def called(log: Path) -> list[str]:
    return log.read_text().splitlines()


# -- mounts -----------------------------------------------------------------------------------------------


@pytest.mark.commands
def test_loopbacks_in_order_and_back(log: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    noted: list[Path] = []
    with (
        mounts.noted(noted.append),
        sandbox.enter(root, bus=Bus(), environ={}, options=SandboxOptions(resolver_file=None)) as inside,
    ):
        assert sorted(os.listdir(root)) == list(FOLDERS)
        argv = inside.wrapped(["/opt/local/sbin/pkg_add", "x"], None)
    assert called(log) == [
        *(f"mount -F lofs -r /{name} {root}/{name}" for name in FOLDERS),
        *(f"umount {root}/{name}" for name in reversed(FOLDERS)),
    ]
    assert noted == [root / name for name in FOLDERS]
    assert os.listdir(root) == ["usr"]  # what was there before stays, what was made for the mounts goes
    chroot = process.which("chroot")
    assert argv == [
        "ctrun", "-l", "child", "-o", "noorphan", chroot, str(root), "/opt/local/sbin/pkg_add", "x",
    ]  # fmt: skip


@pytest.mark.commands
def test_one_that_fails_undoes_the_others(log: Path, tmp_path: Path) -> None:
    """The original leaves four mounts behind, and the clone busy (D4)."""
    root = tmp_path / "root"
    root.mkdir()
    failing(log, "mount -F lofs -r /proc")
    entering = sandbox.enter(root, bus=Bus(), environ={}, options=SandboxOptions(resolver_file=None))
    with pytest.raises(SandboxError, match="mounting /proc") as caught, entering:
        pytest.fail("the block must not be entered")
    assert "no such thing" in caught.value.detail
    assert called(log)[3:] == [f"umount {root}/lib", f"umount {root}/dev"]
    assert os.listdir(root) == []


def test_link_in_the_image_leads_nowhere_else(log: Path, tmp_path: Path) -> None:
    """D16: a link planted in the base image must not choose where the agent mounts."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "usr").symlink_to("/etc")
    entering = sandbox.enter(root, bus=Bus(), environ={}, options=SandboxOptions(resolver_file=None))
    with pytest.raises(SandboxError, match="/usr in the image cannot be mounted on"), entering:
        pytest.fail("the block must not be entered")
    assert called(log) == []  # all are looked at before the first mount


@pytest.mark.commands
def test_busy_mount_is_forced(log: Path, tmp_path: Path) -> None:
    (tmp_path / "mnttab").write_text("a\t/x y\tlofs\tro\t0\n")
    failing(log, "umount /x y")
    mounts.unmount("/x y")
    assert called(log) == ["umount /x y", "umount -f /x y"]
    assert mount_table.mount_points("/") == []


def test_what_is_not_mounted_is_left_alone(log: Path) -> None:
    mounts.unmount("/nowhere")
    assert called(log) == []


@pytest.mark.commands
def test_kinds_of_mounts(log: Path, tmp_path: Path) -> None:
    noted: list[Path] = []
    with mounts.noted(noted.append):
        mounts.mount("zones/a/x", "/m", "zfs")
        mounts.mount("zones/a/x@final", "/n", "zfs", mounts.MS_RDONLY)
        mounts.mount("zones/a/state", "/s", "zfs", data=mounts.LASTING)
        with mounts.bind(tmp_path, "/b"):
            pass
    assert called(log) == [
        "mount -F zfs zones/a/x /m",
        "mount -F zfs -r zones/a/x@final /n",
        "zfs mount zones/a/state",
        f"mount -F lofs {tmp_path} /b",
        "umount /b",
    ]
    assert noted == [Path("/m"), Path("/n"), Path("/b")]  # what is to stay is nothing to undo


def test_table_of_mounts(log: Path, tmp_path: Path) -> None:
    rows = ["zones/a\t/a\tzfs\trw\t1", "/usr\t/a/b c/usr\tlofs\tro\t2", "swap\t/ab\ttmpfs\trw\t3"]
    (tmp_path / "mnttab").write_text("\n".join(rows) + "\n")
    assert mount_table.mount_points("/a") == ["/a/b c/usr", "/a"]
    assert mount_table.mounts()[2][:2] == ("swap", "/ab")


def test_on_linux_no_mount_is_noted() -> None:
    noted: list[Path] = []
    with mounts.noted(noted.append):
        assert mounts.are_noted()
        assert mounts._notes == []


# -- the journal --------------------------------------------------------------------------------------------


@pytest.mark.commands
def test_heal_undoes_the_mounts_of_the_dead(log: Path, tmp_path: Path) -> None:
    pool = DirectoryBackend(str(tmp_path / "pool"))
    tree = pool.create("x").path
    ours, others = tree / "usr", tmp_path / "elsewhere"
    (tmp_path / "pool/state/journal").mkdir(parents=True)
    (tmp_path / "pool/state/journal/dead.jsonl").write_text(
        "".join(json.dumps({"acquire": "mount", "path": str(path)}) + "\n" for path in (others, tree, ours))
    )
    (tmp_path / "mnttab").write_text(f"a\t{others}\tlofs\t\t0\nb\t{tree}\tzfs\t\t0\nc\t{ours}\tlofs\t\t0\n")
    left = heal.find_stale(pool)
    assert ("dead", "mount", str(ours)) in left
    healed = heal.heal(pool)
    assert [(row.kind, row.name, row.removed) for row in healed if row.kind == "mount"] == [
        ("mount", str(ours), True), ("mount", str(tree), True),
    ]  # fmt: skip
    assert called(log) == [f"umount {ours}", f"umount {tree}"]  # what is outside of the pool was not ours
    assert heal.heal(pool) == []


@pytest.mark.commands
def test_a_mount_that_cannot_be_undone_stays_in_the_journal(log: Path, tmp_path: Path) -> None:
    pool = DirectoryBackend(str(tmp_path / "pool"))
    tree = pool.create("x").path
    folder = tmp_path / "pool/state/journal"
    folder.mkdir(parents=True)
    (folder / "dead.jsonl").write_text(json.dumps({"acquire": "mount", "path": str(tree)}) + "\n")
    (tmp_path / "mnttab").write_text(f"b\t{tree}\tzfs\t\t0\n")
    failing(log, "umount")
    told = [row for row in heal.heal(pool) if row.kind == "mount"]
    assert [(row.removed, "unmounting" in row.problem) for row in told] == [(False, True)]
    assert [path.name for path in folder.iterdir()] == ["dead.jsonl"]


@pytest.mark.commands
def test_a_build_writes_its_mounts_down_before_it_makes_them(log: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    target = state / "mnt/x"
    failing(log, "mount")
    with journal.open_journal(state, "a test") as opened:
        with pytest.raises(SandboxError):
            mounts.mount("zones/a/x", target, "zfs")
        rows = [journal.record_of(row) for row in opened.path.read_bytes().splitlines()]
        assert rows[1:] == [{"acquire": "mount", "path": str(target)}]


# -- datasets -------------------------------------------------------------------------------------------------


@pytest.mark.commands
def test_zone(log: Path) -> None:
    assert pool_module.choose(None, {}).uri == "zfs:zones/agent-1/data"
    assert called(log) == ["zonename ", "zfs list -H -o name zones/agent-1/data"]
    failing(log, "zfs list")
    with pytest.raises(DatasetError, match="zones/agent-1/data") as caught:
        pool_module.choose(None, {})
    assert "--pool" in caught.value.hint
    failing(log, "none", zone="global")
    with pytest.raises(DatasetError, match="global zone"):
        pool_module.choose(None, {})


@pytest.mark.commands
def test_zfs_by_command_alone(log: Path) -> None:
    zfs = zfs_library.open_zfs()
    assert isinstance(zfs, zfs_library.ZfsCommand)
    zfs.create("z/a", {"mountpoint": "legacy", "atime": 0})
    zfs.clone("z/b", "z/a@final", {"sync": 2})
    zfs.snapshot("z/b@final")
    zfs.rename("z/b", "z/c")
    with open(os.devnull, "wb") as nothing:
        zfs.send("z/c@final", "z/a@final", nothing.fileno())
    assert called(log) == [
        "zfs create -o mountpoint=legacy -o atime=off z/a",  # illumos has no -u
        "zfs clone -o sync=disabled z/a@final z/b",
        "zfs snapshot z/b@final",
        "zfs rename z/b z/c",
        "zfs send -i z/a@final z/c@final",
    ]
    failing(log, "zfs")
    with pytest.raises(DatasetError, match="no such thing"):
        zfs.clone("z/b", "z/a@final", {})
    assert not zfs.holds("z/a@final")
    with open(os.devnull, "wb") as nothing, pytest.raises(DatasetError):
        zfs.send("z/c@final", None, nothing.fileno())


@pytest.mark.commands
def test_copies_without_gnu_cp(log: Path, tmp_path: Path) -> None:
    pool = DirectoryBackend(str(tmp_path / "pool"))
    made = pool.create("one")
    (made.path / "sub").mkdir()
    (made.path / "sub/file").write_text("content")
    os.link(made.path / "sub/file", made.path / "same")
    pool.snapshot(made, Kind.LAYER, "kept")
    copy = pool.clone(Kind.LAYER, "kept", "two").path
    assert (copy / "sub/file").read_text() == "content"
    assert (copy / "same").stat().st_nlink == 2


# -- what this host is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "stamp"),
    [
        ("joyent_20210826T002459Z", "20210826T002459Z"),
        ("joyent_20210826T002459Z_debug", None),
        ("omnios-r151038-f5e2d58fb2", None),
        ("#1 SMP Debian 6.1.0-13", None),
        ("joyent_20211326T002459Z", None),
        ("", None),
    ],
)
def test_stamp(version: str, stamp: str | None) -> None:
    assert host.platform_stamp(version) == stamp
    uname = os.uname_result(("SunOS", "host", "5.11", version, "i86pc"))
    assert host.min_platform(uname) == ({"7.0": stamp} if stamp else {})
    assert host.min_platform(uname, "8.1") == ({"8.1": stamp} if stamp else {})


def test_linux_has_no_stamp() -> None:
    uname = os.uname_result(("Linux", "host", "6.1", "joyent_20210826T002459Z", "x86_64"))
    assert host.min_platform(uname) == {}
    assert host.HERE is host.LINUX


def test_linux_calls_what_it_called_before() -> None:
    here = host.LINUX
    assert (*here.rsync,) == (
        "-rlptD", "--hard-links", "--sparse", "--numeric-ids", "--xattrs", "--acls",
    )  # fmt: skip
    assert here.copy(Path("/a"), Path("/b")) == [
        "cp",
        "-a",
        "--reflink=auto",
        "--sparse=auto",
        "--",
        "/a",
        "/b",
    ]
    assert (here.namespaces, here.openat2, here.mount_commands, here.pool()) == (True, True, False, None)


def test_calls_that_python_has_on_linux_only(tmp_path: Path) -> None:
    module = SimpleNamespace(getxattr=len)
    host.complete(module)
    assert module.getxattr is len  # what is there stays
    assert module.listxattr(b"/x", follow_symlinks=False) == []
    with pytest.raises(OSError, match="not supported"):
        module.setxattr(b"/x", b"user.a", b"b")
    with pytest.raises(OSError, match="not implemented"):
        module.copy_file_range(0, 1, 2)
    fd = module.memfd_create("listing")
    with os.fdopen(fd, "w+b") as file:
        file.write(b"content")
        file.seek(0)
        assert file.read() == b"content"
        assert os.fstat(fd).st_nlink == 0


def test_root_does_without_openat2(log: Path, tmp_path: Path) -> None:
    (tmp_path / "r/sub").mkdir(parents=True)
    (tmp_path / "r/.hidden").write_text("x")
    (tmp_path / "r/out").symlink_to("/../../sub")
    root = Root(tmp_path / "r")
    assert (root.real("/out"), root.real("/.hidden"), root.real("/"), root.real("/no")) == (
        "/sub", "/.hidden", "/", None,
    )  # fmt: skip
    assert root.is_dir("/out")
    assert not root.is_program("/.hidden")
