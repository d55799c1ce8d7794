"""The names of assets: `service-version.tar.gz`, and the order of versions.

The grammar is daybook's, made strict: a service is letters, digits and underscores; a version also has dots,
`+` and `~`. A hyphen in a version is taken only where it is asked for: daybook itself cuts such a version.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from buildstep.errors import UsageError

FORMS: Final = (".tar.gz", ".tar.zst")
"""The ends of file names of assets; daybook knows the first."""

LONGEST: Final = 128
"""Characters of a service or a version: both are names of directories, and a part of a file's name."""

CURRENT: Final = "current"
"""The link to the version that a service runs, beside the directories of its versions: no version's name."""

_SERVICE = re.compile(r"[A-Za-z0-9_]+")
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+~]*")
_HYPHENS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+~-]*")


class Name(NamedTuple):
    """What the name of an asset's file says. form: one of FORMS."""

    service: str
    version: str
    form: str

    @property
    def file(self) -> str:
        """The file's name."""
        return f"{self.service}-{self.version}{self.form}"


def is_service(text: str) -> bool:
    """Tell whether a service can be called so."""
    return len(text) <= LONGEST and _SERVICE.fullmatch(text) is not None


def is_version(text: str, *, hyphens: bool = False) -> bool:
    """Tell whether a version can be called so. hyphens: whether it may have some."""
    pattern = _HYPHENS if hyphens else _VERSION
    return len(text) <= LONGEST and text != CURRENT and pattern.fullmatch(text) is not None


def parse(file: str, *, hyphens: bool = False) -> Name | None:
    """Return what the name of a file says; None for one that is no asset's.

    The first hyphen parts the two, as a service has none.
    """
    form = next((form for form in FORMS if file.endswith(form)), None)
    if form is None:
        return None
    service, hyphen, version = file.removesuffix(form).partition("-")
    if not hyphen or not is_service(service) or not is_version(version, hyphens=hyphens):
        return None
    return Name(service, version, form)


def checked_service(text: str) -> str:
    """Return the name of a service. Raises UsageError for one that no service can have."""
    if not is_service(text):
        raise UsageError(
            f"{text!r} is no name of a service",
            hint=f"letters, digits and underscores, at most {LONGEST}; the hyphen parts service and version",
        )
    return text


def checked_version(text: str, *, hyphens: bool = False) -> str:
    """Return a version. Raises UsageError for one that no asset can have."""
    if is_version(text, hyphens=hyphens):
        return text
    hint = f"letters, digits and the signs _ . + ~, at most {LONGEST}, the first no sign but _"
    if text == CURRENT:
        hint = "on the hosts it is the name of the link to the version that runs"
    elif is_version(text, hyphens=True):
        hint = "daybook cuts it off at its hyphen; to take such ones: --hyphens, or `hyphens` in the settings"
    raise UsageError(f"{text!r} is no version", hint=hint)


_PARTS = re.compile(r"([0-9]+)|(~)|([^0-9~]+)")
_TILDE, _END, _TEXT, _NUMBER = range(4)


def order(version: str) -> tuple[tuple[int, int, str], ...]:
    """Return what versions are ordered by: numbers as numbers, text as text, `~` before the end.

    So 1.9 < 1.10, 1.0~rc1 < 1.0 < 1.0.1, as in Debian's versions. Two versions that differ only in zeros
    before a number are ordered by their text.
    """
    parts: list[tuple[int, int, str]] = []
    for number, tilde, text in _PARTS.findall(version):
        if number:
            parts.append((_NUMBER, int(number), ""))
        elif tilde:
            parts.append((_TILDE, 0, ""))
        else:
            parts.append((_TEXT, 0, text))
    return (*parts, (_END, 0, version))
