"""Statements: what is said of artifacts, each known by its digests, in the form of in-toto.

The form is "Statement v1" of in-toto/attestation (spec/v1/statement.md): subjects with names and digests, the
type of the predicate, and the predicate. A subject is matched by its digests alone; its name is for people.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from buildstep.errors import SigningError

TYPE: Final = "https://in-toto.io/Statement/v1"
OLD_TYPE: Final = "https://in-toto.io/Statement/v0.1"
"""What cosign 2 writes: the same members."""
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
"""Of an envelope with a statement."""

TREE: Final = "buildstepTree"
"""The name of the digest of a tree, which all formats of an image have in common."""

_MAX_SUBJECTS: Final = 10_000
_HEX = re.compile(r"[0-9a-f]{32,128}")
_DIGEST_NAME = re.compile(r"[A-Za-z0-9_]{1,40}")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a statement is about. digests: by the name of the algorithm, in hex, such as `sha256`."""

    name: str
    digests: Mapping[str, str]

    def to_data(self) -> dict[str, Any]:
        return {"name": self.name, "digest": dict(self.digests)}


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement. predicate: what is said; its form is told by predicate_type, a URI."""

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: Mapping[str, Any]

    def to_json(self) -> bytes:
        """Return it as JSON; the same statement is the same bytes."""
        value = {
            "_type": TYPE,
            "subject": [subject.to_data() for subject in self.subjects],
            "predicateType": self.predicate_type,
            "predicate": self.predicate,
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def subject_of(self, digests: Mapping[str, str]) -> Subject | None:
        """Return the subject that one of some digests names, None if it is about something else.

        digests: in hex, by the name of the algorithm; one that two have in common must not differ.
        """
        return next((subject for subject in self.subjects if _matches(subject.digests, digests)), None)


def _matches(stated: Mapping[str, str], digests: Mapping[str, str]) -> bool:
    common = stated.keys() & digests.keys()
    return bool(common) and all(stated[name] == digests[name] for name in common)


def parse(data: bytes) -> Statement:
    """Read a statement. Raises SigningError for what is none; the caller has limited its size."""
    try:
        value = json.loads(data)
        if not isinstance(value, dict) or value.get("_type") not in (TYPE, OLD_TYPE):
            raise ValueError("its _type is another")
        predicate, kind = value.get("predicate"), value["predicateType"]
        if not isinstance(kind, str) or not isinstance(predicate, dict | None):
            raise TypeError("predicateType is a text, predicate an object")
        return Statement(tuple(_subjects(value["subject"])), kind, predicate or {})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SigningError(f"it is no in-toto statement: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)


def _subjects(rows: object) -> Iterable[Subject]:
    if not isinstance(rows, list) or not 0 < len(rows) <= _MAX_SUBJECTS:
        raise TypeError("subject is a list with entries")
    for row in rows:
        name, digests = row.get("name", ""), row["digest"]
        if not isinstance(name, str) or not isinstance(digests, dict) or not digests:
            raise TypeError("a subject has a name and digests")
        for algorithm, digest in digests.items():
            if not _DIGEST_NAME.fullmatch(algorithm) or not isinstance(digest, str):
                raise TypeError("a digest is a name and a text")
            if not _HEX.fullmatch(digest):
                raise ValueError(f"the {algorithm} of a subject is no digest in hex")
        yield Subject(name, digests)
