"""Which CI agents can build an image, and why the others cannot: pure functions over what a server tells.

An agent says what it is in up to four places, the first that says something wins:
1. labels: `arch-arm64`, `os-sunos`, `pkgsrc-2021Q4`, `pool-zfs`;
2. a line of its description: `buildstep: arch=amd64 pkgsrc=2021Q4 pool=zfs:zones/build/data`;
3. the environment in its configuration, where we may read that: BUILDSTEP_ARCH, _OS, _PKGSRC, _POOL;
4. what the server itself found out: its architecture monitor says `Linux (amd64)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "x64": "amd64",
    "x86-64": "amd64",
    "i386": "386",
    "i686": "386",
    "aarch64": "arm64",
}
_SYSTEMS: Final = {"smartos": "sunos", "illumos": "sunos", "solaris": "sunos"}
_FACTS: Final = ("arch", "os", "pkgsrc", "pool")

_PKGSRC_IMAGE = re.compile(r"(?:base|minimal|pkgbuild|pkgsrc)[\w-]*@(\d\d)\.([1-4])\.\d+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a build asks of an agent; an empty value asks nothing.

    pkgsrc: a release such as 2021Q4. pool: a backend (zfs), or a whole pool (zfs:zones/build/data).
    """

    os: str = ""
    arch: str = ""
    pkgsrc: str = ""
    pool: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    """An agent as its server describes it. environment: empty where it may not be read."""

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
        """What it says of itself, by arch, os, pkgsrc and pool; what it does not say is not there."""
        said = _described(self.description)
        found: dict[str, str] = {}
        for name in _FACTS:
            label = next((it[len(name) + 1 :] for it in self.labels if it.startswith(f"{name}-")), "")
            value = label or said.get(name, "") or self.environment.get(f"BUILDSTEP_{name.upper()}", "")
            if value or (value := _monitored(self.monitor).get(name, "")):
                found[name] = _plain(name, value)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether an agent can do a build. reasons: all of those why not."""

    agent: Agent
    reasons: tuple[str, ...]

    @property
    def able(self) -> bool:
        return not self.reasons

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.agent.name,
            "able": self.able,
            "reasons": list(self.reasons),
            "idle_executors": self.agent.idle,
            "executors": self.agent.executors,
            "labels": list(self.agent.labels),
            **self.agent.facts,
        }


def needs_of(
    document: Mapping[str, Any], *, image: str = "", pool: str = "", pkgsrc: str = "", arch: str = ""
) -> Needs:
    """What an m.json asks of an agent; the keywords win over what it says.

    The packages of a pkgsrc image are installed with parts of the agent's own system, so agent and
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
    told = oci.get("architecture", "") if isinstance(oci, Mapping) else ""
    if not pool and "zfs" in build.get("formats", ()):
        pool = "zfs"
    return Needs(
        os=_plain("os", system) if system in ("linux", "smartos", "illumos") else "",
        arch=_plain("arch", arch or str(told)),
        pkgsrc=release,
        pool=pool or str(build.get("pool", "")),
    )


def judge(agents: Sequence[Agent], needs: Needs) -> list[Verdict]:
    """A verdict on each agent: those that can build first, the idle ones of them before the busy."""
    verdicts = [Verdict(agent=agent, reasons=tuple(_reasons(agent, needs))) for agent in agents]
    return sorted(verdicts, key=lambda it: (not it.able, -it.agent.idle, it.agent.name))


def _reasons(agent: Agent, needs: Needs) -> list[str]:
    reasons = []
    if agent.offline:
        reasons.append(f"is offline: {agent.offline}")
    if not agent.executors:
        reasons.append("has no executors")
    reasons += [f"does not have the label {label}" for label in needs.labels if label not in agent.labels]
    facts = agent.facts
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
    """`Linux (amd64)`, as the server's architecture monitor puts it."""
    found = re.fullmatch(r"\s*([^()]+?)\s*\(([^()]+)\)\s*", monitor)
    return {"os": found[1], "arch": found[2]} if found else {}


def _plain(name: str, value: str) -> str:
    """One spelling for what has several."""
    if name == "arch":
        return _ARCHITECTURES.get(value.lower(), value.lower())
    if name == "os":
        return _SYSTEMS.get(value.lower(), value.lower())
    return value


def environment_of(config: str) -> dict[str, str]:
    """The BUILDSTEP_ variables in an agent's config.xml; nothing where it has none or cannot be read."""
    from xml.etree import ElementTree as ET

    # Jenkins says XML 1.1, which this parser refuses; in what it writes there is no difference.
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", config)
    try:
        strings = [node.text or "" for node in ET.fromstring(text).iterfind(".//tree-map/string")]  # noqa: S314 - expat limits entities
    except ET.ParseError:
        return {}
    pairs = zip(strings[::2], strings[1::2], strict=False)
    return {name: value for name, value in pairs if name.startswith("BUILDSTEP_")}
