"""Named cleaners: the table of them, and the function that runs those that a build asks for."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial

from buildstep.errors import UsageError
from buildstep.events import Bus, Cleaned
from buildstep.rootfs.cleaners import (
    bytecode,
    ci_host,
    conffiles,
    docs,
    logs,
    machine_id,
    mount_dirs,
    paths,
    zone,
)
from buildstep.rootfs.cleaners.interface import Cleaner, Cleaning, CleanOptions
from buildstep.rootfs.leak_check import check_leaks
from buildstep.system.registry import Registry
from buildstep.system.root import Root

_ROWS = (
    Cleaner("package-cache", "downloads, lists and backups of every package manager", paths.package_cache),
    Cleaner("logs", "logs: the package tools' are removed, the others emptied", logs.clean),
    Cleaner("tmp", "temporary files and shell histories", paths.tmp),
    Cleaner("machine-id", "the machine's id: emptied, so that each machine gets its own", machine_id.clean),
    Cleaner("ldconfig-cache", "ldconfig's auxiliary cache", paths.ldconfig_cache),
    Cleaner("man-cache", "the index of manual pages, which is made anew", paths.man_cache),
    Cleaner("random-seed", "seeds that no two machines may share", paths.random_seed),
    Cleaner("zone-config", "config/ beside root/ in a zone image", zone.clean),
    Cleaner("agent-facts", "the CI host's own resolver file and host name", ci_host.clean),
    Cleaner("mount-points", "empty directories that the build made to mount on", mount_dirs.clean),
    Cleaner("backups", "what account tools keep of the files they change", paths.backups),
    Cleaner(
        "conffile-copies",
        "configuration files put aside for other versions (`.dpkg-dist`, `.ucf-old`, `.rpmnew`)",
        conffiles.clean,
    ),
    Cleaner(
        "ssh-host-keys",
        "host keys; only for images whose first boot makes new ones",
        paths.ssh_host_keys,
        default=False,
    ),
    Cleaner("python-bytecode", "compiled Python files below /usr and /opt", bytecode.clean, default=False),
    Cleaner("docs", "manual pages and documentation; licences stay", docs.clean, default=False),
)
"""One row a cleaner, in the order in which they run."""

CLEANERS: Registry[Cleaner] = Registry("cleaners", "cleaner", {row.name: partial(copy, row) for row in _ROWS})

DEFAULT: tuple[str, ...] = tuple(row.name for row in _ROWS if row.default)


def clean(names: Sequence[str], root: Root, options: CleanOptions, bus: Bus) -> list[Cleaned]:
    """Run cleaners in the table's order, those of other packages last; then check that nothing of the CI host
    is in the image.

    Raises UsageError for an unknown name, SandboxError for what was found.
    """
    found = {name: CLEANERS.find(name) for name in names}
    if unknown := [name for name, cleaner in found.items() if cleaner is None]:
        raise UsageError(f"there is no cleaner {unknown[0]!r}", hint=CLEANERS.hint(unknown[0]))
    work = Cleaning(root, options)
    done = []
    for name in sorted(found, key=[*CLEANERS, *names].index):
        if (cleaner := found[name]) is not None:
            done.append(work.run(cleaner))
            bus.emit(done[-1])
    check_leaks(root, options.ci_host, bus=bus, keep=options.keep, changed=options.changed)
    return done
