"""A dask cluster whose machines have a network each: namespaces of the kernel, joined by a bridge."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.servers.processes import running


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@dataclass
class Network:
    """Machines behind a bridge. here: our own address, which all of them reach; names: of their namespaces."""

    here: str
    prefix: str
    names: list[str] = field(default_factory=list)

    def machine(self) -> tuple[list[str], str]:
        """Add a machine; return the command line that runs what follows it there, and its address."""
        number = len(self.names) + 2
        name = f"{self.prefix}{number}"
        address = f"{self.here.rpartition('.')[0]}.{number}"
        _ip("netns", "add", name)
        self.names.append(name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", name, "master", f"{self.prefix}b", "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", name, "link", "set", device, "up")
        return ["ip", "netns", "exec", name], address


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network of our own, gone with all its machines at the end. Skips where the kernel refuses it."""
    number = os.getpid() % 256
    made = Network(f"10.213.{number}.1", f"bst{os.getpid()}-")
    bridge = f"{made.prefix}b"
    try:
        _ip("link", "add", bridge, "type", "bridge")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine cannot make network namespaces: {error}")
    try:
        _ip("addr", "add", f"{made.here}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        yield made
    finally:
        for name in made.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20, check=False)
            subprocess.run(["ip", "link", "del", name], capture_output=True, timeout=20, check=False)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, timeout=20, check=False)


@dataclass
class DaskWorker:
    """A worker that runs. folder: where it has all that is its own."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it as a machine ends that loses its power: it has no time for anything."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


@contextlib.contextmanager
def scheduler(net: Network, folder: Path) -> Iterator[str]:
    """A scheduler on a machine of its own; its address."""
    prefix, address = net.machine()
    argv = [
        *prefix, sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", address, "--port", "8786",
        "--no-dashboard", "--no-jupyter",
    ]  # fmt: skip
    log = folder / "scheduler.log"
    with running(argv, log=log, ready=lambda: b"Scheduler at:" in log.read_bytes(), cwd=folder):
        yield f"tcp://{address}:8786"


@contextlib.contextmanager
def worker(
    net: Network, scheduler: str, name: str, folder: Path, environ: Mapping[str, str], *words: str
) -> Iterator[DaskWorker]:
    """A worker on a machine of its own. words: more of its command line."""
    prefix, address = net.machine()
    folder.mkdir()
    pairs = [f"{key}={value}" for key, value in environ.items()]
    argv = [
        *prefix, "env", *pairs, sys.executable, "-m", "distributed.cli.dask_worker", scheduler,
        "--host", address, "--name", name, "--no-nanny", "--no-dashboard",
        "--local-directory", os.fspath(folder / "dask"), *words,
    ]  # fmt: skip
    log = folder / "worker.log"
    with running(argv, log=log, ready=lambda: b"Registered to:" in log.read_bytes(), cwd=folder) as process:
        yield DaskWorker(name, folder, process)


IN_PLACE: list[Callable[[str, tuple[str, ...], str], int]] = []
"""The function that `in_place` calls: workers in this process can be given a name only, as others are."""


def in_place(ticket: str, urls: tuple[str, ...], topic: str) -> int:
    """What a worker does in place of a job."""
    return IN_PLACE[-1](ticket, urls, topic)
