"""Manifests as Jinja2 templates, and the build stamp that names a version in them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from buildstep.errors import Fault, SpecError
from buildstep.spec import schema

GitFacts = Mapping[str, object]


def git_facts(folder: Path, *, tell: Callable[[str], None] | None = None) -> dict[str, object]:
    """Return what git knows of the checkout that a directory is in, for templates.

    The branch is BRANCH_NAME's, else GIT_BRANCH's, else the one that is checked out: a CI server checks out a
    commit, not a branch, and tells the branch in its environment. tell: is told where another one than the
    variable's is checked out.
    Errors: ToolMissing where there is no git. Where there is no repository, all texts are empty.
    """
    from buildstep.system import process

    def ask(*words: str) -> str:
        return process.query(["git", "-C", os.fspath(folder), *words], ok=range(256)).stdout.strip()

    commit = ask("rev-parse", "HEAD")
    variable = "BRANCH_NAME" if os.environ.get("BRANCH_NAME") else "GIT_BRANCH"
    named = os.environ.get(variable, "").removeprefix("origin/" if variable == "GIT_BRANCH" else "")
    attached = ask("symbolic-ref", "--quiet", "--short", "HEAD") if tell is not None or not named else ""
    if tell is not None and named and attached not in ("", named):
        tell(f"the branch of git and stamp is {named}, as {variable} says; {attached} is checked out")
    return {
        "commit": commit,
        "short": ask("rev-parse", "--short", "HEAD"),
        "branch": named or attached or "detached",
        "dirty": bool(ask("status", "--porcelain", "--untracked-files=no")),
        "tag": ask("describe", "--tags", "--exact-match"),
    }


def stamp(git: GitFacts, moment: datetime) -> str:
    """Return `<branch>-<YYYYMMDDTHHMMSSZ>-g<short>[-dirty]`, as the Triton build tools write it.

    A branch may be called feature/x, but this becomes a version and that a file name, so whatever
    a version cannot hold becomes a dash.
    """
    branch = re.sub(r"[^A-Za-z0-9._+-]", "-", str(git["branch"]))
    dirty = "-dirty" if git.get("dirty") else ""
    return f"{branch}-{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}-g{git['short']}{dirty}"


def unused(template: str, defines: Collection[str]) -> tuple[Fault, ...]:
    """Return a fault for each define that a template has no name for; none where its syntax is bad."""
    from jinja2 import TemplateSyntaxError, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        parsed = ImmutableSandboxedEnvironment().parse(template)
        names = {node.name for node in parsed.find_all(nodes.Name)}
    except TemplateSyntaxError:  # which `render` tells
        return ()
    message = "the template has no such name"
    return tuple(
        Fault(where=f"-D {name}", message=message, hint=schema.near(name, names) or "leave it out")
        for name in defines
        if name not in names
    )


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


_FILTERS: Final[Mapping[str, Callable[[str], list[str]]]] = {"words": shlex.split, "lines": _lines}


def render(
    template: str,
    *,
    source: str,
    git: Callable[[], GitFacts],
    moment: datetime,
    environ: Mapping[str, str],
    defines: Mapping[str, str],
) -> str:
    """Return a template's text, given `stamp`, `git`, `env` and the defines; a define wins over the rest.

    Beside Jinja's own filters there are `words`, which parts text as a shell does, and `lines`, which leaves
    out empty ones. git: called only if the template uses `git` or `stamp`.
    Errors: SpecError for bad syntax (with its line) and for a name that is not given; whatever git raises.
    """
    # Jinja2 costs more to import than most commands take.
    from jinja2 import (
        StrictUndefined,
        TemplateError,
        TemplateSyntaxError,
        UndefinedError,
        meta,
    )
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # A sandbox, because an agent renders the templates of changes that nobody has read yet.
    jinja = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    jinja.filters |= _FILTERS
    given: dict[str, object] = {"env": dict(environ), **defines}
    try:
        used = meta.find_undeclared_variables(jinja.parse(template))
        if (used & {"git", "stamp"}) - given.keys():
            facts = git()
            given = {"git": facts, "stamp": stamp(facts, moment)} | given
        return jinja.from_string(template).render(given)
    except TemplateSyntaxError as error:
        fault = Fault(where=f"line {error.lineno}", message=error.message or "bad template")
    except UndefinedError as error:
        fault = Fault(where="template", message=str(error), hint="give it with -D NAME=VALUE")
    except TemplateError as error:
        fault = Fault(where="template", message=error.message or str(error))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        fault = Fault(where="template", message=f"{type(error).__name__}: {error}")
    raise SpecError(source, [fault])
