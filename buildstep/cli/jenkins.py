"""`buildstep jenkins`: which agents can build this, start a build there, follow it, fetch what it made."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from buildstep.net.jenkins import Build, Server

_EXITS = (
    "Exit codes: 0 the build succeeded, 3 it was not built, 4 it failed or is unstable, 143 it was aborted, "
    "18 the server, 2 usage."
)


@click.group("jenkins", epilog="The token comes from JENKINS_TOKEN_FILE or JENKINS_TOKEN, never from a flag.")
@click.option("--url", metavar="URL", help="The server. [JENKINS_URL]")
@click.option("--user", metavar="NAME", help="Who we are there. [JENKINS_USER]")
@click.option("--token-file", metavar="FILE", type=click.Path(path_type=Path), help="[JENKINS_TOKEN_FILE]")
@click.pass_context
def command(ctx: click.Context, url: str | None, user: str | None, token_file: Path | None) -> None:
    """Work with a Jenkins server."""
    ctx.obj = {**(ctx.obj or {}), "login": (url or "", user or "", token_file)}


def _server(ctx: click.Context) -> Server:
    from buildstep.events import Bus
    from buildstep.net import jenkins
    from buildstep.report.console import view_for

    url, user, token_file = ctx.obj["login"]
    found = jenkins.login(os.environ, url=url, user=user, token_file=token_file)
    return jenkins.Server(found, bus=Bus(view_for(sys.stderr, verbose=0, quiet=False)))


@command.command()
@click.option("--for", "manifest", metavar="FILE", help="The m.json (or .j2) that is to be built.")
@click.option("--image", metavar="REF", help="The base image, where the m.json does not say it.")
@click.option("--arch", metavar="ARCH", help="As amd64 or arm64.")
@click.option("--pkgsrc", metavar="RELEASE", help="As 2021Q4; else as a base@21.4.0 says.")
@click.option("--pool", metavar="URI", help="A backend (zfs) or a pool (zfs:zones/build/data).")
@click.option("--label", "labels", multiple=True, help="A label that it must have; repeat for more.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def agents(
    ctx: click.Context,
    /,
    manifest: str | None,
    image: str | None,
    arch: str | None,
    pkgsrc: str | None,
    pool: str | None,
    labels: tuple[str, ...],
    as_json: bool,
) -> int:
    """Which agents can build this, and why the others cannot. Exit code 3 when none can."""
    import dataclasses

    from buildstep.net.jenkins_agents import judge, needs_of

    needs = needs_of(
        _document(manifest) if manifest else {},
        image=image or "",
        pool=pool or "",
        pkgsrc=pkgsrc or "",
        arch=arch or "",
    )
    needs = dataclasses.replace(needs, labels=labels)
    verdicts = judge(_server(ctx).agents(), needs)
    if as_json:
        shown = {"needs": dataclasses.asdict(needs), "agents": [it.to_json() for it in verdicts]}
        click.echo(json.dumps(shown, indent=2))
    else:
        for verdict in verdicts:
            idle = f"{verdict.agent.idle} of {verdict.agent.executors} executors idle"
            click.echo(f"{'yes' if verdict.able else 'no':4} {verdict.agent.name}  ({idle})")
            for reason in verdict.reasons:
                click.echo(f"     {reason}")
    return 0 if any(verdict.able for verdict in verdicts) else 3


@command.command(epilog=_EXITS)
@click.argument("job")
@click.option("-p", "--parameter", "parameters", multiple=True, metavar="KEY=VALUE", help="Repeat for more.")
@click.option("--parameter-file", multiple=True, metavar="KEY=FILE", help="A value from a file: for secrets.")
@click.option("--queue-timeout", type=float, default=3600.0, show_default=True, help="Seconds in the queue.")
@click.option("--watch", "follow", is_flag=True, help="Then follow it to its end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: job, number, url, result.")
@click.pass_context
def trigger(
    ctx: click.Context,
    /,
    job: str,
    parameters: tuple[str, ...],
    parameter_file: tuple[str, ...],
    queue_timeout: float,
    follow: bool,
    as_json: bool,
) -> int:
    """Start a build of JOB (team/app/main) and wait until it has left the queue."""
    given = dict(_pair(item) for item in parameters)
    for item in parameter_file:
        key, name = _pair(item)
        given[key] = _text(name)
    with _signals():
        server = _server(ctx)
        build = server.trigger(job, given, timeout=queue_timeout)
        if not as_json:
            click.echo(build.url or f"{job} {build.number}")
        result = None
        if follow:
            result = server.watch(build, _to(sys.stderr if as_json else sys.stdout))
    if as_json:
        click.echo(json.dumps({"job": job, "number": build.number, "url": build.url, "result": result}))
    return _status(result) if result else 0


@command.command(epilog=_EXITS)
@click.argument("job")
@click.argument("number", required=False, type=int)
@click.option("--timeout", type=float, default=0.0, help="Seconds; 0 waits for ever.")
@click.pass_context
def watch(ctx: click.Context, /, job: str, number: int | None, timeout: float) -> int:
    """Show the log of a build (the last one) as it grows; the exit code is its result."""
    with _signals():
        server = _server(ctx)
        build = _build(server, job, number)
        result = server.watch(build, _to(sys.stdout), timeout=timeout)
    click.echo(f"{job} {build.number}: {result}", err=True)
    return _status(result)


@command.command()
@click.argument("job")
@click.argument("number", required=False, type=int)
@click.option("-o", "--output-dir", type=click.Path(path_type=Path), default=Path(), help="Default: here.")
@click.option("--artifact", "patterns", multiple=True, metavar="PATTERN", help="Only these, as */*.oci.tar.")
@click.option("--any-result", is_flag=True, help="Also of a build that failed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def fetch(
    ctx: click.Context,
    /,
    job: str,
    number: int | None,
    output_dir: Path,
    patterns: tuple[str, ...],
    any_result: bool,
    as_json: bool,
) -> int:
    """Download a build's image files (of the last build): all that are right, or none."""
    from buildstep.net.jenkins_fetch import fetch as fetch_files

    with _signals():
        server = _server(ctx)
        build = _build(server, job, number)
        output_dir.mkdir(parents=True, exist_ok=True)
        files = fetch_files(server, build, output_dir, patterns=patterns, any_result=any_result)
    if as_json:
        shown = {"job": job, "number": build.number, "files": [file.to_json() for file in files]}
        click.echo(json.dumps(shown, indent=2))
    else:
        for file in files:
            click.echo(file.path)
    return 0


def _signals() -> Any:
    from buildstep.cli.session import signals

    return signals()


def _build(server: Server, job: str, number: int | None) -> Build:
    from buildstep.net.jenkins import Build

    return server.latest(job) if number is None else Build(job=job, number=number)


def _status(result: str) -> int:
    from buildstep.errors import ExitCode
    from buildstep.net.jenkins import RESULTS

    return int(RESULTS.get(result, ExitCode.CI))


def _to(stream: Any) -> Callable[[str], None]:
    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write


def _pair(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{item!r} is not KEY=VALUE")
    return key, value


def _text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{name} cannot be read: {error}") from error


def _document(name: str) -> dict[str, Any]:
    from datetime import UTC, datetime

    from buildstep.errors import Fault, SpecError
    from buildstep.spec import schema, template

    text = schema.read_file(name)
    if name.endswith(".j2"):
        text = template.render(
            text,
            source=name,
            git=lambda: template.git_facts(Path.cwd()),
            moment=datetime.now(UTC),
            environ=os.environ,
            defines={},
        )
    found = schema.parse(text, name)
    if not isinstance(found, dict):
        raise SpecError(name, [Fault(where="$", message="is not an object")])
    return found
