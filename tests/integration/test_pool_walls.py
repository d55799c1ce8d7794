"""Pools whose content would have others run it, or would stop every later build."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import demand
from tests.integration.support import Lab, write_base

NOBODY = 65534


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("root", "namespaces", "overlay", "busybox", "rsync")
    return write_base(tmp_path_factory.mktemp("base") / "base.tar")


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that everybody may enter, as a CI host's disk is."""
    top = Path(tempfile.mkdtemp(prefix="buildstep-walls-", dir="/var/tmp"))
    top.chmod(0o755)
    yield top
    shutil.rmtree(top)


def wait_for(there: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def tried_by_nobody(*paths: Path) -> list[str]:
    """Those of these paths that a user without any rights may read."""
    argv = ["/bin/sh", "-c", 'for path; do test -r "$path" && echo "$path"; done; true', "sh"]
    argv += map(os.fspath, paths)
    done = subprocess.run(
        argv, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("scheme", ["overlay", "dir"])
def test_no_other_user_reaches_what_a_build_or_its_base_holds(
    reachable: Path, base: Path, scheme: str
) -> None:
    lab = Lab(top=reachable, base=base, scheme=scheme)
    argv = lab.argv("--packages", "hang", "--installer", "pkgsrc")
    with subprocess.Popen(argv, env=lab.env(), cwd=lab.top, stderr=subprocess.PIPE, umask=0) as build:
        try:
            wait_for(lambda: build.poll() is not None or list(lab.pool.glob("build/*/*/opt/local/hanging")))
            assert build.poll() is None, build.communicate()[1]
            inside = [
                *lab.pool.glob("image/*/tree/usr/bin/setuid"),
                *lab.pool.glob("build/*/*/opt/local/hanging"),
            ]
            assert len(inside) > 1
            state = [lab.pool / "state", *lab.pool.glob("state/*/*")]
            manifest = lab.top / "m.json"
            assert tried_by_nobody(manifest, *inside, *state) == [os.fspath(manifest)]
            folders = [
                path
                for pattern in ("pool", "pool/*", "pool/*/*")
                for path in lab.top.glob(pattern)
                if path.is_dir()
            ]
            assert [path for path in folders if path.stat().st_mode & 0o077] == []
        finally:
            build.send_signal(signal.SIGTERM)


def test_an_older_pool_is_closed_by_the_next_build(reachable: Path, base: Path) -> None:
    lab = Lab(top=reachable, base=base)
    lab.built()
    for path in (lab.pool, lab.pool / "image", *lab.pool.glob("image/*")):
        path.chmod(0o755)
    done = lab.build()
    assert done.status == 0, done.stderr
    assert "was made private: others may enter it (mode 0755)" in done.stderr
    assert tried_by_nobody(lab.pool, lab.pool / "image") == []
    assert "made private" not in lab.build().stderr
