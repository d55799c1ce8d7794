"""Copy an image with all that is said of it: every platform, referrers, and cosign's tags."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from buildstep.errors import ImageError, PublishError, UsageError
from buildstep.events import Bus
from buildstep.formats.oci.artifact import Artifact, described, parse
from buildstep.formats.oci.layout import open_layout
from buildstep.formats.oci.layout_archive import LayoutArchive
from buildstep.formats.oci.layout_writer import LayoutWriter
from buildstep.formats.oci.spec import INDEXES, Descriptor, media_type, parse_index, parse_manifest
from buildstep.images.attestations import required
from buildstep.images.attestations.evidence import from_registry
from buildstep.images.attestations.inside import from_path
from buildstep.images.attestations.local import Papers, papers_of
from buildstep.images.attestations.places import (
    Destination,
    LayoutDestination,
    LayoutSource,
    RegistryDestination,
    RegistrySource,
    Source,
)
from buildstep.images.publishers.bundle import PublishOptions
from buildstep.images.publishers.registry import client_of, is_there
from buildstep.net.http import Http
from buildstep.net.registry import Reference
from buildstep.pool.stale import output_lock, sweep_outputs
from buildstep.system.digest import sha256_bytes
from buildstep.system.files import atomic_write
from buildstep.system.locks import lock
from buildstep.system.private import private_dir
from buildstep.system.remove import remove_tree
from buildstep.trust import sidecars

_DEPTH: Final = 4


@dataclass
class Copied:
    """What a copy has done. digest: of the image; manifests, attestations: how many are there now; new: how
    many attestations were not."""

    digest: str
    manifests: int = 0
    attestations: int = 0
    new: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "digest": self.digest,
            "manifests": self.manifests,
            "attestations": self.attestations,
            "new_attestations": self.new,
        }


def copy(source: Source, destination: Destination, entry: Descriptor, papers: Papers) -> Copied:
    """Copy an image or an index of images under its digest, then what is said of each, then name it.

    papers: what files beside the source say of it. The same is copied again without a change. Raises
    HttpError, ImageError, OSError.
    """
    done = Copied(digest=entry.digest)
    data = _image(source, destination, entry, done, 0)
    done.new += destination.say(entry, papers)
    done.attestations += len(papers.signed) + len(papers.documents)
    destination.name(entry, data)
    return done


def _image(source: Source, destination: Destination, entry: Descriptor, done: Copied, depth: int) -> bytes:
    data = source.document(entry)
    kind = media_type(data, entry.media_type)
    entry = described(kind, data)
    if kind in INDEXES:
        if depth == _DEPTH:
            raise ImageError(f"{source.label}: its indexes are nested too deeply")
        for child in parse_index(data, source.label):
            _image(source, destination, child, done, depth + 1)
    else:
        for blob in _blobs(data, entry, source.label):
            destination.blob(blob, source)
    destination.document(entry, data)
    done.manifests += 1
    _referrers(source, destination, entry.digest, done, 0)
    tagged = source.tagged(entry.digest)
    done.new += destination.tag_along(entry.digest, tagged, source)
    done.attestations += len(tagged)
    return data


def _blobs(data: bytes, entry: Descriptor, where: str) -> tuple[Descriptor, ...]:
    """Return what a manifest names: of an image, or of an attestation in an index, as BuildKit writes it."""
    item = parse(data, where)
    if any("in-toto" in layer.media_type for layer in item.layers):
        return item.blobs
    image = parse_manifest(data, entry, where)
    return (*image.layers, image.config)


def _referrers(source: Source, destination: Destination, digest: str, done: Copied, depth: int) -> None:
    """Copy what refers to a manifest, and what refers to that in turn: signatures of bills of materials."""
    items: tuple[Artifact, ...] = source.referrers(digest)
    for item in items:
        for blob in item.blobs:
            destination.blob(blob, source)
    done.new += destination.attach(items)
    done.attestations += len(items)
    if depth < _DEPTH:
        for item in items:
            _referrers(source, destination, item.entry.digest, done, depth + 1)


# -- from one text to another -----------------------------------------------------------------------------


def copy_image(source: str, target: str, options: PublishOptions, bus: Bus, downloads: Path) -> Copied:
    """Copy docker://HOST/NAME[:TAG|@DIGEST] or oci:PATH[:TAG] to docker://HOST/NAME[:TAG], oci:DIR[:TAG] or
    oci-archive:FILE[:TAG].

    options: `demand` is judged before anything is sent; its keys sign nothing here. The tag is the source's
    by default. downloads: of a pool, for what comes from a registry; another try goes on with what a broken
    copy left there, and `image gc` removes it. Raises PublishError, UsageError for what is neither,
    UnsignedError and its siblings.
    """
    archive = _archive_named(target)
    if not archive and not target.startswith(("docker:", "oci:")):
        raise UsageError(
            f"no image can be copied to {target!r}",
            hint="docker://HOST/NAME:TAG, oci:DIR:TAG or oci-archive:FILE:TAG",
        )
    scratch = downloads / sha256_bytes(f"copy {source} {target}".encode(errors="surrogateescape"))[:32]
    guard = downloads / f"{scratch.name}.lock"
    with options.session(bus) as http, contextlib.ExitStack() as stack:
        try:
            private_dir(downloads)
            private_dir(scratch)
            stack.enter_context(lock(guard))
            stack.callback(guard.unlink, missing_ok=True)
            found = _found(source, options, http, bus, scratch)
            if target.startswith("docker:"):
                done = _to_registry(found, target, options, http, bus)
            elif archive:
                done = _to_archive(found, archive, scratch / "layout", replacing=options.replace)
            else:
                done = _to_layout(found, target, replacing=options.replace)
            remove_tree(scratch)
            return done
        except ImageError as error:
            raise PublishError(error.message, detail=error.detail, hint=error.hint) from error
        except OSError as error:
            where = error.filename or target
            raise PublishError(f"cannot copy {source}: {where}: {error.strerror}") from error


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What is copied. ref: where it is, None where that is no registry."""

    source: Source
    entry: Descriptor
    papers: Papers
    tag: str
    ref: Reference | None = None


def _found(text: str, options: PublishOptions, http: Http, bus: Bus, scratch: Path) -> _Found:
    """Find and judge what is copied; from then on its digest counts, whatever the tag names."""
    if text.startswith("docker:"):
        ref = Reference.parse(text)
        client = client_of(ref, http, options)
        if options.demand:
            evidence = from_registry(client, partial(bus.note, level="warning"))
            required.check(evidence, options.demand)
            client = client_of(replace(ref, digest=f"sha256:{evidence.digests['oci']}"), http, options)
        source = RegistrySource(client, scratch)
        return _Found(source=source, entry=source.top(), papers=Papers(), tag=ref.tag, ref=ref)
    path, tag = _split(text.removeprefix("oci:").removeprefix("oci-archive:"))
    if options.demand:
        required.check(from_path(path, tag), options.demand)
    layout = LayoutSource(open_layout(path, path.name), tag)
    entry = layout.top()
    papers = papers_of(sidecars.stem_of(path), entry)
    names = [name for name, row in layout.layout.tags().items() if row.digest == entry.digest]
    named = names[0].rpartition(":")[2] if names and not names[0].startswith("sha256:") else ""
    return _Found(source=layout, entry=entry, papers=papers, tag=tag or named)


def _split(text: str) -> tuple[Path, str]:
    path, colon, tag = text.rpartition(":")
    if Path(text).exists() or not colon or "/" in tag:
        return Path(text), ""
    return Path(path), tag


def _to_registry(found: _Found, target: str, options: PublishOptions, http: Http, bus: Bus) -> Copied:
    ref = Reference.parse(target, default_tag=found.tag or "latest")
    if ref.digest:
        raise UsageError(f"{ref} names a digest, which only the registry can give", hint="give a tag")
    near = found.ref is not None and found.ref.host == ref.host
    other = found.ref.repository if found.ref is not None and near else ""
    client = client_of(ref, http, options, mount_from="" if other == ref.repository else other)
    is_there(client, client.resolve(ref.tag), found.entry.digest, replace=options.replace)
    with bus.job(f"copy to {str(ref).removeprefix('docker://')}") as gauge:
        destination = RegistryDestination(client, gauge, mount=bool(other) and other != ref.repository)
        return copy(found.source, destination, found.entry, found.papers)


def _to_layout(found: _Found, target: str, *, replacing: bool) -> Copied:
    path, tag = _split(target.removeprefix("oci:"))
    tag = tag or found.tag or "latest"
    path.mkdir(parents=True, exist_ok=True)
    with lock(path / ".buildstep.lock"):
        writer = LayoutWriter(path)
        there = writer.names().get(tag)
        if there is not None and there.digest != found.entry.digest and not replacing:
            raise PublishError(
                f"{path} has another image {tag}",
                detail=f"there: {there.digest}; ours: {found.entry.digest}",
                hint="copy it to another tag, or with --replace",
            )
        return copy(found.source, LayoutDestination(writer, tag), found.entry, found.papers)


def _archive_named(target: str) -> str:
    """Return the FILE[:TAG] of a target that is an archive; empty for another one."""
    if target.startswith("oci-archive:"):
        return target.removeprefix("oci-archive:")
    text = target.removeprefix("oci:")
    path = _split(text)[0]
    ending = ".tar" if text != target else ".oci.tar"
    return text if path.name.endswith(ending) and not path.is_dir() else ""


def _to_archive(found: _Found, target: str, stage: Path, *, replacing: bool) -> Copied:
    """Copy to an archive of one image. What an archive that is there says of the same image stays."""
    path, tag = _split(target)
    if not path.name or path.is_dir():
        raise UsageError(f"{target!r} names no file", hint="oci-archive:FILE or oci-archive:FILE:TAG")
    stem = sidecars.stem_of(path)
    if stem.with_name(stem.name + sidecars.RECORD).exists():
        raise PublishError(
            f"{path} is a file of a build, and has to stay as its record says", hint="copy to another file"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    guard = output_lock(stem)
    with lock(guard):
        try:
            sweep_outputs(stem)
            writer = LayoutArchive(stage)
            destination = LayoutDestination(writer, tag or found.tag or "latest")
            if (there := _there(path, found.entry.digest, replacing=replacing)) is not None:
                copy(there, destination, there.top(), Papers())
            done = copy(found.source, destination, found.entry, found.papers)
            with atomic_write(path, mode=0o644) as stream:
                writer.pack(stream)
        finally:
            guard.unlink(missing_ok=True)
    return done


def _there(path: Path, digest: str, *, replacing: bool) -> LayoutSource | None:
    """Return the archive that is there, if it has this image. Raises PublishError where it has another one
    that is not to be replaced, or several."""
    if not path.exists():
        return None
    there = LayoutSource(open_layout(path, path.name))
    rows = there.layout.tags()
    if len({row.digest for row in rows.values()}) > 1:
        raise PublishError(f"{path} has several images", hint="copy to another file")
    if there.top().digest == digest:
        return there
    if not replacing:
        raise PublishError(
            f"{path} has another image",
            detail=f"there: {there.top().digest}; ours: {digest}",
            hint="copy it to another file, or with --replace",
        )
    return None
