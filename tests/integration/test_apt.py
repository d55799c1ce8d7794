"""apt in a real Debian root: what it installs, what package scripts see, and what stays in the image."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import InstallError
from buildstep.events import Bus, Event, Output, Progress
from buildstep.rootfs import cleaners, installers, sandbox
from buildstep.rootfs.cleaners.interface import CleanOptions
from buildstep.rootfs.installers.apt_sources import host_mirror
from buildstep.rootfs.interface import Installer, InstallJob
from buildstep.rootfs.leak_check import CiHost
from buildstep.rootfs.sandbox import SandboxOptions
from buildstep.system import mount_table, mounts, process
from buildstep.system.root import Root

Private = Callable[[Callable[[], Any]], Any]

TOKEN = "s3cr3t-agent-token-value"
ENVIRON = {"AGENT_TOKEN": TOKEN, "PATH": "/nowhere", "HOME": "/home/agent"}

PROBE = """#!/bin/sh
set -e
env > /probe.env
cat /proc/self/environ /proc/1/environ >> /probe.env 2>/dev/null || true
cat /etc/resolv.conf > /probe.resolver
grep : /proc/net/dev | cut -d: -f1 > /probe.network
ls -l /proc/self/fd > /probe.descriptors
/usr/sbin/policy-rc.d probe start > /dev/null 2>&1 || echo $? > /probe.policy
invoke-rc.d probe start || true
setsid sleep 98765 < /dev/null > /dev/null 2>&1 &
exit 0
"""

INIT = """#!/bin/sh
### BEGIN INIT INFO
# Provides: probe
# Required-Start:
# Required-Stop:
# Default-Start: 2
# Default-Stop: 0
### END INIT INFO
touch /probe.started
"""


def make_deb(
    folder: Path, name: str, *, postinst: str = "", depends: str = "", files: dict[str, str] | None = None
) -> None:
    """A real package, made by dpkg-deb, in a flat repository."""
    tree = folder / f".{name}"
    (tree / "DEBIAN").mkdir(parents=True)
    depends_line = f"Depends: {depends}\n" if depends else ""
    control = f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.com>\n{depends_line}Description: {name}\n"
    (tree / "DEBIAN/control").write_text(control)
    if postinst:
        (tree / "DEBIAN/postinst").write_text(postinst)
        (tree / "DEBIAN/postinst").chmod(0o755)
    for path, text in (files or {}).items():
        file = tree / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    deb = folder / f"{name}_1.0_all.deb"
    process.query(["dpkg-deb", "--build", "--root-owner-group", os.fspath(tree), os.fspath(deb)])
    data = deb.read_bytes()
    entry = (
        f"{control}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n\n"
    )
    with (folder / "Packages").open("a") as stream:
        stream.write(entry)


@pytest.fixture
def repository(tmp_path: Path, require: Any) -> Path:
    """Packages of our own: a good one, one that looks around, one that fails."""
    require("dpkg-deb")
    folder = tmp_path / "repository"
    folder.mkdir()
    make_deb(folder, "probe", postinst=PROBE, files={"/etc/init.d/probe": INIT})
    make_deb(folder, "broken", postinst="#!/bin/sh\necho cannot go on >&2\nexit 7\n")
    make_deb(folder, "needy", depends="no-such-thing (>= 2)")
    with gzip.open(folder / "Packages.gz", "wb") as stream:
        stream.write((folder / "Packages").read_bytes())
    return folder


@contextlib.contextmanager
def local(root: Path, repository: Path) -> Iterator[None]:
    """The root's only source is the repository, which is shown inside it."""
    shown = root / "srv/repository"
    shown.mkdir()
    (root / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/srv/repository ./\n")
    with mounts.bind(repository, shown, read_only=True):
        yield


def apt(root: Path) -> Installer:
    found = installers.detect(Root(root))
    assert found is not None
    assert found.name == "apt"
    return found


def files(root: Path) -> set[str]:
    return {os.path.relpath(os.path.join(d, n), root) for d, ds, fs in os.walk(root) for n in (*ds, *fs)}


def test_a_real_package_from_the_mirror(debian: Any, private: Private, tmp_path: Path) -> None:
    """Two builds with one cache: the image holds the package and nothing of the way it came."""
    resolver = Path("/etc/resolv.conf").read_bytes()
    task = partial(InstallJob, cache=tmp_path / "cache", mirror=host_mirror(os.environ))

    def job() -> tuple[float, float]:
        seconds = []
        for name in ("first", "second"):
            with debian.clone(name) as root:
                (root / "etc/resolv.conf").unlink(missing_ok=True)
                (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
                sources = (root / "etc/apt/sources.list").read_bytes()
                before = files(root)
                installer = apt(root)
                with sandbox.enter(
                    root, bus=Bus(), environ=ENVIRON, options=SandboxOptions(timeout=300)
                ) as inside:
                    with installer.prepare(task(sandbox=inside)):
                        begin = time.monotonic()
                        installer.refresh(task(sandbox=inside))
                        installer.install(task(sandbox=inside, packages=["hello"]))
                        seconds.append(time.monotonic() - begin)
                    installer.clean(inside)
                    assert inside.run(["hello"]) == "Hello, world!"
                    packages = {item.name: item for item in installer.installed(inside)}
                assert packages["hello"].version
                assert packages["hello"].source == "hello"
                assert packages["dpkg"].arch
                assert os.readlink(root / "etc/resolv.conf") == "../run/systemd/resolve/stub-resolv.conf"
                assert (root / "etc/apt/sources.list").read_bytes() == sources
                assert mount_table.mount_points(root) == [os.fspath(root)]
                added = {path for path in files(root) - before if "hello" not in path}
                assert added <= {
                    "usr/share/info", "usr/share/doc", "usr/share/locale", "var/log/apt/eipp.log.xz",
                    "var/log/apt/history.log", "var/log/apt/term.log", "var/log/dpkg.log",
                    "var/lib/apt/extended_states", "var/lib/apt/lists/auxfiles", "var/lib/dpkg/status-old", "var/lib/dpkg/available",
                    "var/cache/ldconfig/aux-cache", "usr/share/man/man1",
                }, added  # fmt: skip
                for path in ("etc", "usr/sbin"):
                    for file in (root / path).iterdir():
                        if file.is_file() and not file.is_symlink() and file.stat().st_size < 100_000:
                            assert TOKEN.encode() not in file.read_bytes()
                            assert path != "etc" or file.read_bytes() != resolver, file
                cleaners.clean(cleaners.DEFAULT, Root(root), CleanOptions(ci_host=CiHost.of(ENVIRON)), Bus())
        return seconds[0], seconds[1]

    private(job)
    (kept,) = (tmp_path / "cache/debs").glob("hello_*.deb.*")
    assert kept.name.endswith(hashlib.sha256(kept.read_bytes()).hexdigest())
    assert list((tmp_path / "cache/lists").glob("*/*/lists/*_InRelease"))


def test_what_package_scripts_see_and_leave(
    debian: Any, private: Private, repository: Path, tmp_path: Path
) -> None:
    jobs: list[Progress] = []
    bus = Bus(lambda event: jobs.append(event) if isinstance(event, Progress) else None)
    task = partial(InstallJob, cache=tmp_path / "cache", bus=bus)

    def job() -> None:
        with debian.clone() as root, local(root, repository):
            policy = root / "usr/sbin/policy-rc.d"
            policy.write_text("#!/bin/sh\n# the image's own\nexit 104\n")
            policy.chmod(0o755)
            was = policy.stat()
            (root / "etc/resolv.conf").write_text("# the image's own\n")
            resolver = (root / "etc/resolv.conf").stat()
            installer = apt(root)
            with (
                sandbox.enter(
                    root, bus=Bus(), environ=ENVIRON, options=SandboxOptions(timeout=120)
                ) as inside,
                installer.prepare(task(sandbox=inside)),
            ):
                installer.refresh(task(sandbox=inside))
                installer.install(task(sandbox=inside, packages=["probe"]))
            env = (root / "probe.env").read_bytes().decode()
            assert TOKEN not in env
            assert "/home/agent" not in env
            assert "DEBIAN_FRONTEND=noninteractive" in env
            assert (root / "probe.policy").read_text() == "101\n"
            assert not (root / "probe.started").exists()
            # apt says how far it is to us alone.
            begun, ended = (event for event in jobs if event.job == "apt-get install")
            assert (begun.done, ended.state) == (0, "end")
            assert ended.done > 50
            assert "probe" in ended.gauge.reading().text
            assert "apt-status" not in (root / "probe.descriptors").read_text()
            assert "eth" not in (root / "probe.network").read_text()
            assert (root / "probe.resolver").read_bytes() == Path("/etc/resolv.conf").read_bytes()
            # Put back: the same files, not copies of them.
            assert (policy.stat().st_ino, policy.read_text()) == (
                was.st_ino,
                "#!/bin/sh\n# the image's own\nexit 104\n",
            )
            assert (root / "etc/resolv.conf").stat().st_ino == resolver.st_ino
            assert (root / "etc/resolv.conf").read_text() == "# the image's own\n"
            running = []
            for pid in filter(str.isdigit, os.listdir("/proc")):
                running.append(Path(f"/proc/{pid}/cmdline").read_bytes())
            assert not [line for line in running if b"98765" in line]

    private(job)


@pytest.mark.parametrize(
    ("packages", "culprit", "says"),
    [
        (["probe", "broken"], "broken", "cannot go on"),
        (["needy"], "needy", "no-such-thing"),
        (["probe", "nonesuch"], "nonesuch", "Unable to locate package nonesuch"),
    ],
)
def test_a_failing_package_is_named(
    debian: Any,
    private: Private,
    repository: Path,
    tmp_path: Path,
    packages: list[str],
    culprit: str,
    says: str,
) -> None:
    task = partial(InstallJob, cache=tmp_path / "cache")

    def job() -> None:
        with debian.clone() as root, local(root, repository):
            installer = apt(root)
            with (
                sandbox.enter(root, bus=Bus(), environ={}, options=SandboxOptions(timeout=120)) as inside,
                installer.prepare(task(sandbox=inside)),
            ):
                installer.refresh(task(sandbox=inside))
                with pytest.raises(InstallError, match=f"failed for {culprit}: ") as caught:
                    installer.install(task(sandbox=inside, packages=packages))
            assert says in caught.value.detail
            assert caught.value.code == 12
            assert mount_table.mount_points(root) == [os.fspath(root / "srv/repository"), os.fspath(root)]
            assert not (root / "usr/sbin/policy-rc.d").exists()

    private(job)


def test_an_unreachable_source_fails_the_refresh(debian: Any, private: Private, tmp_path: Path) -> None:
    task = partial(InstallJob, cache=tmp_path / "cache")

    def job() -> None:
        with debian.clone() as root:
            (root / "etc/apt/sources.list").write_text("deb http://127.0.0.1:9/debian bookworm main\n")
            installer = apt(root)
            with (
                sandbox.enter(root, bus=Bus(), environ={}, options=SandboxOptions(timeout=120)) as inside,
                installer.prepare(task(sandbox=inside)),
                pytest.raises(InstallError, match="apt-get update failed"),
            ):
                installer.refresh(task(sandbox=inside))

    private(job)


def test_two_builds_share_one_cache_at_once(
    debian: Any, private: Private, repository: Path, tmp_path: Path
) -> None:
    """Two processes install through one cache; one waits for the other, neither fails."""
    task = partial(InstallJob, cache=tmp_path / "cache")
    children = []
    for name in ("one", "two"):

        def job(name: str = name) -> None:
            with debian.clone(name) as root, local(root, repository):
                installer = apt(root)
                with (
                    sandbox.enter(root, bus=Bus(), environ={}, options=SandboxOptions(timeout=120)) as inside,
                    installer.prepare(task(sandbox=inside)),
                ):
                    installer.refresh(task(sandbox=inside))
                    installer.install(task(sandbox=inside, packages=["probe"]))
                assert (root / "probe.env").exists()

        child = os.fork()
        if child == 0:
            status = 1
            try:
                private(job)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


def test_every_line_is_an_event(debian: Any, private: Private, repository: Path, tmp_path: Path) -> None:
    task = partial(InstallJob, cache=tmp_path / "cache")

    def job() -> list[Event]:
        events: list[Event] = []
        with debian.clone() as root, local(root, repository):
            installer = apt(root)
            with (
                sandbox.enter(root, bus=Bus(events.append), environ={}) as inside,
                installer.prepare(task(sandbox=inside)),
            ):
                installer.refresh(task(sandbox=inside))
                installer.upgrade(task(sandbox=inside))
                installer.install(task(sandbox=inside, packages=["probe"]))
        return events

    events = private(job)
    assert any(isinstance(event, Output) and event.text.startswith("Setting up probe") for event in events)


def test_the_agents_mirror_is_found(require: Any) -> None:
    require("mirror")
    assert host_mirror(os.environ).startswith("http")
