"""What a rebuild takes from a shared cache in a directory: the base image, the layer with the packages."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from buildstep.build import shared_keys, shared_plan
from buildstep.build.make_lock import Room
from buildstep.cache.resolutions import KeptResolution
from buildstep.cache.shared import Shared
from buildstep.images import locked, shared_base
from buildstep.images.record import ImageRecord
from buildstep.spec.fields import BuildSpec
from buildstep.spec.lock import Lock
from buildstep.spec.shared_cache import SharedCache

if TYPE_CHECKING:
    from buildstep.cache.remote.interface import Record, Wanted

HERE = "dir:"
_PATIENCE = 60.0
"""Seconds that a look-up may take: there is nothing else that could be done instead."""


class Shelf:
    """The shared cache of a rebuild, and what of it the rebuild takes. Close it.

    used: how the build opens it, None where it cannot; why, why_base: why it does not have the layer
    with the packages, or the base, for messages; layer:
    the record of the layer with the packages; environ: variables by which the base is found in it.
    """

    def __init__(self, settings: SharedCache | None, room: Room) -> None:
        self.used: SharedCache | None = None
        self.why = "no shared cache is named (--shared-cache dir:PATH)"
        self.why_base = ""
        self.layer: Wanted | None = None
        self.environ: dict[str, str] = {}
        self._room = room
        self._shared: Shared | None = None
        self._base: Record | None = None
        if settings is None:
            return
        if not settings.url.startswith(HERE):
            self.why = f"not in the shared cache {settings.url}: it is reached over a network alone"
            return
        self.used = dataclasses.replace(settings, look_up=_PATIENCE, required=False, upload=False, key=None)
        self._shared = Shared(self.used, room.store.backend.state, room.environ, room.bus, keep=False)
        self.why = f"not in the shared cache {settings.url}"

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()

    def base(self, spec: BuildSpec) -> str:
        """Return where the base image of a spec with a lock is, empty where it is not in the cache."""
        shared, store = self._shared, self._room.store
        if shared is None or spec.lock is None:
            return ""
        locked.use(spec, store)
        wanted = None
        for mirror in _mirrors(spec.lock.base.sources, store.environ):
            environ = {**store.environ, "BUILDSTEP_APT_MIRROR": mirror}
            wanted = shared_base.wanted_by_tree(spec.lock.base.key, spec.lock.base.tree_digest, environ)
            self._base = shared.find([wanted]).get(wanted)
            if self._base is not None:
                self.environ = {"BUILDSTEP_APT_MIRROR": mirror} if mirror else {}
                return shared.settings.url
        assert wanted is not None
        self.why_base = self._said(
            shared, shared.why(wanted, "nobody has put it there, or another version of buildstep did")
        )
        return ""

    def packages(self, spec: BuildSpec, lock: Lock, stored: ImageRecord | None) -> str:
        """Return where the layer with the packages of a lock is, empty where it is not in the cache. stored:
        the base image of the pool."""
        shared = self._shared
        image = stored or (shared_keys.of_record(self._base) if self._base is not None else None)
        if shared is None:
            return ""
        if image is None:  # nobody knows on which of the layers' bases it was
            self.why = self.why_base
            return ""
        if reason := shared_keys.shareable(spec):
            self.why = self._said(shared, reason)
            return ""
        answer = KeptResolution(index="", versions=lock.versions(), exact=True, asked=time.time())
        slot = shared_keys.slot(spec, lock.base.key)
        for known in (None, lock):
            asked = shared_keys.question(dataclasses.replace(spec, lock=known), image, self._room.environ)
            if (found := shared_plan.layer_of(shared, asked, answer, slot)) is not None:
                self.layer = found.record.wanted
                return shared.settings.url
        self.why = self._said(shared, shared.missing.get("packages", ""))
        return ""

    def _said(self, shared: Shared, why: str) -> str:
        return f"not in the shared cache {shared.settings.url}: {shared.trouble or why}"


def _mirrors(sources: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the mirrors that a base may have been made from: the one of here, none, those of its sources."""
    found = [environ.get("BUILDSTEP_APT_MIRROR", ""), ""]
    for text in sources.values():
        found += [word for word in text.split() if "://" in word]
    yield from dict.fromkeys(found)
