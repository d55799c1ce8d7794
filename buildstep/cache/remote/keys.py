"""What signs the records that a build writes: a key or a secret, from a file or a variable, never from a
command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from buildstep.cache.remote.interface import Settings
from buildstep.trust import dsse, ed25519

KEY = "BUILDSTEP_CACHE_KEY"
"""The variable: a private key as text (PEM, or OpenSSH's form), or the path of a file with one."""
SECRET = "BUILDSTEP_CACHE_SECRET"  # noqa: S105  (a variable's name)
"""The variable: an HMAC secret that writers and readers share."""


def signers_of(settings: Settings, environ: Mapping[str, str]) -> list[dsse.Signs]:
    """Return what signs; nothing where nothing is given. Raises SigningError, ToolMissing."""
    found: list[dsse.Signs] = []
    if settings.key is not None:
        found.append(ed25519.signer_of(settings.key))
    elif text := environ.get(KEY, "").strip():
        if text.startswith("-----BEGIN"):
            found.append(ed25519.signer_from(text.encode() + b"\n", f"${KEY}"))
        else:
            found.append(ed25519.signer_of(Path(text)))
    if secret := environ.get(SECRET, "").strip():
        found.append(dsse.Secret("shared", secret.encode()))
    return found
