"""The kernel's list of emulators, with Debian's for arm64 in it while a test needs that."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from buildstep.rootfs.emulation import BINFMT
from buildstep.system import locks
from tests.integration.conftest import cache_dir

CONFIGURATION = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
"""What qemu-user-static registers, where something reads these files when the machine starts."""


@contextlib.contextmanager
def arm64_runs() -> Iterator[None]:
    """Let programs for arm64 run, as a machine with qemu-user-static does; the list is as before afterwards.

    One test process at a time: the list is the machine's.
    """
    cache_dir().mkdir(parents=True, exist_ok=True)
    entry = BINFMT / "qemu-aarch64"
    with locks.lock(cache_dir() / "binfmt.lock"), _shown():
        ours = not entry.exists()
        if ours:
            (BINFMT / "register").write_bytes(CONFIGURATION.read_bytes().strip())
        try:
            yield
        finally:
            if ours:
                entry.write_text("-1")


@contextlib.contextmanager
def _shown() -> Iterator[None]:
    """Mount the list, where it is not."""
    if (BINFMT / "register").exists():
        yield
        return
    subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", BINFMT], check=True, capture_output=True)
