"""A node that systemd runs: a Debian root booted by systemd-nspawn, reached over ssh on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.system import locks, process
from tests.integration.conftest import cache_dir, demand
from tests.servers.processes import free_port, running

PACKAGES = "systemd,systemd-sysv,dbus,python3-minimal,libpython3-stdlib,openssh-server"

_WEEK = 7 * 24 * 3600
_BOOT_SECONDS = 60


def root() -> Path:
    """A Debian root with systemd, Python and OpenSSH's server, made once a week."""
    base = cache_dir() / "bookworm-systemd"
    with locks.lock(cache_dir() / "bookworm-systemd.lock"):
        if base.is_dir() and time.time() - base.stat().st_mtime < _WEEK:
            return base
        making = base.with_suffix(".making")
        for old in (base, making):
            if old.exists():
                shutil.rmtree(old)
        argv = [
            "mmdebstrap",
            "--variant=minbase",
            "--mode=root",
            "--format=directory",
            f"--include={PACKAGES}",
        ]
        process.run([*argv, "bookworm", os.fspath(making)], limits=process.Limits(900))
        os.utime(making)
        making.rename(base)
    return base


@contextlib.contextmanager
def booted(folder: Path) -> Iterator[tuple[str, Path]]:
    """The node for the length of a block; yields ssh://root@HOST:PORT and ssh's configuration. What is written
    there is gone afterwards."""
    demand("root", "mmdebstrap", "mirror")
    if not process.find("systemd-nspawn"):
        pytest.skip("the program systemd-nspawn is not installed")
    port = free_port()
    given = folder / "given"
    given.mkdir(mode=0o755, parents=True)
    for name in ("host", "user"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", f"{given}/{name}"]
        subprocess.run(argv, check=True, timeout=20)
    (folder / "user").write_bytes((given / "user").read_bytes())
    (folder / "user").chmod(0o600)
    (given / "user").unlink()
    there = "/etc/ssh/sshd_config.d"
    (given / "test.conf").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {there}/host\nAuthorizedKeysFile {there}/user.pub\n"
        "StrictModes no\nPasswordAuthentication no\nUsePAM no\nMaxStartups 100\nMaxSessions 100\n"
    )
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(given / 'host.pub').read_text()}")
    config = folder / "ssh_config"
    config.write_text(
        f"Host *\n IdentityFile {folder}/user\n IdentitiesOnly yes\n IdentityAgent none\n"
        f" UserKnownHostsFile {folder}/known\n GlobalKnownHostsFile /dev/null\n"
    )
    nspawn = [
        "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe",
        "--volatile=overlay", f"--directory={root()}", f"--bind-ro={given}:{there}",
        "--kill-signal=SIGKILL", f"--machine=test-{port}",
    ]  # fmt: skip
    probe = ["ssh", "-F", os.fspath(config), "-o", "BatchMode=yes", "-p", str(port), "root@127.0.0.1", ":"]

    def ready() -> bool:
        return subprocess.run(probe, check=False, capture_output=True, timeout=20).returncode == 0

    with running(nspawn, log=folder / "log", ready=ready, seconds=_BOOT_SECONDS) as child:
        yield f"ssh://root@127.0.0.1:{port}", config
        # The first asks the node to shut down, the second ends it: nothing of it is kept anyway.
        for _ in range(2):
            child.send_signal(signal.SIGTERM)
            time.sleep(0.2)
