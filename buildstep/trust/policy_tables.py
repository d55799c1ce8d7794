"""Reading of policies: TOML files whose tables name keys, and all that is wrong with them in one message."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from buildstep.errors import Fault, SpecError, UsageError

_LARGEST: Final = 1 << 20
"""Bytes of a policy, and of a file that it names."""
_DAY: Final = timedelta(days=1).total_seconds()


class PolicyReader:
    """Reads the tables of one policy and gathers what is wrong with them. path: of its file; the files that
    it names are beside that."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self.faults: list[Fault] = []

    def load(self, form: int) -> dict[str, Any]:
        """Return what the file holds. form: the number of its format. Raises UsageError where it cannot be
        read, SpecError where it is no TOML."""
        import tomllib

        try:
            with self.path.open("rb") as stream:
                data = stream.read(_LARGEST + 1)
            if len(data) > _LARGEST:
                raise UsageError(f"the {self.what} {self.path} is larger than {_LARGEST >> 20} MiB")
            value = tomllib.loads(data.decode())
        except OSError as error:
            raise UsageError(f"cannot read the {self.what} {self.path}: {error.strerror}") from error
        except ValueError as error:
            raise SpecError(str(self.path), [Fault(where="$", message=f"not TOML: {error}")]) from error
        if type(value.get("format")) is not int or value["format"] != form:
            self.wrong("$.format", f"must be {form}")
        return value

    def check(self) -> None:
        """Raise SpecError with all that is wrong, if anything is."""
        if self.faults:
            raise SpecError(str(self.path), self.faults)

    def wrong(self, where: str, message: str, hint: str = "") -> None:
        """Note something that is wrong."""
        self.faults.append(Fault(where=where, message=message, hint=hint))

    def rows(
        self, value: Mapping[str, Any], table: str, members: set[str]
    ) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the rows of an array of tables, each with where it is; those that are no tables are left
        out."""
        rows = value.get(table, [])
        if not isinstance(rows, list):
            self.wrong(f"$.{table}", f"write [[{table}]]")
            return []
        found = [(f"$.{table}[{number}]", row) for number, row in enumerate(rows)]
        return [(where, row) for where, row in found if self.known(where, row, members)]

    def known(self, where: str, value: object, members: set[str]) -> bool:
        """Report members that are not known; false for what is no table."""
        if not isinstance(value, dict):
            self.wrong(where, "must be a table")
            return False
        for name in sorted(value.keys() - members):
            self.wrong(f"{where}.{name}", "is not known", f"one of {', '.join(sorted(members))}")
        return True

    def name(self, where: str, row: Mapping[str, Any]) -> str:
        """Return what a key is called, empty where that is missing."""
        name = row.get("name")
        if not isinstance(name, str) or not name:
            self.wrong(f"{where}.name", "is missing: give the key a name")
            return ""
        return name

    def twice(self, names: Sequence[str]) -> None:
        """Report names of keys that come more than once."""
        for name in sorted({name for name in names if name and names.count(name) > 1}):
            self.wrong("$.key", f"two keys are called {name}")

    def some(self, where: str, value: object, known: Sequence[str]) -> tuple[str, ...]:
        """Return a list of words that all have to be known ones."""
        found = self.texts(where, value)
        for name in found:
            if name not in known:
                self.wrong(where, f"{name!r} is not known", f"one of {', '.join(known)}")
        return found

    def texts(self, where: str, value: object, *, empty: bool = False) -> tuple[str, ...]:
        """Return a list of texts, each once. empty: whether it may be."""
        fine = isinstance(value, list) and all(isinstance(text, str) and text for text in value)
        if not isinstance(value, list) or not fine or not (value or empty):
            self.wrong(where, "must be a list of texts" + ("" if empty else " that is not empty"))
            return ()
        return tuple(dict.fromkeys(value))

    def day(self, where: str, row: Mapping[str, Any], member: str, *, end: bool = False) -> float:
        """Return the time of a member in seconds since the epoch: of a day its beginning, or its end, in UTC.

        Without the member it is without end, in that direction.
        """
        value, never = row.get(member), math.inf if end else -math.inf
        if value is None:
            return never
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, date):
            begin = datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
            return begin + _DAY if end else begin
        self.wrong(f"{where}.{member}", "must be a date, such as 2027-06-30, without quotes")
        return never

    def data(
        self,
        where: str,
        row: Mapping[str, Any],
        direct: str,
        get: Callable[[str], bytes] = lambda text: text.encode(),
    ) -> tuple[str, bytes]:
        """Return what one of two members gives, and where that stands: the member `direct`, by `get`, or the
        content of what `file` names. Nothing where it is wrong."""
        given = [name for name in (direct, "file") if row.get(name)]
        if len(given) != 1 or not isinstance(row[given[0]], str):
            self.wrong(where, f"give one of {direct} and file, as text")
            return where, b""
        at = f"{where}.{given[0]}"
        if given[0] == direct:
            return at, get(row[direct])
        try:
            with (self.path.parent / row["file"]).open("rb") as stream:
                return at, stream.read(_LARGEST)
        except OSError as error:
            self.wrong(at, f"cannot read {row['file']}: {error.strerror}")
            return at, b""
