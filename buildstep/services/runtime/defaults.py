"""Our own actions: what a service does where its class says nothing. See docs/reference/services.md."""

from __future__ import annotations

import time

from buildstep.services.runtime import ports
from buildstep.services.runtime.answers import Failure
from buildstep.services.runtime.files import Installed
from buildstep.services.runtime.service import Process, Service
from buildstep.services.runtime.supervisors import Status, Supervisor, supervisor_of

_NAP = 0.05
_TAIL = 10

_SETTLE = 0.3
"""Seconds that a process must go on to be taken as up, where neither a port nor a pattern tells."""


class _Nothing:
    """Actions that do nothing on either side unless a class says what."""

    def check_requirements(self, service: Service) -> bool:
        return True

    def configure(self, service: Service) -> bool:
        return True

    def stop(self, service: Service) -> bool:
        return True

    def halt(self, service: Service) -> bool:
        return True

    def check_down(self, service: Service, wait: bool = True) -> bool:
        return True

    def start(self, service: Service) -> bool:
        return True

    def check_up(self, service: Service, wait: bool = True) -> bool:
        return True

    def monitor(self, service: Service) -> bool:
        return True

    def cleanup(self, service: Service) -> bool:
        return True

    def test(self, service: Service) -> bool:
        return True

    def uninstall(self, service: Service) -> bool:
        return True

    def removedata(self, service: Service) -> bool:
        return True

    def data_export(self, service: Service) -> object:
        return True

    def data_import(self, service: Service, id: str = "") -> object:  # noqa: A002 - the name that templates use
        return True

    def install(self, service: Service) -> bool:
        return True

    def prepare(self, service: Service) -> bool:
        return True

    def init(self, service: Service) -> bool:
        return True

    def consume(self, service: Service, producer: object = None) -> bool:
        return True

    def build(self, service: Service) -> bool:
        return True


class ActionsBaseTmpl(_Nothing):
    """Actions of a template."""


class ActionsBaseMgmt(_Nothing):
    """Actions where services are managed: all of them do nothing, and say yes."""


class ActionsBaseNode(_Nothing):
    """Actions where the service runs."""

    def install(self, service: Service) -> bool:
        """Lay the service's files and trees; remove those of an earlier install that are no longer its."""
        written, removed = Installed(service.records).lay(service.files, service.trees)
        if written or removed:
            service.log(f"files written: {written}, removed: {removed}")
        return True

    def prepare(self, service: Service) -> bool:
        """Have the packages and the accounts that the service needs."""
        if service.packages and (made := service.ensure_packages(*service.packages)):
            service.log(f"installed {', '.join(made)}")
        for user in service.users:
            if service.ensure_user(**user):
                service.log(f"made the user {user['name']}")
        return True

    def start(self, service: Service) -> bool:
        """Start the processes that are not up, by priority, each once the one before is up. If one does not
        get up, those that this call started are stopped."""
        begun: list[tuple[Process, Supervisor]] = []
        try:
            for process in service.processes:
                supervisor = supervisor_of(service, process)
                status = supervisor.status()
                if not why_not_up(process, status):
                    if not status.kept:
                        supervisor.start()  # which only has it kept again
                    continue
                _check_ports(process, status)
                begun.append((process, supervisor))
                service.log(f"starting {process.name}")
                supervisor.start()
                # One that runs already, and is not up, may have been started again before.
                _wait_up(process, supervisor, status.restarts if status.main else 0)
        except Failure:
            for _process, supervisor in reversed(begun):
                supervisor.stop() or supervisor.halt()
            raise
        return True

    def stop(self, service: Service) -> bool:
        """Ask the processes to end, the last that was started first; False if one is still there."""
        stopped = True
        for process in reversed(service.processes):
            if not supervisor_of(service, process).stop():
                service.log(f"{process.name} did not end within {process.stop_seconds:g} s")
                stopped = False
        return stopped

    def halt(self, service: Service) -> bool:
        """Kill the processes and all that belongs to them."""
        for process in reversed(service.processes):
            if not supervisor_of(service, process).halt():
                raise Failure(f"{process.name} cannot be killed")
        return True

    def check_up(self, service: Service, wait: bool = True) -> bool:
        """Look whether each process runs and listens on its ports itself. wait: so long as it may take."""
        for process in service.processes:
            supervisor = supervisor_of(service, process)
            end = time.monotonic() + (process.start_seconds if wait else 0)
            while why := why_not_up(process, status := supervisor.status()):
                if time.monotonic() > end or not (status.main or status.kept):
                    service.log(f"{process.name} is not up: {why}")
                    return False
                time.sleep(_NAP)
        return True

    def check_down(self, service: Service, wait: bool = True) -> bool:
        """Look whether nothing of the processes is left. Ports that others have taken do not count."""
        for process in reversed(service.processes):
            supervisor = supervisor_of(service, process)
            end = time.monotonic() + (process.stop_seconds if wait else 0)
            while pids := supervisor.status().pids:
                if time.monotonic() > end:
                    service.log(f"{process.name} still runs: {', '.join(map(str, sorted(pids)))}")
                    return False
                time.sleep(_NAP)
        return True

    def monitor(self, service: Service) -> bool:
        """Look whether the service is up now."""
        return self.check_up(service, wait=False)

    def uninstall(self, service: Service) -> bool:
        """End the processes; remove what was made for them, and the files that `install` has laid. A file
        that somebody has changed stays, and is named."""
        for process in reversed(service.processes):
            supervisor = supervisor_of(service, process)
            if not (supervisor.stop() or supervisor.halt()):
                raise Failure(f"{process.name} cannot be killed")
            supervisor.remove()
        removed, stay = Installed(service.records).remove()
        service.log(f"files removed: {removed}")
        for path in stay:
            service.log(f"{path} was changed since it was installed: it stays")
        return True

    def removedata(self, service: Service) -> bool:
        """Remove the directories of `data.dirs`. Refused while a process runs."""
        for process in service.processes:
            if supervisor_of(service, process).status().pids:
                raise Failure(f"{process.name} runs: stop the service before its data is removed")
        from buildstep.services.runtime import data

        for path in data.remove(service):
            service.log(f"removed {path}")
        return True

    def data_export(self, service: Service) -> object:
        """Pack the directories of `data.dirs`; the result is what `data_import` takes as `id`."""
        from buildstep.services.runtime import data  # with what it imports: only where it is wanted

        return data.pack(service)

    def data_import(self, service: Service, id: str = "") -> object:  # noqa: A002 - the name that templates use
        """Put back what `data_export` has packed."""
        for process in service.processes:
            if supervisor_of(service, process).status().pids:
                raise Failure(f"{process.name} runs: stop the service before its data is replaced")
        from buildstep.services.runtime import data

        return data.unpack(service, id)


BASES: dict[str, type[_Nothing]] = {
    "tmpl": ActionsBaseTmpl,
    "mgmt": ActionsBaseMgmt,
    "node": ActionsBaseNode,
}
"""Our own actions, by side."""


def why_not_up(process: Process, status: Status) -> str:
    """Return why a process is not up; empty if it is."""
    if not status.main:
        return status.failed or "it does not run"
    missing = sorted(set(process.ports) - ports.own_ports(process.ports, status.pids))
    if missing:
        held = ports.held_by_others(missing, status.pids)
        said = [
            f"port {port} is held by {held[port]}" if port in held else f"it does not listen on port {port}"
            for port in missing
        ]
        return ", ".join(said)
    if process.pattern and not process.ports:
        from buildstep.services.runtime import proc

        if not any(process.pattern in proc.command_of(pid) for pid in status.pids):
            return f"no process of it has {process.pattern!r} in its command line"
    return ""


def _check_ports(process: Process, status: Status) -> None:
    held = ports.held_by_others(process.ports, status.pids)
    if held:
        said = ", ".join(f"port {port} is held by {who}" for port, who in sorted(held.items()))
        raise Failure(f"{process.name} cannot start: {said}")


def _wait_up(process: Process, supervisor: Supervisor, restarts: int) -> None:
    """Wait until a process is up. Raises Failure, its last lines printed, if it fails or is too slow."""
    begun = time.monotonic()
    settled = begun + (0 if process.ports or process.pattern else _SETTLE)
    end = max(settled, begun + process.start_seconds)
    while True:
        status = supervisor.status()
        why = why_not_up(process, status)
        if not why and status.restarts <= restarts and time.monotonic() >= settled:
            return
        if status.restarts > restarts or (not status.main and status.failed):
            why = status.failed or why
            break
        if time.monotonic() > end:
            why = f"{why} after {process.start_seconds:g} s"
            break
        time.sleep(_NAP)
    for line in supervisor.tail(_TAIL):
        print(f"{process.name}: {line}")  # noqa: T201 - an action's output is its log
    raise Failure(f"{process.name} does not get up: {why}")
