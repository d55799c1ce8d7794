"""`buildstep service plan`, `apply` and the verbs: what is done with services, and what would be."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import service_values, values
from buildstep.cli.options import JSON, show
from buildstep.cli.service_options import PATTERNS, chosen, with_repository

if TYPE_CHECKING:
    from buildstep.services.apply import Outcome
    from buildstep.services.flow import How, Services
    from buildstep.services.plan import Plan, Wish
    from buildstep.services.repository import Repository

ONES = click.argument(
    "patterns", metavar="KEY...", nargs=-1, required=True, shell_complete=values.SERVICE_KEYS
)
ALONE = click.option(
    "--nodeps", "alone", is_flag=True, help="Only these, not what they need or what needs them."
)
CONSUMERS = click.option("--consumers", is_flag=True, help="With all that needs them.")
AGAIN = click.option("-r", "--again", is_flag=True, help="Do again what is done, even if nothing changed.")


def running(job: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a run."""
    for option in (
        JSON,
        click.option("-q", "--quiet", is_flag=True, help="Only errors and the result."),
        click.option("-v", "--verbose", is_flag=True, help="Show all that actions print, on a terminal too."),
        click.option("-n", "--dry-run", is_flag=True, help="Show the plan and do nothing."),
        click.option("-k", "--keep-going", is_flag=True,
                     help="After a failure, go on with all that does not depend on it."),
        click.option("-j", "--jobs", type=click.IntRange(1), default=None, metavar="N",
                     help="Services at a time (default: 4, or one for each processor)."),
    ):  # fmt: skip
        job = option(job)
    return job


def names_of(repository: Repository, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of the services that patterns match; none for none, which means all."""
    return tuple(service.key for service in chosen(repository, patterns)) if patterns else ()


def run(
    repository: Repository,
    wish: Wish,
    how: How,
    after: Callable[[Services, Any], None] = lambda _services, _view: None,
    **shown: bool,
) -> Outcome | None:
    """Execute a wish, or show its plan; show what came of it. after: what else is done where none failed;
    shown: the options `dry_run`, `quiet`, `verbose` and `as_json` of `running`.

    Returns the outcome, None for a plan. Raises ServiceError if a service failed.
    """
    from buildstep.report.job_view import job_view
    from buildstep.services.apply import check
    from buildstep.services.console import View, plan_lines, summary
    from buildstep.services.flow import Services
    from buildstep.services.life_cycle import Verb

    as_json, verbose = shown["as_json"], shown["verbose"]
    with Services(repository, os.environ, secret=Verb.INSTALL in wish.verbs) as services:
        if shown["dry_run"]:
            plan = services.plan(wish)
            show(plan.to_json() if as_json else {}, plan_lines(plan, everything=verbose), as_json=as_json)
            return None
        with View(job_view(sys.stderr, verbose=verbose, quiet=shown["quiet"])) as view:
            outcome = services.run(wish, view, how)
            if not outcome.failed:
                after(services, view)
    text = summary(outcome)
    show(outcome.to_json(), [text], as_json=as_json, done=text)
    check(outcome)
    return outcome


def _verb(name: str, words: Sequence[str]) -> Callable[[Callable[..., Any]], Any]:
    """Make a command of a verb. words: of the options `alone`, `consumers`, `again`, those that it has."""
    known = {"alone": ALONE, "consumers": CONSUMERS, "again": AGAIN}

    def decorate(job: Callable[..., Any]) -> Any:
        @functools.wraps(job)
        def command(
            repository: Repository,
            *,
            patterns: Sequence[str],
            jobs: int | None,
            keep_going: bool,
            **rest: Any,
        ) -> None:
            from buildstep.services.flow import VERBS, How
            from buildstep.services.plan import Wish

            names = names_of(repository, patterns)
            options = {word: rest.pop(word) for word in words}
            wish = Wish(verbs=VERBS[name], names=names, named=bool(names), **options)
            run(repository, wish, How(at_once=jobs or 0, keep_going=keep_going), **rest)

        made: Callable[..., Any] = with_repository()(running(command))
        for word in words:
            made = known[word](made)
        named: Callable[..., Any] = (PATTERNS if name in ("apply", "cleanup") else ONES)(made)
        return click.command(name)(named)

    return decorate


@_verb("apply", ("again",))
def apply() -> None:
    """Bring services, all or those that keys match, to what they are described as: install what is new, do
    again what changed, start what is down.

    What services need comes first. A disabled service is left out. `buildstep service plan` shows it before.
    Exit code 23 if a service failed; the same command goes on from there.
    """


@_verb("install", ("alone", "again"))
def install() -> None:
    """Install services, and what they need: check requirements, lay out files, prepare, configure, start.

    What is done is not done again, unless what goes into it changed. One that runs is stopped and started
    only where its configuration says so.
    """


@_verb("start", ("alone",))
def start() -> None:
    """Start services, after those that they need; each must then be up."""


@_verb("stop", ("alone",))
def stop() -> None:
    """Stop services, after those that need them: first gracefully, then hard if they are not down.

    `buildstep service apply` starts them again; `disable` keeps them down.
    """


@_verb("restart", ("alone", "consumers"))
def restart() -> None:
    """Stop services and start them. What needs them stays up, is checked, and started where it is down.

    --consumers: what needs them is stopped before and started after.
    """


@_verb("halt", ())
def halt() -> None:
    """Stop services the hard way, at once; nothing else is stopped."""


@_verb("uninstall", ("consumers",))
def uninstall() -> None:
    """Stop services, and remove them from where they run. Their data stay, and so do their parameters.

    Refused while others that are installed need them.
    """


@_verb("test", ())
def test() -> None:
    """Run the tests of services, which must be up."""


@_verb("cleanup", ())
def cleanup() -> None:
    """Let services, all that are installed or those that keys match, run their `cleanup`."""


@click.command("plan")
@PATTERNS
@click.option("--for", "verb", default="apply", metavar="VERB", show_default=True,
              shell_complete=service_values.SERVICE_VERBS,
              help="What is planned: apply, start, stop, restart, uninstall, ...")  # fmt: skip
@ALONE
@CONSUMERS
@AGAIN
@with_repository()
@click.option("-v", "--verbose", is_flag=True, help="Also what is skipped because nothing asks for it.")
@JSON
def plan(
    repository: Repository, *, patterns: Sequence[str], verb: str, verbose: bool, as_json: bool, **more: bool
) -> None:
    """Show what would run, where and why; nothing is changed, and no place is asked.

    `run` and `skip` say what happens; `if` is decided by what an action before it says, as when `configure`
    says whether a restart is needed.
    """
    from buildstep.errors import UsageError
    from buildstep.services.console import plan_lines
    from buildstep.services.flow import VERBS, Services
    from buildstep.services.life_cycle import Verb
    from buildstep.services.plan import Wish
    from buildstep.spec.schema import near

    if verb not in VERBS:
        raise UsageError(f"{verb!r} is no verb", hint=near(verb, VERBS) or f"one of {', '.join(VERBS)}")
    if patterns and patterns[0] in VERBS and not repository.find(patterns[0]):
        raise UsageError(
            f"no service has the key {patterns[0]}",
            hint=f"`buildstep service plan --for {' '.join(patterns)}` plans a verb",
        )
    names = names_of(repository, patterns)
    with Services(repository, os.environ, secret=Verb.INSTALL in VERBS[verb]) as services:
        found: Plan = services.plan(Wish(verbs=VERBS[verb], names=names, named=bool(names), **more))
    show(found.to_json() if as_json else {}, plan_lines(found, everything=verbose), as_json=as_json)


@click.command("purge")
@ONES
@click.option("--data", is_flag=True, help="Their data as well; there is no way back.")
@CONSUMERS
@with_repository()
@running
def purge(
    repository: Repository,
    *,
    patterns: Sequence[str],
    data: bool,
    consumers: bool,
    jobs: int | None,
    keep_going: bool,
    **rest: Any,
) -> None:
    """Uninstall services and remove them from the repository, with their logs and what their places keep.

    Without --data their data stay where they are, and nothing knows of them any more.
    """
    from buildstep.services.flow import How, Services
    from buildstep.services.life_cycle import Verb
    from buildstep.services.plan import Graph, Wish
    from buildstep.services.relations import relations

    names = names_of(repository, patterns)
    if consumers:
        more = Graph(relations(repository).needs).consumers(names)
        names = (*names, *sorted(more - set(names)))
    with Services(repository, os.environ, secret=False) as services:
        services.check_purge(names)
    verbs = (Verb.UNINSTALL, Verb.REMOVE_DATA) if data else (Verb.UNINSTALL,)

    def remove(services: Services, view: Any) -> None:
        services.purge(names, view)

    how = How(at_once=jobs or 0, keep_going=keep_going)
    run(repository, Wish(verbs=verbs, names=names, alone=True), how, after=remove, **rest)


@click.command("export")
@ONES
@with_repository()
@running
def export(
    repository: Repository, *, patterns: Sequence[str], jobs: int | None, keep_going: bool, **rest: Any
) -> None:
    """Let services save their data, and print what `import` needs to bring each back."""
    from buildstep.cli.options import echo
    from buildstep.services.flow import VERBS, How
    from buildstep.services.plan import Wish

    names = names_of(repository, patterns)
    how = How(at_once=jobs or 0, keep_going=keep_going)
    outcome = run(repository, Wish(verbs=VERBS["export"], names=names, alone=True), how, **rest)
    if outcome is not None and not rest["as_json"]:
        for row in outcome.results:
            for result in row.results.values():
                echo(f"{row.key}  {result}")


@click.command("import")
@click.argument("key", shell_complete=values.SERVICE_KEYS)
@click.argument("ident", metavar="ID", shell_complete=service_values.SERVICE_EXPORTS)
@with_repository()
@running
def import_(
    repository: Repository, *, key: str, ident: str, jobs: int | None, keep_going: bool, **rest: Any
) -> None:
    """Bring back the data of a service that `export` saved under ID."""
    from buildstep.services.flow import VERBS, How
    from buildstep.services.plan import Wish

    names = (repository.one(key).key,)
    how = How(at_once=jobs or 0, keep_going=keep_going, arguments={"id": ident})
    run(repository, Wish(verbs=VERBS["import"], names=names, alone=True), how, **rest)
