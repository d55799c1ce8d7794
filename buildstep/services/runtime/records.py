"""What a place keeps of a service: which actions completed, what was installed, its processes, their logs.

    ROOT/KEY/lock                   held while an action of the service runs
    ROOT/KEY/owner                  whose it is: a word, then the repository it lies in, for a person
    ROOT/KEY/done/SIDE.ACTION.json  the last completed run of an action
    ROOT/KEY/installed.json         the files that `install` has laid
    ROOT/KEY/processes/             of the process supervisor: what it started, and its logs
    ROOT/KEY/exports/               of data_export

ROOT is /var/lib/buildstep/services for root, and $XDG_STATE_HOME/buildstep/services for anybody else. KEY is
the service's key with whatever is no letter, digit or one of `._!-` written as %XX; one of more than 200
characters is cut off, with its digest at the end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from typing import Any

FORMAT = 1
"""As `wire.FORMAT`."""

ROOT = "/var/lib/buildstep/services"

_TEMPORARY = ".buildstep-new"
_NAP = 0.02
_LONGEST_NAME = 200
"""Characters of 255, as names of units and groups have more before and after it."""


class Locked(Exception):
    """An action of the service runs already, for longer than one waits."""


class Foreign(Exception):
    """What is kept under this key is another owner's. Its text is for a person."""


def state_root(given: str | None = None) -> str:
    """Return the directory for all services, as the head of this file says; given: another."""
    if given:
        return given
    if os.geteuid() == 0:
        return ROOT
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(home, "buildstep", "services")


def folder_name(key: str) -> str:
    """Return the name of a service's directory: another for each key, never a hidden or too long one."""

    def escaped(match: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogateescape"))

    return shortened(re.sub(r"^\.|[^A-Za-z0-9._!-]", escaped, key) or "%")


def shortened(name: str) -> str:
    """Return a name with its end replaced by its digest, if it is too long for a file."""
    if len(name) <= _LONGEST_NAME:
        return name
    return name[: _LONGEST_NAME - 33] + "+" + hashlib.sha256(name.encode()).hexdigest()[:32]


def write(path: str, text: str | bytes, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Write a file: whole or not at all, and on the disk when this returns. Raises OSError."""
    folder, name = os.path.split(path)
    new = os.path.join(folder, f".{name[:200]}{_TEMPORARY}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)  # of a process that was killed
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    sync_folder(folder)


def sync_folder(folder: str) -> None:
    """Have the names in a directory on the disk."""
    fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such call
            raise
    finally:
        os.close(fd)


def read_json(path: str) -> Any:
    """Return what a file of ours holds; None if it is not there, or is damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


class Records:
    """The directory of one service."""

    def __init__(self, root: str, key: str) -> None:
        self.root = root
        self.folder = os.path.join(root, folder_name(key))
        self._done = os.path.join(self.folder, "done")

    def path(self, *names: str) -> str:
        """Return the path of something in it."""
        return os.path.join(self.folder, *names)

    def make(self, *names: str) -> str:
        """Make a directory in it, that nobody but its owner may enter. Raises OSError."""
        _make_public(self.root)
        path = self.folder
        for name in ("", *names):
            path = os.path.join(path, name) if name else path
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        return path

    def done(self) -> list[Any]:
        """Return the records of completed actions. One that is damaged is none."""
        try:
            names = sorted(os.listdir(self._done))
        except FileNotFoundError:
            return []
        found = (
            read_json(os.path.join(self._done, name))
            for name in names
            if name.endswith(".json") and not name.startswith(".")
        )
        return [one for one in found if isinstance(one, dict) and one.get("format") == FORMAT]

    def begin(self, side: str, action: str) -> None:
        """Remove the record of an action that is about to run: from now on it has not completed, even if it
        is killed half way. Raises OSError."""
        try:
            os.unlink(self._file(side, action))
        except FileNotFoundError:
            return
        sync_folder(self._done)

    def complete(self, record: dict[str, Any]) -> None:
        """Record that an action completed. Raises OSError."""
        self.make("done")
        text = json.dumps({"format": FORMAT, **record}, sort_keys=True, allow_nan=False)
        write(self._file(record["side"], record["action"]), text + "\n", 0o600)

    def _file(self, side: str, action: str) -> str:
        return os.path.join(self._done, f"{side}.{action}.json")

    @contextlib.contextmanager
    def locked(self, seconds: float) -> Iterator[int]:
        """Hold the service's lock; the value is its descriptor. Raises Locked, OSError."""
        self.make()
        fd = os.open(self.path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _take(fd, time.monotonic() + seconds)
            yield fd
        finally:
            os.close(fd)

    def claim(self, owner: str) -> None:
        """Keep whose the service is from now on. Without an owner nobody is asked.

        Raises Foreign, OSError.
        """
        known = self._owner()
        if not owner or known == owner:
            return
        if self.is_foreign(owner):
            where = known.partition(" ")[2] or "which has not told its name"
            raise Foreign(
                f"a service of this key is kept there already, for another repository: {where}. Uninstall it "
                f"from that one, or give this one another name. If that one is gone, remove "
                f"{self.path('owner')}: what is there is taken over then"
            )
        write(self.path("owner"), owner + "\n", 0o600)

    def release(self) -> None:
        """Keep no longer whose the service is: nothing of it runs or is installed. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path("owner"))

    def is_foreign(self, owner: str) -> bool:
        """Return whether what is kept is another owner's: their first words tell them apart."""
        known = self._owner()
        return bool(owner and known and known.partition(" ")[0] != owner.partition(" ")[0])

    def _owner(self) -> str:
        try:
            with open(self.path("owner"), encoding="utf-8", errors="surrogateescape") as file:
                return file.read().rstrip("\n")
        except FileNotFoundError:
            return ""

    def forget(self, owner: str = "") -> None:
        """Remove all that is kept of the service, unless it is another owner's. Raises OSError."""
        if os.path.lexists(self.folder) and not self.is_foreign(owner):
            shutil.rmtree(self.folder)
            sync_folder(self.root)


def _make_public(path: str) -> None:
    """Make a directory that only its owner may change, whatever the umask, and those missing above it.

    os.makedirs gives its mode to the last one alone: with the umask 000 anybody could change the others.
    """
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    if above != path:
        _make_public(above)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o755)


def _take(fd: int, end: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise Locked from None
            time.sleep(_NAP)
