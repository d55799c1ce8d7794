"""The table of sources: where a base image named by a locator (`scheme:rest`) comes from."""

from __future__ import annotations

from buildstep.errors import Fault, SpecError
from buildstep.interfaces import Source
from buildstep.sources import mmdebstrap, scratch, tar

SOURCES: dict[str, Source] = {
    "scratch": scratch.Scratch(),
    "tar": tar.Tar(),
    "mmdebstrap": mmdebstrap.Mmdebstrap(),
}


def parse(ref: str) -> tuple[Source, str] | None:
    """The source and the locator of an image reference; None for a uuid or name@version."""
    scheme, _, locator = ref.partition(":")
    if scheme in SOURCES:
        return SOURCES[scheme], locator
    if ":" in ref:
        hint = f"schemes: {', '.join(SOURCES)}; or a uuid or name@version in the store"
        raise SpecError("image", [Fault(where="$.build.image", message=f"no source for {ref!r}", hint=hint)])
    return None
