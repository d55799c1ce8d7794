"""`buildstep make`: what Makefile.inc asks; not for typing, and hidden from the help."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from buildstep.cli.options import echo, tell

if TYPE_CHECKING:
    from buildstep.cli.make_state import Watched


@click.group("make", hidden=True)
def command() -> None:
    """KeptResolution what Makefile.inc asks."""


_STATE = click.option("--state", required=True, type=click.Path(path_type=Path))


def _watched(job: Callable[[Path, Watched], None]) -> Callable[..., None]:
    """Give a command --state, --proto, --file and --git, and call it with the state and a Watched."""

    @_STATE
    @click.option("--proto", required=True, type=click.Path(path_type=Path))
    @click.option("--file", "files", multiple=True, type=click.Path(path_type=Path))
    @click.option("--git", is_flag=True)
    @functools.wraps(job)
    def run(state: Path, proto: Path, files: tuple[Path, ...], git: bool) -> None:
        from buildstep.cli.make_state import Watched
        from buildstep.spec import template
        from buildstep.spec.ignore_file import IGNORE_FILE

        identity = ""
        if git:
            facts = template.git_facts(Path.cwd())
            dirt = " with changes" if facts["dirty"] else ""
            identity = f"{facts['branch']} at {facts['short']}{dirt}"
        ignore = Path(os.path.abspath(proto)).parent / IGNORE_FILE
        job(state, Watched(proto=proto, files=(*files, ignore), git=identity))

    return run


@command.command()
def stamp() -> None:
    """Print <branch>-<time>-g<commit>[-dirty] of the checkout we are in."""
    from buildstep.errors import UsageError
    from buildstep.spec import template
    from buildstep.spec.document import build_time

    facts = template.git_facts(Path.cwd(), tell=lambda text: tell(f"buildstep: {text}"))
    if not facts["commit"]:
        raise UsageError("there is no commit to make a STAMP of", hint="commit first, or set VERSION")
    echo(template.stamp(facts, build_time(os.environ)))


@command.command()
@_watched
def stale(state: Path, watched: Watched) -> None:
    """Print why the image has to be built, or nothing."""
    from buildstep.cli import make_state

    why = make_state.why_stale(state, watched)
    if why:
        echo(why)


@command.command()
@_watched
def begin(state: Path, watched: Watched) -> None:
    """Note what a build starts from."""
    from buildstep.cli import make_state

    if not make_state.begin(state, watched):
        tell("image: nothing has changed")


@command.command()
@_STATE
@click.option("--keep", type=click.IntRange(1))
def finish(state: Path, keep: int | None) -> None:
    """Take the build's result, and print the paths of its files."""
    from buildstep.cli import make_state

    for path in make_state.finish(state, keep=keep):
        echo(path)


@command.command()
@_STATE
@click.option("--allow-dirty", is_flag=True)
def publishable(state: Path, allow_dirty: bool) -> None:
    """Print the path of the manifest that may be published."""
    from buildstep.cli import make_state

    echo(make_state.publishable(state, allow_dirty=allow_dirty))


@command.command()
@_STATE
@click.option("--output", required=True, type=click.Path(path_type=Path))
def clean(state: Path, output: Path) -> None:
    """Remove what the component's builds made."""
    from buildstep.cli import make_state

    for path in make_state.clean(state, output):
        echo(f"removed {path}")


@command.command()
@click.option("--manifest", required=True)
def name(manifest: str) -> None:
    """Print the image's name in a manifest."""
    from buildstep.cli import make_state
    from buildstep.cli.build import read_here

    echo(make_state.manifest_name(read_here(manifest, {})))
