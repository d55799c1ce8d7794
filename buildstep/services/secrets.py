"""Secrets by reference: what is written down says where a secret is, and never what it is.

    secret:env:NAME          the environment variable NAME of who runs `buildstep service`
    secret:file:PATH         the text of a file, without the newline at its end; relative to the repository
    secret:credential:NAME   NAME in $CREDENTIALS_DIRECTORY, as systemd gives it to a unit (systemd.exec(5))

A reference stands in place of a whole value. It is looked up when an action is run, and reaches the action
by a pipe.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from buildstep.errors import Fault, SpecError

_REFERENCE = re.compile(r"secret:(?P<kind>[a-z]+):(?P<name>.+)")
_KINDS = ("env", "file", "credential")
_FORMS = "secret:env:NAME, secret:file:PATH or secret:credential:NAME"
_LIMIT = 64 * 1024
"""Bytes of a secret in a file; a longer one is another file than was meant."""
_NAMES = re.compile(
    r"(^|[._])(passwd|password|passphrase|secret|token|api_?key|priv(ate)?_?key|key\.priv)$", re.IGNORECASE
)
_PUT_BY_US = ("env.process.", "process.", "files.", "users.")
MASK = "***"
"""Is shown in place of what may be a secret."""


def is_reference(value: object) -> bool:
    """Return whether a value says where a secret is."""
    return isinstance(value, str) and value.startswith("secret:")


def is_secret_name(key: str) -> bool:
    """Return whether what has this key is a secret, by the key's last part: `admin.password`, `api_key`."""
    return _NAMES.search(key) is not None


def reference_fault(value: str, where: str) -> Fault | None:
    """Return what is wrong with the form of a reference."""
    found = _REFERENCE.fullmatch(value)
    if found is None or found["kind"] not in _KINDS:
        return Fault(where=where, message="is no reference to a secret", hint=f"write {_FORMS}")
    if found["kind"] == "credential" and "/" in found["name"]:
        return Fault(where=where, message=f"{found['name']!r} is no name of a credential")
    return None


def plain_fault(where: str, key: str) -> Fault:
    """Return the fault for a secret that is written down as it is."""
    return Fault(
        where=where, message=f"{key} is a secret, which must not be written down", hint=f"give it as {_FORMS}"
    )


def misplaced(values: Mapping[str, Any], where: str) -> Iterator[Fault]:
    """Yield a fault for each secret in what the default actions lay or start: they put secrets into nothing,
    and without its entry a file would be another one, and a process lack its variable."""
    for key, row in values.items():
        if not key.startswith(_PUT_BY_US) or not isinstance(row, Mapping):
            continue
        for name, value in row.items():
            if is_reference(value) or (is_secret_name(name) and value and "$(" not in str(value)):
                yield Fault(
                    where=f"{where}: {key}: {name}",
                    message="is a secret, which is put into no file, account or process by itself",
                    hint="ask for it as @ASK in instance.hrd, and have configure write service.secret("
                    f"{'param.' + name.lower()!r}) to a file that the process reads",
                )


def masked(key: str, value: Any) -> Any:
    """Return a value as it may be shown: a reference as it is, a secret as `***`."""
    if isinstance(value, Mapping):
        return {name: masked(name, inner) for name, inner in value.items()}
    return MASK if is_secret_name(key) and value and not is_reference(value) else value


def read_secret(reference: str, where: str, *, root: Path, environ: Mapping[str, str]) -> str:
    """Return the secret that a reference means. root: what relative paths start at.

    Raises SpecError where it is not there; the message holds nothing of a secret.
    """
    fault = reference_fault(reference, where)
    if fault is None:
        found = _REFERENCE.fullmatch(reference)
        assert found is not None, reference
        name = found["name"]
        if found["kind"] == "env":
            if name in environ:
                return environ[name]
            fault = Fault(where=where, message=f"the environment variable {name} is not set")
        elif found["kind"] == "file":
            return _read(root / name, where)
        elif directory := environ.get("CREDENTIALS_DIRECTORY"):
            return _read(Path(directory, name), where)
        else:
            hint = "CREDENTIALS_DIRECTORY is not set: run it as a systemd unit with LoadCredential="
            fault = Fault(where=where, message=f"there is no credential {name}", hint=hint)
    raise SpecError("secrets", [fault])


def _read(path: Path, where: str) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            reason = f"is longer than {_LIMIT} bytes, which is no secret"
        else:
            return data.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        reason = os.strerror(error.errno or 0)
    except UnicodeDecodeError:
        reason = "is no UTF-8 text"
    # Not the UnicodeDecodeError itself, which holds the bytes.
    raise SpecError("secrets", [Fault(where=where, message=f"{path}: {reason}")]) from None
