"""The write-ahead journal of a build, by which `heal` finds what a dead build left.

    state/journal/BUILD-ID.jsonl    a head (who), then a line before each thing that is acquired; the last
                                    member of each line is a digest of those before it

The file is locked (flock) for as long as the build lives: the kernel drops the lock with the process, so
a journal that can be locked belongs to nobody any more, whatever its pid has become since.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from buildstep.pool import stale
from buildstep.pool.interface import Backend
from buildstep.pool.stale import Stale
from buildstep.system import cgroup, mounts
from buildstep.system.files import write_all
from buildstep.system.host import boot_id
from buildstep.system.locks import take_lock
from buildstep.system.private import private_dir, private_file

SUFFIX = ".jsonl"


class Journal:
    """What one build has acquired, written down before it is acquired."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.ident = path.name.removesuffix(SUFFIX)
        self._fd = fd

    def _write(self, record: dict[str, object]) -> None:
        # All of it: with half a line in the journal of a full disk nothing may be acquired.
        write_all(self._fd, _line(record))

    def _write_path(self, kind: str, path: Path) -> None:
        self._write({"acquire": kind, "path": os.fspath(path.absolute())})

    def dataset(self, ident: str) -> str:
        """Note a working dataset; its name must start with the build's id."""
        assert ident.startswith(self.ident)
        self._write({"acquire": "dataset", "ident": ident})
        return ident

    def mount(self, target: Path) -> None:
        """Note a mount that would outlive us: only where a build has no mount namespace."""
        self._write_path("mount", target)

    def cgroup(self, folder: Path) -> None:
        """Note a control group that may come to be."""
        self._write_path("cgroup", folder)

    def outputs(self, stem: Path) -> None:
        """Note that half-written outputs of this name (`bits/hello/hello-1.0.0`) may come to be."""
        self._write_path("outputs", stem)

    def folder(self, path: Path) -> Path:
        """Make a directory of the pool's state for the length of the build."""
        self._write_path("folder", path)
        private_dir(path.parent)
        path.mkdir(mode=0o700)
        return path


@contextlib.contextmanager
def open_journal(state: Path, what: str) -> Iterator[Journal]:
    """Keep a journal for the length of a build. what: the command, for a person who reads it.

    It is removed when the build has undone everything itself.
    """
    ident = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
    path = state / "journal" / f"{ident}{SUFFIX}"
    fd = take_lock(path)
    try:
        journal = Journal(path, fd)
        journal._write(
            {"format": 1, "id": ident, "what": what, "pid": os.getpid(), "time": time.time(), **_owner()}
        )
        with mounts.noted(journal.mount), cgroup.noted(journal.cgroup):
            yield journal
        path.unlink(missing_ok=True)
    except BaseException:
        # A signal can come between an act and the registering of its undo. Working datasets that are left
        # stay for `heal`, which finds them without a journal.
        items = acquired(path)
        for item in items:
            stale.remove(state, item)
        if not any(stale.exists(item) for item in items):
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


_BEFORE, _AFTER = b', "check": "', b'"}'


def _line(record: dict[str, object]) -> bytes:
    head = json.dumps(record).encode().removesuffix(b"}")
    return head + _BEFORE + hashlib.sha256(head).hexdigest().encode() + _AFTER + b"\n"


def record_of(line: bytes) -> dict[str, Any]:
    """Return what a line says, without its end of line. Raises ValueError for one that is torn or damaged."""
    head, before, check = line.rpartition(_BEFORE)
    if before and check != hashlib.sha256(head).hexdigest().encode() + _AFTER:
        raise ValueError("it is not what was written")
    record: dict[str, Any] = json.loads(line)  # without a digest in the journals of older versions
    if not isinstance(record, dict):
        raise ValueError("it is no object")
    record.pop("check", None)
    return record


def damaged_lines(lines: Sequence[bytes]) -> list[int]:
    """Return the numbers, from 1, of the lines that are not what was written."""
    sealed = any(_BEFORE in line for line in lines)
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record_of(line.removesuffix(b"\n"))
            good = _BEFORE in line or not sealed
        except ValueError:
            good = False
        if not good:
            found.append(number)
    return found


def _owner() -> dict[str, object]:
    """Who we are, for a person who reads the journal; liveness is decided by the lock alone."""
    owner: dict[str, object] = {"uid": os.getuid()}
    if boot := boot_id():
        owner["boot"] = boot
    with contextlib.suppress(OSError):
        owner["started"] = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return owner


def keep(backend: Backend, ident: str) -> None:
    """Mark a failed build's dataset as kept for a person to look at; `heal` passes it by."""
    folder = backend.state / "kept"
    private_dir(folder)
    private_file(folder / ident)


def kept(backend: Backend) -> set[str]:
    """Return the datasets that were kept on purpose."""
    try:
        return set(os.listdir(backend.state / "kept"))
    except FileNotFoundError:
        return set()


def acquired(path: Path) -> list[Stale]:
    """Return what a journal lists, the last first."""
    build = path.name.removesuffix(SUFFIX)
    found = []
    for row in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a torn last line was never acted on
            record = record_of(row)
            kind = record["acquire"]
            found.append(Stale(build, kind, record["ident"] if kind == "dataset" else record["path"]))
    return found[::-1]
