"""What a shared cache brings an empty agent over a network: near, 20 ms away, and at 100 Mbit/s.

    python -m bench.shared_cache [RUNS]      as root; fills a cache once, then builds with an empty pool

The cache is shown by a web server in a network namespace of its own, behind a pair of devices that `tc netem`
makes slow; where the kernel has no netem, the server itself waits before it answers, and sends no faster.
Each row: the build with it, and the same build without one, by turns, as seconds of the whole process;
requests and bytes are those of the record. Everything is removed at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

NAMESPACE, HERE, THERE = "buildstep-bench", "10.253.77.1", "10.253.77.2"
PORT = 8765
NETWORKS = {
    "loopback": ("", 0.0, 0.0),
    "20 ms, 1 Gbit/s": ("delay 10ms rate 1gbit limit 100000", 0.02, 125e6),
    "100 Mbit/s": ("rate 100mbit limit 100000", 0.0, 12.5e6),
}
"""Of each: what netem is told; and the same as seconds to an answer, and bytes a second in all."""
SAMPLE = Path(__file__).parents[1] / "fixtures/sample"


class Ranges(SimpleHTTPRequestHandler):
    """Files of a directory, whole or in ranges (RFC 9110, 14.2: one range)."""

    protocol_version = "HTTP/1.1"
    delay, rate = 0.0, 0.0
    free = 0.0
    guard = threading.Lock()

    def send(self, data: bytes) -> None:
        for at in range(0, len(data), 65536):
            part = data[at : at + 65536]
            if self.rate:
                with self.guard:
                    begin = max(time.monotonic(), Ranges.free)
                    Ranges.free = begin + len(part) / self.rate
                time.sleep(max(0.0, begin - time.monotonic()))
            self.wfile.write(part)

    def do_GET(self) -> None:
        time.sleep(self.delay)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        end = min(int(asked[2]) if asked and asked[2] else size - 1, size - 1)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Content-Length", str(end - start + 1))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(start)
            self.send(file.read(end - start + 1))

    def log_message(self, *_args: object) -> None:
        pass


def serve(folder: str, address: str, delay: str, rate: str) -> None:
    os.chdir(folder)
    Ranges.delay, Ranges.rate = float(delay), float(rate)
    ThreadingHTTPServer((address, PORT), Ranges).serve_forever()


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)


@contextlib.contextmanager
def shown(folder: Path, network: tuple[str, float, float]) -> Iterator[str]:
    """Show a directory on the web, through a network of this kind; yield its address."""
    inside: list[str] = []
    netem, delay, rate = network
    address = "127.0.0.1"
    with contextlib.ExitStack() as stack:
        if netem and subprocess.run(["modprobe", "-q", "sch_netem"], check=False).returncode == 0:
            delay = rate = 0.0
            address, inside = THERE, ["ip", "netns", "exec", NAMESPACE]
            _run("ip", "netns", "add", NAMESPACE)
            stack.callback(_run, "ip", "netns", "delete", NAMESPACE)
            _run("ip", "link", "add", "bs-here", "type", "veth", "peer", "bs-there", "netns", NAMESPACE)
            _run("ip", "address", "add", f"{HERE}/30", "dev", "bs-here")
            _run("ip", "link", "set", "bs-here", "up")
            _run(*inside, "ip", "address", "add", f"{THERE}/30", "dev", "bs-there")
            _run(*inside, "ip", "link", "set", "bs-there", "up")
            _run("tc", "qdisc", "add", "dev", "bs-here", "root", "netem", *netem.split())
            _run(*inside, "tc", "qdisc", "add", "dev", "bs-there", "root", "netem", *netem.split())
        argv = [
            *inside,
            sys.executable,
            "-m",
            "bench.shared_cache",
            "serve",
            str(folder),
            address,
            str(delay),
            str(rate),
        ]
        server = subprocess.Popen(argv)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        time.sleep(1)
        yield f"http://{address}:{PORT}"


def build(top: Path, *words: str, policy: Path, key: Path | None = None) -> tuple[float, dict[str, int]]:
    """Build the sample with an empty pool; return seconds and the counts of the record."""
    for name in ("pool", "out"):
        shutil.rmtree(top / name, ignore_errors=True)
    env = {
        **os.environ,
        "BUILDSTEP_CACHE_POLICY": str(policy),
        **({"BUILDSTEP_CACHE_KEY": str(key)} if key else {}),
    }
    argv = [
        sys.executable,
        "-m",
        "buildstep",
        "build",
        "-q",
        "-m",
        str(SAMPLE / "m.json"),
        "-d",
        str(SAMPLE / "proto"),
    ]
    argv += ["--pool", f"overlay:{top / 'pool'}", "-o", str(top / "out"), *words]
    begin = time.monotonic()
    subprocess.run(argv, check=True, env=env, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - begin
    counts: dict[str, int] = json.loads((top / "out/hello-1.0.0.buildrecord.json").read_bytes())["counts"]
    return seconds, counts


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="buildstep-bench-") as name:
        top = Path(name)
        key, policy, cache = top / "key", top / "policy.toml", top / "cache"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        public = " ".join((top / "key.pub").read_text().split()[:2])
        policy.write_text(f'format = 1\n[[key]]\nname = "bench"\npublic = "{public}"\nscopes = ["main"]\n')
        build(top, "--shared-cache", f"dir:{cache}", policy=policy, key=key)
        for title, network in NETWORKS.items():
            with_it, without, counts = [], [], {}
            with shown(cache, network) as url:
                for _ in range(runs):
                    seconds, counts = build(top, "--shared-cache", url, policy=policy)
                    with_it.append(seconds)
                    without.append(build(top, policy=policy)[0])
            print(
                f"{title:18} with {median(with_it):5.1f} s, without {median(without):5.1f} s;"
                f" {counts['shared_hits']} hits, {counts.get('shared_requests', 0)} requests,"
                f" {counts.get('shared_bytes_in', 0) / 1e6:.1f} MB",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(*sys.argv[2:6])
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 3)
