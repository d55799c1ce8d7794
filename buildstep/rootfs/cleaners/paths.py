"""Cleaners that are a list of paths to remove."""

from __future__ import annotations

from collections.abc import Callable

from buildstep.rootfs.cleaners.interface import Cleaning


def remover(*patterns: str) -> Callable[[Cleaning], None]:
    """Return a cleaner function that removes all paths matching these patterns."""
    return lambda work: work.remove_matching(*patterns)


package_cache = remover(
    "/var/cache/apt/*.bin", "/var/cache/apt/archives/*", "/var/lib/apt/lists/*",
    "/var/cache/debconf/*-old", "/var/lib/dpkg/*-old", "/var/cache/dnf/*", "/var/cache/yum/*",
    "/var/cache/libdnf5/*", "/var/cache/zypp/*", "/var/cache/apk/*", "/var/cache/pacman/pkg/*",
    "/var/lib/pacman/sync/*", "/var/cache/pkg/*", "/var/db/pkgin/*",
    "/opt/local/pkg/pkg-vulnerabilities", "/usr/pkg/pkgdb/pkg-vulnerabilities",
    "/var/db/pkg/pkg-vulnerabilities", "/root/.npm/_cacache", "/root/.npm/_logs",
    "/root/.cache/pip", "/root/.cache/yarn", "/root/.cache/uv", "/root/.cache/go-build",
    "/root/.bundle/cache", "/var/cache/pip",
)  # fmt: skip

tmp = remover(
    "/tmp/*", "/var/tmp/*", "/root/.bash_history", "/root/.ash_history", "/root/.viminfo",
    "/root/.lesshst", "/root/.wget-hsts", "/root/.python_history",
)  # fmt: skip

ldconfig_cache = remover("/var/cache/ldconfig/aux-cache")

man_cache = remover("/var/cache/man/*")

random_seed = remover(
    "/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret", "/var/lib/urandom/*-seed",
    "/var/lib/random-seed",
)  # fmt: skip

backups = remover(*(f"/etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")))

ssh_host_keys = remover("/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub")
