"""What a build is given that nobody else may read: hidden in its log and record, and refused in its proofs.

Beside the secrets that an m.json names these are logins in addresses, private keys, and what a variable or a
definition with the name of a secret holds. What is published is made of fields that cannot have one; this is
the proof of it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from buildstep.errors import EmitError
from buildstep.events import Bus
from buildstep.spec.load import BuildSpec
from buildstep.spec.rules import is_key_file
from buildstep.system import masking

_NAMES: Final = re.compile(
    r"token|passw(or)?d|passphrase|secret|credential|api_?key|access_?key|private_?key|_auth$", re.IGNORECASE
)
"""In the name of a variable or definition that has a secret."""

_LOGIN: Final = re.compile(r"://([^\s/@\"']+)@")
_WORDS: Final = ("BUILDSTEP_CACHE_SECRET", "BUILDSTEP_KEY_PASSWORD", "COSIGN_PASSWORD")
_CACHE_KEY: Final = "BUILDSTEP_CACHE_KEY"
"""The text of a key, or the path of its file."""
_LEAST: Final = 6
"""Characters of what is taken for a secret by its name or place: shorter words are in every text."""
_LARGEST: Final = 64 << 10


def hide(bus: Bus, words: Iterable[str]) -> None:
    """Let no event have one of these words, in any form."""
    if found := [word for word in words if len(word) >= masking.LEAST]:
        bus.hide(masking.pattern(found))


def given(spec: BuildSpec, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the secrets of a build: of its secrets, addresses, keys, and of variables of its own that are
    named like one. environ: of the CI host, of whose variables only what these name is taken."""
    found = [*_secrets(spec, environ), *_key_words(spec, environ)]
    found += [word for text in _texts(spec.to_json()) for word in _logins(text)]
    found += [word for text in environ.values() for word in _logins(text)]
    options, commands = spec.installer_options, [command.env for command in spec.run]
    for env in (options.env, spec.run_options.env, spec.oci.env, *commands):
        found += named(env)
    return tuple(dict.fromkeys(found))


def named(values: Mapping[str, str]) -> list[str]:
    """Return the values whose names say that they are secret, and that are no path."""
    return [
        line.strip()
        for name, value in values.items()
        if _NAMES.search(name) and not value.startswith("/")
        for line in value.splitlines()
        if len(line.strip()) >= _LEAST
    ]


def _logins(text: str) -> Iterator[str]:
    """Yield the passwords in addresses; a login without one is a token."""
    for login in _LOGIN.findall(text):
        name, colon, password = login.partition(":")
        word = password if colon else name
        if len(word) >= _LEAST:
            yield word


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _secrets(spec: BuildSpec, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what the secrets of an m.json hold. One that is not there is told where it is used."""
    for secret in spec.secrets.values():
        if secret.env is not None:
            yield from masking.words(os.fsencode(environ.get(secret.env, "")))
        elif secret.file is not None:
            yield from masking.words(_head(Path(secret.file)))


def _key_words(spec: BuildSpec, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of private keys, but for those that say what they are, and passwords."""
    texts = [environ.get(name, "") for name in _WORDS]
    texts += [environ.get(key.removeprefix("env:"), "") for key in spec.proof.keys if key.startswith("env:")]
    files = [key for key in spec.proof.keys if is_key_file(key)]
    files += [spec.sharing.key] if spec.sharing is not None and spec.sharing.key else []
    if (key := environ.get(_CACHE_KEY, "").strip()).startswith("-----BEGIN"):
        texts.append(key)
    elif key:
        files.append(key)
    texts += [_head(Path(name)).decode("utf-8", "replace") for name in files]
    for line in "\n".join(texts).splitlines():
        if len(line) >= _LEAST and not line.startswith("-----"):
            yield line


def _head(path: Path) -> bytes:
    with contextlib.suppress(OSError), path.open("rb") as stream:
        return stream.read(_LARGEST)
    return b""


def masked(value: Any, bus: Bus) -> Any:
    """Return JSON data without what a bus hides."""
    if isinstance(value, str):
        return bus.masked(value)
    if isinstance(value, Mapping):
        return {bus.masked(key): masked(part, bus) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [masked(part, bus) for part in value]
    return value


def refuse(files: Mapping[Path, bytes], bus: Bus) -> None:
    """Raise EmitError, which names the file, where one that is to be published has what a bus hides."""
    for path, data in files.items():
        text = data.decode("utf-8", "surrogateescape")
        if bus.masked(text) != text:
            raise EmitError(
                f"{path.name} would have a secret of this build in it, and is not written",
                hint="a name, a version or a path of the image holds it: keep it out of these",
            )
