"""`buildstep service list`, `show` and `templates`: what is there, and in which state it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, show, tell
from buildstep.cli.service_options import PATTERNS, chosen, with_repository
from buildstep.system.text import plural

if TYPE_CHECKING:
    from buildstep.report.tree_table import TreeRow
    from buildstep.services.repository import Repository, Service

_STYLES = {"up": "green", "unhealthy": "yellow", "dead": "bold red", "new": "dim", "down": "yellow"}
_HEAD = ("SERVICE", "STATE", "SINCE", "LAST ACTION")


@click.command("list")
@PATTERNS
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="STATE",
    shell_complete=values.SERVICE_STATES,
    help="Only services in this state.",
)
@click.option("--installed", is_flag=True, help="Only services that are installed somewhere.")
@with_repository(strict=False)
@JSON
def list_(
    repository: Repository, patterns: Sequence[str], states: Sequence[str], installed: bool, as_json: bool
) -> None:
    """List services as a tree of those that lie in others, with their states; only those that keys match.

    A service that does not match is shown, in brackets, where one that lies in it does.
    """
    from buildstep.services.brief import brief_of

    found = [
        (service, brief)
        for service, brief in ((one, brief_of(one)) for one in chosen(repository, patterns))
        if (not states or brief.state in states) and (not installed or brief.installed)
    ]
    for fault in repository.faults:
        tell(f"note: {fault}")
    value = {
        "root": str(repository.root),
        "services": [
            {**_facts(service), **brief._asdict(), "installed": brief.installed} for service, brief in found
        ],
        "faults": [str(fault) for fault in repository.faults],
    }
    show(value, _lines(repository, dict(found)), as_json=as_json)


def _lines(repository: Repository, found: dict[Service, Any]) -> Iterator[str]:
    from buildstep.report.tree_table import plain_lines, terminal_lines

    rows = list(_rows(repository, found))
    if rows and sys.stdout is not None and sys.stdout.isatty():
        import shutil

        yield from terminal_lines(rows, _HEAD, shutil.get_terminal_size().columns)
    elif rows:
        yield from plain_lines(rows)
    yield plural(len(found), "service")


def _rows(repository: Repository, found: dict[Service, Any]) -> Iterator[TreeRow]:
    from buildstep.report.tree_table import TreeRow

    above = {parent for service in found for parent in _above(service)}
    for service in repository.services.values():
        name = f"{service.id.name}!{service.id.instance}"
        depth = len(service.path) - 1
        if (brief := found.get(service)) is not None:
            since = _when(brief.since)
            state = f"{brief.state}, disabled" if brief.disabled else brief.state
            yield TreeRow(depth, name, (state, since, brief.last), _STYLES.get(brief.state, ""))
        elif service in above:
            yield TreeRow(depth, f"[{name}]", ("", "", ""))


def _when(seconds: float) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds else ""


def _above(service: Service) -> Iterator[Service]:
    while service.parent is not None:
        service = service.parent
        yield service


def _facts(service: Service) -> dict[str, Any]:
    own = service.id
    return {
        "key": service.key,
        "domain": own.domain,
        "name": own.name,
        "instance": own.instance,
        "role": own.role,
        "version": own.version,
        "parent": service.parent.key if service.parent else None,
        "node": service.node.key if service.node else None,
        "producers": service.producers,
        "folder": str(service.folder),
    }


@click.command("show")
@click.argument("key", metavar="KEY", shell_complete=values.SERVICE_KEYS)
@with_repository(strict=False)
@JSON
def show_(repository: Repository, key: str, as_json: bool) -> None:
    """Show a service: its template, its values, what it uses, and who uses it. No secret is shown."""
    from buildstep.services.brief import brief_of
    from buildstep.services.facts import shown_values
    from buildstep.services.relations import relations

    service = repository.one(key)
    brief = brief_of(service)
    found = relations(repository)
    users = sorted(name for name, needs in found.needs.items() if service.key in needs)
    value = {
        **_facts(service),
        **brief._asdict(),
        "installed": brief.installed,
        "values": shown_values(service),
        "used_by": users,
        "actions": {str(side): path.name for side, path in service.actions.items()},
    }
    show(value, _shown(value), as_json=as_json)


def _shown(value: dict[str, Any]) -> Iterator[str]:
    for name in ("key", "domain", "version", "state", "last", "parent", "node", "folder"):
        if value[name]:
            yield f"{name:9} {value[name]}"
    for role, keys in value["producers"].items():
        yield f"{'uses':9} {role}: {', '.join(keys)}"
    if value["used_by"]:
        yield f"{'used by':9} {', '.join(value['used_by'])}"
    for side, name in value["actions"].items():
        yield f"{'actions':9} {side}: {name}"
    for key, item in value["values"].items():
        if key != "parent" and not key.startswith("producer."):
            yield f"{key} = {_text(item)}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}:{_text(item)}" for key, item in value.items())
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)


@click.command("templates")
@click.argument("pattern", metavar="[TEMPLATE]", default="", shell_complete=values.SERVICE_TEMPLATES)
@with_repository(strict=False)
@JSON
def templates(repository: Repository, pattern: str, as_json: bool) -> None:
    """List templates, all or those that a key matches: `redis`, `corp|`, `@node`."""
    found = repository.templates.find(pattern) if pattern else repository.templates.all
    for fault in repository.templates.faults:
        tell(f"note: {fault}")
    rows = [
        {
            "template": str(template),
            "domain": template.domain,
            "name": template.name,
            "version": template.version,
            "role": template.role,
            "directory": str(template.directory),
            "description": _description(template),
            "actions": sorted(map(str, template.actions)),
        }
        for template in found
    ]
    width = max((len(row["template"]) for row in rows), default=0)
    lines = [f"{row['template']:{width}}  {row['description']}".rstrip() for row in rows]
    value = {"root": str(repository.root), "templates": rows}
    show(value, [*lines, plural(len(rows), "template")], as_json=as_json)


def _description(template: Any) -> str:
    from buildstep.errors import SpecError

    try:
        return str(template.service.get("description", ""))
    except SpecError:
        return "(cannot be read: `buildstep service check` says why)"
