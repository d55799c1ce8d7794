"""A file of HRD: its entries in their order, typed access, and changes that leave the rest as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from buildstep.errors import Fault, SpecError
from buildstep.services.hrd import typed
from buildstep.services.hrd.ask import Ask
from buildstep.services.hrd.entries import Entry, Node, Other
from buildstep.services.hrd.reader import BAD_KEY, Reader
from buildstep.services.hrd.values import BLANKS, CONTROL, Value, render

_T = TypeVar("_T")
_MISSING: Final[Any] = object()
MOST = 64 << 20
"""Bytes that a file may have."""
MOST_FAULTS = 100
"""How many faults of a file are told."""


def parse(text: str | bytes, *, where: str = "HRD") -> Document:
    """Return what a text says. where: the file's name, for the faults.

    Raises SpecError with every fault, each at `where:line:column`: what the parser of JumpScale 7 would have
    lost without a word, what is no HRD at all, and bytes that are no UTF-8. A byte order mark is skipped;
    lines may end with \\r\\n.
    """
    if isinstance(text, bytes):
        text = _decoded(text, where)
    reader = Reader(text.removeprefix("\ufeff"), where)
    reader.read()
    if reader.faults:
        raise SpecError(where, told(reader.faults, where))
    return Document(reader.nodes, where=where, mark=text[:1] == "\ufeff")


def read(path: Path) -> Document:
    """Return what a file says; see `parse`. Raises SpecError for one that cannot be read, too."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise SpecError(str(path), [Fault(where=str(path), message=reason)]) from error
    if len(data) > MOST:
        fault = Fault(where=str(path), message=f"has more than {MOST >> 20} MiB", hint="it is no HRD")
        raise SpecError(str(path), [fault])
    return parse(data, where=str(path))


def told(faults: list[Fault], where: str) -> list[Fault]:
    """Return the faults of a file that a person has use for: of a file that is no HRD, the first ones."""
    if len(faults) <= MOST_FAULTS:
        return faults
    more = Fault(where=where, message=f"{len(faults) - MOST_FAULTS} more faults", hint="mend these first")
    return [*faults[:MOST_FAULTS], more]


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        fault = Fault(
            where=f"{where}:{line}:{column}",
            message=f"the byte {data[error.start]:#04x} is no UTF-8",
            hint="save the file as UTF-8",
        )
        raise SpecError(where, [fault]) from None


class Document:
    """Keys and their values, in the order of their file.

    Two are equal if they have the same keys with the same values in the same order. `str` gives the file:
    what was read to the letter, but for what has been changed.
    """

    def __init__(self, nodes: list[Node] | None = None, *, where: str = "HRD", mark: bool = False) -> None:
        self.where = where
        self._nodes: list[Node] = [] if nodes is None else nodes
        self._mark = mark
        self._entries = {node.key: node for node in self._nodes if isinstance(node, Entry)}

    @classmethod
    def of(cls, values: Mapping[str, Value], *, where: str = "HRD") -> Document:
        """Return a document with these values. Raises SpecError with all that HRD cannot say."""
        document = cls(where=where)
        faults: list[Fault] = []
        for key, value in values.items():
            try:
                document.set(key, value)
            except SpecError as error:
                faults += error.faults
        if faults:
            raise SpecError(where, faults)
        return document

    # Reading.

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The entries by their keys, in the order of the file."""
        return self._entries

    @property
    def nodes(self) -> list[Node]:
        """All that the file holds, blank lines and comments too, in its order."""
        return list(self._nodes)

    @property
    def values(self) -> dict[str, Value]:
        """The values by their keys."""
        return {key: entry.value for key, entry in self._entries.items()}

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Document) and list(self.values.items()) == list(other.values.items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<HRD {self.where}: {len(self)} keys>"

    def __str__(self) -> str:
        return ("\ufeff" if self._mark else "") + "".join(node.raw for node in self._nodes)

    def place(self, key: str) -> str:
        """Return where a key is, for a fault: `file:line:column`, or the file and the key if it was set."""
        entry = self._entries.get(key)
        return f"{self.where}:{entry.line}:{entry.column}" if entry and entry.line else f"{self.where}: {key}"

    def fault(self, key: str, message: str, hint: str = "") -> SpecError:
        """Return an error about the value of a key."""
        return SpecError(self.where, [Fault(where=self.place(key), message=message, hint=hint)])

    def get(self, key: str, default: _T = _MISSING) -> Value | _T:
        """Return the value of a key as it is written: references are in it, an @ASK is an `Ask`.

        Raises SpecError, with a key that is nearly the same, if there is none and no default.
        """
        if (entry := self._entries.get(key)) is not None:
            return entry.value
        if default is not _MISSING:
            return default
        from buildstep.spec.schema import near

        raise self.fault(key, f"there is no key {key}", near(key, self._entries))

    def _typed(self, key: str, default: _T, convert: Any) -> Any:
        if key not in self._entries and default is not _MISSING:
            return default
        try:
            return convert(self.get(key))
        except typed.Mistyped as error:
            raise self.fault(key, f"{key} {error.message}", error.hint) from None

    def text(self, key: str, default: str = _MISSING) -> str:
        """Return a value that is a text."""
        return str(self._typed(key, default, typed.text))

    def integer(self, key: str, default: int = _MISSING) -> int:
        """Return a whole number; as before, an empty text and `none` are 0."""
        return int(self._typed(key, default, typed.integer))

    def real(self, key: str, default: float = _MISSING) -> float:
        """Return a number; as before, an empty text and `none` are 0."""
        return float(self._typed(key, default, typed.real))

    def boolean(self, key: str, default: bool = _MISSING) -> bool:
        """Return whether a value is true: `true` or `1`; `false`, `0`, `none` and nothing are not.

        The old parser took all else for false; here it is a fault, so that `yes` does not mean no.
        """
        return bool(self._typed(key, default, typed.boolean))

    def items(self, key: str, default: list[Any] = _MISSING) -> list[Any]:
        """Return a list; as before, a text is taken apart at its commas."""
        found: list[Any] = self._typed(key, default, typed.items)
        return found

    def table(self, key: str, default: dict[str, Any] = _MISSING) -> dict[str, Any]:
        """Return a dict with its values typed; see `typed.guess`."""
        found: dict[str, Any] = self._typed(key, default, typed.table)
        return found

    def numbered(self, prefix: str) -> dict[int, Value]:
        """Return the values of `prefix.N` by N, in the order of their numbers, which may have gaps.

        Raises SpecError for a number that two keys have (`a.1` and `a.01`).
        """
        return typed.numbered(self, prefix)

    def under(self, prefix: str) -> dict[str, Value]:
        """Return the values of the keys `prefix.REST` by REST. `processor` is not under `process`."""
        start = f"{prefix}."
        return {key[len(start) :]: value for key, value in self.values.items() if key.startswith(start)}

    def asks(self) -> dict[str, Ask]:
        """Return the questions that are not answered, by their keys."""
        return {key: value for key, value in self.values.items() if isinstance(value, Ask)}

    # Changing.

    def set(self, key: str, value: Value) -> None:
        """Give a key a value, where it stands or at the end. All else stays as it is, its comment too.

        Raises SpecError for a key or a value that HRD has no way to say; nothing is changed then.
        """
        self._check_key(key)
        try:
            first, *rest = render(value)
        except ValueError as error:
            raise SpecError(self.where, [Fault(where=f"{self.where}: {key}", message=str(error))]) from None
        old = self._entries.get(key)
        note = f"  {old.note}" if old and old.note and not isinstance(value, bytes) else ""
        binary = isinstance(value, bytes)
        indent = "" if binary else "    "
        end = self._line_end()
        lines = [f"{key} ={first}{note}", *(f"{indent}{line}" for line in rest)]
        raw = "".join(f"{line}{end}" for line in lines)
        block = bool(rest)
        if old is None:
            self._close_last(end)
            self._nodes.append(Entry(key, value, 0, 0, raw, block))
            at = len(self._nodes) - 1
        else:
            at = self._position(old)
            self._nodes[at] = Entry(key, value, old.line, old.column, raw, block, old.note if note else "")
        entry = self._nodes[at]
        assert isinstance(entry, Entry)
        self._entries[key] = entry
        self._part(at + 1, end)
        self._part(at, end)

    def remove(self, key: str) -> None:
        """Take a key out. Comments stay. Raises SpecError if it is not there."""
        self.get(key)
        at = self._position(self._entries.pop(key))
        del self._nodes[at]
        self._part(at, self._line_end())

    def _position(self, entry: Entry) -> int:
        return next(at for at, node in enumerate(self._nodes) if node is entry)

    def _check_key(self, key: str) -> None:
        bad = (
            not key
            or key != key.strip(BLANKS)
            or key[0] == "@"
            or "=" in key
            or "#" in key
            or "\n" in key
            or CONTROL.search(key)
            or BAD_KEY.search(key)
        )
        if bad:
            hint = "a key is words of letters, digits and _, with dots between them"
            raise SpecError(
                self.where, [Fault(where=self.where, message=f"{key!r} can be no key of HRD", hint=hint)]
            )

    def _line_end(self) -> str:
        return "\r\n" if self._nodes and self._nodes[0].raw.endswith("\r\n") else "\n"

    def _close_last(self, end: str) -> None:
        """End the last line of the file, if it is not."""
        if self._nodes and not self._nodes[-1].raw.endswith("\n"):
            last = self._nodes[-1]
            if isinstance(last, Other):
                self._nodes[-1] = Other(last.raw + end)
            else:
                closed = Entry(
                    last.key, last.value, last.line, last.column, last.raw + end, last.block, last.note
                )
                self._nodes[-1] = self._entries[last.key] = closed

    def _part(self, at: int, end: str) -> None:
        """Put a blank line before a node that would else be read as a part of the block before it."""
        if at >= len(self._nodes) or not at:
            return
        back = at - 1
        while back >= 0 and isinstance(before := self._nodes[back], Other) and before.raw.strip():
            back -= 1
        before = self._nodes[back] if back >= 0 else Other("")
        if not isinstance(before, Entry) or not before.block or isinstance(before.value, bytes):
            return
        node = self._nodes[at]
        indented = node.raw[:1] in BLANKS
        filled = "\n" in before.raw.rstrip("\r\n")
        if isinstance(node, Entry) and (indented or (filled and back == at - 1)):
            self._nodes.insert(at, Other(end))
