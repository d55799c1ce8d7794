"""The table of publishers: where an image is handed on to, told by the target's scheme.

A publisher may import clients, as sources may; it never imports another publisher.
"""

from __future__ import annotations

from buildstep.errors import UsageError
from buildstep.events import Bus
from buildstep.images.publishers.bundle import Bundle, Published, Publisher, PublishOptions
from buildstep.images.publishers.directory import DirectoryPublisher
from buildstep.images.publishers.imgapi import ImgapiPublisher
from buildstep.images.publishers.registry import RegistryPublisher
from buildstep.images.publishers.s3 import S3Publisher

__all__ = ["PUBLISHERS", "Bundle", "PublishOptions", "Published", "Publisher", "publish", "publisher"]

GROUP = "buildstep.images.publishers"

PUBLISHERS: dict[str, Publisher] = {
    "dir": DirectoryPublisher(),
    "s3": S3Publisher(),
    "docker": RegistryPublisher(),
    "imgapi": ImgapiPublisher(),
    "http": ImgapiPublisher(),
    "https": ImgapiPublisher(),
}


def publisher(target: str, bus: Bus) -> Publisher:
    """The publisher of a target such as `dir:PATH`; those of other packages are looked at second.

    Raises UsageError for a scheme that nobody has.
    """
    scheme = target.partition(":")[0].partition("+")[0]
    if scheme in PUBLISHERS:
        return PUBLISHERS[scheme]
    from importlib.metadata import entry_points

    found: dict[str, Publisher] = {}
    for entry in entry_points(group=GROUP):
        try:
            found[entry.name] = entry.load()()
        except Exception as error:  # noqa: BLE001 - another package's fault must not stop ours
            bus.note(f"the publisher {entry.name} ({entry.value}) does not load: {error}", level="warning")
    if scheme in found:
        return found[scheme]
    raise UsageError(
        f"nothing publishes to {target!r}", hint=f"schemes: {', '.join(sorted({*PUBLISHERS, *found}))}"
    )


def publish(bundle: Bundle, target: str, *, options: PublishOptions, bus: Bus) -> Published:
    """Publish a bundle where its target's scheme says."""
    return publisher(target, bus).publish(bundle, target, options=options, bus=bus)
