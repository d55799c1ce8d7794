"""Builds with Debian's dnf in the image, from a repository of our own."""

from __future__ import annotations

import dataclasses
import shutil
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import demand
from tests.integration.repository import clear_layers
from tests.integration.rpm_repository import RpmRepository, make_dnf_place
from tests.integration.yard import Outcome, Yard

Private = Callable[[Callable[[], Any]], Any]


@pytest.fixture(scope="module")
def dnf_place(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror", "rpmbuild", "createrepo_c")
    return make_dnf_place(tmp_path_factory.mktemp("dnf"))


@pytest.fixture
def repository(dnf_place: Yard, tmp_path: Path) -> RpmRepository:
    """A repository with alpha, which needs beta and recommends gamma; and builds that know of none before."""
    made = RpmRepository(
        tmp_path / "repository",
        int((dnf_place.out.parent / "port").read_text()),
        dnf_place.out.parent / "built",
    )
    clear_layers(dnf_place)
    made.rpm("beta", "1.0")
    made.rpm("gamma", "1.0")
    made.rpm("alpha", "1.0", lines="Requires: beta\nRecommends: gamma", script="echo made > /etc/of-alpha")
    made.publish()
    dnf_place.build = {
        "packages": ["alpha"],
        "installer": "dnf",
        "order": "packages-first",
        "compression": "none",
    }
    return made


def build(place: Yard, **more: Any) -> Outcome:
    """A build whose proto directory changed, so that it cannot be over at once."""
    (place.proto / "file").write_text(f"{time.time_ns()}\n")
    time.sleep(0.03)
    return place.run(index_max_age=0, **more)


def versions(place: Yard) -> Mapping[str, str]:
    return {row["name"]: row["version"] for row in place.record["packages"]}


def files(place: Yard) -> dict[str, bytes]:
    """The regular files of the image that was built last."""
    (archive,) = place.out.glob("*.tar")
    with tarfile.open(archive) as tar:
        return {
            member.name.removeprefix("./"): tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar
            if member.isreg()
        }


def test_packages_are_installed_and_their_layer_is_reused(
    dnf_place: Yard, repository: RpmRepository, private: Private
) -> None:
    def job() -> None:
        place = dnf_place
        with repository.served():
            first = build(place)
            assert not first.error, first.error
            assert first.steps["packages"][0] == "run"
            assert first.counts["layers_kept"] == 1
            assert versions(place) == {"alpha": "1.0-1", "beta": "1.0-1", "shell": "1-1"}
            tree = files(place)
            assert tree["etc/of-alpha"] == b"made\n"
            assert tree["usr/share/beta/made"] == b"1.0\n"
            # Nothing of what dnf keeps is in the image, nor what the base had kept.
            assert not [path for path in tree if path.startswith(("var/cache/dnf", "var/log/dnf", "run/"))]
            assert not [path for path in tree if path.endswith((".rpm", ".solv", "repomd.xml", "hawkey.log"))]
            assert not list((place.out.parent / "pool/state/packages/dnf/work").iterdir())
            # The index is as it was: dnf resolves nothing.
            second = build(place)
            assert second.steps["packages"][0] == "reuse"
            assert "the repository's index is unchanged" in second.notes
            # A dependency has a new version.
            repository.rpm("beta", "1.1")
            repository.publish()
            third = build(place)
            assert third.steps["packages"][0] == "run"
            assert versions(place)["beta"] == "1.1-1"

    private(job)


def test_an_upgrade_comes_first_and_what_is_recommended_with_it(
    dnf_place: Yard, repository: RpmRepository, private: Private
) -> None:
    """On an image with an older package; the base has no other package manager, so that dnf is found."""

    def job() -> None:
        place = dnf_place
        del place.build["installer"]
        with repository.served():
            place.build["packages"] = ["beta=1.0"]
            below = build(place)
            assert not below.error, below.error
            assert versions(place) == {"beta": "1.0-1"}
            (archive,) = place.out.glob("*.tar")
            base = Path(shutil.copy(archive, place.out.parent / "below.tar"))
            repository.rpm("beta", "1.1")
            repository.publish()
            more = {"packages": ["alpha=1.0"], "installer_options": {"recommends": True}}
            upper = dataclasses.replace(
                place, base=base, build={**place.build, **more, "upgrade_first": True}
            )
            done = build(upper)
        assert not done.error, done.error
        assert versions(upper) == {"alpha": "1.0-1", "beta": "1.1-1", "gamma": "1.0-1", "shell": "1-1"}

    private(job)


def test_what_cannot_be_had_is_told(dnf_place: Yard, repository: RpmRepository, private: Private) -> None:
    repository.rpm("needy", "1.0", lines="Requires: what-nobody-has")
    repository.publish()

    def failure(*names: str) -> str:
        dnf_place.build["packages"] = [*names]
        return build(dnf_place).error

    def job() -> None:
        with repository.served():
            assert "failed for nonesuch: no repository of the image has it" in failure("nonesuch", "beta")
            assert "resolving packages failed for needy: " in failure("needy")
            assert "dnf: not a package name: 'http://127.0.0.1/x.rpm'" in failure("http://127.0.0.1/x.rpm")
        assert "dnf makecache failed: Failed to download metadata for repo 'made'" in failure("beta")

    private(job)


def test_scripts_have_no_network_and_their_failures_are_told(
    dnf_place: Yard, repository: RpmRepository, private: Private
) -> None:
    reach = f"timeout 5 bash -c ': < /dev/tcp/127.0.0.1/{repository.port}' && echo reached > /etc/reached"
    interfaces = "ls /sys/class/net > /etc/interfaces; env | grep -i proxy > /etc/proxies"
    repository.rpm("alpha", "1.0", script=f"{reach}\n{interfaces}\nexit 3")
    repository.rpm("refuses", "1.0", script="%pre\nexit 4")
    repository.publish()

    def job() -> None:
        place = dnf_place
        with repository.served():
            done = build(place)
            assert not done.error, done.error
            tree = files(place)
            assert "etc/interfaces" in tree
            assert "etc/reached" not in tree
            assert tree["etc/proxies"] == b""
            assert "dnf: Error in POSTIN scriptlet in rpm package alpha" in done.notes
            place.build["packages"] = ["refuses"]
            failed = build(place)
            assert "installing packages failed for refuses: " in failed.error

    private(job)
