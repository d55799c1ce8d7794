"""The sandbox on real kernels: its mounts, its commands, and that nothing of it stays."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import CommandFailed, SandboxError
from buildstep.events import Bus, Event, Note, Output
from buildstep.rootfs import cleaners, sandbox
from buildstep.rootfs.cleaners.interface import CleanOptions
from buildstep.rootfs.leak_check import CiHost
from buildstep.system import mount_table, mounts, process
from buildstep.system.root import Root

Private = Callable[[Callable[[], Any]], Any]

APPLETS = (
    "sh",
    "cat",
    "ls",
    "rm",
    "ln",
    "env",
    "echo",
    "sleep",
    "touch",
    "setsid",
    "hostname",
    "mount",
    "umount",
    "id",
)

RESOLVER = b"nameserver 192.0.2.53\n"


@pytest.fixture
def root(tmp_path: Path, require: Any) -> Path:
    """A root whose userland is one static busybox."""
    require("busybox")
    from buildstep.system.process import which

    top = tmp_path / "root"
    (top / "bin").mkdir(parents=True)
    (top / "etc").mkdir()
    (top / "bin/busybox").write_bytes(Path(which("busybox")).read_bytes())
    (top / "bin/busybox").chmod(0o755)
    for name in APPLETS:
        (top / "bin" / name).symlink_to("busybox")
    resolver = tmp_path / "agent-resolver"
    resolver.write_bytes(RESOLVER)
    return top


def listing(top: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, mode and mtime of everything in a tree."""
    found = {}
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files, "."):
            status = os.lstat(os.path.join(folder, name))
            found[os.path.relpath(os.path.join(folder, name), top)] = (
                status.st_ino,
                status.st_mode,
                status.st_mtime_ns,
            )
    return found


def enter(root: Path, **options: Any) -> Any:
    bus, environ = options.pop("bus", None) or Bus(), options.pop("environ", {})
    given: dict[str, Any] = {"resolver_file": root.parent / "agent-resolver", "timeout": 60} | options
    return sandbox.enter(root, bus=bus, environ=environ, options=sandbox.SandboxOptions(**given))


def test_everything_is_undone(root: Path, private: Private) -> None:
    (root / "etc/resolv.conf").symlink_to("../run/stub-resolv.conf")
    before = listing(root)

    def job() -> tuple[list[str], list[str], str]:
        with enter(root) as inside:
            shown = inside.run(["cat", "/etc/resolv.conf"])
            inside.run(["touch", "/tmp/a", "/run/b"])
            during = mount_table.mount_points(root)
        return during, mount_table.mount_points(root), shown

    during, after, shown = private(job)
    nodes = ["dev/full", "dev/null", "dev/random", "dev/tty", "dev/urandom", "dev/zero"]
    expected = sorted({"dev", "dev/pts", "run", "tmp", *nodes})
    assert sorted({os.path.relpath(path, root) for path in during}) == expected
    assert after == []
    assert shown == RESOLVER.decode().strip()
    assert listing(root) == before


def test_dev_is_our_own_and_proc_cannot_change_the_kernel(root: Path, private: Private) -> None:
    def job() -> None:
        with enter(root) as inside:
            for name in ("null", "zero", "full", "random", "urandom", "tty"):
                node = (root / "dev" / name).stat()
                assert stat.S_ISCHR(node.st_mode), name
                assert node.st_mode & 0o777 == 0o666, name
                assert node.st_dev != os.stat("/dev").st_dev, name
            inside.run(["sh", "-c", "echo x > /dev/null && ls -l /dev/fd/ /dev/ptmx /dev/shm > /dev/null"])
            assert inside.run(["sh", "-c", "echo $$; ls -d /proc/[0-9]*"]).splitlines()[1:]
            with pytest.raises(CommandFailed):
                inside.run(["sh", "-c", "echo 0 > /proc/sys/kernel/printk"])
            with pytest.raises(CommandFailed):
                inside.run(["mount", "-t", "tmpfs", "x", "/etc"])
            with pytest.raises(CommandFailed):
                inside.run(["umount", "/proc"])

    private(job)


def test_d18_the_environment_is_built_and_the_host_name_ours(root: Path, private: Private) -> None:
    environ = {"AGENT_TOKEN": "s3cr3t-value", "PATH": "/nowhere", "http_proxy": "http://u:sesame@192.0.2.9:1"}

    def job() -> tuple[str, str, str, str]:
        with enter(root, environ=environ) as inside:
            return (
                inside.run(["env"], env={"MORE": "1"}),
                inside.run(["env"], network=True),
                inside.run(["hostname"]),
                inside.run(["cat", "/proc/self/environ"]),
            )

    env, with_network, host_name, first = private(job)
    assert "s3cr3t" not in env + with_network + first
    assert "proxy" not in env
    assert "MORE=1" in env.splitlines()
    # The build's own proxy, which goes through the host's: that one's password stays outside.
    assert "http_proxy=http://127.0.0.1:3128" in with_network.splitlines()
    assert "sesame" not in with_network
    assert host_name == "buildstep"


def test_passwords_do_not_reach_events_or_errors(root: Path, private: Private) -> None:
    def job() -> tuple[list[Event], str]:
        events: list[Event] = []
        environ = {"http_proxy": "http://u:sesame@192.0.2.9:1"}
        with enter(root, environ=environ, bus=Bus(events.append)) as inside:
            with pytest.raises(CommandFailed) as caught:
                inside.run(["sh", "-c", "env; exit 3"], network=True)
            return events, f"{caught.value} {caught.value.detail}"

    events, error = private(job)
    text = " ".join(event.text for event in events if isinstance(event, Output | Note))
    assert "http_proxy=http://127.0.0.1:3128" in text
    assert "sesame" not in text + error


def test_no_command_sees_the_hosts_interfaces(root: Path, private: Private) -> None:
    def job() -> tuple[str, str]:
        with enter(root) as inside:
            return inside.run(["cat", "/proc/net/dev"]), inside.run(["cat", "/proc/net/dev"], network=True)

    for seen in private(job):
        interfaces = [line.split(":")[0].strip() for line in seen.splitlines() if ":" in line]
        assert set(interfaces) <= {"lo", "sit0", "tunl0", "ip6tnl0"}


def test_a_background_process_is_dead_when_the_command_returns(root: Path, private: Private) -> None:
    def job() -> tuple[float, list[str]]:
        begin = time.monotonic()
        with enter(root) as inside:
            inside.run(["sh", "-c", "setsid sleep 987 </dev/null >/dev/null 2>&1 & echo started"])
        seconds = time.monotonic() - begin
        left = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                left.append(stream.read().replace(b"\0", b" ").decode())
        return seconds, [text for text in left if "987" in text]

    seconds, left = private(job)
    assert left == []
    assert seconds < 10


def test_process_one_collects_what_daemons_leave(root: Path, private: Private) -> None:
    """A script that waits for an orphan to be gone must not wait for ever."""
    script = "(sleep 0.2 & echo $! > /tmp/pid); p=$(cat /tmp/pid); while kill -0 $p 2>/dev/null; do sleep 0.1; done; echo gone"

    def job() -> str:
        with enter(root, timeout=10) as inside:
            return str(inside.run(["sh", "-c", script]))

    assert private(job) == "gone"


def test_statuses_and_missing_programs(root: Path, private: Private) -> None:
    def job() -> None:
        with enter(root) as inside:
            assert inside.run(["sh", "-c", "echo out; exit 3"], ok=(0, 3)) == "out"
            with pytest.raises(CommandFailed, match=r"my step: sh exited with status 3") as caught:
                inside.run(["sh", "-c", "echo why >&2; exit 3"], what="my step")
            assert "why" in caught.value.detail
            assert "command in the image: sh -c" in caught.value.detail
            assert "bounding-set" not in caught.value.detail
            with pytest.raises(CommandFailed) as caught:
                inside.run(["no-such-program"])
            assert "no-such-program" in caught.value.hint
            assert inside.run(["cat"]) == ""  # standard input is empty, never a wait

    private(job)


def test_d20_a_silent_command_is_stopped(root: Path, private: Private) -> None:
    def job() -> None:
        with (
            enter(root, timeout=None, idle_timeout=1) as inside,
            pytest.raises(CommandFailed, match="printed nothing"),
        ):
            inside.run(["sh", "-c", "echo start; sleep 100"])

    private(job)


@pytest.mark.parametrize("point", ["dev", "proc", "tmp", "run"])
@pytest.mark.parametrize("target", ["/etc", "OUTSIDE", "nowhere"])
def test_d16_a_planted_link_is_refused(root: Path, private: Private, point: str, target: str) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (root / point).symlink_to(str(outside) if target == "OUTSIDE" else target)

    def job() -> None:
        with pytest.raises(SandboxError, match=f"/{point} in the image cannot be mounted on"), enter(root):
            pass
        assert mount_table.mount_points(root) == []
        assert mount_table.mount_points(outside) == []

    private(job)
    assert list(outside.iterdir()) == []


def test_d16_a_link_planted_by_a_script_is_refused(root: Path, private: Private) -> None:
    def job() -> None:
        with enter(root) as inside:
            os.rmdir(root / "proc")
            os.symlink("/etc", root / "proc")
            with pytest.raises(SandboxError, match="/proc in the image"):
                inside.run(["echo"])
            os.unlink(root / "proc")
            os.mkdir(root / "proc")

    private(job)


def test_d16_etc_as_a_link_stays_inside(root: Path, private: Private) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (root / "etc").rmdir()
    (root / "etc").symlink_to(outside)

    def job() -> None:
        with pytest.raises(SandboxError), enter(root):
            pass

    private(job)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_d4_a_failing_mount_unwinds_the_others(
    root: Path, private: Private, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(root)

    def job() -> None:
        count = 0
        real = mounts.mount

        def mount(source: str, target: Any, fstype: Any, flags: int = 0, data: str = "") -> None:
            nonlocal count
            if fstype != "devpts" or "gid" in data:  # the second devpts try is not another mount
                count += 1
            if count == failing:
                raise SandboxError(f"cannot mount number {failing}")
            real(source, target, fstype, flags, data)

        mounts.mount = mount
        with pytest.raises(SandboxError, match=f"number {failing}"), enter(root):
            pass
        assert mount_table.mount_points(root) == []

    private(job)
    assert listing(root) == before


def test_a_failure_in_the_block_is_not_hidden_by_the_clearing_up(root: Path, private: Private) -> None:
    def job() -> list[Event]:
        events: list[Event] = []
        with pytest.raises(ValueError, match="the first"):
            _fail_twice(root, Bus(events.append))
        return events

    events = private(job)
    assert any(isinstance(event, Note) and "while clearing up" in event.text for event in events)


def _fail_twice(root: Path, bus: Bus) -> None:
    with enter(root, bus=bus):
        mounts.unmount = _refuse
        raise ValueError("the first")


def _refuse(target: object) -> None:
    raise SandboxError(f"cannot unmount {target}")


# -- lending and sharing ------------------------------------------------------------------------------------


def test_a_lent_file_goes_and_the_original_comes_back(root: Path, private: Private) -> None:
    (root / "usr/sbin").mkdir(parents=True)
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 0\n")
    policy.chmod(0o750)
    before = listing(root)

    def job() -> str:
        with enter(root, resolver_file=None) as inside:
            with inside.temporary_file("/usr/sbin/policy-rc.d", b"#!/bin/sh\nexit 101\n", mode=0o755):
                with pytest.raises(CommandFailed) as caught:
                    inside.run(["/usr/sbin/policy-rc.d"])
                assert caught.value.status == 101
            with inside.temporary_file("/opt/made/for/this", b"x"):
                assert inside.run(["cat", "/opt/made/for/this"]) == "x"
            return str(inside.run(["cat", "/usr/sbin/policy-rc.d"]))

    assert private(job) == "#!/bin/sh\nexit 0"
    assert listing(root) == before


@pytest.mark.parametrize("original", [None, "file", "link"])
@pytest.mark.parametrize(
    "theirs",
    ["echo mine > /etc/resolv.conf", "rm /etc/resolv.conf; ln -s /a /etc/resolv.conf", "rm /etc/resolv.conf"],
)
def test_what_a_package_puts_in_place_of_a_lent_file_stays(
    root: Path, private: Private, original: str | None, theirs: str
) -> None:
    resolver = root / "etc/resolv.conf"
    if original == "file":
        resolver.write_text("original\n")
    elif original == "link":
        resolver.symlink_to("../run/original")

    def job() -> None:
        with enter(root) as inside:
            inside.run(["sh", "-c", theirs])

    private(job)
    if theirs.startswith("echo"):
        assert resolver.read_text() == "mine\n"
    elif "ln" in theirs:
        assert os.readlink(resolver) == "/a"
    else:
        assert not resolver.is_symlink()
        assert not resolver.exists()
    assert [name for name in os.listdir(root / "etc") if "buildstep" in name] == []


def test_a_file_cannot_be_lent_twice_or_over_a_directory(root: Path, private: Private) -> None:
    def job() -> None:
        with enter(root) as inside:
            again = pytest.raises(SandboxError, match="is replaced already")
            with (
                inside.temporary_file("/etc/x", b"1"),
                inside.temporary_file("/etc/x", b"2"),
                again,
                inside.temporary_file("/etc/x", b"3"),
            ):
                pass
            with pytest.raises(SandboxError, match="is a directory"), inside.temporary_file("/bin", b""):
                pass

    private(job)
    assert not (root / "etc/x").exists()


def test_a_shared_directory_is_writable_if_asked_and_gone_afterwards(root: Path, private: Private) -> None:
    cache = root.parent / "cache"
    cache.mkdir()
    before = listing(root)

    def job() -> None:
        with enter(root) as inside:
            with inside.share(cache, "/var/cache/thing", writable=True):
                inside.run(["touch", "/var/cache/thing/file"])
            with inside.share(cache, "/var/cache/thing"):
                for command in (["touch", "/var/cache/thing/more"], ["rm", "/var/cache/thing/file"]):
                    with pytest.raises(CommandFailed):
                        inside.run(command)
            with pytest.raises(SandboxError, match="not a directory"), inside.share(cache / "none", "/x"):
                pass
            (root / "mnt").symlink_to("/etc")
            with pytest.raises(SandboxError, match="symbolic link"), inside.share(cache, "/mnt"):
                pass
            (root / "mnt").unlink()

    private(job)
    assert (cache / "file").exists()
    assert sorted(listing(root)) == sorted(before)


def test_cleaners_do_not_enter_a_mount_and_the_proof_names_it(root: Path, private: Private) -> None:
    """Bound from the same file system: its device number does not give it away."""
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    (root / "tmp/a/mounted").mkdir(parents=True)
    (root / "tmp/a/other").touch()

    def job() -> None:
        with mounts.bind(outside, root / "tmp/a/mounted"):
            with pytest.raises(SandboxError, match="/tmp/a/mounted is still mounted"):
                cleaners.clean(["tmp"], Root(root), CleanOptions(ci_host=CiHost.of({})), Bus())
            assert mount_table.mount_points(root) == [os.fspath(root / "tmp/a/mounted")]

    private(job)
    assert (outside / "precious").exists()
    assert not (root / "tmp/a/other").exists()


# -- other ways in --------------------------------------------------------------------------------------------


def test_a_shell_opens_on_the_terminal(root: Path, private: Private) -> None:
    def job() -> int:
        read, write = os.pipe()
        os.write(write, b"touch /shell-was-here; exit 5\n")
        os.close(write)
        os.dup2(read, 0)
        with sandbox.enter(root, bus=Bus(), environ={}) as inside:
            return inside.shell()

    assert private(job) == 5
    assert (root / "shell-was-here").exists()
    assert mount_table.mount_points(root) == []


IN_USER_NAMESPACE = """
import sys
from pathlib import Path
from buildstep.rootfs import sandbox
from buildstep.system import namespaces
from buildstep.events import Bus

def job():
    with sandbox.enter(Path(sys.argv[1]), bus=Bus(), environ={}) as inside:
        print(inside.run(["sh", "-c", "echo x > /dev/null; id; ls -l /dev/zero"]))
    return 0

sys.exit(namespaces.enclose(job))
"""


def test_without_real_root_nodes_are_borrowed_one_by_one(root: Path, require: Any) -> None:
    require("namespaces")
    argv = ["unshare", "--user", "--map-root-user", sys.executable, "-c", IN_USER_NAMESPACE, os.fspath(root)]
    answer = process.query(argv, env=process.base_env(os.environ, PYTHONPATH=os.pathsep.join(sys.path)))
    assert "uid=0" in answer.stdout
    assert "1,   5" in answer.stdout
    assert not (root / "dev").exists()
