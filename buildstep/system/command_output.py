"""What a command prints, within bounds: its lines as they come, its end, and what a caller asked to have.

A command may print more than fits into memory, on a disk or on a page. So the first HEAD bytes are told line
by line, and of what follows only the end is, once the command is over, with a line in between that says how
much is missing. A line of more than LINE_BYTES is told in parts, as they come, up to LONG; of a longer one,
and of one in an output's end, it is told how much is missing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii
from typing import Protocol

from buildstep.events import Part
from buildstep.system.text import size_text

LINE_BYTES = 1 << 16
"""How much of a line is told at once. No path and no message of a sane tool is longer."""

LONG = 64 << 20
"""Bytes of long lines that are told of one command, as the event log has them."""

_WORD = 4096
"""A part of a line ends after a blank if there is one so near to its end: no word is cut in two then, such as
an address with a password, which is hidden by whoever is told of it."""

HEAD = 8 << 20
"""Bytes of a command's output that are told as they come."""

END = 1 << 20
END_LINES = 10_000
"""How much is told of the end of one that printed more than that."""

LINE_COST = 64
"""What a line adds to its bytes when they are counted against HEAD: an empty one is an event as well."""

TAIL_LINES = 40
TAIL_LINE = 1000
"""How much of a failing command's output goes into the error, in lines and characters of each."""

ENDS = TAIL_LINES // 2
"""Lines of the beginning and of the end of what a command says beside its answer: the first one often is the
cause of all others."""

READ = 1 << 16
"""Bytes that are read from a pipe at once, which is what a pipe of Linux holds."""


class Line(Protocol):
    """What is called with each line, or with a part of one."""

    def __call__(self, text: str, part: Part = ..., /) -> None: ...


class Output:
    """Both streams of one command. Memory is bounded whatever it prints.

    line: called with each line that is told. keep: bytes of each stream that are kept as they are, for a
    caller that wants them. bytes: how much came so far; heard: when the last of it did.
    """

    def __init__(self, line: Line | None = None, *, keep: int = 0) -> None:
        self.bytes = 0
        self.heard = time.monotonic()
        self.stdout = Stream(self, keep)
        self.stderr = Stream(self, keep)
        self._line = line
        self._room = HEAD
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._end: deque[bytes] = deque()
        self._end_bytes = 0
        self._missing = 0
        self._long_lines = 0
        self._long_room = LONG

    @property
    def tail(self) -> str:
        """The last lines of both streams, for an error. Complete once `close` was called."""
        return _cut(self._tail)

    @property
    def errors(self) -> str:
        """Of a command whose answer is kept, what it said beside it: the beginning and the end of stderr."""
        return self.stderr.ends

    @property
    def failure(self) -> str:
        """What an error shows of the output: where an answer was kept, what was said beside it comes first.

        A list of a hundred thousand names would leave no line of it in the tail.
        """
        errors, answer = self.errors, self.stdout.ends
        if not errors or not answer:
            return self.tail
        last = answer.split("\n")[-ENDS:]
        return "\n".join([errors, "its other output ends with:", *last])

    def close(self) -> None:
        """Tell what is left to be told: lines without an end, and the end of a long output."""
        self.stdout.close()
        self.stderr.close()
        if not self._end:
            return
        before, *last = (b"\n" + b"\n".join(self._end)).rsplit(b"\n", END_LINES)
        self._end.clear()
        self._missing += len(before)
        if self._missing:
            self._tell([f"[{size_text(self._missing)} of this command's output are left out here]"])
        self._tell([_text(raw) for raw in last])

    def add(self, lines: bytes) -> None:
        """Take whole lines of either stream, without the last one's end."""
        if self._room > 0:
            texts = _text(lines).split("\n")
            self._room -= len(lines) + LINE_COST * len(texts)
            self._tell(texts)
            return
        self._end.append(lines)
        self._end_bytes += len(lines) + 1
        while self._end_bytes - len(self._end[0]) > END:
            dropped = len(self._end.popleft()) + 1
            self._end_bytes -= dropped
            self._missing += dropped

    def begin_long(self) -> int:
        """Return the number of a line that will be told in parts; 0 where it cannot be."""
        if self._line is None or self._room <= 0 or self._long_room <= 0:
            return 0
        self._long_lines += 1
        return self._long_lines

    def add_part(self, raw: bytes, part: Part) -> bool:
        """Take a part of a line; return whether more can be taken."""
        text = _text(raw)
        if part.part == 1:
            self._room -= len(raw) + LINE_COST
            self._tail.append(text)
        if part.size:
            self._tail.append(f"[{size_text(part.size)} in this line]")
        self._long_room -= len(encode_basestring_ascii(text))
        if self._line is not None:
            self._line(text, part)
        return self._long_room > 0

    def _tell(self, texts: list[str]) -> None:
        self._tail.extend(texts[-TAIL_LINES:])
        if self._line is not None:
            for text in texts:
                self._line(text)


class Stream:
    """One pipe of a command. overflow: whether more came than was to be kept; then nothing is kept."""

    def __init__(self, output: Output, keep: int) -> None:
        self._output = output
        self._keep = keep
        self._kept = bytearray()
        self._begun = bytearray()
        self._size = self._cut = 0
        self._number = self._parts = 0
        self._full = False
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=ENDS)
        self._lines = 0
        self.overflow = False

    @property
    def text(self) -> str:
        """What was kept, without the end of the last line."""
        return _text(bytes(self._kept)).removesuffix("\n")

    @property
    def ends(self) -> str:
        """The first and the last lines, where something was to be kept. Complete once it is closed."""
        missing = self._lines - len(self._first) - len(self._last)
        between = [f"[{missing} more lines]"] if missing else []
        return _cut([*self._first, *between, *self._last])

    def take(self, data: bytes) -> None:
        """Take what was read from the pipe, at most READ bytes."""
        self._output.bytes += len(data)
        self._output.heard = time.monotonic()
        if self._keep and not self.overflow:
            self._kept += data
            if len(self._kept) > self._keep:
                self.overflow = True
                self._kept.clear()
        whole, end, rest = data.rpartition(b"\n")
        if end:
            if self._size:
                first, end, whole = whole.partition(b"\n")
                self._begin(first)
                self._finish()
            if end:
                self._add(whole)
        if rest:
            self._begin(rest)

    def close(self) -> None:
        """The pipe is at its end: a line that was begun is a line."""
        if self._size:
            self._finish()

    def _add(self, lines: bytes) -> None:
        """Hand on whole lines, without the last one's end."""
        self._output.add(lines)
        self._keep_ends(lines)

    def _keep_ends(self, lines: bytes) -> None:
        if not self._keep:
            return
        rows = lines.split(b"\n")
        room = ENDS - len(self._first)
        self._first += map(_text, rows[:room])
        self._last.extend(map(_text, rows[room:][-ENDS:]))
        self._lines += len(rows)

    def _begin(self, data: bytes) -> None:
        """Add to a line whose end has not come."""
        self._size += len(data)
        if self._full:
            self._cut += len(data)
            return
        self._begun += data
        while len(self._begun) > LINE_BYTES:
            if not self._parts:
                self._number = self._output.begin_long()
            if not self._number:
                self._drop(LINE_BYTES)
                return
            end = _part_end(self._begun)
            more = self._add_part(bytes(self._begun[:end]))
            del self._begun[:end]
            if not more:
                self._drop(0)
                return

    def _drop(self, start: int) -> None:
        """Leave out what comes from here on."""
        self._full = True
        self._cut = len(self._begun) - start
        del self._begun[start:]

    def _add_part(self, raw: bytes, *, size: int = 0) -> bool:
        self._parts += 1
        if self._parts == 1:
            self._keep_ends(raw)
        return self._output.add_part(raw, Part(self._number, self._parts, size))

    def _finish(self) -> None:
        """The line is at its end."""
        line = bytes(self._begun)
        if self._cut:
            line += f" [{size_text(self._cut)} more in this line]".encode()
        if self._number:
            self._add_part(line, size=self._size)
        else:
            self._add(line)
        self._begun.clear()
        self._size = self._cut = self._number = self._parts = 0
        self._full = False


def _part_end(line: bytearray) -> int:
    """Return where the next part of a long line ends: after a blank, or else not inside of a character."""
    blank = line.rfind(b" ", LINE_BYTES - _WORD, LINE_BYTES)
    if blank >= 0:
        return blank + 1
    end = LINE_BYTES
    while end > LINE_BYTES - 4 and line[end] & 0xC0 == 0x80:  # UTF-8: it goes on
        end -= 1
    return end


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def last_lines(text: str) -> str:
    """Return the end of a text as an error shows it."""
    return _cut(text.rstrip().split("\n")[-TAIL_LINES:])


def _cut(lines: Iterable[str]) -> str:
    return "\n".join(text if len(text) <= TAIL_LINE else f"{text[:TAIL_LINE]} [...]" for text in lines)
