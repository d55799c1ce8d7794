"""What the pkgsrc installer makes of what is in an image and of what the tools print."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from buildstep.errors import CommandFailed, InstallError
from buildstep.rootfs.installers.pkgsrc import Pkgsrc
from buildstep.rootfs.interface import InstallJob
from tests.unit.rootfs.test_installers import Recorder, program

LOG = "var/db/pkgin/pkg_install-err.log"


@pytest.fixture
def zone(tmp_path: Path) -> Path:
    root = tmp_path / "zone"
    for name in ("sbin/pkg_add", "sbin/pkg_info", "sbin/pkg_admin", "bin/pkgin"):
        program(root, f"/opt/local/{name}")
    return root


@pytest.fixture
def task(tmp_path: Path) -> partial[InstallJob]:
    return partial(InstallJob, cache=tmp_path / "cache")


def test_the_newest_of_several_versions_is_what_would_be_installed(
    zone: Path, task: partial[InstallJob]
) -> None:
    rows = "nginx-1.26.2nb3  Web server\nnginx-1.27.0  x\nnginx-1.9.1  x\nzlib-1.2  x\nzlib-1.3  x\n"
    job = task(sandbox=Recorder(zone, {"avail": rows}), packages=["nginx", "zlib-1.2"])
    assert Pkgsrc().resolve(job, upgrade=False).versions == {"nginx": "1.27.0", "zlib": "1.2"}


def test_a_package_that_is_no_longer_kept_up_is_a_finding(zone: Path, task: partial[InstallJob]) -> None:
    said = (
        "Package php-7.4.33nb2 has reached end-of-life (eol), see https://example.org/vulns/eol-packages\n"
        "Package py311-x-1.0 has an information-disclosure vulnerability, see https://example.org/CVE-1\n"
    )
    sandbox = Recorder(zone, {"pkg_admin audit": CommandFailed(["pkg_admin"], 1, detail=said)})
    audit = Pkgsrc().audit(task(sandbox=sandbox))
    assert audit is not None
    assert [(item.package, item.version, item.problem) for item in audit.findings] == [
        ("php", "7.4.33nb2", "end-of-life"),
        ("py311-x", "1.0", "information-disclosure"),
    ]


def test_a_list_that_is_not_fetched_says_why(zone: Path, task: partial[InstallJob]) -> None:
    detail = "pkg_admin: Could not fetch vulnerability file: Not Found"
    sandbox = Recorder(zone, {"fetch-pkg": CommandFailed(["pkg_admin"], 1, detail=detail)})
    with pytest.raises(InstallError, match="the vulnerability list cannot be fetched") as caught:
        Pkgsrc().audit(task(sandbox=sandbox))
    assert "PKGVULNURL" in caught.value.hint


@pytest.mark.parametrize("setting", ["PKG_DBDIR=/srv/pkgdb", "PKGVULNDIR=/srv/pkgdb"])
def test_the_vulnerability_list_goes_wherever_it_is(zone: Path, setting: str) -> None:
    (zone / "opt/local/etc").mkdir()
    (zone / "opt/local/etc/pkg_install.conf").write_text(f"PKG_PATH=/x\n{setting}\n")
    lists = [
        zone / folder / "pkg-vulnerabilities" for folder in ("srv/pkgdb", "opt/local/pkg", "usr/pkg/pkgdb")
    ]
    for path in lists:
        path.parent.mkdir(parents=True)
        path.touch()
    Pkgsrc().clean(Recorder(zone))
    assert [path for path in lists if path.exists()] == []


class Upgrades(Recorder):
    """pkgin, which adds to its log, and may say so by its status."""

    def __init__(self, root: Path, added: str, *, status: int) -> None:
        super().__init__(root, {"full-upgrade": CommandFailed(["pkgin"], status)} if status else {})
        self.added = added

    def run(self, *arguments: object, **options: object) -> str:
        with (self.root.path / LOG).open("a") as stream:
            stream.write(self.added)
        return super().run(*arguments, **options)  # type: ignore[arg-type]


REFUSED = "---Jan 01 00:00:00: installing a-2...\npkg_add: License `own' of package `a-2' is not acceptable\n"


@pytest.mark.parametrize("status", [0, 1])
def test_what_pkgin_keeps_in_its_log_is_told(zone: Path, task: partial[InstallJob], status: int) -> None:
    log = zone / LOG
    log.parent.mkdir(parents=True)
    log.write_text(
        "pkg_add: License `old' of package `b-1' is not acceptable\npkg_add: 1 package addition failed\n"
    )
    sandbox = Upgrades(zone, f"{REFUSED}pkg_add: 1 package addition failed\n", status=status)
    with pytest.raises(InstallError, match="the upgrade failed for a-2: ") as caught:
        Pkgsrc().upgrade(task(sandbox=sandbox))
    assert "ACCEPTABLE_LICENSES=own;" in caught.value.hint


def test_an_old_failure_in_the_log_is_none_of_this_upgrade(zone: Path, task: partial[InstallJob]) -> None:
    log = zone / LOG
    log.parent.mkdir(parents=True)
    log.write_text("pkg_add: 1 package addition failed\n")
    Pkgsrc().upgrade(task(sandbox=Upgrades(zone, "---Jan 01 00:00:00: installing a-2...\n", status=0)))


def test_what_is_out_of_date(zone: Path, task: partial[InstallJob]) -> None:
    sandbox = Recorder(
        zone,
        {
            "avail": "nginx-1.24.0nb2  web server\nnginx-1.22.0  web server\nzlib-1.3  compression\nperl-5.36.0  x\n",
            "pkg_info": "nginx-1.22.0  web server\nzlib-1.3  compression\nperl-5.40.0  x\nowncloud-9.1.8  cloud\n",
            "audit": CommandFailed(
                ["pkg_admin"], 1, detail="Package nginx-1.22.0 has a denial-of-service vulnerability, see https://e/1\n"
                "Package owncloud-9.1.8 has reached end-of-life (eol), see https://e/2\n",
            ),
        },
    )  # fmt: skip
    assert [
        (row.name, row.installed, row.candidate, row.security)
        for row in Pkgsrc().updates(task(sandbox=sandbox))
    ] == [("nginx", "1.22.0", "1.24.0nb2", True), ("owncloud", "9.1.8", "", True)]


def test_without_an_audit_nobody_knows_what_is_for_security(zone: Path, task: partial[InstallJob]) -> None:
    (zone / "opt/local/sbin/pkg_admin").unlink()
    sandbox = Recorder(zone, {"avail": "nginx-1.24.0  web\n", "pkg_info": "nginx-1.22.0  web\n"})
    (row,) = Pkgsrc().updates(task(sandbox=sandbox))
    assert (row.candidate, row.security) == ("1.24.0", None)
