"""Import a 1 GiB image from a registry and from an IMGAPI server, beside `skopeo copy` and `umoci unpack`.

`python -m bench.import_1gib [--mib N] [--runs N] [--out FILE]`: everything on loopback, all in one run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.server
import io
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
UUID = "b0000000-0000-4000-8000-000000000001"
LAYERS = 4
FILE_SIZES = (4 << 10, 64 << 10, 1 << 20, 16 << 20)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- input ------------------------------------------------------------------------------------------------


def layer_tar(number: int, size: int) -> bytes:
    """A layer of files of several sizes, half of what they hold random: about what systems hold."""
    rng = random.Random(number)
    words = b" ".join(rng.randbytes(6).hex().encode() for _ in range(4000))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        done = count = 0
        while done < size:
            length = min(rng.choice(FILE_SIZES), size - done)
            half = length // 2
            data = rng.randbytes(half) + (words * (half // len(words) + 1))[: length - half]
            info = tarfile.TarInfo(f"l{number}/d{count % 50}/f{count}")
            info.size, info.mode, info.mtime = length, 0o644, 1_700_000_000
            archive.addfile(info, io.BytesIO(data))
            done += length
            count += 1
    return out.getvalue()


def gzipped(data: bytes) -> bytes:
    packer = zlib.compressobj(6, wbits=31)
    return packer.compress(data) + packer.flush()


def make_layout(folder: Path, size: int) -> dict[str, int]:
    """An OCI layout of four gzip layers."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    layers, diff_ids, packed = [], [], 0
    for number in range(LAYERS):
        plain = layer_tar(number, size // LAYERS)
        data = gzipped(plain)
        diff_ids.append("sha256:" + hashlib.sha256(plain).hexdigest())
        layers.append(put(data, "application/vnd.oci.image.layer.v1.tar+gzip"))
        packed += len(data)
    config = {
        "os": "linux",
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "amd64"),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    }
    top = put(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    top["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return {"content": size, "packed": packed}


def make_tar(path: Path, size: int) -> None:
    """The same content as one tar.gz, as an IMGAPI server has an image."""
    packer = zlib.compressobj(6, wbits=31)
    with path.open("wb") as out:
        for number in range(LAYERS):
            data = layer_tar(number, size // LAYERS)
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                last = archive.getmembers()[-1]
            end = last.offset_data + -(-last.size // 512) * 512
            out.write(packer.compress(data if number == LAYERS - 1 else data[:end]))
        out.write(packer.flush())


# -- servers ----------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    port = free_port()
    (folder / "reg.yml").write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n"
    )
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(["docker-registry", "serve", f"{folder}/reg.yml"], stdout=log, stderr=log)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/"):
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait()


@contextlib.contextmanager
def imgapi(file: Path) -> Iterator[str]:
    """Just enough of an IMGAPI to give one image, by a process of its own, with sendfile."""
    port = free_port()
    code = "import sys; from bench.import_1gib import serve; serve(sys.argv[1], int(sys.argv[2]))"
    child = subprocess.Popen([sys.executable, "-c", code, str(file), str(port)], cwd=HERE.parent)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping"):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait()


def serve(name: str, port: int) -> None:
    path = Path(name)
    with path.open("rb") as stream:
        sha1 = hashlib.file_digest(stream, "sha1").hexdigest()
    manifest = {
        "v": 2, "uuid": UUID, "name": "bench", "version": "1", "type": "other", "os": "linux",
        "state": "active", "files": [{"size": path.stat().st_size, "compression": "gzip", "sha1": sha1}],
    }  # fmt: skip

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            is_file = self.path.endswith("/file")
            body = b"" if is_file else json.dumps(manifest).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(path.stat().st_size if is_file else len(body)))
            self.end_headers()
            self.wfile.write(body)
            if is_file:
                with path.open("rb") as stream:
                    self.connection.sendfile(stream)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever).start()


# -- what is measured ---------------------------------------------------------------------------------------


def run(*argv: str, **environ: str) -> None:
    done = subprocess.run(argv, capture_output=True, env={**os.environ, **environ}, check=False)
    if done.returncode:
        raise SystemExit(
            f"{argv[0]}: status {done.returncode}\n{done.stderr.decode(errors='replace')[-2000:]}"
        )


def timed(job: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the clock and of the processors; the latter tell more on a machine that others use."""
    os.sync()
    begin, before = time.monotonic(), os.times()
    job()
    os.sync()  # what is not on disk yet is not done
    seconds, after = time.monotonic() - begin, os.times()
    return seconds, sum(after[:4]) - sum(before[:4])


def ours(ref: str, work: Path, **environ: str) -> Callable[[], None]:
    def job() -> None:
        pool = f"dir:{work}/pool"
        env = {"BUILDSTEP_POOL": pool, "BUILDSTEP_SOURCES": "none", **environ}
        run(str(HERE.parent / "bin/buildstep"), "image", "import", ref, **env)

    return job


def theirs(ref: str, work: Path) -> Callable[[], None]:
    def job() -> None:
        run("skopeo", "copy", "-q", "--src-tls-verify=false", ref, f"oci:{work}/oci:v1")
        run("umoci", "unpack", "--image", f"{work}/oci:v1", f"{work}/bundle")

    return job


def download_alone(url: str, work: Path) -> Callable[[], None]:
    """What network and disk cost by themselves."""

    def job() -> None:
        with urllib.request.urlopen(url) as reply, (work / "f").open("wb") as out:
            shutil.copyfileobj(reply, out, 1 << 20)

    return job


def measure(size: int, runs: int, top: Path) -> dict[str, Any]:
    say(f"making an image of {size >> 20} MiB")
    facts = make_layout(top / "layout", size)
    make_tar(top / "image.tar.gz", size)
    (top / "registry").mkdir()
    times: dict[str, list[tuple[float, float]]] = {}
    with registry(top / "registry") as host, imgapi(top / "image.tar.gz") as server:
        ref = f"docker://{host}/bench:v1"
        run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{top}/layout:v1", ref)
        cases: dict[str, Callable[[Path], Callable[[], None]]] = {
            "skopeo copy + umoci unpack": lambda work: theirs(ref, work),
            "image import docker://": lambda work: ours(ref, work),
            "image import UUID (IMGAPI, tar.gz)": lambda work: ours(UUID, work, BUILDSTEP_SOURCES=server),
            "download alone (IMGAPI file)": lambda work: download_alone(f"{server}/images/{UUID}/file", work),
        }
        for number in range(runs):
            for name, make in cases.items():
                work = Path(tempfile.mkdtemp(dir=top))
                times.setdefault(name, []).append(timed(make(work)))
                say(f"run {number + 1}: {name}: {times[name][-1][0]:.2f} s")
                shutil.rmtree(work)
    return {
        "image": facts,
        "runs": runs,
        "load": round(os.getloadavg()[0], 1),
        "cases": {
            name: {
                "median": round(statistics.median(pair[0] for pair in row), 2),
                "cpu": round(statistics.median(pair[1] for pair in row), 2),
                "seconds": [round(pair[0], 2) for pair in row],
                "mib_per_second": round(size / (1 << 20) / statistics.median(pair[0] for pair in row)),
            }
            for name, row in times.items()
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    options = parser.parse_args()
    missing = [name for name in ("skopeo", "umoci", "docker-registry") if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"needs {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="buildstep-bench-", dir="/var/tmp") as folder:
        found = measure(options.mib << 20, options.runs, Path(folder))
    for name, case in found["cases"].items():
        speed = f"{case['mib_per_second']:6} MiB/s"
        print(f"{name:40} {case['median']:8.2f} s  cpu {case['cpu']:6.2f} s  {speed}  {case['seconds']}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
