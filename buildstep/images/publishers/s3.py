"""Publish to an S3 bucket.

images/UUID/file, images/UUID/manifest.json    an image by its uuid; the manifest after the file
NAME/VERSION/*                                 what else was built, and what proves it
NAME/VERSION/index.json                        the name: written last, and refused where it is taken
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

from buildstep.events import Bus
from buildstep.images.publishers.bundle import Bundle, Published, PublishOptions, is_published, renewed
from buildstep.images.repositories import path_of
from buildstep.net.s3 import S3Client
from buildstep.net.s3_errors import Taken


class S3Publisher:
    """Targets: s3://BUCKET[/PREFIX]."""

    scheme: ClassVar[str] = "s3"

    def publish(self, bundle: Bundle, target: str, *, options: PublishOptions, bus: Bus) -> Published:
        with options.session(bus) as http:
            client = S3Client(target, http=http, endpoint=options.endpoint)
            return _publish(bundle, client)


def _publish(bundle: Bundle, client: S3Client) -> Published:
    image, extras = bundle.image, bundle.extras()
    folder = f"{path_of(bundle.name)}/{path_of(bundle.version)}"
    file = f"images/{bundle.uuid}/file"
    places = {content.path.name: f"{folder}/{content.path.name}" for content in extras}
    places[image.path.name] = file
    index = bundle.index(places)
    key = f"{folder}/index.json"
    last = client.get(key)
    index = renewed(last, index, f"{bundle.name}@{bundle.version}", f"{client.uri}/{key}")
    names = [
        (f"images/{bundle.uuid}/manifest.json", bundle.manifest_bytes(), f"the uuid {bundle.uuid}"),
        (key, index, f"{bundle.name}@{bundle.version}"),
    ]
    # Looked at before anything is written: a refusal leaves the bucket as it was.
    taken = [_is_published(client, *names[0]), last == index]
    changed = _put(client, file, image.path, image.sha256)
    for content in extras:
        changed |= _put(client, places[content.path.name], content.path, content.sha256)
    for (key, data, what), there in zip(names, taken, strict=True):
        if there:
            continue
        try:
            # Only an index that has more sidecars now takes the place of another.
            first = key != names[1][0] or last is None
            client.put(key, data, content_type="application/json", if_absent=first)
        except Taken:
            # Another process was faster; it is no error if that was the same image.
            if not _is_published(client, key, data, what):
                raise
        changed = True
    return Published(
        target=client.uri,
        name=f"{bundle.name}@{bundle.version}",
        state="published" if changed else "already",
        uuid=bundle.uuid,
        objects={
            file: f"sha256:{image.sha256}",
            f"{folder}/index.json": "sha256:" + hashlib.sha256(index).hexdigest(),
        },
    )


def _put(client: S3Client, key: str, path: Path, sha256: str) -> bool:
    """Upload content unless it is there. It has no name yet, so what a broken run left is replaced."""
    there = client.head(key)
    if there is not None and there.sha256 == sha256 and there.size == path.stat().st_size:
        return False
    client.put(key, path, sha256=sha256)
    return True


def _is_published(client: S3Client, key: str, ours: bytes, what: str) -> bool:
    there = client.get(key)
    return is_published(there, ours, what, f"{client.uri}/{key}")
