"""An image opened to be used: one of the store, of a source, a file, or what a build record is about."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from buildstep.errors import BuildstepError, UsageError
from buildstep.formats.oci.config import sound_config
from buildstep.images.file_kind import kind_of
from buildstep.images.importing import Importer
from buildstep.images.record import root_in
from buildstep.images.store import ImageRecord, ImageStore
from buildstep.pool.interface import Dataset, Kind
from buildstep.pool.journal import open_journal
from buildstep.report.parse import load
from buildstep.report.record import RECORD_SUFFIX, BuildRecord
from buildstep.rootfs.run_config import RunConfig
from buildstep.spec.fields import OCI_FORMATS
from buildstep.system.root import Root


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """record: of the image in the store; dataset: a copy of it that is thrown away; root: the file system in
    that; config: how it is run."""

    record: ImageRecord
    dataset: Dataset
    root: Root
    config: RunConfig


def locator(word: str) -> str:
    """Return the reference of what a person names: a file or a layout gets the scheme of its content, and a
    build record stands for the image that it is about. Raises UsageError, and ImageError."""
    if not os.path.exists(word):
        return word
    path = Path(word)
    if word.endswith(RECORD_SUFFIX):
        path = _image_file(load(path))
    return f"{kind_of(path)}:{path}"


def _image_file(record: BuildRecord) -> Path:
    """Return the image file of a record that says most; the two may have been moved together."""
    rows = sorted(record.artifacts, key=lambda row: row.format not in OCI_FORMATS)
    for row in rows:
        for path in (record.path.parent / row.name, Path(row.path)):
            if path.is_file() or (path / "oci-layout").is_file():
                return path
    raise UsageError(
        f"no image file of {record.path} is on this machine",
        hint="build again, or give the image file itself",
    )


@contextlib.contextmanager
def opened(store: ImageStore, word: str, what: str) -> Iterator[Opened]:
    """Yield a throw-away copy of an image, which is imported first where it is not in the store.

    what: the command, for a person who reads the journal. Raises ImageError, DatasetError, UsageError.
    """
    backend = store.backend
    with open_journal(backend.state, f"{what} {word}") as journal, contextlib.ExitStack() as stack:
        record, _ = Importer(store, journal, stack).ensure(locator(word))
        name = journal.dataset(f"{journal.ident}-1")
        stack.callback(partial(_drop, store, name))
        dataset = backend.clone(Kind.IMAGE, record.uuid, name)
        config = sound_config(record.config, lambda _name: None).get("config") or {}
        yield Opened(
            record=record,
            dataset=dataset,
            root=root_in(dataset.path, record.manifest),
            config=RunConfig.of(config),
        )


def _drop(store: ImageStore, name: str) -> None:
    """Remove a copy; what cannot be removed is left to `heal`, and told."""
    try:
        store.backend.destroy(Kind.BUILD, name)
    except (BuildstepError, OSError) as error:
        store.bus.note(f"dropping the copy {name} failed: {error}", level="error")
