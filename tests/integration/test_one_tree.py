"""One tree, whatever the pool and the format: times far from now, holes, and what a build touches on its way."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support import Lab, write_base

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

FAR = {"before": -86_400, "long-before": -(2**40), "after": 5_000_000_000, "long-after": 2**36}
"""Seconds since 1970; a pool's file system may keep 1901 to 2446 only."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def far(tar: tarfile.TarFile) -> None:
        for name, second in FAR.items():
            member = tarfile.TarInfo(f"usr/lib/base/{name}")
            member.pax_headers = {"mtime": str(second)}
            tar.addfile(member, io.BytesIO())

    return write_base(tmp_path_factory.mktemp("base") / "base.tar", far)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A place in memory, where a file may have any time."""
    top = Path(tempfile.mkdtemp(prefix="buildstep-test-", dir="/dev/shm"))
    yield top
    shutil.rmtree(top)


def times_of(lab: Lab, *arguments: str) -> dict[str, float]:
    """What the archive of a build has for the files that are far from now."""
    result = lab.built("-f", "tar", "-c", "none", *arguments)
    with tarfile.open(result["files"][0]["path"]) as tar:
        return {member.name: member.mtime for member in tar if Path(member.name).name in FAR}


@pytest.mark.parametrize("environ", [{}, {"BUILDSTEP_PLAIN": "1"}], ids=["read in place", "copied"])
def test_times_far_from_now_come_through_a_build(
    base: Path, memory: Path, tmp_path: Path, environ: dict[str, str]
) -> None:
    lab = Lab(top=memory, base=base, environ=environ)
    for name, second in FAR.items():
        (lab.proto / "etc" / name).write_bytes(b"proto")
        os.utime(lab.proto / "etc" / name, (second, second))
    wanted = {
        f"{folder}/{name}": second for folder in ("etc", "usr/lib/base") for name, second in FAR.items()
    }
    pool = ("--pool", f"overlay:{tmp_path / 'pool'}")  # on a disk
    assert times_of(lab, *pool) == wanted
    (lab.proto / "etc/hello").write_text("changed\n")  # with what was kept of the first build
    assert times_of(lab, *pool) == wanted
