"""What the statements of a build are about: its artifacts, the image in them, and the tree they share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from buildstep.trust.statements.statement import TREE, Subject


def images_of(artifacts: Iterable[Mapping[str, Any]], subjects: Iterable[Subject]) -> tuple[Subject, ...]:
    """Return those subjects of a build that are images as registries know them. artifacts: as
    `subjects_of`."""
    digests = {str(it["extra"].get("digest", "")).removeprefix("sha256:") for it in artifacts} - {""}
    return tuple(subject for subject in subjects if subject.digests.get("sha256") in digests)


def subjects_of(artifacts: Iterable[Mapping[str, Any]], tree: str) -> tuple[Subject, ...]:
    """Return the subjects of a build. artifacts: as the build record has them; tree: the digest of the tree,
    empty where none is known."""
    found: list[Subject] = []
    for artifact in artifacts:
        digests = {"sha256": artifact["sha256"]} | ({"sha1": artifact["sha1"]} if artifact["sha1"] else {})
        found.append(Subject(os.path.basename(artifact["path"]), digests))
        extra = artifact["extra"]
        image = Subject(
            str(extra.get("reference", "")), {"sha256": str(extra.get("digest", "")).removeprefix("sha256:")}
        )
        if image.digests["sha256"] and image not in found:
            found.append(image)
    return (*found, Subject("tree", {TREE: tree})) if tree else tuple(found)
