"""Licences as package databases name them, written as SPDX expressions.

What a name says is translated, and nothing is guessed from it: a name that no SPDX identifier stands for is a
`LicenseRef-` with its text. Precedence of DEP-5 (copyright-format/1.0): `and` before `or`, and both before a
comma; of SPDX (annex D): WITH, AND, OR, with parentheses.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable

from buildstep.trust.inventory.model import License
from buildstep.trust.inventory.spdx_ids import BY_LOWER, EXCEPTIONS_BY_LOWER

MOST_TEXT = 64 << 10
"""Characters of a licence's text: that of the GPL has 35,000."""

_LONGEST_TEXT = 4000
_DEEPEST = 20
_LONGEST_NAME = 100

_NAMES = {
    "expat": "MIT",
    "mit/x11": "MIT",
    "mit license": "MIT",
    "the mit license": "MIT",
    "mit-license": "MIT",
    "apache-2": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache-1": "Apache-1.0",
    "asl 2.0": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",
    "artistic-2": "Artistic-2.0",
    "bsd-2-clause-netbsd": "BSD-2-Clause",
    "bsd-2-clause-freebsd": "BSD-2-Clause",
    "simplified bsd": "BSD-2-Clause",
    "2-clause-bsd": "BSD-2-Clause",
    "modified-bsd": "BSD-3-Clause",
    "bsd-3-clause-regents": "BSD-3-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "original-bsd": "BSD-4-Clause",
    "boost": "BSL-1.0",
    "boost-license": "BSL-1.0",
    "cc0": "CC0-1.0",
    "cc-by-3": "CC-BY-3.0",
    "cc-by-4": "CC-BY-4.0",
    "cc-by-sa-3": "CC-BY-SA-3.0",
    "cc-by-sa-4": "CC-BY-SA-4.0",
    "isc license": "ISC",
    "mpl 2.0": "MPL-2.0",
    "mpl-2": "MPL-2.0",
    "psf": "PSF-2.0",
    "psf-2": "PSF-2.0",
    "psf license": "PSF-2.0",
    "python": "Python-2.0",
    "python-software-foundation": "PSF-2.0",
    "perl": "GPL-1.0-or-later OR Artistic-1.0-Perl",
    "unicode": "Unicode-DFS-2016",
    "the unlicense": "Unlicense",
    "zlib/libpng": "Zlib",
    "openssl": "OpenSSL",
    "php": "PHP-3.01",
    "zpl-2": "ZPL-2.0",
    "lppl": "LPPL-1.3c",
}
"""Names that are in use, in lower case, for those of SPDX."""

_GNU = re.compile(
    r"(?:gnu[- ])?(?P<which>[al]?gpl)"
    r"(?:[- ]?(?:version[- ]|v\.?)?(?P<major>[123])(?:\.(?P<minor>\d))?(?:\.0)?)?"
    r"(?P<later>\+|[- ]or[- ](?:later|newer|greater)|[- ]only)?"
)
_GFDL = re.compile(
    r"gfdl(?P<niv>-niv)?-(?P<minor>1\.[123])(?P<later>\+|-or-later|-only)?(?P<after>-no-invariants?)?"
)
_EXCEPTION = re.compile(
    r"(?P<name>.+?)(?:[-_ ]+with(?:[-_ ]+the)?)?[-_ ]+"
    r"(?P<exception>[a-z0-9.]+(?:-[a-z0-9.]+)*?)[-_ ]exception(?P<number>-\d[\d.]*)?"
)
_EXCEPTIONS = {
    "autoconf": "Autoconf-exception-generic",
    "bison": "Bison-exception-2.2",
    "classpath": "Classpath-exception-2.0",
    "font": "Font-exception-2.0",
    "gcc": "GCC-exception-3.1",
    "gcc-runtime-library": "GCC-exception-3.1",
    "libtool": "Libtool-exception",
    "linux-syscall-note": "Linux-syscall-note",
    "llvm": "LLVM-exception",
    "openssl": "",
    "texinfo": "Texinfo-exception",
}
"""How exceptions are called; an empty one has as many texts as projects."""

_LOWEST = {"gpl": "1.0", "lgpl": "2.0", "agpl": "3.0"}
_TOKEN = re.compile(r"\(|\)|,(?=\s*(?:and|or)\b)|,|\b(?:and|or|with)\b(?=\s|\()|[^\s(),]+", re.IGNORECASE)
_ID_CHARACTERS = re.compile(r"[^A-Za-z0-9.-]+")

TextOf = Callable[[str], str]


def spdx_name(name: str) -> str:
    """Return the SPDX expression that a licence's name stands for; empty for one that has none."""
    text = " ".join(name.split()).lower()
    if len(text) > _LONGEST_NAME:
        return ""
    if text in _NAMES:
        return _NAMES[text]
    if match := _GNU.fullmatch(text):
        return _gnu(match)
    if match := _GFDL.fullmatch(text):
        kind = "-no-invariants" if match["niv"] or match["after"] else ""
        return f"GFDL-{match['minor']}{kind}{_later(match)}"
    if text in BY_LOWER:
        return BY_LOWER[text]
    if text.endswith("+") and text[:-1] in BY_LOWER:
        return f"{BY_LOWER[text[:-1]]}+"
    match = _EXCEPTION.fullmatch(text)
    return _with(spdx_name(match["name"]), match["exception"] + (match["number"] or "")) if match else ""


def _gnu(match: re.Match[str]) -> str:
    which = match["which"]
    if match["major"] is None:  # any version that was ever published (GPL-2, section 9)
        return f"{which.upper()}-{_LOWEST[which]}-or-later"
    version = f"{match['major']}.{match['minor'] or '0'}"
    found = f"{which.upper()}-{version}{_later(match)}"
    return found if found.lower() in BY_LOWER else ""


def _later(match: re.Match[str]) -> str:
    return "-or-later" if match["later"] and not match["later"].endswith("only") else "-only"


def _with(name: str, exception: str) -> str:
    """Return a licence with an exception; empty where SPDX has no name for one of them."""
    text = exception.strip().lower().removesuffix("-exception").removesuffix(" exception").replace(" ", "-")
    found = _EXCEPTIONS.get(text)
    if found is None:
        found = EXCEPTIONS_BY_LOWER.get(f"{text}-exception") or EXCEPTIONS_BY_LOWER.get(text) or ""
    return f"{name} WITH {found}" if found and name and " " not in name else ""


def reference(name: str, text: str) -> str:
    """Return the identifier of a licence that SPDX does not know: by its name and, as many texts have one
    name, by its text."""
    stem = _ID_CHARACTERS.sub("-", name)[:60].strip("-.") or "unnamed"
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8] if text else ""
    return "-".join(filter(None, ("LicenseRef", stem, digest)))


Node = str | tuple[str, tuple["Node", ...]]
"""An expression: a name, or AND or OR with what it joins. Nothing is an empty name."""


def _join(joiner: str, nodes: Iterable[Node]) -> Node:
    """Return one expression of several, each once, in an order that does not depend on who wrote it."""
    parts: dict[Node, None] = {}
    for node in nodes:
        inner = node[1] if isinstance(node, tuple) and node[0] == joiner else (node,)
        parts.update(dict.fromkeys(part for part in inner if part))
    return next(iter(parts), "") if len(parts) < 2 else (joiner, tuple(sorted(parts, key=_text)))


def _text(node: Node, *, inside: bool = False) -> str:
    if isinstance(node, str):
        return node
    joined = f" {node[0]} ".join(_text(part, inside=True) for part in node[1])
    return f"({joined})" if inside else joined


class Expressions:
    """Expressions that one document has, with the texts of what SPDX does not know.

    text_of: gives the text of a name, empty where there is none.
    """

    def __init__(self, text_of: TextOf = lambda _name: "") -> None:
        self.texts: dict[str, str] = {}
        self._text_of = text_of

    def all_of(self, texts: Iterable[str]) -> License:
        """Return the licence of something whose parts are under these, each by its rules."""
        found = _join("AND", map(self._node, dict.fromkeys(texts)))
        return License(expression=_text(found), texts=self.texts)

    def one(self, name: str, exception: str = "") -> Node:
        """Return the expression of one name."""
        found = _with(spdx_name(name), exception) if exception else spdx_name(name)
        if found or not name or name.lower() in ("none", "noassertion", "unknown"):
            return _join("OR", found.split(" OR "))
        whole = f"{name} with {exception}" if exception else name
        text = (self._text_of(whole) or (self._text_of(name) if exception else ""))[:MOST_TEXT]
        ready = whole.lower().startswith("licenseref-") and not _ID_CHARACTERS.search(whole)
        ref = whole if ready else reference(whole[:_LONGEST_NAME], text)
        self.texts[ref] = text or whole
        return ref

    def _node(self, text: str) -> Node:
        """Return one expression: an SPDX one, or names joined by `and`, `or` and commas."""
        text = text.replace("_or_", " or ").replace("_and_", " and ")[:_LONGEST_TEXT]
        return self.one(text) if spdx_name(text) else _Parser(_TOKEN.findall(text), self).all()


class _Parser:
    """A reader of one expression; whatever it is given, it returns one."""

    def __init__(self, tokens: list[str], names: Expressions) -> None:
        self._tokens = tokens
        self._at = 0
        self._names = names

    def all(self) -> Node:
        found = [self._commas(0)]
        while self._at < len(self._tokens):  # after a parenthesis too many
            self._at += 1
            found.append(self._commas(0))
        return _join("AND", found)

    def _word(self) -> str:
        return self._tokens[self._at].lower() if self._at < len(self._tokens) else ""

    def _commas(self, depth: int) -> Node:
        """`A or B, and C`: what a comma ends binds first."""
        found = self._either(depth)
        while self._word() == ",":
            self._at += 1
            joiner = "AND"
            if self._word() in ("and", "or"):
                joiner = self._word().upper()
                self._at += 1
            found = _join(joiner, (found, self._either(depth)))
        return found

    def _either(self, depth: int) -> Node:
        parts = [self._both(depth)]
        while self._word() == "or":
            self._at += 1
            parts.append(self._both(depth))
        return _join("OR", parts)

    def _both(self, depth: int) -> Node:
        parts = [self._one(depth)]
        while self._word() == "and":
            self._at += 1
            parts.append(self._one(depth))
        return _join("AND", parts)

    def _one(self, depth: int) -> Node:
        if self._word() == "(" and depth < _DEEPEST:
            self._at += 1
            found = self._commas(depth + 1)
            self._at += self._word() == ")"
            return found
        name, exception = self._words(), ""
        if self._word() == "with":
            self._at += 1
            exception = self._words()
        return self._names.one(name, exception)

    def _words(self) -> str:
        start = self._at
        ends = ("", ")", ",", "and", "or", "with")
        while self._word() not in ends and (self._word() != "(" or self._at > start):
            self._at += 1
        return " ".join(self._tokens[start : self._at])
