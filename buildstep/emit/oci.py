"""Write an OCI image archive (image-spec 1.1: image-layout, manifest, config, layer): one tar file.

It has the list of Docker's own archives beside the index, as `docker save` writes it since version 25.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from buildstep.emit import oci_config
from buildstep.emit.interface import Artifact, Blob, EmitJob, Sink, new_file
from buildstep.emit.oci_image import (
    DEFAULT,
    LAYOUT,
    TopLayerSink,
    blob_name,
    chosen_codec,
    compact,
    complete,
    damaged,
    needs_top,
    top_layer,
)
from buildstep.errors import EmitError
from buildstep.formats.chunked import ChunkWriter, Stream
from buildstep.formats.codecs import Codec, Compression
from buildstep.formats.tar_writer import BLOCK, END, big_size_header, header, padding
from buildstep.system.digest import sha256_fd
from buildstep.system.files import copy_range, write_all
from buildstep.system.output_set import Sealer
from buildstep.tree.entry import Entry


class OciEmitter:
    """`.oci.tar`: read by skopeo, umoci, buildah and podman as an OCI archive, and by `docker load`."""

    name: ClassVar[str] = "oci"
    compressions: ClassVar[tuple[Compression, ...]] = (DEFAULT, "zstd", "none")
    sends_dataset: ClassVar[bool] = False
    layered: ClassVar[bool] = True
    directory: ClassVar[bool] = False

    def extension(self, compression: str | None) -> str:
        return ".oci.tar"

    @contextlib.contextmanager
    def open(self, job: EmitJob, path: Path) -> Iterator[Sink]:
        """See `Emitter`."""
        chosen = chosen_codec(job)
        with (
            new_file(path) as fd,
            ThreadPoolExecutor(1, thread_name_prefix="verify") as pool,
            contextlib.ExitStack() as stack,
        ):
            sealer = Sealer(fd, sha1=job.need_sha1(self.name))
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            archive = _Archive(job, path, fd, chosen, pool, stack.enter_context(sealer))
            archive.begin_layers()
            yield TopLayerSink(archive, stack.enter_context(ChunkWriter(fd, chosen, what=path.name)))


class _Archive:
    """The archive around the layers. Its members are written in order, but for the top layer's header: that
    has the layer's digest as its name, so a block is left free for it until the layer is complete."""

    def __init__(
        self, job: EmitJob, path: Path, fd: int, chosen: Codec, pool: ThreadPoolExecutor, sealer: Sealer
    ) -> None:
        self.job = job
        self._path = path
        self._fd = fd
        self._codec = chosen
        self._pool = pool
        self._sealer = sealer
        self._layers: list[Blob] = []
        self._checks: list[tuple[Blob, Future[str]]] = []
        self._names: set[str] = set()
        self._top = 0

    def begin_layers(self) -> None:
        """Write everything up to where the top layer's content begins."""
        self._member("oci-layout", LAYOUT)
        for name in (b"blobs", b"blobs/sha256"):
            write_all(self._fd, header(Entry(name, "d", 0o755, 0, 0), epoch=0))
        # One layer is copied while the next one is made.
        with ThreadPoolExecutor(1, thread_name_prefix="copy") as copier:
            copies: list[Future[None]] = []
            for blob in itertools.chain(self.job.layers, self.job.more):
                self._layers.append(blob)
                copies.append(copier.submit(self._copy, blob))
                while copies and copies[0].done():
                    copies.pop(0).result()
            for copy in copies:
                copy.result()
        self._top = os.lseek(self._fd, 0, os.SEEK_CUR)
        os.lseek(self._fd, BLOCK, os.SEEK_CUR)

    def _copy(self, blob: Blob) -> None:
        if blob.digest in self._names:
            return
        self._names.add(blob.digest)
        try:
            with open(blob.path, "rb") as source:
                if os.fstat(source.fileno()).st_size != blob.size:
                    raise damaged(blob)
                write_all(self._fd, big_size_header(blob_name(blob.digest).encode(), blob.size))
                begin = os.lseek(self._fd, 0, os.SEEK_CUR)
                copy_range(source.fileno(), self._fd, blob.size)
        except OSError as error:
            raise EmitError(
                f"cannot copy the layer {blob.path} into {self._path.name}: {error.strerror}"
            ) from error
        write_all(self._fd, padding(blob.size))
        # Beside the read pass: what is written must be what the digest in the manifest says. Of a layer that
        # this build made, or found as it was when its digest was taken, that is known.
        if self.job.paranoid and not blob.new:
            self.job.bus.count("layer_bytes_hashed", blob.size)
            self._checks.append((blob, self._pool.submit(sha256_fd, self._fd, begin, blob.size)))
        self._sealer.advance(os.lseek(self._fd, 0, os.SEEK_CUR))

    def finish(self, stream: Stream) -> Artifact:
        """Complete the archive, once the top layer's content is written."""
        job, layers = self.job, list(self._layers)
        needed = needs_top(job, layers)
        # A base of ours can have the same one: directories alone are the same in many images.
        if needed and stream.sha256 not in self._names:
            write_all(self._fd, padding(stream.size))
            name = blob_name(stream.sha256).encode()
            os.pwrite(self._fd, big_size_header(name, stream.size), self._top)
        else:
            os.lseek(self._fd, self._top, os.SEEK_SET)
            os.ftruncate(self._fd, self._top)
        if needed:
            layers.append(top_layer(job, self._path, stream, self._codec))
        image = complete(job, layers, self._codec, self._member, tag=False)
        self._member("manifest.json", compact(oci_config.docker_manifest(job, layers, image.config)))
        write_all(self._fd, END)
        for blob, check in self._checks:
            if check.result() != blob.digest:
                raise damaged(blob)
        return Artifact.of(self._path, OciEmitter.name, self._sealer.finish(), "none", image.extra)

    def _member(self, name: str, content: bytes) -> None:
        head = big_size_header(name.encode(), len(content))
        write_all(self._fd, head + content + padding(len(content)))
