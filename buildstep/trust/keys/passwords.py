"""Passwords of keys: from a variable, or asked for at the terminal; never shown, on no command line."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from typing import TypeVar

from buildstep.errors import SigningError
from buildstep.system import masking
from buildstep.trust.keys.interface import KeySource

VARIABLES = ("BUILDSTEP_KEY_PASSWORD", "COSIGN_PASSWORD")
"""Variables that hold the password of a key, ours first. One that is set and empty is an empty password."""

_ATTEMPTS = 3

T = TypeVar("T")


class WrongPassword(Exception):
    """A password that does not open a key."""


def opened(what: str, source: KeySource, attempt: Callable[[bytes], T]) -> T:
    """Return what opens with a password.

    what: a text such as "the key /k"; attempt: is given the password and raises WrongPassword if that is
    another one. Raises SigningError where there is no password, or none that fits.
    """
    for name in VARIABLES:
        if (value := source.environ.get(name)) is not None:
            _hide(source, value)
            try:
                return attempt(value.encode("utf-8", "surrogateescape"))
            except WrongPassword:
                raise SigningError(
                    f"the password in {name} does not open {what}", hint="is it the password of another key?"
                ) from None
    if not at_terminal():
        raise SigningError(
            f"{what} has a password, and none is given",
            hint=f"put it into the variable {VARIABLES[0]}, or run this at a terminal, which asks for it",
        )
    for _ in range(_ATTEMPTS):
        value = asked(f"Password of {what}: ")
        _hide(source, value)
        try:
            return attempt(value.encode("utf-8", "surrogateescape"))
        except WrongPassword:
            source.bus.note("that is not its password", level="warning")
    raise SigningError(f"no password that was given opens {what}")


def chosen(what: str, source: KeySource) -> bytes:
    """Return the password that something new is to have. Raises SigningError where none is given."""
    for name in VARIABLES:
        if (value := source.environ.get(name)) is not None:
            break
    else:
        if not at_terminal():
            raise SigningError(
                f"there is no password for {what}",
                hint=f"put it into the variable {VARIABLES[0]}, or run this at a terminal, which asks for it",
            )
        value = asked(f"Password for {what}: ")
        if asked("The same again: ") != value:
            raise SigningError("the two passwords are not the same")
    if not value:
        raise SigningError(f"the password for {what} is empty", hint="leave out --password for a key without")
    _hide(source, value)
    return value.encode("utf-8", "surrogateescape")


def at_terminal() -> bool:
    """Tell whether there is a person to ask."""
    try:
        return os.isatty(0) and os.isatty(2)
    except OSError:
        return False


def asked(prompt: str) -> str:
    """Ask for a password at the terminal; nothing of it is shown. Raises SigningError where none comes."""
    try:
        return getpass.getpass(prompt)
    except (EOFError, OSError, getpass.GetPassWarning) as error:
        raise SigningError("no password was given") from error


def _hide(source: KeySource, value: str) -> None:
    if len(value) >= masking.LEAST:
        source.bus.hide(masking.pattern([value]))
