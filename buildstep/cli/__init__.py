"""The root of the command line: a table of commands, imported on use, and exit codes for errors."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import click

from buildstep import __version__
from buildstep.cli.lazy_group import LazyGroup
from buildstep.errors import BuildstepError, DatasetError, ExitCode, Interrupted
from buildstep.system import standard_streams
from buildstep.system.text import printable

COMMANDS = {
    "build": ("buildstep.cli.build:command", "Build an image from a manifest and a proto directory."),
    "check": ("buildstep.cli.check:command", "Check an image: by rules, and by the tests of an m.json."),
    "run": ("buildstep.cli.run:command", "Run a command in a copy of an image, thrown away at the end."),
    "lock": ("buildstep.cli.lock:command", "Write down what an image is made of, and take that again."),
    "image": ("buildstep.cli.image:command", "Base images: import, list, show, verify, delete, gc, publish."),
    "verify": (
        "buildstep.cli.verify:command",
        "Is an image what somebody has signed? Who, and what is proved?",
    ),
    "files": (
        "buildstep.cli.files:command",
        "Trees in a store: put, get, diff, verify, gc.",
    ),
    "assets": (
        "buildstep.cli.assets:command",
        "Services of hosts as tarballs in a store: push, list, verify, pull.",
    ),
    "map": (
        "buildstep.cli.map:command",
        "Host patterns to services: add, remove, list, resolve, check, edit.",
    ),
    "components": (
        "buildstep.cli.components:command",
        "Graphs of images: list, plan, build, push, why.",
    ),
    "service": (
        "buildstep.cli.service:command",
        "Services from templates: create, plan, apply, status, monitor.",
    ),
    "hrd": (
        "buildstep.cli.hrd:command",
        "Files in HRD: get, check, convert, fmt, set, and a grammar for editors.",
    ),
    "cache": ("buildstep.cli.cache:command", "The layer cache: list, size, verify, prune, export, import."),
    "jenkins": (
        "buildstep.cli.jenkins:command",
        "Jenkins: nodes that can build, trigger, watch, fetch.",
    ),
    "make": ("buildstep.cli.make:command", ""),
    "why": ("buildstep.cli.why:command", "What was reused, what was not, and why."),
    "doctor": ("buildstep.cli.doctor:command", "Can this machine build this m.json? Why not?"),
    "report": (
        "buildstep.cli.report:command",
        "A build record as page, JUnit, SARIF, markdown or badge.",
    ),
    "sbom": ("buildstep.cli.sbom:command", "Write the bill of materials of an image."),
    "scan": ("buildstep.cli.scan:command", "Known vulnerabilities of an image, by databases that are here."),
    "sign": ("buildstep.cli.sign:command", "Sign an image and the statements beside it."),
    "keygen": ("buildstep.cli.keygen:command", "Make a pair of keys to sign with."),
    "rebuild": ("buildstep.cli.rebuild:command", "Build again what a record is of, without a network."),
    "prove": ("buildstep.cli.prove:command", "Build twice in other surroundings: the same, or what differs?"),
    "heal": ("buildstep.cli.heal:command", "Remove what dead builds left."),
    "schema": ("buildstep.cli.schema:command", "Print the JSON schema of m.json."),
    "completion": ("buildstep.cli.completion:command", "Print the shell's completion script."),
}
"""See `LazyGroup`."""


class _BrokenPipe(Exception):
    """A BrokenPipeError on its way through click, which would end the process with 1 for it."""

    def __init__(self, error: BrokenPipeError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def _past_click() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _BrokenPipe(error) from error


class _Root(LazyGroup):
    def make_context(self, *args: Any, **more: Any) -> click.Context:
        try:
            with _past_click():
                return super().make_context(*args, **more)
        except OSError as error:  # of --help or --version, which print
            from buildstep.system.space import located

            raise located(error, standard_streams.STDOUT) from error

    def invoke(self, ctx: click.Context) -> Any:
        with _past_click():
            return super().invoke(ctx)


COMPLETE = "_BUILDSTEP_COMPLETE"
"""Set by a shell's completion script, to what the shell wants (click's complete_var)."""

READER_LEFT = 128 + signal.SIGPIPE

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "auto_envvar_prefix": None}


@click.group(cls=_Root, rows=COMMANDS, context_settings=SETTINGS, invoke_without_command=False)
@click.version_option(__version__, prog_name="buildstep")
@click.option("--debug", is_flag=True, help="Show the traceback of any error.")
def root(debug: bool) -> None:
    """Turn a base image and a proto directory into an installable image, on the CI host."""
    del debug  # `debugging` and `main` look for it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; every error ends here and nowhere else."""
    standard_streams.prepare()
    status = _main(argv)
    standard_streams.flush()
    return status


def _main(argv: Sequence[str] | None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if instruction := os.environ.get(COMPLETE):
        from buildstep.cli import completion

        return completion.run(instruction, build=words[:1] == ["build"])
    debug = "--debug" in words or bool(os.environ.get("BUILDSTEP_DEBUG"))
    try:
        status = root.main(args=words, prog_name="buildstep", standalone_mode=False)
        return status if isinstance(status, int) else ExitCode.OK
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        with standard_streams.telling():
            error.show(sys.stderr)
        return ExitCode.USAGE
    except click.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except _BrokenPipe as wrapped:
        return _ended(wrapped.error, debug=debug)
    except (Exception, Interrupted) as error:  # noqa: BLE001 - nothing is left to catch it
        return _ended(error, debug=debug)


def _ended(error: Exception | Interrupted, *, debug: bool) -> int:
    """Report what ended the command, and return its exit status; a bug shows its traceback."""
    if isinstance(error, BuildstepError | OSError | Interrupted):
        status = report_error(error, debug=debug)
        if status is not None:
            return status
    with standard_streams.telling():
        traceback.print_exception(error)
        click.echo("buildstep: this is a bug in buildstep; please report it with the lines above", err=True)
    return ExitCode.BUG


def report_error(error: BuildstepError | OSError | Interrupted, *, debug: bool) -> int | None:
    """Print what an error is, and return its exit status; None for a bug of ours.

    A reader of standard output that leaves (`buildstep image list | head`) has all that it wants: nothing is
    printed, and the status is that of a program that the signal for it ends.
    """
    if standard_streams.reader_left(error):
        return READER_LEFT
    failure = error if isinstance(error, Interrupted) else failure_of(error)
    if failure is None:
        return None
    print_error(failure, debug=debug)
    return failure.code


def failure_of(error: BuildstepError | OSError) -> BuildstepError | None:
    """Return the failure that an error is, such as a full disk; None for a bug of ours."""
    from buildstep.system import space

    failure = space.explain(error) or _of_the_machine(error)
    if failure is not None and failure is not error:
        failure.with_traceback(error.__traceback__)
        for note in getattr(error, "__notes__", ()):
            failure.add_note(note)
    return failure


def _of_the_machine(error: BuildstepError | OSError) -> BuildstepError | None:
    """Return the failure that an error is; None for a bug of ours. What the machine lacks is none."""
    if isinstance(error, BuildstepError):
        return error
    hints = {
        errno.EACCES: "is there permission to write?",
        errno.EPERM: "is there permission to write?",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.ENFILE: "the machine has too many files open (sysctl fs.file-max)",
        errno.ENOMEM: "the machine is out of memory",
    }
    if error.errno not in hints:
        return None
    where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    return DatasetError(f"{where}{error.strerror}", hint=hints[error.errno])


def debugging() -> bool:
    """Return whether the command that runs is to show the traceback of any error."""
    context = click.get_current_context(silent=True)
    flag = context is not None and context.find_root().params.get("debug")
    return bool(flag or os.environ.get("BUILDSTEP_DEBUG"))


def print_error(error: BuildstepError | Interrupted, *, debug: bool) -> None:
    """Print an error for a person: what happened, the detail, what to do next. Where that cannot be written,
    the exit code still tells it."""
    with standard_streams.telling():
        _print_error(error, debug=debug)


def _print_error(error: BuildstepError | Interrupted, *, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    click.secho("buildstep: ", fg="red", bold=True, nl=False, err=True)
    click.echo(_lines(error.message), err=True)
    if error.detail:
        click.echo(_lines(error.detail.rstrip()), err=True)
    if error.hint:
        click.echo(_lines(f"hint: {error.hint}"), err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(note, err=True)


def _lines(text: str) -> str:
    """Return what a person is shown of lines, in which names have words of others."""
    return "\n".join(printable(line) for line in text.split("\n"))  # `map` is a module here
