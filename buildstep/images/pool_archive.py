"""A pool's base images and layers as one file, and back: for caches of a CI that keep a file and no more.

Those caches know plain files. A tree of an image has devices, links, owners and attributes, which they lose,
and with them the next build its base. So the trees travel in one tar file that GNU tar writes and reads:

    buildstep-pool.json         the pool's mark: what kind it is, and who owns its files
    image/UUID/, layer/KEY/     the datasets, as they lie in the pool
    state/images, state/layers, state/blobs     their records, lists and compressed layers

What is taken in is not believed: it lies on other inodes than its records say, so that whoever uses it first
reads all of it and compares it with its list.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from buildstep.cache.layers import LayerCache
from buildstep.errors import CommandFailed, DatasetError, UsageError
from buildstep.images.store import ImageStore
from buildstep.pool.interface import Kind
from buildstep.pool.journal import Journal
from buildstep.pool.layout import MARK, DirectoryPool
from buildstep.system import process, sealed, space
from buildstep.system.command_options import Start
from buildstep.system.files import fsync_dir, named_output, sync_filesystem
from buildstep.system.host import boot_id
from buildstep.system.locks import lock
from buildstep.system.private import private_dir
from buildstep.system.remove import remove_tree
from buildstep.system.text import plural

_EXACT: Final = ("--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--sparse", "--force-local")
_STATE: Final = {Kind.IMAGE: "images", Kind.LAYER: "layers"}
_BLOBS: Final = "blobs"
_ORIGIN: Final = "origin.json"


class Contents(NamedTuple):
    """What went into an archive, or came out of one."""

    images: tuple[str, ...]
    layers: tuple[str, ...]
    size: int


def export(store: ImageStore, cache: LayerCache, journal: Journal, target: Path) -> Contents:
    """Write the base images and layers of a pool to a file, which gets its name when it is whole.

    target: ends in `.tar`, or in `.tar.gz` or `.tar.zst`, for which gzip or zstd is used; a pipe or a device
    is written to. Nothing that builds use meanwhile is changed; what is removed meanwhile is left out.
    Raises DatasetError for a pool that is no directory and where the file cannot be written.
    """
    pool = _directory(store)
    with contextlib.ExitStack() as stack:
        images = [uuid for uuid in pool.idents(Kind.IMAGE) if _used_image(store, uuid, stack)]
        layers = [key for key in pool.idents(Kind.LAYER) if _used_layer(cache, key, stack)]
        names = [
            MARK,
            *(f"{Kind.IMAGE}/{uuid}" for uuid in images),
            *(f"{Kind.LAYER}/{key}" for key in layers),
        ]
        names += [
            f"state/{_STATE[kind]}/{ident}{end}"
            for kind, idents in ((Kind.IMAGE, images), (Kind.LAYER, layers))
            for ident in idents
            for end in (".json", ".list")
        ]
        stack.enter_context(lock(pool.state / "locks" / "blob-names.lock", shared=True))
        names += _blob_names(pool.state)
        journal.outputs(target)
        space.watch(exported_file=target.absolute().parent)
        try:
            size = _write(target, pool.path, names)
        except OSError as error:
            raise DatasetError(f"{target} cannot be written: {error.strerror}") from error
    return Contents(tuple(images), tuple(layers), size)


def _write(target: Path, top: Path, names: Sequence[str]) -> int:
    """Write an archive of what is in a directory, and return its size. Raises OSError."""
    options = [*_EXACT, "--create", "--format=posix", "--sort=name", f"--directory={top}"]
    if target.name.endswith((".gz", ".tgz", ".zst")):
        options.append("--gzip" if target.name.endswith("gz") else f"-I{process.which('zstd')} -3 -T0")
    with tempfile.NamedTemporaryFile("w") as listed:
        listed.write("".join(f"{name}\0" for name in names))
        listed.flush()
        # It holds what only the pool's owner may read.
        with named_output(target, mode=0o600, durable=True) as stream:
            fd = stream.fileno()
            options += [f"--file=/proc/self/fd/{fd}", "--null", f"--files-from={listed.name}"]
            _tar(*options, doing=f"writing {target}", fds=(fd,))
            return os.fstat(fd).st_size


def take_in(store: ImageStore, journal: Journal, source: Path) -> Contents:
    """Bring what an archive has and the pool has not into a pool.

    Raises UsageError for a file that is no such archive, or is one of another kind of pool; nothing of it is
    in the pool then.
    """
    pool = _directory(store)
    pool.make_pool()
    folder = journal.folder(pool.state / "work" / f"{journal.ident}-import")
    try:
        options = [*_EXACT, "--extract", "--same-permissions", "--delay-directory-restore"]
        _tar(*options, f"--directory={folder}", f"--file={source}", doing=f"reading {source}")
        _check(pool, folder, source)
        # A layer of an overlay is good for the boot in which it was made, as it is not synced. These are.
        layers = sorted(_named(folder / Kind.LAYER))
        for key in layers:
            _of_this_boot(folder / Kind.LAYER / key / _ORIGIN)
        sync_filesystem(folder)
        _move_all(folder / "state" / _BLOBS, pool.state / _BLOBS)
        images = [
            uuid for uuid in sorted(_named(folder / Kind.IMAGE)) if _took(pool, folder, Kind.IMAGE, uuid)
        ]
        layers = [key for key in layers if _took(pool, folder, Kind.LAYER, key)]
    finally:
        remove_tree(folder)
    return Contents(tuple(images), tuple(layers), source.stat().st_size)


def _directory(store: ImageStore) -> DirectoryPool:
    backend = store.backend
    if not isinstance(backend, DirectoryPool) or backend.scheme not in ("dir", "overlay"):
        raise UsageError(
            f"{backend.uri} is no pool of plain directories, and cannot be one file",
            hint="use --pool dir:PATH or overlay:PATH; datasets of zfs and btrfs stay on the agent's disk",
        )
    return backend


def _used_image(store: ImageStore, uuid: str, stack: contextlib.ExitStack) -> bool:
    """Keep an image from going for as long as the stack lasts; False for one that is gone or damaged."""
    stack.enter_context(store.locks.using(uuid))
    return store.load(uuid) is not None and (store.folder / f"{uuid}.list").exists()


def _used_layer(cache: LayerCache, key: str, stack: contextlib.ExitStack) -> bool:
    stack.enter_context(cache.using(key))
    return cache.find(key) is not None


def _blob_names(state: Path) -> Iterator[str]:
    """Yield compressed layers that have a record, each with it."""
    folder = state / _BLOBS
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    for name in sorted(there):
        if f"{name}.json" in there:
            yield from (f"state/{_BLOBS}/{name}", f"state/{_BLOBS}/{name}.json")


def _named(folder: Path, *, files: bool = False) -> Iterator[str]:
    """Yield the names of the directories in a directory, or of its files; links are none of them."""
    if folder.is_dir():
        with os.scandir(folder) as found:
            for item in found:
                if item.is_file(follow_symlinks=False) if files else item.is_dir(follow_symlinks=False):
                    yield item.name


def _check(pool: DirectoryPool, folder: Path, source: Path) -> None:
    """Refuse what is no archive of ours, or one whose trees this pool cannot have."""
    for name in (*Kind, "state", *(f"state/{part}" for part in (*_STATE.values(), _BLOBS))):
        if (folder / name).is_symlink():
            raise UsageError(f"{source} is no archive of a pool: {name} is a link")
    try:
        found, here = sealed.read(folder / MARK), sealed.read(pool.mark)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{source} is no archive of a pool: {error}", hint="write one with `buildstep cache export`"
        ) from error
    if found != here:
        theirs, ours = (f"{row.get('scheme')}, {row.get('owners')} owners" for row in (found, here))
        raise UsageError(
            f"{source} is of another kind of pool ({theirs}) than {pool.uri} ({ours})",
            hint="export and import with the same kind of --pool, as the same kind of user",
        )


def _of_this_boot(origin: Path) -> None:
    """Say that a layer is good in this boot, if it is one that says so at all. It is synced next."""
    if origin.is_file():
        with contextlib.suppress(ValueError):
            sealed.write(origin, {**sealed.read(origin), "boot": boot_id()}, durable=False)


def _took(pool: DirectoryPool, folder: Path, kind: Kind, ident: str) -> bool:
    """Move a dataset into the pool, then its record; False where one is there, or this one has no record."""
    records = folder / "state" / _STATE[kind]
    if not (records / f"{ident}.json").is_file() or os.path.lexists(pool.folder(kind, ident)):
        return False
    try:
        (folder / kind / ident).rename(pool.folder(kind, ident))
    except OSError as error:
        raise DatasetError(f"cannot take in {kind} {ident}: {error.strerror}") from error
    private_dir(pool.state / _STATE[kind])
    for end in (".list", ".json"):  # the record last: without one it is not there
        with contextlib.suppress(FileNotFoundError):
            (records / f"{ident}{end}").replace(pool.state / _STATE[kind] / f"{ident}{end}")
    fsync_dir(pool.folder(kind, ident).parent)
    return True


def _move_all(source: Path, target: Path) -> None:
    """Move files that are not there yet, each before its record."""
    private_dir(target)
    for name in sorted(_named(source, files=True), key=lambda name: (name.endswith(".json"), name)):
        if not (target / name).exists():
            (source / name).replace(target / name)


def _tar(*words: str, doing: str, fds: tuple[int, ...] = ()) -> None:
    try:
        process.run(["tar", *words], what="tar", start=Start(fds=fds))
    except CommandFailed as error:
        raise DatasetError(f"{doing} failed", detail=error.detail) from error


def counted(contents: Contents) -> str:
    """Return what an archive has, for a person."""
    return f"{plural(len(contents.images), 'image')} and {plural(len(contents.layers), 'layer')}"
