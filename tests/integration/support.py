"""What tests of whole builds share: a small base image, a place to build in, and what is left afterwards."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep.spec.check_rules import RULES

REPOSITORY = Path(__file__).parents[2]
EPOCH = 1_700_000_000
LIMIT = 120
"""Seconds after which a build that hangs fails its test."""

PKG_ADD = """\
#!/bin/sh
# Obeys pkg_add(1) as far as builds rely on it; what a package "does" is its name.
[ "$1" = -U ] && shift
for name in "$@"; do
    case $name in
        fail*) echo "pkg_add: no pkg found for '$name', sorry." >&2; exit 1 ;;
        hang*) touch /opt/local/hanging; echo hanging; sleep 600 ;;
        daemon*) (cd /opt; exec sleep 600) & sleep 600 & touch /opt/local/hanging; echo hanging; sleep 600 ;;
        leave*) (cd /opt; exec sleep 600) >/dev/null 2>&1 & ;;
        env*) env > /opt/local/env ;;
        bomb*) f() { f | f & }; f; sleep 600 ;;
        swarm*) n=0; while [ $n -lt 300 ]; do sleep 600 & n=$((n + 1)); done; wait ;;
        hog*) dd if=/dev/zero of=/dev/null bs=524288000 count=1 || exit 1 ;;
        sly*) dd if=/dev/zero of=/dev/null bs=524288000 count=1; sleep 1 ;;
        tmpfs*) dd if=/dev/zero of=/tmp/full bs=1048576 count=512 || exit 1 ;;
        flood*) echo first; while :; do echo flooding; done ;;
        line*) dd if=/dev/zero bs=1048576 ;;
        both*) dd if=/dev/zero bs=1048576 >&2 & dd if=/dev/zero bs=1048576 ;;
        chatty*) dd if=/dev/zero bs=1048576 count=90 2>/dev/null; echo; echo end ;;
        long*) n=0; while [ $n -lt 30 ]; do printf %01048576d $n; n=$((n + 1)); done; echo; echo end ;;
        core*) ulimit -c; ulimit -n ;;
        fill*) dd if=/dev/zero of=/opt/local/full bs=1048576 count=4096 || exit 1 ;;
        mounts*) cat /proc/mounts > /opt/local/mounts; ls -l /dev > /opt/local/dev ;;
    esac
    echo "$name" >> /opt/local/pkg/installed
done
"""

PKG_INFO = """\
#!/bin/sh
[ -e /opt/local/pkg/installed ] && sed 's/$/ A package/' /opt/local/pkg/installed
exit 0
"""

APPLETS = (
    "sh", "ls", "cat", "sleep", "true", "false", "mkdir", "rm", "touch", "env", "dd", "sed", "echo", "ln",
    "id", "mount",
)  # fmt: skip


def write_base(path: Path, extra: Callable[[tarfile.TarFile], None] | None = None) -> Path:
    """A root of one program: merged /usr, links that lead around, a package manager of two scripts."""

    def info(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, **more: Any) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.mtime = kind, mode, EPOCH
        for key, value in more.items():
            setattr(member, key, value)
        return member

    def put(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644, **more: Any) -> None:
        tar.addfile(info(name, mode=mode, size=len(content), **more), io.BytesIO(content))

    busybox = Path(shutil.which("busybox", path="/usr/bin:/bin") or "").read_bytes()
    with tarfile.open(path, "w") as tar:
        for name in (
            ".", "etc", "etc/init.d", "usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib/base", "var", "var/log",
            "run", "opt", "opt/local", "opt/local/sbin", "opt/local/pkg", "root", "srv", "home",
        ):  # fmt: skip
            tar.addfile(info(name, tarfile.DIRTYPE, 0o755))
        for name in ("tmp", "var/tmp"):
            tar.addfile(info(name, tarfile.DIRTYPE, 0o1777))
        for name, target in {
            "bin": "usr/bin",
            "sbin": "/usr/sbin",
            "lib": "usr/lib",
            "var/run": "/run",
            "srv/chain1": "chain2",
            "srv/chain2": "/srv/real",
            "srv/out": "../../../../../../../../outside",
            "srv/out-absolute": "/outside",
        }.items():
            tar.addfile(info(name, tarfile.SYMTYPE, 0o777, linkname=target))
        tar.addfile(info("srv/real", tarfile.DIRTYPE, 0o755))
        put(tar, "usr/bin/busybox", busybox, 0o755)
        for name in APPLETS:
            tar.addfile(info(f"usr/bin/{name}", tarfile.SYMTYPE, 0o777, linkname="busybox"))
        put(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:44:www:/srv:/bin/false\n")
        put(tar, "etc/group", b"root:x:0:\nwww:x:44:\nadm:x:4:\n")
        put(tar, "etc/os-release", b"ID=tiny\n")
        put(tar, "opt/local/sbin/pkg_add", PKG_ADD.encode(), 0o755)
        put(tar, "opt/local/sbin/pkg_info", PKG_INFO.encode(), 0o755)
        put(tar, "usr/bin/setuid", b"#!/bin/sh\n", 0o4755)
        put(tar, "usr/lib/base/one", b"linked\n")
        tar.addfile(info("usr/lib/base/two", tarfile.LNKTYPE, linkname="usr/lib/base/one"))
        put(tar, "usr/lib/base/owned", b"x", uid=33, gid=44)
        put(tar, "var/log/old.log", b"an entry\n", mode=0o640, gid=4)
        put(tar, "same", b"base!")
        if extra is not None:
            extra(tar)
    return path


MANIFEST: dict[str, Any] = {
    "name": "hello",
    "version": "1.0.0",
    "os": "linux",
    "type": "other",
    "description": "A test",
    "build": {},
}


TELL_ONLY = json.dumps({"rules": dict.fromkeys(RULES, "warn")})
"""Of `build.checks`, for tests of other matters: their trees have all that a tree can have."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.stdout)
        return found


@dataclass(kw_only=True)
class Lab:
    """A place to build in: a base, a pool, a proto directory, a manifest and an output directory."""

    top: Path
    base: Path
    scheme: str = "overlay"
    python: str = sys.executable
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.proto.mkdir(parents=True, exist_ok=True)
        (self.proto / "etc").mkdir(exist_ok=True)
        (self.proto / "etc/hello").write_text("hello\n")
        self.manifest()

    @property
    def proto(self) -> Path:
        return self.top / "proto"

    @property
    def out(self) -> Path:
        return self.top / "out"

    @property
    def pool(self) -> Path:
        return self.top / "pool"

    @property
    def uri(self) -> str:
        return f"{self.scheme}:{self.pool}"

    def manifest(self, *, build: Mapping[str, Any] | None = None, **fields: Any) -> Path:
        path = self.top / "m.json"
        path.write_text(json.dumps({**MANIFEST, "build": dict(build or {}), **fields}))
        return path

    def env(self, **more: str) -> dict[str, str]:
        keep = {key: value for key, value in os.environ.items() if not key.startswith("BUILDSTEP_")}
        keep.pop("SOURCE_DATE_EPOCH", None)
        told = {"PYTHONPATH": os.fspath(REPOSITORY), "BUILDSTEP_CHECKS": TELL_ONLY}
        return {**keep, **told, **self.environ, **more}

    def argv(self, *arguments: str) -> list[str]:
        """The command line of a build."""
        return [
            self.python, "-P", "-m", "buildstep", "build", "-m", os.fspath(self.top / "m.json"), "-i",
            f"tar:{self.base}", "-o", os.fspath(self.out), "--pool", self.uri, *arguments, os.fspath(self.proto),
        ]  # fmt: skip

    def run(self, argv: list[str], *, env: Mapping[str, str] | None = None, **popen: Any) -> Done:
        done = subprocess.run(
            argv,
            env=self.env(**(env or {})),
            capture_output=True,
            cwd=self.top,
            timeout=LIMIT,
            check=False,
            errors="surrogateescape",
            **popen,
        )
        return Done(status=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def build(self, *arguments: str, env: Mapping[str, str] | None = None) -> Done:
        """Build with --json, whatever comes of it."""
        return self.run(self.argv("--json", *arguments), env=env)

    def built(self, *arguments: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Build; the object that --json printed."""
        done = self.build(*arguments, env=env)
        assert done.status == 0, done.stderr
        return done.json

    def refused(self, status: int, *arguments: str, env: Mapping[str, str] | None = None) -> Done:
        """Build, which has to fail with this status, ship nothing and leave nothing."""
        before = self.outputs()
        done = self.build(*arguments, env=env)
        assert done.status == status, f"status {done.status}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stdout == ""
        assert self.outputs() == before, "a failed build shipped something"
        assert self.leftovers() == []
        return done

    def command(self, *arguments: str, env: Mapping[str, str] | None = None) -> Done:
        return self.run([self.python, "-P", "-m", "buildstep", *arguments], env=env)

    def heal(self, *arguments: str) -> list[dict[str, Any]]:
        done = self.command("heal", "--pool", self.uri, "--json", *arguments)
        assert done.status == 0, done.stdout + done.stderr
        left: list[dict[str, Any]] = done.json["left"]
        return left

    def outputs(self) -> dict[str, tuple[int, str]]:
        """Every file in the output directory that has its name: its mtime and digest."""
        if not self.out.exists():
            return {}
        return {
            path.name: (path.stat().st_mtime_ns, sha256(path))
            for path in self.out.iterdir()
            if path.is_file() and not path.name.startswith(".")
        }

    def leftovers(self) -> list[str]:
        """Whatever a build that is over has no business to leave, in the pool and beside its outputs."""
        found = [path for path in (self.pool / "build").glob("*") if not self._kept(path.name)]
        found += (self.pool / "state/journal").glob("*")
        found += (self.pool / "state/work").glob("*")
        found += (self.pool / "state").rglob("*.part")
        found += list(self.out.glob(".*"))
        return sorted(os.path.relpath(path, self.top) for path in found)

    def _kept(self, name: str) -> bool:
        return (self.pool / "state/kept" / name).exists()


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha1(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha1").hexdigest()


def step(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    (found,) = [row for row in result["steps"] if row["name"] == name]
    assert isinstance(found, dict)
    return found


# -- the machine before and after ---------------------------------------------------------------------------


SYSTEM = ("/", "/dev", "/proc", "/sys", "/tmp", "/run", "/etc", "/usr", "/lib", "/sbin")


def host_state(top: Path) -> dict[str, object]:
    """What no build in `top` may change on the agent: its mounts, and what /dev, /proc and /sys are.

    Mounts that others make elsewhere meanwhile are not looked at.
    """
    mounts = []
    for row in Path("/proc/self/mountinfo").read_text().splitlines():
        point = row.split(" ")[4]
        if os.fspath(top) in row or point in SYSTEM or point.startswith(("/dev/", "/proc/", "/sys/")):
            mounts.append(row.split(" ", 1)[1])  # the first field is a counter
    nodes = {
        name: (info.st_mode, info.st_rdev, info.st_uid, info.st_gid)
        for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx")
        for info in [os.lstat(f"/dev/{name}")]
    }
    tops = {
        name: (os.stat(name).st_dev, os.stat(name).st_ino) for name in ("/", "/dev", "/proc", "/sys", "/tmp")
    }
    names = {
        folder: sorted(name for name in os.listdir(folder) if not name.startswith("loop"))
        for folder in ("/dev", "/sys", "/mnt", "/")
    }
    resolver = Path("/etc/resolv.conf")
    return {
        "mounts": sorted(mounts),
        "nodes": nodes,
        "tops": tops,
        "names": names,
        "host name": os.uname().nodename,
        "resolver": resolver.read_bytes() if resolver.exists() else b"",
    }


def ours(marker: str) -> list[str]:
    """Processes that carry our mark in their environment, their command line, or their root or folder."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with suppress(OSError):
            raw = Path(f"/proc/{entry}/environ").read_bytes() + Path(f"/proc/{entry}/cmdline").read_bytes()
            places = "".join(_link(f"/proc/{entry}/{name}") for name in ("cwd", "root"))
            if " Z " in Path(f"/proc/{entry}/stat").read_text():
                continue
            if marker.encode() in raw or marker in places:
                found.append(f"{entry} {Path(f'/proc/{entry}/comm').read_text().strip()}")
    return found


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def none_left(marker: str, within: float = LIMIT) -> list[str]:
    """The processes that are still there after a while: the kernel needs a moment to end a namespace."""
    end = time.monotonic() + within
    while (there := ours(marker)) and time.monotonic() < end:
        time.sleep(0.02)
    return there


def descendants(pid: int) -> list[int]:
    """The children of a process and theirs, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def wait_for(what: Callable[[], object], child: subprocess.Popen[Any] | None = None) -> None:
    """Wait for an event, however busy the machine is. A child that ended before it fails the test."""
    end = time.monotonic() + LIMIT
    while not what():
        if child is not None:
            assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < end, "what the test waits for did not come"
        time.sleep(0.01)


def matches(folder: Path, pattern: str) -> list[Path]:
    """Return what matches a pattern in a tree that a build changes meanwhile; pathlib's `glob` raises there."""
    return [folder / name for name in glob.glob(pattern, root_dir=folder)]


def runs(pid: int) -> bool:
    """Whether a process is there and not just waited for."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def end(child: subprocess.Popen[str]) -> None:
    """End a process that a test started, if it still runs."""
    if child.poll() is None:
        child.send_signal(signal.SIGKILL)
    child.communicate()
