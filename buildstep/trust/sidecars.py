"""Files beside an image that say what is in it and who made it: their names, and the name that they share.

X is NAME-VERSION, the stem of all outputs of a build. `X.sig`, `X.sigstore.json` and `X.minisig` are over the
bytes of the build's first artifact; those of a further artifact have its whole file name in place of X. A
file that no build wrote is its own stem. What a directory has in place of bytes is its `index.json`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from buildstep.errors import UsageError

SPDX = "spdx"
SPDX3 = "spdx3"
CYCLONEDX = "cyclonedx"
STATEMENTS = "statements"
SSHSIG = "sshsig"
BUNDLE = "bundle"
MINISIGN = "minisign"

SIDECARS: Mapping[str, str] = {
    SPDX: ".spdx.json",
    SPDX3: ".spdx3.json",
    CYCLONEDX: ".cdx.json",
    STATEMENTS: ".intoto.jsonl",
    SSHSIG: ".sig",
    BUNDLE: ".sigstore.json",
    MINISIGN: ".minisig",
}
"""What a file is, and how its name ends. One of each a build; of `SIGNATURES` one an artifact."""

SIGNATURES = (SSHSIG, BUNDLE, MINISIGN)
"""Files that hold signatures of the bytes of one artifact."""

MANIFEST = ".imgmanifest"
RECORD = ".buildrecord.json"

_IMAGES = (".oci", ".oci.tar", ".tar", ".zfs", ".zvol", ".btrfs")
_COMPRESSED = ("", ".gz", ".bz2", ".xz", ".zst")
_ARTIFACTS = tuple(
    sorted((kind + end for kind in _IMAGES for end in _COMPRESSED if (kind, end) != (".oci", "")), key=len)
)
_ENDINGS = (*reversed(_ARTIFACTS), ".oci", ".files.json", MANIFEST, RECORD, *SIDECARS.values())
"""Longest first: `.oci.tar.gz` before `.tar.gz`."""


def stem_of(path: Path) -> Path:
    """Return what the names of all outputs of a build begin with, given any one of them.

    `bits/hello-1.0.0.tar.gz` gives `bits/hello-1.0.0`. A name that no output has is its own stem.
    """
    for ending in _ENDINGS:
        if path.name.endswith(ending) and path.name != ending:
            return path.with_name(path.name.removesuffix(ending))
    return path


def is_artifact(path: Path) -> bool:
    """Tell whether a name is that of an image file that a build writes, or of an OCI directory."""
    return any(path.name.endswith(ending) and path.name != ending for ending in (*_ARTIFACTS, ".oci"))


def sidecar(stem: Path, kind: str) -> Path:
    """Return where a build of this stem has the file of a kind. kind: a key of `SIDECARS`."""
    return stem.with_name(stem.name + SIDECARS[kind])


def signature_file(artifact: Path, kind: str, *, first: bool) -> Path:
    """Return where a signature of an artifact is. first: whether it is the first one of its build."""
    return sidecar(stem_of(artifact) if first else artifact, kind)


def signature_files(artifact: Path, kind: str) -> tuple[Path, ...]:
    """Return where a signature of an artifact may be, the surest place first.

    Nobody knows from a name alone whether an artifact is the first of its build; so what lies at the second
    place may be about another artifact of that build.
    """
    places = (signature_file(artifact, kind, first=False), signature_file(artifact, kind, first=True))
    return tuple(dict.fromkeys(places))


def signed_file(artifact: Path) -> Path:
    """Return the file whose bytes are signed for an artifact: itself, or the index of an OCI directory."""
    index = artifact / "index.json"
    return index if index.is_file() and (artifact / "oci-layout").is_file() else artifact


def read(path: Path, limit: int) -> bytes | None:
    """Return what one of these files holds, None where there is none.

    Raises UsageError for more than `limit` bytes and for what is no file: a pipe has no end, and nobody
    writes to it. Raises OSError where it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        demand_regular(path, os.fstat(fd))
        with open(fd, "rb", closefd=False) as stream:
            data = stream.read(limit + 1)
    finally:
        os.close(fd)
    if len(data) > limit:
        raise UsageError(
            f"{path} is larger than {limit >> 20} MiB, and is not read", hint="is it what its name says?"
        )
    return data


def demand_regular(path: Path, info: os.stat_result) -> None:
    """Raise UsageError for what is no regular file."""
    if not stat.S_ISREG(info.st_mode):
        raise UsageError(f"{path} is no regular file, and is not read", hint="is it what its name says?")
