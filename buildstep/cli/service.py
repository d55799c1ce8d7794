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
    "plan": ("buildstep.cli.service_run:plan", "Show what would run, where and why."),
    "apply": ("buildstep.cli.service_run:apply", "Bring services to what they are described as."),
    "install": ("buildstep.cli.service_run:install", "Install services, and what they need."),
    "start": ("buildstep.cli.service_run:start", "Start services, after what they need."),
    "stop": ("buildstep.cli.service_run:stop", "Stop services, after what needs them."),
    "restart": ("buildstep.cli.service_run:restart", "Stop services and start them."),
    "halt": ("buildstep.cli.service_run:halt", "Stop services the hard way."),
    "status": ("buildstep.cli.service_status:status", "Show the state of services, and what is wrong."),
    "monitor": ("buildstep.cli.service_monitor:command", "Ask services whether they are well."),
    "cleanup": ("buildstep.cli.service_run:cleanup", "Let services tidy up."),
    "systemd": ("buildstep.cli.service_systemd:command", "Write units that look after services."),
    "log": ("buildstep.cli.service_status:log", "Print what an action has printed."),
    "enable": ("buildstep.cli.service_switch:enable", "Let services run again."),
    "disable": ("buildstep.cli.service_switch:disable", "Stop services and keep them down."),
    "test": ("buildstep.cli.service_run:test", "Run the tests of services."),
    "export": ("buildstep.cli.service_run:export", "Save the data of services."),
    "import": ("buildstep.cli.service_run:import_", "Bring back data that was saved."),
    "uninstall": ("buildstep.cli.service_run:uninstall", "Remove services from where they run."),
    "purge": ("buildstep.cli.service_run:purge", "Remove services altogether."),
    "build": ("buildstep.cli.service_build:command", "Build what a template delivers into a store."),
    "bake": ("buildstep.cli.service_bake:command", "Build an image with services in it."),
    "templates": ("buildstep.cli.service_list:templates", "List templates."),
}
"""See `LazyGroup`."""


@click.group("service", cls=LazyGroup, rows=ROWS)
def command() -> None:
    """Services: templates with parameters, and instances of them in a repository.

    Templates lie in `servicetemplates/`, instances in `services/`. A service is named by its key,
    `domain|name!instance@role (version)`, of which each part may be left out: `redis`, `redis!cache`, `@db`.
    """
