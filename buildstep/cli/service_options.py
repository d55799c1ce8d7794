"""What the commands that look at services share: the repository, keys of services, answers."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from buildstep.cli import values
from buildstep.cli.options import pairs, tell

if TYPE_CHECKING:
    from buildstep.services.answers import Answers, Prompt
    from buildstep.services.hrd import Ask
    from buildstep.services.repository import Repository, Service

ROOT = click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="DIR",
    envvar="BUILDSTEP_SERVICES", show_envvar=True,
    help="The repository (default: the nearest directory, from here upwards, with servicetemplates/).",
)  # fmt: skip
TEMPLATES = click.option(
    "--templates", multiple=True, metavar="[DOMAIN=]DIR", shell_complete=values.FOLDERS,
    help="More templates, of this domain where they name none.",
)  # fmt: skip
PATTERNS = click.argument("patterns", metavar="[KEY]...", nargs=-1, shell_complete=values.SERVICE_KEYS)


def with_repository(*, strict: bool = True) -> Callable[[Callable[..., int | None]], Callable[..., int]]:
    """Give a command the options of a repository, and call it with a `Repository` before its own options. It
    returns its exit code; None is 0. strict: see `Repository.open`."""

    def decorate(job: Callable[..., int | None]) -> Callable[..., int]:
        @functools.wraps(job)
        def run(root: Path | None, templates: Sequence[str], **options: Any) -> int:
            from buildstep.cli import guard

            return guard.guarded(lambda: job(open_repository(root, templates, strict=strict), **options) or 0)

        return ROOT(TEMPLATES(run))

    return decorate


def open_repository(root: Path | None, templates: Sequence[str] = (), *, strict: bool = True) -> Repository:
    """Return the repository of the options --root and --templates. Raises SpecError, UsageError."""
    from buildstep.errors import UsageError
    from buildstep.services.repository import Repository, find_root
    from buildstep.spec import config as configs

    found = dict(configs.load(os.environ, Path.cwd()).templates)
    more: list[tuple[str, Path]] = []
    for text in templates:
        domain, equals, path = text.partition("=")
        more.append((domain, Path(path)) if equals else ("", Path(text)))
    for domain, directory in (more := [*found.items(), *more]):
        if not directory.is_dir():
            raise UsageError(f"{directory} is no directory of templates{f' of {domain}' if domain else ''}")
    return Repository.open(root or find_root(Path(".")), more, strict=strict)


def chosen(repository: Repository, patterns: Sequence[str]) -> list[Service]:
    """Return the services that patterns match, in the order of the repository; all without a pattern.

    Raises SpecError with every pattern that matches none.
    """
    from buildstep.errors import SpecError

    if not patterns:
        return list(repository.services.values())
    found: set[str] = set()
    faults = []
    for pattern in patterns:
        services = repository.find(pattern)
        if not services:
            faults.append(repository.choice_fault(pattern, services))
        found.update(service.key for service in services)
    if faults:
        raise SpecError("services", faults)
    return [service for key, service in repository.services.items() if key in found]


class Given(NamedTuple):
    """What the options of `answering` say. asks: whether a person can be asked."""

    data: Sequence[str]
    files: Sequence[Path]
    defines: dict[str, str]
    asks: bool

    def answers(self) -> Answers:
        """Return the answers, of which the first that fits wins. Raises SpecError."""
        from buildstep.services.answers import Answers, Source, parse_data, read_answers

        sources = [Source("-D", self.defines), *(Source("--data", parse_data(text)) for text in self.data)]
        return Answers([*sources, *map(read_answers, self.files)])

    @property
    def prompt(self) -> Prompt | None:
        """What asks a person."""
        return _prompt if self.asks else None


def answering(job: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that answer questions, and call it with `given`, a `Given`."""

    @functools.wraps(job)
    def run(
        *args: Any,
        data: Sequence[str],
        files: Sequence[Path],
        defines: dict[str, str],
        non_interactive: bool,
        **options: Any,
    ) -> Any:
        asks = not non_interactive and _person()
        return job(*args, given=Given(data, files, defines, asks), **options)

    for option in (
        click.option(
            "--non-interactive", is_flag=True,
            help="Ask nobody: questions get their defaults (the default in CI, and without a terminal).",
        ),
        click.option(
            "--answers", "files", multiple=True, metavar="FILE", shell_complete=values.FILES,
            type=click.Path(path_type=Path), help="Answers for one service or many: HRD, or .toml or .json.",
        ),
        click.option("--data", multiple=True, metavar="TEXT", help="Answers: 'k:v k2:v2', or 'k=v # k2=v2'."),
        click.option(
            "-D", "defines", multiple=True, metavar="KEY=VALUE", callback=pairs, help="An answer."
        ),
    ):  # fmt: skip
        run = option(run)
    return run


def _person() -> bool:
    """Return whether somebody sits at a terminal and can be asked."""
    return not os.environ.get("CI") and sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _prompt(service: str, key: str, ask: Ask) -> str:
    """Ask the person at the terminal, again for an answer that is none. Raises Interrupted for Ctrl-C."""
    from buildstep.errors import Fault, SpecError
    from buildstep.services.answers import MISSING
    from buildstep.services.questions import answered

    about = ask.description or key
    choices = f" ({', '.join(ask.choices)})" if ask.choices else ""
    left = ask.retry
    while True:
        given = str(
            click.prompt(f"{service}: {about}{choices}", default=ask.default, err=True, hide_input=False)
        )
        faults: list[Fault] = []
        if answered(ask, key, given, key, faults) is not MISSING:
            return given
        for fault in faults:
            tell(str(fault))
        if left is not None:
            left -= 1
            if left < 0:
                raise SpecError("answers", faults)
