"""Secrets in files: what is looked for, and which may be there, until when and why."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from buildstep.errors import UsageError
from buildstep.spec.trust import AllowedSecret, Trust
from buildstep.system.digest import sha256_bytes
from buildstep.system.files import atomic_write
from buildstep.system.text import printable, shown
from buildstep.tree.entry import Entry

if TYPE_CHECKING:
    from buildstep.trust.secrets.search import Hit, Search

BASELINE_FORMAT = 1

SETTINGS = "m.json"
"""The path of what is in the image's configuration, for exceptions."""

_OF_OTHERS = re.compile(
    rb"(?:^|/)(?:node_modules|site-packages|dist-packages|vendor|gems)/(?:.*/)?"
    rb"(?:tests?|testdata|fixtures|examples?)/",
    re.DOTALL,
)
"""Tests of what an application takes from others: a key in these is a warning at most."""

_PIECE = 4 << 20
_OVERLAP = 16 << 10
"""Bytes that a piece of a large file has in common with the one before: a private key has fewer."""

_HEAD = 8192
_MOST_BASELINE = 16 << 20

Row = tuple[bytes, str, bool]
"""Of a finding: the path, what is wrong there, and whether that is sure."""


def _today() -> str:
    return time.strftime("%Y-%m-%d")


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A finding as a baseline has it. digest: SHA-256 of the file."""

    path: str
    rule: str
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Looking:
    """What to look for. allow: what may be there, the rows of a baseline too; today: as 2027-01-31; found:
    takes each finding, for a baseline."""

    search: Search
    allow: Sequence[AllowedSecret] = ()
    today: str = field(default_factory=_today)
    found: list[Known] = field(default_factory=list)

    def in_file(self, path: bytes, data: bytes) -> list[Row]:
        """Return what is in a file and may not be there."""
        from buildstep.trust.secrets import named_files

        hits = self.search.find(data)
        if named_files.is_named(path):
            lines = {hit.line for hit in hits}
            hits += [hit for hit in named_files.find(path, data) if hit.line not in lines]
        return self._rows(path, hits, lambda: hashlib.sha256(data).hexdigest())

    def in_settings(self, data: bytes) -> list[Row]:
        """Return what is in how the image is run, which everybody can read: each variable is a line."""
        from buildstep.trust.secrets import named_files

        hits = self.search.find(data)
        lines = {hit.line for hit in hits}
        hits += [hit for hit in named_files.find(b".env", data) if hit.line not in lines]
        digest = hashlib.sha256(data).hexdigest()
        text = "the configuration of the image has"
        return [
            (b"", f"{text} {hit.about}: {hit.shown} ({hit.rule}){over}", hit.sure)
            for hit, over in self._not_allowed(SETTINGS, hits, digest)
        ]

    def in_names(self, files: Iterable[tuple[bytes, Entry]]) -> list[Row]:
        """Return what is in names of files, in what links lead to, and in extended attributes. A name
        that has a secret is not told: its directory is."""
        rows = list(files)
        if self.search.clean(b"\n".join(part for path, entry in rows for part in _written(path, entry))):
            return []
        found: dict[Row, None] = {}
        for path, entry in rows:
            if self.search.clean(b"\n".join(_written(path, entry))):
                continue
            place, hits = path, self.search.find(path)
            while self.search.find(place):
                place = place.rpartition(b"/")[0]
            found.update(dict.fromkeys(self._of_text(place, "a name in it has", hits)))
            for what, text in (("its target has", entry.target), *_attributes(entry)):
                found.update(dict.fromkeys(self._of_text(place, what, self.search.find(text))))
        return list(found)

    def _of_text(self, path: bytes, what: str, hits: Sequence[Hit]) -> Iterator[Row]:
        for hit, over in self._not_allowed(shown(path), hits, ""):
            yield path, f"{what} {hit.about}: {hit.shown} ({hit.rule}){over}", hit.sure

    def in_large(self, path: bytes, entry: Entry, open_: Callable[[Entry], IO[bytes]]) -> list[Row]:
        """Return what is in a large file; one that is no text is not looked through."""
        hits: dict[tuple[str, str], Hit] = {}
        with open_(entry) as stream:
            for data, line in _pieces(stream):
                for hit in self.search.find(data):
                    hits.setdefault((hit.rule, hit.shown), hit._replace(line=hit.line + line))
        return self._rows(path, list(hits.values()), lambda: entry.sha256)

    def _rows(self, path: bytes, hits: Sequence[Hit], digest_of: Callable[[], str]) -> list[Row]:
        if not hits:
            return []
        sure = _OF_OTHERS.search(path) is None
        return [
            (path, f"{hit}{over}", hit.sure and sure)
            for hit, over in self._not_allowed(shown(path), hits, digest_of())
        ]

    def _not_allowed(self, name: str, hits: Sequence[Hit], digest: str) -> Iterator[tuple[Hit, str]]:
        """Yield those that may not be there, each with what is to be said of an exception that is over."""
        self.found.extend(Known(path=name, rule=hit.rule, digest=digest) for hit in hits)
        for hit in hits:
            reasons = [row for row in self.allow if _means(row, name, hit.rule, digest)]
            if any(not row.until or row.until >= self.today for row in reasons):
                continue
            over = "".join(
                f"; it was allowed until {row.until}: {printable(row.reason)}" for row in reasons[:1]
            )
            yield hit, over


def _attributes(entry: Entry) -> Iterator[tuple[str, bytes]]:
    for name, value in entry.xattrs:
        yield "an extended attribute of it has", name + b"\n" + value


def _written(path: bytes, entry: Entry) -> Iterator[bytes]:
    """Yield what is written in a directory of a file."""
    yield from (path, entry.target, *(text for _, text in _attributes(entry)))


def _means(row: AllowedSecret, name: str, rule: str, digest: str) -> bool:
    if row.rule not in ("", rule) or row.digest not in ("", digest):
        return False
    return not row.path or _fits(row.path, name)


def _fits(glob: str, name: str) -> bool:
    from buildstep.checks.examine import allowed

    return allowed([glob])(name.encode("utf-8", "surrogateescape"))


def _pieces(stream: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield the pieces of a text, and how many lines are before each; nothing of what is no text."""
    from buildstep.trust.secrets.search import utf16_of

    before, lines = b"", 0
    decoder: codecs.IncrementalDecoder | None = None
    while fresh := stream.read(_PIECE):
        if not before and (encoding := utf16_of(fresh)):
            decoder, fresh = codecs.getincrementaldecoder(encoding)("replace"), fresh[2:]
        if decoder is not None:
            fresh = decoder.decode(fresh).encode("utf-8", "replace")
        elif not before and b"\0" in fresh[:_HEAD]:
            return
        data = before + fresh
        yield data, lines
        before = data[-_OVERLAP:]
        lines += data.count(b"\n", 0, len(data) - len(before))


def decides(trust: Trust) -> dict[str, Any]:
    """Return what is said of secrets, as far as a build could end in another way for it: a day that comes to
    pass and another baseline are such things. Nothing where nothing is said."""
    today = _today()
    rows = [row for row in trust.allow_secrets if not row.until or row.until >= today]
    baseline = ""
    if trust.secrets_baseline:
        with contextlib.suppress(OSError):  # the rule tells it
            baseline = sha256_bytes(Path(trust.secrets_baseline).read_bytes())
    said = {"severity": trust.secrets, "allow": [asdict(row) for row in rows], "baseline": baseline}
    return {"trust.secrets": said} if any(said.values()) else {}


# -- baselines --------------------------------------------------------------------------------------------


def read_baseline(path: Path) -> tuple[AllowedSecret, ...]:
    """Return the findings of a baseline, each allowed in the file as it was. Raises UsageError."""
    try:
        with path.open("rb") as stream:
            said = json.loads(stream.read(_MOST_BASELINE))
        rows = said["findings"]
        if said["format"] != BASELINE_FORMAT:
            raise ValueError(f"its format is {said['format']!r}, and this version reads {BASELINE_FORMAT}")
        found = [(row["path"], row["rule"], row["digest"]) for row in rows]
        if not all(part and isinstance(part, str) for row in found for part in row):
            raise ValueError("a finding without path, rule or digest")
    except OSError as error:
        raise UsageError(f"the baseline {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise UsageError(f"{path} is no baseline of secrets: {error}") from error
    return tuple(
        AllowedSecret(reason="in the baseline", path=_plain(path), digest=digest, rule=rule)
        for path, rule, digest in found
    )


def _plain(path: str) -> str:
    """Return a glob that fits nothing but this path."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def write_baseline(path: Path, found: Sequence[Known]) -> None:
    """Write what was found, and no secret, so that it fails nothing later. Raises OSError."""
    rows = [
        {"path": row.path, "rule": row.rule, "digest": row.digest}
        for row in sorted({*found}, key=lambda row: (row.path, row.rule, row.digest))
    ]
    text = json.dumps({"format": BASELINE_FORMAT, "findings": rows}, indent=1) + "\n"
    with atomic_write(path) as stream:
        stream.write(text.encode())
