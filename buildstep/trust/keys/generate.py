"""Make a pair of keys, in the forms that buildstep, cosign, openssl, ssh-keygen and minisign read."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from buildstep.errors import SigningError
from buildstep.system.files import fsync_dir, write_all
from buildstep.trust.keys.file import private_signer
from buildstep.trust.keys.interface import Signer
from buildstep.trust.keys.public import serialization_library
from buildstep.trust.signatures import minisign

KeyType = Literal["ed25519", "ecdsa", "rsa"]
TYPES: tuple[KeyType, ...] = ("ed25519", "ecdsa", "rsa")

_RSA_BITS = 3072


def keygen(prefix: Path, kind: KeyType, *, password: bytes = b"") -> tuple[Signer, list[Path]]:
    """Make a pair; return it, and its files: the private half, then the public one in each form.

    Nothing is overwritten, and the private half has its name last: one that is there is complete. Raises
    SigningError, ToolMissing.
    """
    form = serialization_library()
    key = _made(kind)
    lock = form.BestAvailableEncryption(password) if password else form.NoEncryption()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock)
    path = _named(prefix, ".key")
    signer = private_signer(key, str(path))
    public = signer.public
    files = {path: private, _named(prefix, ".pub"): public.pem}
    files[_named(prefix, ".ssh.pub")] = f"{public.openssh}\n".encode()
    if public.algorithm == "ed25519":
        files[_named(prefix, ".minisign.pub")] = minisign.public_file(public)
    _write(files)
    return signer, list(files)


def _named(prefix: Path, ending: str) -> Path:
    return prefix.with_name(prefix.name + ending)


def _made(kind: KeyType) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    match kind:
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ecdsa":
            return ec.generate_private_key(ec.SECP256R1())
        case "rsa":
            return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)


def _write(files: Mapping[Path, bytes]) -> None:
    """Write all files, or none; the first one, which is private, has its name last."""
    if taken := [str(path) for path in files if os.path.lexists(path)]:
        raise SigningError(
            f"{taken[0]} is there already, and no key is overwritten",
            detail="\n".join(f"  {path}" for path in taken[1:]),
            hint="take another prefix, or move it away first",
        )
    private, *public = files
    named: list[Path] = []
    try:
        for path in (*public, private):
            _create(path, files[path], 0o600 if path == private else 0o644)
            named.append(path)
        fsync_dir(private.parent)
    except BaseException as error:
        for path in named:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise SigningError(f"cannot write keys beside {private}: {error.strerror}") from error
        raise


def _create(path: Path, data: bytes, mode: int) -> None:
    """Write a new file that has no name before it is complete, where the file system can do that: a process
    that is killed leaves nothing of it. Raises OSError."""
    flags = os.O_WRONLY | os.O_CLOEXEC
    anonymous = getattr(os, "O_TMPFILE", 0)
    try:
        if not anonymous:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        fd = os.open(path.parent, flags | anonymous, mode)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        fd, anonymous = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode), 0
    try:
        write_all(fd, data)
        os.fsync(fd)
        if anonymous:
            # With a descriptor, which an absolute path does without, Python calls linkat(2): link(2) does not
            # follow the link that /proc has.
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    finally:
        os.close(fd)
