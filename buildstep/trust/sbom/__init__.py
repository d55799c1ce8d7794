"""Bills of materials: views of one inventory, one file a format, one row of the table each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildstep.errors import UsageError
from buildstep.system.registry import Registry, importing

if TYPE_CHECKING:
    from buildstep.trust.inventory.model import Inventory
    from buildstep.trust.sbom.interface import SbomFormat

FORMATS: Registry[SbomFormat] = Registry(
    "sboms",
    "SBOM format",
    {
        "spdx": importing("buildstep.trust.sbom.spdx:FORMAT"),
        "cyclonedx": importing("buildstep.trust.sbom.cyclonedx:FORMAT"),
        "spdx3": importing("buildstep.trust.sbom.spdx3:FORMAT"),
    },
)


def find(name: str) -> SbomFormat:
    """Return a format by its name. Raises UsageError."""
    found = FORMATS.find(name)
    if found is None:
        raise UsageError(f"there is no SBOM format {name}", hint=FORMATS.hint(name))
    return found


def write(name: str, inventory: Inventory) -> bytes:
    """Return the document of an inventory in a format: the same bytes for the same inventory.

    Raises UsageError for an unknown format.
    """
    from buildstep.trust.sbom.bill import Bill

    return find(name).write(Bill(inventory))
