"""The layer with the packages: known by the versions that a repository has, asked of it and not guessed."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from buildstep import compare, growth, process, resolution
from tests.integration.conftest import debian_root, demand
from tests.integration.yard import Outcome, Yard, forget_outputs, unpacked

Private = Callable[[Callable[[], Any]], Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """A pool, and a Debian base whose only source is a repository on a port of this machine."""
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror", "dpkg-deb", "rsync")
    top = tmp_path_factory.mktemp("place")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sources = top / "etc/apt/sources.list"
    sources.parent.mkdir(parents=True)
    sources.write_text(f"deb [trusted=yes] http://127.0.0.1:{port}/ ./\n")
    base = top / "base.tar"
    kept_out = ("./etc/apt/sources.list", "./etc/apt/sources.list.d/*")
    whole = ["tar", "-cf", os.fspath(base), *(f"--exclude={path}" for path in kept_out)]
    process.run([*whole, "-C", os.fspath(debian_root()), "."])
    process.run(["tar", "-rf", os.fspath(base), "-C", os.fspath(top), "./etc/apt/sources.list"])
    made = Yard(
        pool=f"overlay:{top / 'pool'}", out=top / "out", proto=top / "proto", base=base, formats=("oci",),
    )  # fmt: skip
    made.proto.mkdir()
    (made.proto / "file").write_text("0\n")
    (top / "port").write_text(str(port))
    return made


class Repository:
    """A flat repository of packages made by dpkg-deb, served as long as a block lasts. asked: requests."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.asked: list[tuple[str, int]] = []
        self._packages: dict[str, str] = {}
        folder.mkdir()

    def put(
        self, name: str, version: str, *, depends: str = "", recommends: str = "", postinst: str = ""
    ) -> None:
        """Add a package, or replace it by another version."""
        tree = self.folder.parent / f"{name}-tree"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "usr/share/made").mkdir(parents=True)
        (tree / "usr/share/made" / name).write_text(f"{version}\n")
        lines = [
            f"Package: {name}", f"Version: {version}", "Architecture: all", "Maintainer: A <a@example.com>",
            *([f"Depends: {depends}"] if depends else []),
            *([f"Recommends: {recommends}"] if recommends else []), f"Description: {name}",
        ]  # fmt: skip
        control = "\n".join(lines) + "\n"
        (tree / "DEBIAN/control").write_text(control)
        if postinst:
            (tree / "DEBIAN/postinst").write_text(postinst)
            (tree / "DEBIAN/postinst").chmod(0o755)
        deb = self.folder / f"{name}_{version}_all.deb"
        process.query(
            ["dpkg-deb", "-Znone", "--build", "--root-owner-group", os.fspath(tree), os.fspath(deb)]
        )
        data = deb.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        self._packages[name] = f"{control}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {digest}\n\n"
        self.publish()

    def publish(self) -> None:
        """Write the index: Packages, and a Release with its digests."""
        packages = "".join(self._packages[name] for name in sorted(self._packages)).encode()
        files = {"Packages": packages, "Packages.gz": gzip.compress(packages, mtime=0)}
        sums = []
        for name, data in files.items():
            (self.folder / name).write_bytes(data)
            sums.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n")
        date = time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime())
        (self.folder / "Release").write_text(f"Date: {date}\nSuite: made\nSHA256:\n{''.join(sums)}")

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                asked.append((self.path, int(code)))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Not on the test's output."""

        ThreadingHTTPServer.allow_reuse_address = True
        server = ThreadingHTTPServer(
            ("127.0.0.1", self.port), partial(Handler, directory=os.fspath(self.folder))
        )
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture
def repository(place: Yard, tmp_path: Path) -> Repository:
    """A repository with alpha, which needs beta; and builds that know nothing of any before."""
    made = Repository(tmp_path / "repository", int((place.out.parent / "port").read_text()))
    made.put("beta", "1.0")
    made.put("alpha", "1.0", depends="beta")
    for folder in ("resolved", "artifacts", "packages"):
        shutil.rmtree(place.out.parent / "pool/state" / folder, ignore_errors=True)
    place.build = {"packages": ["alpha"], "order": "packages-first"}
    return made


_counter = [0]


def build(place: Yard, **more: Any) -> Outcome:
    """A build whose proto directory changed, so that it cannot be over at once."""
    _counter[0] += 1
    (place.proto / "file").write_text(f"{_counter[0]} {time.time_ns()}\n")
    time.sleep(0.03)
    done = place.run(**more)
    assert not done.error, done.error
    return done


def versions(place: Yard) -> Mapping[str, str]:
    return {row["name"]: row["version"] for row in place.record["packages"]}


def test_an_answer_is_used_and_asked_for_again(place: Yard, repository: Repository, private: Private) -> None:
    def job() -> None:
        with repository.served():
            first = build(place)
            assert first.steps["packages"][0] == "run"
            assert {"alpha": "1.0", "beta": "1.0"}.items() <= versions(place).items()
            # Fresh: neither the repository nor its package manager is asked.
            repository.asked.clear()
            second = build(place)
            assert second.steps["packages"][0] == "reuse"
            assert " s saved" in second.steps["packages"][1]
            assert repository.asked == []
            assert second.counts["started"] == 0
            # Stale, and the index is what it was: one conditional request or two.
            asking = {"index_max_age": 0}
            assert "is asked again first" in place.plan(**asking)["packages"][1]
            assert repository.asked == []
            third = build(place, **asking)
            assert third.steps["packages"][0] == "reuse"
            assert "the repository's index is what it was" in third.notes
            assert (304 in {code for _, code in repository.asked}) is True
            assert not any(path.endswith((".deb", "Packages", "Packages.gz")) for path, _ in repository.asked)
            # Another index that gives the same packages: the same layer.
            repository.put("gamma", "1.0")
            fourth = build(place, **asking)
            assert fourth.steps["packages"][0] == "reuse"
            assert first.counts["layers_kept"] == 1
            assert "layers_kept" not in fourth.counts
            # A dependency has a new version: seen when it is asked for, and told.
            repository.put("beta", "1.1")
            assert build(place).steps["packages"][0] == "reuse"
            before = place.record
            fifth = build(place, **asking)
            assert fifth.steps["packages"][0] == "run"
            assert "versions.beta: 1.0 -> 1.1" in fifth.steps["packages"][1]
            assert "s last time" in fifth.steps["packages"][1]
            assert versions(place)["beta"] == "1.1"
            assert "package beta:all: 1.0 -> 1.1" in "\n".join(compare.two(before, place.record))
            # And back: that layer is still there.
            repository.put("beta", "1.0")
            assert build(place, **asking).steps["packages"][0] == "reuse"
            assert versions(place)["beta"] == "1.0"

    private(job)


def test_a_build_that_would_change_nothing_sees_a_new_version(
    place: Yard, repository: Repository, private: Private
) -> None:
    """Outputs stand only as long as the answer is good."""

    def job() -> None:
        with repository.served():
            build(place)
            time.sleep(0.03)
            assert place.run().steps["emit"][0] == "reuse"
            repository.put("alpha", "2.0", depends="beta")
            assert place.run().steps["emit"][0] == "reuse"
            done = place.run(index_max_age=0)
            assert done.steps["packages"][0] == "run"
            assert versions(place)["alpha"] == "2.0"

    private(job)


def test_without_the_repository_the_last_answer_is_used(
    place: Yard, repository: Repository, private: Private
) -> None:
    def job() -> None:
        with repository.served():
            build(place)
        done = build(place, index_max_age=0)
        assert done.steps["packages"][0] == "reuse"
        assert any("cannot be reached; its answer of 0.0 h ago is used" in note for note in done.notes)
        done = build(place, index_max_age=0, network=False)
        assert done.steps["packages"][0] == "reuse"
        place.build["packages"] = ["alpha", "beta"]
        failed = place.run()
        assert failed.error.startswith("InstallError: apt-get update failed")

    private(job)


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a package more": ({"packages": ["alpha", "delta"]}, "packages: delta added"),
    "an installer option": ({"installer_options": {"recommends": True}}, "recommends: False -> True"),
    "the package manager's environment": (
        {"installer_options": {"env": {"A": "b"}}}, "installer_options.env.A: b added",
    ),
    "an upgrade first": ({"upgrade_first": True}, "upgrade_first: False -> True"),
    "a cleaner": ({"clean": ["-tmp"]}, "clean: tmp removed"),
    "the other order": ({"order": "proto-first"}, "proto directory"),
}  # fmt: skip


def test_what_decides_the_layer_is_told_before_the_build(
    place: Yard, repository: Repository, private: Private
) -> None:
    def job() -> list[str]:
        wrong = []
        repository.put("delta", "1.0")
        with repository.served():
            build(place)
            plain = dict(place.build)
            for name, (change, told) in OPTIONS.items():
                place.build = plain | change
                state, reason = place.plan()["packages"]
                if state != "run" or told not in reason or "s last time" not in reason:
                    wrong.append(f"{name}: {state} {reason}")
            place.build = plain | OPTIONS["a package more"][0]
            done = build(place)
            assert done.steps["packages"][0] == "run"
            assert "packages: delta added" in done.steps["packages"][1]
        return wrong

    wrong = private(job)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("order", ["packages-first", "proto-first"])
def test_cached_and_cold_are_the_same_image(
    place: Yard, repository: Repository, private: Private, order: str
) -> None:
    def job() -> None:
        place.build["order"] = order
        with repository.served():
            made = build(place)
            forget_outputs(place.pool)
            cached = place.run()
            assert cached.steps["packages"][0] == "reuse"
            cold = place.run(cache=False)
            assert cold.steps["packages"][0] == "run"
            assert cached.same == made.same
            assert cold.tree == made.tree
            assert cold.same == made.same

    private(job)


def test_a_layer_that_was_tampered_with_is_not_used(
    place: Yard, repository: Repository, private: Private
) -> None:
    def job() -> None:
        with repository.served():
            first = build(place)
            (upper,) = (place.out.parent / "pool/layer").glob("*/upper/usr/share/made/alpha")
            good = upper.read_bytes()
            info = upper.stat()
            # Touched, and the same: proved by its content, and used.
            upper.write_bytes(good)
            again = build(place)
            assert again.steps["packages"][0] == "reuse"
            upper.write_bytes(b"1.1\n")
            os.utime(upper, ns=(info.st_atime_ns, info.st_mtime_ns))
            healed = build(place)
            assert healed.steps["packages"][0] == "run"
            assert any("is damaged and was removed" in note for note in healed.notes)
            assert first.steps["packages"][0] == "run"
            (upper,) = (place.out.parent / "pool/layer").glob("*/upper/usr/share/made/alpha")
            assert upper.read_bytes() == good
            # So is its file list, and its record.
            for suffix, damage in (("list", b"\n"), ("json", b"{")):
                (path,) = (place.out.parent / "pool/state/layers").glob(f"*.{suffix}")
                path.write_bytes(path.read_bytes()[:-5] + damage)
                assert build(place).steps["packages"][0] == "run", suffix
                assert build(place).steps["packages"][0] == "reuse", suffix

    clear_layers(place)
    private(job)


def test_an_answer_that_turns_out_wrong_keeps_no_layer() -> None:
    answer = resolution.Answer(index="i", versions={"a": "1", "b": ""}, exact=True, asked=0.0)
    assert resolution.contradiction(answer, {"a": "1"}) == ""
    assert resolution.contradiction(answer, {"a": "2"}) == "a 1 was expected, 2 was installed"
    assert resolution.contradiction(answer, {"a": "1", "b": "3"}) == "b removed was expected, 3 was installed"
    assert resolution.contradiction(answer, {}) == "a 1 was expected, nothing was installed"


# -- a layer from a smaller one ---------------------------------------------------------------------------


@pytest.mark.skipif(not growth.PROVEN, reason="growing layers is off: a grown tree is not proven equal")
def test_one_package_more_is_all_that_is_installed(
    place: Yard, repository: Repository, private: Private, tmp_path: Path
) -> None:
    """Without a promise of the same bytes everywhere: on the layer that is there, with the same result."""

    def job() -> None:
        repository.put("delta", "1.0")
        with repository.served():
            build(place, epoch=None)
            repository.asked.clear()
            place.build["packages"] = ["alpha", "delta"]
            grown = build(place, epoch=None)
            state, reason = grown.steps["packages"]
            assert state == "run"
            assert "packages: delta added" in reason
            assert "; on layer " in reason
            # The index is young enough, and what was there is not fetched again.
            assert [path for path, _ in repository.asked] == ["/./delta_1.0_all.deb"]
            record = place.record
            comments = [layer["comment"] for layer in record["layers"]]
            assert comments[1:] == ["packages: alpha", "packages: delta"]
            assert {"alpha": "1.0", "beta": "1.0", "delta": "1.0"}.items() <= versions(place).items()
            # It is found again, and gives the same layers.
            again = build(place, epoch=None)
            assert again.steps["packages"][0] == "reuse"
            assert place.record["layers"] == record["layers"]
            # The tree is the one of an install from the base.
            digest = again.tree
            same = build_same(place, epoch=None, cache=False)
            assert same.tree == digest
            assert place.record["packages"] == record["packages"]
            # One more on top of that; and one that needs less is made from what it shares.
            repository.put("zeta", "1.0")
            place.build["packages"] = ["alpha", "delta", "zeta"]
            assert "; on layer " in build(place, epoch=None, index_max_age=0).steps["packages"][1]
            assert len(place.record["layers"]) == 4
            assert unpacked(place.out / "hello-1.0.0.oci.tar", tmp_path / "u") == place.record["tree_digest"]

    clear_layers(place)
    private(job)


@pytest.mark.skipif(not growth.PROVEN, reason="growing layers is off: a grown tree is not proven equal")
def test_what_could_differ_is_installed_anew(place: Yard, repository: Repository, private: Private) -> None:
    def job() -> None:
        repository.put("delta", "1.0")
        repository.put("maker", "1.0", postinst="#!/bin/sh\nuseradd --system made\n")
        with repository.served():
            build(place, epoch=None)
            plain = dict(place.build)
            # A script that changes what other packages have: the order could show.
            place.build["packages"] = ["alpha", "maker"]
            done = build(place, epoch=None)
            assert "; on layer " not in done.steps["packages"][1]
            if growth.PROVEN:
                assert any(
                    "not made from the layer" in note and "was changed by a script" in note
                    for note in done.notes
                )
            assert done.tree == build_same(place, epoch=None, cache=False).tree
            # A promise of the same bytes everywhere.
            place.build = plain | {"packages": ["alpha", "delta"]}
            assert "; on layer " not in build(place).steps["packages"][1]
            # Another version of what is there.
            repository.put("beta", "1.1")
            place.build["packages"] = ["alpha", "beta", "delta"]
            done = build(place, epoch=None, index_max_age=0)
            assert "; on layer " not in done.steps["packages"][1]
            assert versions(place)["beta"] == "1.1"

    clear_layers(place)
    private(job)


def test_an_index_that_is_too_old_is_fetched_again(
    place: Yard, repository: Repository, private: Private
) -> None:
    """What it names has gone from the repository since."""

    def job() -> None:
        repository.put("delta", "1.0")
        with repository.served():
            build(place)
            repository.put("delta", "1.1")
            (repository.folder / "delta_1.0_all.deb").unlink()
            for path in (place.out.parent / "pool/state/packages/apt/lists").glob("*.fetched"):
                os.utime(path, (time.time() - 60, time.time() - 60))
            place.build["packages"] = ["delta"]
            done = build(place)
            assert any("the repository is asked again" in note for note in done.notes)
            assert versions(place)["delta"] == "1.1"
            assert build(place).steps["packages"][0] == "reuse"

    private(job)


def build_same(place: Yard, **more: Any) -> Outcome:
    """A build of the same proto directory as the last."""
    done = place.run(**more)
    assert not done.error, done.error
    return done


def clear_layers(place: Yard) -> None:
    """No layer of another test is nearer than those of this one."""
    top = place.out.parent / "pool"
    for folder in ("layer", "state/layers"):
        shutil.rmtree(top / folder, ignore_errors=True)
    if top.exists():
        (top / "layer").mkdir()
