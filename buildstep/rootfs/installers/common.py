"""What every package manager's driver needs: checked names, and errors that name the package."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from buildstep.errors import CommandFailed, InstallError
from buildstep.rootfs.interface import StaleIndex


def checked(packages: Sequence[str], pattern: str, tool: str) -> list[str]:
    """Return the packages. Raises InstallError for what is no package name: it might be an option."""
    bad = [name for name in packages if not re.fullmatch(pattern, name)]
    if bad:
        raise InstallError(
            f"{tool}: not a package name: {', '.join(repr(name) for name in bad)}",
            hint="write NAME, or NAME=VERSION where the package manager knows that form",
        )
    return list(packages)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """Why a package manager failed.

    text: what happened, one line; hint: what to do; retryable: whether the same could succeed later;
    old_index: whether it could be that an index from before is out of date.
    """

    text: str
    hint: str = ""
    retryable: bool = False
    old_index: bool = False


@contextlib.contextmanager
def failures(
    act: str,
    packages: Iterable[str],
    *patterns: str,
    hint: Callable[[str], str] = lambda _output: "",
    explain: Callable[[str], Cause | None] = lambda _output: None,
) -> Iterator[None]:
    """Turn a failed command into an InstallError that names the packages at fault.

    patterns: regular expressions over the tool's output whose group `package`, else the first one, is a
    package. Where none matches, the packages that were asked for are named. hint: makes what to do from the
    tool's output. explain: finds the cause in that output, with a hint of its own; not for a command that
    runs scripts of packages, which may print anything. Raises StaleIndex for a cause that a younger index
    could remove.
    """
    try:
        yield
    except CommandFailed as error:
        named: list[str] = []
        for pattern in patterns:
            for match in re.finditer(pattern, error.detail, re.MULTILINE):
                found = match.groupdict().get("package", match[1]) or ""
                named += [name for name in found.split() if name not in named]
        asked = list(packages)
        culprits = ", ".join(named or asked)
        about = f"{act} failed for {culprits}" if culprits else f"{act} failed"
        # One that was stopped at a limit says nothing of what it would have met.
        cause = None if error.limit else explain(error.detail)
        kind = StaleIndex if cause is not None and cause.old_index else InstallError
        remedy = hint(error.detail) if cause is None else cause.hint
        raise kind(
            f"{about}: {error.message if cause is None else cause.text}",
            detail=error.detail,
            hint=error.hint or remedy,
            retryable=cause is not None and cause.retryable,
        ) from error
