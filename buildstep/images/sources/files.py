"""files:REF or files:STORE#REF. A tree that was recorded in a store: by a build, or by `buildstep files put`.

STORE is the URL of a store, by default the one that --store, BUILDSTEP_STORE or buildstep.toml names. REF is
a ref, or the digest of a list, which always means the same tree.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from buildstep.errors import ImageError, StoreError, UsageError
from buildstep.events import Bus
from buildstep.files import layout, open_storage, refs
from buildstep.files.checkout import Options, checkout
from buildstep.files.content import ContentStore
from buildstep.files.interface import Unlistable
from buildstep.files.places import cache_folder, default_store
from buildstep.images.interface import Identity, SourceContext, SourceImage
from buildstep.net.request import HttpOptions
from buildstep.spec import imgmanifest
from buildstep.tree.entry import FileList
from buildstep.tree.scan import plain_mode


class _Found(NamedTuple):
    """A list that a locator means. ref: None where it is named by its digest."""

    store: ContentStore
    digest: str
    ref: refs.Ref | None


class Files:
    """environ: names the store that a locator does not, and has credentials and proxies."""

    scheme: ClassVar[str] = "files"

    def __init__(
        self, environ: Mapping[str, str] = os.environ, limits: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._environ = environ
        self._options = HttpOptions.of(environ, **limits)

    def identify(self, locator: str, hasher: Callable[[Path], str]) -> Identity:
        """One ref is read: the digest of the list decides everything."""
        del hasher
        found = self._find(locator, Bus())
        return Identity(key=f"files:sha256:{found.digest}", label=f"files:{locator.rpartition('#')[2]}")

    def fetch(self, locator: str, into: Path, context: SourceContext) -> SourceImage:
        found = self._find(locator, context.bus)
        try:
            entries = found.store.get_list(found.digest)
            made = entries if context.privileged else _as_user(entries)
            checkout(found.store, made, into, Options(update=True))
        except StoreError as error:
            raise _image_error(error) from error
        return SourceImage(
            manifest=_manifest(found),
            inputs={
                "reference": f"files:{locator}",
                "store": found.store.storage.url,
                "list": found.digest,
            },
            entries=entries,
            config=_config(found),
        )

    def _find(self, locator: str, bus: Bus) -> _Found:
        url, _, name = locator.rpartition("#")
        url = url or self._environ.get("BUILDSTEP_STORE", "") or default_store(self._environ)
        try:
            storage = open_storage(url, environ=self._environ, bus=bus, http=self._options)
            store = ContentStore(storage, bus=bus, kept=cache_folder(self._environ))
            if layout.is_digest(name):
                if storage.exists([layout.list_name(name)]):
                    return _Found(store, name, None)
                raise ImageError(f"{storage.url} has no list {name}", hint="is it the digest of a tree?")
            ref = refs.read(storage, name)
            if ref is None or not ref.list:
                raise ImageError(f"{storage.url} has no ref {name!r}", hint=_near(store, name))
            return _Found(store, ref.list, ref)
        except (StoreError, UsageError) as error:
            raise _image_error(error) from error


def _image_error(error: StoreError | UsageError) -> ImageError:
    return ImageError(error.message, detail=error.detail, hint=error.hint, retryable=error.retryable)


def _near(store: ContentStore, name: str) -> str:
    """Return what was probably meant by a ref that is not there."""
    try:
        names = [layout.ref_of(item.name) for item in store.storage.list(layout.REFS)]
    except Unlistable:
        names = []
    if near := difflib.get_close_matches(name, names, 1):
        return f"did you mean {near[0]}?"
    return "`buildstep files list` shows what there is; files:STORE#REF names another store"


def _as_user(entries: FileList) -> FileList:
    """Return what of a list a user without root has on the disk, who must be able to read and change it; the
    true list is kept beside it."""
    uid, gid = os.geteuid(), os.getegid()
    return {
        path: replace(
            entry,
            mode=entry.mode if entry.kind == "l" else plain_mode(entry),
            xattrs=tuple(pair for pair in entry.xattrs if pair[0].startswith(b"user.")),
            uid=uid,
            gid=gid,
        )
        for path, entry in entries.items()
        if entry.kind not in "cb"
    }


def _manifest(found: _Found) -> dict[str, Any]:
    """Return what is known of the image. What a build noted is checked: anybody may have written the ref."""
    if found.ref is None:
        return {"name": "files", "version": found.digest[:12]}
    name, _, version = found.ref.name.rpartition("/")
    own = {"name": name or version, "version": version if name else "0"}
    noted = found.ref.notes.get("manifest")
    if not isinstance(noted, Mapping):
        return own
    known = {key: value for key, value in noted.items() if key not in ("uuid", "origin", "files")}
    return own if imgmanifest.validate_user(own | known) else own | known


def _config(found: _Found) -> Mapping[str, Any]:
    config = found.ref.notes.get("config") if found.ref is not None else None
    return config if isinstance(config, Mapping) and isinstance(config.get("config"), Mapping) else {}
