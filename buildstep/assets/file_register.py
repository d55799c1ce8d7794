"""Mappings in one file, TOML or, by its name, JSON: for a single machine, a repository or a shared folder.

    [hosts]
    "web-prod-*" = ["base", "web"]

As JSON: `{"hosts": {"web-prod-*": ["base", "web"]}}`. A change keeps the comments of a TOML file where each
mapping has a line of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from buildstep.assets import values
from buildstep.assets.interface import Mappings, RegisterAccess, RegisterError, Unmade, Versioned
from buildstep.errors import SpecError, UsageError
from buildstep.spec import schema
from buildstep.spec.schema import array, mapping, record, text
from buildstep.system import space
from buildstep.system.files import atomic_write, stamp
from buildstep.system.locks import lock

TABLE: Final = "hosts"

_RULE = record({TABLE: mapping(array(text(least=0)))})
_POLL = 0.2
"""Seconds between two looks at the file's times; one look is one call of the kernel."""

Rows = dict[str, list[str]]


class FileRegister:
    """file:PATH"""

    scheme: ClassVar[str] = "file"

    def __init__(self, path: str, access: RegisterAccess) -> None:
        if not path:
            raise UsageError("file: names no file", hint="such as file:/etc/buildstep/mappings.toml")
        # Through links, so that a change is one of the file and not of the link.
        self._path = Path(os.path.realpath(path))
        self._bus = access.bus
        self._json = self._path.suffix == ".json"

    @property
    def url(self) -> str:
        return f"file:{self._path}"

    def read(self) -> Mappings:
        """Return all mappings. Raises RegisterError, and Unmade where there is no such file.

        A file that is not there is no register without mappings: a host whose network disk is not mounted
        must not remove its services.
        """
        rows = self._rows()
        if rows is None:
            raise Unmade(
                f"there is no register {self._path}",
                hint="`buildstep map add` makes it; or name another: --register, BUILDSTEP_REGISTER",
            )
        return values.mappings(rows)

    def wait(self, index: str, seconds: float) -> Mappings:
        end = time.monotonic() + seconds
        while True:
            before = self._stamp()
            found = self.read()
            if found.index != index:
                return found
            while self._stamp() == before:
                left = end - time.monotonic()
                if left <= 0:
                    return found
                time.sleep(min(_POLL, left))

    def load(self, pattern: str) -> Versioned | None:
        return _versioned(pattern, self._rows() or {})

    def swap(self, pattern: str, services: tuple[str, ...] | None, version: str | None) -> bool:
        with _writing(self._path), self._locked():
            source = self._text()
            rows = self._parse(source) if source is not None else {}
            there = _versioned(pattern, rows)
            if (there.version if there else None) != version:
                return False
            if services is None:
                rows.pop(pattern, None)
            else:
                rows[pattern] = list(services)
            self._write(source or "", pattern, rows)
        return True

    def _stamp(self) -> list[int]:
        try:
            return stamp(self._path)
        except OSError:  # reading it will tell why
            return []

    def _rows(self) -> Rows | None:
        source = self._text()
        return None if source is None else self._parse(source)

    def _text(self) -> str | None:
        try:
            return self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RegisterError(f"the register {self._path} is no UTF-8 text") from error
        except OSError as error:
            raise RegisterError(f"the register {self._path} cannot be read: {error.strerror}") from error

    def _parse(self, source: str) -> Rows:
        """Return what the text of a register holds. Raises RegisterError for all of it, if a part is wrong: a
        mapping that was left out would give its hosts to another one."""
        wrong = f"the register {self._path} cannot be read"
        try:
            data: Any = schema.parse(source, str(self._path)) if self._json else tomllib.loads(source)
        except SpecError as error:
            raise RegisterError(wrong, detail=error.detail) from error
        except ValueError as error:
            raise RegisterError(wrong, detail=f"  it is not TOML: {error}") from error
        # The check is for words about what is wrong; of ten thousand good rows it would take longest of all.
        if not _is_good(data) and (faults := schema.check(data, _RULE, "$")):
            raise RegisterError(wrong, detail="\n".join(f"  {fault}" for fault in faults))
        rows: Rows = data.get(TABLE, {})
        return rows

    def _write(self, source: str, pattern: str, rows: Rows) -> None:
        if self._json:
            after = schema.render({TABLE: dict(sorted(rows.items()))})
        else:
            after = _edited(source, pattern, rows.get(pattern), rows)
        try:
            before = self._path.stat()
        except FileNotFoundError:
            before = None
        # Who maps and who pulls are not always the same user, and it holds no secret.
        with atomic_write(self._path, mode=0o600 if before else 0o644) as stream:
            stream.write(after.encode())
            if before is not None:
                # Root may edit what another user has to read. Others can give nothing away.
                with contextlib.suppress(PermissionError):
                    os.fchown(stream.fileno(), before.st_uid, before.st_gid)
                os.fchmod(stream.fileno(), stat.S_IMODE(before.st_mode))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the file, which whoever may replace the file can take."""
        path = self._path.with_name(f".{self._path.name}.lock")
        with lock(path):
            writers = path.parent.stat().st_mode & 0o022
            with contextlib.suppress(PermissionError):  # of another user, who has done so
                path.chmod(0o600 | writers | writers << 1)
            yield


def _is_good(data: Any) -> bool:
    """Tell whether data keeps `_RULE`."""
    if not isinstance(data, dict) or data.keys() - {TABLE} or not isinstance(data.get(TABLE, {}), dict):
        return False
    lists = data.get(TABLE, {}).values()
    return all(isinstance(names, list) and all(isinstance(it, str) for it in names) for names in lists)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise an OSError of a block as RegisterError, but for a disk that is full and its like."""
    try:
        yield
    except OSError as error:
        if space.explain(error) is not None:
            raise
        raise RegisterError(f"the register {path} cannot be written: {error.strerror}") from error


def _versioned(pattern: str, rows: Mapping[str, list[str]]) -> Versioned | None:
    if pattern not in rows:
        return None
    services, faults = values.sifted(pattern, rows[pattern])
    return Versioned(services, values.digest({pattern: tuple(rows[pattern])}), tuple(faults))


# -- TOML --------------------------------------------------------------------------------------------------


def _line(pattern: str, services: list[str]) -> str:
    names = ", ".join(_quoted(name) for name in services)
    return f"{_quoted(pattern)} = [{names}]\n"


def _quoted(text: str) -> str:
    """Return a basic string of TOML, which escapes as JSON does, and DEL besides."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _edited(source: str, pattern: str, services: list[str] | None, rows: Rows) -> str:
    """Return a register with one mapping set, or removed (None), and all else of its text as it was.

    rows: what it is to hold then. Where the text is not as we write it, it is written anew.
    """
    for after in _tries(source, pattern, services):
        try:
            if tomllib.loads(after).get(TABLE, {}) == rows:
                return after
        except ValueError:
            pass
    return f"[{TABLE}]\n" + "".join(_line(key, rows[key]) for key in sorted(rows))


def _tries(source: str, pattern: str, services: list[str] | None) -> Iterator[str]:
    lines = source.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    keys = {number: key for number, line in enumerate(lines) if (key := _key(line)) is not None}
    at = next((number for number, key in keys.items() if key == pattern), None)
    new = [] if services is None else [_line(pattern, services)]
    if at is not None:
        yield "".join([*lines[:at], *new, *lines[at + 1 :]])
        return
    after = max((number for number, key in keys.items() if key < pattern), default=-1)
    if after < 0:
        after = next((number for number, line in enumerate(lines) if line.strip() == f"[{TABLE}]"), -1)
    if after >= 0:
        yield "".join([*lines[: after + 1], *new, *lines[after + 1 :]])
    else:
        yield "".join([*lines, f"[{TABLE}]\n", *new])


def _key(line: str) -> str | None:
    """Return the pattern of a line that is a mapping, else None."""
    if "=" not in line or line.lstrip().startswith("#"):
        return None
    try:
        data = tomllib.loads(line)
    except ValueError:
        return None
    (key, value) = next(iter(data.items()))
    return key if isinstance(value, list) else None
