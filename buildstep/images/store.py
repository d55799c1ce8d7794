"""The image store of a pool: base images by uuid and by content, verified, locked.

state/images/UUID.json      the record, written last: an image without one does not exist
state/images/UUID.list      its file list, with the true owners and times
state/images/UUID.used      touched whenever a build or an import asks for the image
state/images/UUID.asked     touched when its source was found to have nothing newer
state/images/DIGEST.tag     what a registry's tag was when it was asked for (`images.tags`)
state/downloads/            files that are being downloaded; what can be resumed outlives the process
state/blobs/DIGEST          the layers that it came in, else its tree as one, made when an OCI image needs it

`buildstep.images.importing` brings images in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from buildstep.cache import base_layers
from buildstep.cache.layers import LayerCache
from buildstep.cache.shared import Shared
from buildstep.errors import DatasetError, ImageError, StoreError
from buildstep.events import Bus
from buildstep.formats.oci.spec import OciPlatform
from buildstep.images.file_hashes import FileHashes
from buildstep.images.freshness import Freshness
from buildstep.images.interface import Identity, Source
from buildstep.images.locked import LockedImage
from buildstep.images.locks import ImageLocks
from buildstep.images.record import DamagedImage, ImageRecord, key_of, newest, remedy
from buildstep.images.remote import Remote
from buildstep.images.resolve import Resolved, several_of
from buildstep.images.sources import foresee, parse
from buildstep.images.tags import Tags
from buildstep.images.vouched import Vouched
from buildstep.pool.interface import Backend, Kind
from buildstep.spec.config import Config
from buildstep.system.digest import sha256_bytes
from buildstep.system.files import atomic_write
from buildstep.system.private import private_dir, private_file
from buildstep.system.userns import in_user_namespace
from buildstep.tree.diff import differing
from buildstep.tree.entry import FileList, dumps, loads, tree_digest
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.scan import fingerprint_of, scan

__all__ = ["DamagedImage", "ImageRecord", "ImageStore"]


class ImageStore:
    """Base images in a pool's datasets, with records in its state directory."""

    def __init__(
        self, backend: Backend, *, bus: Bus, environ: Mapping[str, str], config: Config | None = None
    ) -> None:
        self.backend, self.bus, self.environ, self._environ = backend, bus, environ, environ
        self.config, self.folder = config or Config(), backend.state / "images"
        self.hashes = FileHashes(backend.state / "filehash.json", bus)
        self.locks, self.vouched = ImageLocks(backend.state, bus.note), Vouched()
        self.remote = Remote(self.config.sources, environ=environ, http=self.config.http, bus=bus)
        """The repositories that the configuration names; none is opened before it is asked."""
        self.freshness = Freshness(self.folder, environ, self.config.http, bus)
        self.tags = Tags(self.folder, self.platform, self.freshness, bus)
        self.shared: Shared | None = None  # the shared cache of the command, if it has one
        self._sources: dict[str, tuple[Source, str] | None] = {}
        self.locked: dict[str, LockedImage] = {}  # by references that a lock has settled
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
            return ImageRecord.read(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, ImageError) as error:
            text = f"the image record {path} cannot be read ({error}); the image has to be imported again"
            self.bus.note(text, level="warning")
            return None

    def for_platform(self, platform: str) -> None:
        """Let references mean images for a platform from now on, such as linux/arm64; empty: as before."""
        environ = {**self._environ, "BUILDSTEP_PLATFORM": platform} if platform else self._environ
        if environ.get("BUILDSTEP_PLATFORM") != self.environ.get("BUILDSTEP_PLATFORM"):
            self.environ = environ
            self._sources.clear()
            self.tags = Tags(self.folder, self.platform, self.freshness, self.bus)

    @property
    def platform(self) -> str:
        """The platform that references mean images for, such as linux/arm64."""
        return self.environ.get("BUILDSTEP_PLATFORM") or str(OciPlatform.here())

    def source(self, ref: str) -> tuple[Source, str] | None:
        """Return the source and the locator of a reference; None for a uuid or name@version.

        A source serves the whole command: what it fetches is what it identified.
        """
        if ref not in self._sources:
            self._sources[ref] = parse(ref, environ=self.environ, limits=self.config.http, bus=self.bus)
        return self._sources[ref]

    def identify(self, ref: str, images: Sequence[ImageRecord] | None = None) -> Identity | None:
        """Return what a locator means; None for a uuid or name@version, which only the store knows."""
        if ref in self.locked:
            return self.locked[ref].identity
        parsed = self.source(ref)
        if parsed is None:
            return None
        source, locator = parsed
        if source.scheme != "docker":
            return self.vouched.same(ref, source.identify(locator, self.hashes.sha256))
        if ref in self.tags.known:
            return self.tags.known[ref]
        ask = partial(source.identify, locator, self.hashes.sha256)
        return self.tags.identify(ref, ask, self.records() if images is None else images)

    def find(self, ref: str) -> ImageRecord | None:
        """Return the newest image in the store that this reference means, or None."""
        records = self.records()
        identity = self.identify(ref, records)
        if locked := self.locked.get(ref):
            return newest(locked.fitting(records), ref, identity, self.platform)
        found = newest(records, ref, identity, self.platform)
        return None if found and identity and not self.freshness.is_current(found, self.backend) else found

    def get(self, ref: str) -> ImageRecord:
        """Return what `find` does, or the image of a bare name.

        Raises ImageError when there is no such image, or more than one of that name.
        """
        records = self.records()
        named = [record for record in records if record.name == ref]
        if len(named) > 1:
            raise several_of(ref, "in the store", [(it.uuid, it.version) for it in named])
        identity = None if named else self.identify(ref, records)
        record = named[0] if named else newest(records, ref, identity, self.platform)
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

        Raises ImageError when no repository has it, or where a file is of another kind than its scheme says,
        ToolMissing where it cannot be made here.
        """
        if (locked := self.locked.get(ref)) is not None:
            return locked.foresee(ref, self)
        identity = self.identify(ref)
        if identity is not None:
            foresee(ref, self.source(ref))
            return self.freshness.said.get(identity.key) or f"{ref} is not in the store"
        top, others = (chain := self.resolve(ref))[-1], len(chain) - 1
        below = f", with {others} that it is based on" if others else ""
        return f"{ref} is not in the store; {top.repository.label} has it as {top.uuid}{below}"

    def said_of(self, ref: str) -> str:
        """Return what was found when the source of a reference was asked, empty where it was not."""
        identity = self.identify(ref) if self.freshness.said else None
        return self.freshness.said.get(identity.key, "") if identity is not None else ""

    def has(self, uuid: str) -> bool:
        """Say whether an image is here, and as it was imported."""
        found = self.find(uuid)
        return found is not None and self.sound(found) is not None

    def entries(self, record: ImageRecord) -> FileList:
        """Return the file list of an image, every file hashed.

        A damaged list is made again from the image's tree. Raises DamagedImage where that does not have all
        that was in it.
        """
        path = self.list_path(record.uuid)
        if (known := self.known_entries(record)) is not None:
            return known
        if self._tree_is_complete():
            data = dumps(self._scan(record.uuid))
            if sha256_bytes(data) == record.list_digest:
                with atomic_write(path) as stream:
                    stream.write(data)
                self.bus.note(f"{path} was damaged; it was made again from the image's tree", level="warning")
                return loads(data)
        raise DamagedImage(
            f"the file list of image {record.uuid} is damaged: {path}", hint=remedy(record.uuid)
        )

    def known_entries(self, record: ImageRecord) -> FileList | None:
        """Return the stored file list of an image, every file hashed; None where it is damaged."""
        data = self.stored_list(record)
        return None if data is None else loads(data)

    def list_path(self, uuid: str) -> Path:
        """Return where the file list of an image is."""
        return self.folder / f"{uuid}.list"

    def stored_list(self, record: ImageRecord) -> bytes | None:
        """Return the file list as it is stored; None if it is missing, or not what was written."""
        try:
            data = self.list_path(record.uuid).read_bytes()
            if record.list_digest:
                return data if sha256_bytes(data) == record.list_digest else None
            return data if tree_digest(loads(data)) == record.tree_digest else None
        except (OSError, StoreError, AssertionError):
            return None

    def last_used(self, record: ImageRecord) -> float:
        """Return when an image was last asked for, in seconds since the epoch."""
        try:
            return max(record.imported, (self.folder / f"{record.uuid}.used").stat().st_mtime)
        except OSError:
            return record.imported

    # -- adding -------------------------------------------------------------------------------------

    def add(self, record: ImageRecord, entries: FileList) -> ImageRecord:
        """Write the file list and, last, the record of an image whose dataset is there."""
        private_dir(self.folder)
        data = dumps(entries)
        with atomic_write(self.list_path(record.uuid)) as stream:
            stream.write(data)
        with self.backend.tree(Kind.IMAGE, record.uuid) as tree:
            record = replace(record, fingerprint=fingerprint_of(tree), list_digest=sha256_bytes(data))
        return self.write(record)

    def add_alias(self, record: ImageRecord, key: str) -> ImageRecord:
        """Note that another key means the same image. Raises ImageError if the image was changed."""
        record = self.check(record)
        return self.write(replace(record, aliases=tuple(dict.fromkeys((*record.aliases, key)))))

    def write(self, record: ImageRecord) -> ImageRecord:
        """Write the record of an image, such as of one of which more is known now."""
        record.save(self.folder / f"{record.uuid}.json")
        return record

    # -- checking -------------------------------------------------------------------------------------

    def check(self, record: ImageRecord, *, thorough: bool = False) -> ImageRecord:
        """Return the record of an image that is as it was imported, and mark it as used.

        Cheap when nothing touched the tree since it was last verified; a full `verify` otherwise, or where it
        is to be thorough. Raises DamagedImage.
        """
        with self.backend.tree(Kind.IMAGE, record.uuid) as tree:
            now = fingerprint_of(tree)
        with contextlib.suppress(OSError):
            private_file(self.folder / f"{record.uuid}.used")
        if not all(base_layers.is_there(self.backend.state, layer) for layer in record.layers):
            raise DamagedImage(
                f"a layer of image {record.uuid} is gone or cut short", hint=remedy(record.uuid)
            )
        same = now == record.fingerprint
        if same and record.list_digest and not thorough:
            return record
        if not same:
            said = f"image {record.uuid} was touched since it was imported; hashing it again"
            self.bus.note(said, level="warning")
        self.verify(record)
        if same and record.list_digest:
            return record
        data = self.stored_list(record)
        return self.write(replace(record, fingerprint=now, list_digest=sha256_bytes(data or b"")))

    def sound(
        self, record: ImageRecord, *, thorough: bool = False, listed: bool = True
    ) -> ImageRecord | None:
        """Return what `check` does; None, with a note, for an image whose tree, or list, is damaged."""
        try:
            checked = self.check(record, thorough=thorough)
            if listed and self.stored_list(checked) is None:
                self.entries(checked)
        except DamagedImage as error:
            self.note_damage(error)
            return None
        return checked

    def note_damage(self, error: DamagedImage) -> None:
        """Tell that an image is imported again, and why."""
        which = f" ({error.detail})" if error.detail else ""
        self.bus.note(f"{error.message}{which}; it is imported again", level="warning")

    def verify(self, record: ImageRecord) -> None:
        """Read all of an image and compare with its record. Raises DamagedImage naming what differs."""
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
        wrong = differing(known, real)
        raise DamagedImage(
            f"image {record.uuid} is not what was imported: {len(wrong)} paths differ",
            detail=", ".join("/" + os.fsdecode(path) for path in wrong[:10]),
            hint=remedy(record.uuid),
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

    def delete(self, record: ImageRecord, *, unused_since: float | None = None) -> None:
        """Remove an image. Raises ImageError while an image, a layer or a build is based on it.

        unused_since: not if it was used after that time (seconds since the epoch).
        """
        with self.locks.of_key(key_of(record.uuid)):
            children = [other.uuid for other in self.records() if other.origin == record.uuid]
            if children:
                raise ImageError(
                    f"image {record.uuid} is the origin of {', '.join(children)}", hint="delete those first"
                )
            with self.locks.try_unused(record.uuid) as unused:
                # Who used it until now has marked it before he let it go.
                late = unused_since is not None and self.last_used(record) > unused_since
                if not unused or late:
                    raise ImageError(
                        f"image {record.uuid} is in use by a build",
                        hint="wait until it has ended",
                        retryable=True,
                    )
                self.remove(record.uuid)

    def make_room(self, uuid: str, below: str) -> None:
        """Remove a damaged image whose uuid is locked, and the layers on it: a good one takes its place.

        below: the digest that its tree had. Raises ImageError while a build or an image is based on it.
        """
        with self.locks.try_unused(uuid) as unused:
            if not unused or not LayerCache(self.backend).discard_above(below):
                raise ImageError(
                    f"image {uuid} is damaged, and in use by a build",
                    hint="build again when that has ended: the image is imported again then",
                    retryable=True,
                )
            self.remove(uuid)

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
        for suffix in ("json", "list", "used", "asked"):
            (self.folder / f"{uuid}.{suffix}").unlink(missing_ok=True)
        self.remove_unused_layers()

    def remove_unused_layers(self) -> None:
        """Remove the layers that came with images that are not in the store any more, and what is known of
        the tags of these."""
        images = self.records()
        base_layers.remove_unused(self.backend.state, {layer.digest for it in images for layer in it.layers})
        self.tags.forget(images)
