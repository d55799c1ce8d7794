"""Publish to a registry: blobs, manifests by their digest, what is said of them, then the tag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from buildstep.errors import ImageError, PublishError
from buildstep.events import Bus, Gauge
from buildstep.formats.oci.layout import Layout
from buildstep.formats.oci.naming import tag_of
from buildstep.formats.oci.spec import INDEXES, Descriptor, media_type, parse_index, parse_manifest
from buildstep.images.attestations import local
from buildstep.images.attestations.local import Papers, Signing
from buildstep.images.attestations.push import Forms, attest, there_of
from buildstep.images.publishers.bundle import Bundle, Published, PublishOptions
from buildstep.images.publishers.mounting import candidate, published_there
from buildstep.net.credentials import credentials_for
from buildstep.net.errors import HttpError
from buildstep.net.http import Http
from buildstep.net.referrers import ReferrerRegistry
from buildstep.net.registry import Reference, RegistryClient
from buildstep.system.text import plural

_MAX_DEPTH = 4
_EARLIER = 3
"""Images that are asked for, to know what a repository has."""
_BLOB_UNKNOWN = ("MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN")
"""What a registry says of an image whose blobs are not all there (distribution-spec, "Error codes")."""


class RegistryPublisher:
    """Targets: docker://HOST[:PORT]/NAME[:TAG]; the tag is the image's version by default."""

    scheme: ClassVar[str] = "docker"

    def publish(self, bundle: Bundle, target: str, *, options: PublishOptions, bus: Bus) -> Published:
        ref = Reference.parse(target, default_tag=tag_of(bundle.version))
        if ref.digest:
            raise PublishError(f"{ref} names a digest, which only the registry can give", hint="give a tag")
        with options.session(bus) as http:
            try:
                layout, entry = bundle.oci.layout, bundle.oci.entry
                other = candidate(layout, entry, ref, options.notes)
                client = client_of(ref, http, options, mount_from=other)
                with bus.job(f"push {str(ref).removeprefix('docker://')}") as gauge:
                    done = _publish(bundle, client, gauge, options)
                if client.mounted:
                    bus.note(f"{plural(client.mounted, 'blob')} of {other} taken over, not sent again")
                return done
            except ImageError as error:
                raise PublishError(error.message, detail=error.detail, hint=error.hint) from error


def _publish(bundle: Bundle, client: ReferrerRegistry, gauge: Gauge, options: PublishOptions) -> Published:
    ref, layout, entry = client.ref, bundle.oci.layout, bundle.oci.entry
    last = client.resolve(ref.tag)
    there = is_there(client, last, entry.digest, replace=options.replace)
    objects: dict[str, str] = {}
    kind, data = "", b""
    if not there:
        earlier = ([last.digest] if last else []) + published_there(ref, options.notes)
        push = Push(client, gauge, objects, known=Known(client, earlier))
        kind, data = push.image(layout, entry)
    papers = local.papers_of(bundle.stem, entry)
    if papers.others:
        text = f"{plural(papers.others, 'statement')} of {bundle.stem.name} about something else: left out"
        client.http.bus.note(text, level="warning")
    added = attested(client, entry, papers, bundle.name, options.demand.signing, options.attestations)
    if not there:
        client.push_manifest(ref.tag, kind, data)
    objects |= {ref.tag: entry.digest} | added
    return Published(
        target=f"docker://{ref.host}/{ref.repository}",
        name=f"docker://{ref.host}/{ref.repository}@{entry.digest}",
        state="already" if there and not added else "published",
        uuid=bundle.uuid,
        objects=objects,
    )


def attested(
    client: ReferrerRegistry,
    image: Descriptor,
    papers: Papers,
    name: str,
    signing: Signing,
    forms: Forms = "all",
) -> dict[str, str]:
    """Push what is said of an image that is there under its digest, signed where a key is given; return what
    was not there, by what it is."""
    papers = local.signed_by(papers, image, name, signing, lambda: there_of(client, image))
    return attest(client, image, papers, signing, forms)


def client_of(
    ref: Reference, http: Http, options: PublishOptions, *, mount_from: str = ""
) -> ReferrerRegistry:
    """Return what talks to the repository of a reference, with the credentials that there are for it."""
    listed = options.environ.get("BUILDSTEP_INSECURE_REGISTRIES", "").split(",")
    return ReferrerRegistry(
        ref,
        http=http,
        credentials=credentials_for(ref.host, options.environ),
        plain=True if options.insecure or ref.host in listed else None,
        mount_from=mount_from,
    )


def is_there(client: RegistryClient, there: Descriptor | None, digest: str, *, replace: bool) -> bool:
    """Return whether the client's tag names this image already. there: what it names.

    Raises PublishError where that is another one, which is not to be replaced.
    """
    if there is not None and there.digest != digest and not replace:
        raise PublishError(
            f"{client.ref} is another image already",
            detail=f"there: {there.digest}; ours: {digest}",
            hint="publish under another tag; a tag that is meant to move can be replaced",
        )
    return there is not None and there.digest == digest


class Known:
    """The blobs that a repository has for sure: those of an image of it, since it keeps what an image names.

    earlier: digests of images that may be there, the likeliest first; they are asked for until one is.
    """

    def __init__(self, client: RegistryClient, earlier: Sequence[str]) -> None:
        self._client = client
        self._earlier = list(dict.fromkeys(earlier))[:_EARLIER]
        self._there: set[str] | None = None

    def __contains__(self, digest: str) -> bool:
        if self._there is None:
            self._there = set()
            for image in self._earlier:
                self._there = self._blobs_of(image)
                if self._there:
                    break
        return digest in self._there

    def _blobs_of(self, digest: str) -> set[str]:
        """Return the blobs of an image of the repository, or of all that an index names; none where it is not
        there."""
        try:
            kind, data = self._client.manifest(digest)
        except HttpError as error:
            if error.status != 404:
                raise
            return set()
        entry = Descriptor(media_type=kind, digest=digest, size=len(data))
        if kind in INDEXES:
            return set().union(*(self._blobs_of(child.digest) for child in parse_index(data, digest)))
        image = parse_manifest(data, entry, digest)
        return {blob.digest for blob in (*image.layers, image.config)}

    def forget(self) -> bool:
        """Believe nothing any more; say whether anything was believed."""
        believed, self._there, self._earlier = bool(self._there), set(), []
        return believed


@dataclass(frozen=True, slots=True)
class Push:
    """How images are pushed. objects: is given what was pushed, name to digest; gauge: how far that is;
    known: blobs that need not be asked for."""

    client: RegistryClient
    gauge: Gauge
    objects: dict[str, str]
    known: Known

    def image(self, layout: Layout, entry: Descriptor, depth: int = 0) -> tuple[str, bytes]:
        """Push everything that a manifest or index names, then itself under its digest; return its type and
        text. Raises HttpError, ImageError."""
        data = layout.read(entry)
        kind = media_type(data, entry.media_type)
        if kind in INDEXES:
            if depth == _MAX_DEPTH:
                raise PublishError(f"{layout.label}: its indexes are nested too deeply")
            for child in parse_index(data, layout.label):
                self.image(layout, child, depth + 1)
            self.client.push_manifest(entry.digest, kind, data)
            return kind, data
        image = parse_manifest(data, entry, layout.label)
        blobs = (*image.layers, image.config)
        self.gauge.total += sum(blob.size for blob in blobs)
        try:
            self._blobs(layout, blobs)
            self.client.push_manifest(entry.digest, kind, data)
        except HttpError as error:
            # Somebody took blobs out of an image that is there.
            if error.server_code not in _BLOB_UNKNOWN or not self.known.forget():
                raise
            self._blobs(layout, blobs)
            self.client.push_manifest(entry.digest, kind, data)
        return kind, data

    def _blobs(self, layout: Layout, blobs: Sequence[Descriptor]) -> None:
        for blob in blobs:
            if blob.digest in self.known:
                self.gauge.advance(blob.size)
            else:
                self.client.push_blob(blob, layout.blob(blob), self.gauge)
            self.objects[blob.media_type.rpartition("/")[2] + f"@{blob.hex[:12]}"] = blob.digest


def push_image(
    layout: Layout,
    entry: Descriptor,
    client: RegistryClient,
    objects: dict[str, str],
    *,
    gauge: Gauge | None = None,
    earlier: Sequence[str] = (),
) -> tuple[str, bytes]:
    """Push an image or an index of images with all that it names, under its digest; see `Push.image`.

    earlier: digests of images that the repository may have, whose blobs then are not asked for.
    """
    return Push(client, gauge or Gauge("push"), objects, Known(client, earlier)).image(layout, entry)
