"""`commandTests` of container-structure-test: what a command in the image prints, and how it ends."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from string import Template

from buildstep.checks.expressions import problems, shown
from buildstep.checks.image import Image, Test
from buildstep.rootfs.run_image import How, ImageSandbox, Outcome

_ANSWER = 16 << 20
"""Bytes of a stream that a test can look at; a command that prints more fails."""

_TIMEOUT = 300
"""Seconds that a command may take if the test does not say."""


def run(test: Test, image: Image) -> Iterator[str]:
    """Yield why the test fails. It has a tree to itself, so that none depends on what another one did."""
    how = How(env=_env(test, image), timeout=test.get("timeout", _TIMEOUT))
    with image.enter() as inside:
        for argv in test.get("setup", ()):
            done = inside.call(argv, how)
            if done.status != 0 or done.problem:
                yield f"the setup command {shlex.join(argv)} {_ended(done, inside)}"
                return
        argv = [test["command"], *test.get("args", ())]
        yield from _judged(test, inside.call(argv, how, answer=_ANSWER), inside)
        for argv in test.get("teardown", ()):
            done = inside.call(argv, how)
            if done.status != 0 or done.problem:
                yield f"the teardown command {shlex.join(argv)} {_ended(done, inside)}"


def _judged(test: Test, done: Outcome, inside: ImageSandbox) -> Iterator[str]:
    if done.problem:
        yield f"{done.problem}{_last(inside)}"
        return
    wanted = test.get("exitCode", 0)
    if done.status != wanted:
        yield f"it exited with status {done.status}, and {wanted} is expected{_last(inside)}"
    for what, text, kind in (
        ("standard output", done.stdout, "Output"),
        ("standard error", done.stderr, "Error"),
    ):
        expected, excluded = test.get(f"expected{kind}", ()), test.get(f"excluded{kind}", ())
        yield from problems(text, what, expected=expected, excluded=excluded)


def _ended(done: Outcome, inside: ImageSandbox) -> str:
    return f"{done.problem or f'exited with status {done.status}'}{_last(inside)}"


def _last(inside: ImageSandbox) -> str:
    lines = inside.tail[-5:]
    return f"; it printed {shown(os.linesep.join(lines))}" if lines else ""


def _env(test: Test, image: Image) -> Mapping[str, str]:
    """Return the variables of a test, in which `$NAME` and `${NAME}` stand for those from before."""
    env = dict(image.config.env)
    rows: Sequence[Mapping[str, str]] = test.get("envVars", ())
    for key, value in (*image.env.items(), *((row["key"], row["value"]) for row in rows)):
        env[key] = Template(value).safe_substitute(env)
    return env
