"""What a host wants, has and runs, and why that differs: asked of the register, the store and the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from buildstep.assets.activate import before_current, load_state
from buildstep.assets.interface import AssetStore, Register
from buildstep.assets.mark import Mark, current, installed
from buildstep.assets.metrics import Metric
from buildstep.assets.names import order
from buildstep.assets.patterns import resolve
from buildstep.assets.pull_plan import ServicePlan, plan
from buildstep.assets.retention import Retention
from buildstep.errors import BuildstepError


class State(StrEnum):
    """What a version is on this host."""

    OK = "ok"
    MISSING = "missing"
    UNMARKED = "unmarked"
    CHANGED = "changed"
    EXTRA = "extra"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionStatus:
    """One version of a service. reason: why it is not as it should be; installed: seconds since the epoch, 0
    where it is not, or nobody has noted it; size: of the archive in bytes, 0 where that is not known."""

    version: str
    state: State
    reason: str = ""
    installed: float = 0.0
    size: int = 0


@dataclass(kw_only=True, slots=True)
class ServiceStatus:
    """One service. mapped: whether this host wants it, None where that is not known; current: the version
    that the link names, empty for none; previous: the one that a rollback goes back to; newest: the newest
    version that is wanted; rejected: why that is not activated, if it was tried; pending: whether hooks of
    the current one have not been run to their end; versions: newest first; error: why something is not known.
    """

    service: str
    mapped: bool | None
    current: str = ""
    previous: str = ""
    newest: str = ""
    rejected: str = ""
    pending: bool = False
    versions: list[VersionStatus] = field(default_factory=list)
    error: str = ""

    @property
    def up_to_date(self) -> bool:
        """Whether a pull would bring nothing. What is not wanted any more does not count."""
        done = (State.OK, State.EXTRA)
        return not self.error and all(version.state in done for version in self.versions)

    @property
    def told(self) -> str:
        """What the link names, and whether there is something newer."""
        if not self.current:
            words = ["no version is current"]
        elif self.newest and self.current != self.newest:
            words = [f"runs {self.current}, the newest is {self.newest}"]
        else:
            words = [f"runs {self.current}"]
        if self.rejected:
            words.append(f"which is not activated: {self.rejected}")
        if self.pending:
            words.append("its hooks have not been run to their end")
        return ", ".join(words)


@dataclass(kw_only=True, slots=True)
class Status:
    """All of it. pattern: of the mapping that won, empty for none; losers: other patterns that match the
    host; faults: what is wrong with mappings that concern it, a line each; errors: by what could not be
    asked, `register` or `store`; taken: seconds since the epoch.
    """

    host: str
    install: str
    register: str
    store: str
    pattern: str = ""
    losers: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    services: list[ServiceStatus] = field(default_factory=list)
    errors: dict[str, BuildstepError] = field(default_factory=dict)
    taken: float = 0.0

    @property
    def up_to_date(self) -> bool:
        """Whether a pull would bring nothing, as far as that can be known."""
        return not self.errors and all(service.up_to_date for service in self.services)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object; the names are stable."""
        return {
            "host": self.host,
            "install_dir": self.install,
            "register": self.register,
            "store": self.store,
            "pattern": self.pattern,
            "losers": self.losers,
            "faults": self.faults,
            "up_to_date": self.up_to_date,
            "errors": {what: error.message for what, error in self.errors.items()},
            "services": {
                row.service: {
                    "mapped": row.mapped,
                    "current": row.current,
                    "previous": row.previous,
                    "newest": row.newest,
                    "rejected": row.rejected,
                    "pending": row.pending,
                    "up_to_date": row.up_to_date,
                    "error": row.error,
                    "versions": [
                        {
                            "version": it.version,
                            "state": str(it.state),
                            "reason": it.reason,
                            "installed": it.installed,
                            "size": it.size,
                        }
                        for it in row.versions
                    ],
                }
                for row in self.services
            },
            "time": self.taken,
        }


def gather(
    *,
    host: str,
    install: Path,
    register: Register,
    store: AssetStore,
    retention: Retention,
    compat: bool = False,
    clock: Callable[[], float] = time.time,
) -> Status:
    """Ask the register, the store and the disk, and change nothing.

    What cannot be asked is in `errors`, and then only the disk is told of. Raises OSError.
    """
    found = Status(
        host=host, install=str(install), register=register.url, store=store.url, taken=round(clock(), 3)
    )
    there = installed(install)
    try:
        mappings = register.read()
        resolution = resolve(mappings.services, host, compat=compat)
    except BuildstepError as error:
        found.errors["register"] = error
        found.services = [_of_disk(install, service, None, there[service]) for service in sorted(there)]
        return found
    found.pattern = resolution.winner or ""
    found.losers = [loser.pattern for loser in resolution.losers]
    found.faults = [text for text in mappings.faults if text.startswith(f"{resolution.winner!r}: ")]
    found.faults += [f"{pattern!r} is no pattern: {reason}" for pattern, reason in resolution.skipped]
    wanted = resolution.services
    try:
        # All that is not wanted is asked for, also what a pull would keep for a rollback.
        plans = plan(store, wanted, install, retention, stays=lambda _service: set())
    except BuildstepError as error:
        found.errors["store"] = error
        found.services = [
            _of_disk(install, service, service in wanted, there.get(service, {}))
            for service in sorted({*wanted, *there})
        ]
        return found
    found.services = [
        _of_plan(install, plans[service], there.get(service, {}))
        if service in plans and plans[service].error is None
        else _of_disk(install, service, service in wanted, there.get(service, {}), plans.get(service))
        for service in sorted({*plans, *there})
    ]
    return found


def _of_plan(install: Path, mine: ServicePlan, there: Mapping[str, Mark | None]) -> ServiceStatus:
    """Return the status of a service of which the store has told."""
    sizes = {asset.name.version: asset.size for asset in mine.wanted}
    reasons = {fetch.asset.name.version: fetch.reason for fetch in mine.fetched}
    gone = {item.version: item.reason for item in mine.removed}
    rows = []
    for version in sorted({*sizes, *there}, key=order, reverse=True):
        mark = there.get(version)
        if version in mine.errors:
            state, reason = State.UNKNOWN, mine.errors[version].message
        elif version in reasons:
            unmarked = State.UNMARKED if mark is None else State.CHANGED
            state, reason = (unmarked if version in there else State.MISSING), reasons[version]
        elif version in sizes:
            state, reason = State.OK, ""
        else:
            state, reason = State.EXTRA, gone.get(version, "is not wanted, and has no mark")
        rows.append(_version(version, state, reason, mark, sizes.get(version, 0)))
    found = ServiceStatus(
        service=mine.service,
        mapped=mine.mapped,
        newest=mine.wanted[0].name.version if mine.wanted else "",
        versions=rows,
        error="" if mine.wanted or not mine.mapped else "the store has no version that is wanted",
    )
    return _with_activation(found, install, there)


def _of_disk(
    install: Path,
    service: str,
    mapped: bool | None,
    there: Mapping[str, Mark | None],
    mine: ServicePlan | None = None,
) -> ServiceStatus:
    """Return the status of a service of which only the disk tells."""
    extra = mapped is False
    rows = [
        _version(
            version,
            State.EXTRA if extra else State.UNKNOWN,
            "the service is not mapped to this host" if extra else "",
            there[version],
            0,
        )
        for version in sorted(there, key=order, reverse=True)
    ]
    error = mine.error.message if mine is not None and mine.error is not None else ""
    found = ServiceStatus(service=service, mapped=mapped, versions=rows, error=error)
    return _with_activation(found, install, there)


def _with_activation(found: ServiceStatus, install: Path, there: Mapping[str, Mark | None]) -> ServiceStatus:
    """Add what is known of the activations of a service."""
    found.current = current(install, found.service)
    try:
        state = load_state(install, found.service)
        found.previous = before_current(install, found.service)
    except BuildstepError as error:
        found.error = found.error or error.message
        return found
    found.pending = bool(found.current) and state.pending == found.current
    mark = there.get(found.newest)
    if mark is not None and found.newest != found.current:
        rejection = state.rejection(found.newest, mark.sha256)
        found.rejected = rejection.why if rejection else ""
    return found


def _version(version: str, state: State, reason: str, mark: Mark | None, size: int) -> VersionStatus:
    return VersionStatus(
        version=version,
        state=state,
        reason=reason,
        installed=mark.installed if mark else 0.0,
        size=size or (mark.size if mark else 0),
    )


# -- metrics ----------------------------------------------------------------------------------------------

METRICS: Final = {
    "buildstep_assets_up_to_date": "1 if a pull would bring nothing, else 0.",
    "buildstep_assets_reachable": "1 if the register, or the store, could be asked; label `what`.",
    "buildstep_assets_services": "Services that this host is mapped to; label `pattern`: of the winner.",
    "buildstep_assets_versions": "Versions of a service in each state; labels `service`, `state`.",
    "buildstep_assets_service_up_to_date": "1 if a pull would bring nothing for it; label `service`.",
    "buildstep_assets_current_info": "1 for the version that is current; labels `service`, `version`.",
    "buildstep_assets_newest_info": "1 for the newest version that is wanted; labels `service`, `version`.",
    "buildstep_assets_rejected_info": "1 if the newest is not to run; labels `service`, `version`.",
    "buildstep_assets_last_install_timestamp_seconds": "When a version was last installed; label `service`.",
    "buildstep_assets_status_timestamp_seconds": "When all this was asked.",
}
"""The metrics of a host by name, and what they mean."""


def metrics(status: Status) -> list[Metric]:
    """Return the metrics of a status."""
    made = {name: Metric(name=name, about=about.partition(";")[0]) for name, about in METRICS.items()}

    def add(name: str, value: float, **labels: str) -> None:
        made[f"buildstep_assets_{name}"].add(value, **labels)

    add("up_to_date", status.up_to_date)
    for what in ("register", "store"):
        if what == "register" or "register" not in status.errors:  # else nobody asked it
            add("reachable", what not in status.errors, what=what)
    if "register" not in status.errors:
        add("services", sum(bool(row.mapped) for row in status.services), pattern=status.pattern)
    for row in status.services:
        for state in State:
            count = sum(version.state == state for version in row.versions)
            add("versions", count, service=row.service, state=str(state))
        add("service_up_to_date", row.up_to_date, service=row.service)
        if row.current:
            add("current_info", 1, service=row.service, version=row.current)
        if row.newest:
            add("newest_info", 1, service=row.service, version=row.newest)
        if row.rejected:
            add("rejected_info", 1, service=row.service, version=row.newest)
        if last := max((version.installed for version in row.versions), default=0.0):
            add("last_install_timestamp_seconds", last, service=row.service)
    add("status_timestamp_seconds", status.taken)
    return list(made.values())


# -- text -------------------------------------------------------------------------------------------------


def lines(status: Status) -> Sequence[str]:
    """Return a status as lines for a person: what is as it should be is only counted."""
    shown = [f"{status.host}: {_mapping(status)}", *(f"  {fault}" for fault in status.faults)]
    for row in status.services:
        fine = sum(version.state == State.OK for version in row.versions)
        head = f"{row.service}: {row.told}; {fine} of {_wanted(row)} installed"
        if row.mapped is False:
            head = f"{row.service}: not mapped to this host; {row.told}"
        shown.append(head)
        if row.error:
            shown.append(f"  {row.error}")
        shown += [
            f"  {version.version}: {version.state}" + (f", {version.reason}" if version.reason else "")
            for version in row.versions
            if version.state != State.OK
        ]
    if not status.errors:
        shown.append("up to date" if status.up_to_date else "not up to date: `buildstep assets pull`")
    return shown


def _mapping(status: Status) -> str:
    if "register" in status.errors:
        return "which services it has is not known"
    if not status.pattern:
        return "no mapping matches it"
    names = ", ".join(row.service for row in status.services if row.mapped) or "no services"
    return f"{status.pattern} -> {names}"


def _wanted(row: ServiceStatus) -> int:
    return sum(version.state != State.EXTRA for version in row.versions)
