"""Read the small JSON records of the cache, in which nothing is trusted before it was checked."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast

from buildstep.system.files import read_json

T = TypeVar("T")


def read(kind: type[T], path: Path, version: int | None = None) -> T:
    """Return a record as a dataclass, its lists as tuples; fields that the class does not have are ignored.

    version: the value that `format` must have, if any. Raises OSError, and ValueError for what is no such
    record.
    """
    value = read_json(path)
    if not isinstance(value, dict) or (version is not None and value.get("format") != version):
        raise ValueError("not a record of this format")
    names = [field.name for field in fields(cast(Any, kind)) if field.name in value]
    try:
        return kind(**{name: _frozen(value[name]) for name in names})
    except TypeError as error:
        raise ValueError(f"not a record of this kind: {error}") from error


def find(kind: type[T], path: Path, version: int | None = None) -> T | None:
    """Return a record like `read`; None if it is missing, damaged or of another format."""
    try:
        return read(kind, path, version)
    except (OSError, ValueError):
        return None


def _frozen(item: Any) -> Any:
    return tuple(item) if isinstance(item, list) else item
