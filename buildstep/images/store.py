"""The image store of a pool: base images by uuid and by content, imported once, verified, locked.

state/images/UUID.json      the record, written last: an image without one does not exist
state/images/UUID.list      its file list, with the true owners and times
state/images/UUID.used      touched whenever a build or an import asks for the image
state/downloads/            files on their way here; what can be resumed outlives the process
state/blobs/DIGEST          its tree as a compressed layer, made when an OCI image first needs it
state/locks/image-KEY.lock  held while the image of that key is imported or deleted
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from buildstep.errors import DatasetError, ImageError
from buildstep.events import Bus
from buildstep.formats.unpack import apply_layer, unpack
from buildstep.images.file_hashes import FileHashes
from buildstep.images.file_kind import kind_of_start
from buildstep.images.image_file import (
    Put,
    inputs_of,
    put_arriving,
    put_file,
    receives_zfs,
    refuse_unusable,
    usable_kind,
)
from buildstep.images.interface import Identity, Source, SourceContext, SourceImage
from buildstep.images.record import ImageRecord
from buildstep.images.remote import Remote, read_manifest
from buildstep.images.resolve import Arriving, Fetched, Resolved
from buildstep.images.sources import parse, zfs_file
from buildstep.net.errors import HttpError
from buildstep.net.http import translated
from buildstep.net.imgapi import expected_file
from buildstep.pool.interface import Backend, Dataset, Kind
from buildstep.pool.journal import Journal
from buildstep.spec.config import Config
from buildstep.spec.imgmanifest import uuid_of
from buildstep.system.files import atomic_write, read_json, write_json
from buildstep.system.locks import lock, try_lock
from buildstep.system.remove import remove_tree
from buildstep.system.userns import in_user_namespace
from buildstep.tree.entry import FileList, dumps, loads, tree_digest
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.scan import fingerprint_of, scan

__all__ = ["ImageRecord", "ImageStore"]
_PEEK = 256 << 10
"""Bytes of a file, compressed, by which its kind is told while it still comes."""


class ImageStore:
    """Base images in a pool's datasets, with records in its state directory."""

    def __init__(
        self, backend: Backend, *, bus: Bus, environ: Mapping[str, str], config: Config | None = None
    ) -> None:
        self.backend = backend
        self.config = config or Config()
        self._bus = bus
        self._environ = environ
        self.folder = backend.state / "images"
        self._hashes = FileHashes(backend.state / "filehash.json")
        self._remote: Remote | None = None
        self._identities: dict[str, Identity] = {}
        self._chains: dict[str, list[Resolved]] = {}
        self._imports = 0

    @property
    def remote(self) -> Remote:
        """The repositories that the configuration names."""
        if self._remote is None:
            self._remote = Remote(
                self.config.sources, environ=self._environ, http=self.config.http, bus=self._bus
            )
        return self._remote

    # -- looking up -------------------------------------------------------------------------------

    def records(self) -> list[ImageRecord]:
        """Every image there is, oldest first. A damaged record is named and left out."""
        found = []
        for path in self.folder.glob("*.json"):
            record = self._load(path)
            if record is not None and self.backend.exists(Kind.IMAGE, record.uuid):
                found.append(record)
        return sorted(found, key=lambda record: (record.imported, record.uuid))

    def _load(self, path: Path) -> ImageRecord | None:
        try:
            return ImageRecord.from_json(read_json(path))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, ImageError) as error:
            self._bus.note(f"the image record {path.name} cannot be read ({error}); ignored", level="warning")
            return None

    def _parse(self, ref: str) -> tuple[Source, str] | None:
        return parse(ref, environ=self._environ, limits=self.config.http, bus=self._bus)

    def identify(self, ref: str) -> Identity | None:
        """What a locator stands for; None for a uuid or name@version, which only the store can tell."""
        if ref in self._identities:
            return self._identities[ref]
        parsed = self._parse(ref)
        if parsed is None:
            return None
        source, locator = parsed
        if source.scheme != "docker":
            return source.identify(locator, self._hashes.sha256)
        # A tag may move: within one command it means one image, and we ask once.
        try:
            found = source.identify(locator, self._hashes.sha256)
        except ImageError as error:
            here = self._last_known(ref) if error.retryable else None
            if here is None:
                raise
            day = time.strftime("%Y-%m-%d", time.gmtime(here.imported))
            self._bus.note(
                f"{error.message}; {ref} is taken to be what it was on {day}, {here.uuid}", level="warning"
            )
            found = Identity(key=here.key, label=here.label)
        self._identities[ref] = found
        return found

    def _last_known(self, ref: str) -> ImageRecord | None:
        from buildstep.net.registry import Reference

        label = str(Reference.parse(ref))
        return next((record for record in reversed(self.records()) if record.label == label), None)

    def find(self, ref: str) -> ImageRecord | None:
        """The newest image in the store that this reference means, or None."""
        identity = self.identify(ref)
        for record in reversed(self.records()):
            if identity is not None:
                if identity.key in (record.key, *record.aliases):
                    return record
            elif ref in (record.uuid, f"{record.name}@{record.version}"):
                return record
        return None

    def get(self, ref: str) -> ImageRecord:
        """Like `find`; raises ImageError when it is not there."""
        record = self.find(ref)
        if record is None:
            raise ImageError(
                f"the image {ref} is not in the store", hint="`buildstep image list` shows what is"
            )
        return record

    def foresee(self, ref: str) -> str:
        """Where an image that is not in the store would come from; nothing is brought here.

        Raises ImageError when it cannot be had.
        """
        if self.identify(ref) is not None:
            return f"{ref} is not in the store"
        chain = self._chains[ref] = self.remote.resolve(ref, self._has)
        top, others = chain[-1], len(chain) - 1
        below = f", with {others} that it stands on" if others else ""
        return f"{ref} is not in the store; {top.repository.label} has it as {top.uuid}{below}"

    def entries(self, record: ImageRecord) -> FileList:
        """The file list of an image, every file hashed."""
        return loads((self.folder / f"{record.uuid}.list").read_bytes())

    def last_used(self, record: ImageRecord) -> float:
        """When it was last asked for, in seconds since the epoch."""
        try:
            return max(record.imported, (self.folder / f"{record.uuid}.used").stat().st_mtime)
        except OSError:
            return record.imported

    @contextlib.contextmanager
    def using(self, record: ImageRecord) -> Iterator[None]:
        """Held while a build stands on an image, so that it is not deleted meanwhile."""
        with lock(self._use_lock(record), shared=True):
            yield

    def _use_lock(self, record: ImageRecord) -> Path:
        return self.backend.state / "locks" / f"image-use-{record.uuid}.lock"

    # -- importing ----------------------------------------------------------------------------------

    def ensure(self, ref: str, journal: Journal) -> tuple[ImageRecord, bool]:
        """The image of a reference, imported if it is not there yet; the second value: it was there.

        What is there is verified first: a tree that was touched is hashed again, and refused if it differs.
        """
        identity = self.identify(ref)
        if identity is None:
            found = self.find(ref)
            return self._bring(ref, journal) if found is None else (self._proved(found), True)
        with self._lock(identity.key):
            found = self.find(ref)
            if found is not None:
                return self._proved(found), True
            return self._fetch(ref, identity, journal), False

    def _proved(self, record: ImageRecord) -> ImageRecord:
        self.check(record)
        return record

    def _has(self, uuid: str) -> bool:
        """Whether an image is here, and as it was when it came."""
        found = self.find(uuid)
        return found is not None and bool(self._proved(found))

    def locked(self, uuid: str) -> contextlib.AbstractContextManager[None]:
        """Held while the image of a uuid is imported or deleted."""
        return self._lock(_key_of(uuid))

    @contextlib.contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        path = self.backend.state / "locks" / f"image-{name}.lock"
        with try_lock(path) as free:
            if free:
                yield
                return
        self._bus.note("waiting for another import of the same image")
        with lock(path):
            yield

    def _fetch(self, ref: str, identity: Identity, journal: Journal) -> ImageRecord:
        parsed = self._parse(ref)
        assert parsed is not None
        source, locator = parsed
        if isinstance(source, zfs_file.ZfsFile):
            path, manifest = zfs_file.split(locator)
            self._bring_origin(path, zfs_file.read_manifest(manifest), journal)

        def put(ident: str, context: SourceContext) -> tuple[Dataset, SourceImage]:
            if isinstance(source, zfs_file.ZfsFile):
                return source.receive(locator, self.backend, ident)
            dataset = self.backend.create(ident)
            return dataset, source.fetch(locator, dataset.path, context)

        return self._install(put, journal, key=identity.key, label=identity.label)

    def _bring(self, ref: str, journal: Journal) -> tuple[ImageRecord, bool]:
        """An image and what it stands on from the repositories."""
        chain = self._chains.pop(ref, None) or self.remote.resolve(ref, self._has)
        top = chain[-1].uuid
        with contextlib.ExitStack() as locks:
            # The image first, then up its ancestry: whoever wants two of these takes them in one order.
            for image in reversed(chain):
                locks.enter_context(self.locked(image.uuid))
            found = self.find(top)
            if found is not None:  # somebody else was quicker
                return self._proved(found), True
            missing = [image for image in chain if not self._has(image.uuid)]

            def follow(arriving: Arriving) -> bool:
                return self._install_arriving(arriving, journal)

            def install(fetched: Fetched) -> None:
                self._install_fetched(fetched, journal)

            with translated(ImageError):
                downloads = self.backend.state / "downloads"
                self.remote.fetch(missing, downloads, follow=follow, install=install)
        return self.get(top), False

    def _install_arriving(self, arriving: Arriving, journal: Journal) -> bool:
        """Unpack an archive while it comes; False when that cannot be, and its file has to be waited for.

        It becomes an image only when its file is complete and proved.
        """
        manifest = arriving.manifest
        try:
            kind = kind_of_start(arriving.peek(_PEEK))
        except HttpError:
            return False
        if kind is not None:
            refuse_unusable(self.backend, kind, arriving.target, manifest)
        if kind != "tar":
            return False
        try:
            put = put_arriving(self.backend, arriving)
            self._install(put, journal, key=_key_of(manifest["uuid"]), locked=True)
        except HttpError:  # another repository may have it, or what we read was not right in the end
            return False
        except ImageError:
            try:
                arriving.prove()
            except HttpError:
                return False
            raise
        return True

    def _install_fetched(self, fetched: Fetched, journal: Journal) -> None:
        file, manifest = fetched.file, fetched.manifest
        kind = usable_kind(self.backend, file.path, manifest)
        put = put_file(self.backend, file.path, manifest, kind, inputs_of(fetched), environ=self._environ)
        self._install(put, journal, key=_key_of(manifest["uuid"]), locked=True)

    def import_file(self, path: Path, manifest_path: Path, journal: Journal) -> tuple[ImageRecord, bool]:
        """An image from a file and the manifest that proves it, under the manifest's uuid."""
        manifest = read_manifest(manifest_path)
        uuid = str(manifest["uuid"])
        with translated(ImageError):
            expected = expected_file(manifest)
        with self.locked(uuid):
            found = self.find(uuid)
            if found is not None:
                return self._proved(found), True
            kind = usable_kind(self.backend, path, manifest)
            if kind == "zfs":
                self._bring_origin(path, manifest, journal)
            inputs = {"file": os.fspath(path.absolute()), "sha1": expected.sha1}
            put = put_file(
                self.backend, path, manifest, kind, inputs, environ=self._environ, expected=expected
            )
            record = self._install(put, journal, key=_key_of(uuid), label=path.name, locked=True)
            return record, False

    def _bring_origin(self, path: Path, manifest: Mapping[str, Any], journal: Journal) -> None:
        if not receives_zfs(self.backend):
            raise zfs_file.refused(path)
        if origin := manifest.get("origin"):
            self.ensure(str(origin), journal)

    def _context(self, journal: Journal, ident: str, downloads: Path) -> SourceContext:
        privileged, bus = self.backend.privileged, self._bus
        downloads.mkdir(parents=True, exist_ok=True)
        return SourceContext(
            cache=journal.folder(self.backend.state / "work" / ident),
            downloads=downloads,
            privileged=privileged,
            bus=bus,
            environ=self._environ,
            unpack=lambda stream, into: unpack(stream, into, privileged=privileged, bus=bus),
            apply_layer=lambda stream, into, below: apply_layer(
                stream, into, below, privileged=privileged, bus=bus
            ),
        )

    def _install(
        self, put: Put, journal: Journal, *, key: str, label: str = "", locked: bool = False
    ) -> ImageRecord:
        """Make an image of what `put` puts into a dataset. locked: whether the image's uuid is.

        label: what it is called in messages; by default the repository that it came from.
        """
        self._imports += 1
        ident = journal.dataset(f"{journal.ident}-import{self._imports}")
        downloads = self.backend.state / "downloads" / hashlib.sha256(key.encode()).hexdigest()[:32]
        try:
            dataset, fetched = put(ident, self._context(journal, ident, downloads))
            entries = scan(dataset.path) if fetched.entries is None else fetched.entries
            hash_entries(dataset.path, entries.values())
            spread_digests(entries)
            digest = tree_digest(entries)
            uuid = str(fetched.manifest.get("uuid") or uuid_of(f"{key}\n{digest}"))
            with contextlib.nullcontext() if locked else self.locked(uuid):
                same = self._same_image(uuid, digest, key)
                if same is not None:
                    self.backend.destroy(Kind.BUILD, ident)
                    return same
                if self.backend.exists(Kind.IMAGE, uuid):
                    self.backend.destroy(Kind.BUILD, ident)
                else:
                    self.backend.snapshot(dataset, Kind.IMAGE, uuid)
                record = ImageRecord(
                    uuid=uuid,
                    key=key,
                    label=label or str(fetched.inputs.get("source", "")),
                    tree_digest=digest,
                    fingerprint="",
                    manifest={**fetched.manifest, "uuid": uuid},
                    inputs=dict(fetched.inputs),
                    packages=fetched.packages,
                    config=dict(fetched.config),
                    imported=time.time(),
                    files=len(entries),
                    size=sum(
                        entry.size for entry in entries.values() if entry.kind == "f" and not entry.first
                    ),
                    origin=str(fetched.manifest.get("origin") or "") if receives_zfs(self.backend) else "",
                )
                return self._record(record, entries)
        except BaseException:
            self.backend.destroy(Kind.BUILD, ident)
            raise
        finally:
            remove_tree(self.backend.state / "work" / ident)
            with contextlib.suppress(OSError):  # what may be resumed keeps its folder
                downloads.rmdir()

    def _record(self, record: ImageRecord, entries: FileList) -> ImageRecord:
        """Write down an image that is there now, the record last."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / f"{record.uuid}.list") as stream:
            stream.write(dumps(entries))
        with self.backend.tree(Kind.IMAGE, record.uuid) as tree:
            record = replace(record, fingerprint=fingerprint_of(tree))
        write_json(self.folder / f"{record.uuid}.json", record.to_json())
        return record

    def _same_image(self, uuid: str, digest: str, key: str) -> ImageRecord | None:
        """An image of this uuid that is here already, and is the same. Raises ImageError for another one.

        A tree that has lost its record stays if it is the same: layers may stand on it. Else it goes.
        """
        if not self.backend.exists(Kind.IMAGE, uuid):
            return None
        there = self._load(self.folder / f"{uuid}.json")
        if there is None:
            if self._digest_of(uuid) != digest:
                self.backend.destroy(Kind.IMAGE, uuid)
            return None
        if there.tree_digest != digest:
            raise ImageError(
                f"another image of the uuid {uuid} is in the store, from {there.label}",
                hint=f"`buildstep image delete {uuid}` removes that one",
            )
        self.check(there)
        there = replace(there, aliases=tuple(dict.fromkeys((*there.aliases, key))))
        write_json(self.folder / f"{uuid}.json", there.to_json())
        return there

    def _digest_of(self, uuid: str) -> str:
        """Of an image's tree as it is now; empty where its disk cannot hold all that makes the digest."""
        if not self.backend.privileged or in_user_namespace():
            return ""
        with self.backend.tree(Kind.IMAGE, uuid) as tree:
            entries = scan(tree)
            hash_entries(tree, entries.values())
        spread_digests(entries)
        return tree_digest(entries)

    # -- checking -------------------------------------------------------------------------------------

    def check(self, record: ImageRecord) -> None:
        """Cheap when nothing touched the tree since it was last proved; a full `verify` otherwise."""
        with self.backend.tree(Kind.IMAGE, record.uuid) as tree:
            now = fingerprint_of(tree)
        with contextlib.suppress(OSError):
            (self.folder / f"{record.uuid}.used").touch()
        if now == record.fingerprint:
            return
        self._bus.note(
            f"image {record.uuid} was touched since it was imported; hashing it again", level="warning"
        )
        self.verify(record)
        write_json(self.folder / f"{record.uuid}.json", replace(record, fingerprint=now).to_json())

    def verify(self, record: ImageRecord) -> None:
        """Read every file of an image and compare with its record. Raises ImageError naming what differs."""
        known = self.entries(record)
        with self.backend.tree(Kind.IMAGE, record.uuid) as tree:
            real = scan(tree)
            hash_entries(tree, real.values())
        spread_digests(real)
        if not self.backend.privileged or in_user_namespace():
            for path, entry in known.items():
                if path not in real and entry.kind in "cb":
                    real[path] = entry
                elif path in real and not self.backend.privileged:
                    there = real[path]
                    there.uid, there.gid, there.mode, there.xattrs = (
                        entry.uid,
                        entry.gid,
                        entry.mode,
                        entry.xattrs,
                    )
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

    # -- removing ---------------------------------------------------------------------------------------

    def delete(self, record: ImageRecord) -> None:
        """Remove an image. Raises ImageError while an image, a layer or a build stands on it."""
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
            with self.locked(record.uuid):
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


def _key_of(uuid: str) -> str:
    return f"image:{uuid}"
