"""The cleaner of files that some tools copy from the CI host into a base image."""

from __future__ import annotations

from buildstep.rootfs.cleaners.interface import Cleaning
from buildstep.rootfs.leak_check import host_files


def clean(work: Cleaning) -> None:
    """Remove a resolver file or host name that is the CI host's own."""
    for path in host_files(work.root, work.options.ci_host):
        work.remove(path)
