"""Publish to a directory laid out for static serving.

    images/UUID/file, images/UUID/manifest.json    an image by its uuid
    NAME/VERSION/*, NAME/VERSION/index.json        everything that was built, and what proves it, by name
    images/index.json                              the manifests of all images, written last

What is new is written aside and renamed as a whole: a web server never shows a part of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from buildstep.errors import DatasetError, PublishError
from buildstep.events import Bus
from buildstep.images.publishers.bundle import (
    Bundle,
    Content,
    Published,
    PublishOptions,
    is_published,
    renewed,
)
from buildstep.images.repositories import path_of
from buildstep.system.files import CHUNK, atomic_write, fsync_dir, try_link
from buildstep.system.locks import lock
from buildstep.system.remove import remove_tree

_ASIDE = ".new-"


class DirectoryPublisher:
    """Targets: dir:PATH."""

    scheme: ClassVar[str] = "dir"

    def publish(self, bundle: Bundle, target: str, *, options: PublishOptions, bus: Bus) -> Published:
        del options, bus
        top = Path(target.removeprefix("dir:"))
        if not target.removeprefix("dir:"):
            raise PublishError("dir: needs a path", hint="dir:PATH")
        bundle.extras()  # what is wrong with them shows before anything is written
        try:
            top.mkdir(parents=True, exist_ok=True)
            with lock(top / ".buildstep.lock"):
                return _publish(bundle, top)
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            raise PublishError(f"cannot publish to {top}:{where} {error.strerror}") from error


def _publish(bundle: Bundle, top: Path) -> Published:
    image = bundle.image
    extras = bundle.extras()
    images = top / "images"
    by_uuid = images / bundle.uuid
    by_name = top / path_of(bundle.name) / path_of(bundle.version)
    places = {content.path.name: content.path.name for content in (image, *extras)}
    index = bundle.index(places)
    # Both names are looked at before anything is written: a refusal leaves the directory as it was.
    has_uuid = _is_published(by_uuid / "manifest.json", bundle.manifest_bytes(), f"the uuid {bundle.uuid}")
    named = by_name / "index.json"
    last = named.read_bytes() if named.exists() else None
    index = renewed(last, index, f"{bundle.name}@{bundle.version}", str(named))
    has_name = last is not None
    for folder in (images, by_name.parent):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
    if not has_uuid:
        with _new(by_uuid) as aside:
            _copy(image, aside / "file")
            _write(aside / "manifest.json", bundle.manifest_bytes())
    if not has_name:
        with _new(by_name) as aside:
            if not try_link(by_uuid / "file", aside / image.path.name):
                _copy(image, aside / image.path.name)
            for content in extras:
                _copy(content, aside / content.path.name)
            _write(aside / "index.json", index)
    elif index != last:
        for content in extras:
            if content.path in bundle.sidecars:
                _replace(content, by_name / content.path.name)
        _write(named, index)
    listed = _list(images, bundle.meta)
    return Published(
        target=f"dir:{top}",
        name=f"{bundle.name}@{bundle.version}",
        state="already" if has_uuid and index == last and not listed else "published",
        uuid=bundle.uuid,
        objects={
            f"images/{bundle.uuid}/file": f"sha256:{image.sha256}",
            f"{path_of(bundle.name)}/{path_of(bundle.version)}/index.json": "sha256:"
            + hashlib.sha256(index).hexdigest(),
        },
    )


def _is_published(path: Path, ours: bytes, what: str) -> bool:
    there = path.read_bytes() if path.exists() else None
    return is_published(there, ours, what, str(path))


def _sweep(folder: Path) -> None:
    """Remove what a run that was killed had not finished; we hold the lock, so nobody works on it."""
    for name in os.listdir(folder):
        if name.startswith(_ASIDE):
            remove_tree(folder / name)


def _copy(content: Content, target: Path) -> None:
    digest = hashlib.sha256()
    with content.path.open("rb") as source, target.open("xb") as out:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != content.sha256:
        raise PublishError(f"{content.path} changed while it was published", hint="is a build still running?")


def _replace(content: Content, target: Path) -> None:
    """Copy a file that may be there, of an earlier publication."""
    aside = target.with_name(f"{_ASIDE}{target.name}")
    aside.unlink(missing_ok=True)
    _copy(content, aside)
    aside.chmod(0o644)
    aside.rename(target)


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path, mode=0o644) as stream:
        stream.write(data)


@contextlib.contextmanager
def _new(final: Path) -> Iterator[Path]:
    """Make a directory that gets its name when the block has ended well; else it is removed at once."""
    aside = final.with_name(f"{_ASIDE}{final.name}")
    aside.mkdir()
    try:
        yield aside
        aside.chmod(0o755)
        fsync_dir(aside)
        aside.rename(final)
        fsync_dir(final.parent)
    except BaseException:
        with contextlib.suppress(DatasetError, OSError):  # the next run removes it
            remove_tree(aside)
        raise


def _list(images: Path, manifest: Mapping[str, Any]) -> bool:
    """Add an image to the list of all; False when it is there."""
    path = images / "index.json"
    try:
        rows = {row["uuid"]: row for row in json.loads(path.read_bytes())["images"]}
    except (OSError, ValueError, KeyError, TypeError):
        # Missing or damaged: made anew from what there is.
        rows = {}
        for there in sorted(images.glob("*/manifest.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # nobody finds that one
                row = json.loads(there.read_bytes())
                rows[row["uuid"]] = row
        rows.pop(manifest["uuid"], None)
    if rows.get(manifest["uuid"]) == manifest:
        return False
    rows[manifest["uuid"]] = dict(manifest)
    ordered = sorted(rows.values(), key=lambda row: (str(row.get("published_at", "")), str(row["uuid"])))
    _write(path, json.dumps({"format": 1, "images": ordered}, indent=2).encode() + b"\n")
    return True
