"""Packages of the system, by the package manager that is there: no questions, no calls without need."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from buildstep.services.runtime import commands, proc
from buildstep.services.runtime.answers import Failure

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._:~=/-]*")

_POLICY = "/usr/sbin/policy-rc.d"
_POLICY_TEXT = """#!/bin/sh
# Made by buildstep: packages that process {pid} installs start no daemons. Without it this has no effect.
[ "$(cut -d ' ' -f 22 /proc/{pid}/stat 2>/dev/null)" = {start} ] || exit 0
exit 101
"""
_POLICY_MARK = b"# Made by buildstep: "

_APT = ["-y", "-q", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold", "-o", "APT::Color=0"]
_QUIET = {
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBCONF_NONINTERACTIVE_SEEN": "true",
    "NEEDRESTART_SUSPEND": "1",
}


class Manager(NamedTuple):
    """A package manager. installed: the names of the packages that are there; None where only a call tells.
    refresh: fetches the lists of packages; install: with the names after it."""

    program: str
    installed: Callable[[], set[str] | None]
    refresh: Sequence[str]
    install: Sequence[str]


def _dpkg() -> set[str] | None:
    found = set()
    for block in proc.read_bytes("/var/lib/dpkg/status").decode("utf-8", "replace").split("\n\n"):
        if "\nStatus: install ok installed\n" in block or "\nStatus: hold ok installed\n" in block:
            found.add(block.partition("Package: ")[2].partition("\n")[0])
    return found


def _apk() -> set[str] | None:
    lines = proc.read_bytes("/lib/apk/db/installed").decode("utf-8", "replace").splitlines()
    return {line[2:] for line in lines if line.startswith("P:")}


def _pkgsrc() -> set[str] | None:
    for folder in ("/opt/local/pkg", "/var/db/pkg", "/usr/pkg/pkgdb"):
        if os.path.isdir(folder):
            return {name.rpartition("-")[0] for name in os.listdir(folder)}
    return None


def _unknown() -> set[str] | None:
    return None


MANAGERS: tuple[Manager, ...] = (
    Manager("apt-get", _dpkg, ["apt-get", "-q", "update"], ["apt-get", *_APT, "install", "--"]),
    Manager("apk", _apk, ["apk", "update"], ["apk", "add", "--no-interactive"]),
    Manager("dnf", _unknown, [], ["dnf", "-y", "install", "--setopt=install_weak_deps=False"]),
    Manager("pkgin", _pkgsrc, ["pkgin", "-y", "update"], ["pkgin", "-y", "install"]),
)
"""In the order in which they are looked for."""


def ensure(names: Sequence[str], *, start: bool = False) -> list[str]:
    """Have packages; return those that were installed. Raises Failure, retryable if it may pass.

    A name may have a version as the package manager writes it (`redis-server=5:7.0.15-1`): such a one is
    always handed to the package manager. start: whether daemons that a package brings may start.
    """
    wrong = [name for name in names if not _NAME.fullmatch(name)]
    if wrong:
        raise Failure(f"no names of packages: {', '.join(map(repr, wrong))}")
    manager = next((one for one in MANAGERS if commands.find(one.program)), None)
    if manager is None:
        if not names:
            return []
        known = ", ".join(one.program for one in MANAGERS)
        raise Failure(f"no package manager is there (looked for {known})")
    there = manager.installed() or set()
    missing = sorted({name for name in names if name not in there})
    if not missing:
        return []
    if os.geteuid() != 0:
        raise Failure(f"only root can install {', '.join(missing)}")
    with contextlib.nullcontext() if start else _no_daemons():
        _install(manager, missing)
    return missing


def _install(manager: Manager, names: list[str]) -> None:
    options = commands.Options(env=_QUIET)
    argv = [*manager.install, *names]
    result = commands.run(argv, options)
    if result.status and manager.refresh:
        # The lists may be missing or old.
        if commands.run(manager.refresh, options).status:
            raise Failure(f"{' '.join(manager.refresh)} failed", retryable=True)
        result = commands.run(argv, options)
    if result.status:
        raise Failure(f"{manager.program} {result.ended}: {', '.join(names)}", retryable=True)


@contextlib.contextmanager
def _no_daemons() -> Iterator[None]:
    """Have Debian's packages start no daemons meanwhile: they would take the ports of ours. See
    https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt

    The file has no effect without this process, so one that a kill leaves does nothing; the next call takes
    its place. One that is not ours stays.
    """
    mine = proc.identity(os.getpid())
    foreign = os.path.lexists(_POLICY) and _POLICY_MARK not in proc.read_bytes(_POLICY)
    if mine is None or foreign or not os.path.isdir(os.path.dirname(_POLICY)):
        yield
        return
    from buildstep.services.runtime.records import write

    write(_POLICY, _POLICY_TEXT.format(pid=mine.pid, start=mine.start), 0o755)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_POLICY)
