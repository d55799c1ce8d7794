"""Builds by an ordinary user: the same image as root's without packages, packages by subordinate ids."""

from __future__ import annotations

import io
import os
import pwd
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from buildstep.system import userns
from tests.integration.conftest import debian_root, demand
from tests.integration.ordinary_user import LOGIN_PATH, UID, UserLab, base, place, usable_python, user
from tests.integration.person import at_a_terminal
from tests.integration.support import (
    EPOCH,
    REPOSITORY,
    Lab,
    host_state,
    matches,
    none_left,
    sha256,
    step,
    wait_for,
)

__all__ = ["base", "place", "user"]  # fixtures


def lab_for(place: Path, base: Path, uid: int, gid: int) -> UserLab:
    python, path = usable_python()
    (place / "home").mkdir()
    shutil.copy(base, place / "base.tar")
    lab = UserLab(
        top=place,
        base=place / "base.tar",
        scheme="dir",
        python=python,
        environ={"PYTHONPATH": path},
        uid=uid,
        gid=gid,
    )
    lab.give()
    return lab


@pytest.fixture
def lab(base: Path, place: Path) -> UserLab:
    return lab_for(place, base, UID, UID)


def furnish(top: Path) -> None:
    """What an ordinary user's checkout can hold."""
    for folder in ("data/empty", "lib/extra", "var/run/service", "usr/lib/base"):
        (top / folder).mkdir(parents=True)
    for folder in ("data", "lib/extra", "var/run/service"):
        (top / folder / "file").write_text(folder)
    os.link(top / "data/file", top / "data/twin")
    (top / "data/tool").write_bytes(os.urandom(100_000))
    (top / "data/tool").chmod(0o4755)
    (top / "data/link").symlink_to("tool")
    os.setxattr(top / "data/tool", "user.note", b"x")
    os.mkfifo(top / "data/fifo")
    (top / "data" / os.fsdecode(b"\xff\n")).write_text("odd")
    (top / "data/closed").mkdir()
    (top / "data/closed/below").mkdir()
    (top / "data/closed").chmod(0o555)
    (top / "usr/lib/base/one").write_bytes(b"not linked\n")
    with (top / "data/sparse").open("wb") as stream:
        stream.truncate(16 << 20)
        stream.write(b"x")
        os.fsync(stream.fileno())


@pytest.mark.parametrize("way", ["read in place", "copied"])
def test_an_ordinary_users_image_is_roots_image(lab: UserLab, way: str) -> None:
    """The same inputs give the same bytes, whoever builds: owners come from the rule and the base."""
    furnish(lab.proto)
    build = {"owner": {"data/**": "www:www", "*": "root:root"}, "exclude": ["*.o"], "formats": ["oci", "tar"]}
    lab.manifest(build=build)
    lab.environ["SOURCE_DATE_EPOCH"] = str(EPOCH)
    if way == "copied":
        lab.environ["BUILDSTEP_PLAIN"] = "1"
    lab.give()
    (lab.proto / "data/tool").chmod(0o4755)
    before = host_state(lab.top)
    mine = lab.built()
    assert host_state(lab.top) == before
    assert lab.leftovers() == []
    roots = Lab(top=lab.top, base=lab.base, scheme="dir", environ={"SOURCE_DATE_EPOCH": str(EPOCH)})
    lab.manifest(build=build)
    told = roots.built("--pool", f"dir:{lab.top}/roots-pool", "-o", f"{lab.top}/roots-out")
    assert listing(mine) == listing(told)
    assert mine["tree_digest"] == told["tree_digest"]
    assert [row["sha256"] for row in mine["files"]] == [row["sha256"] for row in told["files"]]
    for row in mine["files"]:
        info = Path(row["path"]).stat()
        assert info.st_uid == UID
        assert sha256(Path(row["path"])) == row["sha256"]


@pytest.mark.parametrize("way", ["read in place", "copied"])
def test_accounts_modes_and_units_are_those_of_roots_image(lab: UserLab, way: str) -> None:
    with tarfile.open(lab.base, "a") as tar:
        for name, mode, gid, data in (
            ("etc/shadow", 0o640, 42, b"root:*:1:0:99999:7:::\nwww:*:1:0:99999:7:::\n"),
            ("etc/gshadow", 0o640, 42, b"root:*::\nwww:*::\n"),
            ("etc/skel/.profile", 0o604, 0, b"# profile\n"),
        ):
            member = tarfile.TarInfo(name)
            member.mode, member.gid, member.size, member.mtime = mode, gid, len(data), EPOCH
            tar.addfile(member, io.BytesIO(data))
    (lab.proto / "lib/systemd/system").mkdir(parents=True)
    (lab.proto / "lib/systemd/system/app.service").write_text("[Install]\nWantedBy=multi-user.target\n")
    (lab.proto / "srv/app").mkdir(parents=True)
    (lab.proto / "srv/app/run").write_text("x")
    os.link(lab.proto / "srv/app/run", lab.proto / "srv/app/twin")
    build = {
        "users": [
            {"name": "app", "uid": 990, "home": "/srv/app", "groups": ["www"]},
            {"name": "bob", "uid": 1500, "home": "/home/deep/bob"},
        ],
        "modes": {"srv/app": "D2750,F4750", "*": "go-w"},
        "units": {"enable": ["app.service"], "mask": ["x.service"]},
        "owner": {"srv": "app:www", "*": "root:root"},
        "formats": ["oci", "tar"],
    }
    lab.manifest(build=build)
    lab.environ["SOURCE_DATE_EPOCH"] = str(EPOCH)
    if way == "copied":
        lab.environ["BUILDSTEP_PLAIN"] = "1"
    lab.give()
    mine = lab.built()
    roots = Lab(top=lab.top, base=lab.base, scheme="dir", environ={"SOURCE_DATE_EPOCH": str(EPOCH)})
    lab.manifest(build=build)
    told = roots.built("--pool", f"dir:{lab.top}/roots-pool", "-o", f"{lab.top}/roots-out")
    assert listing(mine) == listing(told)
    assert mine["tree_digest"] == told["tree_digest"]
    assert [row["sha256"] for row in mine["files"]] == [row["sha256"] for row in told["files"]]
    members = listing(mine)
    assert members["home/deep/bob/.profile"][1:4] == (oct(0o604), 1500, 1500)
    assert members["home/deep"][2:4] == (0, 0)
    assert members["etc/shadow"][1:4] == (oct(0o640), 0, 42)
    assert members["srv/app/run"][1:4] == (oct(0o4750), 990, 44)
    assert members["etc/systemd/system/x.service"][5] == "/dev/null"
    assert lab.leftovers() == []


def listing(result: dict[str, Any]) -> dict[str, tuple[object, ...]]:
    """The tar image's members, to see at once what differs."""
    path = next(row["path"] for row in result["files"] if row["format"] == "tar")
    raw = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout
    plain = Path(path).with_suffix(".listed")
    plain.write_bytes(raw)
    try:
        with tarfile.open(plain) as archive:
            return {
                member.name: (
                    member.type,
                    oct(member.mode),
                    member.uid,
                    member.gid,
                    member.size,
                    member.linkname,
                )
                for member in archive
            }
    finally:
        plain.unlink()


def test_what_cannot_be_made_here_is_in_the_image_all_the_same(lab: UserLab) -> None:
    members = listing(lab.built("-f", "tar"))
    assert members["dev/null"] == (tarfile.CHRTYPE, oct(0o660), 0, 6, 0, "")
    assert members["usr/bin/setuid"][1] == oct(0o4755)
    assert members["usr/lib/base/owned"][2:4] == (33, 44)
    assert members["var/log/old.log"][1:4] == (oct(0o640), 0, 4), "a cleaner emptied it; it is still adm's"
    assert members["etc/hello"][2:4] == (0, 0)
    assert members["tmp"][1] == oct(0o1777)


def test_keep_means_the_numbers_on_the_agent(lab: UserLab) -> None:
    lab.manifest(build={"owner": "keep"})
    lab.give()
    assert listing(lab.built("-f", "tar"))["etc/hello"][2:4] == (UID, UID)


def test_a_second_build_reuses_what_it_can(lab: UserLab) -> None:
    first = lab.built()
    (lab.proto / "etc/new").write_text("x")
    lab.give()
    second = lab.built()
    assert step(second, "import")["state"] == "reuse"
    assert second["tree_digest"] != first["tree_digest"]
    assert lab.command("image", "verify", "--pool", lab.uri, "base@0").status == 0


def test_the_default_pool_is_the_users_own(lab: UserLab) -> None:
    argv = lab.argv("--json")
    at = argv.index("--pool")
    del argv[at : at + 2]
    done = lab.run(argv)
    assert done.status == 0, done.stderr
    assert (lab.top / "home/.local/share/buildstep/dir/buildstep-pool.json").exists()


def test_without_sub_ids_all_that_is_missing_is_told_at_once(lab: UserLab) -> None:
    empty = lab.top / "empty"
    empty.mkdir(mode=0o755)
    done = lab.refused(5, "-p", "one-1")
    for text in ("54321", "/etc/subuid", "/etc/subgid", "usermod --add-subuids", "--add-subgids"):
        assert text in done.stderr, text
    assert done.stderr.count("missing:") == 2
    assert "hint:" in done.stderr
    assert not lab.pool.exists(), "nothing has been touched"


def test_an_overlay_pool_is_refused_with_another_to_use(lab: UserLab) -> None:
    done = lab.refused(10, "--pool", f"overlay:{lab.top}/overlay")
    assert f"--pool dir:{lab.top}/overlay" in done.stderr


def test_a_pool_of_root_is_not_used(lab: UserLab) -> None:
    root = Lab(top=lab.top, base=lab.base, scheme="dir", environ=lab.environ)
    root.built("-o", f"{lab.top}/roots-out")
    done = lab.refused(10)
    assert "belongs to root" in done.stderr
    assert "--pool" in done.stderr, "the way out is told"


# -- with subordinate ids -------------------------------------------------------------------------------------


@pytest.fixture
def sublab(base: Path, place: Path, user: pwd.struct_passwd) -> UserLab:
    return lab_for(place, base, user.pw_uid, user.pw_gid)


def test_packages_are_installed_in_a_user_namespace(sublab: UserLab) -> None:
    sublab.environ["SOURCE_DATE_EPOCH"] = str(EPOCH)
    sublab.manifest(build={"owner": "www:adm"})
    sublab.give()
    before = host_state(sublab.top)
    mine = sublab.built("-p", "one-1,mounts-1", "-f", "tar")
    assert host_state(sublab.top) == before
    assert sublab.leftovers() == []
    members = listing(mine)
    assert members["opt/local/pkg/installed"][2:4] == (0, 0)
    assert members["etc/hello"][2:4] == (33, 4)
    assert members["usr/lib/base/owned"][2:4] == (33, 44)
    assert members["usr/bin/setuid"][1] == oct(0o4755)
    assert members["dev/null"][0] == tarfile.CHRTYPE
    root = Lab(top=sublab.top, base=sublab.base, environ={**sublab.environ})
    root.manifest(build={"owner": "www:adm"})
    told = root.built(
        "-p", "one-1", "-f", "tar", "--pool", f"overlay:{sublab.top}/roots", "-o", f"{sublab.top}/roots-out"
    )
    same = {name: row for name, row in members.items() if name not in ("opt/local/mounts", "opt/local/dev")}
    theirs = listing(told)
    del same["opt/local/pkg/installed"], theirs["opt/local/pkg/installed"]
    assert same == theirs


@pytest.mark.parametrize("path", [LOGIN_PATH, ""])
def test_every_program_is_found_with_the_path_of_a_login(path: str, sublab: UserLab) -> None:
    sublab.built("-p", "one-1", "-f", "tar", env={"PATH": path})
    argv = (
        "doctor",
        "-m",
        "m.json",
        "-i",
        f"tar:{sublab.base}",
        "-p",
        "one-1",
        "--pool",
        sublab.uri,
        "proto",
        "--json",
    )
    told = sublab.command(*argv, env={"PATH": path})
    assert told.status == 0, told.stdout
    assert not [row for row in told.json["findings"] if "No such file" in row["what"]], told.stdout
    root = Lab(top=sublab.top, base=sublab.base, environ={**sublab.environ, "PATH": path})
    mine = ("--pool", f"overlay:{sublab.top}/roots", "-o", f"{sublab.top}/roots-out")
    root.built("-p", "one-1", *mine)
    told = root.command("doctor", "-i", f"tar:{sublab.base}", "--pool", f"overlay:{sublab.top}/roots")
    assert told.status == 0, told.stdout


def test_backends_keep_their_contract_in_a_user_namespace(sublab: UserLab) -> None:
    """The tests of the contract, run as root of the user's namespace, random changes included."""
    argv = [
        sublab.python,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        "-k",
        "overlay and (scan or layer)",
    ]
    argv += ["--basetemp", os.fspath(sublab.top / "home/tests"), "tests/integration/test_backends.py"]
    done = subprocess.run(
        userns.enter_argv(*argv), cwd=REPOSITORY, env=sublab.env(HOME=os.fspath(sublab.top / "home")),
        user=sublab.uid, group=sublab.gid, extra_groups=[], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
    assert len(re.findall(r"\.", done.stdout.partition("[")[0])) >= 5, done.stdout


def test_a_killed_build_in_a_user_namespace_leaves_nothing(sublab: UserLab) -> None:
    """Its processes and mounts go with it; what it made on disk goes when the next command heals."""
    sublab.scheme = "overlay"
    before = host_state(sublab.top)
    who: dict[str, Any] = {"user": sublab.uid, "group": sublab.gid, "extra_groups": []}
    env = sublab.env(HOME=os.fspath(sublab.top / "home"), XDG_DATA_HOME="", XDG_CACHE_HOME="")
    argv = sublab.argv("-p", "hang-1")
    with subprocess.Popen(
        argv, env=env, cwd=sublab.top, stderr=subprocess.PIPE, **who
    ) as child:  # its mounts are its own: what it writes shows in the upper directory
        try:
            wait_for(lambda: matches(sublab.pool, "build/*/upper/opt/local/hanging"), child)
        finally:
            child.kill()
    assert none_left(os.fspath(sublab.top)) == []
    assert host_state(sublab.top) == before
    assert sublab.leftovers(), "a clone, and its journal"
    assert {row["removed"] for row in sublab.heal()} == {True}
    assert sublab.leftovers() == []


def test_a_failing_package_leaves_nothing_there_either(sublab: UserLab) -> None:
    sublab.refused(12, "-p", "fail-1")
    sublab.refused(12, "-p", "leave-1,fail-2")


@pytest.mark.parametrize("broken", ["a package", "rsync"])
def test_the_shell_of_a_failed_build_in_a_user_namespace(broken: str, sublab: UserLab) -> None:
    tools = sublab.top / "tools"
    tools.mkdir(mode=0o755)
    if broken == "rsync":
        (tools / "rsync").write_text("#!/bin/sh\nexit 23\n")
        (tools / "rsync").chmod(0o755)
    home = {"HOME": os.fspath(sublab.top / "home"), "XDG_DATA_HOME": "", "XDG_CACHE_HOME": ""}
    env = sublab.env(TERM="xterm", BUILDSTEP_PLAIN="1", PATH=f"{tools}:{LOGIN_PATH}", **home)
    who: dict[str, Any] = {"user": sublab.uid, "group": sublab.gid, "extra_groups": []}
    argv = sublab.argv("-p", "fail-1", "--shell-on-failure")
    with at_a_terminal(argv, env, sublab.top, **who) as person:
        shown = person.sees("when you leave the shell", 60.0)
        assert ("A shell on the CI host" in shown) is (broken == "rsync"), shown
        person.seen = ""
        person.type("id -u; grep -c . /etc/passwd; echo do''ne\n")
        assert "0\r\n" in person.sees("done")
        person.type("exit\n")
        assert person.status() == (4 if broken == "rsync" else 12), person.seen
    assert sublab.leftovers() == []


def unnamed(lab: UserLab, *argv: str) -> list[str]:
    """A build's command line with the pool that nobody named."""
    words = lab.argv(*argv)
    at = words.index("--pool")
    del words[at : at + 2]
    return words


def test_every_command_of_a_user_finds_one_pool(sublab: UserLab) -> None:
    """With packages or without, listing, healing or asking: the pool is that of the rule."""
    folder = sublab.top / "home/.local/share/buildstep"
    uri = f"overlay:{folder}/overlay-subids"
    plain = sublab.run(unnamed(sublab))
    assert plain.status == 0, plain.stderr
    assert "note:" not in plain.stderr
    # What is read from standard input is there again in the namespace.
    text = (sublab.top / "m.json").read_text()
    buildstep = [sublab.python, "-P", "-m", "buildstep"]
    for argv, found in (
        (unnamed(sublab, "-m", "-", "--json", "--dry-run", "-p", "one-1"), f'"pool": "{uri}"'),
        ([*buildstep, "image", "list"], "base@0"),
        ([*buildstep, "cache", "size"], "blob"),
        ([*buildstep, "heal", "--json"], uri),
        ([*buildstep, "doctor", "-i", "scratch", "-m", "-", "proto"], f"{uri}: this user can be root"),
    ):
        done = sublab.run(argv, input=text)
        assert (done.status, found in done.stdout) == (0, True), (argv, done.stdout, done.stderr)
    built = sublab.run(unnamed(sublab, "--json", "-p", "one-1"))
    assert step(built.json, "import")["state"] == "reuse", "the build without packages imported it"
    assert os.listdir(folder) == ["overlay-subids"]


def test_a_pool_of_before_is_told_and_can_still_be_named(sublab: UserLab) -> None:
    older = sublab.top / "home/.local/share/buildstep/dir"
    # As a version made it that used a pool without a namespace wherever no packages were installed.
    make = f"from buildstep import pool; pool.open_pool('dir:{older}').make_pool()"
    assert sublab.run([sublab.python, "-P", "-c", make]).status == 0
    what = "is not used: it was made before this user had subordinate ids"
    fix = f"name it to use it: --pool dir:{older}; or remove it: rm -rf {older}"
    for argv in (("image", "list"), ("heal",)):
        assert f"the pool dir:{older} {what}; {fix}\n" in sublab.command(*argv).stderr, argv
    told = sublab.run(unnamed(sublab))
    assert told.status == 0, told.stderr
    assert f"the pool dir:{older} {what}; {fix}\n" in told.stderr
    asked = sublab.command("doctor", "--json").json["findings"]
    assert [(row["what"], row["fix"]) for row in asked if row["where"] == f"dir:{older}"] == [(what, fix)]
    named = sublab.command("image", "list", "--pool", f"dir:{older}")
    assert (named.status, named.stdout, named.stderr) == (0, "", "")
    done = sublab.refused(10, "--pool", f"dir:{older}", "-p", "one-1")
    assert "was made by a user without root" in done.stderr


def test_keep_in_a_user_namespace_means_the_numbers_on_the_agent(sublab: UserLab) -> None:
    """And a pool that is named is used as it was made, with packages or without."""
    rules: tuple[tuple[object, list[str]], ...] = (
        ({"opt/**": "33:44", "*": "keep"}, ["-p", "one-1"]),
        ("keep", []),
    )
    for owner, words in rules:
        sublab.manifest(build={"owner": owner})
        sublab.give()
        members = listing(sublab.built("-f", "tar", *words))
        assert members["etc/hello"][2:4] == (sublab.uid, sublab.gid), (owner, words)
        assert members["usr/lib/base/owned"][2:4] == (33, 44)


@pytest.mark.slow
def test_apt_works_in_a_user_namespace(sublab: UserLab) -> None:
    """A real Debian, a real package, with users and scripts of its own."""
    demand("mmdebstrap", "mirror")
    archive = sublab.top / "debian.tar"
    argv = ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-cf", os.fspath(archive), "-C", os.fspath(debian_root()), "."]  # fmt: skip
    subprocess.run(argv, check=True)
    os.chown(archive, sublab.uid, sublab.gid)
    (sublab.proto / "srv").mkdir()
    (sublab.proto / "srv/run").write_text("x")
    users = [{"name": "app", "uid": 990, "groups": ["crontab"]}, {"name": "bob", "uid": 1500}]
    build = {"users": users, "owner": {"srv": "app:www-data"}, "modes": {"srv/run": "0750"},
             "units": {"disable": ["cron.service"]}}  # fmt: skip
    sublab.manifest(build=build)
    sublab.give()
    result = sublab.built("-i", f"tar:{archive}", "-p", "cron", "-f", "tar")
    members = listing(result)
    name = next(path for path in members if path.endswith("usr/bin/crontab"))
    assert members[name][1] == oct(0o2755), "set-gid crontab"
    assert members[name][3] != 0, "the package's own group"
    assert members[next(path for path in members if path.endswith("etc/shadow"))][3] == 42
    found = {path.removeprefix("./"): row for path, row in members.items()}
    assert found["srv/run"][1:4] == (oct(0o750), 990, 33)
    assert found["home/bob/.profile"][2:4] == (1500, 1500)
    assert "etc/systemd/system/multi-user.target.wants/cron.service" not in found
    sublab.manifest(build={"users": [{"name": "far", "uid": 4_000_000_000}]})
    assert "this user namespace has no owner" in sublab.refused(2, "-i", f"tar:{archive}", "-f", "tar").stderr
