"""`buildstep jenkins`: which nodes can build this, start a build there, follow it, fetch what it made."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, PROFILES, pairs, read_stdin, show, tell

if TYPE_CHECKING:
    from buildstep.net.jenkins import JenkinsBuild, JenkinsServer

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
    ctx.obj = Login(url or "", user or "", token_file)


class Login(NamedTuple):
    """What the options say of the server; the environment gives what they leave out."""

    url: str
    user: str
    token_file: Path | None


def _server() -> JenkinsServer:
    from buildstep.events import Bus
    from buildstep.net import jenkins
    from buildstep.net.jenkins_login import login as find_login
    from buildstep.report.console import view_for

    login: Login = click.get_current_context().obj
    found = find_login(os.environ, **login._asdict())
    return jenkins.JenkinsServer(found, bus=Bus(view_for(sys.stderr, verbose=0, quiet=False)))


_JOB = click.argument("job")
_NUMBER = click.argument("number", required=False, type=int)


@command.command()
@click.argument("words", metavar="[MANIFEST]", nargs=-1, shell_complete=values.FILES)
@click.option(
    "-m",
    "--manifest",
    "--for",
    "manifest",
    metavar="FILE|JSON",
    shell_complete=values.FILES,
    help="What is to be built (same as MANIFEST; default: the m.json or m.json.j2 that is here, if one is).",
)
@click.option("-D", "defines", multiple=True, callback=pairs, metavar="KEY=VALUE", help="For a template.")
@PROFILES
@click.option(
    "--image",
    default="",
    metavar="REF",
    shell_complete=values.REFERENCES,
    help="The base image, where the m.json does not say it.",
)
@click.option("--arch", default="", metavar="ARCH", help="As amd64 or arm64.")
@click.option("--pkgsrc", default="", metavar="RELEASE", help="As 2021Q4; else as a base@21.4.0 says.")
@click.option(
    "--pool",
    default="",
    metavar="URI",
    shell_complete=values.POOLS,
    help="A backend (zfs) or a pool (zfs:zones/build/data).",
)
@click.option("--label", "labels", multiple=True, help="A label that it must have; repeat for more.")
@JSON
def agents(
    words: tuple[str, ...],
    manifest: str | None,
    defines: dict[str, str],
    profiles: tuple[str, ...],
    labels: tuple[str, ...],
    as_json: bool,
    **wanted: str,
) -> int:
    """Show which Jenkins nodes can build this, and why the others cannot. Exit code 3 when none can."""
    import dataclasses

    from buildstep.cli.inputs import find_inputs
    from buildstep.net.jenkins_agents import judge, list_nodes, needs_of
    from buildstep.spec.document import default_manifest

    named, proto = find_inputs(words, manifest)
    if proto is not None:
        raise click.UsageError(f"{proto} is no m.json")
    named = named or default_manifest(Path.cwd())
    document = _document(named, defines, profiles) if named or defines else {}
    needs = dataclasses.replace(needs_of(document, **wanted), labels=labels)
    verdicts = judge(list_nodes(_server()), needs)
    lines = []
    for verdict in verdicts:
        idle = f"{verdict.node.idle} of {verdict.node.executors} executors idle"
        lines.append(f"{'yes' if verdict.able else 'no':4} {verdict.node.name}  ({idle})")
        lines += [f"     {reason}" for reason in verdict.reasons]
    facts = {"needs": dataclasses.asdict(needs), "agents": [it.to_json() for it in verdicts]}
    show(facts, lines, as_json=as_json)
    return 0 if any(verdict.able for verdict in verdicts) else 3


@command.command(epilog=_EXITS)
@_JOB
@click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    callback=pairs,
    metavar="KEY=VALUE",
    help="Repeat for more.",
)
@click.option(
    "--parameter-file", "files", multiple=True, callback=pairs, metavar="KEY=FILE",
    help="A value from a file: for secrets.",
)  # fmt: skip
@click.option("--queue-timeout", type=float, default=3600.0, show_default=True, help="Seconds in the queue.")
@click.option("--watch", "follow", is_flag=True, help="Then follow it to its end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: job, number, url, result.")
def trigger(
    job: str,
    parameters: dict[str, str],
    files: dict[str, str],
    queue_timeout: float,
    follow: bool,
    as_json: bool,
) -> int:
    """Start a build of JOB (team/app/main) and wait until it has left the queue."""
    given = parameters | {key: _text(name) for key, name in files.items()}
    with _signals():
        server = _server()
        build = server.trigger(
            job, given, timeout=queue_timeout, left=lambda url: tell(f"it may still be in the queue: {url}")
        )
        if not as_json:
            line = build.url or f"{job} {build.number}"
            show({}, [line], as_json=False, done=f"the build was started: {line}")
        result = None
        if follow:
            result = server.watch(build, _to(sys.stderr if as_json else sys.stdout))
    if as_json:
        facts = {"job": job, "number": build.number, "url": build.url, "result": result}
        show(facts, (), as_json=True, done=f"the build was started: {build.url}")
    return _status(result) if result else 0


@command.command(epilog=_EXITS)
@_JOB
@_NUMBER
@click.option("--timeout", type=float, default=0.0, help="Seconds; 0 waits for ever.")
def watch(job: str, number: int | None, timeout: float) -> int:
    """Show the log of a build (the last one) as it grows; the exit code is its result."""
    with _signals():
        server = _server()
        build = _build(server, job, number)
        result = server.watch(build, _to(sys.stdout), timeout=timeout)
    tell(f"{job} {build.number}: {result}")
    return _status(result)


@command.command()
@_JOB
@_NUMBER
@click.option("-o", "--output-dir", type=click.Path(path_type=Path), default=Path(), help="Default: here.")
@click.option("--artifact", "patterns", multiple=True, metavar="PATTERN", help="Only these, as */*.oci.tar.")
@click.option("--any-result", is_flag=True, help="Also of a build that failed.")
@JSON
def fetch(
    job: str, number: int | None, output_dir: Path, patterns: tuple[str, ...], any_result: bool, as_json: bool
) -> None:
    """Download a build's image files (of the last build): all of them verified, or none."""
    from buildstep.net.jenkins_fetch import fetch as fetch_files

    with _signals():
        server = _server()
        build = _build(server, job, number)
        output_dir.mkdir(parents=True, exist_ok=True)
        files = fetch_files(server, build, output_dir, patterns=patterns, any_result=any_result)
    facts = {"job": job, "number": build.number, "files": [file.to_json() for file in files]}
    done = f"{len(files)} files were fetched to {output_dir}"
    show(facts, (os.fspath(file.path) for file in files), as_json=as_json, done=done)


def _signals() -> Any:
    from buildstep.cli.guard import signals

    return signals()


def _build(server: JenkinsServer, job: str, number: int | None) -> JenkinsBuild:
    from buildstep.net.jenkins import JenkinsBuild

    return server.latest(job) if number is None else JenkinsBuild(job=job, number=number)


def _status(result: str) -> int:
    from buildstep.errors import ExitCode
    from buildstep.net.jenkins import RESULTS

    return int(RESULTS.get(result, ExitCode.CI))


def _to(stream: Any) -> Callable[[str], None]:
    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write


def _text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{name} cannot be read: {error}") from error


def _document(name: str | None, defines: dict[str, str], profiles: tuple[str, ...] = ()) -> dict[str, Any]:
    from buildstep.cli.build import read_here
    from buildstep.errors import Fault, SpecError

    found = read_here(name, defines, read_stdin() if name == "-" else "", profiles=profiles)
    faults = list(found.faults)
    if not isinstance(found.value, dict):
        faults.append(Fault(where="$", message="is not an object"))
    if faults:
        raise SpecError(found.source, faults)
    return cast("dict[str, Any]", found.value)
