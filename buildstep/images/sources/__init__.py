"""The table of sources: where a base image named by a locator (`scheme:rest`) comes from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from buildstep.errors import Fault, SpecError
from buildstep.events import Bus
from buildstep.images.interface import Foreseeing, Source
from buildstep.system.registry import Registry, importing

Maker = Callable[[Mapping[str, str], Mapping[str, Any]], Source]
"""Makes a source, given the environment and the limits of its HTTP calls."""


def _plain(place: str) -> Callable[[], Maker]:
    """Return the row of a source class that needs neither."""
    return lambda: lambda _environ, _limits: importing(place)()()


SOURCES: Registry[Maker] = Registry(
    "sources",
    "source",
    {
        "scratch": _plain("buildstep.images.sources.scratch:Scratch"),
        "tar": _plain("buildstep.images.sources.tar:Tar"),
        "oci": importing("buildstep.images.sources.oci:Oci"),
        "docker-archive": _plain("buildstep.images.sources.docker_archive:DockerArchiveFile"),
        "docker": importing("buildstep.images.sources.docker:Docker"),
        "files": importing("buildstep.images.sources.files:Files"),
        "zfs": _plain("buildstep.images.sources.zfs_file:ZfsFile"),
        "mmdebstrap": importing("buildstep.images.sources.mmdebstrap:Mmdebstrap"),
    },
)


def parse(
    ref: str,
    *,
    environ: Mapping[str, str] = os.environ,
    limits: Mapping[str, Any] = MappingProxyType({}),
    bus: Bus | None = None,
) -> tuple[Source, str] | None:
    """Return the source and the locator of an image reference; None for a uuid or name@version.

    Raises SpecError for a scheme that nobody has.
    """
    scheme, colon, locator = ref.partition(":")
    if not colon and scheme not in SOURCES:
        return None
    maker = SOURCES.find(scheme, partial((bus or Bus()).note, level="warning"))
    if maker is None:
        raise unknown_scheme(ref)
    return maker(environ, limits), locator


def foresee(ref: str, parsed: tuple[Source, str] | None) -> None:
    """Refuse what can be known to fail before an image is imported; nothing is fetched. parsed: of `parse`.

    Raises ImageError where a file is of another kind than its scheme says, ToolMissing where this machine
    cannot make the image.
    """
    from buildstep.images.sources.local_file import check_file

    check_file(ref)
    if parsed is not None and isinstance(parsed[0], Foreseeing):
        parsed[0].foresee(parsed[1])


def unknown_scheme(ref: str) -> SpecError:
    """Return the error for an image reference with a scheme that no source has."""
    hint = f"{near_miss(ref)} schemes are {', '.join(SOURCES.names())}; or a uuid or name@version".lstrip()
    fault = Fault(where="$.build.image", message=f"no source for {ref!r}", hint=hint)
    return SpecError("image", [fault])


def near_miss(ref: str) -> str:
    """Return what to write for a reference that nothing knows, with a scheme; empty if that is not clear."""
    from buildstep.images.sources.suggestions import suggestions

    found = suggestions(ref, SOURCES.names())
    return f"did you mean {' or '.join(found)}?" if found else ""
