"""Processes of a service: `process.N` and `env.process.N` of its template, as the runtime takes them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from buildstep.errors import Fault
from buildstep.services.hrd import Value
from buildstep.services.interface import Process
from buildstep.services.platforms import shares
from buildstep.services.template_keys import PROCESS, wrong

MANAGERS = {"": "", "systemd": "systemd", "process": "process", "tmux": "process", "upstart": "", "runit": ""}
"""Values of `startupmanager`, AYS's among them, and what a place knows: "" is what the place has."""
_SHELL = re.compile(r"[;|&<>`$\n*?]")


def processes_of(
    values: Mapping[str, Value], name: str, machine: frozenset[str] | None, where: str, faults: list[Fault]
) -> Sequence[Process]:
    """Return the processes in resolved values, in the order in which they start.

    name: of the service, for processes that have none; machine: names of the platform it runs on, None where
    these are not known: a process that is for others is left out.
    """
    found = []
    for number in _numbers(values, "process"):
        key = f"process.{number}"
        row = values[key]
        if not isinstance(row, dict):
            faults.append(
                Fault(where=f"{where}: {key}", message="is no table", hint="cmd:PROGRAM says what runs")
            )
            continue
        if machine is not None and not shares(_words(row.get("platform", "")), machine):
            continue
        environment = values.get(f"env.{key}", {})
        made = _process(
            number, row, environment if isinstance(environment, dict) else {}, name, f"{where}: {key}", faults
        )
        if made is not None:
            found.append(made)
    names = [process.name for process in found]
    for twice in sorted({name for name in names if names.count(name) > 1}):
        faults.append(
            Fault(where=where, message=f"two processes have the name {twice}", hint="change one name")
        )
    return sorted(found, key=lambda process: (process.priority, process.number))


def _numbers(values: Mapping[str, Value], prefix: str) -> list[int]:
    rule = re.compile(rf"{re.escape(prefix)}\.([1-9][0-9]*)")
    return sorted(int(match[1]) for key in values if (match := rule.fullmatch(key)))


def _process(
    number: int,
    row: Mapping[str, Any],
    environment: Mapping[str, Any],
    name: str,
    where: str,
    faults: list[Fault],
) -> Process | None:
    before = len(faults)
    texts = {field: row.get(field, "") for field in PROCESS}
    if isinstance(texts["ports"], list):
        texts["ports"] = ";".join(map(str, texts["ports"]))
    for field, kind in PROCESS.items():
        if reason := wrong(kind, texts[field]):
            faults.append(
                Fault(where=f"{where}: {field}", message=f"is {texts[field]!r}, and must be {reason}")
            )
    if texts["startupmanager"] not in MANAGERS:
        hint = f"there is {', '.join(filter(None, MANAGERS))}"
        message = f"there is no manager {texts['startupmanager']!r}"
        faults.append(Fault(where=f"{where}: startupmanager", message=message, hint=hint))
    if len(faults) > before:
        return None
    try:
        argv = command(texts["cmd"], texts["args"])
        variables = {**_variables(texts["env"]), **{key: str(value) for key, value in environment.items()}}
    except ValueError as error:
        faults.append(Fault(where=where, message=str(error)))
        return None
    if not argv:
        faults.append(Fault(where=f"{where}: cmd", message="is empty", hint="cmd:PROGRAM says what runs"))
        return None
    return Process(
        number=number,
        name=texts["name"] or (name if number == 1 else f"{name}.{number}"),
        argv=argv,
        directory=texts["cwd"],
        environment=variables,
        user=texts["user"],
        priority=int(texts["prio"] or 10),
        ports=tuple(int(port) for port in re.split(r"[;,\s]+", texts["ports"]) if port),
        pattern=texts["filterstr"],
        manager=MANAGERS[texts["startupmanager"]],
        start_seconds=float(texts["timeout_start"] or 10),
        stop_seconds=float(texts["timeout_stop"] or 10),
    )


def command(program: str, arguments: str) -> list[str]:
    """Return the argv of `cmd` and `args`. What only a shell understands is given to /bin/sh, all else is
    taken apart as a shell would. Raises ValueError for a quote that is not closed."""
    text = f"{program} {arguments}".strip()
    if _SHELL.search(text):
        return ["/bin/sh", "-c", text]
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"cmd and args: {str(error).lower()}") from None


def _variables(text: str) -> dict[str, str]:
    """Return the variables of `env`: NAME=VALUE with `;` between them."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, value = part.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"env: {part!r} is not NAME=VALUE")
        found[name] = value
    return found


def _words(text: Any) -> list[str]:
    return re.split(r"[;,\s]+", text) if isinstance(text, str) else [str(one) for one in text]
