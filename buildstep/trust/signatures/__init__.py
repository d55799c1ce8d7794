"""Formats of signatures: those of ssh-keygen, minisign, Sigstore bundles and container images.

Envelopes of statements are in `trust.dsse`. A new format is one row here and one file.
"""

from __future__ import annotations

from buildstep.system.registry import Registry, importing
from buildstep.trust.signatures.interface import Check

CHECKS: Registry[Check] = Registry(
    "signatures",
    "format of signatures",
    {
        "sshsig": importing("buildstep.trust.signatures.sshsig:check"),
        "minisign": importing("buildstep.trust.signatures.minisign:check"),
        "bundle": importing("buildstep.trust.signatures.bundle:check"),
        "raw": importing("buildstep.trust.signatures.raw:check"),
        "simplesigning": importing("buildstep.trust.signatures.simplesigning:check"),
    },
)
"""Check a signature of bytes: of a file, for simplesigning of the payload."""
