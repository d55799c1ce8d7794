"""Import base images into a store: from a source, from repositories, or from a file and its manifest."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, cast

from buildstep.cache import base_layers
from buildstep.errors import BuildstepError, EmitError, ImageError
from buildstep.images import shared_base
from buildstep.images.file_kind import kind_of, kind_of_start
from buildstep.images.freshness import RELEASE
from buildstep.images.interface import Identity, SourceContext, SourceImage
from buildstep.images.locked import LockedImage
from buildstep.images.record import ImageRecord, key_of, root_in
from buildstep.images.resolve import Fetched, Incoming
from buildstep.images.sources import parse, zfs_file
from buildstep.images.store import ImageStore
from buildstep.images.usable import refuse_unusable
from buildstep.images.working_dataset import working_dataset
from buildstep.net.errors import HttpError
from buildstep.pool.interface import Dataset, Kind
from buildstep.pool.journal import Journal
from buildstep.rootfs import installers
from buildstep.rootfs.installers.package_database import packages_in
from buildstep.spec.imgmanifest import uuid_of
from buildstep.system.digest import HashingReader
from buildstep.system.remove import remove_tree
from buildstep.tree.entry import FileList, tree_digest
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.scan import scan

Put = Callable[[str, SourceContext], tuple[Dataset, SourceImage]]
"""Makes a working dataset of this name that holds an image's tree."""

_PEEK = 256 << 10
"""Bytes of a file, compressed, by which its kind is detected while it is still being downloaded."""


class Importer:
    """Imports of one command. What is already in the store is verified instead: a tree that was touched is
    hashed again, and imported again if it differs. Every method raises ImageError.

    uses: keeps every image that is returned from being removed, as long as it is open. An image is locked so
    before it is verified: what was verified is what is used.
    """

    def __init__(self, store: ImageStore, journal: Journal, uses: contextlib.ExitStack | None = None) -> None:
        self._store, self._journal, self._uses = store, journal, uses
        self._backend, self._count = store.backend, 0

    def ensure(self, ref: str, *, thorough: bool = False) -> tuple[ImageRecord, bool]:
        """Return the image of a reference, imported if it is missing or damaged, and whether it was there.

        thorough: read all of one that is there, also where nothing touched it.
        """
        locked = self._store.locked.get(ref)
        if locked is None:
            return self._ensure(ref, thorough=thorough)
        with locked.explained():
            record, present = self._ensure(ref, thorough=thorough)
            locked.check(record.tree_digest)
            return record, present

    def _ensure(self, ref: str, *, thorough: bool) -> tuple[ImageRecord, bool]:
        store = self._store
        identity = store.identify(ref)
        if identity is None:
            found = self.there(ref, thorough=thorough)
            return self._fetch_chain(ref) if found is None else (found, True)
        with store.locks.of_key(identity.key):
            found = self.there(ref, thorough=thorough)
            if found is not None:
                return found, True
            made = self._from_source(ref, identity)
            store.tags.imported(identity.key)
            return made, False

    def there(self, ref: str, *, thorough: bool = False, listed: bool = True) -> ImageRecord | None:
        """Return the image of the store that a reference means, locked and then checked.

        None if it is missing or damaged. listed: its list has to be good as well.
        """
        found = self._store.find(ref)
        if found is None:
            return None
        with contextlib.ExitStack() as use:
            use.enter_context(self._store.locks.using(found.uuid))
            # Whoever had it locked before may have removed it.
            here = self._store.load(found.uuid)
            if here is None or not self._backend.exists(Kind.IMAGE, here.uuid):
                return None
            sound = self._store.sound(here, thorough=thorough, listed=listed)
            if sound is not None and self._uses is not None:
                self._uses.push(use.pop_all())
            return sound

    def import_file(self, path: Path, manifest_path: Path) -> tuple[ImageRecord, bool]:
        """Return the image of a file, under its manifest's uuid, and whether it was there."""
        from buildstep.net.imgapi import expected_file

        manifest = zfs_file.read_manifest(manifest_path)
        uuid = str(manifest["uuid"])
        with self._store.locks.of_key(key_of(uuid)):
            found = self.there(uuid)
            if found is not None:
                return found, True
            expected = expected_file(manifest)
            put = self._put_file(path, manifest, {"file": os.fspath(path.absolute()), "sha1": expected.sha1})
            return self._install(put, key=key_of(uuid), label=path.name), False

    # -- where images come from ---------------------------------------------------------------------

    def _from_source(self, ref: str, identity: Identity) -> ImageRecord:
        put, locked = self._put_from(ref, identity), self._store.locked.get(ref)
        return self._install(put, key=identity.key, label=identity.label, locked=locked)

    @contextlib.contextmanager
    def unpacked(self, ref: str) -> Iterator[tuple[Path, SourceImage]]:
        """Unpack what a locator names for the length of a block: where it is, and what it is.

        It does not come into the store; only what it is based on does.
        """
        identity = self._store.identify(ref)
        assert identity is not None, "it is a locator"
        name = f"unpacked {identity.key}"  # what it downloads is not where an import has that
        ident, working = self._working(name)
        with self._store.locks.of_key(name), working as context:
            dataset, fetched = self._put_from(ref, identity)(ident, context)
            remove_tree(context.downloads)
            yield dataset.path, fetched
            self._backend.destroy(Kind.BUILD, ident)

    def _put_from(self, ref: str, identity: Identity) -> Put:
        """Return how what a locator names becomes a dataset."""
        parsed = self._store.source(ref)
        assert parsed is not None
        source, locator = parsed
        locked = self._store.locked.get(ref)
        if locked is not None:
            locked.check_source(source.identify(locator, self._store.hashes.sha256))
        if isinstance(source, zfs_file.ZfsFile):
            path, manifest = zfs_file.split(locator)
            self._ensure_origin(path, zfs_file.read_manifest(manifest))

        def put(ident: str, context: SourceContext) -> tuple[Dataset, SourceImage]:
            if (taken := shared_base.dataset(self._store, ref, ident, context)) is not None:
                return taken
            if isinstance(source, zfs_file.ZfsFile):
                dataset, fetched = source.receive(locator, self._backend, ident)
            else:
                dataset = self._backend.create(ident)
                fetched = source.fetch(locator, dataset.path, context)
            # A file's key is what was in it before it was unpacked.
            now = source.identify(locator, self._store.hashes.sha256) if locked else self._store.identify(ref)
            if now is None or now.key != identity.key:
                raise ImageError(
                    f"{locator} changed while it was imported", hint="build again", retryable=True
                )
            return dataset, fetched

        return put

    def _ensure_origin(self, path: Path, manifest: Mapping[str, Any]) -> None:
        if not zfs_file.can_receive(self._backend):
            raise zfs_file.refused(path)
        if origin := manifest.get("origin"):
            self.ensure(str(origin))

    def _fetch_chain(self, ref: str) -> tuple[ImageRecord, bool]:
        """Fetch an image and the origins it is based on from the repositories."""
        from buildstep.net.http import translated

        store = self._store
        chain = store.resolve(ref)
        top = chain[-1].uuid
        with contextlib.ExitStack() as locks:
            # The image first, then up its ancestry: whoever wants two of these takes them in one order.
            for image in reversed(chain):
                locks.enter_context(store.locks.of_key(key_of(image.uuid)))
            found = self.there(top)
            if found is not None:  # another process was faster
                return found, True
            missing = [image for image in chain if not store.has(image.uuid)]
            downloads = self._backend.state / "downloads"
            with translated(ImageError):
                store.remote.fetch(missing, downloads, follow=self._from_download, install=self._from_fetched)
        return store.get(top), False

    def _from_download(self, incoming: Incoming) -> bool:
        """Unpack an archive while it is downloaded; False when its file has to be complete first.

        It becomes an image only when its file is complete and verified.
        """
        manifest = incoming.manifest
        try:
            kind = kind_of_start(incoming.peek(_PEEK))
        except HttpError:
            return False
        if kind is not None:
            refuse_unusable(self._backend, kind, incoming.target, manifest)
        if kind != "tar":
            return False

        def put(ident: str, context: SourceContext) -> tuple[Dataset, SourceImage]:
            dataset = self._backend.create(ident)
            entries = context.unpack(cast(IO[bytes], incoming), dataset.path)
            fetched = incoming.verify()
            return dataset, SourceImage(manifest=manifest, inputs=fetched.inputs, entries=entries)

        try:
            self._install(put, key=key_of(manifest["uuid"]))
        except HttpError:  # another repository may have it, or what we read was not right in the end
            return False
        except ImageError:
            try:
                incoming.verify()
            except HttpError:
                return False
            raise
        return True

    def _from_fetched(self, fetched: Fetched) -> None:
        manifest = fetched.manifest
        put = self._put_file(fetched.file.path, manifest, fetched.inputs, verified=True)
        self._install(put, key=key_of(manifest["uuid"]))

    def _put_file(
        self, path: Path, manifest: Mapping[str, Any], inputs: Mapping[str, str], *, verified: bool = False
    ) -> Put:
        """Return how an image file becomes a dataset. verified: whether its digests were checked already."""
        from buildstep.net.imgapi import expected_file

        kind = kind_of(path)
        refuse_unusable(self._backend, kind, path, manifest)
        if kind == "zfs" and not verified:
            self._ensure_origin(path, manifest)

        def put(ident: str, context: SourceContext) -> tuple[Dataset, SourceImage]:
            if kind == "zfs":  # verifies the file itself
                dataset = zfs_file.receive_image(self._backend, ident, path, manifest)
                return dataset, SourceImage(manifest=manifest, inputs=inputs)
            dataset = self._backend.create(ident)
            with path.open("rb") as file:
                reader = HashingReader(file)
                if kind == "tar":
                    entries = context.unpack(cast(IO[bytes], reader), dataset.path)
                    image = SourceImage(manifest=manifest, inputs=inputs, entries=entries)
                else:
                    container = parse(f"{kind}:{path}", environ=context.environ)
                    assert container is not None
                    found = container[0].fetch(container[1], dataset.path, context)
                    image = replace(found, manifest=manifest, inputs=inputs)
                wrong = [] if verified else expected_file(manifest).mismatches(reader.finish())
            if wrong:
                raise ImageError(
                    f"{path} is not the file of its manifest", detail="\n".join(wrong), hint="fetch it again"
                )
            return dataset, image

        return put

    # -- making the image ---------------------------------------------------------------------------

    def _install(
        self, put: Put, *, key: str, label: str = "", locked: LockedImage | None = None
    ) -> ImageRecord:
        """Make an image of what `put` puts into a dataset. The key is locked.

        label: what it is called in messages; by default the repository that it came from. locked: what it
        has to be.
        """
        ident, working = self._working(key)
        with working as context:
            dataset, fetched = put(ident, replace(context, locked=locked))
            record = self._record(dataset, fetched, key, label, locked)
            remove_tree(context.downloads)  # the store has all of it now
            return record

    def _working(self, key: str) -> tuple[str, contextlib.AbstractContextManager[SourceContext]]:
        """Return the name of a working dataset, and what is to be entered while an image is put into it."""
        self._count += 1
        ident = f"{self._journal.ident}-import{self._count}"
        return ident, working_dataset(self._store, self._journal, ident, key)

    def _record(
        self, dataset: Dataset, fetched: SourceImage, key: str, label: str, locked: LockedImage | None
    ) -> ImageRecord:
        """Give a dataset its final name and its record, unless the same image is there already. Raises
        LockError where the tree is another than it has to be."""
        backend = self._backend
        try:
            entries = scan(dataset.path) if fetched.entries is None else fetched.entries
        except EmitError as error:
            raise ImageError(
                f"the image cannot be used: {error.message}", hint="make it again without"
            ) from error
        hash_entries(dataset.path, entries.values())
        spread_digests(entries)
        digest = tree_digest(entries)
        if locked is not None:
            locked.check(digest)
        root = root_in(dataset.path, fetched.manifest)
        installer = installers.detect_ours(root)
        packages = fetched.packages or packages_in(root)
        uuid = str(fetched.manifest.get("uuid") or uuid_of(f"{key}\n{digest}"))
        with contextlib.nullcontext() if key == key_of(uuid) else self._store.locks.of_key(key_of(uuid)):
            same = self._same_image(uuid, digest, key)
            new = same is None and not backend.exists(Kind.IMAGE, uuid)
            if new:
                backend.snapshot(dataset, Kind.IMAGE, uuid)
            else:
                backend.destroy(Kind.BUILD, dataset.ident)
            if same is not None:
                return self._used(self._renewed(same, fetched))
            for file in fetched.layers:
                base_layers.keep(backend.state, file.layer, file.place, own=file.own)
            record = ImageRecord(
                uuid=uuid,
                key=key,
                label=label or str(fetched.inputs.get("source", "")),
                tree_digest=digest,
                fingerprint="",
                manifest={**fetched.manifest, "uuid": uuid},
                inputs=dict(fetched.inputs),
                packages=packages,
                config=dict(fetched.config),
                imported=time.time(),
                files=len(entries),
                size=sum(entry.size for entry in entries.values() if entry.kind == "f" and not entry.first),
                origin=str(fetched.manifest.get("origin") or "") if zfs_file.can_receive(backend) else "",
                installer=installer.name if installer is not None else "",
                layers=tuple(file.layer for file in fetched.layers),
                made_of=fetched.made_of,
            )
            return self._used(self._add(record, entries, new=new))

    def _renewed(self, there: ImageRecord, fetched: SourceImage) -> ImageRecord:
        """Return the record of an image that was imported again and is the same, with what is new of it: the
        layers, where it was imported before they were kept, and what its source says now."""
        layers = there.layers
        if not layers or any(layer.brought is None for layer in layers):
            for file in fetched.layers:
                base_layers.keep(self._backend.state, file.layer, file.place, own=file.own)
            layers = tuple(file.layer for file in fetched.layers)
        release = fetched.inputs.get(RELEASE, "")
        if [asdict(layer) for layer in layers] == [asdict(layer) for layer in there.layers] and (
            there.inputs.get(RELEASE, ""),
            there.made_of,
        ) == (release, fetched.made_of):
            return there
        inputs = {**there.inputs, RELEASE: release} if release else there.inputs
        made_of = fetched.made_of or there.made_of
        return self._store.write(
            replace(there, layers=layers, inputs=inputs, imported=time.time(), made_of=made_of)
        )

    def _add(self, record: ImageRecord, entries: FileList, *, new: bool) -> ImageRecord:
        """Write an image's record. new: its dataset has just been made, and goes where that fails, such as at
        a full disk: nobody would find it."""
        try:
            return self._store.add(record, entries)
        except BaseException:
            if new:
                with contextlib.suppress(BuildstepError, OSError):
                    self._store.remove(record.uuid)
            raise

    def _used(self, record: ImageRecord) -> ImageRecord:
        """Lock an image whose uuid is locked for who wanted it, and return it."""
        if self._uses is not None:
            self._uses.enter_context(self._store.locks.using(record.uuid))
        return record

    def _same_image(self, uuid: str, digest: str, key: str) -> ImageRecord | None:
        """Return the image of this uuid if it is there with this content. Raises ImageError for another one.

        A tree that has lost its record or its list stays if it is the same: layers may be based on it. Else
        it goes, and the layers on it.
        """
        if not self._backend.exists(Kind.IMAGE, uuid):
            return None
        there = self._store.load(uuid)
        if there is not None and there.tree_digest == digest and self._store.sound(there) is None:
            there = None
        if there is None:
            if not self._store.has_digest(uuid, digest):
                self._store.make_room(uuid, digest)
            return None
        if there.tree_digest != digest:
            raise ImageError(
                f"another image of the uuid {uuid} is in the store, from {there.label}",
                hint=f"`buildstep image delete {uuid}` removes that one",
            )
        return self._store.add_alias(there, key)
