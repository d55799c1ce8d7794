"""Whether this agent can build an m.json, and why not: everything is looked at, nothing is changed but for
the package index that a build would fetch as well.

The checks come in the order in which a build would meet what they look at, so the first error is the one
that the build would end with, and its exit code is the doctor's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from buildstep.build.doctor import (
    base_image,
    base_policy,
    machine,
    packages,
    platform,
    pool,
    proofs,
    proto_dir,
    recording,
    trust,
    walls,
)
from buildstep.build.doctor.findings import Examination, Finding, Level
from buildstep.errors import BuildstepError, ExitCode
from buildstep.spec.config import Config
from buildstep.spec.load import BuildSpec

__all__ = ["CHECKS", "Examination", "Finding", "Level", "examine"]

CHECKS: Mapping[str, Callable[[Examination], None]] = {
    "privileges": machine.privileges,
    "kernel": machine.kernel,
    "limits": machine.command_limits,
    "pool": pool.opened,
    "walls": walls.in_force,
    "leftovers": pool.leftovers,
    "image": base_image.image,
    "policy": base_policy.readable,
    "platform": platform.programs,
    "proto": proto_dir.fits,
    "tools": machine.tools,
    "store": recording.possible,
    "trust": trust.possible,
    "installer": base_image.installer,
    "space": pool.space,
    "network": base_image.network,
    "packages": packages.resolved,
    "clock": base_image.clock,
    "vulnerabilities": proofs.databases,
}
"""By the area that they are about."""


def examine(
    spec: BuildSpec | None,
    *,
    proto: Path | None,
    config: Config,
    environ: Mapping[str, str],
    before: Iterable[Finding] = (),
) -> Examination:
    """Look at everything that this build needs; what cannot be looked at is an error of its area.

    spec: None for an agent as such. proto: None where it is not known or not there yet. before: what was
    found while the spec was loaded.
    """
    if spec is not None and spec.platform:
        environ = {**environ, "BUILDSTEP_PLATFORM": spec.platform}
    seen = Examination(
        spec=spec, proto=proto, config=config, pool=config.pool, environ=environ, findings=list(before)
    )
    for area, look in CHECKS.items():
        try:
            look(seen)
        except BuildstepError as error:
            seen.error(area, area, error)
        except OSError as error:
            where = str(error.filename or area)
            seen.fail(area, where, error.strerror or str(error), "", ExitCode.TOOL_MISSING)
    return seen
