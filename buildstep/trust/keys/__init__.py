"""Keys that sign: from a file, an ssh-agent or a token. A new place for keys is one row here and one file.

A key is named by a text: the path of a file; `agent` or `agent:SHA256:...`, a key of the ssh-agent;
`pkcs11:...`, a key of a token (RFC 7512); `env:NAME`, the text of a key file in a variable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from buildstep.errors import SigningError
from buildstep.events import Bus
from buildstep.system.registry import Registry, importing
from buildstep.trust.keys.interface import KeySource, Kind, Signer

SIGNERS: Registry[Kind] = Registry(
    "signers",
    "place of keys",
    {
        "file": importing("buildstep.trust.keys.file:from_file"),
        "env": importing("buildstep.trust.keys.file:from_variable"),
        "agent": importing("buildstep.trust.keys.agent:from_agent"),
        "pkcs11": importing("buildstep.trust.keys.pkcs11:from_token"),
    },
)
"""Where a private key can be, by the word before the first colon; a text without one of these is a file."""


def signer(text: str, environ: Mapping[str, str], *, bus: Bus) -> Signer:
    """Return the key that a text names. Raises SigningError, ToolMissing."""
    if not text:
        raise SigningError("no key is named", hint="a file, agent, pkcs11:..., or env:NAME")
    name, _, rest = text.partition(":")
    # Rows of other packages are only looked for where a text may mean one: that takes its time.
    kind = SIGNERS.find(name) if rest else SIGNERS["agent"] if text == "agent" else None
    if kind is None:
        kind, rest = SIGNERS["file"], text
    return kind(rest, KeySource(environ=environ, bus=bus))


def signers(texts: Iterable[str], environ: Mapping[str, str], *, bus: Bus) -> tuple[Signer, ...]:
    """Return the keys that texts name, each once. Raises SigningError, ToolMissing."""
    found = {one.fingerprint: one for one in (signer(text, environ, bus=bus) for text in texts)}
    return tuple(found.values())
