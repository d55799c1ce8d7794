"""One run of the guest: drives in, QEMU, results out."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.guest.cache import run_folder, say
from tests.guest.commands import DIE_WITH_US, environment, need, output, tail
from tests.guest.errors import GuestError, GuestTimeoutError
from tests.guest.products import HERE, Guest

RESULTS_SIZE = 4 << 30  # of a sparse file: the most that a run can hand over


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run in the guest."""

    command: Sequence[str]
    checkout: Path
    timeout: float = 900
    memory: int = 4096
    cpus: int = 2
    pool_size: str = "8G"
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came back through the results drive."""

    status: int
    stdout: bytes
    stderr: bytes
    seconds: float


def run_job(
    guest: Guest,
    job: Job,
    *,
    cache: Path,
    results: Path | None = None,
    on_console: Callable[[str], None] | None = None,
) -> Outcome:
    """Boot the guest, run the job in it, and bring back what it left.

    Files that the command puts into /results come to the folder `results`. `on_console` is given
    the console's lines as they come. A guest that does not deliver a status is a GuestError.
    """
    start = time.monotonic()
    with run_folder(cache) as folder:
        given, taken = folder / "input.tar", folder / "results.tar"
        write_input(given, job)
        with taken.open("wb") as file:
            file.truncate(RESULTS_SIZE)
        argv = qemu_argv(guest, job, given=given, taken=taken)
        console = _Console(on_console)
        try:
            _run_qemu(argv, console, timeout=job.timeout, folder=folder)
            return _read_results(taken, results, seconds=time.monotonic() - start)
        except GuestError as error:
            error.detail = error.detail or f"the console's last lines:\n{console.tail()}"
            raise


def checkout_files(checkout: Path) -> list[str]:
    """The checkout as it is in the work tree: tracked files and new ones that are not ignored."""
    if not (checkout / ".git").exists():
        raise GuestError(f"{checkout} is not a git checkout, so its files cannot be listed")
    listed = output(["git", "-C", checkout, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    names = sorted({name for name in listed.split("\0") if name})
    # A file that was removed but not yet from the index is listed all the same.
    return [name for name in names if os.path.lexists(checkout / name)]


def write_input(target: Path, job: Job) -> None:
    """Write the input drive: a tar of the checkout, the guest's init and the command."""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in job.env.items())
    parts = {
        "guest/init.sh": (HERE / "init.sh").read_text(),
        "guest/command.sh": f"{exports}exec {shlex.join(job.command)}\n",
        "guest/pool-size": f"{job.pool_size}\n",
    }
    # busybox unpacks it, and knows GNU's long names but not pax headers.
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in checkout_files(job.checkout):
            # Files come and go in a work tree that somebody works in.
            with suppress(FileNotFoundError):
                tar.add(job.checkout / name, f"src/{name}", recursive=False, filter=_as_root)
        for name, text in parts.items():
            data = text.encode(errors="surrogateescape")
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def qemu_argv(guest: Guest, job: Job, *, given: Path, taken: Path) -> list[str]:
    """The emulator's command line. The root drive is shared by all runs, so none writes to it."""

    def drive(path: Path, *options: str) -> list[str]:
        # A comma ends an option's value unless it is doubled.
        file = os.fspath(path).replace(",", ",,")
        return ["-drive", ",".join([f"file={file}", "if=virtio", "format=raw", *options])]

    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot",
        "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(job.cpus), "-m", str(job.memory),
        "-display", "none", "-serial", "stdio", "-nic", "none",
        "-device", "virtio-rng-pci",
        "-kernel", os.fspath(guest.vmlinuz), "-initrd", os.fspath(guest.initrd),
        "-append", "console=ttyS0 quiet panic=-1",
        *drive(guest.root, "cache=unsafe", "snapshot=on"),
        *drive(given, "readonly=on"),
        *drive(taken, "cache=unsafe"),
    ]  # fmt: skip


class _Console:
    """The guest's console: kept for messages, passed on line by line."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._lines: list[str] = []
        self._on_line = on_line

    def follow(self, stream: IO[bytes]) -> None:
        for raw in stream:
            line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw.decode(errors="replace")).rstrip()
            self._lines.append(line)
            if self._on_line:
                self._on_line(line)

    def tail(self) -> str:
        return tail("\n".join(self._lines)) or "(nothing)"


def _run_qemu(argv: list[str], console: _Console, *, timeout: float, folder: Path) -> None:
    need(argv[0])
    qemu = subprocess.Popen(
        [*DIE_WITH_US, *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # The root drive's changes go to an unlinked file here.
        env=environment({"TMPDIR": os.fspath(folder)}),
        # Ctrl-C is for us; we end QEMU ourselves.
        start_new_session=True,
    )
    assert qemu.stdout is not None
    reader = threading.Thread(target=console.follow, args=(qemu.stdout,), daemon=True)
    reader.start()
    try:
        status = qemu.wait(timeout)
    except subprocess.TimeoutExpired:
        qemu.kill()
        reader.join(5)
        raise GuestTimeoutError(
            f"the guest was still running after {timeout:g} s and was killed",
            hint="give it more with --timeout; emulation is about ten times slower than the machine",
        ) from None
    finally:
        qemu.kill()
        qemu.wait()
        reader.join(5)
    if status:
        raise GuestError(f"QEMU ended with status {status}")


def _read_results(taken: Path, results: Path | None, *, seconds: float) -> Outcome:
    incomplete = GuestError("the guest ended without delivering its command's exit status")
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(taken, "r:") as tar:
            members = tar.getmembers()
            # The status is the last member: with it there, all before it is whole.
            if not members or members[-1].name != "status":
                raise incomplete
            for member in members:
                if member.name in ("stdout", "stderr", "status"):
                    file = tar.extractfile(member)
                    assert file is not None
                    found[member.name] = file.read()
            status = int(found["status"])
            if results is not None:
                _extract(tar, members, results)
    except (tarfile.ReadError, KeyError, ValueError) as error:
        raise incomplete from error
    return Outcome(status=status, stdout=found["stdout"], stderr=found["stderr"], seconds=seconds)


def _extract(tar: tarfile.TarFile, members: list[tarfile.TarInfo], results: Path) -> None:
    """Lay /results out. What does not belong in a folder of results is named and left."""
    results.mkdir(parents=True, exist_ok=True)
    for member in members:
        if not member.name.startswith("results/"):
            continue
        inside, member.name = member.name, member.name.removeprefix("results/")
        member.uid, member.gid = os.geteuid(), os.getegid()
        member.uname = member.gname = ""
        if not hasattr(tarfile, "data_filter"):  # Python before 3.11.4: what a filter would look at is left
            if (member.isreg() or member.isdir()) and ".." not in member.name.split("/"):
                tar.extract(member, results)
            else:
                say(f"not brought back: /{inside}: no file and no folder")
            continue
        try:
            tar.extract(member, results, filter="data")
        except tarfile.FilterError as error:
            say(f"not brought back: /{inside}: {error}")
