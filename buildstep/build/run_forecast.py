"""What a plan can tell of the commands of a build: whose result is kept, and why another's is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildstep.build import run_keys, run_rows
from buildstep.build.plan_text import layer_text
from buildstep.cache.layers import LayerCache, LayerRecord

if TYPE_CHECKING:
    from buildstep.build.plan import PlanFacts, Planned


def foresee(facts: PlanFacts, cache: LayerCache) -> dict[str, Planned]:
    """Return what is known of the steps that run commands, by their names, and of the copy of the proto
    directory where a kept result has that in it. Raises SpecError for inputs that are not there."""
    from buildstep.build.plan import Planned

    spec, image = facts.spec, facts.image
    rows = run_rows.rows(spec) if spec.run else ()
    run_keys.check(spec, facts.proto)
    if image is None or not spec.cache or not any(row.kept for row in rows):
        return {}
    if facts.layer is not None:
        below = facts.layer.key if facts.settled else ""
    else:
        below = run_keys.root_key(spec, image)
    if not below:
        return {}
    found: dict[str, Planned] = {}
    keys = run_keys.chain(spec, facts.proto, below)
    reached = None
    for row in reversed(rows):
        known = keys.get(row.step)
        if reached is None and known is not None and row.kept:
            reached = cache.find(known.key)
            if reached is not None:
                found |= dict.fromkeys(("accounts", *(() if row.early else ("sync",))), _reused(reached))
        if reached is not None:
            found[row.step] = _reused(reached)._replace(key=known.key if known else "")
        elif known is not None and row.kept:
            why = cache.why(f"{spec.name}/{row.step}", known.inputs)
            found[row.step] = Planned("run", why, known.key)
    return found


def _reused(record: LayerRecord) -> Planned:
    from buildstep.build.plan import Planned

    return Planned("reuse", layer_text(record))
