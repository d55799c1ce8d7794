"""A build agent in an illumos zone: the launcher in the place of Python, the tools first on PATH, a base image."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.illumos import tools_named
from tests.integration import pkgsrc_root

REPOSITORY = Path(__file__).parents[2]
BASE = str(uuid.uuid5(uuid.NAMESPACE_URL, "a base image of an illumos zone"))
PREFIX = "/opt/local"
LIMIT = 120


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a tool, and what the clone's tree looked like when it came."""

    tool: str
    argv: list[str]
    journaled: bool = True
    clone: bool = False
    pkgin: bool = False
    config: bool = False
    motd: bool = False
    proto: bool = False
    lofs: int = 0


@dataclass(frozen=True, kw_only=True)
class Zone:
    """An agent below `top`. Use it in private mounts only: its tools mount."""

    top: Path

    @classmethod
    def make(cls, top: Path) -> Zone:
        bin_dir, venv = top / "tools", top / "venv"
        (venv / "bin").mkdir(parents=True)
        bin_dir.mkdir()
        here = Path(__file__).parent
        for name in tools_named():
            stub = f'#!/bin/sh\nexec {sys.executable} -I -S {here / "tools.py"} {top} {name} "$@"\n'
            (bin_dir / name).write_text(stub)
            (bin_dir / name).chmod(0o755)
        # bin/build runs the Python of this environment, and so our launcher instead.
        python = venv / "bin/python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -P {here / "launcher.py"} {top} "$@"\n')
        python.chmod(0o755)
        (venv / ".buildstep-ready").write_text("as it is\n")
        (top / "mnttab").touch()
        (top / "log").touch()
        for name in ("zfs", "zfs/zones%agent-1%data", "pool"):
            (top / name).mkdir()
        given = {"props": {"mountpoint": os.fspath(top / "pool")}, "guid": 1, "origin": ""}
        (top / "zfs.json").write_text(json.dumps({"zones/agent-1/data": given}))
        proto = top / "stage/root/opt/hello"
        proto.mkdir(parents=True)
        (proto / "greeting").write_text("hello, world\n")
        return cls(top=top)

    def env(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("BUILDSTEP_")}
        return {
            **kept,
            "PATH": f"{self.top / 'tools'}:{os.environ['PATH']}",
            "BUILDSTEP_VENV": os.fspath(self.top / "venv"),
            "HOME": os.fspath(self.top),
            **more,
        }

    def run(self, *argv: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A program of the checkout's bin, such as `build`."""
        return subprocess.run(
            [os.fspath(REPOSITORY / "bin" / argv[0]), *argv[1:]],
            env=self.env(**more), cwd=self.top, capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [os.fspath(REPOSITORY / "bin" / argv[0]), *argv[1:]],
            env=self.env(), cwd=self.top, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def calls(self) -> list[Call]:
        with (self.top / "log").open() as log:
            fcntl.flock(log, fcntl.LOCK_SH)  # a tool may be writing its line
            return [Call(**json.loads(row)) for row in log]

    def forget(self) -> None:
        (self.top / "log").write_text("")

    def datasets(self) -> list[str]:
        return sorted(json.loads((self.top / "zfs.json").read_text()))

    def mounts(self) -> list[str]:
        """Mount points, without that of the pool's own state."""
        rows = [row.split("\t") for row in (self.top / "mnttab").read_text().splitlines()]
        return [row[1] for row in rows if row[0] != "zones/agent-1/data/buildstep"]

    def base(self, *, requirements: Mapping[str, Any] | None = None) -> str:
        """A zone image with pkgsrc and a repository of packages in it, as a stream; its locator."""
        tree = self.top / "base"
        root = pkgsrc_root.make_root(tree / "root", PREFIX)
        repository = pkgsrc_root.make_repository(root / pkgsrc_root.SHOWN.lstrip("/"), PREFIX)
        repository.add("hang", "1.0", install="#!/bin/sh\ntouch /hanging\nsleep 600\n")
        repository.add("leave", "1.0", install="#!/bin/sh\nexit 0\n")
        repository.publish()
        for name in ("tmp", "var/tmp"):
            (root / name).mkdir()
            (root / name).chmod(0o1777)
        (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        (tree / "config").mkdir()
        (tree / "config/metadata.json").write_text("{}")
        with io.BytesIO() as archive:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                tar.add(tree, ".")
            begin = struct.pack("<IIQQQIIQQ256s", 0, 0, 0x2F5BACBAC, 1, 0, 2, 0, 77, 0, b"zones/x@final")
            data = gzip.compress(begin + archive.getvalue(), mtime=0)
        path = self.top / "base-1.0.zfs.gz"
        path.write_bytes(data)
        told = {
            "v": 2, "uuid": BASE, "name": "base", "version": "21.4.0", "type": "zone-dataset", "os": "smartos",
            "owner": "00000000-0000-0000-0000-000000000000", "published_at": "2022-01-01T00:00:00Z",
            "requirements": {"networks": [{"name": "net0", "description": "public"}], **(requirements or {})},
            "files": [{"size": len(data), "compression": "gzip", "sha1": hashlib.sha1(data).hexdigest()}],
        }  # fmt: skip
        (self.top / "base-1.0.imgmanifest").write_text(json.dumps(told))
        return f"zfs:{path}"


@contextmanager
def clean_tmp(stem: str) -> Iterator[None]:
    """/tmp without files of this name, before and after: `buildimage` writes there."""

    def drop() -> None:
        for path in Path("/tmp").glob(f"{stem}*"):
            path.unlink()

    drop()
    try:
        yield
    finally:
        drop()
