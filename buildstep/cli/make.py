"""`buildstep make`: what Makefile.inc asks; not for typing, and hidden from the help."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from buildstep.cli.make_state import Watched


@click.group("make", hidden=True)
def command() -> None:
    """What Makefile.inc asks."""


_STATE = click.option("--state", required=True, type=click.Path(path_type=Path))
_PROTO = click.option("--proto", required=True, type=click.Path(path_type=Path))
_FILES = click.option("--file", "files", multiple=True, type=click.Path(path_type=Path))
_GIT = click.option("--git", is_flag=True)


@command.command()
def stamp() -> None:
    """Print <branch>-<time>-g<commit>[-dirty] of the checkout we are in."""
    from datetime import UTC, datetime

    from buildstep.errors import UsageError
    from buildstep.spec import template

    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)
    facts = template.git_facts(Path.cwd())
    if not facts["commit"]:
        raise UsageError("there is no commit to make a STAMP of", hint="commit first, or set VERSION")
    click.echo(template.stamp(facts, moment))


@command.command()
@_STATE
@_PROTO
@_FILES
@_GIT
def stale(state: Path, proto: Path, files: tuple[Path, ...], git: bool) -> None:
    """Print why the image has to be built, or nothing."""
    from buildstep.cli import make_state

    why = make_state.why_stale(state, _watched(proto, files, git))
    if why:
        click.echo(why)


@command.command()
@_STATE
@_PROTO
@_FILES
@_GIT
def begin(state: Path, proto: Path, files: tuple[Path, ...], git: bool) -> None:
    """Note what a build starts from."""
    from buildstep.cli import make_state

    if not make_state.begin(state, _watched(proto, files, git)):
        click.echo("image: nothing has changed", err=True)


@command.command()
@_STATE
def finish(state: Path) -> None:
    """Take the build's result, and print the paths of its files."""
    from buildstep.cli import make_state

    for path in make_state.finish(state):
        click.echo(path)


@command.command()
@_STATE
@click.option("--allow-dirty", is_flag=True)
def publishable(state: Path, allow_dirty: bool) -> None:
    """Print the path of the manifest that may be published."""
    from buildstep.cli import make_state

    click.echo(make_state.publishable(state, allow_dirty=allow_dirty))


@command.command()
@_STATE
@click.option("--output", required=True, type=click.Path(path_type=Path))
def clean(state: Path, output: Path) -> None:
    """Remove what the component's builds made."""
    from buildstep.cli import make_state

    for path in make_state.clean(state, output):
        click.echo(f"removed {path}")


@command.command()
@click.option("--manifest", required=True, type=click.Path(path_type=Path))
def name(manifest: Path) -> None:
    """Print the image's name in a manifest."""
    from datetime import UTC, datetime

    from buildstep.cli import make_state
    from buildstep.spec import schema, template

    text = schema.read_file(os.fspath(manifest))
    if manifest.suffix == ".j2":
        text = template.render(
            text,
            source=os.fspath(manifest),
            git=lambda: template.git_facts(Path.cwd()),
            moment=datetime.now(UTC),
            environ=os.environ,
            defines={},
        )
    click.echo(make_state.manifest_name(manifest, text))


def _watched(proto: Path, files: tuple[Path, ...], git: bool) -> Watched:
    from buildstep.cli.make_state import Watched

    identity = ""
    if git:
        from buildstep.spec import template

        facts = template.git_facts(Path.cwd())
        dirt = " with changes" if facts["dirty"] else ""
        identity = f"{facts['branch']} at {facts['short']}{dirt}"
    return Watched(proto=proto, files=files, git=identity)
