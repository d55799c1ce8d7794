"""Cleaners: what each removes and reports, what it must not reach, and the check at the end (D7, D16)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import pytest

from buildstep.errors import SandboxError, UsageError
from buildstep.events import Bus, Cleaned, Event
from buildstep.rootfs import cleaners
from buildstep.rootfs.cleaners.interface import Cleaner, CleanOptions
from buildstep.rootfs.leak_check import CiHost
from buildstep.system.root import Root


def put(root: Path, path: str, text: str = "x") -> Path:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def run(root: Path, *names: str, **options: object) -> list[Cleaned]:
    return clean(names, root, Bus(), {}, **options)


def clean(
    names: Sequence[str],
    root: Path,
    bus: Bus,
    environ: Mapping[str, str] = {},
    **options: object,
) -> list[Cleaned]:
    given = CleanOptions(ci_host=CiHost.of(environ or {}), **options)  # type: ignore[arg-type]
    return cleaners.clean(names, Root(root), given, bus)


@pytest.fixture(autouse=True)
def ci_host(monkeypatch: pytest.MonkeyPatch) -> CiHost:
    """A CI host whose facts are known."""
    found = CiHost(resolver=b"nameserver 192.0.2.53", host_name="agent-17")

    original = CiHost.of

    def of(environ: dict[str, str]) -> CiHost:
        real = original(environ)
        return CiHost(resolver=found.resolver, host_name=found.host_name, values=real.values)

    monkeypatch.setattr(CiHost, "of", of)
    return found


def test_each_default_cleaner_has_a_name_and_a_description() -> None:
    assert set(cleaners.DEFAULT) < set(cleaners.CLEANERS)
    assert "ssh-host-keys" not in cleaners.DEFAULT
    for name, cleaner in cleaners.CLEANERS.items():
        assert name == cleaner.name
        assert cleaner.description


def test_a_cleaner_of_another_package_runs_after_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    theirs = Cleaner("theirs", "what they know", lambda work: order.append("theirs"))
    point = metadata.EntryPoint("theirs", "their_package:CLEANER", "buildstep.cleaners")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda _self: theirs)
    done = cleaners.clean(["theirs", "tmp"], Root(tmp_path), CleanOptions(ci_host=CiHost()), Bus())
    assert [row.cleaner for row in done] == ["tmp", "theirs"]
    assert order == ["theirs"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("package-cache", "/var/cache/apt/pkgcache.bin"),
        ("package-cache", "/var/cache/apt/archives/a_1_all.deb"),
        ("package-cache", "/var/lib/apt/lists/deb_InRelease"),
        ("package-cache", "/var/lib/dpkg/status-old"),
        ("package-cache", "/var/cache/dnf/a/b.rpm"),
        ("package-cache", "/var/cache/apk/APKINDEX.tar.gz"),
        ("package-cache", "/var/cache/pacman/pkg/a.pkg.tar.zst"),
        ("package-cache", "/var/db/pkgin/pkgin.db"),
        ("package-cache", "/opt/local/pkg/pkg-vulnerabilities"),
        ("package-cache", "/root/.npm/_cacache/index"),
        ("package-cache", "/root/.cache/pip/http/1"),
        ("logs", "/var/log/dpkg.log"),
        ("logs", "/var/log/apt/term.log"),
        ("logs", "/var/log/syslog.1"),
        ("tmp", "/tmp/a/b"),
        ("tmp", "/var/tmp/c"),
        ("tmp", "/root/.bash_history"),
        ("machine-id", "/var/lib/dbus/machine-id"),
        ("ldconfig-cache", "/var/cache/ldconfig/aux-cache"),
        ("man-cache", "/var/cache/man/index.db"),
        ("random-seed", "/var/lib/systemd/random-seed"),
        ("backups", "/etc/shadow-"),
        ("conffile-copies", "/etc/default/a.dpkg-dist"),
        ("conffile-copies", "/etc/a.dpkg-old"),
        ("conffile-copies", "/etc/a.dpkg-new"),
        ("conffile-copies", "/etc/a.ucf-dist"),
        ("conffile-copies", "/etc/a.ucf-old"),
        ("conffile-copies", "/etc/yum.conf.rpmnew"),
        ("conffile-copies", "/etc/pacman.conf.pacsave"),
        ("conffile-copies", "/etc/apk/a.apk-new"),
        ("ssh-host-keys", "/etc/ssh/ssh_host_ed25519_key"),
        ("python-bytecode", "/usr/lib/python3/__pycache__/a.cpython-311.pyc"),
        ("docs", "/usr/share/doc/a/changelog.gz"),
    ],
)
def test_d7_a_cleaner_removes_and_reports(tmp_path: Path, name: str, path: str) -> None:
    file = put(tmp_path, path, "12345")
    bystander = put(tmp_path, "/etc/passwd")
    (report,) = run(tmp_path, name)
    assert not file.exists()
    assert bystander.exists()
    assert (report.cleaner, report.bytes) == (name, 5)
    assert report.paths >= 1
    assert any(path.startswith(shown) for shown in report.names)


def test_what_is_not_asked_for_is_not_run(tmp_path: Path) -> None:
    file = put(tmp_path, "/tmp/a")
    assert [item.cleaner for item in run(tmp_path, "backups")] == ["backups"]
    assert file.exists()


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nonsense"):
        run(tmp_path, "nonsense")


STATUS = """Package: one
Status: install ok {state}
Conffiles:
 /srv/one/settings 0123456789abcdef0123456789abcdef
 /etc/one 0123456789abcdef0123456789abcdef
Description: one

"""


def test_copies_of_conffiles_go_wherever_a_database_has_one(tmp_path: Path) -> None:
    """Outside of /etc a file's name alone does not say what it is."""
    put(tmp_path, "/var/lib/dpkg/status", STATUS.format(state="installed"))
    put(tmp_path, "/var/lib/ucf/hashfile", "0123456789abcdef0123456789abcdef  /srv/two.conf\n")
    going = ("/etc/one.dpkg-dist", "/srv/one/settings.dpkg-old", "/srv/two.conf.ucf-new")
    staying = ("/etc/one", "/srv/one/settings", "/srv/two.conf", "/srv/other.dpkg-old", "/etc/mine.dpkg-old")
    for path in going + staying:
        put(tmp_path, path)
    (report,) = run(tmp_path, "conffile-copies", keep=frozenset(("/etc/mine.dpkg-old",)))
    assert report.names == going
    assert [path for path in staying if not (tmp_path / path[1:]).exists()] == []


@pytest.mark.parametrize("state", ["unpacked", "half-configured", "installed"])
def test_what_dpkg_still_needs_stays(tmp_path: Path, state: str) -> None:
    put(tmp_path, "/var/lib/dpkg/status", STATUS.format(state=state))
    put(tmp_path, "/etc/one.dpkg-new")
    put(tmp_path, "/etc/one.dpkg-dist")
    (report,) = run(tmp_path, "conffile-copies")
    done = ("/etc/one.dpkg-dist", "/etc/one.dpkg-new") if state == "installed" else ("/etc/one.dpkg-dist",)
    assert report.names == done


def test_other_logs_are_emptied_and_keep_their_mode(tmp_path: Path) -> None:
    file = put(tmp_path, "/var/log/btmp", "failed logins")
    file.chmod(0o660)
    (report,) = run(tmp_path, "logs")
    assert file.stat().st_size == 0
    assert file.stat().st_mode & 0o777 == 0o660
    assert report.bytes == len("failed logins")


def test_the_machine_id_is_emptied_and_not_made(tmp_path: Path) -> None:
    file = put(tmp_path, "/etc/machine-id", "0123456789abcdef\n")
    (tmp_path / "var/lib/dbus").mkdir(parents=True)
    link = tmp_path / "var/lib/dbus/machine-id"
    link.symlink_to("/etc/machine-id")
    run(tmp_path, "machine-id")
    assert file.read_bytes() == b""
    assert link.is_symlink()
    file.unlink()
    run(tmp_path, "machine-id")
    assert not file.exists()


def test_licences_stay_when_documentation_goes(tmp_path: Path) -> None:
    licence = put(tmp_path, "/usr/share/doc/a/copyright")
    run(tmp_path, "docs")
    assert licence.exists()


def test_d16_a_planted_link_leads_nowhere(tmp_path: Path) -> None:
    outside = put(tmp_path, "outside/precious")
    root = tmp_path / "root"
    (root / "var/cache").mkdir(parents=True)
    (root / "etc").mkdir()
    neighbour = put(root, "/etc/archives/a.deb")
    (root / "tmp").symlink_to(tmp_path / "outside")
    (root / "var/cache/apt").symlink_to("/etc")
    (root / "var/log").symlink_to("../../outside")
    (root / "var/tmp").mkdir()
    (root / "var/tmp/link").symlink_to(tmp_path / "outside")
    run(root, *cleaners.DEFAULT)
    assert outside.read_text() == "x"
    assert neighbour.exists()  # inside, but not what the cleaner means
    assert not (root / "var/tmp/link").is_symlink()  # the link itself is a temporary file


def test_what_the_proto_directory_brought_stays(tmp_path: Path) -> None:
    brought = put(tmp_path, "/tmp/a/brought")
    other = put(tmp_path, "/tmp/a/other")
    run(tmp_path, "tmp", keep=frozenset({"/tmp/a/brought"}))
    assert brought.exists()
    assert not other.exists()


def test_the_zones_config_goes(tmp_path: Path) -> None:
    put(tmp_path, "config/metadata.json", "{}")
    put(tmp_path, "root/etc/passwd")
    (report,) = run(tmp_path / "root", "zone-config", zone=tmp_path)
    assert not (tmp_path / "config").exists()
    assert (report.paths, report.bytes) == (2, 2)


def test_mount_points_of_ours_go_while_empty(tmp_path: Path) -> None:
    (tmp_path / "run/a").mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    put(tmp_path, "/proc/file")
    run(tmp_path, "mount-points", made=["/run", "/run/a", "/dev", "/proc"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["proc"]


def test_the_agents_resolver_and_name_go(tmp_path: Path) -> None:
    put(tmp_path, "/etc/resolv.conf", "nameserver 192.0.2.53\n")
    put(tmp_path, "/etc/hostname", "agent-17\n")
    (report,) = run(tmp_path, "agent-facts")
    assert report.names == ("/etc/resolv.conf", "/etc/hostname")
    put(tmp_path, "/etc/resolv.conf", "nameserver 192.0.2.1\n")
    (report,) = run(tmp_path, "agent-facts")
    assert report.paths == 0


def test_every_report_is_an_event(tmp_path: Path) -> None:
    events: list[Event] = []
    clean(["tmp", "logs"], tmp_path, Bus(events.append))
    assert [event.cleaner for event in events if isinstance(event, Cleaned)] == ["logs", "tmp"]


def test_the_check_for_leaks_ends_a_cleaning(tmp_path: Path) -> None:
    put(tmp_path, "/etc/hostname", "agent-17\n")
    with pytest.raises(SandboxError, match="/etc/hostname is the CI host's own"):
        run(tmp_path, "tmp")
    run(tmp_path, "tmp", keep=frozenset({"/etc/hostname"}))
    run(tmp_path, "agent-facts")
