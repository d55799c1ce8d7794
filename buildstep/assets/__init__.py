"""Assets: `service-version.tar.gz` in a store, host patterns mapped to services, pulled by the hosts.

Two tables: where assets can lie, and where mappings can, each by the scheme of its URL.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from buildstep.assets.interface import AssetStore, Register, RegisterAccess
from buildstep.errors import UsageError
from buildstep.events import Bus
from buildstep.files.interface import Access
from buildstep.net.errors import safe_url
from buildstep.net.request import HttpOptions
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
    scheme, colon, _ = url.partition(":")
    if not colon or "/" in scheme:
        scheme, url = "dir", f"dir:{url}"
    maker = ASSET_STORES.find(scheme, partial(access.bus.note, level="warning"))
    if maker is None:
        hint = ASSET_STORES.hint(scheme)
        raise UsageError(f"no store of assets of the kind {scheme!r}: {safe_url(url)!r}", hint=hint)
    return maker(url, access)


def open_register(url: str, access: RegisterAccess) -> Register:
    """Return the register of a URL: consul[+https]://HOST:PORT, file:PATH, or a path alone.

    Nothing is read or written yet. Raises UsageError.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or "/" in scheme:
        scheme, rest = "file", url
    maker = REGISTERS.find(scheme, partial(access.bus.note, level="warning"))
    if maker is None:
        hint = REGISTERS.hint(scheme)
        raise UsageError(f"no register of the kind {scheme!r}: {safe_url(url)!r}", hint=hint)
    return maker(rest, access)
