"""A large JSON object, read member by member: nothing but one member of a member is ever in memory whole."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from buildstep.errors import UsageError

_PIECE = 1 << 20
LARGEST = 16 << 20
"""Characters that one member of a member may have; the largest real ones have some thousands."""

_BLANK = re.compile(r"[ \t\r\n]*")


class _Ended(Exception):
    """More text is needed to go on."""


class _Text:
    """The text of a stream, of which only what is not read yet is kept."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._json = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._whole = False

    def _more(self) -> None:
        """Read on: as much again as is kept, so that a long member is not looked at too often."""
        if self._whole:
            raise ValueError("it ends in the middle")
        kept = self._text[self._at :]
        if len(kept) > LARGEST:
            raise ValueError("a member of it is too large")
        data = self._stream.read(max(_PIECE, len(kept)))
        self._whole = not data
        self._text = kept + self._decoder.decode(data, final=self._whole)
        self._at = 0

    def mark(self) -> str:
        """Return the next character that is not blank, and pass it."""
        while True:
            self._at = _BLANK.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                self._at += 1
                return self._text[self._at - 1]
            self._more()

    def value(self) -> Any:
        """Return the next value, and pass it."""
        while True:
            self._at = _BLANK.match(self._text, self._at).end()  # type: ignore[union-attr]
            try:
                value, end = self._json.raw_decode(self._text, self._at)
                # A number at the end of what is there may go on.
                if end == len(self._text) and not self._whole and self._text[-1:] not in '"}]':
                    raise _Ended
            except (ValueError, _Ended):
                if self._whole:
                    raise ValueError("it is not JSON") from None
                self._more()
                continue
            self._at = end
            return value

    def members(self) -> Iterator[str]:
        """Yield the names of an object's members; the caller has passed its value when the next is asked
        for."""
        if self.mark() != "{":
            raise ValueError("an object is missing")
        mark = self.mark()
        while mark != "}":
            if mark == ",":
                mark = self.mark()
            if mark != '"':
                raise ValueError("a name is missing")
            self._at -= 1
            name = self.value()
            if self.mark() != ":":
                raise ValueError("a colon is missing")
            yield name
            mark = self.mark()
            if mark not in ",}":
                raise ValueError("a comma is missing")

    def end(self) -> None:
        """Make sure that nothing follows."""
        try:
            self.mark()
        except ValueError:
            return
        raise ValueError("something follows its end")


def members_of_members(stream: IO[bytes], what: str) -> Iterator[tuple[str, str, Any]]:
    """Yield (name, name within it, value) of an object of objects. Raises UsageError for what is none."""
    text = _Text(stream)
    try:
        for name in text.members():
            for inner in text.members():
                yield name, inner, text.value()
        text.end()
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise UsageError(f"{what}: {reason}", hint="was it downloaded to its end?") from error
