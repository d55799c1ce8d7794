"""Unit files of systemd in an image: where they are, and what their [Install] sections ask for.

Source: systemd.unit(5), systemd.syntax(7), and how systemctl(1) of versions 247 to 257 takes them.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from buildstep.errors import BuildstepError
from buildstep.rootfs.laid_over import LaidOver
from buildstep.spec.accounts import UNIT_NAME

CONFIG = "/etc/systemd/system"
"""Where an administrator's unit files and all links are."""

_USR_LIB, _LIB = "/usr/lib/systemd/system", "/lib/systemd/system"
_ONE_USR = 255
"""From this version on systemd knows only /usr/lib (its NEWS); Debian's looked into /lib first before."""


class UnitError(Exception):
    """Why nothing can be done with a unit, in words that follow its name."""


@dataclass(kw_only=True, slots=True)
class Unit:
    """A unit that was found. name: as asked for; path: of its file, as links name it; the lists are those of
    its [Install] section, with specifiers in them."""

    name: str
    path: str
    masked: bool = False
    alias: list[str] = field(default_factory=list)
    wanted_by: list[str] = field(default_factory=list)
    required_by: list[str] = field(default_factory=list)
    upheld_by: list[str] = field(default_factory=list)
    also: list[str] = field(default_factory=list)
    default_instance: str = ""

    @property
    def installable(self) -> bool:
        """Whether there is anything to enable."""
        return bool(self.alias or self.wanted_by or self.required_by or self.upheld_by or self.also)


def parts(name: str) -> tuple[str, str | None, str]:
    """Return prefix, instance and type of a unit's name; the instance is None without an @."""
    stem, _, kind = name.rpartition(".")
    prefix, at, instance = stem.partition("@")
    return prefix, instance if at else None, kind


def template_of(name: str) -> str:
    """Return the template of an instance; empty for what is none."""
    prefix, instance, kind = parts(name)
    return f"{prefix}@.{kind}" if instance else ""


def is_template(name: str) -> bool:
    return parts(name)[1] == ""


_NAME = re.compile(rf"(?:{UNIT_NAME})\Z")


def is_name(name: str) -> bool:
    """Whether this is the name of a unit."""
    return _NAME.match(name) is not None


def may_be_alias(alias: str, name: str) -> bool:
    """Whether a unit can have another name: of its type, and an instance or template only for one."""
    if not is_name(alias) or parts(alias)[2] != parts(name)[2]:
        return False
    one, other = parts(alias)[1], parts(name)[1]
    return (one is None) == (other is None) and (not other or not one or one == other)


class UnitFiles:
    """The unit files of an image."""

    def __init__(self, image: LaidOver) -> None:
        self.image = image
        self.folders = list(_search_path(image))

    def find(self, name: str, *, follow: bool = False) -> Unit:
        """Return a unit by its name. follow: also where it is another name that an administrator gave to one.

        Raises UnitError.
        """
        for wanted in filter(None, (name, template_of(name))):
            for folder in self.folders:
                path = f"{folder}/{wanted}"
                kind, target = self.image.look(self.image.place(path))
                if not kind:
                    continue
                real = self.image.real(path)
                other = os.path.basename(real)
                if kind != "l" or real == "/dev/null" or other in (wanted, template_of(wanted)):
                    return self._unit(name, path, kind, real)
                if folder == CONFIG and not follow:
                    raise UnitError(f"is another name of {other}: name that one")
                if self.image.look(real)[0] != "f":
                    raise UnitError(f"is a link to {target}, where no file is")
                return self._unit(other, f"{os.path.dirname(path)}/{other}", "f", real)
        raise UnitError("is not in the image: no base, package or proto directory brought it")

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name, or of its template."""
        try:
            self.find(name)
        except UnitError:
            return False
        return True

    def _unit(self, name: str, path: str, kind: str, real: str) -> Unit:
        if kind == "l" and real != "/dev/null":
            path = real
        if real != "/dev/null" and self.image.look(real)[0] != "f":
            raise UnitError(f"is no file, nor a link to one: {path}")
        try:
            text = b"" if real == "/dev/null" else self.image.read(real)
        except (OSError, BuildstepError) as error:
            raise UnitError(f"cannot be read: {error}") from error
        unit = Unit(name=name, path=path, masked=not text)
        _take(unit, text.decode(errors="replace"))
        for extra in self._drop_ins(name):
            _take(unit, extra)
        return unit

    def _drop_ins(self, name: str) -> Iterator[str]:
        """Yield the drop-ins of a unit, by file name: one in /etc hides one of its name elsewhere."""
        found: dict[str, str] = {}
        for wanted in filter(None, (name, template_of(name))):
            for folder in self.folders:
                for file in self.image.names(f"{folder}/{wanted}.d"):
                    if file.endswith(".conf"):
                        found.setdefault(file, f"{folder}/{wanted}.d/{file}")
        for file in sorted(found):
            try:
                yield self.image.read(found[file]).decode(errors="replace")
            except (OSError, BuildstepError):
                continue


def _search_path(image: LaidOver) -> Iterator[str]:
    """Yield the directories of unit files, the first one first, each place once."""
    vendor = (_LIB, _USR_LIB) if _has_lib_first(image) else (_USR_LIB, _LIB)
    seen = set()
    for folder in (CONFIG, "/usr/local/lib/systemd/system", *vendor):
        if (real := image.real(folder)) not in seen:
            seen.add(real)
            yield folder


def _has_lib_first(image: LaidOver) -> bool:
    """Whether the image's systemctl would write links to /lib/systemd/system."""
    libraries = ("/usr/lib", "/lib", *(f"/usr/lib/{name}" for name in image.names("/usr/lib") if "-" in name))
    for folder in libraries:
        for name in image.names(f"{folder}/systemd"):
            if version := re.fullmatch(r"libsystemd-shared-(\d+).*\.so", name):
                debian = image.look("/var/lib/dpkg/status")[0] == "f"
                return debian and int(version[1]) < _ONE_USR
    return False


_LISTS = {
    "Alias": "alias",
    "WantedBy": "wanted_by",
    "RequiredBy": "required_by",
    "UpheldBy": "upheld_by",
    "Also": "also",
}


def _take(unit: Unit, text: str) -> None:
    """Add the [Install] section of a file to a unit. An empty value empties a list."""
    section = ""
    for line in _lines(text):
        if line.startswith("["):
            section = line
        elif section == "[Install]":
            key, _, value = (word.strip() for word in line.partition("="))
            if key == "DefaultInstance":
                unit.default_instance = value
            elif key in _LISTS:
                old: list[str] = getattr(unit, _LISTS[key])
                new = [*old, *_words(value)] if value else []
                setattr(unit, _LISTS[key], new)


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of a unit file without comments; a backslash at the end joins it to the next."""
    held = ""
    for row in text.splitlines():
        line = row.strip()
        if line[:1] in ("#", ";"):
            continue
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        if whole := (held + line).strip():
            yield whole
        held = ""
    if held.strip():
        yield held.strip()


def _words(value: str) -> list[str]:
    try:
        lexer = shlex.shlex(value, posix=True)
        lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
        return list(lexer)
    except ValueError:
        return value.split()
