"""A dataset that an image is put into, and what its source may use meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from functools import partial

from buildstep.formats.unpack import apply_layer, unpack
from buildstep.images.interface import SourceContext
from buildstep.images.store import ImageStore
from buildstep.images.unpacking import shown
from buildstep.pool.interface import Kind
from buildstep.pool.journal import Journal
from buildstep.system.private import private_dir
from buildstep.system.remove import remove_tree


@contextlib.contextmanager
def working_dataset(store: ImageStore, journal: Journal, ident: str, key: str) -> Iterator[SourceContext]:
    """Yield what a source may use that makes the dataset `ident`; an exception removes that.

    key: of the image, which is locked; what was downloaded of it goes on where it was.
    """
    backend, bus, privileged = store.backend, store.bus, store.backend.privileged
    journal.dataset(ident)
    downloads = backend.state / "downloads" / hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    work = backend.state / "work" / ident
    try:
        private_dir(downloads)
        yield SourceContext(
            cache=journal.folder(work),
            downloads=downloads,
            packages=backend.state / "packages" / "apt",
            privileged=privileged,
            bus=bus,
            environ=store.environ,
            unpack=shown(partial(unpack, privileged=privileged, bus=bus), bus),
            apply_layer=shown(partial(apply_layer, privileged=privileged, bus=bus), bus, layers=True),
        )
    except BaseException:
        backend.destroy(Kind.BUILD, ident)
        raise
    finally:
        remove_tree(work)
        with contextlib.suppress(OSError):  # what may be resumed keeps its directory
            downloads.rmdir()
