"""`buildstep service`: services that are created from templates."""

from __future__ import annotations

import click

from buildstep.cli.lazy_group import LazyGroup

ROWS = {
    "create": ("buildstep.cli.service_create:command", "Create a service from a template."),
    "list": ("buildstep.cli.service_list:list_", "List services as a tree, with their states."),
    "show": ("buildstep.cli.service_list:show_", "Show a service: values, what it uses, who uses it."),
    "check": ("buildstep.cli.service_check:command", "Find what is wrong with templates and services."),
    "consume": ("buildstep.cli.service_change:consume", "Let a service use others."),
    "update": ("buildstep.cli.service_change:update", "Take changed templates into services."),
    "remove": ("buildstep.cli.service_change:remove", "Remove services that run nowhere."),
    "templates": ("buildstep.cli.service_list:templates", "List templates."),
}
"""See `LazyGroup`."""


@click.group("service", cls=LazyGroup, rows=ROWS)
def command() -> None:
    """Services: templates with parameters, and instances of them in a repository.

    Templates lie in `servicetemplates/`, instances in `services/`. A service is named by its key,
    `domain|name!instance@role (version)`, of which each part may be left out: `redis`, `redis!cache`, `@db`.
    """
