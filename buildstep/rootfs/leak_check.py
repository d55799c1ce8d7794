"""The check that a build leaves no trace of the CI host, and nothing of its own, in an image."""

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
from buildstep.rootfs.glob import fitting, walk
from buildstep.rootfs.temporary_files import SAVED_SUFFIX
from buildstep.system.mount_table import mount_points
from buildstep.system.root import Root
from buildstep.system.text import plural

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
class CiHost:
    """What the CI host has that no image may have. values: secrets by the variable they came from."""

    resolver: bytes = b""
    host_name: str = ""
    values: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> CiHost:
        """Return this host. Its name is read from its files: inside a build `uname` gives the build's."""
        try:
            resolver = Path("/etc/resolv.conf").read_bytes().strip()
        except OSError:
            resolver = b""
        try:
            name = Path("/etc/hostname").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            name = platform.node()
        values = {
            key: os.fsencode(value)
            for key, value in environ.items()
            if len(value) >= _SHORTEST_SECRET
            and (_PROXY_NAME.search(key) or (_SECRET_NAME.search(key) and not value.startswith("/")))
        }
        host_name = "" if name.partition(".")[0].lower() in _COMMON_NAMES else name
        return cls(resolver=resolver, host_name=host_name, values=values)


def check_leaks(
    root: Root,
    ci_host: CiHost,
    *,
    bus: Bus,
    keep: frozenset[str] = frozenset(),
    changed: Sequence[str] | None = None,
) -> None:
    """Raise SandboxError naming everything of the CI host, or of the build, that is still in the image.

    keep: paths from the proto directory: they may say what they like, and are searched for secrets only.
    changed: paths that the build added or changed, to search (None: where a leak is likeliest). Also notes
    the files that differ from build to build.
    """
    if changed is None:
        searched = [path for top in ("/etc", "/root", "/var/lib/cloud", "/home") for path in walk(root, top)]
    else:
        searched = list(changed)
    faults = [
        *(f"{path} is still mounted" for path in mounted_paths(root)),
        *(f"{path} is the CI host's own" for path in host_files(root, ci_host) if path not in keep),
        *(f"{path} was put there by this build" for path in _build_files(root, changed)),
        *_secrets(root, ci_host, searched, keep),
    ]
    if faults:
        raise SandboxError(
            f"{plural(len(faults), 'trace')} of the CI host in the image: {faults[0]}",
            detail="\n".join(f"  {fault}" for fault in faults),
            hint="take it out of the base image or the proto directory, or run the cleaner that removes it",
        )
    for path, why in entropy(root):
        bus.note(f"{path} differs from build to build: {why}")


def mounted_paths(root: Root) -> list[str]:
    """Return the paths in a root that are mount points, but for the root itself."""
    top = os.path.realpath(root.path)
    return [point[len(top) :] for point in mount_points(top) if point != top]


def host_files(root: Root, ci_host: CiHost) -> Iterator[str]:
    """Yield files of the image whose content is the CI host's own."""
    name = ci_host.host_name.encode()
    for path, text in (
        ("/etc/resolv.conf", ci_host.resolver), ("/etc/hostname", name), ("/etc/mailname", name)
    ):  # fmt: skip
        if text and _is_file(root, path) and root.read(path).strip() == text:
            yield path


def _is_file(root: Root, path: str) -> bool:
    found = root.lstat(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def _build_files(root: Root, changed: Sequence[str] | None) -> Iterator[str]:
    """Yield files that only a build makes, by their names and, for policy-rc.d, its content."""
    places = ("/etc", "/usr/sbin", "/run", "/tmp")
    paths = changed if changed is not None else [path for top in places for path in fitting(root, top, "*")]
    for path in paths:
        name = path.rpartition("/")[2]
        if name.endswith(SAVED_SUFFIX) or fnmatchcase(name, ".*.buildstep-*") or name == "buildstep-apt":
            yield path
    policy = "/usr/sbin/policy-rc.d"
    if _is_file(root, policy) and b"buildstep" in root.read(policy):
        yield policy


def _secrets(root: Root, ci_host: CiHost, paths: Iterable[str], keep: frozenset[str]) -> Iterator[str]:
    """Yield a sentence for each file with the value of a secret variable; the value itself is not shown."""
    if not ci_host.values:
        return
    longest_first = sorted(ci_host.values.values(), key=len, reverse=True)
    wanted = re.compile(b"|".join(re.escape(value) for value in longest_first))
    names = {value: key for key, value in ci_host.values.items()}
    for path in paths:
        found = root.lstat(path)
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_SEARCHED:
            continue
        for match in wanted.finditer(root.read(path)):
            if path in keep and _PROXY_NAME.search(names[match[0]]) and b"@" not in match[0]:
                continue  # that a service has the same proxy is no secret of the CI host
            yield f"{path} has the CI host's {names[match[0]]} in it"
            break
