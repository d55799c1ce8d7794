"""Compare the base images of a pool with what was imported, for `build.kept`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from buildstep.cache.verify import files
from buildstep.errors import BuildstepError, ImageError
from buildstep.events import Bus
from buildstep.images.record import DamagedImage, ImageRecord, remedy
from buildstep.images.store import ImageStore
from buildstep.images.tags import SUFFIX
from buildstep.pool.damage import Damage, unlink
from buildstep.pool.interface import Backend, Kind
from buildstep.system import sealed


def images(backend: Backend) -> Iterator[Damage]:
    """Compare the record, the list and every file of each image. A list is made again where that can be."""
    store = ImageStore(backend, bus=Bus(), environ={})
    for path in files(store.folder, ".json"):
        uuid = path.stem
        try:
            record = ImageRecord.read(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, ImageError) as error:
            text = f"its record cannot be read: {error}"
            yield Damage(kind="image", name=uuid, problem=text, file=path, remedy=remedy(uuid))
            continue
        with store.locks.using(record.uuid):
            found = _damage(store, record) if backend.exists(Kind.IMAGE, uuid) else None
        if found is not None:
            yield found
    for path in files(store.folder, SUFFIX):
        try:
            sealed.read(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            yield Damage(kind="image", name=path.stem, problem=str(error), file=path, mend=unlink(path))


def _damage(store: ImageStore, record: ImageRecord) -> Damage | None:
    about, uuid = f"{record.name}@{record.version}", record.uuid
    if store.stored_list(record) is None:
        return Damage(
            kind="image", name=uuid, about=about, problem="its file list is not what was written",
            file=store.list_path(uuid), remedy=remedy(uuid), mend=partial(_make_list, store, record),
        )  # fmt: skip
    try:
        store.verify(record)
    except (BuildstepError, OSError) as error:
        detail = getattr(error, "detail", "")
        with store.backend.tree(Kind.IMAGE, uuid) as tree:
            return Damage(
                kind="image", name=uuid, about=about, problem=f"{error} {detail}".strip(), file=tree,
                remedy=remedy(uuid),
            )  # fmt: skip
    return None


def _make_list(store: ImageStore, record: ImageRecord) -> bool:
    """Make an image's list again from its tree. Returns whether that could be done."""
    try:
        store.entries(record)
    except (DamagedImage, OSError):
        return False
    return True
