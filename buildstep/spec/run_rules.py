"""`build.run` and `build.secrets`: the rules of their entries, what they mean, and faults between them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from buildstep.errors import Fault
from buildstep.spec.fields import RunCommand, Secret
from buildstep.spec.schema import BOOLEAN, array, at, integer, mapping, near, record, text
from buildstep.system.text import shown_path

LARGEST: Final = 1 << 20
"""Bytes that a script or a secret may have."""

_PLAIN = r"\x00-\x1f\x7f"
_NO_NUL = text(r"[^\x00]*", say="free of NUL", least=0)
_VARIABLE = text(r"[A-Za-z_][A-Za-z0-9_]*", say="the name of a variable")
ENV: Final = mapping(_NO_NUL, keys=_VARIABLE)
"""Variables of a command."""

NAME: Final = text(r"[A-Za-z][A-Za-z0-9_.-]*", say="a name: a letter, then A-Z a-z 0-9 - _ .", most=64)
_PART = rf"(?!\.\.?(?:/|$))[^/{_PLAIN}]+"
_BELOW = text(
    rf"{_PART}(?:/{_PART})*/?", say="a path or pattern below the proto directory, such as srv/app/*.json"
)
_INSIDE = text(rf"(?:~|/{_PART})(?:/{_PART})*/?", say="a path in the image: /PATH or ~/PATH, without ..")
_FILE = text(rf"[^{_PLAIN}-][^{_PLAIN}]*", say="a path")
_WHO = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
_USER = text(f"{_WHO}(?::{_WHO})?", say="USER or USER:GROUP, names or numbers")
_WORDS = array(_NO_NUL, least=1)

_ENTRY = record(
    {
        "name": NAME,
        "argv": _WORDS,
        "script": text(r"[^\x00]*", say="free of NUL"),
        "file": _FILE,
        "interpreter": _WORDS,
        "workdir": text(rf"/[^{_PLAIN}]*", say="an absolute path"),
        "user": _USER,
        "env": ENV,
        "inputs": array(_BELOW, least=1, unique=True),
        "cache": array(_INSIDE, unique=True),
        "network": BOOLEAN,
        "secrets": array(NAME, unique=True),
        "timeout": integer(1, 7 * 24 * 3600),
    },
    required=["name"],
)
PLAIN_RUN: Final = array(_NO_NUL | _WORDS | {"type": ["string", "array"]})
"""Commands of recipes, which are kept with their result as a whole."""

RUN: Final = array(_NO_NUL | _WORDS | _ENTRY | {"type": ["string", "array", "object"]})
"""The setting `run`."""

SECRETS: Final = mapping(
    record(
        {
            "file": _FILE,
            "env": _VARIABLE,
            "target": _INSIDE,
            "variable": _VARIABLE,
            "mode": text("0?[0-7]{3}", say="an octal mode such as 0600"),
            "owner": _USER,
        }
    ),
    keys=NAME,
)
"""The setting `secrets`."""

TARGETS: Final[Mapping[str, str]] = {
    "apt-auth": "/etc/apt/auth.conf.d/90buildstep.conf",
    "netrc": "~/.netrc",
    "npmrc": "~/.npmrc",
    "pip.conf": "~/.config/pip/pip.conf",
    "pypirc": "~/.pypirc",
    "cargo": "~/.cargo/credentials.toml",
    "git-credentials": "~/.git-credentials",
}
"""Where a secret of one of these names is shown, unless it says another place."""

ELSEWHERE: Final = "/run/secrets"
"""Where all others are."""

SHELL: Final = ("/bin/sh", "-e")
"""What runs a script that names no interpreter."""

_NOT_CACHED = ("/", "~", "/dev", "/proc", "/sys", "/run", "/tmp", "/etc", "/usr", "/bin", "/lib", "/sbin")


def target_of(name: str, target: str | None) -> str:
    """Return where in the image a secret is shown; `~` is the home directory of who runs the command."""
    return target or TARGETS.get(name, f"{ELSEWHERE}/{name}")


def shape_of(name: str, secret: Secret) -> dict[str, str]:
    """Return how a secret is shown to a command; nothing of what it is, nor where it comes from."""
    if secret.variable is not None:
        return {"variable": secret.variable}
    place = {"target": target_of(name, secret.target), "mode": secret.mode}
    return place | ({"owner": secret.owner} if secret.owner else {})


def with_scripts(commands: Sequence[RunCommand], folder: Path) -> tuple[RunCommand, ...]:
    """Return the commands with what their files hold; what a file's first line names is its interpreter."""
    return tuple(_loaded(command, folder) if command.file else command for command in commands)


def _loaded(command: RunCommand, folder: Path) -> RunCommand:
    script = (folder / (command.file or "")).read_bytes().decode()
    found = re.match(r"#![ \t]*(\S+)[ \t]*([^\n]*)", script)
    words = tuple(word for word in (found[1], found[2].strip()) if word) if found else SHELL
    return replace(command, script=script, interpreter=command.interpreter or words)


# Faults between them, and of what they name on this machine.


def faults(
    run: Sequence[Any], secrets: Mapping[str, Any], where: str, folder: Path, environ: Mapping[str, str]
) -> Iterator[Fault]:
    """Yield the faults of entries that keep the rules, each by itself. where: of the list; folder: what
    relative paths are relative to."""
    names: dict[str, int] = {}
    for number, entry in enumerate(run):
        if not isinstance(entry, Mapping):
            continue
        place, name = at(where, number), entry["name"]
        if names.setdefault(name, number) != number:
            yield Fault(
                where=at(place, "name"), message=f"{name} is the name of {at(where, names[name])} too"
            )
        yield from _command_faults(entry, place, folder)
        for index, secret in enumerate(entry.get("secrets", ())):
            if secret not in secrets:
                hint = near(secret, secrets) or f"describe it: $.build.secrets.{secret}"
                message = f"there is no secret {secret}"
                yield Fault(where=at(at(place, "secrets"), index), message=message, hint=hint)
    for name, secret in secrets.items():
        yield from _secret_faults(secret, at("$.build.secrets", name), folder, environ)


def _command_faults(entry: Mapping[str, Any], place: str, folder: Path) -> Iterator[Fault]:
    given = [key for key in ("argv", "script", "file") if key in entry]
    if len(given) != 1:
        message = f"has {' and '.join(given)}, of which it can have one" if given else "says not what to run"
        yield Fault(where=place, message=message, hint="argv: a list, script: a text, or file: a path")
    if "interpreter" in entry and "argv" in entry:
        yield Fault(where=at(place, "interpreter"), message="is for a script or a file")
    if "file" in entry and (wrong := unreadable(folder / entry["file"])):
        yield Fault(where=at(place, "file"), message=wrong)
    caches = [path.rstrip("/") or "/" for path in entry.get("cache", ())]
    for index, path in enumerate(caches):
        where = at(at(place, "cache"), index)
        if path in _NOT_CACHED or path.startswith(("/dev/", "/proc/", "/sys/", "/run/", "/tmp/")):
            yield Fault(where=where, message=f"{path} cannot be a cache", hint="name a directory of its own")
        if any(path.startswith(f"{other}/") for other in caches):
            yield Fault(where=where, message=f"{path} is inside another cache of this command")


def _secret_faults(
    secret: Mapping[str, Any], place: str, folder: Path, environ: Mapping[str, str]
) -> Iterator[Fault]:
    given = [key for key in ("file", "env") if key in secret]
    if len(given) != 1:
        message = "has both file and env" if given else "says not where it is"
        yield Fault(where=place, message=message, hint="file: a path, or env: the name of a variable")
    elif "file" in secret and (wrong := unreadable(folder / os.path.expanduser(secret["file"]), text=False)):
        yield Fault(where=at(place, "file"), message=wrong)
    elif "env" in secret and not environ.get(secret["env"]):
        message = f"the variable {secret['env']} is not set, or empty"
        yield Fault(where=at(place, "env"), message=message)
    if "variable" in secret:
        for key in ("target", "mode", "owner"):
            if key in secret:
                message = "is for a secret that is shown as a file, not as a variable"
                yield Fault(where=at(place, key), message=message)
    elif secret.get("target", "").endswith(("/", "~")):
        yield Fault(where=at(place, "target"), message="names a directory, not a file")


def unreadable(path: Path, *, text: bool = True) -> str:
    """Return why a file cannot be used; empty if it can. text: whether it has to be UTF-8 without NUL."""
    shown = shown_path(os.fsencode(path))
    try:
        with path.open("rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return f"{shown} is no regular file"
            data = stream.read(LARGEST + 1)
        if text:
            data.decode()
    except (OSError, ValueError) as error:
        return f"{shown} cannot be read: {getattr(error, 'strerror', '') or error}"
    if len(data) > LARGEST:
        return f"{shown} has more than {LARGEST} bytes"
    if not data:
        return f"{shown} is empty"
    return f"{shown} has a NUL in it" if text and b"\0" in data else ""
