"""What a build must not leave in an image: traces of the agent, and bytes that differ from build to build."""

from __future__ import annotations

import os
import platform
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from buildstep.errors import SandboxError
from buildstep.events import Bus
from buildstep.rootfs.entropy import entropy
from buildstep.rootfs.glob import fitting
from buildstep.rootfs.temporary_files import SAVED_SUFFIX
from buildstep.system.mount_table import mount_points
from buildstep.system.root import Root

_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY|(^|_)AUTH($|_)", re.IGNORECASE
)
_PROXY_NAME = re.compile(r"^(https?|ftp|all)_proxy$", re.IGNORECASE)
_SHORTEST_SECRET = 9
_LARGEST_SEARCHED = 1 << 20
"""Secrets that leak do so into settings and scripts, not into programs of megabytes."""

_COMMON_NAMES = {"localhost", "debian", "ubuntu", "alpine", "builder", "host", "buildstep"}
"""Host names that mean nothing when an image has them too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    """What the agent has that no image may have. values: secrets by the variable they came from."""

    resolver: bytes = b""
    host_name: str = ""
    values: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, environ: Mapping[str, str], *, resolver_file: Path = Path("/etc/resolv.conf")) -> Agent:
        """This agent. Its host name is read from its files: inside a build `uname` answers with ours."""
        try:
            resolver = resolver_file.read_bytes().strip()
        except OSError:
            resolver = b""
        try:
            name = Path("/etc/hostname").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            name = platform.node()
        values = {
            key: value.encode()
            for key, value in environ.items()
            if len(value) >= _SHORTEST_SECRET
            and (_PROXY_NAME.search(key) or (_SECRET_NAME.search(key) and not value.startswith("/")))
        }
        host_name = "" if name.partition(".")[0].lower() in _COMMON_NAMES else name
        return cls(resolver=resolver, host_name=host_name, values=values)

    def files(self) -> dict[str, bytes]:
        """Files of an image and the content by which they would be the agent's."""
        found = {"/etc/resolv.conf": self.resolver}
        found |= {path: self.host_name.encode() for path in ("/etc/hostname", "/etc/mailname")}
        return {path: text for path, text in found.items() if text}


def prove(
    root: Root,
    agent: Agent,
    *,
    bus: Bus,
    keep: frozenset[str] = frozenset(),
    changed: Sequence[str] | None = None,
) -> None:
    """Raise SandboxError naming everything of the agent, or of ours, that is still in the image.

    keep: what the proto directory brought: it may say what it likes, and is searched for secrets only.
    """
    faults = [
        *_mounts(root),
        *(f"{path} is the agent's own" for path in agent_files(root, agent) if path not in keep),
        *_ours(root, changed),
        *_secrets(root, agent, changed if changed is not None else list(_small_walk(root)), keep),
    ]
    if faults:
        raise SandboxError(
            f"{len(faults)} trace{'s' if len(faults) > 1 else ''} of the agent in the image: {faults[0]}",
            detail="\n".join(f"  {fault}" for fault in faults),
            hint="take it out of the base image or the proto directory, or run the cleaner that removes it",
        )
    for path, why in entropy(root):
        bus.note(f"{path} differs from build to build: {why}")


def _mounts(root: Root) -> Iterator[str]:
    top = os.path.realpath(root.path)
    for point in mount_points(top):
        if point != top:
            yield f"{point[len(top) :]} is still mounted"


def agent_files(root: Root, agent: Agent) -> Iterator[str]:
    for path, text in agent.files().items():
        found = root.lstat(path)
        if found is not None and stat.S_ISREG(found.st_mode) and root.read(path).strip() == text:
            yield path


def _ours(root: Root, changed: Sequence[str] | None) -> Iterator[str]:
    """Files under names that only we give."""
    places = ("/etc", "/usr/sbin", "/run", "/tmp")
    paths = changed if changed is not None else [p for head in places for p in fitting(root, head, "*")]
    for path in paths:
        name = path.rpartition("/")[2]
        if name.endswith(SAVED_SUFFIX) or fnmatchcase(name, ".*.buildstep-*") or name == "buildstep-apt":
            yield f"{path} was put there by this build"
    policy = root.lstat("/usr/sbin/policy-rc.d")
    if (
        policy is not None
        and stat.S_ISREG(policy.st_mode)
        and b"buildstep" in root.read("/usr/sbin/policy-rc.d")
    ):
        yield "/usr/sbin/policy-rc.d was put there by this build"


def _secrets(root: Root, agent: Agent, paths: Iterable[str], keep: frozenset[str]) -> Iterator[str]:
    """Files that hold the value of one of the agent's secret variables; the value itself is not shown."""
    if not agent.values:
        return
    wanted = re.compile(
        b"|".join(re.escape(value) for value in sorted(agent.values.values(), key=len, reverse=True))
    )
    names = {value: key for key, value in agent.values.items()}
    for path in paths:
        found = root.lstat(path)
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_SEARCHED:
            continue
        for match in wanted.finditer(root.read(path)):
            if path in keep and _PROXY_NAME.search(names[match[0]]) and b"@" not in match[0]:
                continue  # that a service has the same proxy is no secret of the agent
            yield f"{path} has the agent's {names[match[0]]} in it"
            break


def _small_walk(
    root: Root, tops: Sequence[str] = ("/etc", "/root", "/var/lib/cloud", "/home")
) -> Iterator[str]:
    """Files where a leaked value is likeliest."""
    for top in tops:
        for path in fitting(root, top, "*"):
            found = root.lstat(path)
            if found is not None and stat.S_ISDIR(found.st_mode):
                yield from _small_walk(root, (path,))
            else:
                yield path
