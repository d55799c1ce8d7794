"""What would change in an image if it were built now: its base, and its packages.

Nothing of the image is changed: its package manager is asked in a clone, or in its files unpacked for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from buildstep.build.outdated_subject import Subject
from buildstep.errors import (
    BuildstepError,
    CommandFailed,
    ImageError,
    InstallError,
    SandboxError,
    ToolMissing,
)
from buildstep.formats.oci.config import sound_config
from buildstep.images.freshness import RELEASE, day_of
from buildstep.images.importing import Importer
from buildstep.images.locks import ImageLocks
from buildstep.images.record import root_in
from buildstep.images.store import ImageStore
from buildstep.pool.interface import Kind
from buildstep.pool.journal import Journal
from buildstep.rootfs import installers
from buildstep.rootfs.interface import ListsUpdates, Update
from buildstep.rootfs.packaging import Host, prepare_packaging
from buildstep.spec.load import BuildSpec
from buildstep.system.root import Root

State = Literal["same", "changed", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """Whether a base is what its source has. was, now: digests or versions, as far as they are known."""

    ref: str
    state: State
    text: str
    was: str = ""
    now: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outdated:
    """What would change. packages: None where they could not be asked for, and `why` says why not."""

    subject: Subject
    base: Base | None
    packages: tuple[Update, ...] | None
    why: str = ""

    @property
    def security(self) -> tuple[Update, ...]:
        return tuple(update for update in self.packages or () if update.security)

    @property
    def unknown(self) -> bool:
        """Whether something could not be asked."""
        return self.packages is None or (self.base is not None and self.base.state == "unknown")

    @property
    def count(self) -> int:
        """How much would change: packages, and the base as one."""
        changed = self.base is not None and self.base.state == "changed"
        return len(self.packages or ()) + int(changed)

    def to_json(self) -> dict[str, Any]:
        """Return the object that --json prints."""
        made = self.subject.made
        return {
            "name": self.subject.name,
            "version": self.subject.version,
            "made": made.isoformat(timespec="seconds") if made else None,
            "base": asdict(self.base) if self.base else None,
            "packages": None if self.packages is None else [asdict(update) for update in self.packages],
            "why": self.why,
            "count": self.count,
            "security": len(self.security),
            "unknown": self.unknown,
        }


def outdated(subject: Subject, store: ImageStore, journal: Journal, spec: BuildSpec) -> Outdated:
    """Ask where an image comes from, and its package manager. spec: with the settings of these.

    What cannot be asked is told in the result. Raises ImageError where the image cannot be unpacked.
    """
    if not subject.ref and subject.image is None:
        return Outdated(subject=subject, base=base_of(subject, store, None), packages=None, why=subject.why)
    with _tree(subject, store, journal) as (told, root, digest):
        base = base_of(told, store, root)
        try:
            return Outdated(subject=subject, base=base, packages=tuple(_updates(root, digest, store, spec)))
        except (InstallError, SandboxError, CommandFailed, ToolMissing) as error:
            said = [row for row in error.detail.splitlines() if row.startswith("E: ")]
            why = "; ".join(filter(None, (error.message, *said[:1], error.hint)))
            return Outdated(subject=subject, base=base, packages=None, why=why)


@contextlib.contextmanager
def _tree(subject: Subject, store: ImageStore, journal: Journal) -> Iterator[tuple[Subject, Root, str]]:
    """Yield what is asked about, with what its files say of it; their root, where something may be changed;
    and the digest of the tree, empty for one that is not in the store."""
    backend, image = store.backend, subject.image
    if image is None:
        with Importer(store, journal).unpacked(subject.ref) as (path, fetched):
            known = dict(fetched.manifest)
            if subject.record is not None:
                known["type"] = subject.record.input("manifest").get("type")
            config = sound_config(fetched.config, lambda _name: None).get("config") or {}
            yield replace(subject, labels=config.get("Labels") or {}), root_in(path, known), ""
        return
    with ImageLocks(backend.state, store.bus.note).using(image.uuid):
        name = journal.dataset(f"{journal.ident}-1")
        clone = backend.clone(Kind.IMAGE, image.uuid, name)
        try:
            yield subject, root_in(Path(clone.path), image.manifest), image.tree_digest
        finally:
            backend.destroy(Kind.BUILD, name)


# -- packages ----------------------------------------------------------------------------------------------


def _updates(root: Root, digest: str, store: ImageStore, spec: BuildSpec) -> list[Update]:
    """Return what the package manager of a root would change. Raises InstallError where none can tell."""
    installer: object = installers.detect(root, note=store.bus.note)
    if installer is None:
        raise InstallError("the image has no package manager that we know")
    if not isinstance(installer, ListsUpdates):
        raise InstallError(f"the installer {getattr(installer, 'name', '')} cannot tell what is out of date")
    on = Host(state=store.backend.state, bus=store.bus, environ=store.environ, download=_no_download)
    # An index is kept for builds on an image of the store. Of any other tree nothing is kept: it would be a
    # new one each time, and what its package manager fetched is for no other image to believe.
    spec = spec if digest else replace(spec, cache=False)
    with prepare_packaging(spec, root, on, base=digest) as packages:
        packages.installer.refresh(packages.job, max_age=0.0)
        asked: object = packages.installer
        assert isinstance(asked, ListsUpdates)
        return asked.updates(packages.job)


def _no_download(url: str) -> bytes:
    raise InstallError(f"no package files are fetched here, such as {url}")


# -- the base ----------------------------------------------------------------------------------------------


def base_of(subject: Subject, store: ImageStore, root: Root | None) -> Base | None:
    """Ask the source of a base; None for an empty one, or where nobody knows what it was.

    root: of the image; by its sources it is asked whether a suite changed where the base itself is gone.
    """
    facts = subject.base
    label, key = str(facts.get("label", "")), str(facts.get("key", ""))
    if not label or label == "scratch":
        return None
    day = day_of(subject.made.timestamp()) if subject.made else ""
    try:
        if RELEASE in facts:
            was, now = str(facts[RELEASE]), _release(facts, store, root)
            return _compared(label, f"the Release file of {label}", was, now, day)
        if key.startswith("image:"):
            return _of_repository(facts, store, day)
        if key.startswith("mmdebstrap:"):
            raise ImageError("it is not known which Release file it was made from: an older version made it")
        if "@" in label.partition("//")[2]:
            text = f"{label} is named by its digest, and never another one"
            return Base(ref=label, state="same", text=text, was=key, now=key)
        ref = _ref(label, facts)
        kind, *rest = key.split(":")
        if kind == "docker" and len(rest) == 3:  # docker:sha256:DIGEST:PLATFORM
            store.for_platform(rest[2])
        parsed = store.source(ref)
        if parsed is None:
            raise ImageError(f"nobody knows where {label} is from")
        found = parsed[0].identify(parsed[1], store.hashes.sha256)
        # What an image says of itself does not have the platform.
        now = found.key if kind != "docker" or len(rest) == 3 else found.key.rpartition(":")[0]
        return _compared(label, f"the tag {label}" if kind == "docker" else label, key, now, day)
    except (BuildstepError, OSError) as error:
        return Base(ref=label, state="unknown", text=f"{label} cannot be asked: {error}")


def _compared(ref: str, what: str, was: str, now: str, day: str) -> Base:
    since = f" since {day}" if day else ""
    if was == now:
        return Base(ref=ref, state="same", text=f"{what} is the same", was=was, now=now)
    return Base(ref=ref, state="changed", text=f"{what} changed{since}: a new base", was=was, now=now)


def _release(facts: Mapping[str, Any], store: ImageStore, root: Root | None) -> str:
    """Return the digests of the Release files that a base made of a suite would have now."""
    base = store.load(str(facts.get("uuid", "")))
    if base is not None and store.backend.exists(Kind.IMAGE, base.uuid):
        with store.locks.using(base.uuid), store.backend.tree(Kind.IMAGE, base.uuid) as tree:
            return store.freshness.release(root_in(tree, base.manifest))
    if root is None:
        raise ImageError("its sources are not known: the base image is not in this pool")
    return store.freshness.release(root)


def _ref(label: str, facts: Mapping[str, Any]) -> str:
    """Return the reference of a base; of a file its label has no more than the name."""
    scheme = label.partition(":")[0]
    if place := facts.get("reference"):
        return str(place)
    if place := facts.get("file") or facts.get("layout"):
        tag, manifest = facts.get("tag"), facts.get("manifest")
        return f"{scheme}:{place}" + (f":{tag}" if tag else f",{manifest}" if manifest else "")
    return label


def _of_repository(facts: Mapping[str, Any], store: ImageStore, day: str) -> Base:
    """Ask the repositories for the newest image of the base's name."""
    name, version = str(facts.get("name", "")), str(facts.get("version", ""))
    base = store.load(str(facts.get("uuid", "")))
    if not name and base is not None:
        name, version = base.name, base.version
    ref = f"{name}@{version}"
    if not store.config.sources:
        raise ImageError("no repository is configured that has newer ones")
    uuid = str(facts.get("uuid", ""))
    rows = [row for _, row in store.remote.images(channel="", filters={"name": name})]
    if not rows:
        raise ImageError(f"no repository has an image {name}")
    newest = max(rows, key=_published)
    # It may be in none of them any more, or in one that was not asked.
    ours = next((row for row in rows if row.get("uuid") == uuid), base.manifest if base is not None else {})
    if newest.get("uuid") == uuid or _published(newest) <= _published(ours):
        return Base(ref=ref, state="same", text=f"{ref} is the newest", was=uuid, now=uuid)
    since = f" since {day}" if day else ""
    text = f"{name}@{newest.get('version')} is newer than {ref}{since}"
    return Base(ref=ref, state="changed", text=text, was=uuid, now=str(newest.get("uuid", "")))


def _published(manifest: Mapping[str, Any]) -> str:
    """Return when an image was published; as text it is in order."""
    return str(manifest.get("published_at") or "")
