"""Write an OCI image layout as a directory (image-spec 1.1, image-layout.md): an edit costs the edit.

A layer that is stored in the pool is not copied where that can be helped: it shares its blocks with the
directory, or has a second name there (`system.share`). Nobody may write to such a file, by either name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha1, sha256
from pathlib import Path
from typing import ClassVar

from buildstep.emit.interface import Artifact, Blob, EmitJob, Sink, new_file
from buildstep.emit.oci_image import (
    DEFAULT,
    LAYOUT,
    TopLayerSink,
    blob_name,
    chosen_codec,
    complete,
    damaged,
    needs_top,
    top_layer,
)
from buildstep.errors import EmitError
from buildstep.formats.chunked import ChunkWriter, Stream
from buildstep.formats.codecs import Codec, Compression
from buildstep.system.digest import Digests, sha256_fd
from buildstep.system.files import write_all
from buildstep.system.output_set import create
from buildstep.system.remove import remove_tree
from buildstep.system.share import share

_TOP = "top"
"""The top layer's file until its digest is known."""


class OciDirEmitter:
    """`.oci`: a directory that skopeo, umoci, buildah and podman read as `oci:DIRECTORY`."""

    name: ClassVar[str] = "oci-dir"
    compressions: ClassVar[tuple[Compression, ...]] = (DEFAULT, "zstd", "none")
    sends_dataset: ClassVar[bool] = False
    layered: ClassVar[bool] = True
    directory: ClassVar[bool] = True

    def extension(self, compression: str | None) -> str:
        return ".oci"

    @contextlib.contextmanager
    def open(self, job: EmitJob, path: Path) -> Iterator[Sink]:
        """See `Emitter`."""
        chosen = chosen_codec(job)
        check_place(job.stem.with_name(job.stem.name + self.extension(None)))
        with _removed_on_failure(path), contextlib.ExitStack() as stack:
            pool = ThreadPoolExecutor(2, thread_name_prefix="sync")
            stack.callback(pool.shutdown, cancel_futures=True)
            folder = _Folder(job, path, chosen, pool)
            folder.begin()
            fd = stack.enter_context(new_file(path / _TOP))
            out = stack.enter_context(ChunkWriter(fd, chosen, what=f"{job.stem.name}.oci"))
            yield TopLayerSink(folder, out)


def check_place(final: Path) -> None:
    """Raise EmitError where a directory has the image's name that is no image."""
    if final.is_dir() and not final.is_symlink() and not (final / "oci-layout").is_file():
        raise EmitError(
            f"cannot write {final}: a directory has this name, and it is no OCI layout",
            hint="move it away, or build under another name",
        )


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        remove_tree(path)
        raise


class _Folder:
    """The directory. A layer that was just made goes to the disk beside whatever comes next; all else is made
    durable at the end, when one commit of the file system's journal has all of it."""

    def __init__(self, job: EmitJob, path: Path, chosen: Codec, pool: ThreadPoolExecutor) -> None:
        self.job = job
        self._path = path
        self._codec = chosen
        self._pool = pool
        self._size = 0
        self._layers: list[Blob] = []
        self._names: set[str] = set()
        self._files: list[Path] = []
        self._pending: list[Future[None]] = []

    def begin(self) -> None:
        """Make the directory, with every layer but the top one."""
        (self._path / "blobs").mkdir(parents=True)
        (self._path / "blobs/sha256").mkdir()
        self._write("oci-layout", LAYOUT)
        for layers in (self.job.layers, self.job.more):
            for blob in layers:
                self._layers.append(blob)
                self._take(blob)

    def _take(self, blob: Blob) -> None:
        if blob.digest in self._names:
            return
        self._names.add(blob.digest)
        target = self._path / blob_name(blob.digest)
        try:
            how = share(blob.path, target, link=True)
            if target.stat().st_size != blob.size:
                raise damaged(blob)
        except OSError as error:
            raise EmitError(
                f"cannot take the layer {blob.path} into {self._path.name}: {error.strerror}"
            ) from error
        self._size += blob.size
        if how == "copy":
            self.job.bus.count("layer_bytes_copied", blob.size)
        if check := self.job.paranoid and not blob.new:
            self.job.bus.count("layer_bytes_hashed", blob.size)
        if blob.new or check:
            self._pending.append(self._pool.submit(_settle, target, blob if check else None))
        self._files.append(target)

    def finish(self, stream: Stream) -> Artifact:
        """Complete the image, once the top layer is written."""
        layers, top = list(self._layers), self._path / _TOP
        if needs_top(self.job, layers):
            layers.append(top_layer(self.job, top, stream, self._codec))
        # A base of ours can have the same one: directories alone are the same in many images.
        if len(layers) > len(self._layers) and stream.sha256 not in self._names:
            self._size += stream.size
            self._files.append(top.rename(self._path / blob_name(stream.sha256)))
        else:
            top.unlink()
        image = complete(self.job, layers, self._codec, self._write, tag=True)
        folders = [self._path / name for name in ("blobs/sha256", "blobs", "")]
        self._pending += [self._pool.submit(_settle, path) for path in (*folders, *self._files)]
        for future in self._pending:
            future.result()
        # By the digests in it, the index stands for every byte of the image.
        of_index = sha1(image.index, usedforsecurity=False).hexdigest(), sha256(image.index).hexdigest()
        extra = {**image.extra, "index_size": len(image.index)}
        return Artifact.of(self._path, OciDirEmitter.name, Digests(self._size, *of_index), "none", extra)

    def _write(self, name: str, content: bytes) -> None:
        fd = create(self._path / name)
        try:
            write_all(fd, content)
        finally:
            os.close(fd)
        self._files.append(self._path / name)
        self._size += len(content)


def _settle(path: Path, blob: Blob | None = None) -> None:
    """Make a file or directory durable. blob: the layer that it must be, to be hashed for that."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        if blob is not None and sha256_fd(fd) != blob.digest:
            raise damaged(blob)
    finally:
        os.close(fd)
