"""Installers: the exact commands, in order, and what their output is taken to mean."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest

from buildstep.errors import CommandFailed, InstallError, UsageError
from buildstep.rootfs import installers
from buildstep.rootfs.installers.apt import Apt
from buildstep.rootfs.installers.apt_sources import Sources
from buildstep.rootfs.installers.pkgsrc import Pkgsrc
from buildstep.rootfs.interface import InstallJob, NamesRepositories, Sandbox
from buildstep.system.root import Root


class Recorder:
    """A sandbox that writes down what it is asked for, and answers from a table."""

    def __init__(self, root: Path, answers: Mapping[str, str | CommandFailed] | None = None) -> None:
        self.calls: list[list[str]] = []
        self.network: list[bool] = []
        self.envs: list[Mapping[str, str]] = []
        self.log: list[str] = []
        self._root = Root(root)
        self._answers = dict(answers or {})

    @property
    def root(self) -> Root:
        return self._root

    def run(
        self,
        argv: Sequence[str],
        *,
        network: bool = False,
        env: Mapping[str, str] | None = None,
        ok: Sequence[int] = (0,),
        answer: bool = True,
        what: str = "",
        fds: Sequence[int] = (),
    ) -> str:
        # A descriptor's number says nothing.
        self.calls.append([word for word in argv if not word.startswith("-oAPT::Status-Fd=")])
        self.network.append(network)
        self.envs.append(env or {})
        said = next((text for key, text in self._answers.items() if key in " ".join(argv)), "")
        if isinstance(said, CommandFailed):
            if said.status in ok:
                return said.detail
            raise said
        return said if answer else ""

    @contextlib.contextmanager
    def share(self, source: Path, target: str, *, writable: bool = False) -> Iterator[None]:
        assert source.is_dir()
        self.log.append(f"{'lend' if writable else 'show'} {target}")
        yield

    @contextlib.contextmanager
    def temporary_file(self, target: str, content: bytes, *, mode: int = 0o644) -> Iterator[None]:
        self.log.append(f"put {target} {mode:o}")
        self.root.make_dirs(target.rpartition("/")[0])
        self.root.write(target, content, mode=mode)
        yield
        self.root.remove(target)
        self.log.append(f"take back {target}")


def program(root: Path, path: str) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o755)


@pytest.fixture
def task(tmp_path: Path) -> partial[InstallJob]:
    return partial(InstallJob, cache=tmp_path / "cache", env={"EXTRA": "1"})


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    root = tmp_path / "debian"
    for name in ("apt-get", "dpkg-query", "dpkg"):
        program(root, f"/usr/bin/{name}")
    (root / "etc/apt/sources.list.d").mkdir(parents=True)
    return root


@pytest.fixture(params=["/opt/local", "/usr/pkg"])
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def illumos(tmp_path: Path, prefix: str) -> Path:
    root = tmp_path / "zone"
    for name in ("sbin/pkg_add", "sbin/pkg_info", "sbin/pkg_admin", "bin/pkgin"):
        program(root, f"{prefix}/{name}")
    return root


APT = ["apt-get", "--config-file=/run/buildstep-apt/apt.conf", "--quiet"]


def test_apt_runs_these_commands_in_this_order(debian: Path, task: partial[InstallJob]) -> None:
    sandbox = Recorder(debian)
    apt = Apt()
    with apt.prepare(task(sandbox=sandbox)):
        settings = (debian / "run/buildstep-apt/apt.conf").read_text()
        job = task(sandbox=sandbox, packages=["hello", "g++"])
        apt.refresh(job)
        apt.upgrade(job)
        apt.install(job)
    apt.clean(sandbox)
    assert sandbox.calls[-1] != ["apt-get", "clean"], "there was nothing to clean"
    program(debian, "/var/cache/apt/archives/old_1_all.deb")
    apt.clean(sandbox)
    words = ["--no-install-recommends", "dist-upgrade", "--", "hello", "g++"]
    assert sandbox.calls == [
        [*APT, "-opkgCacheFile::Generate=false", "update"],
        [*APT, "-oAcquire::ForceHash=SHA256", "--print-uris", *words],
        [*APT, "dist-upgrade"],
        [*APT, "--no-install-recommends", "install", "--", "hello", "g++"],
        ["apt-get", "clean"],
    ]
    # Package scripts run in the steps that have no network.
    assert sandbox.network == [True, False, False, False, False]
    assert all(env["DEBIAN_FRONTEND"] == "noninteractive" for env in sandbox.envs)
    assert sandbox.envs[0]["EXTRA"] == "1"
    for wanted in (
        "--force-unsafe-io",
        "--force-confold",
        "--force-confdef",
        'APT::Sandbox::User "root"',
        "Retries",
    ):
        assert wanted in settings
    # Only `update` may write to lists, and those are its own.
    assert sandbox.log.count("lend /run/buildstep-apt/lists") == 1
    assert sandbox.log.count("show /run/buildstep-apt/lists") == 3
    assert "lend /run/buildstep-apt/archives" not in sandbox.log
    assert "put /usr/sbin/policy-rc.d 755" in sandbox.log
    assert sorted(path.name for path in debian.rglob("*") if path.is_file()) == [
        "apt-get",
        "dpkg",
        "dpkg-query",
        "old_1_all.deb",
    ]


@contextlib.contextmanager
def ready(job: InstallJob) -> Iterator[Apt]:
    """An apt that has its lists."""
    apt = Apt()
    with apt.prepare(job):
        apt.refresh(job)
        yield apt


def test_apt_takes_recommends_when_told_to(debian: Path, tmp_path: Path) -> None:
    sandbox = Recorder(debian)
    with ready(InstallJob(sandbox=sandbox, cache=tmp_path / "c")) as apt:
        apt.install(InstallJob(sandbox=sandbox, cache=tmp_path / "c", packages=["hello"], recommends=True))
    assert all("--install-recommends" in call for call in sandbox.calls[1:])


def test_apt_lists_what_is_installed(debian: Path) -> None:
    text = "installed\tzlib1g\t1:1.2\tamd64\tzlib\nconfig-files\told\t1\tall\told\ninstalled\tapt\t2.6\tamd64\tapt"
    found = Apt().installed(Recorder(debian, {"dpkg-query": text}))
    assert [(item.name, item.version, item.arch, item.source) for item in found] == [
        ("apt", "2.6", "amd64", "apt"),
        ("zlib1g", "1:1.2", "amd64", "zlib"),
    ]


@pytest.mark.parametrize(
    ("output", "culprit"),
    [
        ("E: Unable to locate package nonesuch", "nonesuch"),
        ("E: Package 'gone' has no installation candidate", "gone"),
        ("dpkg: error processing package bad (--configure):\n more", "bad"),
        ("Errors were encountered while processing:\n one\n two\nE: Sub-process", "one, two"),
        (" needy : Depends: what (>= 2) but it is not installable", "needy"),
        ("something new", "asked"),
    ],
)
def test_apt_names_the_package_that_failed(
    debian: Path, task: partial[InstallJob], output: str, culprit: str
) -> None:
    sandbox = Recorder(debian, {"install": CommandFailed(["apt-get"], 100, detail=output)})
    with (
        ready(task(sandbox=sandbox)) as apt,
        pytest.raises(InstallError, match=f"failed for {culprit}: ") as caught,
    ):
        apt.install(task(sandbox=sandbox, packages=["asked"]))
    assert output in caught.value.detail


@pytest.mark.parametrize("name", ["-y", "--option", "removed-", "a b", "", "../x", "Upper", "x;y"])
def test_apt_refuses_what_is_no_name(debian: Path, task: partial[InstallJob], name: str) -> None:
    sandbox = Recorder(debian)
    with ready(task(sandbox=sandbox)) as apt, pytest.raises(InstallError, match="not a package name"):
        apt.install(task(sandbox=sandbox, packages=[name]))
    assert [call[-1] for call in sandbox.calls] == ["update"]


def test_apt_audits_with_debsecan_where_it_is(debian: Path, task: partial[InstallJob]) -> None:
    with ready(task(sandbox=Recorder(debian))) as apt:
        assert apt.audit(task(sandbox=Recorder(debian))) is None
    program(debian, "/usr/bin/debsecan")
    (debian / "etc/os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    text = "CVE-2021-33560 libgcrypt20 (fixed, remotely exploitable, high urgency)\nCVE-2005-2541 tar"
    sandbox = Recorder(debian, {"debsecan": text, "dpkg-query": "installed\ttar\t1.34\tamd64\ttar"})
    asked: list[str] = []

    def download(url: str) -> bytes:
        asked.append(url)
        return b"list"

    with ready(task(sandbox=sandbox)) as apt:
        audit = apt.audit(task(sandbox=sandbox, download=download))
        with pytest.raises(InstallError, match="needs the network"):
            apt.audit(task(sandbox=sandbox))
    # The build fetches the list: scripts have run in the image, and nothing in it has the network any more.
    assert asked == ["https://security-tracker.debian.org/tracker/debsecan/release/1/bookworm"]
    assert sandbox.network[1:] == [False] * (len(sandbox.network) - 1)
    assert audit is not None
    assert audit[0] == text
    assert [(item.package, item.version, item.problem, item.severity) for item in audit[1]] == [
        ("libgcrypt20", "", "CVE-2021-33560", "high"),
        ("tar", "1.34", "CVE-2005-2541", ""),
    ]
    (call,) = [call for call in sandbox.calls if call[0] == "debsecan"]
    assert call[-4:] == ["--source", "file:///run/buildstep-apt/audit/", "--suite", "bookworm"]


def test_the_mirror_replaces_debians_hosts_only(debian: Path) -> None:
    (debian / "etc/apt/sources.list").write_text(
        "# deb http://deb.debian.org/debian old main\n"
        "deb [signed-by=/usr/share/keyrings/k.gpg] http://deb.debian.org/debian bookworm main\n"
        "deb http://security.debian.org/debian-security bookworm-security main\n"
        "deb http://snapshot.debian.org/archive/debian/2024 bookworm main\n"
        "deb https://packages.example.com/apt stable main\n"
    )
    (debian / "etc/apt/sources.list.d/debian.sources").write_text(
        "Types: deb\nURIs: http://deb.debian.org/debian/\n http://ftp.de.debian.org/debian\nSuites: bookworm\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    before = Sources.of(Root(debian))
    after = before.through("http://mirror.example/debian/")
    assert after.files["/etc/apt/sources.list"].splitlines() == [
        "# deb http://deb.debian.org/debian old main",
        "deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian bookworm main",
        "deb http://mirror.example/debian-security bookworm-security main",
        "deb http://snapshot.debian.org/archive/debian/2024 bookworm main",
        "deb https://packages.example.com/apt stable main",
    ]
    deb822 = after.files["/etc/apt/sources.list.d/debian.sources"]
    assert "URIs: http://mirror.example/debian/\n http://mirror.example/debian\n" in deb822
    assert "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg" in deb822
    assert before.digest() != after.digest()
    assert before.through("") == before
    with pytest.raises(InstallError):
        before.through("mirror.example")


def test_what_apt_passes_over_is_no_source(debian: Path) -> None:
    parts = debian / "etc/apt/sources.list.d"
    parts.mkdir(exist_ok=True)
    for name in ("good.list", "Good-1_2.sources", ".hidden.list", "a b.list", "x~.list", "x.list.bak"):
        (parts / name).touch()
    (parts / os.fsdecode(b"\xff.list")).touch()
    (parts / "folder.list").mkdir()
    (parts / "nowhere.list").symlink_to("gone")
    (parts / "link.list").symlink_to("good.list")
    os.mkfifo(parts / "pipe.list")
    (debian / "etc/apt/sources.list").unlink(missing_ok=True)
    (debian / "etc/apt/sources.list").mkdir()
    sources = Sources.of(Root(debian))
    assert [path.rpartition("/")[2] for path in sources.files] == [
        "Good-1_2.sources",
        "good.list",
        "link.list",
    ]
    assert sources.digest()


def test_repositories_that_are_disabled_are_none() -> None:
    words = ("yes", "no", "False", "off", "0", "1", "disabled")
    text = "\n\n".join(
        f"Types: deb\nEnabled: {word}\nURIs: http://{word}.example\nSuites: s\n" for word in words
    )
    sources = Sources(files={"/etc/apt/sources.list.d/x.sources": text})
    asked = [urls[0] for urls in sources.release_urls()]
    assert asked == [f"http://{word}.example/dists/s/InRelease" for word in ("yes", "1", "disabled")]
    assert sources.signed_by("http://no.example", "s") == ("", "")


def test_the_mirror_is_in_lent_files_only(debian: Path, tmp_path: Path) -> None:
    original = "deb http://deb.debian.org/debian bookworm main\n"
    (debian / "etc/apt/sources.list").write_text(original)
    sandbox = Recorder(debian)
    mirror = "http://mirror.example/debian"
    with Apt().prepare(InstallJob(sandbox=sandbox, cache=tmp_path / "c", mirror=mirror)):
        assert (debian / "etc/apt/sources.list").read_text() == original
        assert "mirror.example" in (debian / "run/buildstep-apt/sources.list").read_text()
        assert "Dir::Etc::sourcelist" in (debian / "run/buildstep-apt/apt.conf").read_text()


# -- pkgsrc --------------------------------------------------------------------------------------------------


def test_pkgsrc_runs_the_originals_commands_in_its_order(
    illumos: Path, prefix: str, task: partial[InstallJob]
) -> None:
    database = illumos / "var/db/pkgin/pkgin.db"
    database.parent.mkdir(parents=True)
    database.touch()
    named_like_a_package = illumos / "nginx"  # D6: the original removed it
    named_like_a_package.touch()
    findings = "Package nginx-1.0 has a denial-of-service vulnerability, see https://example.com/CVE-1"
    sandbox = Recorder(
        illumos,
        {
            "pkg_info": "zlib-1.3nb1   Compression\nnginx-1.0  Web server\npy311-foo-2.0 x",
            "pkg_admin audit": CommandFailed(["pkg_admin"], 1, detail=findings),
        },
    )
    pkgsrc = Pkgsrc()
    with pkgsrc.prepare(task(sandbox=sandbox)):
        pkgsrc.refresh(task(sandbox=sandbox))
        pkgsrc.upgrade(task(sandbox=sandbox))
        pkgsrc.install(task(sandbox=sandbox, packages=["nginx", "foo-[0-9]*"]))
        listed = pkgsrc.installed(sandbox)
        audit = pkgsrc.audit(task(sandbox=sandbox))
    pkgsrc.clean(sandbox)
    assert sandbox.calls == [
        [f"{prefix}/bin/pkgin", "update"],
        [f"{prefix}/bin/pkgin", "-y", "full-upgrade"],
        [f"{prefix}/sbin/pkg_add", "-U", "nginx", "foo-[0-9]*"],
        [f"{prefix}/sbin/pkg_info", "-a"],
        [f"{prefix}/sbin/pkg_admin", "fetch-pkg-vulnerabilities"],
        [f"{prefix}/sbin/pkg_admin", "audit"],
    ]
    assert [(item.name, item.version) for item in listed] == [
        ("nginx", "1.0"),
        ("py311-foo", "2.0"),
        ("zlib", "1.3nb1"),
    ]
    assert audit is not None
    assert [(item.package, item.version, item.problem) for item in audit[1]] == [
        ("nginx", "1.0", "denial-of-service")
    ]
    assert sandbox.envs[2]["PATH"].startswith(f"{prefix}/sbin:{prefix}/bin:")
    assert sandbox.envs[2]["EXTRA"] == "1"
    assert sandbox.log[0] == "lend /var/db/pkgin/cache"
    assert not list((task.keywords["cache"] / "work").iterdir())
    assert not database.exists()
    assert named_like_a_package.exists()


def test_pkgsrc_names_the_package_that_failed(illumos: Path, task: partial[InstallJob]) -> None:
    text = "pkg_add: no pkg found for 'nonesuch', sorry.\npkg_add: 1 package addition failed"
    sandbox = Recorder(illumos, {"pkg_add": CommandFailed(["pkg_add"], 1, detail=text)})
    with pytest.raises(InstallError, match="failed for nonesuch: "):
        Pkgsrc().install(task(sandbox=sandbox, packages=["good", "nonesuch"]))


UNFETCHED = {
    "Not Found": "a repository of its release and platform",
    "Connection refused": "is the repository reachable",
    "Host not found": "is the repository reachable",
    "SSL certificate subject doesn't match host example": "the certificate's authority",
    "Forbidden": "refuses it",
    "": "is the repository reachable",
}


@pytest.mark.parametrize("why", UNFETCHED)
def test_pkgin_says_why_an_index_cannot_be_fetched(
    illumos: Path, task: partial[InstallJob], why: str
) -> None:
    said = f"pkgin: Could not fetch http://example/pkg_summary.gz{why and f': {why}'}"
    sandbox = Recorder(
        illumos, {"update": CommandFailed(["pkgin"], 1, detail=f"{said}\ncommand: pkgin update")}
    )
    with pytest.raises(InstallError, match=r"http://example/pkg_summary.gz cannot be fetched") as caught:
        Pkgsrc().refresh(task(sandbox=sandbox))
    assert UNFETCHED[why] in caught.value.hint
    assert ("reachable" in caught.value.hint) == ("reachable" in UNFETCHED[why])


def test_pkgsrc_refuses_options_as_names(illumos: Path, task: partial[InstallJob]) -> None:
    with pytest.raises(InstallError):
        Pkgsrc().install(task(sandbox=Recorder(illumos), packages=["-f"]))


def test_a_failing_audit_is_no_finding(illumos: Path, task: partial[InstallJob]) -> None:
    sandbox = Recorder(illumos, {"pkg_admin audit": CommandFailed(["pkg_admin"], 2, detail="no list")})
    with pytest.raises(InstallError, match="the audit failed"):
        Pkgsrc().audit(task(sandbox=sandbox))


def test_pkgin_is_needed_for_an_upgrade_only(tmp_path: Path, task: partial[InstallJob]) -> None:
    program(tmp_path, "/opt/local/sbin/pkg_add")
    sandbox = Recorder(tmp_path)
    with Pkgsrc().prepare(task(sandbox=sandbox)):
        Pkgsrc().refresh(task(sandbox=sandbox))
    assert sandbox.calls == []
    with pytest.raises(InstallError, match="pkgin"):
        Pkgsrc().upgrade(task(sandbox=sandbox))


# -- the table -----------------------------------------------------------------------------------------------


def test_the_installer_is_found_by_what_is_in_the_root(debian: Path, tmp_path: Path) -> None:
    found = installers.detect(Root(debian))
    assert found is not None
    assert found.name == "apt"
    zone = tmp_path / "z"
    program(zone, "/usr/pkg/sbin/pkg_add")
    found = installers.detect(Root(zone))
    assert found is not None
    assert found.name == "pkgsrc"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert installers.detect(Root(empty)) is None


def test_the_table_meets_the_protocol(debian: Path) -> None:
    sandbox: Sandbox = Recorder(debian)
    assert sandbox.root.path == debian
    for name in installers.INSTALLERS:
        assert installers.get(name).name == name
    assert all(isinstance(installers.get(name), NamesRepositories) for name in ("apt", "pkgsrc"))


def test_an_unknown_installer_is_refused_with_the_near_miss() -> None:
    with pytest.raises(UsageError) as caught:
        installers.get("atp")
    assert "apt" in caught.value.hint


def test_a_broken_plugin_is_named_and_the_rest_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    points = [
        metadata.EntryPoint("broken", "no.such.module:X", "buildstep.installers"),
        metadata.EntryPoint("good", "buildstep.rootfs.installers.apt:Apt", "buildstep.installers"),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points)
    notes: list[str] = []
    assert installers.detect(Root(tmp_path), note=notes.append) is None
    assert len(notes) == 1
    assert "broken" in notes[0]
    assert installers.get("good").name == "apt"
    with pytest.raises(UsageError, match=r"no\.such\.module"):
        installers.get("broken")
