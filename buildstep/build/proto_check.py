"""Refuse to ship a proto directory that changed while it was built from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from buildstep.build.context import BuildContext, BuildState
from buildstep.build.steps.interface import Route
from buildstep.errors import BuildstepError, EmitError
from buildstep.system.text import plural, printable
from buildstep.tree import proto_watch
from buildstep.tree.proto_watch import Differences

_MOST_NAMED = 10


def begin(context: BuildContext, state: BuildState) -> None:
    """Begin to walk the proto directory again, now that all of it was read; `check` has the result.

    Does nothing where that has begun already.
    """
    if context.plan.route is Route.FULL and state.proto_again is None:
        state.proto_again = context.stack.enter_context(proto_watch.walking_again(context.plan.proto))


def check(context: BuildContext, state: BuildState) -> None:
    """Raise EmitError, naming the paths, if the proto directory is not what it was when the build began."""
    proto = context.plan.proto
    if not _comparable(context):
        return
    if context.plan.route is Route.CONTENT_UPDATE:  # nothing else was read
        found = proto_watch.changed_paths(proto, list(proto.fresh))
    elif state.proto_again is not None:
        found = state.proto_again()
    else:
        with proto_watch.walking_again(proto) as differences:
            found = differences()
    if found:
        raise _error(found)


def check_paths(context: BuildContext, paths: Sequence[bytes]) -> None:
    """Raise EmitError, naming them, if some paths of the proto directory are not what they were."""
    if found := proto_watch.changed_paths(context.plan.proto, paths):
        raise _error(found)


@contextlib.contextmanager
def explained(context: BuildContext) -> Iterator[None]:
    """Turn a failure into that of `check`, where the proto directory changed: it may well be the cause."""
    try:
        yield
    except (BuildstepError, OSError) as error:
        if context.plan.route is Route.UP_TO_DATE or not _comparable(context):
            raise
        with proto_watch.walking_again(context.plan.proto) as differences:
            found = differences()
        if not found:
            raise
        raise _error(found, what=f"; this build failed with: {error}") from error


def _comparable(context: BuildContext) -> bool:
    """Whether it is known what is left out: where only rsync can tell, other files may change at any time."""
    return not context.spec.exclude or context.plan.proto.exclude is not None


def _error(found: Differences, what: str = "") -> EmitError:
    named = [f"  {printable('/' + path)}: {how}" for path, how in found[:_MOST_NAMED]]
    if len(found) > _MOST_NAMED:
        named.append(f"  and {len(found) - _MOST_NAMED} more")
    first, how = found[0]
    more = f" and {plural(len(found) - 1, 'other path')}" if len(found) > 1 else ""
    return EmitError(
        f"the proto directory changed during the build: /{printable(first)} ({how}){more}{what}",
        detail="\n".join(named),
        hint="nothing was shipped; build again once nothing writes to the directory any more",
        retryable=True,
    )
