"""Make the tarball of an asset from a directory, a plain tar or an image, the same bytes each time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

from buildstep.assets.archive_check import COMPRESSIONS, LIMITS
from buildstep.emit.interface import Sink, new_file
from buildstep.emit.read_pass import read_pass
from buildstep.errors import ImageError, UsageError
from buildstep.events import Bus
from buildstep.formats.chunked import ChunkWriter
from buildstep.formats.codecs import codec
from buildstep.formats.tar_writer import TarWriter
from buildstep.formats.unpack import apply_layer, unpack
from buildstep.system.files import CHUNK
from buildstep.system.text import plural
from buildstep.tree.entry import FileList
from buildstep.tree.scan import scan

_READY = {".tar.gz": ".tar.gz", ".tgz": ".tar.gz", ".tar.zst": ".tar.zst", ".tzst": ".tar.zst"}
"""Ends of names of files that are tarballs already, and the form that they have."""
_IMAGES = ("oci", "docker-archive")


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How a tarball is made. form: of `names.FORMS`; owner: of all that is in a directory, None for those on
    this machine; clamp: no time in it is later, in seconds since the epoch."""

    form: str = ".tar.gz"
    owner: tuple[int, int] | None = (0, 0)
    clamp: int | None = None


def tarball(path: Path, folder: Path, how: Packing, bus: Bus, environ: Mapping[str, str]) -> tuple[Path, str]:
    """Return the tarball of what is at a path, and its form: itself, if it is one, else a new file.

    path: a tarball, a directory, a plain tar, an image in an OCI layout or of `docker save`. folder: for what
    is made, empty. Raises UsageError, ImageError, EmitError.
    """
    if not path.exists():
        raise UsageError(f"there is no {path}")
    if not path.is_file() and not path.is_dir():
        raise UsageError(
            f"{path} is neither a file nor a directory",
            hint="an asset is read twice, to check it and to send it: give a file, not a pipe",
        )
    ready = next((form for end, form in _READY.items() if path.name.endswith(end)), None)
    if ready is not None and path.is_file() and not _is_container(path):
        return path, ready
    target = folder / f"asset{how.form}"
    if (kind := _kind(path)) in _IMAGES:
        bus.note(f"{path.name} is an image: the tree in it becomes the asset")
        tree = folder / "tree"
        tree.mkdir()
        _pack(tree, _unpacked(path, kind, tree, folder, bus, environ), target, how, bus)
    elif path.is_dir():
        _pack(path, _listed(path, how.owner), target, how, bus)
    elif path.name.endswith(".tar"):
        _compress(path, target, how)
    else:
        raise UsageError(
            f"{path} is no tarball",
            hint="a .tar.gz, .tgz, .tar.zst or .tar, a directory, or an image (OCI layout, `docker save`)",
        )
    return target, how.form


def _kind(path: Path) -> str:
    """Return what an image at a path is; empty for none."""
    from buildstep.images.file_kind import kind_of

    if path.is_dir() and not (path / "oci-layout").exists():
        return ""
    try:
        return kind_of(path)
    except ImageError:
        return ""  # whoever reads all of it says what is wrong


def _is_container(path: Path) -> bool:
    return _kind(path) in _IMAGES


def _unpacked(
    path: Path, kind: str, tree: Path, folder: Path, bus: Bus, environ: Mapping[str, str]
) -> FileList:
    """Unpack an image, and return its entries but for the devices, which a host makes by itself."""
    from buildstep.images.interface import SourceContext
    from buildstep.images.sources import parse

    parsed = parse(f"{kind}:{path}", environ=environ, bus=bus)
    assert parsed is not None, "a scheme of this package"
    source, locator = parsed
    cache = folder / "cache"
    cache.mkdir()
    limits = replace(LIMITS, devices=4096)
    context = SourceContext(
        cache=cache,
        downloads=folder,
        privileged=False,
        bus=bus,
        environ=environ,
        unpack=partial(unpack, privileged=False, limits=limits),
        apply_layer=partial(apply_layer, privileged=False, limits=limits),
    )
    try:
        entries = source.fetch(locator, tree, context).entries or {}
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from error
    devices = [name for name, entry in entries.items() if entry.kind in "cbp"]
    if devices:
        bus.note(f"{plural(len(devices), 'device node')} of {path.name} left out of the asset")
    return {name: entry for name, entry in entries.items() if entry.kind not in "cbp"}


def _listed(path: Path, owner: tuple[int, int] | None) -> FileList:
    entries = scan(path)
    if owner is not None:
        for entry in entries.values():
            entry.uid, entry.gid = owner
    return entries


def _pack(root: Path, entries: FileList, target: Path, how: Packing, bus: Bus) -> None:
    with _writer(target, how) as out:
        tar = TarWriter(out, epoch=how.clamp)
        sinks = (cast(Sink, tar),)  # of which begin, data and end are called
        read_pass(root, ((entries[path], sinks) for path in sorted(entries)), bus)
        tar.finish()
        out.close()


def _compress(path: Path, target: Path, how: Packing) -> None:
    try:
        with path.open("rb") as stream, _writer(target, how) as out:
            while data := stream.read(CHUNK):
                out.write(data)
            out.close()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from error


@contextlib.contextmanager
def _writer(target: Path, how: Packing) -> Iterator[ChunkWriter]:
    with new_file(target) as fd, ChunkWriter(fd, codec(COMPRESSIONS[how.form]), what=target.name) as out:
        yield out
