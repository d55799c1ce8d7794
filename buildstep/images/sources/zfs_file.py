"""zfs:FILE[,MANIFEST]. An image as a ZFS stream, compressed or not, and the manifest that verifies it.

A stream is not unpacked into a directory but received by the pool, so `fetch` refuses; `receive_image`
does the work, also for streams that came from an image repository.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, ClassVar

from buildstep.errors import DatasetError, ImageError, SpecError
from buildstep.formats.decompress import Decompressed
from buildstep.formats.zfs_stream import BEGIN_SIZE, Begin, read_begin
from buildstep.images.file_kind import check_kind
from buildstep.images.interface import Identity, SourceContext, SourceImage
from buildstep.pool.interface import Backend, Dataset, Kind
from buildstep.pool.streams import NativeStreams, consuming
from buildstep.spec import imgmanifest
from buildstep.system.files import CHUNK, write_all

_ENDING = re.compile(r"\.(zfs|zvol)(\.(gz|bz2|xz|zst))?$")


class ZfsFile:
    scheme: ClassVar[str] = "zfs"

    def identify(self, locator: str, hasher: Callable[[Path], str]) -> Identity:
        check_kind(Path(locator.partition(",")[0]), "zfs")
        path, manifest = split(locator)
        try:
            digest = hasher(path)
        except OSError as error:
            raise ImageError(f"cannot read the image {path}: {error.strerror}") from error
        found = read_manifest(manifest)
        return Identity(key=f"zfs:{found['uuid']}:sha256:{digest}", label=f"zfs:{path.name}")

    def fetch(self, locator: str, into: Path, context: SourceContext) -> SourceImage:
        del into, context
        raise refused(split(locator)[0])

    def receive(self, locator: str, backend: Backend, ident: str) -> tuple[Dataset, SourceImage]:
        """Receive the image as a dataset: see `receive_image`."""
        path, manifest = split(locator)
        found = read_manifest(manifest)
        dataset = receive_image(backend, ident, path, found)
        inputs = {"file": str(path.absolute()), "manifest": str(manifest.absolute())}
        return dataset, SourceImage(manifest=found, inputs=inputs)


def split(locator: str) -> tuple[Path, Path]:
    """Return the image file and its manifest: named after a comma, or beside it under imgadm's name."""
    file, comma, manifest = locator.rpartition(",")
    if comma and file and not os.path.exists(locator):
        return Path(file), Path(manifest)
    path = Path(locator)
    stem = _ENDING.sub("", path.name)
    for ending in (".imgmanifest", ".manifest", ".zfs.imgmanifest"):
        if os.path.exists(found := path.with_name(stem + ending)):
            return path, found
    raise ImageError(
        f"there is no manifest beside {path}: {stem}.imgmanifest", hint="name it: zfs:FILE,MANIFEST"
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of an image file, as v2. Raises ImageError for one that cannot verify its file."""
    try:
        manifest = imgmanifest.read(path)
    except SpecError as error:
        raise ImageError(f"the manifest {path} is not valid", detail=error.detail) from error
    from buildstep.net.http import translated
    from buildstep.net.imgapi import expected_file

    with translated(ImageError):
        expected_file(manifest)
    return manifest


def can_receive(backend: Backend) -> bool:
    """Say whether a pool receives ZFS streams as they are."""
    return isinstance(backend, NativeStreams) and backend.stream_format == "zfs"


def refused(path: Path) -> ImageError:
    return ImageError(
        f"{path.name} is a ZFS stream, which only a zfs pool can receive",
        hint="give --pool zfs:DATASET, or a base image of another form",
    )


def receive_image(backend: Backend, ident: str, path: Path, manifest: Mapping[str, Any]) -> Dataset:
    """Receive a stream as the working dataset `ident`: verified first, complete or not at all.

    Raises ImageError: wrong pool, size or digest, a stream of something else, an origin that is not
    here or is not the one that the stream was made from.
    """
    if not can_receive(backend):
        raise refused(path)
    assert isinstance(backend, NativeStreams)
    if manifest.get("type") in ("zvol", "docker"):
        raise ImageError(f"image {manifest['uuid']} is of type {manifest['type']}, which has no file system")
    origin = manifest.get("origin")
    if origin is not None and not backend.exists(Kind.IMAGE, origin):
        raise ImageError(
            f"image {manifest['uuid']} is based on {origin}, which is not in {backend.uri}",
            hint="import that image first",
        )
    try:
        with path.open("rb") as file:
            _verify(file, path, manifest["files"][0])
            with Decompressed(file) as stream:
                head = stream.read(BEGIN_SIZE)
                begin = read_begin(head)
                _compare(begin, manifest, backend.guid(Kind.IMAGE, origin) if origin else None)
                return _receive(backend, ident, head, stream, origin)
    except OSError as error:
        raise ImageError(f"cannot read the image {path}: {error.strerror}") from error


def _verify(file: BufferedReader, path: Path, expected: Mapping[str, Any]) -> None:
    size = os.fstat(file.fileno()).st_size
    if size != expected["size"]:
        raise ImageError(
            f"{path} has {size} bytes, its manifest says {expected['size']}", hint="fetch it again"
        )
    sha1 = hashlib.file_digest(file, "sha1").hexdigest()
    if sha1 != expected["sha1"]:
        raise ImageError(
            f"{path} is not the file of its manifest",
            detail=f"sha1 {sha1}, not {expected['sha1']}",
            hint="fetch it again",
        )
    file.seek(0)


def _compare(begin: Begin, manifest: Mapping[str, Any], origin_guid: str | None) -> None:
    """Raise ImageError for what the kernel would refuse half-way, or accept as another image."""
    uuid = manifest["uuid"]
    guid = str(manifest["files"][0].get("dataset_guid", begin.guid))
    if guid != str(begin.guid):
        raise ImageError(f"the stream holds snapshot {begin.guid}, the manifest of {uuid} says {guid}")
    if origin_guid is None and begin.from_guid:
        raise ImageError(
            f"the stream of image {uuid} is incremental, but its manifest names no origin",
            hint="the manifest is not the one of this file",
        )
    if origin_guid is not None and str(begin.from_guid) != origin_guid:
        came = f"snapshot {begin.from_guid}" if begin.from_guid else "nothing: it is a full stream"
        raise ImageError(
            f"image {uuid} does not fit its origin {manifest['origin']} as it is here",
            detail=f"the stream was made from {came}; here @final is snapshot {origin_guid}",
            hint="import the origin from where the image comes from",
        )


def _receive(backend: Backend, ident: str, head: bytes, stream: Decompressed, origin: str | None) -> Dataset:
    assert isinstance(backend, NativeStreams)
    streams: NativeStreams = backend
    made: list[Dataset] = []
    more: list[bytes] = []

    def job(fd: int) -> None:
        made.append(streams.receive(ident, fd, origin=origin))
        more.append(os.read(fd, 1))  # the kernel stops at the stream's own end, not at the file's

    try:
        try:
            with consuming(job) as (fd, _):
                write_all(fd, head)
                while chunk := stream.read(CHUNK):
                    write_all(fd, chunk)
        except BrokenPipeError:
            more = [b"?"]
        except DatasetError as error:
            raise ImageError(error.message, detail=error.detail, hint=error.hint) from error
        if any(more):
            raise ImageError(
                "the file goes on after its ZFS stream has ended", hint="an image has one snapshot"
            )
        return made[0]
    except BaseException:
        for dataset in made:
            backend.destroy(Kind.BUILD, dataset.ident)
        raise
