"""What a full or failing disk leads to: found in the chain of an error, and told in one way."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from buildstep.errors import (
    BuildstepError,
    CommandFailed,
    DiskError,
    EmitError,
    ExitCode,
    InstallError,
    Interrupted,
)
from buildstep.system import process, space
from buildstep.system.files import atomic_write, copy_range, write_all
from buildstep.system.output_set import seal
from buildstep.system.space import DiskFailure, Need, Place, Room

GIB = 1 << 30


@pytest.fixture(autouse=True)
def nothing_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "_watched", {})


def place(role: str, free: int = GIB, *, inodes: int | None = 1000, read_only: bool = False) -> Place:
    folder = Path(f"/somewhere/{role.replace(' ', '-')}")
    return Place(
        role, Room(folder=folder, free=free, inodes=inodes, total=4 * GIB, read_only=read_only), hash(role)
    )


def places(monkeypatch: pytest.MonkeyPatch, *found: Place) -> None:
    monkeypatch.setattr(space, "_places", lambda: found)


def wrapped(number: int, path: str | None = None) -> BuildstepError:
    """An error that a step made of an OSError."""
    try:
        try:
            raise OSError(number, os.strerror(number), path)
        except OSError as error:
            raise EmitError(f"cannot write it: {error.strerror}", detail="more", hint="a hint") from error
    except EmitError as error:
        return error


# -- what tools print ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "output", "number"),
    [
        (
            "rsync",
            ('rsync: [receiver] write failed on "/p/big": No space left on device (28)\n'
            "rsync error: error in file IO (code 11) at receiver.c(380) [receiver=3.2.7]"),
            errno.ENOSPC,
        ),
        (
            "rsync",
            ('rsync: [generator] recv_generator: mkdir "/p/d" failed: No space left on device (28)\n'
            "*** Skipping any contents from this failed directory ***\nrsync error: some files/attrs were "
            "not transferred (see previous errors) (code 23)"),
            errno.ENOSPC,
        ),
        ("apt-get", "E: You don't have enough free space in /var/cache/apt/archives/.", errno.ENOSPC),
        ("apt-get", "E: Write error - write (28: No space left on device)", errno.ENOSPC),
        ("apt-get", ("E: Failed to fetch http://x/Packages  Error writing to file - write "
         "(28: No space left on device)\nE: Some index files failed to download."), errno.ENOSPC),
        (
            "apt-get",
            ("dpkg: error processing archive x.deb (--unpack):\n cannot copy extracted data for './usr/x' to "
            "'/usr/x.dpkg-new': failed to write (No space left on device)"),
            errno.ENOSPC,
        ),
        ("mmdebstrap", "tar: ./usr/bin/last: Wrote only 5632 of 10240 bytes", errno.ENOSPC),
        ("cp", "cp: error writing '/p/tree/big': Disk quota exceeded", errno.EDQUOT),
        ("btrfs", "ERROR: cannot snapshot '/a': No space left on device", errno.ENOSPC),
        ("zfs", "cannot receive new filesystem stream: out of space", errno.ENOSPC),
        ("zfs", "cannot receive: destination tank/a space quota exceeded", errno.EDQUOT),
        ("mkfs.ext4", "mkfs.ext4: Not enough space to build proposed filesystem", errno.ENOSPC),
        ("qemu-img", "qemu-img: error while writing: No space left on device", errno.ENOSPC),
        ("tar", "tar: x: Cannot open: Read-only file system", errno.EROFS),
        ("cp", "cp: error reading '/base/x': Input/output error", errno.EIO),
        ("cp", "cp: error writing 'x': File too large", errno.EFBIG),
        ("apt-get", "E: Read error - read (5: Input/output error)", errno.EIO),
    ],
)  # fmt: skip
def test_tools_that_a_disk_fails_are_understood(
    monkeypatch: pytest.MonkeyPatch, tool: str, output: str, number: int
) -> None:
    places(monkeypatch, place("pool"))
    failure = space.of_tool(tool, 1, output)
    assert failure is not None
    assert failure.errno == number


@pytest.mark.parametrize(
    ("tool", "output"),
    [
        ("apt-get", "E: Unable to locate package nginx"),
        ("apt-get", "truncate: failed to truncate '/var/lib/hole' at 1099511627776 bytes: File too large"),
        # The same number as of a disk, but of a limit on namespaces, and of inotify's watches.
        ("unshare", "unshare: unshare failed: No space left on device"),
        ("bwrap", "bwrap: Creating new namespace failed: No space left on device"),
        ("tail", "tail: inotify cannot be used: No space left on device"),
        # A script in an image that tries what the sandbox does not let it.
        ("unshare", "sysctl: cannot write /proc/sys/kernel/x: Read-only file system"),
        ("unshare", "stty: standard input: Input/output error"),
    ],
)
def test_other_failures_of_tools_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, tool: str, output: str
) -> None:
    places(monkeypatch, place("pool"))
    assert space.of_tool(tool, 1, output) is None


def test_a_script_is_believed_about_a_file_system_that_is_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    places(monkeypatch, place("pool", read_only=True))
    failure = space.of_tool("unshare", 1, "cp: cannot create x: Read-only file system")
    assert failure is not None
    assert failure.errno == errno.EROFS


@pytest.mark.parametrize("status", [1, 100, -7, 135])
def test_a_tool_without_words_failed_because_of_the_full_pool(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """apt writes its cache by a memory map: on a full disk a signal ends it."""
    places(monkeypatch, place("pool", 0))
    failure = space.of_tool("apt-get", status, "E: something")
    assert failure is not None
    assert failure.errno == errno.ENOSPC
    places(monkeypatch, place("pool", inodes=0))
    assert space.of_tool("apt-get", status, "E: something") is not None
    places(monkeypatch, place("pool"))
    assert space.of_tool("apt-get", status, "E: something") is None


def test_a_tool_that_was_ended_did_not_fail_because_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    places(monkeypatch, place("pool", 0))
    assert space.of_tool("apt-get", -15, "") is None
    assert space.of_tool("apt-get", 0, "") is None


@pytest.mark.commands
def test_a_failed_command_knows_its_disk() -> None:
    with pytest.raises(CommandFailed) as caught:
        process.query(["sh", "-c", "echo 'cp: No space left on device' >&2; exit 1"])
    assert isinstance(caught.value.__cause__, DiskFailure)
    with pytest.raises(CommandFailed) as caught:
        process.run(["sh", "-c", "echo 'out of order' >&2; exit 1"])
    assert caught.value.__cause__ is None


# -- the error -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", space.NUMBERS)
def test_every_error_of_a_disk_becomes_one_error(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    places(monkeypatch, place("pool"), place("output directory"))
    error = wrapped(number)
    failure = space.explain(error)
    assert failure is not None
    assert failure.code == ExitCode.DISK
    assert not failure.retryable, "the network has nothing to do with it"
    assert failure.message.startswith("cannot write it: ")
    assert failure.message.count(os.strerror(number)) == 1
    assert "more" in failure.detail
    assert failure.hint
    assert failure.hint != "a hint"
    assert space.explain(failure) is failure


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.EPIPE, errno.ENOMEM, errno.EMFILE])
def test_other_errors_stay_what_they_are(number: int) -> None:
    assert space.explain(wrapped(number)) is None
    assert space.explain(OSError(number, "x")) is None


def test_an_interruption_on_a_full_disk_is_one() -> None:
    error = Interrupted(15, "SIGTERM")
    error.__context__ = OSError(errno.ENOSPC, "x")  # as a signal comes while it is handled
    assert space.explain(error) is None


def test_the_full_one_of_several_places_is_named_with_free_and_need(monkeypatch: pytest.MonkeyPatch) -> None:
    places(monkeypatch, place("pool"), place("output directory", 5000))
    needs = {"pool": Need(7, 7), "output directory": Need(20 << 20, 3)}
    failure = space.explain(wrapped(errno.ENOSPC), needs)
    assert failure is not None
    where = "/somewhere/output-directory (output directory)"
    assert f"{where} has 4.9 KiB free now, about 20.0 MiB are needed" in failure.message
    assert "pool /somewhere/pool: 1.0 GiB, 1000 inodes free of 4.0 GiB" in failure.detail
    assert "--output-dir" in failure.hint
    assert "prune" not in failure.hint


def test_inodes_are_told_where_they_are_out(monkeypatch: pytest.MonkeyPatch) -> None:
    places(monkeypatch, place("pool", inodes=0))
    failure = space.explain(wrapped(errno.ENOSPC), {"pool": Need(1, 8700)})
    assert failure is not None
    assert "has 0 inodes free now, about 8700 are needed" in failure.message
    assert "cache prune" in failure.hint


def test_the_fullest_place_is_named_where_none_is_full_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """dpkg removes the file that did not fit."""
    places(monkeypatch, place("output directory", 80 * GIB), place("pool", 2 << 20))
    failure = space.explain(wrapped(errno.ENOSPC))
    assert failure is not None
    assert "/somewhere/pool (pool) has 2.0 MiB free now" in failure.message
    places(monkeypatch)
    failure = space.explain(wrapped(errno.ENOSPC))
    assert failure is not None
    assert failure.hint == "make room on the disk"


def test_a_quota_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    places(monkeypatch, place("pool", 0))
    failure = space.explain(wrapped(errno.EDQUOT))
    assert failure is not None
    assert "quota" in failure.hint


def test_the_limit_of_a_file_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 << 20, 2 << 20))
    failure = space.explain(wrapped(errno.EFBIG))
    assert failure is not None
    assert "2.0 MiB" in failure.hint
    assert "ulimit -f" in failure.hint


def test_the_place_of_a_path_is_found(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    space.watch(pool=tmp_path / "pool", output_directory=tmp_path)
    failure = space.explain(OSError(errno.ENOSPC, "x", os.fspath(tmp_path / "pool/build/x")))
    assert failure is not None
    assert failure.message.startswith(f"cannot use {tmp_path}/pool/build/x: No space left on device: ")
    assert f"{tmp_path}/pool (pool) has " in failure.message
    space.watch(temporary_directory=tmp_path.parent)
    inner = space.explain(OSError(errno.ENOSPC, "x", os.fspath(tmp_path / "out/x")))
    assert inner is not None
    assert f"{tmp_path} (output directory) has " in inner.message
    elsewhere = space.explain(OSError(errno.EROFS, "x", "/proc/x"))
    assert elsewhere is not None
    assert "/proc is read-only" in elsewhere.message
    # A part of the pool's file system may be mounted so: that is no reason to name the pool.
    part = space.explain(OSError(errno.EROFS, "x", os.fspath(tmp_path / "m.lock.json")))
    assert part is not None
    assert part.message.endswith(f"Read-only file system: {tmp_path} is read-only")


def test_a_package_managers_error_keeps_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    places(monkeypatch, place("pool"))
    failed = CommandFailed(["apt-get"], 100, detail="E: You don't have enough free space in /x")
    space.caused(failed, failed.detail)
    error = InstallError("installing failed", detail=failed.detail, hint="is the mirror there?")
    error.__cause__ = failed
    failure = space.explain(error)
    assert isinstance(failure, DiskError)
    assert "mirror" not in failure.hint
    assert "enough free space" in failure.detail


# -- who writes ----------------------------------------------------------------------------------------------


def test_what_is_written_by_a_descriptor_has_its_path(tmp_path: Path) -> None:
    with open("/dev/full", "wb", buffering=0) as stream, pytest.raises(DiskFailure) as caught:
        write_all(stream.fileno(), b"x")
    assert caught.value.filename == "/dev/full"
    assert caught.value.errno == errno.ENOSPC


def test_a_file_that_is_removed_again_has_its_path(tmp_path: Path) -> None:
    path = tmp_path / "record"
    with pytest.raises(DiskFailure) as caught, atomic_write(path):
        raise OSError(errno.ENOSPC, "x")
    assert caught.value.filename == os.fspath(path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PermissionError), atomic_write(path):
        raise PermissionError(errno.EACCES, "x")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_copy_that_does_not_fit_has_the_path_of_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object) -> int:
        raise OSError(number, "x")

    monkeypatch.setattr(os, "copy_file_range", full)
    (tmp_path / "source").write_bytes(b"x")
    with (tmp_path / "source").open("rb") as source, (tmp_path / "target").open("wb") as target:
        with pytest.raises(DiskFailure) as caught:
            copy_range(source.fileno(), target.fileno(), 1)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DiskFailure) as late:
            seal(os.open(target.name, os.O_RDONLY))
    assert caught.value.filename == late.value.filename == os.fspath(tmp_path / "target")
