"""Other versions of a few locked packages, and no more of the others than these need.

apt is told that all that is locked is installed, so that it changes as little as it can: its own rules say
what a new version pulls in, and what has to go.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from buildstep.errors import LockError
from buildstep.rootfs.installers import apt_locked, apt_simulation
from buildstep.rootfs.installers.apt_settings import NAME, OURS
from buildstep.rootfs.installers.common import checked
from buildstep.rootfs.installers.deb_file import control_of
from buildstep.rootfs.installers.dpkg_database import STATUS
from buildstep.rootfs.interface import InstallJob
from buildstep.spec.lock import Lock, LockedPackage

_FILE = "locked/status"


def words_for(job: InstallJob, lock: Lock, names: Sequence[str], supply: apt_locked.Supply) -> list[str]:
    """Return apt-get's words for an install of other versions over what is locked, which is shown then.

    Raises LockError for a package that is not locked, and where the file of another one is gone.
    """
    checked(names, NAME, "apt")
    moved = {name.partition("=")[0] for name in names}
    if unknown := sorted(moved - {row.name for row in lock.packages}):
        raise LockError(
            f"{', '.join(unknown)}: not in {lock.path.name or 'the lock'}",
            hint="it has what an install brings, and not what the base image has of its own",
        )
    apt_locked.have([row for row in lock.packages if row.name not in moved], supply)
    with contextlib.suppress(LockError):  # one that moves need not be there any more
        apt_locked.have([row for row in lock.packages if row.name in moved], supply)
    (supply.shown.parent / _FILE).write_bytes(_status(job, lock, supply.shown))
    recommends = "--install-recommends" if job.recommends else "--no-install-recommends"
    status = f"-oDir::State::status={OURS}/{_FILE}"
    return [status, recommends, "--allow-downgrades", "install", "--", *names]


def _status(job: InstallJob, lock: Lock, files: Path) -> bytes:
    """Return the package database of the base image as it would be after an install of the lock."""
    text = job.sandbox.root.read(STATUS).decode(errors="replace")
    stanzas = [stanza.strip("\n") for stanza in text.split("\n\n") if stanza.strip()]
    native = next((arch for name, arch in map(_named, stanzas) if name == "dpkg"), "")
    gone = {*lock.removed, *(row.name for row in lock.packages)}
    kept = []
    for stanza in stanzas:
        name, arch = _named(stanza)
        if (name if arch in ("all", native) else f"{name}:{arch}") not in gone:
            kept.append(stanza)
    for file in (files / apt_locked.archive_of(row).name for row in lock.packages):
        if not file.exists():
            continue
        control = control_of(file)
        kept.append(f"{control}\nStatus: install ok installed")
    return "".join(f"{stanza}\n\n" for stanza in kept).encode()


def _named(stanza: str) -> tuple[str, str]:
    """Return the name and the architecture of a package in the database."""
    fields = dict(re.findall(r"(?m)^(Package|Architecture): (\S+)", stanza))
    return fields.get("Package", ""), fields.get("Architecture", "")


def merged(lock: Lock, simulated: apt_simulation.Simulation, rows: Sequence[LockedPackage]) -> Lock:
    """Return the lock with the package files that came in place of others. rows: of those."""
    versions: Mapping[str, str] = simulated.answer.versions
    new = {row.name: row for row in rows}
    known = {row.name: row for row in lock.packages if versions.get(row.name) != ""}
    own = [name for name, version in versions.items() if not version and name not in lock.versions()]
    return replace(
        lock,
        packages=tuple(found for _, found in sorted({**known, **new}.items())),
        removed=tuple(sorted({*lock.removed, *own})),
    )


def only(lock: Lock, names: Mapping[str, str]) -> Lock:
    """Return the lock with what an install of it takes: what nothing needs any more is dropped."""
    return replace(lock, packages=tuple(row for row in lock.packages if row.name in names))
