"""Each way out of an image that was once open, tried by a program in it, with a canary on the host."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import CommandFailed
from buildstep.events import Bus
from buildstep.rootfs import devices, sandbox
from buildstep.system import bubblewrap, mount_table, process, seccomp

Private = Callable[[Callable[[], Any]], Any]

pytestmark = pytest.mark.usefixtures("walled")

PYTHON = "/usr/bin/python3"
"""The host's, shown in the image: these programs ask the kernel directly."""

HEAD = r"""
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    got = libc.syscall(ctypes.c_long(number), *args)
    return got if got >= 0 else errno.errorcode[ctypes.get_errno()]
"""


@pytest.fixture
def walled(require: Any) -> None:
    require("root", "namespaces", "bwrap", PYTHON)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    for name in ("usr", "etc", "dev", "proc", "tmp", "run"):
        (top / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (top / name).symlink_to(f"usr/{name}")
    return top


@contextlib.contextmanager
def entered(root: Path) -> Iterator[Any]:
    options = sandbox.SandboxOptions(resolver_file=None, timeout=60)
    with (
        sandbox.enter(root, bus=Bus(), environ={}, options=options) as inside,
        inside.share(Path("/usr"), "/usr"),
    ):
        yield inside


def asked(private: Private, root: Path, script: str) -> str:
    """Return what a script in Python prints in the image."""

    def job() -> str:
        with entered(root) as inside:
            return str(inside.run([PYTHON, "-c", HEAD + script]))

    return str(private(job))


def test_an_open_directory_and_a_second_chroot_lead_nowhere(root: Path, private: Private) -> None:
    canary = root.parent / "canary"
    canary.write_text("the host's")
    script = f"""
for start in ("/", "/tmp", "/dev", "/proc", "/run", "/usr"):
    if os.fork() == 0:
        out = os.open(start, os.O_RDONLY)
        os.makedirs("/tmp/cell", exist_ok=True)
        os.chroot("/tmp/cell")
        os.fchdir(out)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        try:
            print(start, open({os.fspath(canary)!r}).read())
            open({os.fspath(canary)!r}, "a").write("x")
        except OSError as error:
            print(start, "refused", error.errno)
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""
    answers = asked(private, root, script).splitlines()
    assert len(answers) == 6
    assert all("refused" in answer for answer in answers)
    assert canary.read_text() == "the host's"


def test_what_a_process_may_do(root: Path, private: Private) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in asked(private, root, "print(open('/proc/self/status').read())").splitlines()
        if ":\t" in line
    )
    assert status["NoNewPrivs"] == "1"
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert set(capabilities(int(status[name], 16))) <= set(bubblewrap.CAPABILITIES), name
    assert status["Seccomp"] == "2"


CAPABILITIES = """
chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service
net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct
sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap
mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore
"""
"""By their numbers."""


def capabilities(bits: int) -> list[str]:
    return [name for bit, name in enumerate(CAPABILITIES.split()) if bits >> bit & 1]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A loop device over a file that is the canary."""
    image = tmp_path / "disk"
    image.write_bytes(b"the host's disk" + bytes(1 << 20))
    found = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip(found.stderr.strip())
    yield found.stdout.strip()
    subprocess.run(["losetup", "-d", found.stdout.strip()], check=True)


def test_nodes_can_be_made_and_not_opened(root: Path, private: Private, loop: str, tmp_path: Path) -> None:
    script = f"""
for place in ("/", "/etc/", "/tmp/", "/run/", "/dev/", "/dev/shm/"):
    for name, kind, major, minor in (
        ("loop", 0o060666, 7, {loop.removeprefix("/dev/loop")}), ("kmsg", 0o020666, 1, 11),
        ("fuse", 0o020666, 10, 229), ("control", 0o020666, 10, 237), ("null", 0o020666, 1, 3),
    ):
        name = "made-" + name
        try:
            os.mknod(place + name, kind, os.makedev(major, minor))
        except OSError as error:
            print(place + name, "not made", error)
            continue
        try:
            fd = os.open(place + name, os.O_RDWR | os.O_SYNC)
        except PermissionError:
            continue
        except OSError as error:
            print(place + name, "reached", error)
        else:
            print(place + name, "opened")
            if name == "made-loop":
                os.write(fd, b"over")
"""
    assert asked(private, root, script) == ""
    assert (tmp_path / "disk").read_bytes()[:15] == b"the host's disk"
    assert stat.S_ISBLK((root / "etc/made-loop").stat().st_mode), "it is recorded in the image"


def test_devices_of_its_own_are_the_usual_ones(root: Path, private: Private) -> None:
    script = """
print(sorted(os.listdir("/dev")))
with open("/dev/null", "w") as null, open("/dev/zero", "rb") as zero, open("/dev/urandom", "rb") as random:
    print(null.write("x"), len(zero.read(9)), len(random.read(9)))
import pty
print(os.ttyname(pty.openpty()[1]))
"""
    names, counts, terminal = asked(private, root, script).splitlines()
    assert names == str(sorted([*devices.NODES, *devices.LINKS, "pts", "shm"]))
    assert counts == "1 9 9"
    assert terminal == "/dev/pts/0"


def test_bwrap_itself_and_descriptors_are_no_files_of_the_host(root: Path, private: Private) -> None:
    """Root may set the mode of whatever /proc/PID/exe and /proc/PID/fd lead to, whoever has it open."""
    program, null = Path(bubblewrap.program()), Path("/dev/null")
    before = [(path.stat().st_mode, path.stat().st_mtime_ns) for path in (program, null)]
    script = """
for path in ("/proc/1/exe", "/proc/self/fd/0"):
    for change in (lambda: os.chmod(path, 0o4777), lambda: os.chown(path, 1, 1), lambda: os.utime(path, (0, 0))):
        try:
            change()
        except OSError as error:
            print(path, error.strerror)
        else:
            print(path, "changed")
print(sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1])
"""
    try:
        said = asked(private, root, script).splitlines()
        after = [(path.stat().st_mode, path.stat().st_mtime_ns) for path in (program, null)]
    finally:
        program.chmod(stat.S_IMODE(before[0][0]))
        null.chmod(stat.S_IMODE(before[1][0]))
    assert after == before
    assert "/proc/1/exe changed" not in said
    assert said[-1] == "[0, 1, 2]"


def test_what_sets_the_kernel_is_read_only(root: Path, private: Private) -> None:
    """The kernel keeps the modes of /proc's files once for all: not even those are an image's to set."""
    before = {path: os.lstat(path).st_mode for path in ("/proc/uptime", "/proc/sys/kernel/printk")}
    script = r"""
for top, folders, files in os.walk("/proc"):
    folders[:] = [name for name in folders if not (top == "/proc" and (name.isdigit() or "self" in name))]
    for name in files:
        path = os.path.join(top, name)
        for change in (lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)), lambda: os.chmod(path, 0o600)):
            try:
                change()
            except OSError:
                continue
            print(path)
"""
    try:
        assert asked(private, root, script) == ""
        assert {path: os.lstat(path).st_mode for path in before} == before
    finally:
        os.chmod("/proc/uptime", stat.S_IMODE(before["/proc/uptime"]))


def test_what_tells_about_the_kernels_memory_is_hidden(root: Path, private: Private) -> None:
    script = """
for name in sorted(os.listdir("/proc")):
    if name in ("keys", "key-users") or (os.path.isfile("/proc/" + name) and not os.stat("/proc/" + name).st_mode & 4):
        try:
            print(name, os.read(os.open("/proc/" + name, os.O_RDONLY | os.O_NONBLOCK), 64))
        except OSError:
            pass
"""
    assert asked(private, root, script) == ""


def test_refused_calls(root: Path, private: Private) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("numbers of x86_64")
    script = """
tries = {
    "keyctl": (250, 0, -3, 0), "add_key": (248, b"user", b"x", b"y", 1, -3), "unshare": (272, 0x10000000),
    "mount": (165, b"none", b"/tmp", b"tmpfs", 0, 0), "bpf": (321, 0, 0, 0), "ptrace": (101, 16, 1, 0, 0),
    "clone": (56, 0x10000011, 0, 0, 0, 0), "socket": (41, 40, 1, 0), "clone3": (435, 0, 0),
    "mount of 32 bits": (0x40000000 + 165, 0, 0, 0, 0, 0),
}
for name, (number, *args) in tries.items():
    print(name, call(number, *args))
"""
    said = dict(line.rsplit(" ", 1) for line in asked(private, root, script).splitlines())
    others = {"socket": "EAFNOSUPPORT", "clone3": "ENOSYS", "mount of 32 bits": "ENOSYS"}
    assert said == {name: others.get(name, "EPERM") for name in said}
    assert len(said) == 10


def test_keys_of_the_session_are_not_a_builds(private: Private) -> None:
    """Asked in the build itself, where no filter stands before the kernel's own answer."""
    if os.uname().machine != "x86_64":
        pytest.skip("numbers of x86_64")
    script = f"""{HEAD}
sys.path[:0] = {sys.path!r}
ring = call(250, 1, None)
key = call(248, b"user", b"buildstep-canary", b"secret", ctypes.c_size_t(6), ctypes.c_long(-3))
def found():
    return call(250, 10, ctypes.c_long(-3), b"user", b"buildstep-canary", 0)
if found() != key:
    sys.exit(77)
from buildstep.system import namespaces
def job():
    print(found())
    return 0
sys.exit(namespaces.enclose(job))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel keeps no keys")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("ENOKEY", "EACCES")


def test_mounts_of_an_image_are_gone_and_nothing_stays(root: Path, private: Private) -> None:
    (root / "proc").rmdir()

    def job() -> list[str]:
        with entered(root) as inside:
            inside.run([PYTHON, "-c", ""])
        return mount_table.mount_points(root)

    assert private(job) == []
    assert sorted(os.listdir(root)) == sorted(
        {"usr", "etc", "dev", "tmp", "run", "bin", "sbin", "lib", "lib64"}
    )


def test_a_missing_filter_is_told_once_and_stops_nothing(
    root: Path, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> bytes:
        raise seccomp.Unavailable("libseccomp is not installed")

    monkeypatch.setattr(seccomp, "program", absent)
    monkeypatch.setattr(sandbox, "_told", [])

    def job() -> list[str]:
        notes: list[str] = []
        bus = Bus(lambda event: notes.append(getattr(event, "text", "")))
        options = sandbox.SandboxOptions(resolver_file=None)
        with (
            sandbox.enter(root, bus=bus, environ={}, options=options) as inside,
            inside.share(Path("/usr"), "/usr"),
        ):
            inside.run([PYTHON, "-c", ""])
            inside.run([PYTHON, "-c", ""])
        return [note for note in notes if "filtered" in note]

    assert private(job) == ["system calls of the image are not filtered: libseccomp is not installed"]


def test_a_program_that_cannot_start_is_told_as_before(root: Path, private: Private) -> None:
    def job() -> list[tuple[int, str]]:
        found = []
        with entered(root) as inside:
            for name in ("/bin/none", "/etc"):
                with pytest.raises(CommandFailed) as caught:
                    inside.run([name])
                found.append((caught.value.status, caught.value.detail + caught.value.hint))
        return found

    missing, folder = private(job)
    assert missing[0] == 127
    assert "the image has no program /bin/none" in missing[1]
    assert folder[0] == 126
    assert "bwrap" not in missing[1] + folder[1]


IN_USER_NAMESPACE = """
import json, sys
sys.path[:0] = json.loads(sys.argv[3])
from pathlib import Path
from buildstep.rootfs import devices, sandbox
from buildstep.system import namespaces
from buildstep.events import Bus

def job():
    options = sandbox.SandboxOptions(resolver_file=None)
    with sandbox.enter(Path(sys.argv[1]), bus=Bus(), environ={}, options=options) as inside:
        with inside.share(Path("/usr"), "/usr"):
            print(inside.run(["/usr/bin/python3", "-c", sys.argv[2]]))
    return 0

sys.exit(namespaces.enclose(job))
"""


def test_a_users_files_are_out_of_reach_as_well(root: Path) -> None:
    """A user's build is root of a user namespace: what it could reach is all that the user can."""
    secret = root.parent / "id_ed25519"
    secret.write_text("the user's key")
    script = f"""{HEAD}
out = os.open("/tmp", os.O_RDONLY)
os.makedirs("/tmp/cell"); os.chroot("/tmp/cell"); os.fchdir(out)
for _ in range(64):
    os.chdir("..")
os.chroot(".")
print(os.path.exists({os.fspath(secret)!r}))
print(call(272, 0x10000000))
print([line.split()[1] for line in open("/proc/self/status") if line.startswith(("NoNewPrivs", "Seccomp:"))])
"""
    argv = [
        "unshare",
        "--user",
        "--map-root-user",
        sys.executable,
        "-c",
        IN_USER_NAMESPACE,
        os.fspath(root),
        script,
    ]
    answer = process.query([*argv, json.dumps(sys.path)])
    assert answer.stdout.split("\n")[:3] == ["False", "EPERM", "['1', '2']"]
