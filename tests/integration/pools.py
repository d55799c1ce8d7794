"""Pools of every kind on file systems made for a test, and random changes to trees."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildstep.pool.btrfs import BtrfsBackend
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.interface import Backend
from buildstep.pool.overlay import OverlayBackend
from buildstep.pool.zfs import ZfsBackend
from buildstep.spec.imgmanifest import uuid_of
from buildstep.system.userns import in_user_namespace
from buildstep.tree import entry as tree_entry
from buildstep.tree import hashing, scan
from buildstep.tree.entry import FileList

IN_GUEST = bool(os.environ.get("BUILDSTEP_GUEST"))
DELEGATED = "zones/agent/data"
"""The dataset that the guest gives to tests."""

KINDS = ("overlay", "dir", "dir-reflink", "btrfs", "zfs")
MAKERS: dict[str, Callable[[str], Backend]] = {
    "overlay": OverlayBackend,
    "dir": DirectoryBackend,
    "dir-reflink": DirectoryBackend,
    "btrfs": BtrfsBackend,
    "zfs": ZfsBackend,
}

IMAGE = uuid_of("the image of the tests")
OTHER = uuid_of("another image")
KEY = "0123456789abcdef0123456789abcdef01234567"


def command(*argv: str, ok: bool = True) -> str:
    """Run a tool and return what it printed."""
    return subprocess.run(argv, check=ok, capture_output=True, text=True).stdout


def why_not(kind: str) -> str:
    """Why there can be no pool of this kind here; empty if there can."""
    if os.geteuid() != 0:
        return "needs root"
    if kind == "zfs":
        return "" if IN_GUEST else "runs in the ZFS guest"
    if IN_GUEST:
        return "the guest is for ZFS"
    if in_user_namespace() and kind in ("btrfs", "dir-reflink"):
        return "needs the machine's root"
    tool = {"btrfs": "mkfs.btrfs", "dir-reflink": "mkfs.xfs"}.get(kind)
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return f"needs {tool}" if tool and shutil.which(tool, path=path) is None else ""


@contextlib.contextmanager
def location(kind: str, folder: Path) -> Iterator[str]:
    """A place for a pool of this kind, for the length of a block; two pools never share one."""
    if reason := why_not(kind):
        pytest.skip(f"{kind}: {reason}")
    if kind == "zfs":
        name = f"{DELEGATED}/t-{secrets.token_hex(4)}"
        command("zfs", "create", name)
        try:
            yield name
        finally:
            command("zfs", "destroy", "-R", "-f", name)
    elif kind in ("btrfs", "dir-reflink"):
        image, where = folder / "disk.img", folder / "disk"
        with image.open("wb") as file:
            file.truncate(512 << 20)
        make = ["mkfs.btrfs", "-q"] if kind == "btrfs" else ["mkfs.xfs", "-q", "-m", "reflink=1"]
        command(*make, str(image))
        where.mkdir()
        command("mount", "-o", "loop", str(image), str(where))
        try:
            yield str(where / "pool")
        finally:
            command("umount", "-R", str(where))
    else:
        yield str(folder / "pool")


def hashed(entries: FileList, root: Path) -> FileList:
    """A scanned list with every digest filled in."""
    hashing.hash_entries(root, entries.values())
    hashing.spread_digests(entries)
    return entries


def full(root: Path) -> FileList:
    """All of a tree, read anew."""
    return hashed(scan.scan(root), root)


def same(one: FileList, two: FileList) -> None:
    """Fail, naming the lines that differ."""
    rows = [{tree_entry.line(entry) for entry in entries.values()} for entries in (one, two)]
    differing = [sorted(rows[0] - rows[1]), sorted(rows[1] - rows[0])]
    assert differing == [[], []], differing


def fill(root: Path) -> None:
    """A tree with one of everything."""
    root.chmod(0o755)
    for name in ("etc", "bin", "var/lib/deep/er", "empty"):
        (root / name).mkdir(parents=True)
    (root / "etc/conf").write_text("one\n")
    (root / "bin/tool").write_bytes(os.urandom(200_000))
    (root / "bin/tool").chmod(0o4755)
    os.link(root / "bin/tool", root / "bin/also-tool")
    os.symlink("../bin/tool", root / "etc/link")
    os.mkfifo(root / "var/pipe")
    if not in_user_namespace():  # where nobody may
        os.mknod(root / "var/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (root / os.fsdecode(b"etc/new\nline \xff")).write_text("odd")
    os.chown(root / "etc/conf", 1000, 100)
    os.setxattr(root / "etc/conf", "user.note", b"hello")
    with (root / "var/holes").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    for number in range(20):
        (root / "var/lib" / f"f{number}").write_text(f"{number}\n")
    (root / "var/lib/deep").chmod(0o1777)


def change(root: Path, seed: int, count: int = 25) -> None:
    """Random changes, among them those that leave size and mtime as they were."""
    rng = random.Random(seed)
    for step in range(count):
        paths = sorted(path for path in root.rglob("*"))
        files = [path for path in paths if path.is_file() and not path.is_symlink()]
        dirs = [root, *(path for path in paths if path.is_dir() and not path.is_symlink())]
        _one_change(rng, f"n{seed}-{step}", rng.choice(files or [root / "made"]), rng.choice(dirs), root)


def _one_change(rng: random.Random, name: str, file: Path, folder: Path, root: Path) -> None:
    act = rng.randrange(12)
    if act == 0 or not file.exists():
        (folder / name).write_bytes(rng.randbytes(rng.choice([0, 10, 5000])))
    elif act == 1:
        with file.open("ab") as stream:
            stream.write(b"more")
    elif act == 2:  # another content of the same size and time
        info, data = file.stat(), file.read_bytes()
        file.write_bytes(bytes(byte ^ 1 for byte in data[:100]) + data[100:])
        os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    elif act == 3:
        file.chmod(rng.choice([0o600, 0o644, 0o2755]))
    elif act == 4:
        os.chown(file, rng.randrange(3), rng.randrange(3))
    elif act == 5:
        file.unlink()
    elif act == 6 and folder != root:
        shutil.rmtree(folder)
    elif act == 7:
        os.link(file, folder / name)
    elif act == 8:
        os.symlink(rng.choice(["/etc/conf", "nowhere"]), folder / name)
    elif act == 9:
        (folder / name / "sub").mkdir(parents=True)
        (folder / name / "sub" / "file").write_text(name)
    elif act == 10:
        file.rename(folder / name)
    elif act == 11:
        os.setxattr(file, "user.seen", name.encode())
