"""What a command prints, within bounds: its lines as they come, its end, and what a caller asked to have.

A command may print more than fits into memory, on a disk or on a page. So a line is cut after LINE_BYTES; the
first HEAD bytes are told line by line, and of what follows only the end is, once the command is over, with a
line in between that says how much is missing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from buildstep.system.text import size_text

LINE_BYTES = 1 << 16
"""How much of one line is shown. No path and no message of a sane tool is longer."""

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

Line = Callable[[str], None]


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
        self._cut = 0
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
            if self._begun:
                first, end, whole = whole.partition(b"\n")
                self._begin(first)
                self._add(self._finished() + end + whole)
            else:
                self._add(whole)
        if rest:
            self._begin(rest)

    def close(self) -> None:
        """The pipe is at its end: a line that was begun is a line."""
        if self._begun:
            self._add(self._finished())

    def _add(self, lines: bytes) -> None:
        """Hand on whole lines, without the last one's end."""
        self._output.add(lines)
        if not self._keep:
            return
        rows = lines.split(b"\n")
        room = ENDS - len(self._first)
        self._first += map(_text, rows[:room])
        self._last.extend(map(_text, rows[room:][-ENDS:]))
        self._lines += len(rows)

    def _begin(self, part: bytes) -> None:
        """Add to a line whose end has not come."""
        room = LINE_BYTES - len(self._begun)
        self._begun += part[:room]
        self._cut += max(0, len(part) - room)

    def _finished(self) -> bytes:
        line = bytes(self._begun)
        if self._cut:
            line += f" [{size_text(self._cut)} more in this line]".encode()
        self._begun.clear()
        self._cut = 0
        return line


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def last_lines(text: str) -> str:
    """Return the end of a text as an error shows it."""
    return _cut(text.rstrip().split("\n")[-TAIL_LINES:])


def _cut(lines: Iterable[str]) -> str:
    return "\n".join(text if len(text) <= TAIL_LINE else f"{text[:TAIL_LINE]} [...]" for text in lines)
