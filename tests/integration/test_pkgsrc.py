"""The pkgsrc installer with tools that keep to the documented behaviour, in a root of busybox."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import InstallError
from buildstep.events import Bus
from buildstep.rootfs import installers, sandbox
from buildstep.rootfs.interface import InstallJob, Sandbox
from buildstep.rootfs.sandbox import SandboxOptions
from buildstep.system.root import Root
from tests.integration import pkgsrc_root

Private = Callable[[Callable[[], Any]], Any]

TOKEN = "s3cr3t-agent-token-value"


@pytest.fixture(params=["/opt/local", "/usr/pkg"])
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def repository(require: Any, tmp_path: Path, prefix: str) -> pkgsrc_root.Repository:
    require("busybox")
    return pkgsrc_root.make_repository(tmp_path / "repository", prefix)


@pytest.fixture
def root(require: Any, tmp_path: Path, prefix: str) -> Path:
    require("busybox")
    return pkgsrc_root.make_root(tmp_path / "root", prefix)


@pytest.fixture
def task(tmp_path: Path) -> partial[InstallJob]:
    return partial(InstallJob, cache=tmp_path / "cache")


@contextlib.contextmanager
def entered(
    root: Path, repository: pkgsrc_root.Repository, task: partial[InstallJob]
) -> Iterator[tuple[Any, Sandbox]]:
    installer = installers.detect(Root(root))
    assert installer is not None
    assert installer.name == "pkgsrc"
    task.keywords["cache"].mkdir(exist_ok=True)
    environ = {"AGENT_TOKEN": TOKEN}
    with (
        sandbox.enter(root, bus=Bus(), environ=environ, options=SandboxOptions(timeout=120)) as inside,
        inside.share(repository.path, pkgsrc_root.SHOWN),
        installer.prepare(task(sandbox=inside)),
    ):
        yield installer, inside


def test_packages_with_what_they_need(
    root: Path, repository: pkgsrc_root.Repository, task: partial[InstallJob], private: Private, prefix: str
) -> None:
    def job() -> list[tuple[str, str]]:
        with entered(root, repository, task) as (installer, inside):
            installer.install(task(sandbox=inside, packages=["nginx"]))
            assert inside.run([f"{prefix}/bin/nginx"]) == "nginx-1.26.2"
            assert inside.run([f"{prefix}/sbin/pkg_info", "-qL", "zlib"]) == f"{prefix}/lib/libz.so"
            assert inside.run([f"{prefix}/sbin/pkg_info", "-qR", "zlib"]) == "nginx-1.26.2\n"
            return [(item.name, item.version) for item in installer.installed(inside)]

    assert private(job) == [("nginx", "1.26.2"), ("pcre2", "10.44nb1"), ("zlib", "1.3.1")]
    assert not (root / "repository").exists()


def test_an_upgrade_keeps_no_download_and_is_cleaned(
    root: Path, repository: pkgsrc_root.Repository, task: partial[InstallJob], private: Private, prefix: str
) -> None:
    named_like_a_package = root / "nginx"  # D6: the original's rm took it
    named_like_a_package.mkdir()

    def job() -> list[str]:
        with entered(root, repository, task) as (installer, inside):
            installer.install(task(sandbox=inside, packages=["nginx-1.24.0"]))
            assert inside.run([f"{prefix}/bin/nginx"]) == "nginx-1.24.0"
            installer.refresh(task(sandbox=inside))
            installer.upgrade(task(sandbox=inside))
            installer.clean(inside)
        installer.clean(inside)
        with sandbox.enter(root, bus=Bus(), environ={}) as inside:
            return [f"{item.name}-{item.version}" for item in installer.installed(inside)]

    assert private(job) == ["nginx-1.26.2", "pcre2-10.44nb1", "zlib-1.3.1"]
    assert named_like_a_package.is_dir()
    # Nothing tells whether a download is what the repository has: none is kept.
    assert not list(task.keywords["cache"].rglob("*.tgz"))
    assert list((root / "var/db").iterdir()) == [] or list((root / "var/db/pkgin").iterdir()) == []


def test_the_audit_lists_findings_and_leaves_no_list(
    root: Path, repository: pkgsrc_root.Repository, task: partial[InstallJob], private: Private
) -> None:
    def job() -> Any:
        with entered(root, repository, task) as (installer, inside):
            before = installer.audit(task(sandbox=inside))
            installer.install(task(sandbox=inside, packages=["zlib"]))
            after = installer.audit(task(sandbox=inside))
            installer.clean(inside)
        return before, after

    before, after = private(job)
    assert before == ("", ())
    text, findings = after
    assert "Package zlib-1.3.1 has a denial-of-service vulnerability" in text
    assert [(item.package, item.version, item.problem) for item in findings] == [
        ("zlib", "1.3.1", "denial-of-service")
    ]
    assert not [path for path in pkgsrc_root.files_of(root) if "vulnerabilities" in path]


@pytest.mark.parametrize(
    ("packages", "culprit", "says"),
    [
        (["zlib", "nonesuch"], "nonesuch", "no pkg found for 'nonesuch'"),
        (["needy"], "no-such-thing>=1", "Can't install dependency no-such-thing>=1"),
        (["broken"], "broken", "cannot go on"),
    ],
)
def test_a_failing_package_is_named(
    root: Path,
    repository: pkgsrc_root.Repository,
    task: partial[InstallJob],
    private: Private,
    packages: list[str],
    culprit: str,
    says: str,
) -> None:
    def job() -> None:
        with entered(root, repository, task) as (installer, inside):
            with pytest.raises(InstallError) as caught:
                installer.install(task(sandbox=inside, packages=packages))
            assert f"failed for {culprit}: " in caught.value.message, caught.value.message
            assert says in caught.value.detail

    private(job)


@pytest.mark.parametrize("prefix", ["/opt/local"], indirect=True)
def test_a_refused_package_comes_with_what_to_do(
    root: Path, repository: pkgsrc_root.Repository, task: partial[InstallJob], private: Private, prefix: str
) -> None:
    repository.add(
        "foreign", "1.0", build={"OPSYS": "NetBSD", "MACHINE_ARCH": "aarch64", "OS_VERSION": "10.0"}
    )
    repository.add("own", "1.0", build={"LICENSE": "own-license"})
    with (root / prefix.lstrip("/") / "etc/pkg_install.conf").open("a") as stream:
        stream.write("CHECK_LICENSE=yes\n")

    def job() -> None:
        with entered(root, repository, task) as (installer, inside):
            for package, hint in {
                "foreign": "foreign-1.0 is for NetBSD/aarch64 and the image's pkg_add is for SunOS/x86_64: let PKG_PATH",
                "own": f"{prefix}/etc/pkg_install.conf, in the base image or the proto directory:"
                " ACCEPTABLE_LICENSES=own-license",
            }.items():
                with pytest.raises(InstallError) as caught:
                    installer.install(task(sandbox=inside, packages=["zlib", package]))
                assert f"failed for {package}-1.0: " in caught.value.message
                assert hint in caught.value.hint
            accepted = {"PKGSRC_ACCEPTABLE_LICENSES": "own-license"}
            installer.install(task(sandbox=inside, packages=["own"], env=accepted))
            assert inside.run([f"{prefix}/bin/own"]) == "own-1.0"

    private(job)


@pytest.mark.parametrize("prefix", ["/opt/local"], indirect=True)
def test_an_upgrade_that_pkgin_passes_over_is_told(
    root: Path, repository: pkgsrc_root.Repository, task: partial[InstallJob], private: Private, prefix: str
) -> None:
    """pkgin has the words of pkg_add in a file, and its status is 0."""

    def job() -> None:
        with entered(root, repository, task) as (installer, inside):
            installer.install(task(sandbox=inside, packages=["zlib"]))
            repository.add("zlib", "1.4", build={"MACHINE_ARCH": "sparc64"})
            repository.publish()
            installer.refresh(task(sandbox=inside))
            with pytest.raises(InstallError) as caught:
                installer.upgrade(task(sandbox=inside))
            assert "the upgrade failed for zlib-1.4: pkgin went on" in caught.value.message
            assert "zlib-1.4 is for SunOS/sparc64" in caught.value.hint
            for names, told in {"/nowhere": "cannot be fetched", f"file://{pkgsrc_root.SHOWN}/": ""}.items():
                again = task(sandbox=inside, env={"PKG_REPOS": names})
                with pytest.raises(InstallError, match=told) if told else contextlib.nullcontext():
                    installer.refresh(again)

    private(job)


def test_d18_scripts_see_no_token_and_daemons_die(
    root: Path, repository: pkgsrc_root.Repository, task: partial[InstallJob], private: Private
) -> None:
    def job() -> list[bytes]:
        with entered(root, repository, task) as (installer, inside):
            installer.install(task(sandbox=inside, packages=["daemon"]))
        return [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in os.listdir("/proc") if pid.isdigit()]

    running = private(job)
    assert TOKEN not in (root / "probe.env").read_text()
    assert not [line for line in running if b"87654" in line]


PATTERNS = [
    ("foo>=1.0", "foo-1.0nb2", True),
    ("foo>=1.0<2", "foo-2.0", False),
    ("foo<1.4", "foo-1.4rc1", True),
    ("foo-[0-9]*", "foo-1.0", True),
    ("foo-[0-9]*", "foo-bar-1.0", False),
    ("{foo,bar}>=1", "bar-3", True),
    ("foo{,-bar}>=1", "foo-2", True),
    ("{foo,b{ar,az}}-[0-9]*", "baz-1", True),
    ("{foo,b{ar,az}}-[0-9]*", "bat-1", False),
    ("foo", "foo-3", True),
    ("foo", "foo-bar-3", False),
]


def test_the_fixtures_patterns_are_pkgsrcs(root: Path, private: Private, prefix: str) -> None:
    def job() -> list[bool]:
        lines = [
            f"{prefix}/sbin/pkg_admin pmatch '{pattern}' {name}; echo $?" for pattern, name, _ in PATTERNS
        ]
        with sandbox.enter(root, bus=Bus(), environ={}) as inside:
            return [status == "0" for status in inside.run(["/bin/sh", "-c", "\n".join(lines)]).split()]

    assert private(job) == [matches for _, _, matches in PATTERNS]
