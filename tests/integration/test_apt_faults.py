"""What a real apt says of a repository that is at fault, and what the build makes of it: cause and remedy."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import ImageError, InstallError
from buildstep.events import Bus
from buildstep.images.interface import SourceContext
from buildstep.images.sources.mmdebstrap import Mmdebstrap
from buildstep.rootfs import sandbox
from buildstep.rootfs.installers.apt import Apt
from buildstep.rootfs.interface import InstallJob, StaleIndex
from buildstep.rootfs.network_policy import Endpoint
from buildstep.rootfs.sandbox import SandboxOptions
from buildstep.tree.entry import FileList
from tests.integration.conftest import Clones, demand
from tests.integration.repository import Key, Repository, free_port, release, stamp

Private = Callable[[Callable[[], Any]], Any]

KEYRING = "/etc/apt/keyrings/own.gpg"
NOW = time.time()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    demand("gpg")
    return Key.make(tmp_path_factory.mktemp("key") / "home")


@pytest.fixture
def repository(key: Key, tmp_path: Path) -> Repository:
    """A signed repository with one package."""
    made = Repository(tmp_path / "repository", free_port())
    made.key = key
    made.put("alpha", "1.0")
    return made


@contextlib.contextmanager
def prepared(
    root: Path, repository: Repository, cache: Path, scheme: str = "http"
) -> Iterator[tuple[Apt, InstallJob]]:
    """An apt in a root whose only source is the repository."""
    source = f"deb [signed-by={KEYRING}] {scheme}://localhost:{repository.port}/ ./\n"
    (root / "etc/apt/sources.list").write_text(source)
    options = SandboxOptions(timeout=60, reachable=frozenset([Endpoint("localhost", repository.port)]))
    with sandbox.enter(root, bus=Bus(), environ={}, options=options) as inside:
        job = InstallJob(sandbox=inside, cache=cache, packages=["alpha"], download=lambda _url: b"")
        apt = Apt()
        with apt.prepare(job):
            yield apt, job


def trust(root: Path, key: Key) -> None:
    (root / KEYRING[1:]).parent.mkdir(exist_ok=True)
    (root / KEYRING[1:]).write_bytes(key.public())


FAULTS: Mapping[str, tuple[str, str]] = {
    "expired": (
        rf"localhost:\d+/./InRelease expired on {time.strftime('%Y-%m-%d', time.gmtime(NOW - 5 * 86400))} ",
        "Check-Valid-Until: no",
    ),
    "early": (
        rf"is valid from {time.strftime('%Y-%m-%d', time.gmtime(NOW + 5 * 86400))} ",
        "this host's clock says 20",
    ),
    "key": (rf"is signed with the key KEY, not found in {KEYRING}$", "compare its fingerprint"),
    "keyring": (rf"is signed with the key KEY, not found in {KEYRING}, which is not there$", "compare its"),
    "altered": (r"localhost:\d+ ./ does not fit its signature", "altered it"),
    "list": (r"localhost:\d+/./Packages.* is not there, though the index names it \(404\)", "being updated"),
    "release": (r"has no Release file of the suite ./ \(404\)", "check the address"),
    "down": (r"localhost:\d+ cannot be reached", "is the package source reachable from this CI host"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_refresh_that_fails_says_why(
    debian: Clones, private: Private, repository: Repository, key: Key, tmp_path: Path, fault: str
) -> None:
    fields = {"expired": ("Valid_Until", stamp(NOW - 5 * 86400)), "early": ("Date", stamp(NOW + 5 * 86400))}
    if fault in fields:
        name, value = fields[fault]
        repository.fields[name] = value
        repository.publish()
    signed = repository.folder / "InRelease"
    if fault == "altered":
        signed.write_text(signed.read_text().replace("Suite: made", "Suite: Made"))
    if fault == "list":
        for path in repository.folder.glob("Packages*"):
            path.unlink()
    if fault == "release":
        for path in repository.folder.glob("*Release"):
            path.unlink()

    def job() -> None:
        with contextlib.ExitStack() as stack:
            root = stack.enter_context(debian.clone())
            if fault != "keyring":
                trust(root, key)
            if fault == "key":
                keys = "usr/share/keyrings/debian-archive-bookworm-stable.gpg"
                (root / KEYRING[1:]).write_bytes((root / keys).read_bytes())
            if fault != "down":
                stack.enter_context(repository.served())
            apt, task = stack.enter_context(prepared(root, repository, tmp_path / "cache"))
            with pytest.raises(InstallError, match=r"^apt-get update failed: ") as caught:
                apt.refresh(task, hurry=True)
        text, hint = FAULTS[fault]
        assert caught.match(text.replace("KEY", key.name))
        assert hint in caught.value.hint
        assert ("reachable" in caught.value.hint) is (fault == "down")
        assert "command in the image: apt-get" in caught.value.detail

    private(job)


def certificate(folder: Path, name: str) -> ssl.SSLContext:
    """A server's certificate that nobody but itself vouches for, in cert.pem."""
    demand("openssl")
    argv = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-addext", f"subjectAltName=DNS:{name}", "-keyout", os.fspath(folder / "key.pem"),
        "-out", os.fspath(folder / "cert.pem"),
    ]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@pytest.mark.parametrize("fault", ["issuer", "name", ""])
def test_a_certificate_is_named_as_what_it_is(
    debian: Clones, private: Private, repository: Repository, key: Key, tmp_path: Path, fault: str
) -> None:
    tls = certificate(tmp_path, "elsewhere" if fault == "name" else "localhost")

    def job() -> None:
        with debian.clone() as root, repository.served(tls):
            trust(root, key)
            (root / "etc/own.pem").write_bytes((tmp_path / "cert.pem").read_bytes())
            if fault != "issuer":
                setting = 'Acquire::https::CAInfo "/etc/own.pem";\n'
                (root / "etc/apt/apt.conf.d/own").write_text(setting)
            with prepared(root, repository, tmp_path / "cache", "https") as (apt, task):
                if not fault:  # the other two are for want of nothing else
                    apt.refresh(task, hurry=True)
                    return
                with pytest.raises(
                    InstallError, match=r"the certificate of localhost:\d+ is not bel"
                ) as caught:
                    apt.refresh(task, hurry=True)
        remedy = {
            "issuer": "the base image needs the package ca-certificates",
            "name": "write the server's name",
        }
        assert remedy[fault] in caught.value.hint
        assert "reachable" not in caught.value.hint

    private(job)


def test_what_the_index_does_not_know_or_the_mirror_lost_is_told_apart(
    debian: Clones, private: Private, repository: Repository, key: Key, tmp_path: Path
) -> None:
    (repository.folder / "alpha_1.0_all.deb").unlink()

    def job() -> None:
        with debian.clone() as root, repository.served():
            trust(root, key)
            with prepared(root, repository, tmp_path / "cache") as (apt, task):
                apt.refresh(task)
                with pytest.raises(
                    StaleIndex, match=r"_all.deb is not there, though the index names it"
                ) as gone:
                    apt.install(task)
                unknown = InstallJob(sandbox=task.sandbox, cache=task.cache, packages=["nonesuch"])
                with pytest.raises(StaleIndex, match="for nonesuch: Unable to locate package") as caught:
                    apt.resolve(unknown, upgrade=False)
        assert "being updated" in gone.value.hint
        assert "check the names" in caught.value.hint

    private(job)


def test_a_repository_may_change_its_name_between_two_builds(
    debian: Clones, private: Private, repository: Repository, key: Key, tmp_path: Path
) -> None:
    """apt refuses that where lists are kept; a build without them would take it."""

    def job() -> None:
        with debian.clone() as root, repository.served():
            trust(root, key)
            with prepared(root, repository, tmp_path / "cache") as (apt, task):
                apt.refresh(task, hurry=True)
                first = apt.index(task)
                repository.fields |= {"Codename": "other", "Origin": "others", "Label": "others"}
                repository.publish()
                apt.refresh(task, hurry=True)
                assert apt.index(task) != first

    repository.fields |= {"Codename": "one", "Origin": "us", "Label": "us"}
    repository.publish()
    private(job)


def test_mmdebstrap_says_which_keyring_this_host_lacks(key: Key, tmp_path: Path) -> None:
    demand("root", "mmdebstrap")
    if os.path.exists("/usr/share/keyrings/ubuntu-archive-keyring.gpg"):
        pytest.skip("this host has the keyring")
    repository = Repository(tmp_path / "repository", free_port())
    suite = repository.folder / "dists/noble"
    suite.mkdir(parents=True)
    (suite / "InRelease").write_bytes(key.signed(release(NOW - 60, Components="main", Codename="noble")))
    (tmp_path / "root").mkdir()

    def unpack(*_: object) -> FileList:
        raise AssertionError("there is nothing to unpack")

    context = SourceContext(
        bus=Bus(), environ={"BUILDSTEP_APT_MIRROR": f"http://127.0.0.1:{repository.port}/ubuntu"},
        cache=tmp_path, privileged=True, downloads=tmp_path, unpack=unpack, apply_layer=unpack,
    )  # fmt: skip
    (repository.folder / "ubuntu").symlink_to(".")
    with repository.served(), pytest.raises(ImageError) as caught:
        Mmdebstrap().fetch("noble", tmp_path / "root", context)
    assert caught.match(
        f"^mmdebstrap noble: .*/ubuntu noble is signed with the key {key.name}, not found in "
    )
    assert "install the package ubuntu-keyring on this host" in caught.value.hint
    assert "reachable" not in caught.value.hint
