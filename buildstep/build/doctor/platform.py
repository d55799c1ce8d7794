"""Whether programs of the image can be run, where it is for another platform than this machine."""

from __future__ import annotations

from buildstep.build import platforms
from buildstep.build.doctor.findings import Examination
from buildstep.build.steps import in_order
from buildstep.formats.oci.spec import OciPlatform
from buildstep.rootfs import emulation


def programs(seen: Examination) -> None:
    """Whether packages and commands of the m.json can be run, by this machine or by an emulator."""
    if seen.spec is None:
        return
    wanted = platforms.platform_of(seen.spec, seen.image)
    if wanted is None or wanted.architecture == OciPlatform.here().architecture:
        return
    if seen.spec.runs:
        steps = [step.name for step in in_order(seen.spec)]
        if not seen.spec.wants_packages:
            steps.remove("packages")
        platforms.check_programs(seen.spec, seen.image, steps)
    if emulation.can_run(wanted):
        seen.ok("platform", str(wanted), "its programs run here")
    else:
        seen.ok("platform", str(wanted), "its programs do not run here, and none has to")
