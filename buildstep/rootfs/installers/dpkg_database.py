"""dpkg's database, read as text, and the order of its versions."""

from __future__ import annotations

import re
from itertools import zip_longest

from buildstep.rootfs.installers.common import failures
from buildstep.rootfs.interface import Package, Sandbox

STATUS = "/var/lib/dpkg/status"
INFO = "/var/lib/dpkg/info"
"""Where each package has a NAME.list, or NAME:ARCH.list, with the paths that it owns."""

_FIELD = re.compile(r"^(Package|Version|Architecture|Source|Status): (.*)$", re.MULTILINE)


def installed_packages(status: str) -> list[Package]:
    """Return the installed packages of a dpkg status file, as dpkg-query tells them, sorted by name."""
    found = []
    for paragraph in status.split("\n\n"):
        fields = dict(_FIELD.findall(paragraph))
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            found.append(
                Package(
                    name=fields["Package"],
                    version=fields.get("Version", ""),
                    arch=fields.get("Architecture", ""),
                    source=(fields.get("Source") or fields["Package"]).partition(" ")[0],
                )
            )
    return sorted(found, key=lambda package: (package.name, package.arch))


def ask(sandbox: Sandbox) -> list[Package]:
    """Return the installed packages of a root that was entered, by its own dpkg-query, sorted by name."""
    fields = ("db:Status-Status", "Package", "Version", "Architecture", "source:Package")
    form = "\t".join(f"${{{field}}}" for field in fields) + "\n"
    with failures("listing packages", ()):
        text = sandbox.run(["dpkg-query", "--show", f"--showformat={form}"], what="dpkg-query")
    found = []
    for row in text.splitlines():
        status, name, version, arch, source = row.split("\t")
        if status == "installed":
            found.append(Package(name=name, version=version, arch=arch, source=source))
    return sorted(found, key=lambda package: (package.name, package.arch))


def newer(version: str, than: str) -> bool:
    """Say whether a version comes after another, by deb-version(7)."""
    mine, its = _split(version), _split(than)
    for left, right in zip(mine, its, strict=True):
        for one, other in zip_longest(left, right, fillvalue=_NOTHING):
            if one != other:
                return one > other
    return False


_Part = tuple[tuple[int, ...], int, str]
_NOTHING: _Part = ((0,), 0, "")


def _split(version: str) -> tuple[list[_Part], list[_Part], list[_Part]]:
    """Return epoch, upstream version and revision, each as parts that compare as dpkg does it."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "", version
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, ""
    return _parts(epoch), _parts(upstream), _parts(revision)


def _parts(text: str) -> list[_Part]:
    """Return letters and number in turn. A tilde comes before the end, that before letters, all else last."""
    found = []
    for letters, digits in re.findall(r"([^0-9]*)([0-9]*)", text):
        if letters or digits:
            number = digits.lstrip("0")  # as text, of any length
            found.append(((*map(_order, letters), 0), len(number), number))
    return found


def _order(letter: str) -> int:
    if letter == "~":
        return -1
    return ord(letter) if letter.isalpha() else ord(letter) + 0x110000
