"""File lists and content stores: each content once, and from a list and a store the tree again.

The table of storages: where a store can lie, by the scheme of its URL.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from buildstep.errors import UsageError
from buildstep.events import Bus
from buildstep.files.interface import Access, Storage
from buildstep.net.request import HttpOptions
from buildstep.net.schemes import row_of
from buildstep.system.registry import Registry, importing

Maker = Callable[[str, Access], Storage]
"""Makes the storage of what is after the scheme, `dir:` or `s3://` for example, given what it may use."""

STORES: Registry[Maker] = Registry(
    "stores",
    "store",
    {
        "dir": importing("buildstep.files.local:Local"),
        "s3": importing("buildstep.files.s3:S3"),
        "http": importing("buildstep.files.http:WebHttp"),
        "https": importing("buildstep.files.http:WebHttps"),
        "ssh": importing("buildstep.files.ssh:Ssh"),
    },
)


def open_storage(
    url: str, *, environ: Mapping[str, str] = os.environ, bus: Bus | None = None, **options: Any
) -> Storage:
    """Return the storage of a URL: dir:PATH or a path, s3://BUCKET[/PREFIX], http(s)://..., ssh://HOST/PATH.

    options: of `Access`. Nothing is read or written yet. Raises UsageError for a URL that is none.
    """
    access = Access(environ=environ, bus=bus or Bus(), **{"http": HttpOptions.of(environ), **options})
    maker, scheme, rest = row_of(STORES, url, default="dir", bus=access.bus)
    if not rest.strip("/") and rest != "/":
        raise UsageError(f"{url!r} does not say where the store is", hint=_EXAMPLES.get(scheme, ""))
    return maker(rest, access)


_EXAMPLES = {
    "dir": "such as dir:/srv/store",
    "s3": "such as s3://bucket/prefix",
    "http": "such as http://host/store",
    "https": "such as https://host/store",
    "ssh": "such as ssh://host/srv/store",
}
