"""Which list a person means: a ref, a digest, or a file."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

from buildstep.errors import StoreError, UsageError
from buildstep.files import layout, refs
from buildstep.files.content import ContentStore
from buildstep.files.refs import Ref
from buildstep.tree import entry
from buildstep.tree.entry import FileList

_SHORTEST = 6


@dataclass(frozen=True, kw_only=True)
class Found:
    """A list. name: as it was asked for; digest: of the stored list; data: its bytes (`tree.entry.dumps`);
    ref: that it was found by, if any."""

    name: str
    digest: str
    data: bytes = field(repr=False)
    ref: Ref | None = None

    @functools.cached_property
    def entries(self) -> FileList:
        """Its entries, parsed when first asked for. Raises StoreError for a list that is none."""
        return entry.loads(self.data)


def find(store: ContentStore, name: str) -> Found:
    """Return the list that a name means: a ref; a list digest or the tree digest of a ref, or six or more of
    their first digits; `file:PATH`, a list in a file.

    Raises UsageError where several are meant, NoRef, Missing, Damaged, StoreError.
    """
    if name.startswith("file:"):
        return _of_file(Path(name.removeprefix("file:")), name)
    if layout.is_digest(name) and store.storage.exists([layout.list_name(name)]):
        return Found(name=name, digest=name, data=store.read_list(name))
    if not layout.is_digest(name):
        ref = refs.read(store.storage, name)
        if ref is not None:
            return _of_ref(store, name, ref)
    return _of_digits(store, name)


def _of_file(path: Path, name: str) -> Found:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the list {path}: {error.strerror}") from error
    import hashlib

    return Found(name=name, digest=hashlib.sha256(data).hexdigest(), data=data)


def _of_ref(store: ContentStore, name: str, ref: Ref) -> Found:
    if not ref.list:
        raise StoreError(f"the ref {ref.name!r} of {store.storage.url} keeps contents, and no list")
    return Found(name=name, digest=ref.list, data=store.read_list(ref.list), ref=ref)


def _of_digits(store: ContentStore, name: str) -> Found:
    if len(name) < _SHORTEST or not set(name) <= set("0123456789abcdef"):
        refs.get(store.storage, name)  # says what is wrong
    found = {
        ref.list: ref
        for ref in refs.every(store.storage)
        if ref.list and (ref.list.startswith(name) or ref.tree.startswith(name))
    }
    if not found:
        raise refs.NoRef(
            f"{store.storage.url} has no ref and no list {name!r}",
            hint="`buildstep files list` shows what there is",
        )
    if len(found) > 1:
        names = ", ".join(sorted(ref.name for ref in found.values()))
        raise UsageError(f"{name!r} means several lists: {names}", hint="give more digits, or a ref")
    [ref] = found.values()
    return _of_ref(store, name, ref)
