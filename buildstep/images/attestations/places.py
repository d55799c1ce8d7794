"""Where images are copied from and to with what is said of them: registries, and OCI layouts.

In a layout, referrers are as cosign has them: blobs that no index lists, so that whoever wants the only image
of a layout still finds one. Cosign's tags have no place there: annotations of the image's row in the index
say what they name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from buildstep.errors import ImageError
from buildstep.events import Gauge
from buildstep.formats.oci import artifact
from buildstep.formats.oci.artifact import Artifact
from buildstep.formats.oci.layout import Layout
from buildstep.formats.oci.layout_writer import LayoutWriter
from buildstep.formats.oci.spec import Descriptor, media_type
from buildstep.images.attestations import inside, legacy
from buildstep.images.attestations.local import Papers
from buildstep.images.attestations.push import attest
from buildstep.net.referrers import ReferrerRegistry
from buildstep.system.files import Slice

KIND: Final = ("kind", "dev.cosignproject.cosign/image")
"""The annotation by which `cosign verify --local-image` knows an image of a layout."""
SUFFIXES: Final = ("sig", "att")
_TAG: Final = "vnd.buildstep.tag."
"""What annotations of a layout's image begin with, before a tag of cosign's; the value is a digest."""


class Source(Protocol):
    """Where an image comes from. Raises HttpError, ImageError."""

    @property
    def label(self) -> str: ...

    def top(self) -> Descriptor:
        """Return what is to be copied: it is looked for once."""
        ...

    def document(self, entry: Descriptor) -> bytes:
        """Return a manifest or an index, verified."""
        ...

    def blob(self, entry: Descriptor) -> contextlib.AbstractContextManager[Slice]:
        """Give a blob; whoever gets it compares its digest."""
        ...

    def referrers(self, digest: str) -> tuple[Artifact, ...]: ...

    def tagged(self, digest: str) -> Mapping[str, Artifact]:
        """Return what cosign's tags of an image name, by their suffix."""
        ...


@dataclass(frozen=True)
class RegistrySource:
    """An image in a registry. scratch: where blobs are on their way; what is left there is gone on with."""

    client: ReferrerRegistry
    scratch: Path

    @property
    def label(self) -> str:
        return self.client.label

    def top(self) -> Descriptor:
        kind, data = self.client.manifest(self.client.ref.wanted)
        return artifact.described(kind, data)

    def document(self, entry: Descriptor) -> bytes:
        return self.client.manifest(entry.digest)[1]

    @contextlib.contextmanager
    def blob(self, entry: Descriptor) -> Iterator[Slice]:
        path = self.scratch / f"sha256-{entry.hex}"
        self.client.fetch(entry, path)
        yield Slice(path=path, offset=0, size=entry.size)
        path.unlink()

    def referrers(self, digest: str) -> tuple[Artifact, ...]:
        return self.client.referrers(digest).artifacts

    def tagged(self, digest: str) -> Mapping[str, Artifact]:
        found = {}
        for suffix in SUFFIXES:
            there = self.client.tagged(legacy.tag_of(digest, suffix))
            if there is not None:
                with contextlib.suppress(ImageError):
                    found[suffix] = artifact.parse(there.document, suffix)
        return found


@dataclass
class LayoutSource:
    """An image in an OCI layout: a directory or an archive. tag: empty for the only one."""

    layout: Layout
    tag: str = ""
    _referrers: dict[str, list[Artifact]] | None = field(default=None, init=False)

    @property
    def label(self) -> str:
        return self.layout.label

    def top(self) -> Descriptor:
        entry = self.layout.find(self.tag)
        return artifact.described(
            media_type(self.layout.read(entry), entry.media_type), self.layout.read(entry)
        )

    def document(self, entry: Descriptor) -> bytes:
        return self.layout.read(entry)

    @contextlib.contextmanager
    def blob(self, entry: Descriptor) -> Iterator[Slice]:
        yield self.layout.blob(entry)

    def referrers(self, digest: str) -> tuple[Artifact, ...]:
        if self._referrers is None:
            self._referrers = inside.referrers_in(self.layout)
        return tuple(self._referrers.get(digest, ()))

    def tagged(self, digest: str) -> Mapping[str, Artifact]:
        found = {}
        for suffix in SUFFIXES:
            name = _TAG + legacy.tag_of(digest, suffix)
            for row in self.layout.tags().values():
                with contextlib.suppress(ImageError):
                    where = self.layout.slice(f"blobs/{row.annotations.get(name, 'none').replace(':', '/')}")
                    entry = Descriptor(media_type="", digest=row.annotations[name], size=where.size)
                    found[suffix] = artifact.parse(self.layout.read(entry), suffix)
        return found


class Destination(Protocol):
    """Where an image goes. Raises HttpError, ImageError, OSError."""

    def blob(self, entry: Descriptor, source: Source) -> None:
        """Take a blob, unless it is there."""
        ...

    def document(self, entry: Descriptor, data: bytes) -> None:
        """Take a manifest or an index, whose blobs are there."""
        ...

    def attach(self, items: tuple[Artifact, ...]) -> int:
        """Take referrers of one image, whose blobs are there; return how many were not."""
        ...

    def tag_along(self, digest: str, tagged: Mapping[str, Artifact], source: Source) -> int:
        """Take what cosign's tags of an image name, beside what is there; return how many were changed."""
        ...

    def say(self, image: Descriptor, papers: Papers) -> int:
        """Take what files beside an image say of it; return how much of it is new."""
        ...

    def name(self, entry: Descriptor, data: bytes) -> None:
        """Let the name that was asked for mean an image that is there."""
        ...


@dataclass
class RegistryDestination:
    """A repository. gauge: is told what is sent; mount: the client knows another one, which has all blobs."""

    client: ReferrerRegistry
    gauge: Gauge
    mount: bool = False

    def blob(self, entry: Descriptor, source: Source) -> None:
        self.gauge.total += entry.size
        there = self.client.size_of(entry.digest) is not None
        if there or (self.mount and self.client.mount(entry)):
            self.gauge.advance(entry.size)
            return
        with source.blob(entry) as content:
            self.client.push_blob(entry, content, self.gauge)

    def document(self, entry: Descriptor, data: bytes) -> None:
        self.client.push_manifest(entry.digest, entry.media_type, data)

    def attach(self, items: tuple[Artifact, ...]) -> int:
        return self.client.attach(items)

    def tag_along(self, digest: str, tagged: Mapping[str, Artifact], source: Source) -> int:
        changed = 0
        for suffix, item in tagged.items():
            for layer in item.layers:
                self.blob(layer, source)
            layers = legacy.lacking([(layer, None) for layer in item.layers])
            changed += legacy.push(self.client, legacy.tag_of(digest, suffix), layers)
        return changed

    def say(self, image: Descriptor, papers: Papers) -> int:
        return len(attest(self.client, image, papers))

    def name(self, entry: Descriptor, data: bytes) -> None:
        self.client.push_manifest(self.client.ref.tag, entry.media_type, data)


@dataclass
class LayoutDestination:
    """A layout's directory. tag: of the image."""

    writer: LayoutWriter
    tag: str
    _notes: dict[str, str] = field(default_factory=dict, init=False)

    def blob(self, entry: Descriptor, source: Source) -> None:
        if not self.writer.has(entry):
            with source.blob(entry) as content:
                self.writer.add_slice(entry, content)

    def document(self, entry: Descriptor, data: bytes) -> None:
        self.writer.add_document(entry, data)

    def attach(self, items: tuple[Artifact, ...]) -> int:
        new = [item for item in items if not self.writer.has(item.entry)]
        for item in items:
            self.writer.add_document(item.entry, item.document)
        if items:
            self._notes |= dict([KIND])
        return len(new)

    def tag_along(self, digest: str, tagged: Mapping[str, Artifact], source: Source) -> int:
        new = 0
        for suffix, item in tagged.items():
            for layer in item.blobs:
                self.blob(layer, source)
            new += not self.writer.has(item.entry)
            self.writer.add_document(item.entry, item.document)
            self._notes[_TAG + legacy.tag_of(digest, suffix)] = item.entry.digest
        return new

    def say(self, image: Descriptor, papers: Papers) -> int:
        if papers.signed or papers.documents:
            self._notes |= dict([KIND])
        return inside.put(self.writer, image, papers)

    def name(self, entry: Descriptor, data: bytes) -> None:
        del data
        self.writer.name(self.tag, replace(entry, annotations=self._notes))
