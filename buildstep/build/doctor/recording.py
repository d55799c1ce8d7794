"""Whether the store that the image will be recorded in can be reached and written to."""

from __future__ import annotations

from buildstep import emit
from buildstep.build.doctor.findings import Examination
from buildstep.build.plan import store_target
from buildstep.events import Bus


def possible(seen: Examination) -> None:
    """Tell where the format that records the image will have it. Raises what a build would end with."""
    if seen.spec is None:
        return
    target = store_target(seen.spec, seen.environ)
    for text in emit.check_target(seen.spec.formats, target, Bus()):
        seen.ok("store", target.url, text)
