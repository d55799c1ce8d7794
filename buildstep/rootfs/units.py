"""Enable, disable and mask systemd's units in an image that does not run, as systemctl(1) does with `--root`.

Nothing is started: to enable a unit is to make the links that its [Install] section asks for. Presets are
left alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from buildstep.errors import BuildstepError, Fault, SpecError
from buildstep.rootfs.laid_over import LaidOver
from buildstep.rootfs.unit_files import (
    CONFIG,
    Unit,
    UnitError,
    UnitFiles,
    is_name,
    is_template,
    may_be_alias,
    parts,
)
from buildstep.spec.accounts import Units


@dataclass(kw_only=True, slots=True)
class Changes:
    """What was done: links that were made, by their paths, and removed; absent: units that want one of these
    and are not in the image (unit, wanted by)."""

    made: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    absent: list[tuple[str, str]] = field(default_factory=list)


def apply(units: Units, image: LaidOver) -> Changes:
    """Do all that is asked for. Raises SpecError with every unit that it cannot be done for, before anything
    is changed."""
    files, done = UnitFiles(image), Changes()
    faults: list[Fault] = []
    for number, name in enumerate(units.enable):
        try:
            done.made |= _links(files, name, done)
        except UnitError as error:
            faults.append(Fault(where=f"$.build.units.enable[{number}]", message=f"{name} {error}"))
    for number, name in enumerate(units.mask):
        place = f"{CONFIG}/{name}"
        kind, target = image.look(image.place(place))
        if kind and (kind, target) != ("l", "/dev/null"):
            message = f"{name} cannot be masked: there is {place}"
            faults.append(Fault(where=f"$.build.units.mask[{number}]", message=message))
    if faults:
        raise SpecError("units", faults)
    for path, target in done.made.items():
        image.link(path, target)
    _disable(files, units.disable, done)
    for name in units.mask:
        done.made[f"{CONFIG}/{name}"] = "/dev/null"
        image.link(f"{CONFIG}/{name}", "/dev/null")
    return done


# -- enabling ------------------------------------------------------------------------------------------------


def _links(files: UnitFiles, name: str, done: Changes) -> dict[str, str]:
    """Return the links (path to target) that enable a unit, and those that it names with Also=.

    Raises UnitError.
    """
    found: dict[str, str] = {}
    waiting, seen = [name], set[str]()
    while waiting:
        wanted = waiting.pop(0)
        if wanted in seen:
            continue
        seen.add(wanted)
        unit = files.find(wanted)
        if unit.masked:
            raise UnitError("is masked" if wanted == name else f"goes with {wanted}, which is masked")
        if wanted == name and not unit.installable:
            raise UnitError(
                "has no [Install] section that says what wants it: it cannot be enabled, and is started by"
                " what needs it"
            )
        found |= _links_of(files, unit, done)
        waiting += [_expand(files, unit, word) for word in unit.also]
    return found


def _links_of(files: UnitFiles, unit: Unit, done: Changes) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in unit.alias:
        alias = _expand(files, unit, word)
        if not may_be_alias(alias, unit.name):
            raise UnitError(f"cannot have the alias {alias}")
        if alias == unit.name:
            continue
        place = f"{CONFIG}/{alias}"
        kind, target = files.image.look(files.image.place(place))
        if kind and not (kind == "l" and _same(files.image, place, unit.path)):
            there = f"a link to {target}" if kind == "l" else "a file"
            raise UnitError(f"has the alias {alias}, and {place} is {there}")
        found[place] = unit.path
    name, bare = unit.name, False
    if is_template(name):
        prefix, _, kind = parts(name)
        bare = not unit.default_instance
        name = name if bare else f"{prefix}@{_expand(files, unit, unit.default_instance)}.{kind}"
    wants = ((unit.wanted_by, "wants"), (unit.required_by, "requires"), (unit.upheld_by, "upholds"))
    for words, kind in wants:
        for word in words:
            target = _expand(files, unit, word)
            if not is_name(target):
                raise UnitError(f"is to be wanted by {target}, which is no name of a unit")
            if bare and parts(target)[1] is None:
                raise UnitError(
                    f"is a template: name an instance, such as {parts(name)[0]}@1.{parts(name)[2]}"
                )
            if not files.exists(target):
                done.absent.append((name, target))
            found[f"{CONFIG}/{target}.{kind}/{name}"] = unit.path
    return found


def _same(image: LaidOver, one: str, other: str) -> bool:
    return image.real(one) == image.real(other)


_OF_THE_RELEASE = {
    "o": "ID", "w": "VERSION_ID", "W": "VARIANT_ID", "A": "IMAGE_VERSION", "M": "IMAGE_ID", "B": "BUILD_ID",
}  # fmt: skip
_UNESCAPED = re.compile(r"\\x([0-9a-fA-F]{2})")


def _expand(files: UnitFiles, unit: Unit, text: str) -> str:
    """Return a word of an [Install] section with its specifiers replaced (systemd.unit(5)).

    Raises UnitError for those that only a running machine knows.
    """

    def value(match: re.Match[str]) -> str:
        letter = match[1]
        prefix, instance, kind = parts(unit.name)
        instance = instance or unit.default_instance
        at = f"@{instance}" if parts(unit.name)[1] is not None else ""
        known = {
            "n": f"{prefix}{at}.{kind}", "N": f"{prefix}{at}", "p": prefix, "i": instance, "%": "%",
            "I": _unescape(instance), "P": _unescape(prefix), "j": prefix.rpartition("-")[2],
            "u": "root", "U": "0", "g": "root", "G": "0",
        }  # fmt: skip
        if letter in known:
            return known[letter]
        if letter in _OF_THE_RELEASE:
            return _of_the_release(files.image, _OF_THE_RELEASE[letter])
        raise UnitError(f"has %{letter} in its [Install] section, which only a running machine knows")

    return re.sub("%(.?)", value, text)


def _unescape(text: str) -> str:
    return _UNESCAPED.sub(lambda match: chr(int(match[1], 16)), text.replace("-", "/"))


def _of_the_release(image: LaidOver, key: str) -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = os.fsdecode(image.read(path))
        except (OSError, BuildstepError):
            continue
        found = re.search(rf"^{key}=[\"']?([^\"'\n]*)", text, re.MULTILINE)
        return found[1] if found else ""
    return ""


# -- disabling -----------------------------------------------------------------------------------------------


def _disable(files: UnitFiles, names: tuple[str, ...], done: Changes) -> None:
    """Remove all links in /etc to these units and those that they name with Also=, by whatever name."""
    gone: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if name in gone:
            continue
        try:
            unit = files.find(name, follow=True)
        except UnitError:
            gone.add(name)  # links of a unit that is not there any more
            continue
        if not unit.masked:
            gone.add(unit.name)
            waiting += [_expand(files, unit, word) for word in unit.also]
    before = -1
    while before != len(done.removed):  # an alias that went may have been what another link leads to
        before = len(done.removed)
        for path, leads_to in list(_all_links(files.image)):
            if {os.path.basename(path), os.path.basename(leads_to), leads_to} & gone:
                gone.add(path)
                files.image.remove(path)
                done.removed.append(path)
                folder = os.path.dirname(path)
                while folder != CONFIG and files.image.remove_empty(folder):
                    folder = os.path.dirname(folder)


def _all_links(image: LaidOver, folder: str = CONFIG) -> Iterator[tuple[str, str]]:
    """Yield every link to a unit below a directory of links, with where it leads."""
    for name in image.names(folder):
        path = f"{folder}/{name}"
        kind, target = image.look(image.place(path))
        if kind == "d":
            yield from _all_links(image, path)
        elif kind == "l" and target != "/dev/null":
            yield path, image.real(path)
