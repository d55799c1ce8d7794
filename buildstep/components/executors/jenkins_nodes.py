"""Which nodes of a Jenkins server get which jobs of components."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from buildstep.components.engine import Orders
from buildstep.components.interface import Job
from buildstep.errors import CIError
from buildstep.formats.oci.spec import OciPlatform
from buildstep.net.jenkins import JenkinsServer
from buildstep.net.jenkins_agents import Needs, judge, list_nodes, needs_of, offline_nodes

LOOK: Final = 5.0
"""Seconds for which what the server says of its nodes is used again, at most."""


class Nodes:
    """The nodes, and how many of our jobs each has. Safe to use from several threads.

    labels: that a node must have. lost_after: seconds that one may be offline. Raises CIError, with the
    reasons, for jobs that no node can do.
    """

    def __init__(
        self, server: JenkinsServer, orders: Orders, labels: tuple[str, ...], lost_after: float
    ) -> None:
        self._lost_after = lost_after
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        self._offline: dict[str, tuple[float, str]] = {}
        self._looked = 0.0
        self._able: dict[str, tuple[str, ...]] = {}
        found = list_nodes(server)
        lines = []
        for job in orders.jobs.values():
            verdicts = judge(found, needs(job, orders, labels))
            self._able[job.name] = tuple(row.node.name for row in verdicts if row.able)
            if not self._able[job.name]:
                lines.append(f"  {job.name}")
                lines += [f"    {row.node.name}: {'; '.join(row.reasons)}" for row in verdicts]
        if lines:
            raise CIError(
                "the Jenkins server has no node that can do these jobs, or has it offline",
                detail="\n".join(lines),
                hint="`buildstep jenkins agents` tells of nodes; labels are set by --worker-label",
            )

    @property
    def count(self) -> int:
        """How many nodes can do any of the jobs; one at least."""
        return max(1, len({name for names in self._able.values() for name in names}))

    @contextlib.contextmanager
    def taking(self, job: Job, avoid: Sequence[str]) -> Iterator[str]:
        """Yield the node for a job, which has one more of our jobs during the block: the least busy one.

        avoid: nodes that lost it before, the last one last; and those that are offline are, while others are
        there.
        """
        with self._lock:
            node = min(
                self._able[job.name],
                key=lambda name: (
                    avoid.count(name),
                    name in avoid[-1:],
                    name in self._offline,
                    self._busy[name],
                    name,
                ),
            )
            self._busy[node] += 1
        try:
            yield node
        finally:
            with self._lock:
                self._busy[node] -= 1

    def lost(self, node: str, server: JenkinsServer) -> str:
        """Return why a node is offline, if it has been so for too long, else nothing. Raises ServerError."""
        now = time.monotonic()
        with self._lock:
            due = now - self._looked >= min(LOOK, self._lost_after / 2)
            if due:
                self._looked = now
        if due:
            found = offline_nodes(server)
            with self._lock:
                self._offline = {
                    name: (self._offline.get(name, (now, ""))[0], why) for name, why in found.items()
                }
        with self._lock:
            since, why = self._offline.get(node, (now, ""))
        return why if now - since >= self._lost_after else ""


def label_of(node: str) -> str:
    """Return the label expression that means one node: each has its own name as a label.

    Source: jenkinsci/jenkins, hudson.model.labels.LabelAtom.escape: a name with other characters is quoted;
    the controller's own node has a label in place of its name.
    """
    if node == "Built-In Node":
        return "built-in"
    if re.fullmatch(r"[A-Za-z0-9_.-]+", node):
        return node
    escaped = node.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def needs(job: Job, orders: Orders, labels: tuple[str, ...]) -> Needs:
    """Return what a job needs of a node: its platform, this machine's where none is set; of an m.json what
    that says."""
    wanted = (job.image.platform if job.image else "") or orders.settings.options(job.name).platform
    platform = OciPlatform.parse(wanted) if wanted else OciPlatform.here()
    found = Needs(os=platform.os, arch=platform.architecture)
    if job.image is not None and job.image.kind == "image" and job.image.file.endswith(".json"):
        path = orders.root / "src" / job.component / job.image.file
        with contextlib.suppress(OSError, ValueError):  # whoever builds it says what is wrong with it
            found = needs_of(json.loads(path.read_bytes()), arch=platform.architecture)
    return replace(found, labels=labels)
