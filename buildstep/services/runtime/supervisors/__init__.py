"""Who keeps the processes of a service running: one table, by the name that `process.N` may give.

`systemd` where it runs the machine, for root and for users that have an instance of it; `process` anywhere: a
small process of our own beside each. A process that names neither gets the first that can be had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from buildstep.services.runtime.answers import Failure
from buildstep.services.runtime.service import Process, Service
from buildstep.services.runtime.supervisors.process import ProcessSupervisor
from buildstep.services.runtime.supervisors.status import Status, Supervisor
from buildstep.services.runtime.supervisors.systemd import SystemdSupervisor

__all__ = ["SUPERVISORS", "Status", "Supervisor", "supervisor_of"]


class Row(NamedTuple):
    """make: the supervisor of one process. usable: whether it can be had here."""

    make: Callable[[Service, Process], Supervisor]
    usable: Callable[[], bool]


SUPERVISORS: dict[str, Row] = {
    "systemd": Row(SystemdSupervisor, SystemdSupervisor.usable),
    "process": Row(ProcessSupervisor, ProcessSupervisor.usable),
}
"""In the order in which they are preferred."""

ANY = frozenset({"", "tmux", "upstart", "runit"})
"""What `startupmanager` says where it does not matter; the old tools' names are among it."""


def supervisor_of(service: Service, process: Process) -> Supervisor:
    """Return the supervisor of a process. Raises Failure where the one it names cannot be had."""
    name = process.manager
    if name in ANY:
        name = next(known for known, row in SUPERVISORS.items() if row.usable())
    row = SUPERVISORS.get(name)
    if row is None:
        known = ", ".join(SUPERVISORS)
        raise Failure(f"process.{process.number} of {service.key}: no supervisor {name}; one of {known}")
    if not row.usable():
        raise Failure(f"process.{process.number} of {service.key} wants {name}, which does not run here")
    return row.make(service, process)
