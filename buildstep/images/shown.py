"""What documents show of images that leave the CI host: references of bases, and who an image is from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from buildstep.formats.oci.spec import ANNOTATION
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


def vendor_of(*labels: Mapping[str, Any]) -> str:
    """Return who an image is from, as the standard label or annotation for it says; empty where none does."""
    found = [str(row[f"{ANNOTATION}vendor"]) for row in labels if f"{ANNOTATION}vendor" in row]
    return " ".join(found[-1].split())[:200] if found else ""
