"""`build.users`, `build.groups`, `build.modes`: accounts with fixed numbers in real builds, on every route."""

from __future__ import annotations

import json
import os
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import demand
from tests.integration.support import Lab, host_state, step, write_base

USERS: list[dict[str, Any]] = [
    {"name": "app", "uid": 990, "home": "/srv/app", "groups": ["www"]},
    {"name": "bob", "uid": 1500},
]
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
TAR = ("-f", "tar", "-c", "none")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("root", "namespaces", "busybox", "rsync")

    def su(tar: tarfile.TarFile) -> None:
        link = tarfile.TarInfo("usr/bin/su")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)

    return write_base(tmp_path_factory.mktemp("base") / "base.tar", su)


@pytest.fixture(params=["overlay", "dir"])
def lab(request: pytest.FixtureRequest, tmp_path: Path, base: Path) -> Lab:
    made = Lab(top=tmp_path, base=base, scheme=request.param)
    (made.proto / "srv/app").mkdir(parents=True)
    (made.proto / "srv/app/run").write_text("#!/bin/sh\n")
    return made


@pytest.fixture
def overlay(tmp_path: Path, base: Path) -> Lab:
    return Lab(top=tmp_path, base=base)


def tree(built: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Mode and owner of every path of the first file."""
    with tarfile.open(built["files"][0]["path"]) as tar:
        return {member.name.removeprefix("./"): (member.mode, member.uid, member.gid) for member in tar}


def text(built: dict[str, Any], name: str) -> str:
    with tarfile.open(built["files"][0]["path"]) as tar:
        found = tar.extractfile(name)
        assert found is not None
        return found.read().decode()


def states(built: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["state"] for row in built["steps"]}


def test_owners_by_name_and_a_home(lab: Lab) -> None:
    lab.manifest(build={"users": USERS, "owner": {"srv/app": "app:www", "*": "root:root"}})
    before = host_state(lab.top)
    built = lab.built(*TAR, env=EPOCH)
    assert host_state(lab.top) == before
    found = tree(built)
    assert found["srv/app/run"][1:] == (990, 44)
    assert found["home/bob"][1:] == (1500, 1500)
    assert text(built, "etc/passwd").splitlines()[2:] == [
        "app:!:990:990::/srv/app:/bin/false", "bob:!:1500:1500::/home/bob:/bin/sh",
    ]  # fmt: skip
    assert text(built, "etc/group").splitlines()[1:] == [
        "www:x:44:app",
        "adm:x:4:",
        "app:x:990:",
        "bob:x:1500:",
    ]
    assert step(built, "accounts")["reason"] == "user app 990, user bob 1500"
    assert lab.leftovers() == []
    again = lab.built(*TAR, env=EPOCH)
    assert set(states(again).values()) == {"reuse"}
    assert again["tree_digest"] == built["tree_digest"]
    anew = lab.built(*TAR, "--no-cache", env=EPOCH)
    assert anew["tree_digest"] == built["tree_digest"]
    users = [USERS[0] | {"uid": 991}, USERS[1]]
    lab.manifest(build={"users": users, "owner": {"srv/app": "app:www", "*": "root:root"}})
    other = lab.built(*TAR, env=EPOCH)
    assert states(other)["accounts"] == "run"
    assert tree(other)["srv/app/run"][1:] == (991, 44)


@pytest.mark.parametrize("order", ["packages-first", "proto-first"])
def test_packages_come_after_and_the_layer_has_the_accounts(overlay: Lab, order: str) -> None:
    lab, build = overlay, {"users": USERS, "packages": ["one-1"], "order": order}
    lab.manifest(build=build)
    built = lab.built(*TAR, env=EPOCH)
    assert states(built)["accounts"] == "run"
    again = lab.built(*TAR, "--no-cache", env=EPOCH)
    assert again["tree_digest"] == built["tree_digest"]
    if order == "packages-first":
        (lab.proto / "etc/hello").write_text("other\n")
    lab.manifest(build=build | {"motd": True, "source_repo": "x"})
    other = lab.built(*TAR, env=EPOCH)
    assert (states(other)["accounts"], states(other)["packages"]) == ("reuse", "reuse")
    assert text(other, "etc/passwd") == text(built, "etc/passwd")
    lab.manifest(build=build | {"users": [USERS[0] | {"uid": 991}], "motd": True, "source_repo": "x"})
    third = lab.built(*TAR, env=EPOCH)
    assert states(third)["packages"] == "run"
    assert "users" in step(third, "packages")["reason"]
    assert "app:!:991:" in text(third, "etc/passwd")
    assert lab.leftovers() == []


def test_conflicts_are_told_before_anything(overlay: Lab) -> None:
    users = [{"name": "www", "uid": 34}, {"name": "x", "uid": 990, "groups": ["wwww"]}]
    overlay.manifest(build={"users": users})
    for _ in range(2):  # the base is imported first, and is there then
        told = overlay.refused(2, *TAR).stderr
        assert "accounts: 2 faults" in told
        assert "has the user www with 33, not 34" in told
        assert 'has no group wwww (did you mean "www"?)' in told


def test_a_group_that_no_package_brings(overlay: Lab) -> None:
    overlay.manifest(build={"users": [{"name": "x", "uid": 990, "groups": ["redis"]}], "packages": ["one-1"]})
    assert "there is no group redis, and no package brought it" in overlay.refused(2, *TAR).stderr


def test_a_proto_directory_that_drops_accounts_is_told(overlay: Lab) -> None:
    lab, build = overlay, {"users": USERS}
    lab.manifest(build=build)
    (lab.proto / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nbob:x:7:7:::\n")
    for _ in range(2):
        told = lab.refused(2).stderr
        assert "/etc/passwd: it drops www, app, bob (its number 1500 becomes 7)" in told
        assert "--replace '/etc/passwd'" in told
    lab.manifest(build=build | {"replace": ["/etc/passwd"]})
    built = lab.built(*TAR)
    assert text(built, "etc/passwd").startswith("root:x:0:0:root:/root:/bin/sh\nbob:x:7:")
    lab.manifest(build=build)
    whole = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:44:::\napp:x:990:990:::\nbob:x:1500:1500:::\n"
    (lab.proto / "etc/passwd").write_text(whole)
    assert text(lab.built(*TAR), "etc/passwd") == whole


def test_another_table_is_no_content_update(overlay: Lab) -> None:
    lab = overlay
    whole = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:44:::\n"
    (lab.proto / "etc/passwd").write_text(whole)
    big = lab.proto / "srv/big"
    big.mkdir(parents=True)
    for number in range(80):
        (big / f"{number}").write_bytes(f"{number}\n".encode().ljust(1 << 20, b"x"))
    lab.built()
    (big / "3").write_text("other")
    assert states(lab.built())["clone"] == "reuse", "only content changed"
    (lab.proto / "etc/passwd").write_text(whole.replace("www", "web"))
    assert "it drops www" in lab.refused(2).stderr
    (lab.proto / "etc/passwd").write_text(whole + "more:x:9:9:::\n")
    assert states(lab.built())["clone"] == "run"


def test_the_record_has_the_step(overlay: Lab) -> None:
    overlay.manifest(build={"groups": [{"name": "g", "gid": 77, "members": ["www"]}]})
    built = overlay.built(*TAR)
    record = json.loads(Path(built["record"]).read_text())
    assert [row["name"] for row in record["steps"]][:3] == ["import", "clone", "accounts"]
    assert "g:x:77:www" in text(built, "etc/group")


ANY = 0xFFFFFFFF
"""The id of an entry of an ACL that has none."""
MODES = {"srv/app/run": "0750", "srv": "D0711,F0640", "etc/*": "go-r"}


def modes_of(lab: Lab, built: dict[str, Any]) -> dict[str, int]:
    paths = ("srv", "srv/app", "srv/app/run", "srv/app/data", "srv/app/link", "etc", "etc/hello")
    found = tree(built)
    return {path: found[path][0] for path in paths}


def test_modes_are_the_same_on_every_way_into_the_image(lab: Lab) -> None:
    (lab.proto / "srv/app/data").write_text("x")
    (lab.proto / "srv/app/link").symlink_to("run")
    (lab.proto / "srv/app/acl").write_text("x")
    os.link(lab.proto / "srv/app/acl", lab.proto / "srv/app/twin")
    rows = ((0x01, 6, ANY), (0x02, 6, 33), (0x04, 4, ANY), (0x10, 6, ANY), (0x20, 0, ANY))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)
    os.setxattr(lab.proto / "srv/app/acl", "system.posix_acl_access", acl)
    build = {"modes": MODES, "owner": {"srv": "33:www", "*": "root:root"}}
    lab.manifest(build=build)
    built = lab.built(*TAR, env=EPOCH)
    assert modes_of(lab, built) == {
        "srv": 0o711, "srv/app": 0o711, "srv/app/run": 0o750, "srv/app/data": 0o640, "srv/app/link": 0o777,
        "etc": 0o755, "etc/hello": 0o600,
    }  # fmt: skip
    lab.manifest(build=build | {"exclude": ["*[[:digit:]]"]})  # which only rsync knows: it is copied
    copied = lab.built(*TAR, env=EPOCH)
    assert "copied" in step(copied, "sync")["reason"]
    assert copied["tree_digest"] == built["tree_digest"]
    lab.manifest(build=build)
    assert lab.built(*TAR, env=EPOCH)["tree_digest"] == built["tree_digest"]
    assert set(states(lab.built(*TAR, env=EPOCH)).values()) == {"reuse"}
    order = "proto-first" if lab.scheme == "overlay" else "packages-first"
    lab.manifest(build=build | {"packages": ["one-1"], "order": order})
    assert modes_of(lab, lab.built(*TAR, env=EPOCH)) == modes_of(lab, built)
    assert lab.leftovers() == []


def test_a_command_runs_as_a_user_that_was_made(overlay: Lab) -> None:
    lab = overlay
    (lab.proto / "srv/app").mkdir(parents=True)
    (lab.proto / "srv/app/lock.json").write_text("{}")
    run = {
        "name": "deps",
        "argv": ["touch", "made"],
        "workdir": "/srv/app",
        "user": "app",
        "inputs": ["srv/app"],
    }
    lab.manifest(
        build={"users": [USERS[0]], "owner": {"srv/app": "app:app"}, "run": [run], "order": "packages-first"}
    )
    built = lab.built(*TAR, env=EPOCH)
    assert tree(built)["srv/app/made"][1:] == (990, 990)
    (lab.proto / "etc/hello").write_text("other")
    again = lab.built(*TAR, env=EPOCH)
    assert (states(again)["accounts"], states(again)["run:deps"]) == ("reuse", "reuse")
    assert text(again, "etc/group") == text(built, "etc/group")
    lab.manifest(
        build={"users": [USERS[0] | {"uid": 5}], "owner": {"srv/app": "app:app"}, "run": [run],
               "order": "packages-first"}
    )  # fmt: skip
    other = lab.built(*TAR, env=EPOCH)
    assert tree(other)["srv/app/made"][1:] == (5, 5)
    assert lab.leftovers() == []


def test_doctor_tells_the_same(overlay: Lab) -> None:
    lab = overlay
    lab.built(*TAR)
    lab.manifest(build={"image": f"tar:{lab.base}", "users": [{"name": "www", "uid": 34}]})
    (lab.proto / "etc/group").write_text("root:x:0:\n")
    argv = ("doctor", "-m", f"{lab.top}/m.json", "--pool", lab.uri, "--json", f"{lab.proto}")
    told = json.dumps(lab.command(*argv).json["findings"])
    assert "has the user www with 33, not 34" in told
    assert "it drops www, adm" in told
