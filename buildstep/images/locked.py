"""A base image as a lock has it: that one and no other, whatever its reference means by now."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildstep.errors import ImageError, LockError
from buildstep.images import sources
from buildstep.images.interface import Identity
from buildstep.images.record import ImageRecord
from buildstep.spec.load import BuildSpec
from buildstep.spec.lock import LockedBase

if TYPE_CHECKING:
    from buildstep.images.store import ImageStore

_AGAIN = "`buildstep lock` takes what there is now"


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedImage:
    """A base image that is wanted as it is locked. lock: the name of that file; date: when it was made;
    snapshot: a dated mirror for packages of a base that has to be made again, empty for none."""

    base: LockedBase
    lock: str
    date: str = ""
    snapshot: str = ""

    @property
    def by_content(self) -> bool:
        """Whether the key already says what is in it, as that of a file or of an image in a registry does."""
        return re.search("[0-9a-f]{64}", self.base.key) is not None

    @property
    def identity(self) -> Identity | None:
        """What a store looks up; None for an image that is known by its uuid alone."""
        if self.base.key.startswith("image:"):
            return None
        return Identity(key=self.base.key, label=self.base.label)

    @property
    def tree(self) -> str:
        """The digest that its tree has to have; empty where its key says it all."""
        return "" if self.by_content else self.base.tree_digest

    def fits(self, tree_digest: str) -> bool:
        """Say whether an image of its key is that one."""
        return not self.tree or tree_digest == self.tree

    def fitting(self, records: Sequence[ImageRecord]) -> list[ImageRecord]:
        """Return those of these records that may be that one."""
        return [record for record in records if self.fits(record.tree_digest)]

    def check(self, tree_digest: str) -> None:
        """Compare the tree of an image that was fetched or made again. Raises LockError for another one."""
        if not self.fits(tree_digest):
            error = self.other(f"its tree has the digest {tree_digest}", self.tree)
            if self.base.packages:
                error.hint = f"this host's tools may be others than those in the lock; {_AGAIN}"
            raise error

    def check_source(self, found: Identity) -> None:
        """Compare what a reference means by now with what is locked. Raises LockError."""
        if found.key != self.base.key:
            raise self.other(f"it is {found.key} by now", self.base.key)

    def other(self, now: str, wanted: str) -> LockError:
        """Return the error for a base image that is not the locked one any more."""
        return LockError(
            f"the base image of {self.lock} is gone: {self.base.label} is another one by now, and the locked"
            " one is not in the store",
            detail=f"  {now}\n  {wanted} is locked",
            hint=f"put the old one back; {_AGAIN}",
        )

    def foresee(self, ref: str, store: ImageStore) -> str:
        """Say where it would come from, as it is not in the store. Raises LockError where it is gone, and
        ToolMissing where it cannot be made here."""
        text = f"{ref}, as it is locked, is not in the store"
        with self.explained():
            source = store.source(ref)
            if self.identity is None or source is None:
                return f"{text}; {store.resolve(ref)[-1].repository.label} has it"
            self.check_source(source[0].identify(source[1], store.hashes.sha256))
            sources.foresee(ref, source)
        made = len(self.base.packages)
        return f"{text}; it is made again of {made} packages" if made else text

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the failure to have the image, where another try would give the same, into a LockError."""
        try:
            yield
        except ImageError as error:
            if error.retryable:
                raise
            base = self.base
            named = f"  {base.label}: key {base.key}, uuid {base.uuid}, tree {base.tree_digest}"
            lines = [named, "  looked for in the store and where it is from", error.detail]
            raise LockError(
                f"the base image of {self.lock} is gone: {error.message}",
                detail="\n".join(filter(None, lines)),
                hint=f"{error.hint}; {_AGAIN}" if error.hint else _AGAIN,
            ) from error


def use(spec: BuildSpec, store: ImageStore) -> None:
    """Let a store look for the base image of a spec: for its platform, asked for again when it is too old, or
    exactly what a lock says."""
    store.freshness.max_age = spec.base_max_age
    store.for_platform(spec.platform or "")
    if spec.lock is not None:
        name, snapshot = spec.lock.path.name, spec.installer_options.snapshot or ""
        store.locked[spec.base] = LockedImage(
            base=spec.lock.base, lock=name, date=spec.lock.date, snapshot=snapshot
        )
