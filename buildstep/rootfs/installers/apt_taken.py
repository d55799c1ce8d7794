"""Of which package files an install was made: what a build record says of its packages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from buildstep.rootfs.installers.apt_archives import Archive
from buildstep.rootfs.installers.apt_more import native_architecture
from buildstep.rootfs.installers.apt_sources import Sources
from buildstep.rootfs.interface import InstallJob
from buildstep.spec.lock import LockedPackage
from buildstep.system.digest import sha256_file


def rows(job: InstallJob, archives: Sequence[Archive], shown: Path, own: Sources) -> list[LockedPackage]:
    """Return the package files that an install took, which are in `shown`, sorted; with a lock those of it.

    A file that the lists have no SHA-256 of is hashed. No password of a repository's address is told.
    """
    if job.lock is not None:
        return list(job.lock.packages)
    native, found = native_architecture(job.sandbox.root), []
    for archive in archives:
        stem, _, arch = archive.name.removesuffix(".deb").rpartition("_")
        name, _, version = stem.partition("_")
        repository, file = own.split(archive.uri, job.mirror)
        found.append(
            LockedPackage(
                name=name if arch in (native, "all") else f"{name}:{arch}",
                version=unquote(version),
                arch=arch,
                sha256=archive.digest if archive.kind == "SHA256" else sha256_file(shown / archive.name),
                size=archive.size,
                file=file,
                repository=re.sub("//[^/@]*@", "//", repository),
            )
        )
    return sorted(found, key=lambda row: (row.name, row.version))
