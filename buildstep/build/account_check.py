"""Refuse accounts that do not fit on the base image, before anything is begun."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from buildstep.images.record import ImageRecord, root_in
from buildstep.pool.interface import Backend, Kind
from buildstep.rootfs import accounts
from buildstep.rootfs.account_tables import Tables
from buildstep.rootfs.accounts import Request
from buildstep.spec.load import BuildSpec
from buildstep.system.root import Root


def request(spec: BuildSpec, *, owners: bool = True) -> Request:
    """Return the accounts that a build asks for. owners: whether owners can be set in the pool's trees."""
    return Request(
        users=spec.users,
        groups=spec.groups,
        packages=spec.wants_packages,
        epoch=spec.source_date_epoch,
        owners=owners,
    )


@contextlib.contextmanager
def base_root(backend: Backend, image: ImageRecord) -> Iterator[Root]:
    """Show the file system of a base image, to read it."""
    with backend.tree(Kind.IMAGE, image.uuid) as tree:
        yield root_in(tree, image.manifest)


def check(spec: BuildSpec, backend: Backend, image: ImageRecord) -> None:
    """Raise SpecError with all accounts that cannot be made on a base image."""
    if spec.wants_accounts:
        with base_root(backend, image) as root:
            asked = request(spec, owners=backend.privileged)
            accounts.check(asked, Tables.read(root), image.label)
