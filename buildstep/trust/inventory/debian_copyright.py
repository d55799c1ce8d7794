"""Licences of Debian's packages, from the copyright file that each one has.

DEP-5 (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/) where the file is in that form; of
free text, the licences of /usr/share/common-licenses that it points to, and the two whose wording is known.
What is said there is about the source package: paragraphs that are only about its packaging, its tests or its
build scripts are left out, as no package has these files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import islice

from buildstep.trust.inventory.deb822 import body, paragraphs
from buildstep.trust.inventory.interface import Reading, plain
from buildstep.trust.inventory.licenses import MOST_TEXT, Expressions
from buildstep.trust.inventory.model import License

_LIMIT = 4 << 20
_MOST_HOLDERS = 2000
_MOST_POINTERS = 200
_LONGEST_PATTERN = 500
_DEP5 = re.compile(r"^Format(?:-Specification)?:[ \t]", re.MULTILINE | re.IGNORECASE)
_HEADER = 4000
"""Characters in which the header of a file in that form is."""
_NOT_SHIPPED = re.compile(
    r"(?:\./)?(?:debian/\S*|(?:\S*/)?(?:tests?|testsuite|t|m4|build-aux|config|autotools)/\S*|(?:\S*/)?"
    r"(?:configure|aclocal\.m4|install-sh|ltmain\.sh|config\.(?:guess|sub|rpath)|missing|depcomp|compile|mkinstalldirs"
    r"|ylwrap|test-driver|Makefile\.in|\S*\.m4|INSTALL))"
)
"""Files of a source package that take part in its build or its tests alone."""

_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z][A-Za-z0-9.-]*[A-Za-z0-9])")
_LATER = re.compile(r"(?:or|any)\s+(?:\(?at\s+your\s+option\)?\s+)?(?:any\s+)?later\s+version", re.IGNORECASE)
_WORDINGS = (
    (
        re.compile(
            r"Permission\s+is\s+hereby\s+granted,\s+free\s+of\s+charge,\s+to\s+any\s+person\s+obtaining\s+a\s+copy"
        ),
        "MIT",
    ),
    (
        re.compile(
            r"Permission\s+to\s+use,\s+copy,\s+modify,\s+and(?:/or)?\s+distribute\s+this\s+software\s+for\s+any\s+purpose"
        ),
        "ISC",
    ),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a copyright file says. copyright: the holders of what the package is in the main."""

    license: License = field(default_factory=License)
    copyright: str = ""


class Copyrights:
    """The copyright files of an image, each read once: packages of one source have the same."""

    def __init__(self, reading: Reading, top: bytes) -> None:
        self._reading = reading
        self._top = top
        self._by_text: dict[str, Found] = {}

    def of(self, package: str) -> Found:
        """Return what is said of a package; nothing where it has no such file."""
        path = b"usr/share/doc/" + package.encode() + b"/copyright"
        text = self._reading.text(path, self._top, _LIMIT)
        if not text:
            return Found()
        if text not in self._by_text:
            self._by_text[text] = read_copyright(text, package)
        return self._by_text[text]


def read_copyright(text: str, package: str) -> Found:
    """Return what a copyright file says, in either form. package: names a text that has no other name."""
    found = _dep5(text, package) if _DEP5.search(text[:_HEADER]) else Found()
    return found if found.license.expression else _free_text(text, package)


def _dep5(text: str, package: str) -> Found:
    texts: dict[str, str] = {}
    wanted, fallback, holders = dict[str, None](), dict[str, None](), ""
    for at, fields in enumerate(paragraphs(text)):
        value = fields.get("License", fields.get("Licence", ""))
        name = " ".join(value.partition("\n")[0].split())
        if value and (words := body(value)):
            if not name or _is_text(name):  # the text where the name should be
                words, name = f"{name}\n{words}".strip(), package
            texts.setdefault(name.lower(), words)
        if "Files" in fields and name:
            patterns = fields["Files"].replace(",", " ").split()
            shipped = not patterns or not all(map(_left_out, patterns))
            (wanted if shipped else fallback)[name] = None
            if "*" in patterns or not holders:
                holders = fields.get("Copyright", "")
        elif at == 0 and name:
            fallback[name] = None
    names = Expressions(lambda name: texts.get(name.lower(), ""))
    return Found(names.all_of(wanted or fallback or texts), _holders(holders))


def _left_out(pattern: str) -> bool:
    return len(pattern) < _LONGEST_PATTERN and _NOT_SHIPPED.fullmatch(pattern) is not None


def _is_text(name: str) -> bool:
    """Say whether a line is the beginning of a text: a name has few words between its joiners."""
    return any(
        len(part.split()) > 5 for part in re.split(r"\band\b|\bor\b|\bwith\b|,", name, flags=re.IGNORECASE)
    )


def _holders(value: str) -> str:
    rows = (plain(row) for row in value.split("\n"))
    return "\n".join(row for row in rows if row and row != ".")[:_MOST_HOLDERS]


def _free_text(text: str, package: str) -> Found:
    """Return the licences that a text points to. One that points to none is a licence of its own."""
    names = dict.fromkeys(
        _common(match[1], text, match.start()) for match in islice(_COMMON.finditer(text), _MOST_POINTERS)
    )
    names.update(dict.fromkeys(name for wording, name in _WORDINGS if wording.search(text)))
    rows = (
        plain(row)
        for row in text.splitlines()
        if re.match(r"\s*(?:\(c\)|©|copyright\b.{0,6}\d{4})", row, re.IGNORECASE)
    )
    holders = "\n".join(dict.fromkeys(rows))[:_MOST_HOLDERS]
    if names:
        return Found(Expressions().all_of(names), holders)
    whole = Expressions(lambda _name: text[:MOST_TEXT])
    return Found(whole.all_of([f"{package}-copyright"]), holders)


def _common(name: str, text: str, at: int) -> str:
    """Return the name of a licence in common-licenses. It says `GPL-2`; whether later ones are allowed stands
    in the sentences before."""
    before = text[max(0, at - 2000) : at]
    if name in ("GPL", "LGPL", "GFDL"):
        versions = re.findall(r"[Vv]ersion\s+(\d(?:\.\d)?)", before)
        name = f"{name}-{versions[-1]}" if versions else name
    later = name.startswith(("GPL-", "LGPL-", "GFDL-")) and _LATER.search(before)
    return f"{name}+" if later else name
