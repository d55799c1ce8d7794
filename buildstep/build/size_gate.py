"""Limits on the size of an image, checked before anything gets its name."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from buildstep.build import cache_inputs
from buildstep.build.context import BuildContext
from buildstep.cache import outputs as kept_outputs
from buildstep.errors import GateError, UsageError
from buildstep.report.parse import load
from buildstep.report.record import BuildRecord
from buildstep.system.text import size_text

_SHOWN = 10
"""Paths that are named: those that grew most."""


def check(context: BuildContext, record: BuildRecord) -> None:
    """Compare the size of a new image with `max_size`, and with that of the component's last one by
    `max_growth`. Raises GateError; with `over_size: warn` it is a warning instead."""
    image = record.artifacts[0]
    problems = _too_large(context, image.size)
    last = _last(context) if context.spec.max_growth is not None else None
    if last is not None:
        old, added = last
        from buildstep.files.compare_gate import Growth

        growth = Growth.parse(str(context.spec.max_growth))
        if not growth.allows(old, image.size):
            more = size_text(image.size - old)
            problems.append(f"it grew by {more} from {size_text(old)}; max_growth allows {growth.text}")
            problems += [f"  {line}" for line in _grown(added, record.files_added)]
    elif context.spec.max_growth is not None:
        context.bus.note("max_growth is not checked: no earlier image of this component is known here")
    _enforce(context, image.size, problems)


def check_again(context: BuildContext, files: Sequence[Mapping[str, Any]]) -> None:
    """Compare the size of an image that an earlier build wrote with `max_size`. Raises as `check` does."""
    size = int(files[0]["size"])
    _enforce(context, size, _too_large(context, size))


def _too_large(context: BuildContext, size: int) -> list[str]:
    if context.spec.max_size is None:
        return []
    from buildstep.files.compare_gate import Growth

    limit = Growth.parse(context.spec.max_size)
    return [] if limit.allows(0, size) else [f"max_size allows {limit.text}"]


def _enforce(context: BuildContext, size: int, problems: Sequence[str]) -> None:
    if not problems:
        return
    message = f"the image of {context.spec.name} has {size_text(size)}: {problems[0]}"
    detail = "\n".join(problems[1:])
    if context.spec.over_size == "warn":
        context.bus.note(f"{message}\n{detail}".rstrip(), level="warning")
        return
    raise GateError(
        message,
        detail=detail,
        hint="make it smaller, or raise the limit; nothing was given out, and the last image stands",
    )


def _last(context: BuildContext) -> tuple[int, Mapping[str, int]] | None:
    """Return the size of the component's last image, and the largest files of it; None if there is none."""
    state, spec = context.backend.state, context.spec
    facts = kept_outputs.of_last(state, cache_inputs.component(spec))
    if facts is None or not facts.get("files"):
        return None
    added: dict[str, int] = {}
    with contextlib.suppress(UsageError, KeyError):  # the image is known, and its record is gone
        added = dict(load(Path(str(facts["record"]))).files_added)
    return int(facts["files"][0]["size"]), added


def _grown(old: Mapping[str, int], new: Sequence[tuple[str, int]]) -> list[str]:
    """Return the paths that grew most, a line each, as far as the two records tell."""
    rows = [(size - old.get(path, 0), path, path in old) for path, size in new if size > old.get(path, 0)]
    rows.sort(key=lambda row: (-row[0], row[1]))
    return [f"{path}: {size_text(more)} {'more' if known else 'new'}" for more, path, known in rows[:_SHOWN]]
