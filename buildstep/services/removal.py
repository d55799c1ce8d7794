"""Removing services from a repository: only those that are installed nowhere, and that no other one needs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from buildstep.errors import Fault, SpecError
from buildstep.services.brief import UNKNOWN, brief_of
from buildstep.services.relations import relations
from buildstep.services.repository import SERVICES, Repository, Service
from buildstep.services.write import NEW
from buildstep.system.files import fsync_dir
from buildstep.system.remove import remove_tree


def remove(repository: Repository, services: Sequence[Service], *, force: bool = False) -> list[str]:
    """Remove services, whose repository is locked; return their keys. force: even ones that are installed.

    Raises SpecError, before anything is removed, for services that others need or that are installed;
    OSError.
    """
    chosen = {service.key for service in services}
    found = relations(repository)
    faults = []
    for service in services:
        others = sorted(
            key for key, needs in found.needs.items() if service.key in needs and key not in chosen
        )
        if others:
            hint = "remove them too, or let them use another"
            faults.append(Fault(where=service.key, message=f"is needed by {', '.join(others)}", hint=hint))
        brief = brief_of(service)
        if brief.installed and not force:
            hint = f"buildstep service uninstall {service.key}"
            if brief.state == UNKNOWN:
                hint = "put back a copy of its state.json, or remove it with --force"
            faults.append(Fault(where=service.key, message=f"is {brief.state}", hint=hint))
    if faults:
        raise SpecError("cannot remove", faults)
    for key in reversed(found.order(chosen)):
        # Out of sight in one step: one that is half removed is never read.
        folder = repository.services.pop(key).folder
        gone = repository.root / SERVICES / f"{NEW}{os.getpid()}-{time.monotonic_ns()}"
        os.rename(folder, gone)
        fsync_dir(folder.parent)
        remove_tree(gone)
    return sorted(chosen)
