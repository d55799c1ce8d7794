"""Push assets: each archive is opened and checked first, by as many processes as there are cores, and sent
while the next ones are checked."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from buildstep.assets import names
from buildstep.assets.archive_check import STRICT, Checked, Policy, check_archive
from buildstep.assets.interface import AssetStore, AssetTaken, Details, NoStore
from buildstep.assets.names import Name
from buildstep.assets.taken import settle
from buildstep.errors import BuildstepError, ImageError, StoreError, UsageError
from buildstep.files.interface import Missing, Unlistable
from buildstep.files.parallel import parallel
from buildstep.report.progress import Advance, Begin, unseen
from buildstep.system import workers

if TYPE_CHECKING:
    from buildstep.trust.keys.interface import Signer

_FEW_SERVICES = 8
"""So many are listed one by one, more of them by one listing of the whole store."""
_FEW_ARCHIVES = 4
"""So many are checked in this process: a fork of it costs as much."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A tarball that is to become an asset."""

    name: Name
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How assets are pushed. replace: also where another one is there; signer: signs each; policy: what an
    archive may hold."""

    replace: bool = False
    signer: Signer | None = None
    policy: Policy = STRICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What became of an upload. stored: False if it was there already, the same. error: why it is not there;
    details: None where the archive itself is refused. skipped: not tried, as the store took none before."""

    upload: Upload
    details: Details | None = None
    stored: bool = False
    error: BuildstepError | None = None
    skipped: bool = False


def uploads_of(folder: Path, *, hyphens: bool = False) -> list[Upload]:
    """Return the assets of a directory, by the names of its files, sorted; other files are left out.

    Raises UsageError where there is none.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}") from error
    found = [
        Upload(name, path) for path in files if (name := names.parse(path.name, hyphens=hyphens)) is not None
    ]
    versions = {upload.name[:2]: upload.name.file for upload in found}
    for upload in found:
        if (other := versions[upload.name[:2]]) != upload.name.file:
            raise UsageError(
                f"{folder} has {upload.name.file} and {other}", hint="a version is there in one form only"
            )
    if not found:
        raise UsageError(f"{folder} has no assets", hint="files called SERVICE-VERSION.tar.gz or .tar.zst")
    return found


def push(
    store: AssetStore,
    uploads: Sequence[Upload],
    options: Options,
    begin: Begin = unseen,
) -> list[Pushed]:
    """Push assets, several at a time, and return what became of each, in their order.

    An error of one does not keep the others from being pushed, unless the store takes none at all.
    """
    sizes = [_size(upload.path) for upload in uploads]
    with begin(len(uploads), sum(sizes)) as advance:
        job = _Push(store, uploads, options, sizes, advance)
        job.run()
        store.finish()
    return job.results()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # whoever opens it says why


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes with a file's content; empty for a file that cannot be read."""
    try:
        info = path.stat()
    except OSError:
        return ()
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


class _Push:
    def __init__(
        self,
        store: AssetStore,
        uploads: Sequence[Upload],
        options: Options,
        sizes: Sequence[int],
        advance: Advance,
    ) -> None:
        self._stamps = [_stamp(upload.path) for upload in uploads]
        self._store = store
        self._uploads = uploads
        self._options = options
        self._sizes = sizes
        self._advance = advance
        self._there: set[Name] = set()
        self._done: dict[int, Pushed] = {}
        self._guard = threading.Lock()
        self._failures = 0
        self._successes = 0

    def results(self) -> list[Pushed]:
        return [self._done[index] for index in range(len(self._uploads))]

    def run(self) -> None:
        # The large ones first: a small one at the end keeps nobody waiting.
        order = sorted(range(len(self._uploads)), key=lambda index: -self._sizes[index])
        count = min(workers.cores(), len(order)) if len(order) > _FEW_ARCHIVES else 0
        if not count:
            self._send_all(self._checked(order))
            return
        shares = [order[first::count] for first in range(count)]
        with workers.running(shares, self._check_share) as found:
            self._send_all(found)

    # -- in other processes

    def _check_share(self, share: Sequence[int], send: workers.Send) -> None:
        for row in self._checked(share):
            send(row)

    def _checked(self, share: Iterable[int]) -> Iterator[tuple[int, Checked | BuildstepError]]:
        for index in share:
            upload = self._uploads[index]
            try:
                yield index, check_archive(upload.path, upload.name.form, self._options.policy)
            except BuildstepError as error:
                yield index, error
            except OSError as error:
                yield index, ImageError(f"cannot read {upload.path}: {error.strerror}")

    # -- here

    def _send_all(self, found: Iterator[tuple[int, Checked | BuildstepError]]) -> None:
        at_once = min(self._store.at_once, len(self._uploads))
        with ThreadPoolExecutor(at_once, thread_name_prefix="push") as pool:
            jobs: list[Future[None]] = []
            try:
                self._there, taken = self._look()
                for index, checked in found:
                    jobs.append(pool.submit(self._send, index, taken.get(index, checked)))
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._store.interrupt()
                raise

    def _look(self) -> tuple[set[Name], dict[int, BuildstepError]]:
        """Return which assets are there already, and the uploads whose version is there in another form."""
        services = {upload.name.service for upload in self._uploads}
        there: set[Name] = set()
        try:
            wanted = services if len(services) <= _FEW_SERVICES else {""}
            for names_there in parallel(self._listed, sorted(wanted), self._store.at_once):
                there |= names_there
        except Unlistable:
            return set(), {}
        taken: dict[int, BuildstepError] = {}
        for index, upload in enumerate(self._uploads):
            for form in names.FORMS:
                other = upload.name._replace(form=form)
                if form != upload.name.form and other in there and not self._options.replace:
                    taken[index] = AssetTaken(
                        f"{self._store.url} has this version as {other.file} already",
                        hint="a version is there in one form only; delete the other one first",
                    )
        return there, taken

    def _listed(self, service: str) -> set[Name]:
        try:
            return {asset.name for asset in self._store.list(service)}
        except NoStore:  # it is made by what is about to be pushed
            return set()

    def _send(self, index: int, checked: Checked | BuildstepError) -> None:
        upload = self._uploads[index]
        if isinstance(checked, BuildstepError):
            self._done[index] = Pushed(upload=upload, error=checked)
        elif self._is_useless():
            error = StoreError(
                f"{upload.name.file} was not tried: {self._store.url} has taken none of the others"
            )
            self._done[index] = Pushed(upload=upload, error=error, skipped=True)
        else:
            self._done[index] = self._put(upload, checked, self._stamps[index])
        self._advance(1, self._sizes[index])

    def _put(self, upload: Upload, checked: Checked, stamp: tuple[int, ...]) -> Pushed:
        details = Details(sha256=checked.sha256, size=checked.size)
        try:
            if self._options.signer is not None:
                from buildstep.assets.signatures import signed

                details = signed(upload.name, details, self._options.signer)
            if _stamp(upload.path) != stamp:
                raise ImageError(f"{upload.path} was changed meanwhile: nothing was stored")
            stored = self._put_or_settle(upload, details)
            if stored and _stamp(upload.path) != stamp:
                raise ImageError(
                    f"{upload.path} was changed while it was sent: what is stored may be damaged",
                    hint="push it again with --replace, when nobody writes to it any more",
                )
        except BuildstepError as error:
            with self._guard:
                self._failures += isinstance(error, StoreError) and not isinstance(error, AssetTaken)
            return Pushed(upload=upload, details=details, error=error)
        with self._guard:
            self._successes += 1
        return Pushed(upload=upload, details=details, stored=stored)

    def _put_or_settle(self, upload: Upload, details: Details) -> bool:
        name, replace = upload.name, self._options.replace
        if name in self._there and not replace:
            # It was in the listing: it need not be sent only to be refused.
            try:
                return settle(self._store, name, details, self._store.details(name))
            except Missing:
                pass
        stored = self._store.put(name, upload.path, details, replace=replace)
        if replace:
            self._delete_other_forms(name)
        return stored

    def _delete_other_forms(self, name: Name) -> None:
        for form in names.FORMS:
            other = name._replace(form=form)
            if other != name and other in self._there:
                self._store.delete(other)

    def _is_useless(self) -> bool:
        """Tell whether the store has taken nothing, and refused or failed often enough."""
        with self._guard:
            return not self._successes and self._failures >= self._store.at_once
