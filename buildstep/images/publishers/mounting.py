"""Which repository of a registry is likely to have the layers of an image already."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from buildstep.errors import UsageError
from buildstep.formats.oci.layout import Layout
from buildstep.formats.oci.spec import ANNOTATION, INDEXES, Descriptor, media_type, parse_manifest
from buildstep.net.registry import Reference

_LAST: Final = 1 << 20
"""Bytes of the notes that are read: the last of them."""


def candidate(layout: Layout, entry: Descriptor, ref: Reference, notes: Path | None) -> str:
    """Return another repository of the same registry, empty for none. entry: of an image, or of an index.

    It is the one that the base image came from, else the one where most of the layers were published from
    this pool. notes: of what was published, `published.jsonl` of the pool.
    """
    data = layout.read(entry)
    if media_type(data, entry.media_type) in INDEXES:
        return ""  # of several images, each may have another
    image = parse_manifest(data, entry, layout.label)
    base = image.annotations.get(ANNOTATION + "base.name", "")
    try:
        there = Reference.parse(base) if "/" in base else None
    except UsageError:
        there = None
    if there is not None and there.host == ref.host:
        return "" if there.repository == ref.repository else there.repository
    digests = {layer.digest for layer in image.layers}
    found = Counter(
        place.repository for place, had in _published(notes) if place.host == ref.host and digests & had
    )
    found.pop(ref.repository, None)
    return found.most_common(1)[0][0] if found else ""


def published_there(ref: Reference, notes: Path | None) -> list[str]:
    """Return the digests of images that were published to a repository from this pool, the last one first."""
    found = [
        place.digest
        for place, _ in _published(notes)
        if (place.host, place.repository) == (ref.host, ref.repository) and place.digest
    ]
    return found[::-1]


def _published(notes: Path | None) -> Iterator[tuple[Reference, set[str]]]:
    """Yield images, by their repository and digest, and the digests of what was published with each."""
    if notes is None or not notes.exists():
        return
    with notes.open("rb") as stream:
        stream.seek(max(0, notes.stat().st_size - _LAST))
        lines = stream.read().splitlines()
    for line in lines:
        try:
            row: Any = json.loads(line)
            target, objects = row["target"], row["objects"]
            if str(target).startswith("docker://"):
                yield Reference.parse(str(row.get("address") or target)), set(objects.values())
        except (ValueError, KeyError, TypeError, AttributeError, UsageError):
            continue  # half a line, where the reading began inside of it
