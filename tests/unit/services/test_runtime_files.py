"""Files, data and packages of services, without root and without starting anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from buildstep.services import wire
from buildstep.services.interface import Action, Call, Facts, Side
from buildstep.services.runtime import commands, data, files, packages, proc, records
from buildstep.services.runtime.answers import Failure
from buildstep.services.runtime.files import Installed
from buildstep.services.runtime.records import Records, folder_name
from buildstep.services.runtime.service import Service


def service(tmp_path: Path, values: Mapping[str, Any]) -> Service:
    facts = Facts(key="x!main", name="x", instance="main", role="x", values=values, folder=tmp_path)
    call = Call(facts=facts, side=Side.NODE, action=Action.INSTALL, digest="d")
    return Service({**wire.call_json(call), "place": {"state": str(tmp_path / "state")}})


def test_a_file_is_written_when_it_is_not_just_so(tmp_path: Path) -> None:
    path = tmp_path / "a/b/file"
    assert files.put(str(path), "text", mode=0o640)
    before = path.stat()
    assert not files.put(str(path), "text", mode=0o640)
    assert path.stat().st_ino == before.st_ino
    assert files.put(str(path), "text", mode=0o600)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("text", 0o600)
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert files.put(str(path), "mine")  # the link is replaced, not followed
    assert (path.read_text(), path.is_symlink()) == ("mine", False)
    assert os.listdir(path.parent) == ["file"]


def test_a_file_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.put(str(path), "old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Failure, match="No space left on device"):
        files.put(str(path), "new")
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["file"])


def test_a_directory_gets_its_mode(tmp_path: Path) -> None:
    path = str(tmp_path / "a/b")
    assert files.put_directory(path, mode=0o750)
    assert not files.put_directory(path, mode=0o750)
    assert files.put_directory(path, mode=0o700)
    assert Path(path).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a\0b"])
def test_a_path_that_is_not_absolute_is_refused(path: str) -> None:
    with pytest.raises(Failure, match="is no absolute path"):
        files.put(path, "x")


def test_what_was_installed_is_known_and_removed(tmp_path: Path) -> None:
    kept = Records(str(tmp_path / "state"), "x!main")
    tree, top = tmp_path / "tree", tmp_path / "top"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/run").write_text("run")
    (tree / "bin/run").chmod(0o755)
    (tree / "bin/link").symlink_to("run")
    (tree / "dir-link").symlink_to("bin")
    (tree / "empty/below").mkdir(parents=True)
    etc = {f"{top}/etc/a": "a", f"{top}/etc/b": "b"}
    assert Installed(kept).lay(etc, {f"{top}/opt": str(tree)}) == (5, 0)
    assert os.readlink(top / "opt/dir-link") == "bin"
    assert (top / "opt/empty/below").is_dir()
    assert (top / "opt/bin/run").stat().st_mode & 0o777 == 0o755
    assert Installed(kept).lay(etc, {f"{top}/opt": str(tree)}) == (0, 0)
    # A later version has less; of what goes, a file that somebody changed stays.
    (top / "etc/b").write_text("changed")
    (tree / "bin/link").unlink()
    assert Installed(kept).lay({f"{top}/etc/a": "new"}, {f"{top}/opt": str(tree)}) == (1, 1)
    assert (top / "etc/b").read_text() == "changed"
    (top / "etc/a").write_text("changed too")
    assert Installed(kept).remove() == (2, [f"{top}/etc/a"])
    assert sorted(str(path.relative_to(top)) for path in top.rglob("*")) == ["etc", "etc/a", "etc/b"]


def test_what_a_killed_install_left_is_removed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Records(str(tmp_path / "state"), "x!main")
    laid: list[str] = []
    real = files._lay

    def killed(path: str, what: Any) -> bool:
        if laid:
            raise KeyboardInterrupt
        laid.append(path)
        return real(path, what)

    monkeypatch.setattr(files, "_lay", killed)
    with pytest.raises(KeyboardInterrupt):
        Installed(kept).lay({f"{tmp_path}/top/a": "a", f"{tmp_path}/top/b": "b"}, {})
    monkeypatch.undo()
    assert (tmp_path / "top/a").exists()
    Installed(kept).remove()
    assert not (tmp_path / "top").exists()


def test_keys_have_directories_of_their_own() -> None:
    keys = ["a!b", "a/b", "../x", ".hidden", "a%2Fb", "", "a b", "\u00e9", "A!b"]
    names = [folder_name(key) for key in keys]
    assert len({*names}) == len(keys)
    assert not [name for name in names if "/" in name or name.startswith(".") or not name]
    assert folder_name("redis!main") == "redis!main"


def test_data_goes_out_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "var/data"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/file").write_text("one")
    (folder / "link").symlink_to("sub/file")
    x = service(tmp_path, {"data.dirs": [str(folder)]})
    name = data.pack(x)
    assert data.pack(x) != name
    (folder / "sub/file").write_text("two")
    (folder / "more").touch()
    assert data.unpack(x, name) is True
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == ["link", "sub", "sub/file"]
    assert ((folder / "sub/file").read_text(), os.readlink(folder / "link")) == ("one", "sub/file")
    assert data.remove(x) == [str(folder)]
    assert data.remove(x) == []
    with pytest.raises(Failure, match="there is no export 'no'; there is "):
        data.unpack(x, "no")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["/"], "is no directory of data"),
        (["/var"], "is no directory of data"),
        (["data"], "is no directory of data"),
        (["/srv/../.."], "is no directory of data"),
        ([], "does not say where its data is"),
        (["/srv/not/there/at/all"], "there is no /srv/not/there/at/all"),
    ],
)
def test_data_that_cannot_be_meant_is_refused(tmp_path: Path, value: list[str], message: str) -> None:
    with pytest.raises(Failure, match=message):
        data.pack(service(tmp_path, {"data.dirs": value}))


# -- packages ---------------------------------------------------------------------------------------------------


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The calls of apt-get that would be made; those with a package `nowhere` fail."""
    ran: list[list[str]] = []

    def run(argv: list[str], options: commands.Options) -> commands.Result:
        assert options.env["DEBIAN_FRONTEND"] == "noninteractive"
        ran.append([word for word in argv if word not in packages._APT])
        return commands.Result(100 if "nowhere" in argv else 0)

    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(commands, "find", lambda name: name if name == "apt-get" else None)
    monkeypatch.setattr(packages, "_POLICY", str(tmp_path / "sbin/policy-rc.d"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    status = (
        "Package: redis\nStatus: install ok installed\nVersion: 7\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
    )
    monkeypatch.setattr(proc, "read_bytes", lambda path: status.encode() if "dpkg" in path else b"")
    return ran


def test_packages_that_are_there_cost_no_call(apt: list[list[str]]) -> None:
    assert packages.ensure(["redis"]) == []
    assert apt == []
    assert packages.ensure(["redis", "gone", "nginx"]) == ["gone", "nginx"]
    assert apt == [["apt-get", "install", "--", "gone", "nginx"]]


def test_a_package_that_is_not_known_is_looked_for_once_more(apt: list[list[str]]) -> None:
    with pytest.raises(Failure, match="apt-get exited with status 100: nowhere") as caught:
        packages.ensure(["nowhere"])
    assert caught.value.retryable
    assert [argv[1] for argv in apt] == ["install", "update", "install"]


@pytest.mark.parametrize("name", ["-y", "a b", "", "--option", "a;b"])
def test_what_is_no_name_of_a_package_is_refused(apt: list[list[str]], name: str) -> None:
    with pytest.raises(Failure, match="no names of packages"):
        packages.ensure([name])
    assert apt == []


def test_records_that_are_damaged_count_as_none(tmp_path: Path) -> None:
    kept = Records(str(tmp_path), "x!main")
    kept.complete({"side": "node", "action": "start", "digest": "d", "token": "", "outcome": {}})
    folder = Path(kept.path("done"))
    (folder / "node.stop.json").write_text("{")
    (folder / "node.halt.json").write_text('{"format": 9}')
    (folder / f".node.x.json{records._TEMPORARY}").write_text("{")
    assert [one["action"] for one in kept.done()] == ["start"]
