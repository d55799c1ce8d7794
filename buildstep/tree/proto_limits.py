"""What a proto directory may not have. All of it is told before anything is read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping

from buildstep.errors import UsageError
from buildstep.system.text import plural, shown_path
from buildstep.tree.entry import LARGEST, LONGEST, PathTooLong, check_length, longest_below
from buildstep.tree.stat_lines import Seen

NAME_MAX = 255
"""Bytes that a name may have on nearly every file system, and so in an image."""

_MOST_NAMED = 20


def refuse(
    top: bytes,
    fresh: Mapping[bytes, Seen],
    unread: Mapping[bytes, OSError],
    what: str = "the proto directory",
) -> None:
    """Raise UsageError for what no image can hold, and for what whoever builds may not read.

    fresh: what is new in the directory `top`, or not as it was; unread: directories that could not be listed;
    what: how messages call it.
    """
    limit = longest_below(top)
    try:
        check_length(max(fresh, key=len, default=b""), limit)
    except PathTooLong as error:
        hint = "remove it" if limit == LONGEST else "remove it, or move the directory to a shorter path"
        raise UsageError(f"{what} has {error.message}", hint=hint) from error
    if (most := _longest_name_of(top)) is None or most > NAME_MAX:  # only few file systems have longer ones
        refuse_names(fresh, NAME_MAX, "an image", what)
    _refuse_unreadable(top, fresh, unread, what)
    size = sum(seen.size for seen in fresh.values() if seen.kind == "f")
    if size > LARGEST:
        largest = max((seen.size, path) for path, seen in fresh.items() if seen.kind == "f")
        raise UsageError(
            f"{what} has files of {size} bytes, and an image can have {LARGEST}",
            detail=f"  the largest: {shown_path(largest[1])}, {largest[0]} bytes",
            hint="holes count as well",
        )


def refuse_names(paths: Iterable[bytes], limit: int, where: str, what: str = "the proto directory") -> None:
    """Raise UsageError for names of more bytes than there can be. where: what cannot have them."""
    names = ((path, len(path.rpartition(b"/")[2])) for path in paths)
    if not (found := sorted((path, length) for path, length in names if length > limit)):
        return
    rows = [f"  {shown_path(path)}: {length} bytes" for path, length in found]
    raise UsageError(
        f"{what} has {plural(len(found), 'name')} that {where} cannot have: over {limit} bytes",
        detail=_listed(rows),
        hint="shorten them, or take them out",
    )


def pool_name_max(folder: bytes) -> int:
    """Return the bytes that a name may have where files are copied to, in a directory of that file system."""
    most = _longest_name_of(folder)
    # rsync first gives a file another name, with eight bytes more where it does not know of the limit.
    return NAME_MAX if most is None or most >= NAME_MAX else most - 8


def _longest_name_of(folder: bytes) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return os.pathconf(folder, "PC_NAME_MAX")
    return None


def _refuse_unreadable(
    top: bytes, fresh: Mapping[bytes, Seen], unread: Mapping[bytes, OSError], what: str
) -> None:
    rows = [(path, str(error.strerror)) for path, error in unread.items()]
    user = os.geteuid()
    rows += [
        (path, "Permission denied")
        for path, seen in fresh.items()
        if seen.kind == "f"
        and not seen.mode & 0o004
        and not (seen.uid == user and seen.mode & 0o400)
        and _refused(top + b"/" + path)
    ]
    if rows:
        raise UsageError(
            f"{what} has {plural(len(rows), 'path')} that cannot be read",
            detail=_listed([f"  {shown_path(path)}: {why}" for path, why in sorted(rows)]),
            hint="let whoever builds read it; --exclude leaves out what is not for the image",
        )


_EFFECTIVE = os.access in os.supports_effective_ids


def _refused(full: bytes) -> bool:
    """Whether a file may not be read. One that went meanwhile is for the walk at the end to tell."""
    return not os.access(full, os.R_OK, effective_ids=_EFFECTIVE) and os.path.lexists(full)


def _listed(rows: list[str]) -> str:
    more = [f"  and {len(rows) - _MOST_NAMED} more"] if len(rows) > _MOST_NAMED else []
    return "\n".join([*rows[:_MOST_NAMED], *more])
