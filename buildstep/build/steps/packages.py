"""Install packages, or reuse the layer that has them."""

from __future__ import annotations

from buildstep.build import package_layer, shared_layers
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.package_layer import Found
from buildstep.build.plan import PlanFacts, Planned, PlannedStep
from buildstep.build.plan_text import age_text, layer_text
from buildstep.report.record import Step
from buildstep.rootfs import packaging


def plan(facts: PlanFacts) -> Planned:
    """Return whether the layer with the packages is in the cache, or why not."""
    layer = facts.layer
    if not facts.spec.wants_packages:
        return Planned("skip", "no packages are asked for")
    told = facts.shared.get("packages", "")
    if told.startswith("shared") and (layer is None or layer.record is None):
        return Planned("reuse", told, layer.key if layer is not None else "")
    if layer is None:
        why = "new base" if facts.image is None else "--no-cache"
        return Planned("run", "; ".join(filter(None, (why, told))))
    if layer.record is None or layer.resolution is None:
        return Planned("run", "; ".join(filter(None, (layer.missing, told))), layer.key)
    lock = facts.spec.lock
    age = age_text(layer.resolution, fresh=layer.fresh) if lock is None else f"; as {lock.path.name} has them"
    text = layer_text(layer.record) + age
    return Planned("reuse", text, layer.key)


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Sets installed, below and origin; adds the layer."""
    outcome = package_layer.obtain(context, state)
    result.key, result.reason = outcome.key, outcome.reason
    result.state = "reuse" if isinstance(outcome, Found) else "run"
    if isinstance(outcome, Found):
        result.reason += shared_layers.said(context.store.shared, "packages")


def list_installed(context: BuildContext, state: BuildState) -> None:
    """Set what is installed in an image that gets no packages, for the record; this step is settled then."""
    reason = "no packages are asked for"
    state.installed = packaging.list_installed(
        context.spec,
        state.root,
        known=state.image.packages,
        privileged=context.backend.privileged,
        bus=context.bus,
        environ=context.environ,
    )
    if state.installed is not None:
        count = len(state.installed.packages)
        reason += f"; {state.installed.installer} has {count} in the image"
    state.settled["packages"] = PlannedStep(name="packages", state="skip", reason=reason)
