"""dnf: the exact commands, in order, which of them have the network, and what its answers mean."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from buildstep.errors import CommandFailed, InstallError
from buildstep.rootfs import installers
from buildstep.rootfs.installers.dnf import Dnf
from buildstep.rootfs.interface import InstallJob, StaleIndex
from buildstep.spec.repositories import Repository
from buildstep.system.root import Root
from tests.unit.rootfs.test_installers import Recorder, program

TABLE = """\
Dependencies resolved.
================================================================================
 Package        Arch      Version     Repo  Size
================================================================================
Installing:
 alpha          noarch    1.0-1       made    6.1 k
"""
DONE = f"{TABLE}\nTransaction Summary\n====\nInstall  1 Package\n"


@pytest.fixture
def fedora(tmp_path: Path) -> Path:
    for name in ("dnf", "rpm"):
        program(tmp_path / "root", f"/usr/bin/{name}")
    return tmp_path / "root"


@pytest.fixture
def task(tmp_path: Path) -> partial[InstallJob]:
    (tmp_path / "cache").mkdir(mode=0o700)
    return partial(InstallJob, cache=tmp_path / "cache")


def words(call: list[str]) -> list[str]:
    """A command without settings."""
    return [word for word in call if not word.startswith("--setopt=")]


def test_it_is_found_with_rpm_only(fedora: Path) -> None:
    assert isinstance(installers.detect(Root(fedora)), Dnf)
    (fedora / "usr/bin/rpm").unlink()
    assert installers.detect(Root(fedora)) is None


def test_all_is_fetched_before_a_script_runs(fedora: Path, task: partial[InstallJob]) -> None:
    sandbox = Recorder(fedora)
    job = task(sandbox=sandbox, packages=["alpha=1.0", "/usr/bin/b"])
    dnf = Dnf()
    with dnf.prepare(job):
        dnf.refresh(job, hurry=True)
        dnf.upgrade(job)
        dnf.install(job)
    assert [(*words(call)[1:],) for call in sandbox.calls] == [
        ("--assumeyes", "makecache", "--refresh"),
        ("--assumeyes", "--downloadonly", "upgrade"),
        ("--assumeyes", "--downloadonly", "install", "--", "alpha-1.0", "/usr/bin/b"),
        ("--assumeyes", "-C", "upgrade"),
        ("--assumeyes", "-C", "install", "--", "alpha-1.0", "/usr/bin/b"),
    ]
    assert sandbox.network == [True, True, True, False, False]
    assert sandbox.log == ["lend /run/buildstep-dnf"]
    for call in sandbox.calls:
        assert "--setopt=cachedir=/run/buildstep-dnf/cache" in call
        assert "--setopt=logdir=/run/buildstep-dnf/log" in call
        assert "--setopt=install_weak_deps=0" in call
    assert "--setopt=timeout=15" in sandbox.calls[0]
    assert list((job.cache / "work").iterdir()) == []
    with dnf.prepare(job), pytest.raises(InstallError, match="cannot be fetched any more"):
        dnf.fetch(job, None)


def test_recommends_are_weak_dependencies(fedora: Path, task: partial[InstallJob]) -> None:
    sandbox = Recorder(fedora)
    job = task(sandbox=sandbox, packages=["alpha"], recommends=True)
    with (dnf := Dnf()).prepare(job):
        dnf.fetch(job, None)
    assert "--setopt=install_weak_deps=1" in sandbox.calls[0]


@pytest.mark.parametrize("upgrade", [False, True])
def test_what_it_would_do_is_exact_for_an_install(
    fedora: Path, task: partial[InstallJob], *, upgrade: bool
) -> None:
    sandbox = Recorder(fedora, {"assumeno upgrade": "Nothing to do.", "assumeno": DONE})
    with (dnf := Dnf()).prepare(job := task(sandbox=sandbox, packages=["alpha"])):
        answer = dnf.resolve(job, upgrade=upgrade)
    assert (answer.versions, answer.exact) == ({"alpha": "1.0-1"}, not upgrade)
    assert not any(sandbox.network)


@pytest.mark.parametrize(
    ("output", "culprit", "kind"),
    [
        ("Error: Unable to find a match: nonesuch", "nonesuch", StaleIndex),
        (
            " Problem: x\n  - nothing provides y >= 2 needed by a-b-1.0-1.noarch from made",
            "a-b",
            InstallError,
        ),
        ("something new", "alpha", InstallError),
    ],
)
def test_the_package_that_cannot_be_had_is_named(
    fedora: Path, task: partial[InstallJob], output: str, culprit: str, kind: type[InstallError]
) -> None:
    sandbox = Refusing(fedora, output)
    with (
        (dnf := Dnf()).prepare(job := task(sandbox=sandbox, packages=["alpha"])),
        pytest.raises(InstallError, match=f"failed for {culprit}: ") as caught,
    ):
        dnf.resolve(job, upgrade=False)
    assert type(caught.value) is kind


class Refusing(Recorder):
    """A dnf that says on its other output what is wrong."""

    def __init__(self, root: Path, output: str) -> None:
        super().__init__(root, {"install": CommandFailed(["dnf"], 1, detail=output)})


@pytest.mark.parametrize("name", ["-y", "--option", "", "a b", "https://x/a.rpm", "../x", "a;b", "a=1=2"])
def test_what_is_no_name_is_refused(fedora: Path, task: partial[InstallJob], name: str) -> None:
    sandbox = Recorder(fedora)
    with (dnf := Dnf()).prepare(job := task(sandbox=sandbox, packages=[name])):
        for act in (dnf.install, partial(dnf.resolve, upgrade=False)):
            with pytest.raises(InstallError, match="not a package name"):
                act(job)
    assert sandbox.calls == []


def test_options_of_apt_are_refused(fedora: Path, task: partial[InstallJob]) -> None:
    job = task(sandbox=Recorder(fedora), repositories=[Repository.__new__(Repository)], hold=["a"])
    with pytest.raises(InstallError, match="does not take repositories or hold"), Dnf().prepare(job):
        pass


def test_an_index_is_known_by_its_repomd(fedora: Path, task: partial[InstallJob]) -> None:
    job = task(sandbox=Recorder(fedora))
    with (dnf := Dnf()).prepare(job):
        assert dnf.index(job) == ""
        (area,) = (path for path in (job.cache / "work").iterdir() if path.is_dir())
        place = area / "cache/made-0123/repodata"
        place.mkdir(parents=True)
        seen = set()
        for text in ("one", "two"):
            (place / "repomd.xml").write_text(text)
            seen.add(dnf.index(job))
        assert len(seen) == 2
        (area / "cache/file").touch()
        assert dnf.index(job) in seen


def test_what_is_installed(fedora: Path) -> None:
    text = (
        "zlib\t1:1.2-3\tx86_64\tzlib-1.2-3.src.rpm\tzlib and Boost\ngpg-pubkey\t1-2\t(none)\t(none)\tpubkey\n"
        "alpha-libs\t1-1\tnoarch\talpha-x-1-1.src.rpm\tMIT\n"
    )
    rows = Dnf().installed(Recorder(fedora, {"rpm -qa": text}))
    assert [(row.name, row.version, row.arch, row.source, row.license) for row in rows] == [
        ("alpha-libs", "1-1", "noarch", "alpha-x", "MIT"),
        ("zlib", "1:1.2-3", "x86_64", "zlib", "zlib and Boost"),
    ]


FAULTS: Mapping[str, str] = {
    "Error: Failed to download metadata for repo 'made': Cannot download repomd.xml": "for repo 'made'",
    'Error: There are no enabled repositories in "/etc/yum.repos.d".': "no enabled repository",
}


@pytest.mark.parametrize("output", FAULTS)
def test_a_repository_that_cannot_be_asked_is_named(
    fedora: Path, task: partial[InstallJob], output: str
) -> None:
    sandbox = Recorder(fedora, {"makecache": CommandFailed(["dnf"], 1, detail=output)})
    with (
        (dnf := Dnf()).prepare(job := task(sandbox=sandbox)),
        pytest.raises(InstallError, match=FAULTS[output]) as caught,
    ):
        dnf.refresh(job)
    assert "/etc/yum.repos.d" in caught.value.hint


def test_its_own_cache_is_emptied_and_a_link_is_not_followed(fedora: Path) -> None:
    (fedora / "var/cache/dnf/made-0123").mkdir(parents=True)
    (fedora / "var/cache/dnf/made.solv").touch()
    Dnf().clean(Recorder(fedora))
    assert list((fedora / "var/cache/dnf").iterdir()) == []
    (fedora / "var/cache/dnf").rmdir()
    (fedora / "srv").mkdir()
    (fedora / "srv/kept").touch()
    (fedora / "var/cache/dnf").symlink_to("/srv")
    Dnf().clean(Recorder(fedora))
    assert (fedora / "srv/kept").exists()
