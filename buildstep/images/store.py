"""The image store of a pool: base images by uuid and by content, verified, locked.

state/images/UUID.json      the record, written last: an image without one does not exist
state/images/UUID.list      its file list, with the true owners and times
state/images/UUID.used      touched whenever a build or an import asks for the image
state/downloads/            files that are being downloaded; what can be resumed outlives the process
state/blobs/DIGEST          its tree as a compressed layer, made when an OCI image first needs it
state/locks/image-KEY.lock  held while the image of that key is imported or deleted

`buildstep.images.importing` brings images in.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from buildstep.errors import DatasetError, ImageError
from buildstep.events import Bus
from buildstep.images.file_hashes import FileHashes
from buildstep.images.interface import Identity, Source
from buildstep.images.record import ImageRecord
from buildstep.images.remote import Remote
from buildstep.images.resolve import Resolved
from buildstep.images.sources import parse
from buildstep.pool.interface import Backend, Kind
from buildstep.spec.config import Config
from buildstep.system.files import atomic_write, read_json, write_json
from buildstep.system.locks import lock, try_lock
from buildstep.system.userns import in_user_namespace
from buildstep.tree.entry import FileList, dumps, loads, tree_digest
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.scan import fingerprint_of, scan

__all__ = ["ImageRecord", "ImageStore"]


class ImageStore:
    """Base images in a pool's datasets, with records in its state directory."""

    def __init__(
        self, backend: Backend, *, bus: Bus, environ: Mapping[str, str], config: Config | None = None
    ) -> None:
        self.backend, self.bus, self.environ = backend, bus, environ
        self.config = config or Config()
        self.folder = backend.state / "images"
        self.remote = Remote(self.config.sources, environ=environ, http=self.config.http, bus=bus)
        """The repositories that the configuration names; none is opened before it is asked."""
        self._hashes = FileHashes(backend.state / "filehash.json")
        self._identities: dict[str, Identity] = {}
        self._chains: dict[str, list[Resolved]] = {}

    # -- looking up -------------------------------------------------------------------------------

    def records(self) -> list[ImageRecord]:
        """Return the record of every image, oldest first. A damaged one is named and left out."""
        found = []
        for path in self.folder.glob("*.json"):
            record = self.load(path.stem)
            if record is not None and self.backend.exists(Kind.IMAGE, record.uuid):
                found.append(record)
        return sorted(found, key=lambda record: (record.imported, record.uuid))

    def load(self, uuid: str) -> ImageRecord | None:
        """Return the record of a uuid, None if there is none; a damaged one is named."""
        path = self.folder / f"{uuid}.json"
        try:
            return ImageRecord.from_json(read_json(path))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, ImageError) as error:
            self.bus.note(f"the image record {path.name} cannot be read ({error}); ignored", level="warning")
            return None

    def source(self, ref: str) -> tuple[Source, str] | None:
        """Return the source and the locator of a reference; None for a uuid or name@version."""
        return parse(ref, environ=self.environ, limits=self.config.http, bus=self.bus)

    def identify(self, ref: str) -> Identity | None:
        """Return what a locator means; None for a uuid or name@version, which only the store knows."""
        if ref in self._identities:
            return self._identities[ref]
        parsed = self.source(ref)
        if parsed is None:
            return None
        source, locator = parsed
        if source.scheme != "docker":
            return source.identify(locator, self._hashes.sha256)
        # A tag may move: within one command it means one image, and the registry is asked once.
        try:
            found = source.identify(locator, self._hashes.sha256)
        except ImageError as error:
            here = self._last_known(ref) if error.retryable else None
            if here is None:
                raise
            day = time.strftime("%Y-%m-%d", time.gmtime(here.imported))
            self.bus.note(
                f"{error.message}; using the image that {ref} was on {day}, {here.uuid}", level="warning"
            )
            found = Identity(key=here.key, label=here.label)
        self._identities[ref] = found
        return found

    def _last_known(self, ref: str) -> ImageRecord | None:
        from buildstep.net.registry import Reference

        label = str(Reference.parse(ref))
        return next((record for record in reversed(self.records()) if record.label == label), None)

    def find(self, ref: str) -> ImageRecord | None:
        """Return the newest image in the store that this reference means, or None."""
        identity = self.identify(ref)
        for record in reversed(self.records()):
            if identity is not None:
                if identity.key in (record.key, *record.aliases):
                    return record
            elif ref in (record.uuid, f"{record.name}@{record.version}"):
                return record
        return None

    def get(self, ref: str) -> ImageRecord:
        """Return what `find` does; raises ImageError when there is no such image."""
        record = self.find(ref)
        if record is None:
            raise ImageError(
                f"the image {ref} is not in the store", hint="`buildstep image list` shows what is"
            )
        return record

    def resolve(self, ref: str) -> list[Resolved]:
        """Return the images to fetch for a uuid or name@version, origins first; asked once per command.

        Raises ImageError when no repository has it.
        """
        if ref not in self._chains:
            self._chains[ref] = self.remote.resolve(ref, self.has)
        return self._chains[ref]

    def foresee(self, ref: str) -> str:
        """Say where an image that is not in the store would come from; nothing is fetched.

        Raises ImageError when no repository has it.
        """
        if self.identify(ref) is not None:
            return f"{ref} is not in the store"
        chain = self.resolve(ref)
        top, others = chain[-1], len(chain) - 1
        below = f", with {others} that it is based on" if others else ""
        return f"{ref} is not in the store; {top.repository.label} has it as {top.uuid}{below}"

    def has(self, uuid: str) -> bool:
        """Say whether an image is here; one that is has been checked."""
        found = self.find(uuid)
        return found is not None and bool(self.check(found))

    def entries(self, record: ImageRecord) -> FileList:
        """Return the file list of an image, every file hashed."""
        return loads((self.folder / f"{record.uuid}.list").read_bytes())

    def last_used(self, record: ImageRecord) -> float:
        """Return when an image was last asked for, in seconds since the epoch."""
        try:
            return max(record.imported, (self.folder / f"{record.uuid}.used").stat().st_mtime)
        except OSError:
            return record.imported

    # -- locks --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def using(self, record: ImageRecord) -> Iterator[None]:
        """Keep an image from being deleted for the length of a block."""
        with lock(self._use_lock(record), shared=True):
            yield

    def _use_lock(self, record: ImageRecord) -> Path:
        return self.backend.state / "locks" / f"image-use-{record.uuid}.lock"

    @contextlib.contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Hold the lock of an image's key, which is imported or deleted in the block."""
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        path = self.backend.state / "locks" / f"image-{name}.lock"
        with try_lock(path) as free:
            if free:
                yield
                return
        self.bus.note("waiting for another import of the same image")
        with lock(path):
            yield

    # -- adding -------------------------------------------------------------------------------------

    def add(self, record: ImageRecord, entries: FileList) -> ImageRecord:
        """Write the file list and, last, the record of an image whose dataset is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / f"{record.uuid}.list") as stream:
            stream.write(dumps(entries))
        with self.backend.tree(Kind.IMAGE, record.uuid) as tree:
            record = replace(record, fingerprint=fingerprint_of(tree))
        return self._write(record)

    def add_alias(self, record: ImageRecord, key: str) -> ImageRecord:
        """Note that another key means the same image. Raises ImageError if the image was changed."""
        record = self.check(record)
        return self._write(replace(record, aliases=tuple(dict.fromkeys((*record.aliases, key)))))

    def _write(self, record: ImageRecord) -> ImageRecord:
        write_json(self.folder / f"{record.uuid}.json", record.to_json())
        return record

    # -- checking -------------------------------------------------------------------------------------

    def check(self, record: ImageRecord) -> ImageRecord:
        """Return the record of an image that is as it was imported, and mark it as used.

        Cheap when nothing touched the tree since it was last verified; a full `verify` otherwise.
        """
        with self.backend.tree(Kind.IMAGE, record.uuid) as tree:
            now = fingerprint_of(tree)
        with contextlib.suppress(OSError):
            (self.folder / f"{record.uuid}.used").touch()
        if now == record.fingerprint:
            return record
        self.bus.note(
            f"image {record.uuid} was touched since it was imported; hashing it again", level="warning"
        )
        self.verify(record)
        return self._write(replace(record, fingerprint=now))

    def verify(self, record: ImageRecord) -> None:
        """Read every file of an image and compare with its record. Raises ImageError naming what differs."""
        known, real = self.entries(record), self._scan(record.uuid)
        if not self._tree_is_complete():
            for path, entry in known.items():
                if path not in real and entry.kind in "cb":
                    real[path] = entry
                elif path in real and not self.backend.privileged:
                    there = real[path]
                    there.uid, there.gid, there.mode = entry.uid, entry.gid, entry.mode
                    there.xattrs = entry.xattrs
        if tree_digest(known) == record.tree_digest == tree_digest(real):
            return
        wrong = [
            path
            for path in {*known, *real}
            if path not in known
            or path not in real
            or (not known[path].same_metadata(real[path]) or known[path].sha256 != real[path].sha256)
        ]
        names = ", ".join("/" + os.fsdecode(path) for path in sorted(wrong)[:10])
        raise ImageError(
            f"image {record.uuid} is not what was imported: {len(wrong)} paths differ",
            detail=names,
            hint=f"remove it with `buildstep image delete {record.uuid}` and it will be imported again",
        )

    def has_digest(self, uuid: str, digest: str) -> bool:
        """Say whether an image's tree has this digest now; False where the disk cannot show it."""
        return self._tree_is_complete() and tree_digest(self._scan(uuid)) == digest

    def _tree_is_complete(self) -> bool:
        """Say whether a tree on disk has all that its digest is made of: owners and device nodes too."""
        return self.backend.privileged and not in_user_namespace()

    def _scan(self, uuid: str) -> FileList:
        with self.backend.tree(Kind.IMAGE, uuid) as tree:
            entries = scan(tree)
            hash_entries(tree, entries.values())
        spread_digests(entries)
        return entries

    # -- removing ---------------------------------------------------------------------------------------

    def delete(self, record: ImageRecord) -> None:
        """Remove an image. Raises ImageError while an image, a layer or a build is based on it."""
        children = [other.uuid for other in self.records() if other.origin == record.uuid]
        if children:
            raise ImageError(
                f"image {record.uuid} is the origin of {', '.join(children)}", hint="delete those first"
            )
        with try_lock(self._use_lock(record)) as unused:
            if not unused:
                raise ImageError(
                    f"image {record.uuid} is in use by a build",
                    hint="wait until it has ended",
                    retryable=True,
                )
            with self.locked(key_of(record.uuid)):
                self.remove(record.uuid)

    def remove(self, uuid: str) -> None:
        """Remove an image whose uuid is locked, and its record."""
        try:
            self.backend.destroy(Kind.IMAGE, uuid)
        except DatasetError as error:
            if not self.backend.exists(Kind.IMAGE, uuid):
                raise
            raise ImageError(
                f"image {uuid} is in use: {error.message}", detail=error.detail, hint=error.hint
            ) from error
        for suffix in ("json", "list", "used"):
            (self.folder / f"{uuid}.{suffix}").unlink(missing_ok=True)


def key_of(uuid: str) -> str:
    """Return the key of an image that is known by its uuid."""
    return f"image:{uuid}"
