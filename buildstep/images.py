"""The image store of a pool: base images by uuid and by content, imported once, verified, locked.

state/images/UUID.json      the record, written last: an image without one does not exist
state/images/UUID.list      its file list, with the true owners and times
state/blobs/DIGEST          its tree as a compressed layer, made when an OCI image first needs it
state/locks/image-KEY.lock  held while the image of that key is imported
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from buildstep.errors import ImageError
from buildstep.events import Bus
from buildstep.filelist import FileList, dumps, hash_entries, loads, scan, spread_digests, tree_digest, walk
from buildstep.fsutil import atomic_write, lock, read_json, remove_tree, sha256_file, write_json
from buildstep.interfaces import Backend, Identity, Kind, Package, SourceContext
from buildstep.journal import Journal
from buildstep.sources import parse
from buildstep.unpack import unpack

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """A base image in the store. fingerprint: digest over names, sizes, ctimes and inodes of its tree."""

    uuid: str
    key: str
    label: str
    tree_digest: str
    fingerprint: str
    manifest: Mapping[str, Any]
    inputs: Mapping[str, str]
    packages: tuple[Package, ...]
    config: Mapping[str, Any]
    imported: float
    files: int
    size: int
    origin: str = ""
    blobs: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return str(self.manifest.get("name", self.label))

    @property
    def version(self) -> str:
        return str(self.manifest.get("version", ""))

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ImageRecord:
        """Raises ImageError for a record of another format, TypeError or KeyError for a damaged one."""
        if value.get("format") != FORMAT:
            raise ImageError(f"image record of format {value.get('format')!r}; this version reads {FORMAT}")
        fields = {key: value[key] for key in value if key != "format"}
        fields["packages"] = tuple(Package(**row) for row in fields["packages"])
        fields["blobs"] = tuple(fields["blobs"])
        return cls(**fields)


class ImageStore:
    """Base images in a pool's datasets, with records in its state directory."""

    def __init__(self, backend: Backend, *, bus: Bus, environ: Mapping[str, str]) -> None:
        self.backend = backend
        self._bus = bus
        self._environ = environ
        self._folder = backend.state / "images"
        self._hashes = FileHashes(backend.state / "filehash.json")

    # -- looking up -------------------------------------------------------------------------------

    def records(self) -> list[ImageRecord]:
        """Every image there is, oldest first. A damaged record is named and left out."""
        found = []
        for path in self._folder.glob("*.json"):
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

    def identify(self, ref: str) -> Identity | None:
        """What a locator stands for; None for a uuid or name@version, which only the store can tell."""
        parsed = parse(ref)
        return parsed[0].identify(parsed[1], self._hashes.sha256) if parsed else None

    def find(self, ref: str) -> ImageRecord | None:
        """The newest image in the store that this reference means, or None."""
        identity = self.identify(ref)
        for record in reversed(self.records()):
            if identity is not None:
                if record.key == identity.key:
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

    def entries(self, record: ImageRecord) -> FileList:
        """The file list of an image, every file hashed."""
        return loads((self._folder / f"{record.uuid}.list").read_bytes())

    # -- importing ----------------------------------------------------------------------------------

    def ensure(self, ref: str, journal: Journal) -> tuple[ImageRecord, bool]:
        """The image of a reference, imported if it is not there yet; the second value: it was there.

        What is there is verified first: a tree that was touched is hashed again, and refused if it differs.
        """
        identity = self.identify(ref)
        if identity is None:
            record = self.get(ref)
            self.check(record)
            return record, True
        with self._lock(identity.key):
            found = self.find(ref)
            if found is not None:
                self.check(found)
                return found, True
            return self._fetch(ref, identity, journal), False

    def _lock(self, key: str) -> contextlib.AbstractContextManager[int]:
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return lock(self.backend.state / "locks" / f"image-{name}.lock")

    def _fetch(self, ref: str, identity: Identity, journal: Journal) -> ImageRecord:
        parsed = parse(ref)
        assert parsed is not None
        source, locator = parsed
        ident = journal.dataset(f"{journal.ident}-import")
        dataset = self.backend.create(ident)
        try:
            cache = journal.folder(self.backend.state / "work" / ident)
            privileged = self.backend.privileged
            fetched = source.fetch(
                locator,
                dataset.path,
                SourceContext(
                    cache=cache,
                    privileged=privileged,
                    bus=self._bus,
                    environ=self._environ,
                    unpack=lambda stream, into: unpack(stream, into, privileged=privileged),
                ),
            )
            entries = scan(dataset.path) if fetched.entries is None else fetched.entries
            hash_entries(dataset.path, entries.values())
            spread_digests(entries)
            digest = tree_digest(entries)
            uuid = str(fetched.manifest.get("uuid") or uuid_of(f"{identity.key}\n{digest}"))
            if self.backend.exists(Kind.IMAGE, uuid):
                self.backend.destroy(Kind.IMAGE, uuid)  # an import that died before its record
            self.backend.snapshot(dataset, Kind.IMAGE, uuid)
        except BaseException:
            self.backend.destroy(Kind.BUILD, ident)
            raise
        finally:
            remove_tree(self.backend.state / "work" / ident)
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._folder / f"{uuid}.list") as stream:
            stream.write(dumps(entries))
        with self.backend.tree(Kind.IMAGE, uuid) as tree:
            fingerprint = fingerprint_of(tree)
        record = ImageRecord(
            uuid=uuid,
            key=identity.key,
            label=identity.label,
            tree_digest=digest,
            fingerprint=fingerprint,
            manifest={**fetched.manifest, "uuid": uuid},
            inputs=dict(fetched.inputs),
            packages=fetched.packages,
            config=dict(fetched.config),
            imported=time.time(),
            files=len(entries),
            size=sum(entry.size for entry in entries.values() if entry.kind == "f" and not entry.first),
        )
        write_json(self._folder / f"{uuid}.json", record.to_json())
        return record

    # -- checking -------------------------------------------------------------------------------------

    def check(self, record: ImageRecord) -> None:
        """Cheap when nothing touched the tree since it was last proved; a full `verify` otherwise."""
        with self.backend.tree(Kind.IMAGE, record.uuid) as tree:
            now = fingerprint_of(tree)
        if now == record.fingerprint:
            return
        self._bus.note(
            f"image {record.uuid} was touched since it was imported; hashing it again", level="warning"
        )
        self.verify(record)
        write_json(self._folder / f"{record.uuid}.json", replace(record, fingerprint=now).to_json())

    def verify(self, record: ImageRecord) -> None:
        """Read every file of an image and compare with its record. Raises ImageError naming what differs."""
        known = self.entries(record)
        with self.backend.tree(Kind.IMAGE, record.uuid) as tree:
            real = scan(tree)
            hash_entries(tree, real.values())
        spread_digests(real)
        if not self.backend.privileged:
            for path, entry in known.items():
                if path not in real and entry.kind in "cb":
                    real[path] = entry
                elif path in real:
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

    def delete(self, record: ImageRecord) -> None:
        """Remove an image. Raises ImageError or DatasetError while something stands on it."""
        children = [other.uuid for other in self.records() if other.origin == record.uuid]
        if children:
            raise ImageError(
                f"image {record.uuid} is the origin of {', '.join(children)}", hint="delete those first"
            )
        with self._lock(record.key):
            self.backend.destroy(Kind.IMAGE, record.uuid)
            for suffix in ("json", "list"):
                (self._folder / f"{record.uuid}.{suffix}").unlink(missing_ok=True)


def uuid_of(text: str) -> str:
    """A uuid that says nothing but is the same for the same text (the form of a version 4 one)."""
    raw = bytearray(hashlib.sha256(text.encode()).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def fingerprint_of(tree: Path) -> str:
    """A digest that changes when anything in a tree is touched: ctimes cannot be set back."""
    rows = [
        b"%s\0%d %d %d %d" % (path, info.st_mode, info.st_size, info.st_ctime_ns, info.st_ino)
        for path, _, info in walk(os.fsencode(tree))
    ]
    return hashlib.sha256(b"\n".join(sorted(rows))).hexdigest()


class FileHashes:
    """SHA-256 of single large files (base archives), remembered by what lstat says of them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def sha256(self, path: Path) -> str:
        info = path.stat()
        key = f"{info.st_dev}:{info.st_ino}:{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}"
        try:
            known: dict[str, str] = read_json(self._path)
        except (OSError, ValueError):
            known = {}
        if key in known:
            return known[key]
        digest = sha256_file(path)
        # A file as young as this moment may still be written within the clock's grain: not remembered.
        if time.time_ns() - info.st_ctime_ns > 2_000_000_000:
            with contextlib.suppress(OSError):
                write_json(self._path, dict([*known.items(), (key, digest)][-200:]), durable=False)
        return digest


@contextlib.contextmanager
def shared_blob(
    state: Path, key: str, make: Callable[[Path], dict[str, Any]], journal: Journal
) -> Iterator[dict[str, Any]]:
    """A layer file made once per key and kept in the pool; `make` writes it and tells its digests."""
    folder = state / "blobs"
    name = hashlib.sha256(key.encode()).hexdigest()
    index = folder / f"{name}.json"
    with lock(state / "locks" / f"blob-{name[:32]}.lock"):
        try:
            found: dict[str, Any] = read_json(index)
            ready = (folder / found["file"]).stat().st_size == found["size"]
        except (OSError, ValueError, KeyError, TypeError):
            ready = False
        if not ready:
            folder.mkdir(parents=True, exist_ok=True)
            journal.outputs(folder / name)
            found = make(folder / name)
            found = {**found, "file": name}
            with atomic_write(index) as stream:
                stream.write(json.dumps(found).encode())
    yield {**found, "path": folder / name}
