"""The small JSON records of the cache: each has a digest (see `system.sealed`), checked when it is read."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from buildstep.system import sealed

T = TypeVar("T")


def save(path: Path, record: object, version: int, *, durable: bool = False) -> None:
    """Write a record, which is a dataclass. version: of its format. Raises OSError."""
    sealed.write(path, {"format": version, **asdict(cast(Any, record))}, durable=durable)


def read(kind: type[T], path: Path, version: int) -> T:
    """Return a record as a dataclass, its lists as tuples; fields that the class does not have are ignored.

    version: the value that `format` must have. Raises OSError, and ValueError for what is no such record or
    is damaged.
    """
    value = sealed.read(path)
    if value.get("format") != version:
        raise ValueError("not a record of this format")
    names = [field.name for field in fields(cast(Any, kind)) if field.name in value]
    try:
        return kind(**{name: _frozen(value[name]) for name in names})
    except TypeError as error:
        raise ValueError(f"not a record of this kind: {error}") from error


def find(kind: type[T], path: Path, version: int) -> T | None:
    """Return a record like `read`; None if it is missing, damaged or of another format."""
    try:
        return read(kind, path, version)
    except (OSError, ValueError):
        return None


def _frozen(item: Any) -> Any:
    return tuple(item) if isinstance(item, list) else item
