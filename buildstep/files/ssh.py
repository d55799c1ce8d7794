"""A store in a directory of another host, by ssh: scripts for what is small, rsync for files.

It is the same directory as a `dir:` store there, with the same lock: both can be used at once. The host needs
a POSIX sh, rsync, and one program of several that make a SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

from buildstep.errors import StoreError
from buildstep.files import remote, ssh_scripts
from buildstep.files.interface import (
    Access,
    Item,
    Missing,
    ReadOnly,
    Versioned,
    checked,
    checked_under,
    is_name,
)
from buildstep.files.layout import TEMPORARY
from buildstep.files.ssh_link import Link, Target

_BULK = 1 << 20
"""Bytes from which on a blob goes through rsync, which resumes."""
_ROW = re.compile(r"(\d+) (\d+(?:\.\d+)?) (.+)")
"""Size, time and path of a file, as `ssh_scripts.LIST` prints them."""
_UPLOADS = f"{TEMPORARY}ssh/"


class _Done(NamedTuple):
    """How a script ended. repeated: whether it was run before, and its response was lost."""

    status: int
    output: bytes
    repeated: bool


class Ssh:
    """`ssh://[USER@]HOST[:PORT]/PATH`; `/~/PATH` is from the user's home.

    Keys come from an ssh-agent or ssh's own configuration; BUILDSTEP_SSH_CONFIG names a file of it that is
    read instead of the user's (`ssh -F`). The host's key must be known.
    """

    scheme: ClassVar[str] = "ssh"
    writable = True
    root = None
    at_once = 8

    def __init__(self, place: str, access: Access) -> None:
        target = Target.parse(f"ssh:{place}")
        self.url = target.url
        self._top = target.path
        self._link = Link(target, access)
        self._prepared = False

    # -- reading ---------------------------------------------------------------------------------------

    def exists(self, names: Collection[str]) -> set[str]:
        """See `Storage`."""
        if not names:
            return set()
        lines = "".join(f"{checked(name)}\n" for name in names).encode()
        return set(self._run(ssh_scripts.EXISTS, data=lines).output.decode("ascii", "replace").split())

    def list(self, under: str) -> Iterator[Item]:
        """See `Storage`."""
        folder = f"./{checked_under(under)}".rstrip("/")
        for line in self._run(ssh_scripts.LIST, folder).output.decode("utf-8", "replace").splitlines():
            found = _ROW.fullmatch(line)
            # Not everything in a directory need be ours.
            if found is not None and is_name(name := found[3].removeprefix("./")):
                yield Item(name, int(found[1]), float(found[2]))

    def read(self, name: str, start: int = 0, count: int | None = None) -> bytes:
        """See `Storage`."""
        done = self._run(ssh_scripts.READ, checked(name), str(start), "" if count is None else str(count))
        if done.status == ssh_scripts.MISSING:
            raise self._missing(name)
        return done.output

    def fetch(self, name: str, target: Path) -> None:
        """See `Storage`. What broke off is resumed."""
        if not self.exists([name]):
            raise self._missing(name)
        self._link.receive(name, target)
        target.chmod(0o600)

    def load(self, name: str) -> Versioned | None:
        """See `Storage`."""
        try:
            data = self.read(name)
        except Missing:
            return None
        return Versioned(data, hashlib.sha256(data).hexdigest())

    # -- writing ---------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes | Path) -> bool:
        """See `Storage`."""
        checked(name)
        self._prepare()
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        if size >= _BULK:
            return self._send(name, data, size)
        content = data if isinstance(data, bytes) else data.read_bytes()
        return self._run(ssh_scripts.WRITE, name, str(size), data=content).status != ssh_scripts.THERE

    def _send(self, name: str, data: bytes | Path, size: int) -> bool:
        # The same name at each try, so that rsync finds what the last one brought over.
        uploaded = _UPLOADS + name.replace("/", "~")
        if self.exists([name]):
            return False
        with contextlib.ExitStack() as stack:
            if isinstance(data, bytes):
                file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="buildstep-"))
                file.write(data)
                file.flush()
                data = Path(file.name)
            for _ in range(2):
                self._link.send(data, uploaded)
                status = self._run(ssh_scripts.COMMIT, name, str(size), uploaded).status
                # Another writer of the same blob may have taken the file away after it had its name.
                if status != ssh_scripts.CUT_SHORT:
                    return status != ssh_scripts.THERE
        raise StoreError(f"{self.url}: {name} was sent, but is not there as it was sent", retryable=True)

    def spool(self) -> contextlib.AbstractContextManager[Path]:
        """See `Storage`."""
        return remote.spool()

    def delete(self, names: Iterable[str]) -> None:
        """See `Storage`."""
        lines = "".join(f"{checked(name)}\n" for name in names).encode()
        if lines:
            self._prepare()
            self._run(ssh_scripts.DELETE, data=lines)

    def swap(self, name: str, data: bytes | None, version: str | None) -> bool:
        """See `Storage`."""
        checked(name)
        self._prepare()
        content = data or b""
        args = (name, str(len(content)), version or "", "remove" if data is None else "set")
        done = self._run(ssh_scripts.SWAP, *args, data=content)
        if done.status == ssh_scripts.DIFFERENT and done.repeated:
            # The first try may have succeeded, and only its response was lost.
            there = self.load(name)
            return (there.data if there else None) == data
        return done.status != ssh_scripts.DIFFERENT

    def _prepare(self) -> None:
        if not self._prepared:
            self._run(ssh_scripts.PREPARE)
            self._prepared = True

    def _run(self, script: str, *args: str, data: bytes = b"") -> _Done:
        """Run a script; raise what its status means, where that is an error for every caller."""
        tries = 0

        def once() -> _Done:
            nonlocal tries
            tries += 1
            status, output = self._link.call(script, self._top, *args, data=data, ok=ssh_scripts.STATUSES)
            if status == ssh_scripts.CUT_SHORT and script != ssh_scripts.COMMIT:
                raise StoreError(f"{self.url}: what was sent did not arrive", retryable=True)
            if status == ssh_scripts.LOCKED:
                raise StoreError(
                    f"{self.url}: somebody has the lock {_UPLOADS}swap.d",
                    hint="remove that directory there if nobody writes to the store",
                    retryable=True,
                )
            if status == ssh_scripts.NOT_OURS:
                raise ReadOnly(
                    f"{self.url} cannot be written to: its directory is another user's, or others may write "
                    "to it",
                    hint="use a store of your own",
                )
            return _Done(status, output, tries > 1)

        return self._link.retrying(once)

    def _missing(self, name: str) -> Missing:
        return Missing(f"{self.url} has no {name}")
