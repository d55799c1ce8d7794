"""Look through contents for secrets: quickly in the many that have none, exactly in those that may have one.

Nearly every secret has a run of twenty letters, digits and the signs of base64; nearly no text of people has.
`clean` therefore translates a content to two letters and looks for a run of one of them, at 2 GB/s where an
expression does 0.1. Contents with such a run are reduced to their runs, and these are held to the expression.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from buildstep.system import masking
from buildstep.trust.secrets.formats import FORMATS, URL, Format

RUN = 20
"""Letters in a row that a secret has; the shortest of all are the access keys of AWS."""

_LEAST_RUN = 10
"""A run that a secret of the build's own may have instead; shorter ones are looked for one by one."""

_HEAD = 8192
"""Bytes in which a file that is no text has a NUL, as grep(1) and git(1) tell."""

_MOST_HITS = 20
_GZIP = b"\x1f\x8b"
_SMALL = 64 << 10
_LARGEST = 1 << 20
"""Bytes of a compressed file that is unpacked to look into it, and of what is in it."""

_IN_RUN = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-+=")
_TABLE = bytes(97 if byte in _IN_RUN else 32 for byte in range(256))
_KEY = b"PRIVATE KEY"
_AZURE = b"Q~"
"""Of the formats that do not begin after something that is no letter."""

_BEFORE = 24
"""Bytes before a run in which a secret may begin: `hvs.`, or the name of a key and `: "`."""

_AROUND = 128
_AFTER = 4096
"""Bytes after a run in which a secret may go on: the other parts of a signed token."""

_URL = re.compile(rb"://[^\s/@:\"'<>`\\]{0,100}:[^\s/@:\"'<>`\\]{5,200}@")
"""What an address with a password has: quick, as it begins with what few texts have."""

_OWN = "build-secret"

VERSION = hashlib.sha256(
    repr(("2", RUN, [(row.name, row.quick, row.pattern) for row in (*FORMATS, URL)])).encode()
).hexdigest()[:16]
"""Of the rules: contents that were clean under another one are looked through again."""


class Hit(NamedTuple):
    """A secret that was found. rule: the name of its format; about: what it is; line: from 1; shown: its
    first letters and length, and nothing else of it; sure: False where it may be none."""

    rule: str
    about: str
    line: int
    shown: str
    sure: bool = True

    def __str__(self) -> str:
        doubt = "" if self.sure else ", whose checksum is wrong"
        return f"has {self.about}{doubt} in line {self.line}: {self.shown} ({self.rule})"


def shown(value: bytes) -> str:
    """Return what may be told of a secret: at most its first four characters, and its length."""
    begin = value[: min(4, len(value) // 4)].decode("ascii", "replace")
    begin = "".join(letter if letter.isprintable() and letter != "\ufffd" else "." for letter in begin)
    return f"{begin}... ({len(value)} characters)"


class Search:
    """What to look for. words: secrets of the build's own, in all the forms in which they could be there."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._words = tuple(dict.fromkeys(word for word in words if len(word) >= masking.LEAST))
        forms = {
            form.encode("utf-8", "surrogateescape") for word in self._words for form in masking.forms(word)
        }
        runs = {form: longest_run(form) for form in forms}
        self._short = sorted(form for form, size in runs.items() if size < _LEAST_RUN)
        least = min([RUN, *(size for size in runs.values() if size >= _LEAST_RUN)])
        self._run = b"a" * least
        quick = b"|".join(row.quick for row in FORMATS if row.quick not in (_KEY, _AZURE))
        self._quick = re.compile(rb"[^0-9A-Za-z](?:%s)" % quick)
        self._own = masking.finder(self._words) if self._words else None
        self._cores = sorted({_core(form) for form, size in runs.items() if size >= _LEAST_RUN})

    @property
    def version(self) -> str:
        """What a content that is clean is clean of. The build's own words are in it as a digest that takes
        time to reckon, as it is kept."""
        if not self._words:
            return VERSION
        text = "\0".join(self._words).encode("utf-8", "surrogateescape")
        return VERSION + hashlib.pbkdf2_hmac("sha256", text, VERSION.encode(), 100_000).hex()

    def clean(self, data: bytes) -> bool:
        """Say whether nothing is in a content that needs a closer look; quickly."""
        if inner := _within(data):
            return self.clean(inner)
        letters = data.translate(_TABLE)
        if self._run in letters and not self._runs_clean(data, letters):
            return False
        for form in self._short:
            if form in data:
                return False
        return _URL.search(data) is None or b"\0" in data[:_HEAD]

    def _runs_clean(self, data: bytes, letters: bytes) -> bool:
        """Say whether nothing is in the runs. letters: the content as `a` and spaces."""
        if _KEY in data:
            return False
        parts = [data[max(0, begin - _BEFORE) : end] for begin, end in self._runs(letters)]
        runs = b"\n" + b"\n".join(parts)
        if _AZURE in runs or self._quick.search(runs) is not None:
            return False
        return all(core not in runs for core in self._cores)

    def _runs(self, letters: bytes) -> Iterator[tuple[int, int]]:
        run, at = self._run, letters.find(self._run)
        while at >= 0:
            end = letters.find(b" ", at)
            end = len(letters) if end < 0 else end
            yield at, end
            at = letters.find(run, end)

    def find(self, data: bytes) -> list[Hit]:
        """Return the secrets in a content, each once, in the order of the lines."""
        if self.clean(data):
            return []
        if inner := _within(data):
            return self.find(inner)
        found = [*self._own_words(data), *self._tokens(data), *_of(data, 0, len(data), _KEYS)]
        if b"\0" not in data[:_HEAD] and _URL.search(data):
            found += _of(data, 0, len(data), (URL,))
        taken: list[tuple[int, int]] = []
        hits = []
        for begin, end, hit in sorted(found, key=lambda row: (row[0], -row[1])):
            if not any(begin < other_end and other < end for other, other_end in taken):
                taken.append((begin, end))
                hits.append(hit)
        return hits[:_MOST_HITS]

    def _tokens(self, data: bytes) -> Iterator[tuple[int, int, Hit]]:
        """Yield the tokens in and around the runs that look like one: most of a content is not looked at."""
        done = 0
        for begin, end in self._runs(data.translate(_TABLE)):
            part = b"\n" + data[max(0, begin - _BEFORE) : end]
            if end > done and (_AZURE in part or self._quick.search(part)):
                first, done = max(done, begin - _AROUND), min(len(data), end + _AFTER)
                yield from _of(data, first, done, _TOKENS)

    def _own_words(self, data: bytes) -> Iterator[tuple[int, int, Hit]]:
        for match in self._own.finditer(data) if self._own else ():
            value = match[0]
            yield (
                *match.span(),
                Hit(_OWN, "a secret of this build", line_of(data, match.start()), shown(value)),
            )


def utf16_of(data: bytes) -> str:
    """Return the encoding of a text in UTF-16, as Windows writes it; empty for another."""
    return {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(data[:2], "")


def _within(data: bytes) -> bytes:
    """Return what is looked through instead of a content; empty for the content itself."""
    if encoding := utf16_of(data):
        return data[2:].decode(encoding, "replace").encode("utf-8", "replace")
    return _unpacked(data) if data[:2] == _GZIP else b""


def _unpacked(data: bytes) -> bytes:
    """Return the beginning of a small compressed file, unless it is compressed twice; empty for others."""
    if len(data) > _SMALL:
        return b""
    try:
        inner = zlib.decompressobj(31).decompress(data, _LARGEST)
    except zlib.error:
        return b""
    return b"" if inner[:2] == _GZIP else inner


def longest_run(form: bytes) -> int:
    """Return how many letters in a row a text has that secrets are made of."""
    return len(_core(form))


def _core(form: bytes) -> bytes:
    """Return the longest run of a text."""
    return max(re.split(rb"[^0-9A-Za-z_+=-]", form), key=len)


def line_of(data: bytes, at: int) -> int:
    """Return the number of the line in which a byte is."""
    return data.count(b"\n", 0, at) + 1


_KEYS = tuple(row for row in FORMATS if row.name == "private-key")
_TOKENS = tuple(row for row in FORMATS if row.name != "private-key")


def _of(data: bytes, begin: int, end: int, formats: Sequence[Format]) -> Iterator[tuple[int, int, Hit]]:
    for row in formats:
        for match in row.compiled.finditer(data, begin, end):
            value = match["s"]
            real = row.real(value)
            if real or row.doubt(value):
                whole = match[0] if row.name == "private-key" else value
                hit = Hit(row.name, row.about, line_of(data, match.start()), shown(whole), sure=real)
                yield *match.span(), hit
