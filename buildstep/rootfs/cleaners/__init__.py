"""Named cleaners: what each removes from an image, and what it says of it.

`clean` runs those that are asked for and ends with the proof of `leftovers`. Nothing here follows a link,
enters a mount, or takes a path from outside.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from buildstep.errors import UsageError
from buildstep.events import Bus, Cleaned
from buildstep.rootfs.glob import fitting, matches
from buildstep.rootfs.leak_check import Agent, prove
from buildstep.system.mounts import mount_points
from buildstep.system.remove import remove_tree
from buildstep.system.root import Root

SHOWN = 20
"""How many of the removed paths an event names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What a cleaner may know. zone: the directory around `root/` in a zone image; made: directories that
    the build made to mount on; keep: paths that the proto directory brought, which stay; mounted: paths
    in the root that are mount points; held: both of these, sorted."""

    agent: Agent
    zone: Path | None = None
    made: Sequence[str] = ()
    keep: frozenset[str] = frozenset()
    mounted: frozenset[str] = frozenset()
    held: Sequence[str] = ()


@dataclass(slots=True)
class Tally:
    """What one cleaner has removed so far."""

    paths: int = 0
    bytes: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, path: str, paths: int, size: int) -> None:
        self.paths += paths
        self.bytes += size
        if len(self.names) < SHOWN:
            self.names.append(path)


Act = Callable[[Root, Context, Tally], None]


@dataclass(frozen=True, slots=True)
class Cleaner:
    """A table row. default: whether it runs unless a manifest says otherwise."""

    name: str
    description: str
    act: Act
    default: bool = True

    def clean(self, root: Root, context: Context) -> Cleaned:
        tally = Tally()
        self.act(root, context, tally)
        return Cleaned(cleaner=self.name, paths=tally.paths, bytes=tally.bytes, names=tuple(tally.names))


# -- finding and removing --------------------------------------------------------------------------------


def take(root: Root, context: Context, tally: Tally, path: str) -> None:
    """Remove a path and count it. What holds a mount, or what the proto directory brought, stays."""
    at = bisect_left(context.held, path)
    if at < len(context.held) and context.held[at] == path:
        return
    if any(path.startswith(point + "/") for point in context.mounted):
        return
    at = bisect_left(context.held, path + "/")
    inside = at < len(context.held) and context.held[at].startswith(path + "/")
    found = root.lstat(path)
    if found is None:
        return
    if inside:
        # Something in there stays: its neighbours go one by one.
        if stat.S_ISDIR(found.st_mode):
            for child in list(fitting(root, path, "*")):
                take(root, context, tally, child)
        return
    paths, size = _measure(root, path, found)
    root.remove(path)
    tally.add(path, paths, size)


def _measure(root: Root, path: str, found: os.stat_result) -> tuple[int, int]:
    """Paths and bytes at and below a path."""
    if not stat.S_ISDIR(found.st_mode):
        return 1, found.st_size if stat.S_ISREG(found.st_mode) else 0
    paths, size = 1, 0
    fd = root.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for _dir, folders, files, at in os.fwalk(".", dir_fd=fd, follow_symlinks=False):
            paths += len(folders) + len(files)
            for name in files:
                entry = os.stat(name, dir_fd=at, follow_symlinks=False)
                size += entry.st_size if stat.S_ISREG(entry.st_mode) else 0
    finally:
        os.close(fd)
    return paths, size


def _remover(*patterns: str) -> Act:
    def act(root: Root, context: Context, tally: Tally) -> None:
        for pattern in patterns:
            for path in matches(root, pattern, context.mounted):
                take(root, context, tally, path)

    return act


# -- the cleaners that are more than a list of paths ------------------------------------------------------


def _logs(root: Root, context: Context, tally: Tally) -> None:
    """Logs of the build's own tools go; the others are emptied, for their owner and mode matter."""
    _LOG_FILES(root, context, tally)
    for path in _walk(root, "/var/log", context):
        found = root.lstat(path)
        if found is None or path in context.keep or not stat.S_ISREG(found.st_mode) or not found.st_size:
            continue
        fd = root.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)
        tally.add(path, 1, found.st_size)


_LOG_FILES = _remover(
    "/var/log/*.gz", "/var/log/*.xz", "/var/log/*.old", "/var/log/*.[0-9]", "/var/log/apt/*",
    "/var/log/dpkg.log", "/var/log/alternatives.log", "/var/log/bootstrap.log", "/var/log/fontconfig.log",
    "/var/log/installer", "/var/log/journal/*", "/var/log/dnf*.log", "/var/log/yum.log",
    "/var/log/hawkey.log", "/var/log/pacman.log", "/var/log/apk.log",
)  # fmt: skip


def _walk(root: Root, top: str, context: Context) -> Iterator[str]:
    """Every path below a directory that is no directory itself; links are named, mounts not entered."""
    for path in fitting(root, top, "*"):
        found = root.lstat(path)
        if found is None or path in context.mounted:
            continue
        if stat.S_ISDIR(found.st_mode):
            yield from _walk(root, path, context)
        else:
            yield path


def _machine_id(root: Root, context: Context, tally: Tally) -> None:
    """Empty, as machine-id(5) asks of an image: every machine that is made from it gets its own."""
    found = root.lstat("/etc/machine-id")
    kept = "/etc/machine-id" in context.keep
    if found is not None and stat.S_ISREG(found.st_mode) and found.st_size and not kept:
        root.write("/etc/machine-id", b"", mode=stat.S_IMODE(found.st_mode))
        tally.add("/etc/machine-id", 1, found.st_size)
    dbus = root.lstat("/var/lib/dbus/machine-id")
    if dbus is not None and stat.S_ISREG(dbus.st_mode):  # a link to the other one is right as it is
        take(root, context, tally, "/var/lib/dbus/machine-id")


def _zone_config(_root: Root, context: Context, tally: Tally) -> None:
    """config/ beside root/: one zone's metadata, addresses and names."""
    if context.zone is None:
        return
    config = context.zone / "config"
    if config.is_symlink() or not config.is_dir():
        return
    paths, size = _measure(Root(context.zone), "/config", config.lstat())
    remove_tree(config)
    tally.add("config/", paths, size)


def _agent_facts(root: Root, context: Context, tally: Tally) -> None:
    """A resolver file or host name that is the agent's own; some tools that make bases copy them in."""
    for path, text in context.agent.files().items():
        found = root.lstat(path)
        if found is not None and stat.S_ISREG(found.st_mode) and root.read(path).strip() == text:
            take(root, context, tally, path)


def _mount_points(root: Root, context: Context, tally: Tally) -> None:
    for path in sorted(context.made, key=len, reverse=True):
        if root.real(path) == path and path not in context.mounted and not fitting(root, path, "*"):
            take(root, context, tally, path)


def _bytecode(root: Root, context: Context, tally: Tally) -> None:
    for top in ("/usr", "/opt"):
        for path in list(_walk(root, top, context)):
            if path.endswith(".pyc"):
                take(root, context, tally, path)


def _docs(root: Root, context: Context, tally: Tally) -> None:
    for path in list(_walk(root, "/usr/share/doc", context)):
        if not path.endswith("/copyright"):  # the licences have to stay with what they are of
            take(root, context, tally, path)
    _remover("/usr/share/man/*", "/usr/share/info/*")(root, context, tally)


# -- the table ----------------------------------------------------------------------------------------------

_TABLE = (
    Cleaner(
        "package-cache",
        "downloads, lists and backups of every package manager",
        _remover(
            "/var/cache/apt/*.bin", "/var/cache/apt/archives/*", "/var/lib/apt/lists/*",
            "/var/cache/debconf/*-old", "/var/lib/dpkg/*-old", "/var/cache/dnf/*", "/var/cache/yum/*",
            "/var/cache/libdnf5/*", "/var/cache/zypp/*", "/var/cache/apk/*", "/var/cache/pacman/pkg/*",
            "/var/lib/pacman/sync/*", "/var/cache/pkg/*", "/var/db/pkgin/*",
            "/opt/local/pkg/pkg-vulnerabilities", "/usr/pkg/pkgdb/pkg-vulnerabilities",
            "/var/db/pkg/pkg-vulnerabilities", "/root/.npm/_cacache", "/root/.npm/_logs",
            "/root/.cache/pip", "/root/.cache/yarn", "/root/.cache/uv", "/root/.cache/go-build",
            "/root/.bundle/cache", "/var/cache/pip",
        ),
    ),
    Cleaner("logs", "logs: the package tools' are removed, the others emptied", _logs),
    Cleaner(
        "tmp",
        "temporary files and shell histories",
        _remover(
            "/tmp/*", "/var/tmp/*", "/root/.bash_history", "/root/.ash_history", "/root/.viminfo",
            "/root/.lesshst", "/root/.wget-hsts", "/root/.python_history",
        ),
    ),
    Cleaner("machine-id", "the machine's id: emptied, so that each machine gets its own", _machine_id),
    Cleaner("ldconfig-cache", "ldconfig's auxiliary cache", _remover("/var/cache/ldconfig/aux-cache")),
    Cleaner("man-cache", "the index of manual pages, which is made anew", _remover("/var/cache/man/*")),
    Cleaner(
        "random-seed",
        "seeds that no two machines may share",
        _remover(
            "/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret", "/var/lib/urandom/*-seed",
            "/var/lib/random-seed",
        ),
    ),
    Cleaner("zone-config", "config/ beside root/ in a zone image", _zone_config),
    Cleaner("agent-facts", "the agent's own resolver file and host name", _agent_facts),
    Cleaner("mount-points", "empty directories that the build made to mount on", _mount_points),
    Cleaner(
        "backups",
        "what account tools keep of the files they change",
        _remover(*(f"/etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid"))),
    ),
    Cleaner(
        "ssh-host-keys",
        "host keys; only for images whose first boot makes new ones",
        _remover("/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub"),
        default=False,
    ),
    Cleaner("python-bytecode", "compiled Python files below /usr and /opt", _bytecode, default=False),
    Cleaner("docs", "manual pages and documentation; licences stay", _docs, default=False),
)  # fmt: skip

CLEANERS: Mapping[str, Cleaner] = {cleaner.name: cleaner for cleaner in _TABLE}

DEFAULT: tuple[str, ...] = tuple(cleaner.name for cleaner in _TABLE if cleaner.default)


def clean(
    names: Sequence[str],
    root: Root,
    *,
    bus: Bus,
    environ: Mapping[str, str],
    zone: Path | None = None,
    made: Sequence[str] = (),
    keep: frozenset[str] = frozenset(),
    changed: Sequence[str] | None = None,
) -> list[Cleaned]:
    """Run cleaners in the table's order, then prove that nothing of the agent stayed.

    zone, made, keep: see Context. changed: paths that the build added or changed, to look into for the
    agent's secrets (default: /etc and a few others). Raises UsageError for an unknown name, SandboxError
    for what stayed.
    """
    unknown = [name for name in names if name not in CLEANERS]
    if unknown:
        raise UsageError(
            f"there is no cleaner {', '.join(map(repr, unknown))}", hint=f"known: {', '.join(CLEANERS)}"
        )
    agent = Agent.of(environ)
    top = os.path.realpath(root.path)
    mounted = frozenset(point[len(top) :] for point in mount_points(top) if point != top)
    context = Context(
        agent=agent, zone=zone, made=made, keep=keep, mounted=mounted, held=sorted(keep | mounted)
    )
    done = []
    for cleaner in _TABLE:
        if cleaner.name in names:
            event = cleaner.clean(root, context)
            bus.emit(event)
            done.append(event)
    prove(root, agent, bus=bus, keep=keep, changed=changed)
    return done
