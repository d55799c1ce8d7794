"""Where packages come from besides the base image's own sources: repositories, and package files by path."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from buildstep.errors import Fault
from buildstep.spec.schema import BOOLEAN, array, at, integer, record, text
from buildstep.system.digest import sha256_file

_NAME = text("[A-Za-z0-9][A-Za-z0-9_-]{0,63}", say="made of A-Z a-z 0-9 _ -, and no dash in front")
_WORD = text(r"[^\s\x00-\x1f\x7f\[\]]+", say="one word")
_ARCH = text("[a-z0-9][a-z0-9-]*", say="an architecture, such as amd64")
REPOSITORY: Final = record(
    {
        "name": _NAME,
        "uris": array(_WORD, least=1),
        "suites": array(_WORD, least=1),
        "components": array(_WORD),
        "architectures": array(_ARCH),
        "signed_by": text(),
        "trusted": BOOLEAN,
        "priority": integer(-32768, 32767),
    },
    required=["name", "uris", "suites"],
)
"""A repository of Debian packages, in the words of sources.list(5) and apt_preferences(5)."""

_SCHEMES: Final = ("http", "https", "file", "copy")
_LEAST_KEY: Final = 255
"""Letters of base64: a public key with a name that is signed is longer, the name of a file is not."""
_ARMOR: Final = "-----BEGIN PGP PUBLIC KEY BLOCK-----"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """A repository of packages. signed_by: its public key, once it was read: as text in ASCII armor, or
    base64 of what gpg exports; empty for none. trusted: packages are taken without a signature."""

    name: str
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    signed_by: str = ""
    trusted: bool = False
    priority: int | None = None

    @property
    def line(self) -> str:
        """What it is and what it has, in one line; not by whose key it is believed."""
        words = [*self.uris, *self.suites, *self.components, *self.architectures]
        return " ".join([self.name, *words, *([] if self.priority is None else [str(self.priority)])])

    @property
    def is_armored(self) -> bool:
        """Whether the key is text; a file of another kind has another ending for apt."""
        return _ARMOR in self.signed_by

    @property
    def key(self) -> bytes:
        """The content of the key's file."""
        return self.signed_by.encode() if self.is_armored else base64.b64decode(self.signed_by)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageFile:
    """A package that is a file. name: as it was given; path: absolute."""

    name: str
    path: Path
    sha256: str


def is_file(package: str) -> bool:
    """Whether what stands for a package is the path of its file, and no name: it begins like one."""
    return package.startswith(("/", "./", "../"))


def files_of(packages: Sequence[str], folder: Path) -> tuple[PackageFile, ...]:
    """Return the package files among packages. folder: paths are relative to it. They are there."""
    paths = {name: Path(os.path.abspath(folder / name)) for name in dict.fromkeys(packages) if is_file(name)}
    return tuple(
        PackageFile(name=name, path=path, sha256=sha256_file(path)) for name, path in sorted(paths.items())
    )


def file_faults(packages: Sequence[str], where: str, folder: Path) -> Iterator[Fault]:
    """Yield a fault for each package file that is not there."""
    for index, name in enumerate(packages):
        if is_file(name) and not (folder / name).is_file():
            message = f"{folder / name} is no file"
            yield Fault(where=at(where, index), message=message, hint="a path is relative to the m.json")


def faults(rows: Sequence[Mapping[str, Any]], where: str, folder: Path) -> Iterator[Fault]:
    """Yield what is wrong with repositories that the rule lets pass. folder: paths of keys start there."""
    seen: set[str] = set()
    for index, row in enumerate(rows):
        place = at(where, index)
        if row["name"] in seen:
            yield Fault(where=at(place, "name"), message=f"there is another repository {row['name']}")
        seen.add(row["name"])
        for number, uri in enumerate(row["uris"]):
            parts = urlsplit(uri)
            if parts.scheme not in _SCHEMES:
                hint = f"such as https://HOST/debian ({', '.join(_SCHEMES)})"
                yield Fault(where=at(at(place, "uris"), number), message="is no address for apt", hint=hint)
            elif parts.password:
                hint = "a secret is shown to apt alone: build.secrets, installer_options.secrets"
                yield Fault(where=at(at(place, "uris"), number), message="has a password in it", hint=hint)
        flat = {suite.endswith("/") for suite in row["suites"]}
        if flat == {True} and row.get("components"):
            yield Fault(where=at(place, "components"), message="there are none where a suite is a path")
        if False in flat and not row.get("components"):
            hint = 'such as ["main"]; of a repository without any, the suite is a path such as "./"'
            yield Fault(where=place, message="has no components", hint=hint)
        yield from _key_faults(row, place, folder)


def _key_faults(row: Mapping[str, Any], place: str, folder: Path) -> Iterator[Fault]:
    where = at(place, "signed_by")
    try:
        key = _key(row, folder)
    except OSError as error:
        yield Fault(where=where, message=f"{folder / row['signed_by']}: {error.strerror}")
        return
    if key and row.get("trusted"):
        yield Fault(
            where=at(place, "trusted"), message="takes packages without a signature, and there is a key"
        )
    if "-----BEGIN PGP PRIVATE KEY" in key or key.startswith(("lQ", "lI", "lM")):
        yield Fault(
            where=where, message="is a private key", hint="gpg --armor --export NAME gives the public one"
        )
    elif key and _ARMOR not in key and not _is_keyring(key):
        yield Fault(
            where=where, message="is no OpenPGP public key", hint="gpg --armor --export NAME gives it"
        )


def _is_keyring(key: str) -> bool:
    """Whether base64 is of an exported key: its first packet is a public key (RFC 4880, 4.2 and 4.3)."""
    try:
        first = base64.b64decode(key)[0]
    except (binascii.Error, ValueError, IndexError):
        return False
    return bool(first & 0x80) and (first & 0x3F if first & 0x40 else first >> 2 & 0xF) == 6


def _is_exported(given: str) -> bool:
    """Whether it is base64 of an exported key, as a build record has one, and no name of a file."""
    return (
        len(given) > _LEAST_KEY and re.fullmatch("[A-Za-z0-9+/]+=*", given) is not None and _is_keyring(given)
    )


def _key(row: Mapping[str, Any], folder: Path) -> str:
    """Return the key of a repository: itself, or what its file holds."""
    given = row.get("signed_by", "")
    if not given or _ARMOR in given or _is_exported(given):
        return str(given)
    data = (folder / os.path.expanduser(given)).read_bytes()
    return data.decode() if _ARMOR.encode() in data else base64.b64encode(data).decode()


def with_keys(rows: Sequence[Repository], folder: Path) -> tuple[Repository, ...]:
    """Return repositories with the content of their keys in place of the files' names."""
    return tuple(
        dataclasses.replace(row, signed_by=_key({"signed_by": row.signed_by}, folder)) for row in rows
    )
