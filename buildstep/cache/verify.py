"""Compare what builds keep with its digests: one function for each kind of file, for `build.kept`.

Each yields what is damaged. They change nothing, and are safe beside builds: what is being written or removed
is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from buildstep.cache import blob_files, records
from buildstep.cache.blob_files import BlobRecord
from buildstep.cache.layers import FORMAT as LAYER_FORMAT
from buildstep.cache.layers import LayerCache, LayerRecord
from buildstep.pool.damage import Damage, unlink
from buildstep.pool.interface import Backend, Kind
from buildstep.rootfs.installers import apt_archives, apt_lists, apt_sweep
from buildstep.system import framed, sealed
from buildstep.system.locks import lock, try_lock

Verifier = Callable[[Backend], Iterator[Damage]]
"""Yields what is damaged of one kind of kept file."""


def files(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files of a directory with one of these suffixes, without those that are being written."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    found = [folder / name for name in names if not name.startswith(".")]
    return [path for path in found if path.suffix in suffixes]


def layers(backend: Backend) -> Iterator[Damage]:
    """Compare each layer's record, list and tree. One of an earlier boot is none, and no damage."""
    cache = LayerCache(backend)
    there = set(backend.idents(Kind.LAYER))
    for path in files(backend.state / "layers", ".json"):
        key = path.stem
        with try_lock(cache.use_lock(key), shared=True) as mine:
            record = records.find(LayerRecord, path, LAYER_FORMAT)
            if not mine or not path.exists():
                continue  # it is being removed
            if record is None:
                file, problem = path, "its record is not what was written"
            elif key not in there:
                continue
            else:
                file, problem = cache.problem(record)
        if problem:
            about = record.slot if record else ""
            mend = partial(cache.try_discard, key)
            yield Damage(kind="layer", name=key, about=about, problem=problem, file=file, mend=mend)


def compressed_layers(backend: Backend) -> Iterator[Damage]:
    """Compare each compressed layer with the digest in its record, and that with its own."""
    for path in files(backend.state / "blobs", ""):
        about = ""
        with try_lock(path, shared=True, create=False) as mine:
            if not mine or not blob_files.record_path(path).exists():
                continue  # it is being written or removed
            file = path
            try:
                record = BlobRecord.read(path)
                problem, about = record.damage(path), record.comment
            except (OSError, ValueError) as error:
                file, problem = blob_files.record_path(path), f"its record cannot be read: {error}"
        if problem:
            mend = partial(blob_files.try_remove, path)
            yield Damage(kind="blob", name=path.name, about=about, problem=problem, file=file, mend=mend)


def chunks(backend: Backend) -> Iterator[Damage]:
    """Look at what is kept beside the compressed layers: lists of chunks, marks, names of layers."""
    for path in files(backend.state / "blobs", ".parts", ".shape", ".last"):
        data = _read(path)
        if data is None:
            continue
        if bool(data) is (path.suffix == ".shape") or not framed.sound(data):  # a mark is empty
            yield _file("chunks", path)


def indexes(backend: Backend) -> Iterator[Damage]:
    """Compare each record of the indexes of proto directories with its digest."""
    for path in files(backend.state / "index", ".idx"):
        with lock(path.with_suffix(".lock"), shared=True):
            data = _read(path)
        if data is not None and not (data and framed.sound(data)):
            yield _file("index", path)


def resolutions(backend: Backend) -> Iterator[Damage]:
    """Compare each kept resolution with its digest."""
    yield from _sealed("answer", files(backend.state / "resolved", ".json"))


def outputs(backend: Backend) -> Iterator[Damage]:
    """Compare each note of outputs with its digest."""
    yield from _sealed("outputs", files(backend.state / "artifacts", ".json"))


def trees(backend: Backend) -> Iterator[Damage]:
    """Compare each record of the kept trees with its digest."""
    for path in files(backend.state / "artifacts", ".bin"):
        data = _read(path)
        if data is not None and not (data and framed.sound(data)):
            yield _file("tree", path)


def package_lists(backend: Backend) -> Iterator[Damage]:
    """Compare apt's lists with the digests in their record, and that with its own."""
    cache = backend.state / "packages/apt"
    for folder in apt_sweep.kept_lists(cache):
        if problem := apt_lists.damage(folder, whole=True, heal=False):
            mend = partial(apt_sweep.discard, cache, folder)
            yield Damage(kind="lists", name=folder.parent.name, problem=problem, file=folder, mend=mend)
        known = folder / apt_archives.KNOWN
        yield from _sealed("lists", [known] if known.exists() else [])


def package_files(backend: Backend) -> Iterator[Damage]:
    """Compare each package file with the digest in its name."""
    cache = backend.state / "packages/apt"
    for path in apt_archives.kept_files(cache):
        if problem := apt_archives.damage(path):
            mend = partial(apt_sweep.discard, cache, path)
            yield Damage(kind="package", name=path.name, problem=problem, file=path, mend=mend)


def mirror(backend: Backend) -> Iterator[Damage]:
    """Compare what is remembered of the CI host's mirror with its digest."""
    path = backend.state / "packages/apt/mirror.json"
    yield from _sealed("mirror", [path] if path.exists() else [])


def archive_digests(backend: Backend) -> Iterator[Damage]:
    """Compare the remembered digests of base archives with the digest of the file they are in."""
    path = backend.state / "filehash.json"
    yield from _sealed("digests", [path] if path.exists() else [])


def _sealed(kind: str, paths: list[Path]) -> Iterator[Damage]:
    for path in paths:
        try:
            sealed.read(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            yield _file(kind, path, str(error))


def _file(kind: str, path: Path, problem: str = "it is not what was written") -> Damage:
    return Damage(kind=kind, name=path.stem, problem=problem, file=path, mend=unlink(path))


def _read(path: Path) -> bytes | None:
    """Return a file's content; None if it was removed meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
