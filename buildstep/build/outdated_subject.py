"""What `image outdated` is asked about: an image of the store, a build record, an image file, a locator."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from buildstep.errors import ImageError, UsageError
from buildstep.formats.oci.spec import ANNOTATION
from buildstep.images.file_kind import kind_of
from buildstep.images.record import ImageRecord, last_of
from buildstep.images.sources.local_file import build_beside
from buildstep.images.store import ImageStore
from buildstep.report import parse
from buildstep.report.record import RECORD_SUFFIX, BuildRecord, verify

UNPACKED = {"oci": "oci", "oci-dir": "oci", "tar": "tar", "zfs": "zfs"}
"""Formats of image files that can be unpacked, the best first, and how locators of them begin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is asked about. image: in the store; record: of the build that made it, where it is known; ref: a
    locator to unpack its files from, empty where they are in the store, or nowhere, and `why` says that;
    labels: that it has itself."""

    name: str
    version: str
    image: ImageRecord | None = None
    record: BuildRecord | None = None
    ref: str = ""
    why: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def made(self) -> datetime | None:
        """When it was built, or imported; None where nobody knows."""
        if self.record is not None:
            return self.record.started
        return datetime.fromtimestamp(self.image.imported, UTC) if self.image is not None else None

    @property
    def base(self) -> Mapping[str, Any]:
        """What is known of where it is from: `label`, `key`, `uuid` and what its source wrote down; nothing
        where nobody knows. Of a base image of the store that is its own source."""
        if self.record is not None:
            return self.record.input("image")
        if self.image is None:
            name, digest = (self.labels.get(f"{ANNOTATION}base.{word}", "") for word in ("name", "digest"))
            return {"label": f"docker://{name}", "key": f"docker:{digest}"} if name and digest else {}
        return {
            **self.image.inputs,
            "label": self.image.label,
            "key": self.image.key,
            "uuid": self.image.uuid,
        }


def subject_of(word: str, store: ImageStore) -> Subject:
    """Return what a person means: a build record or a directory with one, an image file, or an image.

    Raises UsageError, ImageError.
    """
    path = Path(word)
    if word.endswith(RECORD_SUFFIX):
        return _of_record(parse.load(path))
    if path.is_dir() and not (path / "oci-layout").exists():
        found = parse.find_records([path])
        if len(found) > 1:
            names = ", ".join(item.name for item in found[:5])
            raise UsageError(f"{word} has {len(found)} build records", hint=f"name one: {names}")
        return _of_record(parse.load(found[0]))
    if path.exists():
        return _of_file(path)
    parsed = store.source(word)
    if parsed is None:
        return _of_image(store.get(word))
    # Of a tag the image that is here is meant, not what the tag is by now.
    here = last_of(store.records(), word, store.platform) if parsed[0].scheme == "docker" else None
    image = here or store.find(word)
    return _of_image(image) if image is not None else Subject(name=word, version="", ref=word)


def _of_image(image: ImageRecord) -> Subject:
    return Subject(name=image.name, version=image.version, image=image)


def _of_file(path: Path) -> Subject:
    kind = kind_of(path)
    record = build_beside(path)
    if record is not None:
        artifact = next(row for row in record.artifacts if row.name == path.name)
        record = record if verify(record, artifact).good else None
    name = (record.name, record.version) if record is not None else (path.name, "")
    return Subject(name=name[0], version=name[1], record=record, ref=f"{kind}:{path}")


def _of_record(record: BuildRecord) -> Subject:
    """The image file of a record is unpacked where it is, beside it or where the build wrote it."""
    if not record.ok:
        raise ImageError(
            f"the build {record.build_id} of {record.path} made no image", hint="name a good one"
        )
    found = Subject(name=record.name, version=record.version, record=record)
    why = "its image file is not on this machine"
    for form, scheme in UNPACKED.items():
        for artifact in (row for row in record.artifacts if row.format == form):
            for path in (record.path.parent / artifact.name, Path(artifact.path)):
                if not os.path.exists(path):
                    continue
                verdict = verify(record, artifact)
                if verdict.good:
                    return replace(found, ref=f"{scheme}:{path}")
                why = verdict.text
    return replace(found, why=why)
