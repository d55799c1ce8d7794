"""`buildstep map`: which hosts have which services."""

from __future__ import annotations

import click

from buildstep.cli.lazy_group import LazyGroup

ROWS = {
    "add": ("buildstep.cli.map_change:add", "Add services to a pattern of hosts."),
    "remove": ("buildstep.cli.map_change:remove", "Remove services from a pattern, or its mapping."),
    "list": ("buildstep.cli.map_list:list_", "List all mappings, or one."),
    "resolve": ("buildstep.cli.map_list:resolve", "Show what a host is mapped to, and why."),
    "check": ("buildstep.cli.map_list:check", "Find patterns that no host can win, ties and errors."),
    "edit": ("buildstep.cli.map_edit:edit", "Edit all mappings in an editor."),
}
"""See `LazyGroup`."""


@click.group("map", cls=LazyGroup, rows=ROWS)
def command() -> None:
    """Mappings of host patterns to services: in Consul, as daybook has them, or in a file.

    A pattern is a host's name with * for any characters, ? for one, [a-z] for one of these. Of the patterns
    that match a host one wins: the very name, else the one with the most literal characters.
    """
