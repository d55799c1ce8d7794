"""`buildstep hrd`: files in HRD: read, check, convert, format and change them."""

from __future__ import annotations

import click

from buildstep.cli.lazy_group import LazyGroup

ROWS = {
    "get": ("buildstep.cli.hrd_read:get", "Print the value of a key, or all of them."),
    "check": ("buildstep.cli.hrd_read:check", "Find what is wrong with files, each with line and column."),
    "convert": ("buildstep.cli.hrd_read:convert", "Print a file as JSON, TOML or HRD."),
    "fmt": ("buildstep.cli.hrd_change:fmt", "Give files our layout; comments, order and values stay."),
    "set": ("buildstep.cli.hrd_change:set_", "Give a key of a file a value."),
    "grammar": ("buildstep.cli.hrd_read:grammar", "Print the TextMate grammar, for editors."),
}
"""See `LazyGroup`."""


@click.group("hrd", cls=LazyGroup, rows=ROWS)
def command() -> None:
    """Files in HRD, the language of templates and instances of services.

    What the parser of JumpScale 7 lost without a word is an error here, with its line and what to do.
    """
