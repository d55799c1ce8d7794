"""A finished image in a dataset, ready for tests; and the error of checks that failed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from buildstep.checks.image import Image
from buildstep.errors import CheckError
from buildstep.events import Bus, Checked
from buildstep.pool.interface import Backend, Dataset
from buildstep.rootfs import run_image
from buildstep.rootfs.run_config import RunConfig
from buildstep.rootfs.run_image import ImageSandbox
from buildstep.spec.fields import Limits
from buildstep.system.root import Root
from buildstep.system.text import plural


def image_of(
    backend: Backend,
    dataset: Dataset,
    root: Root,
    config: RunConfig,
    *,
    checks: Mapping[str, Any],
    bus: Bus,
    within: tuple[Mapping[str, str], Limits],
) -> Image:
    """Return the image in a dataset, as tests see it: each that runs something has the tree to itself.

    root: its file system, in the dataset; within: the CI host's environment, and what a command may take.
    """
    prefix = os.path.relpath(root.path, dataset.path)
    environ, most = within

    @contextlib.contextmanager
    def enter() -> Iterator[ImageSandbox]:
        with backend.scratch(dataset) as view:
            inside = Root(view / prefix)
            with run_image.enter(inside, config, bus=bus, environ=environ, most=most) as sandbox:
                yield sandbox

    rows = checks.get("globalEnvVars", ())
    env = {row["key"]: row["value"] for row in rows}
    return Image(config=config, root=root, enter=enter, env=env)


def error(failed: Sequence[Checked]) -> CheckError:
    """Return the error of checks that failed: each with what it found."""
    first = failed[0]
    names = [event.check if event.group == "rule" else f"{event.group} {event.check}" for event in failed]
    rows = zip(names, failed, strict=True)
    return CheckError(
        f"{plural(len(failed), 'check')} of the image failed: {names[0]}: {first.message}",
        detail="\n".join(f"{name}: {line}" for name, event in rows for line in event.lines),
        hint=_hint(first),
    )


def _hint(first: Checked) -> str:
    if first.group != "rule":
        return "--keep-on-failure keeps the tree of a build, and --shell-on-failure opens a shell in it"
    name = first.check
    if name == "secret":
        return (
            'remove it, or say why it may be there in the build part of m.json: "trust": {"allow_secrets":'
            ' [{"path": "/PATH", "reason": "...", "until": "2027-01-31"}]}'
        )
    return (
        f'mend it, or let it pass in the build part of m.json: "allow": {{"{name}": ["/PATH"]}};'
        f' "checks": {{"rules": {{"{name}": "warn"}}}} makes it a warning'
    )
