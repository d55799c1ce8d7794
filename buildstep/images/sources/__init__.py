"""The table of sources: where a base image named by a locator (`scheme:rest`) comes from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

from buildstep.errors import Fault, SpecError
from buildstep.events import Bus
from buildstep.images.interface import Source
from buildstep.spec.schema import near

GROUP = "buildstep.images.sources"

Maker = Callable[[Mapping[str, str], Mapping[str, Any]], Source]
"""Makes a source, given the environment and the limits of its HTTP calls; what it needs it imports then."""


def _scratch(*_: object) -> Source:
    from buildstep.images.sources.scratch import Scratch

    return Scratch()


def _tar(*_: object) -> Source:
    from buildstep.images.sources.tar import Tar

    return Tar()


def _mmdebstrap(*_: object) -> Source:
    from buildstep.images.sources.mmdebstrap import Mmdebstrap

    return Mmdebstrap()


def _zfs(*_: object) -> Source:
    from buildstep.images.sources.zfs_file import ZfsFile

    return ZfsFile()


def _oci(environ: Mapping[str, str], _: object) -> Source:
    from buildstep.images.sources.oci import Oci

    return Oci(environ)


def _docker(environ: Mapping[str, str], limits: Mapping[str, Any]) -> Source:
    from buildstep.images.sources.docker import Docker
    from buildstep.net.errors import HttpOptions

    return Docker(environ, options=HttpOptions.of(environ, **limits))


SOURCES: dict[str, Maker] = {
    "scratch": _scratch,
    "tar": _tar,
    "oci": _oci,
    "docker": _docker,
    "zfs": _zfs,
    "mmdebstrap": _mmdebstrap,
}


def parse(
    ref: str,
    *,
    environ: Mapping[str, str] = os.environ,
    limits: Mapping[str, Any] = MappingProxyType({}),
    bus: Bus | None = None,
) -> tuple[Source, str] | None:
    """The source and the locator of an image reference; None for a uuid or name@version.

    Schemes of other packages are looked for second. Raises SpecError for one that nobody has.
    """
    scheme, colon, locator = ref.partition(":")
    if scheme in SOURCES:
        return SOURCES[scheme](environ, limits), locator
    if not colon:
        return None
    others = _installed(bus)
    if scheme in others:
        return others[scheme](environ, limits), locator
    schemes = [*SOURCES, *others]
    hint = near(scheme, schemes) or f"schemes: {', '.join(schemes)}; or a uuid or name@version"
    raise SpecError("image", [Fault(where="$.build.image", message=f"no source for {ref!r}", hint=hint)])


def _installed(bus: Bus | None) -> dict[str, Maker]:
    """The sources of installed packages; one that fails to load is named and left out."""
    from importlib import metadata

    found: dict[str, Maker] = {}
    for point in metadata.entry_points(group=GROUP):
        try:
            found[point.name] = cast(Maker, point.load())
        except Exception as error:  # noqa: BLE001 - another package's fault must not stop ours
            if bus is not None:
                bus.note(f"the source {point.name} ({point.value}) does not load: {error}", level="warning")
    return found
