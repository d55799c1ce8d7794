"""Packages of other repositories, package files by path, held packages, other architectures: with real apt."""

from __future__ import annotations

import dataclasses
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildstep.build import make_lock
from buildstep.errors import LockError
from buildstep.events import Bus
from buildstep.spec import lock
from tests.integration.repository import Key, Repository, clear_layers, free_port, make_repository
from tests.integration.yard import Outcome, Yard, environment

Private = Callable[[Callable[[], Any]], Any]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return Key.make(tmp_path_factory.mktemp("gpg") / "home")


@pytest.fixture
def other(tmp_path: Path, key: Key, place: Yard) -> Repository:
    """A signed repository that the base image knows nothing of."""
    made = Repository(tmp_path / "other", free_port())
    made.key = key
    allowed = place.environ["BUILDSTEP_NETWORK_ALLOW"].partition(",")[0]
    place.environ["BUILDSTEP_NETWORK_ALLOW"] = f"{allowed},127.0.0.1:{made.port}"
    clear_layers(place)
    return made


def entry(repository: Repository, **more: Any) -> dict[str, Any]:
    uris = [f"http://127.0.0.1:{repository.port}/"]
    return {"name": "other", "uris": uris, "suites": ["./"], **more}


def ask(place: Yard, packages: list[str], **options: Any) -> Outcome:
    place.build = {"packages": packages, "order": "packages-first", "installer_options": options}
    return place.run()


def files(place: Yard, tmp_path: Path) -> dict[str, bytes]:
    """The regular files of the image that was built last."""
    again = dataclasses.replace(place, build=place.build | {"formats": ["tar"], "compression": "none"})
    outcome = again.run()
    assert not outcome.error, outcome.error
    (archive,) = place.out.glob("*.tar")
    with tarfile.open(archive) as tar:
        return {
            member.name.removeprefix("./"): tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar
            if member.isreg()
        }


@pytest.mark.parametrize("form", ["file", "armored file", "inline"])
def test_a_signed_repository_with_its_key(
    form: str, place: Yard, other: Repository, key: Key, private: Private, tmp_path: Path
) -> None:
    given = tmp_path / "key"
    given.write_bytes(key.public() if form == "file" else key.gpg("--armor", "--export"))
    signed_by = given.read_text() if form == "inline" else str(given)

    def job() -> None:
        repository = make_repository(place, tmp_path / "repository")
        repository.put("first", "1")
        other.put("second", "1", depends="first")
        with repository.served(), other.served():
            done = ask(place, ["second"], repositories=[entry(other, signed_by=signed_by)])
            assert not done.error, done.error
            again = place.run()
            assert again.steps["packages"][0] == "reuse"
            found = files(place, tmp_path)
        assert found["usr/share/second/made"] == found["usr/share/first/made"] == b"1\n"
        names = [name for name in found if "buildstep" in name or name.startswith("etc/apt/sources.list.d/")]
        assert names == [], "nothing of the repository is in the image"

    private(job)


def test_a_wrong_key_and_no_key_are_refused(
    place: Yard, other: Repository, private: Private, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(Key.make(tmp_path / "gpg").public())

    def job() -> None:
        other.put("second", "1")
        repository = make_repository(place, tmp_path / "repository")
        repository.put("first", "1")
        with repository.served(), other.served():
            for more in ({"signed_by": str(wrong)}, {}):
                error = ask(place, ["second"], repositories=[entry(other, **more)]).error
                assert "is not signed" in error or "NO_PUBKEY" in error or "signature" in error, error
            trusted = ask(place, ["second"], repositories=[entry(other, trusted=True)])
            assert not trusted.error, trusted.error

    private(job)


def test_a_priority_decides_between_two_that_have_it(
    place: Yard, other: Repository, private: Private, tmp_path: Path
) -> None:
    """By host, as apt pins: here both are on one, so the names of the hosts differ."""

    def job() -> None:
        repository = make_repository(place, tmp_path / "repository")
        repository.put("first", "1")
        other.put("first", "2")
        row = entry(other, trusted=True) | {"uris": [f"http://localhost:{other.port}/"]}
        place.environ["BUILDSTEP_NETWORK_ALLOW"] += f",localhost:{other.port}"
        with repository.served(), other.served():
            for priority, version in ((None, b"2\n"), (100, b"1\n"), (1001, b"2\n")):
                more = {} if priority is None else {"priority": priority}
                clear_layers(place)
                assert not (done := ask(place, ["first"], repositories=[row | more])).error, done.error
                assert files(place, tmp_path)["usr/share/first/made"] == version

    private(job)


def test_package_files_by_path(place: Yard, private: Private, tmp_path: Path) -> None:
    """Their dependencies come from repositories; another content is another layer."""

    def job() -> None:
        clear_layers(place)
        repository = make_repository(place, tmp_path / "repository")
        repository.put("first", "1")
        aside = Repository(tmp_path / "aside", free_port())
        aside.put("mine", "1:2.0-1", depends="first")
        (deb,) = (tmp_path / "aside").glob("mine_*.deb")
        local = place.out.parent / "mine.deb"
        shutil.copy(deb, local)
        with repository.served():
            done = ask(place, [str(local)])
            assert not done.error, done.error
            assert place.run().steps["packages"][0] == "reuse"
            found = files(place, tmp_path)
            assert found["usr/share/mine/made"] == b"1:2.0-1\n"
            assert found["usr/share/first/made"] == b"1\n"
            assert not [name for name in found if name.endswith(".deb")]
            aside.put("mine", "1:2.0-1", depends="first", files={"usr/share/mine/more": "more"})
            shutil.copy(deb, local)
            changed = ask(place, [str(local)])
            assert not changed.error, changed.error
            assert changed.steps["packages"][0] == "run"
            assert files(place, tmp_path)["usr/share/mine/more"] == b"more"
            local.write_bytes(b"no package")
            assert "mine.deb cannot be read" in ask(place, [str(local)]).error
        assert "gone.deb is no file" in ask(place, [str(tmp_path / "gone.deb")]).error

    private(job)


def test_a_lock_has_package_files_and_those_of_other_repositories(
    place: Yard, other: Repository, private: Private, tmp_path: Path
) -> None:
    """On an agent that has nothing, and whose repositories have other versions by then."""

    def job() -> None:
        repository = make_repository(place, tmp_path / "repository")
        repository.put("first", "1")
        other.put("second", "1", depends="first")
        aside = Repository(tmp_path / "aside", free_port())
        aside.put("mine", "1:2.0-1", depends="second")
        (deb,) = (tmp_path / "aside").glob("mine_*.deb")
        local, again = place.out.parent / "mine.deb", place.out.parent / "again.deb"
        shutil.copy(deb, local)
        shutil.copy(deb, again)
        place.source = "elsewhere.json"
        path = place.out.parent / "elsewhere.lock.json"
        with repository.served(), other.served():
            options = {"repositories": [entry(other, trusted=True)], "hold": ["first"]}
            place.build = {
                "packages": [str(local), str(again)], "order": "packages-first", "installer_options": options,
            }  # fmt: skip
            store, _ = place.open(Bus(), environ := environment(None) | place.environ)
            room = make_lock.Room(store=store, bus=store.bus, environ=environ)
            made = make_lock.make(place.spec(environ), room)
            assert made.versions() == {"first": "1", "mine": "1:2.0-1", "second": "1"}
            lock.write(path, made)
            try:
                assert not (here := place.run(locked=True)).error, here.error
                repository.put("first", "1.1")
                clear_layers(place)
                shutil.rmtree(place.out.parent / "pool/state/packages")
                assert not (there := place.run(locked=True)).error, there.error
                assert there.same == here.same
                assert make_lock.check(place.spec(environ), room) == ["first: 1 -> 1.1"]
                aside.put("mine", "1:2.0-1", depends="second", files={"usr/share/mine/more": "more"})
                shutil.copy(deb, local)
                with pytest.raises(LockError, match=r"mine\.deb is another one"):
                    place.spec(environ, locked=True)
            finally:
                path.unlink()

    private(job)


def test_held_packages_stay_and_pins_name_versions(place: Yard, private: Private, tmp_path: Path) -> None:
    def job() -> None:
        clear_layers(place)
        repository = make_repository(place, tmp_path / "repository")
        repository.put("first", "1")
        with repository.served():
            assert not (done := ask(place, ["first=1"], hold=["first"])).error, done.error
            status = files(place, tmp_path)["var/lib/dpkg/status"].decode()
            (stanza,) = [part for part in status.split("\n\n") if "Package: first\n" in part]
            assert "Status: hold ok installed" in stanza
            assert "there is no" in (error := ask(place, ["first=9"]).error) or "first" in error
            error = ask(place, ["first"], hold=["nobody"]).error
            assert "nobody cannot be held" in error

    private(job)


def test_packages_of_another_architecture(place: Yard, private: Private, tmp_path: Path) -> None:
    """dpkg of the image learns of it, from a repository that has packages for it."""

    def job() -> None:
        clear_layers(place)
        repository = make_repository(place, tmp_path / "repository")
        repository.put("first", "1")
        text = repository._packages["first"].replace("Architecture: all", "Architecture: i386")
        deb = repository.folder / "first_1_all.deb"
        assert deb.exists()
        repository._packages["first"] = text
        repository.publish()
        with repository.served():
            error = ask(place, ["first"]).error
            assert "first" in error
            error = ask(place, ["first:i386"]).error
            # The file says `all`: it is found for i386, and dpkg takes it.
            assert not error, error
            assert files(place, tmp_path)["var/lib/dpkg/arch"].decode().split()[-1] == "i386"

    private(job)
