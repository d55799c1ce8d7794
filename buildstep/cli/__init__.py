"""The root of the command line: a table of commands, imported on use, and exit codes for errors."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from buildstep import __version__
from buildstep.errors import BuildstepError, ExitCode

COMMANDS = {
    "build": ("buildstep.cli.build", "Build an image from a manifest and a proto directory."),
    "image": ("buildstep.cli.image", "Base images: import, list, show, verify, delete, gc, publish."),
    "cache": ("buildstep.cli.cache", "The layer cache: list, size, verify, prune."),
    "jenkins": ("buildstep.cli.jenkins", "Jenkins: nodes that can build this, trigger, watch, fetch."),
    "make": ("buildstep.cli.make", ""),
    "why": ("buildstep.cli.why", "What was reused, what was not, and why."),
    "doctor": ("buildstep.cli.doctor", "Can this machine build this m.json? Why not?"),
    "report": ("buildstep.cli.report", "A build record as a page, JUnit, SARIF, markdown or a badge."),
    "heal": ("buildstep.cli.heal", "Remove what dead builds left."),
    "schema": ("buildstep.cli.schema", "Print the JSON schema of m.json."),
    "completion": ("buildstep.cli.completion", "Print the shell's completion script."),
}
"""Command name to (module with a click command named `command`, its one-line help; "" hides it)."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called: --help costs no driver."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, (_, text) in COMMANDS.items() if text]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items() if text])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if near:
                raise click.UsageError(f"{error.message} Did you mean {near[0]}?", ctx) from error
            raise


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "auto_envvar_prefix": None}


@click.group(cls=LazyGroup, context_settings=SETTINGS, invoke_without_command=False)
@click.version_option(__version__, prog_name="buildstep")
@click.option("--debug", is_flag=True, help="Show the traceback of any error.")
def root(debug: bool) -> None:
    """Turn a base image and a proto directory into an installable image, on the CI host."""
    del debug  # `debugging` and `main` look for it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; every error ends here and nowhere else."""
    debug = "--debug" in (sys.argv if argv is None else argv) or bool(os.environ.get("BUILDSTEP_DEBUG"))
    try:
        status = root.main(
            args=None if argv is None else list(argv), prog_name="buildstep", standalone_mode=False
        )
        return status if isinstance(status, int) else ExitCode.OK
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return ExitCode.USAGE
    except click.Abort:
        return 130
    except BuildstepError as error:
        print_error(error, debug=debug)
        return error.code
    except BrokenPipeError:
        # The reader of our output has gone: this is no error to report.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13
    except KeyboardInterrupt:
        return 130
    except Exception:  # noqa: BLE001 - nothing is left to catch it: a bug shows its traceback
        traceback.print_exc()
        click.echo("buildstep: this is a bug in buildstep; please report it with the lines above", err=True)
        return ExitCode.BUG


def debugging() -> bool:
    """Return whether the command that runs is to show the traceback of any error."""
    context = click.get_current_context(silent=True)
    flag = context is not None and context.find_root().params.get("debug")
    return bool(flag or os.environ.get("BUILDSTEP_DEBUG"))


def print_error(error: BuildstepError, *, debug: bool) -> None:
    """Print an error for a person: what happened, the detail, what to do next. Where that cannot be written,
    the exit code still tells it."""
    with contextlib.suppress(OSError):
        _print_error(error, debug=debug)


def _print_error(error: BuildstepError, *, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    click.secho("buildstep: ", fg="red", bold=True, nl=False, err=True)
    click.echo(error.message, err=True)
    if error.detail:
        click.echo(error.detail.rstrip(), err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(note, err=True)
