"""Assets: `service-version.tar.gz` in a store, host patterns mapped to services, pulled by the hosts.

Two tables: where assets can lie, and where mappings can, each by the scheme of its URL.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from buildstep.assets.interface import AssetStore, Register, RegisterAccess
from buildstep.events import Bus
from buildstep.files.interface import Access
from buildstep.net.request import HttpOptions
from buildstep.net.schemes import row_of
from buildstep.system.registry import Registry, importing

StoreMaker = Callable[[str, Access], AssetStore]
"""Makes the store of a whole URL, given what it may use."""

RegisterMaker = Callable[[str, RegisterAccess], Register]
"""Makes the register of what is after the scheme, given what it may use."""

ASSET_STORES: Registry[StoreMaker] = Registry(
    "asset_stores",
    "store of assets",
    {
        "dir": importing("buildstep.assets.blob_store:BlobAssets"),
        "ssh": importing("buildstep.assets.blob_store:BlobAssets"),
        "http": importing("buildstep.assets.blob_store:BlobAssets"),
        "https": importing("buildstep.assets.blob_store:BlobAssets"),
        "s3": importing("buildstep.assets.s3_store:S3Assets"),
    },
)

REGISTERS: Registry[RegisterMaker] = Registry(
    "registers",
    "register",
    {
        "file": importing("buildstep.assets.file_register:FileRegister"),
        "consul": importing("buildstep.assets.consul_register:ConsulRegister"),
        "consul+https": importing("buildstep.assets.consul_register:SecureConsulRegister"),
    },
)


def open_assets(
    url: str, *, environ: Mapping[str, str] = os.environ, bus: Bus | None = None, **options: Any
) -> AssetStore:
    """Return the store of a URL: dir:PATH or a path, s3://BUCKET[/PREFIX], http(s)://..., ssh://HOST/PATH.

    options: of `files.interface.Access`. Nothing is read or written yet. Raises UsageError.
    """
    access = Access(environ=environ, bus=bus or Bus(), **{"http": HttpOptions.of(environ), **options})
    maker, scheme, rest = row_of(ASSET_STORES, url, default="dir", bus=access.bus)
    return maker(f"{scheme}:{rest}", access)


def open_register(url: str, access: RegisterAccess) -> Register:
    """Return the register of a URL: consul[+https]://HOST:PORT, file:PATH, or a path alone.

    Nothing is read or written yet. Raises UsageError.
    """
    maker, _, rest = row_of(REGISTERS, url, default="file", bus=access.bus)
    return maker(rest, access)
