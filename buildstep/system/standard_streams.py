"""The standard streams of a command: closed, full, or with nobody at the other end.

A build's result goes to files, so that none of this ends one. Python has no object for a stream that was
closed, the next file that is opened gets its number, and what could not be written is tried again when the
process ends, which then changes its exit status: so each is made whole first, and replaced once it is lost.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator

NAMES = ("standard input", "standard output", "standard error")
STDIN, STDOUT, STDERR = range(3)

_OBJECTS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))

_closed: set[int] = set()

_ANY_NAME = "buildstep-any-name"
"""How standard output takes what its encoding has not: the bytes of a file's name as they are, so that a
script can use it; other characters as an escape, for a terminal that shows Latin-1 only."""


def _any_name(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError):
        error.end = error.start + 1  # bytes and characters may follow each other
        with contextlib.suppress(UnicodeError):
            return codecs.lookup_error("surrogateescape")(error)
    return codecs.backslashreplace_errors(error)


codecs.register_error(_ANY_NAME, _any_name)


def prepare() -> None:
    """Open what the caller has closed on /dev/null, and let a stream wait that another program left
    non-blocking. To be called before any file is opened."""
    for number, (name, mode) in enumerate(_OBJECTS):
        if getattr(sys, name) is None:
            _closed.add(number)
            lose(number)
            errors = "backslashreplace" if number == STDERR else "strict"  # as Python has them
            stream = open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        elif number == STDOUT and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors=_ANY_NAME)
        with contextlib.suppress(OSError):  # closed by who called `main` and has objects of its own
            os.set_blocking(number, True)


def closed(number: int) -> bool:
    """Return whether the caller had closed a stream."""
    return number in _closed


def lose(number: int) -> None:
    """Let whatever is still written to a stream, and waits in its buffer, go nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    else:
        os.set_inheritable(number, True)


def flush() -> None:
    """Write what waits in the buffers of standard output and error; what cannot be written is lost."""
    for number, stream in ((STDOUT, sys.stdout), (STDERR, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            lose(number)
        except ValueError:
            pass  # closed by who called us


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Let a message on standard error be lost that cannot be written: the exit status still tells it."""
    try:
        yield
    except OSError:
        lose(STDERR)


def reader_left(error: BaseException) -> bool:
    """Return whether an error is that nobody reads standard output any more, and lose that stream then."""
    if not isinstance(error, OSError) or error.errno != errno.EPIPE:
        return False
    poll = select.poll()
    poll.register(STDOUT, 0)  # no more than whether the other end is gone
    if not poll.poll(0):
        return False
    lose(STDOUT)
    return True
