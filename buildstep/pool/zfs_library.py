"""The calls to ZFS that a pool needs, by libzfs_core or by the zfs command; failures are DatasetErrors.

Python's binding comes in two states. The one that belongs to an installed OpenZFS (Debian: python3-pyzfs)
has all that is needed. The one on PyPI, 0.2.3, was made for an older C library: its `lzc_create` crashes
the process, its `lzc_receive` fails, and it cannot rename or destroy. It is not used, nor is any on a
system that has none; then the command does it all.

Bookmarks are left out: an incremental stream could be made from one, but nobody could receive it, as that
needs the origin's snapshot itself, and clones keep that snapshot alive wherever we send from.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from buildstep.errors import CommandFailed, DatasetError, ToolMissing
from buildstep.pool import zfs_permissions
from buildstep.system import host, process

Props = Mapping[str, str | int]
"""Properties as the C library takes them: text, and numbers also for yes/no and lists of choices."""

_WORDS: Mapping[str, Sequence[str]] = {
    "acltype": ("off", "posix", "nfsv4"),
    "atime": ("off", "on"),
    "readonly": ("off", "on"),
    "sync": ("standard", "always", "disabled"),
}
"""What the command calls the numbers that the library takes."""

HINT = "install the binding of this system's ZFS (Debian: zfsutils-linux and python3-pyzfs)"


class Busy(DatasetError):
    """A dataset that a process holds at the moment."""


class InUse(DatasetError):
    """A snapshot that clones are based on."""


class AlreadyThere(DatasetError):
    """The name is taken."""


class BadStream(DatasetError):
    """A stream that cannot be received."""


_KINDS = {"dependent clones": InUse, "already exists": AlreadyThere, "being held": Busy, "busy": Busy}
"""By what the command says."""


class Zfs:
    """The calls by the library. Names are datasets or snapshots, as text."""

    def __init__(self) -> None:
        try:
            self._lib: Any = importlib.import_module("libzfs_core")
            self._errors: Any = importlib.import_module("libzfs_core.exceptions")
            # The import succeeds without the C library: only a call tells.
            self._lib.lzc_exists(b"buildstep")
        except (ImportError, OSError, AttributeError) as error:
            raise ToolMissing(f"ZFS cannot be used: {error}", hint=HINT) from error
        except self._errors.ZFSError as error:
            raise ToolMissing(
                f"ZFS cannot be used: {_text(error)}",
                hint="is the zfs module loaded, and may this user open /dev/zfs?",
            ) from error
        self.complete = "key" in inspect.signature(self._lib.lzc_create).parameters
        process.which("zfs", hint=HINT)

    # -- asking --------------------------------------------------------------------------------------

    def exists(self, name: str) -> bool:
        return bool(self._lib.lzc_exists(name.encode()))

    def get(self, names: Sequence[str], *props: str) -> dict[str, dict[str, tuple[str, str]]]:
        """Return value and source of properties, by dataset; one that is not there is left out."""
        argv = ["zfs", "get", "-H", "-p", "-o", "name,property,value,source", ",".join(props), *names]
        found: dict[str, dict[str, tuple[str, str]]] = {}
        for row in process.query(argv, ok=(0, 1), what="zfs get").stdout.splitlines():
            name, prop, value, source = row.split("\t")
            found.setdefault(name, {})[prop] = (value, source)
        return found

    def below(self, name: str, *props: str) -> list[list[str]]:
        """Return rows of (name, props...) of the children of a dataset and their snapshots."""
        argv = ["zfs", "list", "-H", "-p", "-r", "-d", "2", "-t", "filesystem,volume,snapshot"]
        rows = self._command([*argv, "-o", ",".join(["name", *props]), name])
        return [row.split("\t") for row in rows.splitlines()]

    def holds(self, snapshot: str) -> list[str]:
        try:
            return [tag.decode() for tag in self._lib.lzc_get_holds(snapshot.encode())]
        except self._errors.ZFSError:
            return []

    # -- changing ------------------------------------------------------------------------------------

    def create(self, name: str, props: Props) -> None:
        self._call(f"create {name}", self._lib.lzc_create, name.encode(), props=_encoded(props))

    def clone(self, name: str, origin: str, props: Props) -> None:
        self._call(f"clone {origin}", self._lib.lzc_clone, name.encode(), origin.encode(), _encoded(props))

    def snapshot(self, name: str) -> None:
        self._call(f"snapshot {name}", self._lib.lzc_snapshot, [name.encode()])

    def rename(self, name: str, new: str) -> None:
        self._call(f"rename {name} to {new}", self._lib.lzc_rename, name.encode(), new.encode())

    def set(self, name: str, props: Props) -> None:
        words = [option for option in _options(props) if option != "-o"]
        self._command(["zfs", "set", *words, name])

    def destroy_snapshot(self, name: str) -> None:
        """Destroy a snapshot; nothing is done when it is not there."""
        self._call(f"destroy {name}", self._lib.lzc_destroy_snaps, [name.encode()], False)

    def destroy(self, name: str) -> None:
        """Destroy a dataset without children or snapshots; nothing is done when it is not there."""
        try:
            self._call(f"destroy {name}", self._lib.lzc_destroy, name.encode())
        except DatasetError:
            if self.exists(name):
                raise

    def send(self, snapshot: str, origin: str | None, fd: int) -> None:
        source = None if origin is None else origin.encode()
        self._call(f"send {snapshot}", self._lib.lzc_send, snapshot.encode(), source, fd)

    def receive(self, snapshot: str, fd: int, *, origin: str | None, props: Props) -> None:
        """Receive from a pipe. One that fails leaves nothing: the kernel itself takes back what it wrote."""
        base = None if origin is None else origin.encode()
        name, call = snapshot.encode(), self._lib.lzc_receive
        self._call(f"receive {snapshot}", call, name, fd, origin=base, props=_encoded(props))

    # -- running -------------------------------------------------------------------------------------

    def _command(self, argv: Sequence[str]) -> str:
        try:
            return process.query(argv, timeout=600).stdout
        except CommandFailed as error:
            lines = error.detail.splitlines()
            kind = next((kind for text, kind in _KINDS.items() if text in error.detail), DatasetError)
            reason = lines[0] if lines else error.message
            code = errno.EPERM if "permission" in reason else 0
            raise kind(reason, detail=error.detail, hint=_hint(code, argv[-1])) from error

    def _call(self, what: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        names = self._errors
        try:
            return call(*args, **kwargs)
        except names.ZFSError as error:
            inner = getattr(error, "errors", None) or [error]
            kind = DatasetError
            if any(isinstance(each, (names.DatasetBusy, names.SnapshotIsHeld)) for each in inner):
                kind = Busy
            elif any(isinstance(each, names.SnapshotIsCloned) for each in inner):
                kind = InUse
            elif any(
                isinstance(each, (names.FilesystemExists, names.DatasetExists, names.SnapshotExists))
                for each in inner
            ):
                kind = AlreadyThere
            elif isinstance(error, (names.StreamMismatch, names.BadStream, names.StreamIOError)) or (
                type(error).__name__.startswith("Stream")
            ):
                kind = BadStream
            text = ", ".join(dict.fromkeys(map(_text, inner)))
            hint = _hint(error.errno, what.split(" ")[1])
            raise kind(f"cannot {what}: {text}", hint=hint, retryable=kind is Busy) from error


class ZfsCommand(Zfs):
    """The same calls by the command alone, for a system without a binding that can do them all."""

    def __init__(self) -> None:
        process.which("zfs")

    def exists(self, name: str) -> bool:
        asked = process.query(["zfs", "list", "-H", "-o", "name", name], ok=(0, 1), what="zfs list")
        return asked.status == 0

    def holds(self, snapshot: str) -> list[str]:
        try:
            rows = self._command(["zfs", "holds", "-H", snapshot]).splitlines()
        except DatasetError:
            return []
        return [row.split("\t")[1] for row in rows]

    def create(self, name: str, props: Props) -> None:
        self._command(["zfs", "create", *host.HERE.zfs_no_mount, *_options(props), name])

    def clone(self, name: str, origin: str, props: Props) -> None:
        self._command(["zfs", "clone", *_options(props), origin, name])

    def snapshot(self, name: str) -> None:
        self._command(["zfs", "snapshot", name])

    def rename(self, name: str, new: str) -> None:
        self._command(["zfs", "rename", *host.HERE.zfs_no_mount, name, new])

    def destroy_snapshot(self, name: str) -> None:
        self.destroy(name)

    def destroy(self, name: str) -> None:
        if self.exists(name):
            self._command(["zfs", "destroy", name])

    def send(self, snapshot: str, origin: str | None, fd: int) -> None:
        argv = ["zfs", "send", *([] if origin is None else ["-i", origin]), snapshot]
        try:
            with process.spawn(argv, stdout=fd, what=f"send {snapshot}"):
                pass
        except CommandFailed as error:
            raise DatasetError(error.message, detail=error.detail) from error

    def receive(self, snapshot: str, fd: int, *, origin: str | None, props: Props) -> None:
        options = [] if origin is None else ["-o", f"origin={origin}"]
        argv = ["zfs", "receive", "-u", *options, *_options(props), snapshot]
        try:
            with process.spawn(argv, stdin=fd, what=f"receive {snapshot}"):
                pass
        except CommandFailed as error:
            reason = error.detail.splitlines()[0] if error.detail else error.message
            raise BadStream(reason, detail=error.detail) from error


def open_zfs() -> Zfs:
    """Return the way to ZFS that this system has. Raises ToolMissing."""
    if not host.HERE.zfs_library:
        return ZfsCommand()
    library = Zfs()
    return library if library.complete else ZfsCommand()


def _text(error: Any) -> str:
    number = int(error.errno or 0)
    if number == errno.EPERM:
        return os.strerror(errno.EPERM)
    message = error.message
    return str(message.decode() if isinstance(message, bytes) else message) or type(error).__name__


def _hint(code: int | None, name: str) -> str:
    """name: of the dataset or snapshot that the call was about."""
    if code == errno.EPERM:
        # Permissions are inherited, and the dataset itself may not be there yet.
        parent = name.partition("@")[0].rpartition("/")[0]
        grant = "" if os.geteuid() == 0 else zfs_permissions.advice(parent)
        return f"run as root, or an administrator gives the permission: {grant}" if grant else "run as root"
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "the pool is full or a quota is reached: `buildstep cache prune` frees space"
    return ""


def _encoded(props: Props) -> dict[bytes, bytes | int]:
    return {
        name.encode(): value.encode() if isinstance(value, str) else value for name, value in props.items()
    }


def _options(props: Props) -> list[str]:
    """Properties as -o options of the command."""
    words: list[str] = []
    for name, value in props.items():
        text = value if isinstance(value, str) else _WORDS[name][value]
        words += ["-o", f"{name}={text}"]
    return words
