"""Publish to a registry: blobs, then manifests by their digest, then the tag."""

from __future__ import annotations

from typing import ClassVar

from buildstep.errors import ImageError, PublishError
from buildstep.events import Bus, Gauge
from buildstep.formats.oci.layout import Layout, open_layout
from buildstep.formats.oci.naming import tag_of
from buildstep.formats.oci.spec import INDEXES, Descriptor, media_type, parse_index, parse_manifest
from buildstep.images.publishers.bundle import Bundle, Published, PublishOptions
from buildstep.images.publishers.mounting import candidate
from buildstep.net.credentials import credentials_for
from buildstep.net.http import Http
from buildstep.net.registry import Reference, RegistryClient
from buildstep.system.text import plural

_EXTENSION = ".oci.tar"
_MAX_DEPTH = 4


class RegistryPublisher:
    """Targets: docker://HOST[:PORT]/NAME[:TAG]; the tag is the image's version by default."""

    scheme: ClassVar[str] = "docker"

    def publish(self, bundle: Bundle, target: str, *, options: PublishOptions, bus: Bus) -> Published:
        path = next((path for path in bundle.artifacts if path.name.endswith(_EXTENSION)), None)
        if path is None:
            raise PublishError(
                "a registry takes OCI images, and none was built", hint="build with --format oci"
            )
        ref = Reference.parse(target, default_tag=tag_of(bundle.version))
        if ref.digest:
            raise PublishError(f"{ref} names a digest, which only the registry can give", hint="give a tag")
        with options.session(bus) as http:
            try:
                layout = open_layout(path, path.name)
                entry = layout.find("")
                other = candidate(layout, entry, ref, options.notes)
                client = client_of(ref, http, options, mount_from=other)
                with bus.job(f"push {str(ref).removeprefix('docker://')}") as gauge:
                    done = _publish(bundle, layout, entry, client, gauge, replace=options.replace)
                if client.mounted:
                    bus.note(f"{plural(client.mounted, 'blob')} of {other} taken over, not sent again")
                return done
            except ImageError as error:
                raise PublishError(error.message, detail=error.detail, hint=error.hint) from error


def _publish(
    bundle: Bundle, layout: Layout, entry: Descriptor, client: RegistryClient, gauge: Gauge, *, replace: bool
) -> Published:
    ref = client.ref
    there = is_there(client, entry.digest, replace=replace)
    objects: dict[str, str] = {}
    if not there:
        kind, data = push_image(layout, entry, client, objects, gauge=gauge)
        client.push_manifest(ref.tag, kind, data)
    objects[ref.tag] = entry.digest
    return Published(
        target=f"docker://{ref.host}/{ref.repository}",
        name=f"docker://{ref.host}/{ref.repository}@{entry.digest}",
        state="already" if there else "published",
        uuid=bundle.uuid,
        objects=objects,
    )


def client_of(ref: Reference, http: Http, options: PublishOptions, *, mount_from: str = "") -> RegistryClient:
    """Return what talks to the repository of a reference, with the credentials that there are for it."""
    listed = options.environ.get("BUILDSTEP_INSECURE_REGISTRIES", "").split(",")
    return RegistryClient(
        ref,
        http=http,
        credentials=credentials_for(ref.host, options.environ),
        plain=True if options.insecure or ref.host in listed else None,
        mount_from=mount_from,
    )


def is_there(client: RegistryClient, digest: str, *, replace: bool) -> bool:
    """Return whether the client's tag names this image already.

    Raises PublishError where it names another one, which is not to be replaced.
    """
    there = client.resolve(client.ref.tag)
    if there is not None and there.digest != digest and not replace:
        raise PublishError(
            f"{client.ref} is another image already",
            detail=f"there: {there.digest}; ours: {digest}",
            hint="publish under another tag; a tag that is meant to move can be replaced",
        )
    return there is not None and there.digest == digest


def push_image(
    layout: Layout,
    entry: Descriptor,
    client: RegistryClient,
    objects: dict[str, str],
    depth: int = 0,
    *,
    gauge: Gauge | None = None,
) -> tuple[str, bytes]:
    """Push everything that a manifest or index names, then itself under its digest; return its type and text.

    objects: is given what was pushed, name to digest; gauge: how far that is. Raises HttpError, ImageError.
    """
    gauge = gauge or Gauge("push")
    data = layout.read(entry)
    kind = media_type(data, entry.media_type)
    if kind in INDEXES:
        if depth == _MAX_DEPTH:
            raise PublishError(f"{layout.label}: its indexes are nested too deeply")
        for child in parse_index(data, layout.label):
            push_image(layout, child, client, objects, depth + 1, gauge=gauge)
    else:
        image = parse_manifest(data, entry, layout.label)
        blobs = (*image.layers, image.config)
        gauge.total += sum(blob.size for blob in blobs)
        for blob in blobs:
            client.push_blob(blob, layout.blob(blob), gauge)
            objects[blob.media_type.rpartition("/")[2] + f"@{blob.hex[:12]}"] = blob.digest
    client.push_manifest(entry.digest, kind, data)
    return kind, data
