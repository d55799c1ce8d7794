"""Is the guest fit for our tests? Run it there: guest.py run -- python3 -m pytest tests/guest/smoke_test.py"""

from __future__ import annotations

import importlib
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif("BUILDSTEP_GUEST" not in os.environ, reason="runs in the ZFS guest")

DATA = "zones/agent/data"


def zfs(*args: str) -> str:
    """Run the zfs command."""
    return subprocess.run(["zfs", *args], check=True, capture_output=True, text=True).stdout


def test_pool_is_mounted() -> None:
    listed = zfs("list", "-H", "-r", "-o", "name,mountpoint,mounted", "zones")
    assert [line.split("\t") for line in listed.splitlines()] == [
        ["zones", "/zones", "yes"],
        ["zones/agent", "/zones/agent", "yes"],
        ["zones/agent/data", "/zones/agent/data", "yes"],
    ]


def test_libzfs_core_does_what_a_build_needs(tmp_path: Path) -> None:
    import libzfs_core as lzc

    base, work, base_copy, work_copy = (
        f"{DATA}/{name}".encode() for name in ("base", "work", "base-copy", "work-copy")
    )
    folder = Path("/zones/agent/data")
    lzc.lzc_create(base)
    zfs("mount", base.decode())
    (folder / "base/file").write_text("base\n")
    lzc.lzc_snapshot([base + b"@final"])
    lzc.lzc_clone(work, base + b"@final")
    zfs("mount", work.decode())
    (folder / "work/more").write_text("more\n")
    lzc.lzc_snapshot([work + b"@final"])

    full, increment = tmp_path / "full.zfs", tmp_path / "increment.zfs"
    with full.open("wb") as out:
        lzc.lzc_send(base + b"@final", None, out.fileno())
    with increment.open("wb") as out:
        lzc.lzc_send(work + b"@final", base + b"@final", out.fileno())
    with full.open("rb") as stream:
        lzc.lzc_receive(base_copy + b"@final", stream.fileno())
    # A stream from a clone's origin makes a clone; received into an existing one it is a BadStream.
    with increment.open("rb") as stream:
        lzc.lzc_receive(work_copy + b"@final", stream.fileno(), origin=base_copy + b"@final")
    zfs("mount", work_copy.decode())
    assert {path.name: path.read_text() for path in (folder / "work-copy").iterdir()} == {
        "file": "base\n",
        "more": "more\n",
    }

    for name in (work_copy, work, base_copy, base):
        if zfs("get", "-H", "-o", "value", "mounted", name.decode()).strip() == "yes":
            zfs("unmount", name.decode())
        lzc.lzc_destroy_snaps([name + b"@final"], defer=False)
        lzc.lzc_destroy(name)
    assert zfs("list", "-H", "-r", "-o", "name", DATA).split() == [DATA]


@pytest.mark.parametrize(
    "name",
    [
        "buildstep",
        "click",
        "deflate",
        "hypothesis",
        "isal",
        "jinja2",
        "jsonschema",
        "requests",
        "sh",
        "zstandard",
    ],
)
def test_import(name: str) -> None:
    importlib.import_module(name)


@pytest.mark.parametrize("tool", ["rsync", "zstd", "pigz", "getfacl", "setfattr", "unshare", "udevadm"])
def test_tool(tool: str) -> None:
    subprocess.run([tool, "--version"], check=True, capture_output=True)
