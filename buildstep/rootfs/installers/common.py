"""What every package manager's driver needs: checked names, and errors that name the package."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from buildstep.errors import CommandFailed, InstallError


def checked(packages: Sequence[str], pattern: str, tool: str) -> list[str]:
    """Return the packages. Raises InstallError for what is no package name: it might be an option."""
    bad = [name for name in packages if not re.fullmatch(pattern, name)]
    if bad:
        raise InstallError(
            f"{tool}: not a package name: {', '.join(repr(name) for name in bad)}",
            hint="write NAME, or NAME=VERSION where the package manager knows that form",
        )
    return list(packages)


@contextlib.contextmanager
def failures(
    act: str, packages: Iterable[str], *patterns: str, hint: str | Callable[[str], str] = ""
) -> Iterator[None]:
    """Turn a failed command into an InstallError that names the packages at fault.

    patterns: regular expressions over the tool's output whose group `package`, else the first one, is a
    package. Where none matches, the packages that were asked for are named. hint: what to do, or what
    makes that from the tool's output.
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
        raise InstallError(
            f"{about}: {error.message}",
            detail=error.detail,
            hint=error.hint or (hint(error.detail) if callable(hint) else hint),
        ) from error
