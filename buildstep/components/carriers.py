"""How images travel from one machine to another: through a registry, or through the store of the hand-over.

An image is asked for by its id, the digest of its configuration, and what comes is taken only if that is its
id. Its manifest names its layers by digest, and those are verified on their way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from buildstep.components.exact_layout import BLOBS, check, only_image, write_index
from buildstep.components.interface import GraphError
from buildstep.files import put, refs
from buildstep.files.checkout import checkout
from buildstep.files.content import ContentStore
from buildstep.files.parallel import parallel
from buildstep.formats.oci.layout import open_layout
from buildstep.formats.oci.spec import Descriptor, parse_manifest
from buildstep.images.publishers.registry import push_image
from buildstep.net.credentials import credentials_for
from buildstep.net.http import Http
from buildstep.net.registry import Reference, RegistryClient
from buildstep.system.digest import sha256_bytes

AT_ONCE: Final = 4
"""Layers of an image that are fetched at the same time."""


class Carrier(Protocol):
    """Carries images by their ids, `sha256:...`. Safe to use from several threads."""

    def has(self, image: str) -> bool:
        """Return whether an image is there, complete."""
        ...

    def put(self, image: str, layout: Path) -> None:
        """Put an image there. layout: a directory. Raises GraphError where that is another image."""
        ...

    def get(self, image: str, layout: Path) -> None:
        """Fetch an image into a new directory, a layout of it, verified. Raises BuildstepError."""
        ...


class RegistryCarrier:
    """One repository of a registry, `docker://HOST[:PORT]/NAME`; each image has a tag, `id-` and its id.

    Credentials as `net.credentials` finds them on each machine. BUILDSTEP_INSECURE_REGISTRIES: hosts that are
    spoken to without TLS.
    """

    def __init__(self, url: str, http: Http, environ: Mapping[str, str]) -> None:
        reference = Reference.parse(url)
        listed = environ.get("BUILDSTEP_INSECURE_REGISTRIES", "").split(",")
        self._client = RegistryClient(
            reference,
            http=http,
            credentials=credentials_for(reference.host, environ),
            plain=True if reference.host in listed else None,
        )

    def has(self, image: str) -> bool:
        return self._client.resolve(_tag(image)) is not None

    def put(self, image: str, layout: Path) -> None:
        check(layout, image)
        opened = open_layout(layout, image[:19])
        kind, data = push_image(opened, opened.find(""), self._client, {})
        self._client.push_manifest(_tag(image), kind, data)

    def get(self, image: str, layout: Path) -> None:
        kind, data = self._client.manifest(_tag(image))
        entry = Descriptor(media_type=kind, digest=f"sha256:{sha256_bytes(data)}", size=len(data))
        found = parse_manifest(data, entry, self._client.label)
        if found.config.digest != image:
            raise GraphError(f"{self._client.label}: the tag {_tag(image)[:15]} is on another image")
        blobs = layout / BLOBS
        blobs.mkdir(parents=True)
        wanted = {blob.digest: blob for blob in (*found.layers, found.config)}.values()
        for _ in parallel(lambda blob: self._client.fetch(blob, blobs / blob.hex), wanted, AT_ONCE):
            pass
        write_index(layout, kind, data)


def _tag(image: str) -> str:
    return f"id-{image.removeprefix('sha256:')}"


class StoreCarrier:
    """The store of the hand-over: of each image the layout, under the ref `handover/images/ID`."""

    def __init__(self, store: ContentStore) -> None:
        self._store = store

    def has(self, image: str) -> bool:
        return refs.read(self._store.storage, _ref(image)) is not None

    def put(self, image: str, layout: Path) -> None:
        check(layout, image)
        # Owners and times are nobody's business: the same image is the same list, whoever puts it.
        options = put.Options(owner=(0, 0), clamp=0)
        try:
            put.put_tree(self._store, layout, ref=_ref(image), options=options, state=None)
        except refs.RefChanged:
            if not self.has(image):  # else somebody has put it at the same moment
                raise

    def get(self, image: str, layout: Path) -> None:
        ref = refs.get(self._store.storage, _ref(image))
        entries = self._store.get_list(ref.list)
        prefix = os.fsencode(f"{BLOBS}/")
        for path, entry in entries.items():
            if path.startswith(prefix) and path != prefix + entry.sha256.encode():
                raise GraphError(f"the image {image[:19]} is damaged in {self._store.storage.url}")
        checkout(self._store, entries, layout)  # which verifies each content by the digest in the list
        check(layout, image)
        opened, found = only_image(layout)
        for blob in (*found.layers, found.config):
            opened.blob(blob)  # is there, with its size


def _ref(image: str) -> str:
    return f"handover/images/{image.removeprefix('sha256:')}"
