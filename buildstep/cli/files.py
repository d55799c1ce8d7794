"""`buildstep files`: trees as lists and contents in a store, and from them the trees again."""

from __future__ import annotations

import click

from buildstep.cli.lazy_group import LazyGroup

ROWS = {
    "put": ("buildstep.cli.files_put:command", "Record a tree in a store."),
    "get": ("buildstep.cli.files_get:command", "Make the tree of a list, or an image of it."),
    "mount": ("buildstep.cli.files_mount:mount", "Mount the tree of a list, read-only."),
    "umount": ("buildstep.cli.files_mount:umount", "Unmount what `mount` has mounted."),
    "list": ("buildstep.cli.files_list:list_", "List the refs of a store, or the paths of a list."),
    "diff": ("buildstep.cli.files_diff:command", "Compare two images, trees or lists."),
    "remove": ("buildstep.cli.files_list:remove", "Remove refs; what only they kept goes with the next gc."),
    "verify": ("buildstep.cli.files_verify:command", "Check that a store is whole, and repair it."),
    "build": ("buildstep.cli.files_build:command", "Build a recipe, and record its outputs."),
    "stats": ("buildstep.cli.files_stats:command", "Show how much a store holds, and what is shared."),
    "gc": ("buildstep.cli.files_gc:command", "Delete what no ref reaches."),
    "import": ("buildstep.cli.files_import:import_", "Take over a list and its contents, such as AYS's."),
    "export": (
        "buildstep.cli.files_import:export",
        "Write a list and its contents in a form that others read.",
    ),
}
"""See `LazyGroup`."""


@click.group("files", cls=LazyGroup, rows=ROWS)
def command() -> None:
    """File lists and contents in a store: put a tree, get it again, compare, verify, clean up.

    A store holds each content once, by its SHA-256. A list names every path of a tree. A ref is a name for a
    list; what no ref reaches is deleted by `gc`.
    """
