"""What an SBOM format is: the value of a row of FORMATS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from buildstep.trust.sbom.bill import Bill


@dataclass(frozen=True, kw_only=True, slots=True)
class SbomFormat:
    """A format of bills of materials.

    about: its name and version, for a person; ending: of the files that have it; media_type: as registries
    know it; predicate_type: of an in-toto statement that holds it; write: returns the document.
    """

    about: str
    ending: str
    media_type: str
    predicate_type: str
    write: Callable[[Bill], bytes]
