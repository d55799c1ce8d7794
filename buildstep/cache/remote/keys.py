"""What signs the records that a build writes: a key or a secret, from a file or a variable, never from a
command line."""

from __future__ import annotations

from collections.abc import Mapping

from buildstep.cache.remote.interface import Settings
from buildstep.events import Bus
from buildstep.trust import dsse
from buildstep.trust.keys.file import ed25519_signer, from_text
from buildstep.trust.keys.interface import KeySource
from buildstep.trust.keys.public import ed25519_key

KEY = "BUILDSTEP_CACHE_KEY"
"""The variable: a private key as text (PEM, or OpenSSH's form), or the path of a file with one."""
SECRET = "BUILDSTEP_CACHE_SECRET"  # noqa: S105  (a variable's name)
"""The variable: an HMAC secret that writers and readers share."""


def signers_of(settings: Settings, environ: Mapping[str, str], bus: Bus) -> list[dsse.Signs]:
    """Return what signs; nothing where nothing is given. Raises SigningError, ToolMissing."""
    found: list[dsse.Signs] = []
    source = KeySource(environ=environ, bus=bus)
    if settings.key is not None:
        found.append(ed25519_signer(str(settings.key), source))
    elif text := environ.get(KEY, "").strip():
        if text.startswith("-----BEGIN"):
            signer = from_text(text.encode() + b"\n", f"${KEY}", source)
            ed25519_key(signer.public, f"${KEY}")
            found.append(signer)
        else:
            found.append(ed25519_signer(text, source))
    if secret := environ.get(SECRET, "").strip():
        found.append(dsse.Secret("shared", secret.encode()))
    return found
