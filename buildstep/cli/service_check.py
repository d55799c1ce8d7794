"""`buildstep service check`: what is wrong with templates and services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from buildstep.cli.options import JSON, show
from buildstep.cli.service_options import PATTERNS, chosen, with_repository
from buildstep.system.text import plural

if TYPE_CHECKING:
    from buildstep.services.repository import Repository


@click.command("check")
@PATTERNS
@click.option("--templates-only", is_flag=True, help="Check no services.")
@with_repository(strict=False)
@JSON
def command(repository: Repository, patterns: Sequence[str], templates_only: bool, as_json: bool) -> int:
    """Find what is wrong with templates and services, all or those that keys match; nothing is run.

    Exits with 23 if something is wrong. A note is worth a look, and is no error.
    """
    from buildstep.errors import ExitCode
    from buildstep.services.service_check import check_services
    from buildstep.services.template_check import check_templates, of_fault

    if patterns and not templates_only:
        services = chosen(repository, patterns)
        templates = [
            template
            for template in repository.templates
            if any((one.id.domain, one.id.name) == (template.domain, template.name) for one in services)
        ]
    elif patterns:
        services = []
        templates = [found for pattern in patterns for found in repository.templates.find(pattern)]
    else:
        services = [] if templates_only else list(repository.services.values())
        templates = repository.templates.all
    found = check_templates(repository.templates, templates)
    found += [of_fault(fault) for fault in repository.faults]
    found += check_services(repository, services)
    wrong = sum(finding.wrong for finding in found)
    value = {
        "root": str(repository.root),
        "templates": len(templates),
        "services": len(services),
        "wrong": wrong,
        "findings": [finding._asdict() for finding in found],
    }
    lines = [f"{'error' if finding.wrong else 'note'}: {finding}" for finding in found]
    counts = f"{plural(len(templates), 'template')}, {plural(len(services), 'service')}"
    verdict = f"{counts}: {plural(wrong, 'error')}" if wrong else f"{counts}: nothing is wrong"
    show(value, [*lines, verdict], as_json=as_json)
    return ExitCode.SERVICE if wrong else ExitCode.OK
