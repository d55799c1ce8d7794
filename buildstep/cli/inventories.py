"""What commands share that look into an image: files without a pool, all else in the pool."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildstep.images.inventory import Looked


@contextlib.contextmanager
def looked_at(word: str, pool: str | None) -> Iterator[Looked]:
    """Yield the inventory of what a person names: an image file or OCI directory, a build record, an image of
    a registry; else an image in the pool, which is opened for that alone.

    Raises ImageError, UsageError; DatasetError where the pool cannot be opened.
    """
    from buildstep.images import inventory
    from buildstep.images.listing import SCHEMES

    scheme, colon, _ = word.partition(":")
    if os.path.exists(word) or (colon and scheme in SCHEMES):
        from buildstep.cli.options import tell
        from buildstep.events import Bus, Note

        bus = Bus(lambda event: tell(event.text) if isinstance(event, Note) else None)
        with inventory.of_archive(word, bus=bus, environ=os.environ) as found:
            yield found
        return
    from buildstep.cli import session

    opened = session.open_session(pool, quiet=True, silent=True, healing=False)
    with inventory.of_stored(opened.store, opened.store.get(word)) as found:
        yield found
