"""What can be stated of an artifact, and how it counts for who demands it. A row a kind of statement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of statement. predicate_types: of its statements, the one that is written here first; proves:
    the word by which `--require` and a policy ask for it; about: in words."""

    name: str
    predicate_types: tuple[str, ...]
    proves: str
    about: str


_TABLE: Final = (
    Kind(
        "provenance",
        ("https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2"),
        "provenance",
        "what it was built from, by whom and how",
    ),
    Kind(
        "spdx",
        ("https://spdx.dev/Document", "https://spdx.dev/Document/v3"),
        "sbom",
        "what is in it, as SPDX",
    ),
    Kind("cyclonedx", ("https://cyclonedx.org/bom",), "sbom", "what is in it, as CycloneDX"),
    Kind(
        "tests",
        ("https://in-toto.io/attestation/test-result/v0.1",),
        "tests",
        "which checks and tests it has passed",
    ),
    Kind(
        "vulnerabilities",
        ("https://in-toto.io/attestation/vulns/v0.2", "https://openvex.dev/ns/v0.2.0"),
        "vulnerabilities",
        "which vulnerabilities are known of it",
    ),
    Kind("signature", ("https://sigstore.dev/cosign/sign/v1",), "signature", "that it is signed, no more"),
)

STATEMENTS: Final[Mapping[str, Kind]] = {kind.name: kind for kind in _TABLE}

REQUIREMENTS: Final = tuple(dict.fromkeys(kind.proves for kind in _TABLE))
"""The words of `--require`."""


def kind_of(predicate_type: str) -> Kind | None:
    """Return the kind of a statement by the type of its predicate; None for one that is not known here."""
    return next((kind for kind in _TABLE if predicate_type in kind.predicate_types), None)
