"""The cache folder: found through the environment, filled aside and by rename, locked by the kernel."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.guest.errors import GuestError

ASIDE = ".aside-"


def say(text: str) -> None:
    """Progress, for a person: on stderr, since stdout belongs to the guest's command."""
    sys.stderr.write(f"guest: {text}\n")
    sys.stderr.flush()


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where the heavy products are kept: $BUILDSTEP_GUEST_CACHE, else below the user's cache."""
    if given := environ.get("BUILDSTEP_GUEST_CACHE"):
        return Path(given).resolve()
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/root"), ".cache")
    return Path(base, "buildstep-guest").resolve()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive kernel lock on `path`; it ends with this process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another run holds {path}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_tree(path: Path) -> None:
    """Remove a folder of ours, unless something is mounted in it."""
    inside = f"{path.resolve()}{os.sep}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = line.split(" ")[4].encode().decode("unicode_escape")
        if f"{target}{os.sep}".startswith(inside):
            raise GuestError(f"not removing {path}: {target} is a mount point", hint="unmount it")
    shutil.rmtree(path)


@contextmanager
def aside(final: Path) -> Iterator[Path]:
    """A folder to fill; it takes the name `final` when the block succeeds and vanishes when not."""
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=ASIDE, dir=final.parent))
    try:
        yield folder
        folder.chmod(0o755)
        if final.exists():
            # Out of the way in one step: a run that looks just now finds the old or the new one.
            old = Path(tempfile.mkdtemp(prefix=ASIDE, dir=final.parent))
            final.rename(old / "old")
            folder.rename(final)
            remove_tree(old)
        else:
            folder.rename(final)
    finally:
        if folder.exists():
            remove_tree(folder)


def sweep_aside(parent: Path) -> None:
    """Remove what a killed build left half-made. Call it only under the lock of that build."""
    for left in sorted(parent.glob(f"{ASIDE}*")):
        say(f"removing what an ended build left: {left.name}")
        remove_tree(left)


@contextmanager
def run_folder(cache: Path) -> Iterator[Path]:
    """A folder for one run. It carries a lock, so that a later run removes it if this one cannot."""
    runs = cache / "runs"
    with locked(cache / "runs.lock"):
        runs.mkdir(exist_ok=True)
        for other in sorted(runs.iterdir()):
            _remove_if_unowned(other)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=runs))
        owner = (folder / "lock").open("w")
        fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        remove_tree(folder)
        owner.close()


def _remove_if_unowned(folder: Path) -> None:
    try:
        with (folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(folder)
    except (BlockingIOError, FileNotFoundError):
        # Owned by a live run, or just removed by one that has finished.
        return
