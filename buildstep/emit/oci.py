"""An OCI image archive (image-spec 1.1: image-layout, manifest, config, layer), in one tar file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from buildstep.emit import oci_config
from buildstep.emit.interface import Artifact, Blob, EmitJob, Sink
from buildstep.emit.layer import LayerWriter, media_type
from buildstep.errors import EmitError
from buildstep.formats.chunked import PartWriter, Stream
from buildstep.formats.codecs import Codec, codec
from buildstep.formats.tar_writer import BLOCK, END, big_size_header, header, padding
from buildstep.system.files import CHUNK, copy_range, write_all
from buildstep.system.output_set import Sealer, create
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry, FileList

_DEFAULT = "gzip"


# -- layers ---------------------------------------------------------------------------------------------


def whole(entries: FileList) -> Changes:
    """A tree as a layer on nothing."""
    return Changes(tuple(entries[path] for path in sorted(entries)), ())


# -- the archive ----------------------------------------------------------------------------------------


class OciEmitter:
    """`.oci.tar`, read by skopeo, umoci, buildah, podman and docker (oci-archive:)."""

    name: ClassVar[str] = "oci"
    compressions: ClassVar[tuple[str, ...]] = (_DEFAULT, "zstd", "none")

    def extension(self, compression: str | None) -> str:
        return ".oci.tar"

    @contextlib.contextmanager
    def open(self, job: EmitJob, path: Path) -> Iterator[Sink]:
        """See `Emitter`."""
        chosen = codec(job.compression or _DEFAULT)
        fd = create(path)
        try:
            with (
                ThreadPoolExecutor(1, thread_name_prefix="verify") as pool,
                contextlib.ExitStack() as stack,
            ):
                stack.callback(pool.shutdown, wait=False, cancel_futures=True)
                archive = _Archive(job, path, fd, chosen, pool, stack.enter_context(Sealer(fd)))
                archive.begin_layers()
                out = PartWriter(fd, chosen, what=path.name)
                stack.enter_context(out)
                yield _OciSink(archive, out)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)


class _OciSink(LayerWriter):
    """The top layer of an archive, then the rest of the archive."""

    def __init__(self, archive: _Archive, out: PartWriter) -> None:
        super().__init__(out, archive.job.changes, archive.job.epoch)
        self._archive = archive

    def finish(self) -> Artifact:
        stream = self.close()
        self._archive.job.bus.count("bytes_compressed", stream.compressed)
        return self._archive.finish(stream)


class _Archive:
    """The file around the layers: its members are written in order, the top layer's header last.

    The top layer's name is its digest, so its header can only be written when the layer is complete;
    the place for it is kept.
    """

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
        """Write all up to the place where the top layer's content begins."""
        self._member("oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
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
                    raise _damaged(blob)
                write_all(self._fd, big_size_header(_blob_name(blob.digest), blob.size))
                begin = os.lseek(self._fd, 0, os.SEEK_CUR)
                copy_range(source.fileno(), self._fd, blob.size)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise EmitError(
                f"cannot copy the layer {blob.path} into {self._path.name}: {error.strerror}",
                hint="free some space, or write to another file system" if full else "",
                retryable=full,
            ) from error
        write_all(self._fd, padding(blob.size))
        # Beside the read pass: what we ship is what the digest in the manifest says.
        if not blob.new:
            self._checks.append((blob, self._pool.submit(_digest, self._fd, begin, blob.size)))
        self._sealer.advance(os.lseek(self._fd, 0, os.SEEK_CUR))

    def finish(self, stream: Stream) -> Artifact:
        layers = list(self._layers)
        comments = self.job.history or tuple(blob.comment for blob in layers)
        job = replace(self.job, layers=tuple(layers), more=(), history=comments)
        if job.changes.entries or job.changes.removed or not layers:
            write_all(self._fd, padding(stream.size))
            os.pwrite(self._fd, big_size_header(_blob_name(stream.sha256), stream.size), self._top)
            layers.append(
                Blob(
                    path=self._path,
                    digest=stream.sha256,
                    size=stream.size,
                    diff_id=stream.raw_sha256,
                    media_type=media_type(self._codec),
                    comment="; ".join(job.history),
                )
            )
        else:
            os.lseek(self._fd, self._top, os.SEEK_SET)
            os.ftruncate(self._fd, self._top)
        config = _json(oci_config.image_config(job, layers))
        config_digest = self._blob(config)
        manifest = _json(oci_config.image_manifest(job, layers, config_digest, len(config)))
        manifest_digest = self._blob(manifest)
        self._member("index.json", _json(oci_config.image_index(job, manifest_digest, len(manifest))))
        write_all(self._fd, END)
        for blob, check in self._checks:
            if check.result() != blob.digest:
                raise _damaged(blob)
        digests = self._sealer.finish()
        return Artifact(
            path=self._path,
            format=OciEmitter.name,
            size=digests.size,
            sha1=digests.sha1,
            sha256=digests.sha256,
            compression="none",
            extra={
                "codec": self._codec.ident,
                "digest": f"sha256:{manifest_digest}",
                "config": f"sha256:{config_digest}",
                "layers": [f"sha256:{layer.digest}" for layer in layers],
                "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers],
            },
        )

    def _blob(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self._member(os.fsdecode(_blob_name(digest)), content)
        return digest

    def _member(self, name: str, content: bytes) -> None:
        head = big_size_header(name.encode(), len(content))
        write_all(self._fd, head + content + padding(len(content)))


def _blob_name(digest: str) -> bytes:
    return b"blobs/sha256/" + digest.encode()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _digest(fd: int, offset: int, size: int) -> str:
    state = hashlib.sha256()
    while size:
        chunk = os.pread(fd, min(size, CHUNK), offset)
        if not chunk:
            break
        state.update(chunk)
        offset += len(chunk)
        size -= len(chunk)
    return state.hexdigest()


def _damaged(blob: Blob) -> EmitError:
    return EmitError(
        f"the stored layer {blob.path} is damaged",
        hint="remove it, or build with --no-cache; it is made again",
    )
