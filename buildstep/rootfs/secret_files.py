"""Secrets in an image while a command runs: each in memory, over its place, and nothing of it below that."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from buildstep.errors import SandboxError
from buildstep.rootfs.run_as import Account
from buildstep.rootfs.sandbox import ChrootSandbox
from buildstep.rootfs.temporary_files import make_dirs
from buildstep.system.files import write_all
from buildstep.system.mounts import bind

_FOLDER = "/run/buildstep/secrets"
"""Where they are: a tmpfs of the sandbox has it, and nobody but root gets in."""

_numbers = itertools.count()


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretFile:
    """What a command is shown at a place of the image: `~` is the home directory of who runs it. uid, gid: of
    its owner, None for who runs the command."""

    name: str
    content: bytes
    target: str
    mode: int = 0o600
    uid: int | None = None
    gid: int | None = None


@contextlib.contextmanager
def shown(inside: ChrootSandbox, secret: SecretFile, who: Account) -> Iterator[None]:
    """Show a secret for the length of a block. What is at its place meanwhile is an empty file, below the
    mount; what was there before comes back. Raises SandboxError."""
    root, target = inside.root, place_of(secret.target, who)
    with contextlib.ExitStack() as stack:
        make_dirs(stack, root, _FOLDER)
        number = str(next(_numbers))
        with root.parent(f"{_FOLDER}/{number}") as (folder, _):
            os.fchmod(folder, 0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            out = os.open(number, flags, 0o600, dir_fd=folder)
            try:
                write_all(out, secret.content)
                owner = who.uid if secret.uid is None else secret.uid
                os.fchown(out, owner, who.gid if secret.gid is None else secret.gid)
                os.fchmod(out, secret.mode)
            finally:
                os.close(out)
        source = root.path / f"{_FOLDER}/{number}".lstrip("/")
        stack.callback(source.unlink, missing_ok=True)
        try:
            stack.enter_context(inside.temporary_file(target, b"", mode=0o600))
        except SandboxError as error:
            raise SandboxError(f"the secret {secret.name} cannot be shown: {error.message}") from error
        point = root.host_path(target)
        if point is None or not stat.S_ISREG(os.lstat(point).st_mode):
            raise SandboxError(f"the secret {secret.name} cannot be shown at {target}: a link is in the way")
        stack.enter_context(bind(source, point, read_only=True))
        yield


def place_of(path: str, who: Account) -> str:
    """Return a path of the image, where `~` is somebody's home directory."""
    home = who.home.rstrip("/")
    return f"{home}{path[1:]}" if path.startswith("~") else path
