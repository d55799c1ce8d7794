"""Bring a host's services to its disk: plan, fetch what is missing, activate, and remove what is not wanted.

What goes wrong with one asset keeps no other from being installed. Whoever has pulled has a report of all of
it; `Report.check` makes an error of one that tells of errors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.assets import activate
from buildstep.assets.activate import Hooks
from buildstep.assets.install import InstallDir, locked
from buildstep.assets.interface import Asset, Incomplete
from buildstep.assets.mark import current
from buildstep.assets.names import parse
from buildstep.assets.policy import Policy, Staged
from buildstep.assets.pull_plan import ServicePlan, plan, same_object
from buildstep.assets.retention import MOST_REMOVED, Going, Retention, guard
from buildstep.errors import BuildstepError, UsageError
from buildstep.events import Bus
from buildstep.report.progress import Begin, unseen
from buildstep.system import space
from buildstep.system.text import plural

if TYPE_CHECKING:
    from buildstep.assets.fetch import Failure, Opener

_SHOWN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to pull. prune: remove versions that are not wanted, at most max_delete of them; activate: let the
    link `current` of each service name its newest version; hooks: run when that changes."""

    retention: Retention = field(default_factory=Retention)
    prune: bool = False
    max_delete: int = MOST_REMOVED
    activate: bool = False
    hooks: Hooks = field(default_factory=Hooks)
    dry_run: bool = False


@dataclass(kw_only=True, slots=True)
class ServiceReport:
    """What became of a service. failed: messages by version, "" for the service as a whole; planned: why each
    version is fetched; current: the version that its link names now, activated: if that was changed."""

    mapped: bool = True
    wanted: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    installed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    planned: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    current: str = ""
    activated: bool = False


@dataclass(kw_only=True, slots=True)
class Report:
    """What a pull has done, or with dry_run would do. size: bytes of the archives that came; adopted:
    versions that a killed pull had unpacked; pruned: whether a prune was asked for and took place;
    problems: what is wrong with more than one service."""

    store: str = ""
    dry_run: bool = False
    services: dict[str, ServiceReport] = field(default_factory=dict)
    size: int = 0
    adopted: int = 0
    pruned: bool = False
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def installed(self) -> int:
        """How many versions were installed."""
        return sum(len(service.installed) for service in self.services.values())

    @property
    def failed(self) -> list[str]:
        """What failed, a line each."""
        return self.problems + [
            f"{name}{f' {version}' if version else ''}: {why}"
            for name, service in self.services.items()
            for version, why in service.failed.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object; the names are stable."""
        rows = {
            name: {
                "mapped": row.mapped,
                "wanted": row.wanted,
                "present": row.present,
                "installed": row.installed,
                "removed": row.removed,
                "reasons": row.planned,
                "failed": row.failed,
                "current": row.current,
                "activated": row.activated,
            }
            for name, row in self.services.items()
        }
        return {
            "store": self.store,
            "dry_run": self.dry_run,
            "services": rows,
            "bytes": self.size,
            "adopted": self.adopted,
            "pruned": self.pruned,
            "problems": self.problems,
            "seconds": round(self.seconds, 3),
        }

    def check(self) -> None:
        """Raise Incomplete if something failed."""
        if lines := self.failed:
            rest = len(lines) - _SHOWN
            shown = [f"  {line}" for line in lines[:_SHOWN]] + ([f"  and {rest} more"] if rest > 0 else [])
            broken = sum(bool(service.failed) for service in self.services.values())
            message = f"{plural(broken, 'service')} of {len(self.services)} could not be pulled completely"
            raise Incomplete(
                message if broken else "the pull is not complete",
                detail="\n".join(shown),
                hint="all else is done; the next pull goes on where this one stopped",
            )


def pull(
    opener: Opener,
    services: Sequence[str],
    install: Path,
    policy: Policy,
    options: Options,
    *,
    begin: Begin = unseen,
    bus: Bus | None = None,
) -> Report:
    """Pull services, and return what was done; errors of single assets and services are in the report.

    services: of this host, without duplicates. install: the directory; it is locked meanwhile, and a pull by
    another process waited for. Raises what no service could be pulled for: StoreError, UsageError, DiskError,
    OSError.
    """
    return _Pull(opener, services, install, policy, options, begin, bus or Bus()).run()


class _Pull:
    def __init__(
        self,
        opener: Opener,
        services: Sequence[str],
        install: Path,
        policy: Policy,
        options: Options,
        begin: Begin,
        bus: Bus,
    ) -> None:
        self._opener = opener
        self._services = services
        self._install = install
        self._store = opener()
        self._policy = replace(policy, store=self._store.url)
        self._options = options
        self._begin = begin
        self._bus = bus
        self._report = Report(store=self._store.url, dry_run=options.dry_run)

    def run(self) -> Report:
        started = time.monotonic()
        if self._options.dry_run:
            self._tell_plan(self._plan())
        else:
            with locked(self._install, self._bus.note) as place:
                self._work(place)
        self._report.seconds = time.monotonic() - started
        return self._report

    def _plan(self) -> dict[str, ServicePlan]:
        stays = self._stays if self._options.prune else None
        retention, policy = self._options.retention, self._policy
        return plan(self._store, self._services, self._install, retention, stays=stays, policy=policy)

    def _stays(self, service: str) -> set[str]:
        """Return what a prune keeps: what runs, and what a rollback would go back to."""
        return {current(self._install, service), activate.before_current(self._install, service)}

    def _work(self, place: InstallDir) -> None:
        plans = self._plan()
        self._tell_plan(plans)
        missing = [row.asset for mine in plans.values() for row in mine.fetched]
        missing = self._adopt(place, missing)
        if missing:
            size = sum(asset.size for asset in missing)
            what = f"cannot pull {plural(len(missing), 'asset')} to {self._install}"
            space.check(self._install, size, what=what, inodes=len(missing))
            from buildstep.assets.fetch import fetch  # most pulls find all there, and do without

            with self._begin(len(missing), size) as advance:
                for asset, error in fetch(place, missing, self._opener, self._policy, advance):
                    self._done(asset, error)
                    self._report.size += 0 if error else asset.size
        for mine in plans.values():
            for version, mark in mine.again.items():
                place.refresh(mine.service, version, mark)
        if self._options.activate:
            for mine in plans.values():
                self._activate(place, mine)
        for service, row in self._report.services.items():
            row.current = current(self._install, service)
        if self._options.prune:
            self._prune(place, plans)
        place.sweep()

    # -- reports -----------------------------------------------------------------------------------------

    def _tell_plan(self, plans: Mapping[str, ServicePlan]) -> None:
        for service, mine in plans.items():
            row = self._report.services[service] = ServiceReport(mapped=mine.mapped)
            row.wanted = [asset.name.version for asset in mine.wanted]
            row.present = list(mine.present)
            row.planned = {item.asset.name.version: item.reason for item in mine.fetched}
            row.current = current(self._install, service)
            for version, error in mine.errors.items():
                row.failed[version] = error.message
            if mine.error is not None:
                row.failed[""] = mine.error.message
            elif mine.mapped and not mine.wanted:
                self._bus.note(f"{self._store.url} has no wanted version of {service}", level="warning")
            if self._options.dry_run:
                row.planned |= {item.version: item.reason for item in mine.removed}
                row.installed = [item.asset.name.version for item in mine.fetched]
                row.removed = [item.version for item in mine.removed]
        if self._options.dry_run:
            self._guarded([item for mine in plans.values() for item in mine.removed])

    def _done(self, asset: Asset, error: Failure | None) -> None:
        row = self._report.services[asset.name.service]
        if error is None:
            row.installed.append(asset.name.version)
        else:
            row.failed[asset.name.version] = told(error)

    # -- parts -------------------------------------------------------------------------------------------

    def _adopt(self, place: InstallDir, missing: Sequence[Asset]) -> list[Asset]:
        """Install what a killed pull has staged completely; return what is still to be fetched."""
        wanted = {(asset.name.service, asset.name.version): asset for asset in missing}
        found = []
        for folder, mark in place.left():
            name = parse(mark.file, hyphens=True)
            asset = wanted.get((name.service, name.version)) if name else None
            signed = self._policy.trusts(mark)
            if asset is not None and signed and same_object(mark, asset, self._store.url):
                found.append(Staged(asset, str(folder), mark))
                del wanted[asset.name.service, asset.name.version]
        for staged, error in zip(found, place.publish(found), strict=True):
            self._done(staged.asset, error)
            self._report.adopted += error is None
        return list(wanted.values())

    def _activate(self, place: InstallDir, mine: ServicePlan) -> None:
        """Let a service run its newest version, if that is there."""
        row = self._report.services[mine.service]
        if not mine.wanted or row.failed.get(""):
            return
        newest = mine.wanted[0].name.version
        if newest in row.failed:
            return
        try:
            row.activated = activate.follow(place.path, mine.service, newest, self._options.hooks, self._bus)
        except (BuildstepError, OSError) as error:
            row.failed[newest] = told(error)

    def _prune(self, place: InstallDir, plans: Mapping[str, ServicePlan]) -> None:
        """Remove what is not wanted, unless something failed: what is there may be all that works."""
        if self._report.failed:
            self._bus.note("nothing is removed, as not all was pulled", level="warning")
            return
        found = []
        for mine in plans.values():
            stays = self._stays(mine.service)  # what runs may be another one by now
            found += [item for item in mine.removed if item.version not in stays]
        for item in found if self._guarded(found) else ():
            row = self._report.services[item.service]
            row.planned[item.version] = item.reason
            try:
                place.remove(item.service, item.version)
                row.removed.append(item.version)
            except (BuildstepError, OSError) as error:
                row.failed[item.version] = told(error)
        self._report.pruned = not self._report.problems

    def _guarded(self, found: Sequence[Going]) -> bool:
        """Return whether so much may be removed; if not, the report tells it."""
        try:
            guard(found, self._options.max_delete)
        except UsageError as error:
            self._report.problems.append(told(error))
            return False
        return True


def told(error: BuildstepError | OSError) -> str:
    """Return an error as a part of a report: its message, then the detail, if there is one."""
    if isinstance(error, BuildstepError):
        detail = "; ".join(line.strip() for line in error.detail.splitlines() if line.strip())
        return f"{error.message}: {detail}" if detail else error.message
    where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    return f"{where}{error.strerror}"
