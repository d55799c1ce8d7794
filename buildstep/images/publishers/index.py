"""Publish images for several platforms under one name: an index of them, to a registry or into a layout.

Whoever asks for the name gets the image for his platform (image-spec image-index.md). Content goes first,
then the index, and the name last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from buildstep.errors import ImageError, PublishError, UsageError
from buildstep.events import Bus
from buildstep.formats.oci.layout import Layout, open_layout
from buildstep.formats.oci.layout_writer import LayoutWriter
from buildstep.formats.oci.spec import (
    INDEXES,
    Descriptor,
    OciPlatform,
    document,
    index_of,
    media_type,
    parse_index,
    parse_manifest,
)
from buildstep.images.attestations import inside, local
from buildstep.images.attestations.local import Papers
from buildstep.images.publishers.bundle import Published, PublishOptions
from buildstep.images.publishers.mounting import published_there
from buildstep.images.publishers.registry import Known, Push, attested, client_of, is_there
from buildstep.net.registry import Reference
from buildstep.system.locks import lock
from buildstep.trust import sidecars


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One platform's image: its manifest, with the platform, in a layout. stem: what the names of the files
    of its build begin with."""

    layout: Layout
    entry: Descriptor
    stem: Path

    @property
    def platform(self) -> str:
        return str(OciPlatform.of_config(self.entry.platform))


def parts_of(path: Path) -> list[Part]:
    """Return the images of an OCI archive or layout, with their platforms. Raises ImageError."""
    layout = open_layout(path, path.name)
    return list(_parts(layout, layout.find(""), sidecars.stem_of(path)))


def _parts(layout: Layout, entry: Descriptor, stem: Path) -> Iterator[Part]:
    data = layout.read(entry)
    if media_type(data, entry.media_type) in INDEXES:
        for child in parse_index(data, layout.label):
            yield from _parts(layout, child, stem)
        return
    image = parse_manifest(data, entry, layout.label)
    config = document(layout.read(image.config), f"{layout.label} config")
    platform = OciPlatform.of_config(config).to_json()
    # A name in the archive is none of the image in an index.
    yield Part(layout=layout, entry=replace(entry, platform=platform, annotations={}), stem=stem)


def check(parts: Sequence[Part]) -> None:
    """Raise PublishError for images that cannot be in one index, with all of them."""
    seen: dict[str, str] = {}
    wrong = []
    for part in parts:
        if part.platform in seen:
            wrong.append(f"{seen[part.platform]} and {part.layout.label} are both for {part.platform}")
        seen.setdefault(part.platform, part.layout.label)
    if wrong:
        raise PublishError(
            "an index has one image for each platform", detail="\n".join(wrong), hint="leave one out"
        )


def publish_index(
    parts: Sequence[Part], target: str, *, tag: str, options: PublishOptions, bus: Bus
) -> Published:
    """Publish images as one index: docker://HOST/NAME[:TAG], or oci:DIRECTORY[:TAG].

    tag: where the target names none. The same images give the same index, in whatever order they are.
    Raises PublishError, UsageError for another target.
    """
    check(parts)
    parts = sorted(parts, key=lambda part: part.platform)
    scheme, _, place = target.partition(":")
    try:
        if scheme == "docker":
            return _to_registry(parts, Reference.parse(target, default_tag=tag), options, bus)
        if scheme == "oci" and place:
            folder, colon, name = place.rpartition(":")
            if not colon or "/" in name:
                folder, name = place, ""
            return _to_layout(parts, Path(folder), name or tag, replacing=options.replace)
    except ImageError as error:
        raise PublishError(error.message, detail=error.detail, hint=error.hint) from error
    raise UsageError(
        f"no index can be published to {target!r}", hint="docker://HOST/NAME:TAG, or oci:DIRECTORY:TAG"
    )


def _to_registry(parts: Sequence[Part], ref: Reference, options: PublishOptions, bus: Bus) -> Published:
    if ref.digest:
        raise PublishError(f"{ref} names a digest, which only the registry can give", hint="give a tag")
    index, data = index_of([part.entry for part in parts])
    objects: dict[str, str] = {}
    place = f"docker://{ref.host}/{ref.repository}"
    with options.session(bus) as http:
        client = client_of(ref, http, options)
        last = client.resolve(ref.tag)
        there = is_there(client, last, index.digest, replace=options.replace)
        if not there:
            earlier = ([last.digest] if last else []) + published_there(ref, options.notes)
            with bus.job(f"push {ref}") as gauge:
                push = Push(client, gauge, objects, Known(client, earlier))
                for part in parts:
                    push.image(part.layout, part.entry)
            client.push_manifest(index.digest, index.media_type, data)
        # Whoever takes one platform's image by its digest finds what is said of that, and of the index too.
        added, signing = dict[str, str](), options.demand.signing
        for part in parts:
            papers = local.papers_of(part.stem, part.entry)
            added |= attested(client, part.entry, papers, part.stem.name, signing, options.attestations)
        added |= attested(client, index, Papers(), ref.repository, signing, options.attestations)
        if not there:
            client.push_manifest(ref.tag, index.media_type, data)
    objects |= {part.platform: part.entry.digest for part in parts} | {ref.tag: index.digest} | added
    return Published(
        target=place,
        name=f"{place}@{index.digest}",
        state="already" if there and not added else "published",
        uuid="",
        objects=objects,
    )


def _to_layout(parts: Sequence[Part], folder: Path, tag: str, *, replacing: bool) -> Published:
    index, data = index_of([part.entry for part in parts])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder / ".buildstep.lock"):
            layout = LayoutWriter(folder)
            there = layout.names().get(tag)
            if there is not None and there.digest != index.digest and not replacing:
                raise PublishError(
                    f"oci:{folder}:{tag} is another image already",
                    detail=f"there: {there.digest}; ours: {index.digest}",
                    hint="publish under another tag; a tag that is meant to move can be replaced",
                )
            for part in parts:
                document_ = part.layout.read(part.entry)
                image = parse_manifest(document_, part.entry, part.layout.label)
                for blob in (*image.layers, image.config):
                    layout.add_blob(blob, part.layout)
                layout.add_document(part.entry, document_)
                inside.put(layout, part.entry, local.papers_of(part.stem, part.entry))
            layout.add_document(index, data)
            layout.name(tag, index)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise PublishError(f"cannot publish to {folder}:{where} {error.strerror}") from error
    same = there is not None and there.digest == index.digest
    return Published(
        target=f"oci:{folder}",
        name=f"oci:{folder}:{tag}",
        state="already" if same else "published",
        uuid="",
        objects={part.platform: part.entry.digest for part in parts} | {tag: index.digest},
    )
