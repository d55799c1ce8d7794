"""Tables of docs/ about services: what verbs run, and what leads from state to state."""

from __future__ import annotations

from scripts.markdown import table


def verbs() -> str:
    """Return what each verb runs."""
    from buildstep.services.life_cycle import VERBS

    rows = []
    for verb, steps in VERBS.items():
        for number, step in enumerate(steps):
            sides = ", ".join(f"`{side}`" for side in step.sides)
            must = "; no is a failure" if step.must else ""
            rows.append((f"`{verb}`" if number == 0 else "", f"`{step.action}`", sides, f"{step.when}{must}"))
    return table(("verb", "action", "sides, in order", "when it runs"), rows)


def states() -> str:
    """Return which action may run in which state, and where it leads."""
    from buildstep.services.states import NO, YES, State

    rows = []
    for action, moves in YES.items():
        found = ", ".join(f"`{state}`" for state in State if state in moves)
        ends = sorted({f"`{new}`" for old, new in moves.items() if new is not old})
        stays = ["the same"] if any(new is old for old, new in moves.items()) else []
        no = sorted({f"`{new}`" for new in NO.get(action, {}).values()})
        every = "any" if len(moves) == len(State) else found
        rows.append((f"`{action}`", every, ", or ".join(ends + stays), ", ".join(no) or "a failure"))
    return table(("action", "may run in", "then it is", "after a no"), rows)
