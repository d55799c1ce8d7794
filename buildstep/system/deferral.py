"""Errors that signals are turned into, held back for a moment in which they would do harm.

A signal that comes while a child is being started would end the call before anybody knows the child's number:
the child would go on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_depth = 0
_waiting: list[BaseException] = []


def interrupt(error: BaseException) -> None:
    """Raise the error of a signal, or let `uninterrupted` raise it at its end. For handlers of signals, which
    Python runs in its main thread."""
    if not _depth:
        raise error
    _waiting.append(error)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back the errors of signals for the length of a block, which is to be a short one.

    The first that came is raised at its end. Threads other than the main one are not interrupted anyway.
    """
    global _depth  # noqa: PLW0603 - handlers have no other way to know
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth and _waiting:
            error = _waiting[0]
            _waiting.clear()
            raise error
