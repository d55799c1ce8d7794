"""An OCI image archive (image-spec 1.1: image-layout, manifest, config, layer), in one tar file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from buildstep import ociconfig, readpass
from buildstep.emit.interface import Artifact, Blob, EmitJob, Sink
from buildstep.errors import EmitError
from buildstep.events import Bus
from buildstep.formats.chunked import PartWriter, Stream
from buildstep.formats.codecs import Codec, codec
from buildstep.formats.tar_writer import BLOCK, END, TarWriter, big_size_header, header, padding, whiteout
from buildstep.layerparts import OldParts, refuse_removal
from buildstep.system.files import CHUNK, Extents, atomic_write, copy_range, write_all
from buildstep.system.output_set import Sealer, create
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry, FileList

_DEFAULT = "gzip"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def media_type(layer_codec: Codec) -> str:
    """A layer's media type. Raises EmitError for a compression that OCI does not know."""
    if layer_codec.media_suffix is None:
        raise EmitError(f"an OCI layer cannot be compressed with {layer_codec.name}")
    return _LAYER + layer_codec.media_suffix


# -- layers ---------------------------------------------------------------------------------------------


def whole(entries: FileList) -> Changes:
    """A tree as a layer on nothing."""
    return Changes(tuple(entries[path] for path in sorted(entries)), ())


def write_layer(
    root: Path | bytes,
    changes: Changes,
    path: Path,
    *,
    codec: Codec,
    epoch: int | None,
    bus: Bus,
    tree: FileList | None = None,
    comment: str = "",
    durable: bool = True,
    old: OldParts | None = None,
    rows: Sequence[bytes] = (),
) -> tuple[Blob, Stream]:
    """Write a layer as a file of its own, which appears complete or not at all.

    tree: what the layer leads to; needed for the parents of what changed unless `changes` is a whole
    tree. epoch: as in `EmitJob`. durable: whether it is on the disk when this returns. old: parts to take
    from, for entries that are all hashed; rows: those entries as `layerparts.told` has them. Fills in the
    SHA-256 of the entries. Raises EmitError, and PartLost where `old` is not what it seemed.
    """
    kind = media_type(codec)
    entries = readpass.with_parents(changes, tree or {})
    try:
        with (
            atomic_write(path, durable=durable) as file,
            PartWriter(file.fileno(), codec, what=f"the layer {path.name}") as out,
        ):
            layer = _Layer(out, changes, epoch)
            work: Iterable[tuple[Entry, tuple[_Layer]]] = ((entry, (layer,)) for entry in entries)
            if old and not changes.removed:
                work = layer.taking(old, os.fsencode(root), entries, rows)
            digests = readpass.read_pass(root, work, bus)
            stream = layer.close()
            if old:
                bus.count("files_read", len(old.read))
                bus.count("bytes_read", sum(old.read))
                old.read.clear()
    except OSError as error:
        raise EmitError(f"cannot write the layer {path.name}: {error.strerror}") from error
    for entry in changes.entries:
        if entry.first and entry.kind == "f" and not entry.sha256:
            entry.sha256 = digests[entry.first]
    bus.count("bytes_compressed", stream.compressed)
    blob = Blob(
        path=path,
        digest=stream.sha256,
        size=stream.size,
        diff_id=stream.raw_sha256,
        media_type=kind,
        comment=comment,
        new=True,
    )
    return blob, stream


class _Layer:
    """One layer's tar. A directory's whiteouts come right after it and before what it holds."""

    scope: Literal["tree", "layer"] = "layer"

    def __init__(self, out: PartWriter, changes: Changes, epoch: int | None) -> None:
        self._out = out
        self._tar = TarWriter(out, epoch=epoch)
        self._gone: dict[bytes, list[bytes]] = {}
        for path in sorted(changes.removed):
            self._gone.setdefault(path.rpartition(b"/")[0], []).append(path)
        self._started = False
        self._epoch = epoch
        self._ended = False

    def taking(
        self, old: OldParts, root: bytes, entries: Sequence[Entry], rows: Sequence[bytes]
    ) -> Iterator[tuple[Entry, tuple[_Layer]]]:
        """What has to be read of a layer: on the way there, parts that were made before are put in."""
        for begin, end, size, fetch in old.groups(root, entries, rows, epoch=self._epoch):
            if fetch is not None:
                self._out.take(entries[begin].path, size, fetch)
                self._ended = end == len(entries)
            else:
                self._out.begin(entries[begin].path)
                for entry in entries[begin:end]:
                    yield entry, (self,)

    def begin(self, entry: Entry) -> None:
        self._before(entry)
        self._tar.begin(entry)

    def begin_sparse(self, entry: Entry, extents: Extents) -> None:
        self._before(entry)
        self._tar.begin_sparse(entry, extents)

    def data(self, offset: int, chunk: bytes) -> None:
        self._tar.data(offset, chunk)

    def end(self, entry: Entry) -> None:
        self._tar.end(entry)
        if self._gone and entry.kind == "d":
            self._whiteouts(entry.path)

    def _before(self, entry: Entry) -> None:
        if not self._started:
            self._started = True
            # Only without a tree is the top not part of a layer; what it lost is told before all else.
            if entry.path:
                self._whiteouts(b"")
        refuse_removal(entry)

    def _whiteouts(self, directory: bytes) -> None:
        for path in self._gone.pop(directory, ()):
            entry = whiteout(path)
            self._tar.begin(entry)
            self._tar.end(entry)

    def close(self) -> Stream:
        # What is left has a parent that is not in the layer, for want of the tree.
        for directory in sorted(self._gone):
            self._whiteouts(directory)
        if not self._ended:
            self._tar.finish()
        return self._out.close()

    def finish(self) -> Artifact:
        raise AssertionError("a layer is not an artifact")


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


class _OciSink(_Layer):
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
        config = _json(ociconfig.image_config(job, layers))
        config_digest = self._blob(config)
        manifest = _json(ociconfig.image_manifest(job, layers, config_digest, len(config)))
        manifest_digest = self._blob(manifest)
        self._member("index.json", _json(ociconfig.image_index(job, manifest_digest, len(manifest))))
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
