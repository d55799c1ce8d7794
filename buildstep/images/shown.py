"""References of base images as documents show them that leave the CI host."""

from __future__ import annotations

import os
from typing import Final

from buildstep.net.errors import safe_url

_LOCAL: Final = frozenset(("tar", "oci", "docker-archive", "zfs", "btrfs", "dir"))
"""Schemes of base images that are files of the CI host."""


def shown_reference(reference: str) -> str:
    """Return the reference of a base image without a path of the CI host, and without a login."""
    scheme, _, rest = reference.partition(":")
    if "://" in reference:
        return safe_url(reference)
    if scheme in _LOCAL:
        return f"{scheme}:{','.join(os.path.basename(word.rstrip('/')) for word in rest.split(','))}"
    return (
        reference
        if "/" not in reference or not reference.startswith(("/", "."))
        else os.path.basename(reference)
    )
