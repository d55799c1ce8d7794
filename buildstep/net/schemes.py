"""The row of a table that the scheme of a URL names."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from buildstep.errors import UsageError
from buildstep.events import Bus
from buildstep.net.errors import safe_url
from buildstep.system.registry import Registry

T = TypeVar("T")


def row_of(table: Registry[T], url: str, *, default: str, bus: Bus) -> tuple[T, str, str]:
    """Return the row of a URL, its scheme, and what is after the colon.

    default: the scheme of a path alone; bus: takes what other packages' rows do not load for. Raises
    UsageError for a scheme that the table does not have; it shows no password.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or "/" in scheme:
        scheme, rest = default, url
    row = table.find(scheme, partial(bus.note, level="warning"))
    if row is None:
        raise UsageError(
            f"no {table.what} of the kind {scheme!r}: {safe_url(url)!r}", hint=table.hint(scheme)
        )
    return row, scheme, rest
