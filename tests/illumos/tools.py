"""Stand-ins for an illumos agent's tools: `tools.py TOP NAME ARGUMENT...`; each call is a line in TOP/log.

They take the options that illumos' manual pages have and refuse others. Datasets are directories below
TOP/zfs, a mount is a bind mount of Linux with a row in TOP/mnttab, and `chroot` and `rsync` are the real ones.
A stream is a true first record and a tar archive.
"""

# ruff: noqa: T201 - these are commands, and commands print

from __future__ import annotations

import fcntl
import getopt
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Self

TOP = Path(sys.argv[1])
NAME, ARGV = sys.argv[2], sys.argv[3:]
ZONE = "agent-1"
REAL_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
STATE = TOP / "zfs.json"
MNTTAB = TOP / "mnttab"


def fail(text: str, status: int = 1) -> NoReturn:
    print(text, file=sys.stderr)
    raise SystemExit(status)


def real(*argv: str, **more: Any) -> None:
    subprocess.run(argv, check=True, env={"PATH": REAL_PATH}, **more)


def options(short: str, words: list[str] | None = None) -> tuple[list[tuple[str, str]], list[str]]:
    try:
        return getopt.getopt(ARGV if words is None else words, short)
    except getopt.GetoptError as error:
        fail(f"{NAME}: {error.msg}", 2)


# -- what is there ----------------------------------------------------------------------------------------


def table() -> list[list[str]]:
    return [row.split("\t") for row in MNTTAB.read_text().splitlines()]


def save_table(rows: list[list[str]]) -> None:
    aside = MNTTAB.with_suffix(".new")
    aside.write_text("".join("\t".join(row) + "\n" for row in rows))
    aside.replace(MNTTAB)


def facts() -> dict[str, object]:
    """What the image looks like at the moment of this call, as far as the steps are to be seen in it."""
    for source, point, *_ in reversed(table()):
        if "/build-" in source and "@" not in source:
            root = Path(point) / "root"
            data = root / "var/db/pkgin"
            return {
                "clone": "@final" in str(json.loads(STATE.read_text()).get(source, {}).get("origin")),
                "pkgin": (data / "pkgin.db").exists(),
                "config": (Path(point) / "config").exists(),
                "motd": (root / "etc/motd").exists() and "T R I T O N" in (root / "etc/motd").read_text(),
                "proto": (root / "opt/hello").exists(),
                "lofs": sum(1 for row in table() if row[2] == "lofs"),
            }
    return {}


def is_journaled(target: str) -> bool:
    rows = [row for path in TOP.rglob("journal/*.jsonl") for row in path.read_text().splitlines()]
    return any(json.loads(row).get("path") == target for row in rows if '"mount"' in row)


def record() -> None:
    told: dict[str, object] = {"tool": NAME, "argv": ARGV, **facts()}
    if NAME == "mount":
        told["journaled"] = is_journaled(ARGV[-1])
    with (TOP / "log").open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        log.write(json.dumps(told) + "\n")


# -- mounts -----------------------------------------------------------------------------------------------


def attach(source: str, folder: Path | str, target: str, kind: str, *, read_only: bool) -> None:
    real("mount", "--bind", os.fspath(folder), target)
    if read_only:
        real("mount", "-o", "remount,bind,ro", target)
    save_table([*table(), [source, target, kind, "ro" if read_only else "rw", "0"]])


def mount() -> None:
    refused = TOP / "refuse"
    if refused.exists() and " ".join(ARGV).startswith(refused.read_text().strip()):
        fail("mount: no such thing", 33)
    opts, words = options("F:ro:O")
    given = dict(opts)
    source, target = words
    if given.get("-F") == "lofs":
        attach(source, source, target, "lofs", read_only="-r" in given)
    elif given.get("-F") == "zfs":
        with Pool() as pool:
            if source not in pool.rows:
                fail(f"mount: {source}: no such dataset")
            attach(source, pool.folder(source), target, "zfs", read_only="-r" in given or "@" in source)
    else:
        fail(f"mount: FSType {given.get('-F')} is not known")


def umount() -> None:
    opts, (target,) = options("f")
    rows = table()
    if not any(row[1] == target for row in rows):
        fail(f"umount: {target}: not mounted")
    if any(row[1].startswith(target + "/") for row in rows):
        fail(f"umount: {target}: is busy")
    try:
        # What is in use goes by force only; Linux has no force but to let go of it.
        real("umount", *(["-l"] if opts else []), target, stderr=subprocess.DEVNULL)
    except subprocess.CalledProcessError:
        fail(f"umount: {target}: is busy")
    last = max(number for number, row in enumerate(rows) if row[1] == target)
    save_table([row for number, row in enumerate(rows) if number != last])


# -- zfs --------------------------------------------------------------------------------------------------

MAGIC = 0x2F5BACBAC
BEGIN = "<IIQQQIIQQ256s"
SETTABLE = {"mountpoint", "atime", "sync", "readonly"}


class Pool:
    """The datasets: properties in a file that is locked meanwhile, content in directories."""

    def __enter__(self) -> Self:
        self._lock = (TOP / "zfs.lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.rows: dict[str, dict[str, Any]] = json.loads(STATE.read_text())
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            STATE.write_text(json.dumps(self.rows, indent=1))
        self._lock.close()

    def folder(self, name: str) -> Path:
        return TOP / "zfs" / name.replace("/", "%")

    def need(self, name: str) -> dict[str, Any]:
        if name not in self.rows:
            fail(f"cannot open '{name}': dataset does not exist")
        return self.rows[name]

    def add(self, name: str, props: dict[str, str], content: Path | None, **more: Any) -> None:
        if name in self.rows:
            fail(f"cannot create '{name}': dataset already exists")
        if name.partition("@")[0].rpartition("/")[0] not in self.rows:
            fail(f"cannot create '{name}': parent does not exist")
        for key in props:
            if ":" not in key and key not in SETTABLE:
                fail(f"cannot create '{name}': invalid property '{key}'")
        guid = 1000 + max((row["guid"] for row in self.rows.values()), default=0)
        self.rows[name] = {"props": props, "guid": guid, "origin": "", **more}
        if content is None:
            self.folder(name).mkdir(mode=0o755)
        else:
            real("cp", "-a", os.fspath(content), os.fspath(self.folder(name)))

    def value(self, name: str, key: str) -> tuple[str, str]:
        row = self.rows[name]
        if key == "type":
            return "snapshot" if "@" in name else "filesystem", "-"
        if key == "guid":
            return str(row["guid"]), "-"
        if key == "clones":
            found = [other for other, it in self.rows.items() if it["origin"] == name]
            return ",".join(found) or ("" if "@" in name else "-"), "-"
        if key in row["props"]:
            return row["props"][key], "local"
        parent = name.rpartition("@")[0] or name.rpartition("/")[0]
        if parent not in self.rows:
            return "-", "-"
        value, source = self.value(parent, key)
        if key == "mountpoint" and value.startswith("/"):
            value += "/" + name.rpartition("/")[2]
        return value, f"inherited from {parent}" if source != "-" else "-"

    def drop(self, name: str) -> None:
        del self.rows[name]
        shutil.rmtree(self.folder(name))


def pairs(opts: list[tuple[str, str]]) -> dict[str, str]:
    return dict(value.split("=", 1) for flag, value in opts if flag == "-o")


def zfs() -> None:
    command, *words = ARGV
    with Pool() as pool:
        ZFS[command](pool, words)


def zfs_list(pool: Pool, words: list[str]) -> None:
    opts, names = options("rd:Hpo:s:S:t:", words)
    given = dict(opts)
    if "-d" not in given and "-r" not in given:
        for name in names:
            pool.need(name)
            print(name)
        return
    for name in sorted(pool.rows):
        if name == names[0] or (
            name.startswith(names[0] + "/") and name.count("/") <= names[0].count("/") + 1
        ):
            columns = given["-o"].split(",")[1:]
            print("\t".join([name, *(pool.value(name, key)[0] for key in columns)]))


def zfs_get(pool: Pool, words: list[str]) -> None:
    _, (keys, *names) = options("rd:Hpo:s:t:", words)
    status = 0
    for name in names:
        if name not in pool.rows:
            print(f"cannot open '{name}': dataset does not exist", file=sys.stderr)
            status = 1
            continue
        for key in keys.split(","):
            print("\t".join([name, key, *pool.value(name, key)]))
    if status:
        raise SystemExit(status)


def zfs_create(pool: Pool, words: list[str]) -> None:
    opts, (name,) = options("Pnpvo:", words)
    pool.add(name, pairs(opts), None)
    point = pool.value(name, "mountpoint")[0]
    if point.startswith("/"):
        Path(point).mkdir(parents=True, exist_ok=True)
        attach(name, pool.folder(name), point, "zfs", read_only=False)


def zfs_mount(pool: Pool, words: list[str]) -> None:
    _, (name,) = options("Olvo:", words)
    pool.need(name)
    attach(name, pool.folder(name), pool.value(name, "mountpoint")[0], "zfs", read_only=False)


def zfs_clone(pool: Pool, words: list[str]) -> None:
    opts, (origin, name) = options("po:", words)
    pool.need(origin)
    pool.add(name, pairs(opts), pool.folder(origin), origin=origin)


def zfs_snapshot(pool: Pool, words: list[str]) -> None:
    _, (name,) = options("ro:", words)
    pool.need(name.partition("@")[0])
    pool.add(name, {}, pool.folder(name.partition("@")[0]))


def zfs_rename(pool: Pool, words: list[str]) -> None:
    _, (old, new) = options("fpr", words)
    pool.need(old)
    if new in pool.rows:
        fail(f"cannot rename '{old}': dataset already exists")
    if any(row[0].partition("@")[0] == old for row in table()):
        fail(f"cannot rename '{old}': dataset is busy")
    for name in [name for name in pool.rows if name == old or name.startswith(old + "@")]:
        moved = new + name.removeprefix(old)
        pool.rows[moved] = pool.rows.pop(name)
        pool.folder(name).rename(pool.folder(moved))
        for row in pool.rows.values():
            row["origin"] = moved if row["origin"] == name else row["origin"]


def zfs_set(pool: Pool, words: list[str]) -> None:
    *changes, name = words
    pool.need(name)["props"].update(dict(change.split("=", 1) for change in changes))


def zfs_destroy(pool: Pool, words: list[str]) -> None:
    _, (name,) = options("Rfnprvd", words)
    pool.need(name)
    if any(row[0] == name for row in table()):
        fail(f"cannot destroy '{name}': dataset is busy")
    if any(other.startswith((name + "@", name + "/")) for other in pool.rows):
        fail(f"cannot destroy '{name}': filesystem has children")
    if users := pool.value(name, "clones")[0].strip("-"):
        fail(f"cannot destroy '{name}': snapshot has dependent clones: {users}")
    pool.drop(name)


def zfs_send(pool: Pool, words: list[str]) -> None:
    opts, (name,) = options("DLPRbcehnpvwi:I:", words)
    source = dict(opts).get("-i")
    origin = pool.need(source)["guid"] if source else 0
    row = pool.need(name)
    begin = struct.pack(BEGIN, 0, 0, MAGIC, 1, 0, 2, 0, row["guid"], origin, name.encode())
    sys.stdout.buffer.write(begin)
    sys.stdout.buffer.flush()
    real("tar", "-C", os.fspath(pool.folder(name)), "-cf", "-", ".")


def zfs_receive(pool: Pool, words: list[str]) -> None:
    opts, (name,) = options("Fhnsuvdeo:x:", words)
    props = pairs(opts)
    props.pop("origin", None)
    begin = os.read(0, struct.calcsize(BEGIN))
    fields = struct.unpack(BEGIN, begin)
    if fields[2] != MAGIC:
        fail("cannot receive: bad magic number")
    dataset = name.partition("@")[0]
    pool.add(dataset, props, None)
    real("tar", "-C", os.fspath(pool.folder(dataset)), "--numeric-owner", "-xpf", "-")
    pool.add(name, {}, pool.folder(dataset))
    pool.rows[name]["guid"] = fields[7]


ZFS: dict[str, Callable[[Pool, list[str]], None]] = {
    "list": zfs_list, "get": zfs_get, "create": zfs_create, "mount": zfs_mount, "clone": zfs_clone,
    "snapshot": zfs_snapshot, "rename": zfs_rename, "set": zfs_set, "destroy": zfs_destroy, "send": zfs_send,
    "receive": zfs_receive,
}  # fmt: skip


# -- the others ---------------------------------------------------------------------------------------------


def rsync() -> None:
    for flag in ("--xattrs", "-X", "--acls", "-A"):
        if flag in ARGV:
            fail(f"rsync: {flag}: this rsync was built without it", 4)
    os.execve("/usr/bin/rsync", ["rsync", *ARGV], {**os.environ, "PATH": REAL_PATH})


def chroot() -> None:
    os.execve("/usr/sbin/chroot", ["chroot", *ARGV], dict(os.environ))


def ctrun() -> None:
    opts, words = options("A:i:f:F:l:o:r:tvV")
    assert ("-l", "child") in opts
    os.execvp(words[0], words)


def zonename() -> None:
    zone = TOP / "zonename"
    print(zone.read_text().strip() if zone.exists() else ZONE)


TOOLS = {
    "mount": mount, "umount": umount, "zfs": zfs, "rsync": rsync, "chroot": chroot, "ctrun": ctrun,
    "zonename": zonename,
}  # fmt: skip

if __name__ == "__main__":
    record()
    TOOLS[NAME]()
