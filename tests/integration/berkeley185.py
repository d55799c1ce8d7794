"""Btree files of Berkeley DB 1.85, read and written by the library itself: Debian's libdb1-compat.

It has no headers: the structures below are those of `dbopen(3)` and `btree(3)`, as the BSDs' db.h declares them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIBRARY = "libdb1.so.2"
TOOL = "db_dump185"
"""A program of the same Debian package: where it is, the library is."""

_BTREE = 0
_FIRST, _NEXT, _NO_OVERWRITE = 3, 7, 8


class _Item(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))

    def text(self) -> bytes:
        return ctypes.string_at(self.data, self.size) if self.data else b""


class _Info(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_ulong), ("cachesize", ctypes.c_uint), ("maxkeypage", ctypes.c_int),
        ("minkeypage", ctypes.c_int), ("psize", ctypes.c_uint), ("compare", ctypes.c_void_p),
        ("prefix", ctypes.c_void_p), ("lorder", ctypes.c_int),
    )  # fmt: skip


class _Database(ctypes.Structure):
    pass


def _call(*arguments: Any) -> Any:
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Database), *arguments)


_ITEM = ctypes.POINTER(_Item)
_Database._fields_ = (
    ("type", ctypes.c_int), ("close", _call()), ("delete", _call(_ITEM, ctypes.c_uint)),
    ("get", _call(_ITEM, _ITEM, ctypes.c_uint)), ("put", _call(_ITEM, _ITEM, ctypes.c_uint)),
    ("seq", _call(_ITEM, _ITEM, ctypes.c_uint)), ("sync", _call(ctypes.c_uint)),
    ("internal", ctypes.c_void_p), ("fd", _call()),
)  # fmt: skip


class Btree:
    """An open file, with keys and values as pkg_install writes them: text that ends with a NUL."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def get(self, key: str) -> str | None:
        """The value of a key, found from the root down."""
        value = _Item()
        status = self._handle.contents.get(self._handle, _item(key), value, 0)
        return None if status else _text(value)

    def put(self, key: str, value: str) -> None:
        assert self._handle.contents.put(self._handle, _item(key), _item(value), _NO_OVERWRITE) == 0

    def delete(self, key: str) -> None:
        assert self._handle.contents.delete(self._handle, _item(key), 0) == 0

    def rows(self) -> dict[str, str]:
        """Everything, in the file's order, found from leaf to leaf."""
        found: dict[str, str] = {}
        key, value = _Item(), _Item()
        flag = _FIRST
        while self._handle.contents.seq(self._handle, key, value, flag) == 0:
            assert _text(key) not in found
            found[_text(key)] = _text(value)
            flag = _NEXT
        return found


@contextlib.contextmanager
def opened(path: Path, *, write: bool = False) -> Iterator[Btree]:
    """The btree at a path, with pkg_install's settings; to be written, it is made if it is not there."""
    library = ctypes.CDLL(LIBRARY, use_errno=True)
    library.dbopen.restype = ctypes.POINTER(_Database)
    info = _Info(flags=0, cachesize=2 * 1024 * 1024, psize=4096)
    flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
    handle = library.dbopen(os.fsencode(path), flags, 0o644, _BTREE, ctypes.byref(info))
    if not handle:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    try:
        yield Btree(handle)
    finally:
        assert handle.contents.close(handle) == 0


def _item(text: str) -> _Item:
    data = text.encode() + b"\0"
    buffer = ctypes.create_string_buffer(data, len(data))
    item = _Item(ctypes.cast(buffer, ctypes.c_void_p), len(data))
    item.keep = buffer  # the structure has its address alone
    return item


def _text(item: _Item) -> str:
    data = item.text()
    assert data.endswith(b"\0"), data
    return data[:-1].decode()
