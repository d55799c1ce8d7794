"""Which Jenkins nodes can build an image, and why the others cannot.

A node says what it is in up to four places, the first that says something wins:
1. labels: `arch-arm64`, `os-sunos`, `pkgsrc-2021Q4`, `pool-zfs`;
2. a line of its description: `buildstep: arch=amd64 pkgsrc=2021Q4 pool=zfs:zones/build/data`;
3. the environment in its configuration, if we may read that: BUILDSTEP_ARCH, _OS, _PKGSRC, _POOL;
4. what the server itself found out: its architecture monitor says `Linux (amd64)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from buildstep.net.jenkins import JenkinsServer

_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "x64": "amd64",
    "x86-64": "amd64",
    "i386": "386",
    "i686": "386",
    "aarch64": "arm64",
}
_SYSTEMS: Final = {"smartos": "sunos", "illumos": "sunos", "solaris": "sunos"}
_TREE: Final = (
    "?tree=computer[displayName,description,offline,offlineCauseReason,temporarilyOffline,"
    "numExecutors,executors[idle],assignedLabels[name],monitorData[*]]"
)
_FACTS: Final = ("arch", "os", "pkgsrc", "pool")

_PKGSRC_IMAGE = re.compile(r"(?:base|minimal|pkgbuild|pkgsrc)[\w-]*@(\d\d)\.([1-4])\.\d+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a build needs of a node; an empty value is no requirement.

    pkgsrc: a release such as 2021Q4. pool: a backend (zfs), or a whole pool (zfs:zones/build/data).
    """

    os: str = ""
    arch: str = ""
    pkgsrc: str = ""
    pool: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class JenkinsNode:
    """A node as its server describes it. environment: empty if this user may not read it."""

    name: str
    labels: tuple[str, ...] = ()
    description: str = ""
    monitor: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    offline: str = ""
    executors: int = 1
    idle: int = 0

    @property
    def facts(self) -> dict[str, str]:
        """What the node says of itself, by arch, os, pkgsrc and pool; without what it does not say."""
        given = _described(self.description)
        found: dict[str, str] = {}
        for name in _FACTS:
            label = next((it[len(name) + 1 :] for it in self.labels if it.startswith(f"{name}-")), "")
            value = label or given.get(name, "") or self.environment.get(f"BUILDSTEP_{name.upper()}", "")
            if value or (value := _monitored(self.monitor).get(name, "")):
                found[name] = _plain(name, value)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a node can do a build. reasons: why not, all of them."""

    node: JenkinsNode
    reasons: tuple[str, ...]

    @property
    def able(self) -> bool:
        return not self.reasons

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.node.name,
            "able": self.able,
            "reasons": list(self.reasons),
            "idle_executors": self.node.idle,
            "executors": self.node.executors,
            "labels": list(self.node.labels),
            **self.node.facts,
        }


def list_nodes(server: JenkinsServer) -> list[JenkinsNode]:
    """Return all nodes of a server, with their environment if this user may read their configuration."""
    found = server.get("the list of nodes", f"computer/api/json{_TREE}")
    return [_node(row, server) for row in found.get("computer", ())]


def _node(row: Mapping[str, Any], server: JenkinsServer) -> JenkinsNode:
    name = str(row.get("displayName", ""))
    offline = _offline(row)
    monitors = row.get("monitorData") or {}
    return JenkinsNode(
        name=name,
        labels=tuple(str(label["name"]) for label in row.get("assignedLabels") or ()),
        description=str(row.get("description") or ""),
        monitor=str(monitors.get("hudson.node_monitors.ArchitectureMonitor") or ""),
        environment=_environment_of(server.node_config(name)),
        offline=offline,
        executors=int(row.get("numExecutors") or 0),
        idle=0 if offline else sum(bool(it.get("idle")) for it in row.get("executors") or ()),
    )


def offline_nodes(server: JenkinsServer) -> dict[str, str]:
    """Return the nodes that are offline now, and why; quicker than `list_nodes`. Raises ServerError."""
    tree = "?tree=computer[displayName,offline,offlineCauseReason,temporarilyOffline]"
    found = server.get("the list of nodes", f"computer/api/json{tree}")
    return {
        str(row.get("displayName", "")): offline
        for row in found.get("computer", ())
        if (offline := _offline(row))
    }


def _offline(row: Mapping[str, Any]) -> str:
    """Return why a node is offline, empty for one that is not."""
    if not (row.get("offline") or row.get("temporarilyOffline")):
        return ""
    return str(row.get("offlineCauseReason") or "no reason is given").strip().splitlines()[0]


def needs_of(
    document: Mapping[str, Any], *, image: str = "", pool: str = "", pkgsrc: str = "", arch: str = ""
) -> Needs:
    """Return what an m.json needs of a node; the keywords win over what it says.

    The packages of a pkgsrc image are installed with parts of the node's own system, so node and
    image must be of one release. It is read from a base image such as base-64-lts@21.4.0.
    """
    build = document.get("build")
    build = build if isinstance(build, Mapping) else {}
    base = image or str(build.get("image", ""))
    system = str(document.get("os", ""))
    release = pkgsrc
    if not release and (found := _PKGSRC_IMAGE.match(base)):
        release = f"20{found[1]}Q{found[2]}"
    oci = build.get("oci")
    arch_of_image = oci.get("architecture", "") if isinstance(oci, Mapping) else ""
    if not pool and "zfs" in build.get("formats", ()):
        pool = "zfs"
    return Needs(
        os=_plain("os", system) if system in ("linux", "smartos", "illumos") else "",
        arch=_plain("arch", arch or str(arch_of_image)),
        pkgsrc=release,
        pool=pool or str(build.get("pool", "")),
    )


def judge(nodes: Sequence[JenkinsNode], needs: Needs) -> list[Verdict]:
    """Return a verdict on each node: first those that can build, idle ones before busy ones."""
    verdicts = [Verdict(node=node, reasons=tuple(_reasons(node, needs))) for node in nodes]
    return sorted(verdicts, key=lambda it: (not it.able, -it.node.idle, it.node.name))


def _reasons(node: JenkinsNode, needs: Needs) -> list[str]:
    reasons = []
    if node.offline:
        reasons.append(f"is offline: {node.offline}")
    if not node.executors:
        reasons.append("has no executors")
    reasons += [f"does not have the label {label}" for label in needs.labels if label not in node.labels]
    facts = node.facts
    titles = {
        "os": "operating system",
        "arch": "architecture",
        "pkgsrc": "pkgsrc release",
        "pool": "pool",
    }
    wanted = asdict(needs)
    for name, title in titles.items():
        want, have = wanted[name], facts.get(name, "")
        if not want or _fits(name, want, have):
            continue
        if have:
            reasons.append(f"its {title} is {have}, and {want} is needed")
        else:
            reasons.append(f"does not say its {title}, and {want} is needed (label {name}-{want})")
    return reasons


def _fits(name: str, want: str, have: str) -> bool:
    if name == "pool" and (":" not in want or ":" not in have):
        # One side names the backend only: then the other's backend is what counts.
        return want.partition(":")[0] == have.partition(":")[0]
    return want == have


def _described(description: str) -> dict[str, str]:
    line = re.search(r"^\s*buildstep:\s*(.*)$", description, re.MULTILINE)
    words = line[1].split() if line else []
    return dict(word.split("=", 1) for word in words if "=" in word)


def _monitored(monitor: str) -> dict[str, str]:
    """Read `Linux (amd64)`, as the server's architecture monitor writes it."""
    found = re.fullmatch(r"\s*([^()]+?)\s*\(([^()]+)\)\s*", monitor)
    return {"os": found[1], "arch": found[2]} if found else {}


def _plain(name: str, value: str) -> str:
    """Return the one spelling that we use of several."""
    if name == "arch":
        return _ARCHITECTURES.get(value.lower(), value.lower())
    if name == "os":
        return _SYSTEMS.get(value.lower(), value.lower())
    return value


def _environment_of(config: str) -> dict[str, str]:
    """Return the BUILDSTEP_ variables in a node's config.xml; empty if it has none or cannot be read."""
    from xml.etree import ElementTree as ET

    # Jenkins says XML 1.1, which this parser refuses; in what it writes there is no difference.
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", config)
    try:
        strings = [node.text or "" for node in ET.fromstring(text).iterfind(".//tree-map/string")]  # noqa: S314 - expat limits entities
    except ET.ParseError:
        return {}
    pairs = zip(strings[::2], strings[1::2], strict=False)
    return {name: value for name, value in pairs if name.startswith("BUILDSTEP_")}
