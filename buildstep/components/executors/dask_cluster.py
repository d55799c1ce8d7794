"""A dask.distributed cluster as jobs of components see it: which of its workers can do a job, and why not.

https://distributed.dask.org; what a worker is comes from the scheduler: its threads, its resources (see
"Worker Resources" there), and the versions that it has.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import buildstep
from buildstep.components.engine import Orders
from buildstep.components.interface import Job
from buildstep.errors import CIError, ImageError, ToolMissing
from buildstep.formats.oci.spec import OciPlatform

LOOK: Final = 2.0
"""Seconds for which what the scheduler says of its workers is used again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A worker. name: how it is called; threads: jobs that it does at a time; machine: as `uname -m` has it;
    resources: what it offers, by name; buildstep, python: their versions, empty where it has none."""

    address: str
    name: str
    threads: int = 1
    machine: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)
    buildstep: str = ""
    python: str = ""


def reasons(member: Member, platform: OciPlatform, labels: Iterable[str]) -> list[str]:
    """Return why a worker cannot do a job, nothing if it can. labels: resources that it must offer."""
    found = []
    if not member.buildstep:
        found.append("it has no buildstep")
    elif member.buildstep != buildstep.__version__:
        found.append(f"it has buildstep {member.buildstep}, and here is {buildstep.__version__}")
    try:
        there = OciPlatform.of_machine(member.machine)
    except ImageError:
        found.append(f"it is a {member.machine or 'machine that does not say what it is'}")
    else:
        if there.architecture != platform.architecture:
            found.append(f"it is {there}, and the job is for {platform}")
    lacking = [label for label in labels if member.resources.get(label, 0) < 1]
    if lacking:
        found.append(f"it does not offer {', '.join(lacking)}")
    return found


def platform_of(job: Job, orders: Orders) -> OciPlatform:
    """Return the platform of a job: this machine's where none is set, as its base images are."""
    text = orders.settings.options(job.name).platform
    return OciPlatform.parse(text) if text else OciPlatform.here()


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """How the scheduler is reached. tls_ca, tls_cert, tls_key: files, as dask.distributed has them; what is
    empty comes from dask's own configuration. patience: seconds that it may be away."""

    scheduler: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    patience: float = 60.0


def connect(address: Address) -> Any:
    """Return a client of the cluster. Raises CIError where there is no scheduler, ToolMissing."""
    try:
        import distributed
    except ImportError as error:
        raise ToolMissing(
            "the executor dask needs dask.distributed", hint="pip install 'buildstep[dask]'"
        ) from error
    library: Any = distributed
    # A lost connection is told once, by us, and not by tracebacks of its own threads as well.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    security = None
    if address.tls_ca or address.tls_cert:
        security = library.Security(
            tls_ca_file=address.tls_ca or None,
            tls_client_cert=address.tls_cert or None,
            tls_client_key=address.tls_key or None,
            require_encryption=True,
        )
    try:
        return library.Client(
            address.scheduler or None,
            timeout=address.patience,
            security=security,
            set_as_default=False,
            name="buildstep",
        )
    except (OSError, ValueError, TypeError) as error:
        raise CIError(
            f"the dask scheduler {address.scheduler} cannot be reached: {error}",
            hint="such as tcp://scheduler.example:8786; with TLS tls://, and the three files",
        ) from error


class Cluster:
    """The workers of a cluster. Safe to use from several threads. Raises CIError where the scheduler does not
    answer."""

    def __init__(self, client: Any, orders: Orders, labels: Sequence[str]) -> None:
        self._client, self._orders, self._labels = client, orders, tuple(labels)
        self._lock = threading.Lock()
        self._looked = 0.0
        self._members: dict[str, Member] = {}
        self._told: set[str] = set()

    def members(self) -> list[Member]:
        """Return the workers that are there now."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK:
                self._look()
                self._looked = time.monotonic()
            return list(self._members.values())

    def _look(self) -> None:
        try:
            found = self._client.scheduler_info(**_ALL)["workers"]
        except (OSError, ValueError, TimeoutError) as error:
            raise CIError(f"the dask scheduler does not answer: {error}") from error
        known = {address: self._members[address] for address in found if address in self._members}
        if new := [address for address in found if address not in known]:
            versions = self._client.get_versions(packages=["buildstep"])["workers"]
            for address in new:
                row = versions.get(address)
                if isinstance(row, dict):  # else it has gone meanwhile
                    known[address] = _member(address, found[address], row)
        self._members = known

    def able(self, job: Job, avoid: Sequence[str] = ()) -> list[Member]:
        """Return the workers that can do a job; without those at the addresses `avoid`, while there are
        others."""
        platform = platform_of(job, self._orders)
        found = [member for member in self.members() if not reasons(member, platform, self._labels)]
        return [member for member in found if member.address not in avoid] or found

    def check(self, jobs: Iterable[Job]) -> None:
        """Raise CIError for jobs that no worker can do, with the reasons; tell of workers of no use."""
        lines = []
        for job in jobs:
            if not self.able(job):
                platform = platform_of(job, self._orders)
                lines.append(f"  {job.name}")
                lines += [
                    f"    {member.name}: {'; '.join(reasons(member, platform, self._labels))}"
                    for member in self.members()
                ]
        if lines and not self.members():
            raise CIError(
                "the dask cluster has no workers",
                hint="start them first: dask worker SCHEDULER; see the page on building on a dask cluster",
            )
        if lines:
            raise CIError(
                "the dask cluster has no worker that can do these jobs",
                detail="\n".join(lines),
                hint="labels are resources of workers: dask worker --resources 'LABEL=THREADS'",
            )
        self._tell()

    def _tell(self) -> None:
        """Say of workers that they have another buildstep or Python, once of each."""
        for member in self.members():
            version = member.buildstep if member.buildstep != buildstep.__version__ else ""
            if (why := _mismatch(member, version)) and member.name not in self._told:
                self._told.add(member.name)
                self._orders.tell(f"the worker {member.name} {why}")

    def threads(self, jobs: Iterable[Job]) -> int:
        """Return how many jobs the workers do at a time that can do any of these; one at least."""
        found: dict[str, int] = {}
        with contextlib.suppress(CIError):  # whoever has a job there hears of it
            for job in {str(platform_of(job, self._orders)): job for job in jobs}.values():
                found |= {member.address: member.threads for member in self.able(job)}
        return max(1, sum(found.values()))


_ALL: Mapping[str, Any] = {"n_workers": -1}
"""Newer versions of dask.distributed name a few workers only, unless they are asked for all."""


def _mismatch(member: Member, version: str) -> str:
    import platform

    here = platform.python_version()
    if not member.buildstep:
        return "is left out: it has no buildstep"
    if version:
        return f"is left out: it has buildstep {version}, and here is {buildstep.__version__}"
    if member.python and member.python.split(".")[:2] != here.split(".")[:2]:
        return f"has Python {member.python}, and here is {here}: hooks may find another one there"
    return ""


def _member(address: str, row: Mapping[str, Any], versions: Mapping[str, Any]) -> Member:
    host, packages = dict(versions.get("host") or {}), dict(versions.get("packages") or {})
    return Member(
        address=address,
        name=str(row.get("name") or address),
        threads=int(row.get("nthreads") or 1),
        resources={str(name): float(amount) for name, amount in (row.get("resources") or {}).items()},
        machine=str(host.get("machine") or ""),
        python=".".join(str(host.get("python") or "").split(".")[:3]),
        buildstep=str(packages.get("buildstep") or ""),
    )
