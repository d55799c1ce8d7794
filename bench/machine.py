"""What the numbers were measured on, and what this machine allows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.engines.common import version


def host(folder: Path) -> dict[str, object]:
    """The machine, in words that compare with another's."""
    return {
        "cpu": _first("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count() or 1,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "filesystem": version("stat", "--file-system", "--format=%T", os.fspath(folder)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": load(),
    }


def load() -> float:
    """How many processes wanted to run in the last minute: other work makes the numbers worthless."""
    return round(os.getloadavg()[0], 2)


def _first(path: str, key: str) -> str:
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def cache_folder() -> Path:
    """Where inputs are kept between runs: on the disk that is measured, outside the checkout."""
    given = os.environ.get("BUILDSTEP_BENCH_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(given or f"{base}/buildstep-bench").absolute()


def free_space(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def settle(*, drop: bool = False) -> None:
    """Let the disk finish what earlier runs wrote; forget what was read from it if asked to."""
    os.sync()
    if drop:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")


def read_all(root: Path) -> None:
    """Bring a tree into the page cache: every case but the dropped ones starts with it warm."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                _read(path)


def _read(path: str) -> None:
    """Read what a file holds, holes left out."""
    with open(path, "rb", buffering=0) as stream:
        end, at = os.fstat(stream.fileno()).st_size, 0
        while at < end:
            try:
                at = os.lseek(stream.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            stop = os.lseek(stream.fileno(), at, os.SEEK_HOLE)
            os.lseek(stream.fileno(), at, os.SEEK_SET)
            while at < stop and (block := stream.read(min(1 << 20, stop - at))):
                at += len(block)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One benchmark at a time in a folder: two would spoil each other's numbers and inputs."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SystemExit(f"bench: another run is using {folder}") from error
        yield
