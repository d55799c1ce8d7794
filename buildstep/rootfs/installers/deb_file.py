"""A Debian package file, read without dpkg: its control files, and what it unpacks."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from buildstep.errors import ImageError, InstallError
from buildstep.formats import tar_reader
from buildstep.formats.decompress import Decompressed
from buildstep.system.files import SliceReader

_HARMLESS_TRIGGERS = frozenset(("ldconfig",))
"""What ldconfig makes is made of what is there, whenever it runs."""

_IDLE = re.compile(
    r"\s*(#.*|set -[eu]+|exit 0|:|true"
    r'|dpkg-maintscript-helper (rm|mv)_conffile [\w/.+:~ -]+ -- "\$@")?\s*'
)
"""Lines of a script that do nothing where the package was not installed before."""
_IF_THERE = re.compile(
    r'(?m)^if \[ "\$1" = "configure" \] && '
    r'\[ -x "`(?:command -v|which) ([a-z0-9-]+)(?: 2> ?/dev/null)?`" \]; then\n\s+\1\nfi$'
)
"""What is only done where some command is installed, as debhelper used to write it."""


def file_stem(name: str, version: str) -> str:
    """Return how apt names the file of a package, but for the architecture."""
    quoted = "".join(f"%{ord(char):02x}" if char in "_:%" else char for char in version)
    return f"{name}_{quoted}"


def control_of(path: Path) -> str:
    """Return the control file of a package file, without empty lines. Raises InstallError."""
    try:
        with path.open("rb") as stream:
            for member, part in _members(stream):
                if member.startswith("control.tar"):
                    with Decompressed(cast(IO[bytes], part)) as plain:
                        for info in tar_reader.members(plain):
                            if info.name.removeprefix("./") == "control" and info.isreg():
                                text = plain.read(info.size).decode(errors="replace")
                                return "\n".join(line for line in text.splitlines() if line.strip())
                    break
    except (OSError, ValueError, ImageError) as error:
        raise InstallError(f"{path.name} cannot be read: {error}") from error
    raise InstallError(f"{path.name} cannot be read: there is no control file in it")


def downloads(folder: Path) -> dict[str, Path]:
    """Return the package files in apt's cache by their stem, if there is only one of it."""
    found: dict[str, Path] = {}
    twice = set()
    for path in folder.glob("*.deb"):
        stem = path.name.rpartition("_")[0]
        if found.setdefault(stem, path) != path:
            twice.add(stem)
    return {stem: path for stem, path in found.items() if stem not in twice}


@dataclass(frozen=True, kw_only=True, slots=True)
class Deb:
    """A package file. control: its control files by name; files: what it unpacks, without content."""

    name: str
    control: Mapping[str, str]
    files: Sequence[tarfile.TarInfo]

    @classmethod
    def read(cls, name: str, path: Path) -> Deb:
        """Read the file at `path`. Raises InstallError for one that cannot be read."""
        try:
            with path.open("rb") as stream:
                control, files = _content(stream)
        except (OSError, ValueError, ImageError) as error:
            raise InstallError(f"{path.name} cannot be read: {error}") from error
        return cls(name=name, control=control, files=files)

    def acts(self, absent: Callable[[str], bool]) -> str:
        """Return what this package does when it is installed, besides unpacking its files; empty for nothing.

        absent: whether there is no command of a name, and will be none.
        """
        if problem := self.runs(("preinst", "postinst"), absent):
            return problem
        if "config" in self.control or "templates" in self.control:
            return f"{self.name} asks questions (debconf)"
        for line in self.control.get("triggers", "").splitlines():
            words = line.partition("#")[0].split()
            if words and words[0].startswith("interest"):
                return f"{self.name} waits for a trigger ({' '.join(words[1:])})"
            if len(words) > 1 and words[1] not in _HARMLESS_TRIGGERS:
                return f"{self.name} sets off a trigger ({words[1]})"
        return ""

    def runs(self, scripts: Sequence[str], absent: Callable[[str], bool] = lambda _name: False) -> str:
        """Return which of these scripts the package has and that does something; empty for none."""
        for script in scripts:
            text = _IF_THERE.sub(
                lambda found: "" if absent(found[1]) else found[0], self.control.get(script, "")
            )
            lines = text.replace("\\\n", " ").splitlines()
            if any(not _IDLE.fullmatch(re.sub(r"\s+", " ", line)) for line in lines):
                return f"{self.name} has a script ({script})"
        return ""

    def field(self, name: str) -> str:
        """Return a field of the control file, empty if it has none."""
        found = re.search(rf"^{name}:(.*(?:\n[ \t].*)*)", self.control["control"], re.MULTILINE)
        return found[1] if found else ""


def _content(stream: IO[bytes]) -> tuple[dict[str, str], list[tarfile.TarInfo]]:
    control: dict[str, str] = {}
    files: list[tarfile.TarInfo] = []
    for member, part in _members(stream):
        if not member.startswith(("control.tar", "data.tar")):
            continue
        with Decompressed(cast(IO[bytes], part)) as plain:
            for info in tar_reader.members(plain):
                if member.startswith("data.tar"):
                    files.append(info)
                elif info.isreg():
                    control[info.name.removeprefix("./")] = plain.read(info.size).decode(errors="replace")
    if "control" not in control:
        raise ValueError("there is no control file in it")
    return control, files


def _members(stream: IO[bytes]) -> Iterator[tuple[str, SliceReader]]:
    """Yield the members of an ar archive; each can be read until the next is taken."""
    if stream.read(8) != b"!<arch>\n":
        raise ValueError("it is no ar archive")
    while len(head := stream.read(60)) == 60:
        size, at = int(head[48:58]), stream.tell()
        if size < 0:  # the next member would be this one again
            raise ValueError(f"a member of it has a size of {size}")
        yield head[:16].decode("ascii").rstrip(" /"), SliceReader(stream, at, size)
        stream.seek(at + size + size % 2)
