"""What several commands share: options, a pool opened for them, results printed."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from buildstep.cli import values
from buildstep.system import standard_streams
from buildstep.system.space import locating

POOL = click.option(
    "--pool", metavar="URI", shell_complete=values.POOLS, help="The pool (default: the one that builds use)."
)
ENDPOINT = click.option("--endpoint-url", metavar="URL", help="An S3 store that is not Amazon's.")
QUIET = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
CLAMP = click.option(
    "--clamp-mtime",
    "clamp",
    metavar="SECONDS",
    type=click.IntRange(0),
    envvar="SOURCE_DATE_EPOCH",
    show_envvar=True,
    help="Record no later time than this.",
)
PROFILES = click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="NAME",
    help="A variant of the m.json, from its `profiles`; repeat: the later wins.",
)
REQUIRE = click.option(
    "--require",
    multiple=True,
    metavar="LIST",
    shell_complete=values.PROOFS,
    help="What has to be proved, else nothing is sent: tests, signature, sbom, provenance, vulnerabilities.",
)
POLICY = click.option(
    "--policy",
    metavar="FILE",
    shell_complete=values.FILES,
    help="The policy, in TOML, that says by which keys.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def with_session(
    *, quiet: bool = False, healing: bool = True, enclosed: bool = True
) -> Callable[[Callable[..., int | None]], Callable[..., int]]:
    """Give a command the option --pool, and call it with a Session of that pool before its own options.

    The options `sources` and `verbose`, where a command has them, are for the session. quiet: show errors
    only. healing: first remove what dead builds left, unless the command has --dry-run. enclosed: run it in
    namespaces of its own. The command returns its exit code; None is 0.
    """

    def decorate(job: Callable[..., int | None]) -> Callable[..., int]:
        @functools.wraps(job)
        def run(pool: str | None, sources: tuple[str, ...] = (), verbose: int = 0, **options: object) -> int:
            from buildstep.cli import user_namespace

            user_namespace.enter(pool)
            from buildstep.cli import guard, session

            def inside() -> int:
                heals = healing and not options.get("dry_run")
                opened = session.open_session(
                    pool, verbose=verbose, quiet=quiet, healing=heals, sources=sources
                )
                return job(opened, **options) or 0

            return session.enclosed(inside) if enclosed else guard.guarded(inside)

        return POOL(run)

    return decorate


def pairs(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return the values of a repeated KEY=VALUE option by key: a callback for click."""
    found = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
        found[key] = text
    return found


def read_stdin() -> str:
    """Return the m.json that comes on standard input. Raises UsageError where none can be read there."""
    from buildstep.errors import UsageError

    try:
        if not standard_streams.closed(standard_streams.STDIN):
            return sys.stdin.read()
        why = "it is closed"
    except OSError as error:
        why = os.strerror(error.errno or 0)
    except UnicodeDecodeError as error:
        why = f"it is no UTF-8 text: {error}"
    raise UsageError(
        f"no m.json can be read from standard input: {why}", hint="give it a file (-m FILE), or `-m - <FILE`"
    )


def print_json(data: object) -> None:
    """Print one JSON object on standard output."""
    import json  # only for those who ask for it: --help is quick

    echo(json.dumps(data, indent=2))


def show(data: object, lines: Iterable[str], *, as_json: bool, done: str = "") -> None:
    """Print data as one JSON object, or else lines for a person.

    done: what the command has done, for one that does more than to list: it ends as it would, and says this,
    where nobody reads standard output any more. Raises OSError where that cannot be written for another
    reason, such as a full disk.
    """
    try:
        if as_json:
            print_json(data)
            return
        for line in lines:
            echo(line)
    except OSError as error:
        if not done:
            raise
        if not standard_streams.reader_left(error):
            error.add_note(done)
            raise
        tell(f"buildstep: nobody reads standard output; {done}")


def tell(text: str) -> None:
    """Print on standard error, if that can be written."""
    with standard_streams.telling():
        click.echo(text, err=True)


def echo(text: str, *, nl: bool = True, **style: Any) -> None:
    """Print on standard output. style: see `click.style`. Raises OSError; where its disk is full, with the
    file's path."""
    with locating(standard_streams.STDOUT):
        click.secho(text, nl=nl, **style)


def short_path(path: str | os.PathLike[str]) -> str:
    """Return a path as the user would type it here: relative where it is below the current directory."""
    return os.fspath(path).removeprefix(os.path.join(os.getcwd(), ""))


_NO_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EROFS)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise UsageError in a block that writes a file which the user has named, where there can be none."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        from buildstep.errors import UsageError

        raise UsageError(
            f"{path} cannot be written: {error.strerror}", hint=f"{path.parent} must be a directory"
        ) from error


def write_result(path: Path, data: bytes) -> None:
    """Write a document to a file that the user has named, whole or not at all; - is standard output. Raises
    UsageError, DiskError."""
    from buildstep.system import files

    if str(path) != "-":
        with writing(path), files.named_output(path) as stream:
            stream.write(data)
        return
    with locating(standard_streams.STDOUT):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
