"""`.buildstepignore`, beside a proto directory: what stays out of each image that is made of it.

One pattern a line, as `exclude` has them; a line that begins with `#` is a comment. Unlike in a .gitignore,
nothing can be taken back in: rsync's patterns are what decides here, and their order does not matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from buildstep.errors import Fault

IGNORE_FILE: Final = ".buildstepignore"


class Ignored(NamedTuple):
    """What such a file says. faults: each with its line."""

    patterns: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


def read(proto: Path) -> Ignored:
    """Return what the file beside a proto directory says; nothing where there is none."""
    path = proto.parent / IGNORE_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Ignored()
    except (OSError, ValueError) as error:
        message = getattr(error, "strerror", "") or f"is not UTF-8: {error}"
        return Ignored(faults=(Fault(where=str(path), message=f"cannot be read: {message}"),))
    patterns, faults = [], []
    for number, line in enumerate(text.splitlines(), 1):
        pattern = line.rstrip()
        if not pattern or pattern.startswith("#"):
            continue
        wrong = _wrong(pattern)
        if wrong:
            faults.append(Fault(where=f"{path}, line {number}", message=wrong[0], hint=wrong[1]))
        else:
            patterns.append(pattern)
    return Ignored(tuple(dict.fromkeys(patterns)), tuple(faults))


def _wrong(pattern: str) -> tuple[str, str] | None:
    """Return why a line is no pattern, and what to do; None for a good one."""
    if pattern.startswith("!"):
        return f"{pattern!r} would take something back in, which cannot be said here", "name what stays out"
    if pattern.startswith(("+ ", "- ")):
        return f"{pattern!r} begins with a sign of rsync's filter rules", "write the pattern alone"
    if "\0" in pattern:
        return "has a null byte in it", ""
    return None
