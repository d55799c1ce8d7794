"""Write /etc/motd, where the manifest asks for it."""

from __future__ import annotations

import os

from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlanFacts, Planned
from buildstep.report.record import Step


def plan(facts: PlanFacts) -> Planned:
    """Return whether it is asked for."""
    return Planned("run", "/etc/motd") if facts.spec.motd else Planned("skip", "not asked for")


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Write it in the form of Triton's buildimage: a framed title, then name, source and base image."""
    spec, image = context.spec, state.image
    title = "B U I L D S T E P" if image.manifest.get("os") != "smartos" else "T R I T O N"
    lines = [
        "",
        f" =  {title}  =",
        "",
        f"    {spec.name} ({spec.version})",
        f"    {spec.source_repo}",
        f"    {image.name}@{image.version}",
        "",
    ]
    state.root.make_dirs("/etc")
    state.root.write("/etc/motd", os.fsencode("\n".join(lines) + "\n"))
    # One that the proto directory has is not the image's any more.
    state.overlay.pop(os.fsencode(os.path.join(state.root_prefix, "etc/motd")), None)
    result.reason = f"{spec.name} ({spec.version})"
