"""The table of publishers: where an image is published to, by the target's scheme.

A publisher may import clients, as sources may; it never imports another publisher.
"""

from __future__ import annotations

from functools import partial

from buildstep.errors import UsageError
from buildstep.events import Bus
from buildstep.images.publishers.bundle import Bundle, Published, Publisher, PublishOptions
from buildstep.system.registry import Registry, importing

__all__ = ["PUBLISHERS", "Bundle", "PublishOptions", "Published", "Publisher", "publish", "publisher"]

_IMGAPI = importing("buildstep.images.publishers.imgapi:ImgapiPublisher")

PUBLISHERS: Registry[type[Publisher]] = Registry(
    "publishers",
    "publisher",
    {
        "dir": importing("buildstep.images.publishers.directory:DirectoryPublisher"),
        "s3": importing("buildstep.images.publishers.s3:S3Publisher"),
        "docker": importing("buildstep.images.publishers.registry:RegistryPublisher"),
        "imgapi": _IMGAPI,
        "http": _IMGAPI,
        "https": _IMGAPI,
    },
)


def publisher(target: str, bus: Bus) -> Publisher:
    """Return the publisher of a target such as `dir:PATH`. Raises UsageError for a scheme that nobody has."""
    scheme = target.partition(":")[0].partition("+")[0]
    if scheme.lower() in ("http", "https"):
        scheme = scheme.lower()
    found = PUBLISHERS.find(scheme, partial(bus.note, level="warning"))
    if found is None:
        raise UsageError(f"nothing publishes to {target!r}", hint=PUBLISHERS.hint(scheme))
    return found()


def publish(bundle: Bundle, target: str, *, options: PublishOptions, bus: Bus) -> Published:
    """Publish a bundle where its target's scheme says."""
    return publisher(target, bus).publish(bundle, target, options=options, bus=bus)
