"""What the tags of registries stand for: asked once in a command, and remembered for as long as that is good.

state/images/DIGEST.tag     what was found when a tag was asked for last: a sealed record; DIGEST is of the
                            tag and the platform
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from buildstep.cache import records
from buildstep.errors import ImageError
from buildstep.events import Bus
from buildstep.images import vouched
from buildstep.images.freshness import Freshness, day_of
from buildstep.images.interface import Identity
from buildstep.images.record import ImageRecord, last_of
from buildstep.system.digest import sha256_bytes
from buildstep.system.private import private_dir

SUFFIX: Final = ".tag"
_FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """What is known of a tag. key, label: of the image that it was when it was asked last; asked: when that
    was, in seconds since the epoch; had: the key that it had when its image was in the store, and had_at:
    when it was last known to be that; empty where it never was."""

    ref: str
    key: str
    label: str
    asked: float
    had: str = ""
    had_at: float = 0.0


class Tags:
    """The tags of one command. folder: of the store's records; platform: what is wanted (linux/arm64)."""

    def __init__(self, folder: Path, platform: str, freshness: Freshness, bus: Bus) -> None:
        self._folder, self._platform, self._freshness, self._bus = folder, platform, freshness, bus
        self.known: dict[str, Identity] = {}
        """What references mean in this command: within one command one image each."""

    def identify(self, ref: str, ask: Callable[[], Identity], images: Sequence[ImageRecord]) -> Identity:
        """Return what a reference means. ask: asks its registry; images: all of the store.

        One that was asked for less than the largest age ago is not asked for again, as long as its image is
        here. Where the registry does not answer, the tag is what it was. Raises ImageError.
        """
        self.known[ref] = ask() if "@" in ref else self._of_tag(ref, ask, images)
        return self.known[ref]

    def _of_tag(self, ref: str, ask: Callable[[], Identity], images: Sequence[ImageRecord]) -> Identity:
        keys = {key: image for image in images for key in (image.key, *image.aliases)}
        note, largest, now = self._find(ref), self._freshness.max_age, time.time()
        if note and note.key in keys and largest is not None and 0 <= now - note.asked < largest:
            self._freshness.said[note.key] = f"the tag was asked for {(now - note.asked) / 60:.0f} min ago"
            return Identity(key=note.key, label=note.label)
        try:
            found = ask()
        except ImageError as error:
            here = keys.get(note.key) if note else None
            here = here or last_of(images, ref, self._platform)
            if here is None or not error.retryable:
                raise
            day = day_of(here.imported)
            text = f"{error.message}; using the image that {ref} was on {day}, {here.uuid}"
            self._bus.note(text, level="warning")
            return Identity(key=here.key, label=here.label)
        if said := _told(note, found, there=found.key in keys):
            self._freshness.said[found.key] = said
        had = (found.key, now) if found.key in keys else (note.had, note.had_at) if note else ("", 0.0)
        self._keep(Note(ref=ref, key=found.key, label=found.label, asked=now, had=had[0], had_at=had[1]))
        return found

    def imported(self, key: str) -> None:
        """Note that an image is in the store now, for the tags that were asked for in this command."""
        for ref, identity in self.known.items():
            note = self._find(ref) if identity.key == key else None
            if note is not None and note.key == key:
                self._keep(replace(note, had=key, had_at=note.asked))

    def forget(self, images: Sequence[ImageRecord]) -> None:
        """Remove what is known of tags of which no image is in the store, and of images that are not. images:
        all that is."""
        keys = {key for image in images for key in (image.key, *image.aliases)}
        vouched.forget(self._folder, keys)
        for path in self._folder.glob(f"*{SUFFIX}"):
            note = records.find(Note, path, _FORMAT)
            if note is None or keys.isdisjoint((note.key, note.had)):
                path.unlink(missing_ok=True)

    # -- the notes

    def _path(self, ref: str) -> Path:
        from buildstep.net.registry import Reference

        name = f"{Reference.parse(ref)} {self._platform}"
        return self._folder / f"{sha256_bytes(os.fsencode(name))[:32]}{SUFFIX}"

    def _find(self, ref: str) -> Note | None:
        return records.find(Note, self._path(ref), _FORMAT)

    def _keep(self, note: Note) -> None:
        with contextlib.suppress(OSError):  # it is asked for again then
            private_dir(self._folder)
            records.save(self._path(note.ref), note, _FORMAT)


def _told(note: Note | None, found: Identity, *, there: bool) -> str:
    """Say what the answer means. there: whether the image is in the store."""
    if note is None or not note.had:
        return ""
    if found.key == note.had:
        return f"the tag is the same as on {day_of(note.had_at)}"
    new = "the newer base is in the store" if there else "a new base"
    return f"the tag {found.label} changed since {day_of(note.had_at)}: {new}"
