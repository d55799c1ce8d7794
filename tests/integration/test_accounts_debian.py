"""Accounts in a real Debian are those that its own tools make, and its own tools find nothing wrong with them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from buildstep.rootfs import accounts
from buildstep.rootfs.accounts import Request
from buildstep.spec.accounts import Group, User
from buildstep.system.root import Root
from tests.integration.conftest import Clones
from tests.integration.repository import make_repository
from tests.integration.yard import Yard, forget_outputs

T = TypeVar("T")
Private = Callable[[Callable[[], T]], T]

EPOCH = "1700000000"
TABLES = ("passwd", "group", "shadow", "gshadow")
ASKED = Request(
    users=(
        User(name="app", uid=990, home="/srv/app", comment="The app", groups=("www-data", "extra"),
             shell="/usr/sbin/nologin"),
        User(name="bob", uid=1500, shell="/bin/bash"),
        User(name="svc", uid=991, group="extra", home="/var/lib/svc", create_home=True, shell="/bin/sh"),
        User(name="ten", uid=2000, gid=33, home="/srv/deep/er/ten"),
        User(name="uno", uid=992, gid=888, home="/nonexistent", shell="/usr/sbin/nologin"),
    ),
    groups=(Group(name="extra", gid=977, members=("www-data",)),),
    epoch=int(EPOCH),
)  # fmt: skip
COMMANDS = (
    "groupadd --gid 977 extra",
    "usermod --append --groups extra www-data",
    "useradd --system --uid 990 --user-group --home-dir /srv/app --comment 'The app' --shell /usr/sbin/nologin app",
    "useradd --uid 1500 --user-group --create-home --shell /bin/bash bob",
    "useradd --system --uid 991 --gid extra --home-dir /var/lib/svc --create-home --shell /bin/sh svc",
    "mkdir -p /srv/deep/er",
    "useradd --uid 2000 --gid 33 --home-dir /srv/deep/er/ten --create-home ten",
    "groupadd --gid 888 uno",
    "useradd --system --uid 992 --gid 888 --home-dir /nonexistent --shell /usr/sbin/nologin uno",
    "usermod --append --groups www-data,extra app",
)


def run(root: Path, command: str) -> str:
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SOURCE_DATE_EPOCH": EPOCH, "LC_ALL": "C"}
    done = subprocess.run(
        ["chroot", os.fspath(root), "/bin/sh", "-c", command],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def tables(root: Path) -> dict[str, list[str]]:
    return {name: sorted((root / "etc" / name).read_text().splitlines()) for name in TABLES}


def modes(root: Path) -> dict[str, tuple[str, int, int]]:
    found = {}
    for top in ("home", "srv", "var/lib/svc", *(f"etc/{name}" for name in TABLES)):
        for path in (root / top, *(root / top).rglob("*")):
            info = path.lstat()
            found[os.path.relpath(path, root)] = (stat.filemode(info.st_mode), info.st_uid, info.st_gid)
    return found


def members(rows: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same with the members of each group in order: useradd and usermod write them as they come."""
    return {
        name: [
            row if "group" not in name and "gshadow" not in name else
            ":".join([*row.split(":")[:3], ",".join(sorted(row.split(":")[3].split(",")))])
            for row in lines
        ]
        for name, lines in rows.items()
    }  # fmt: skip


def test_they_are_what_useradd_and_groupadd_make(debian: Clones, private: Private[None]) -> None:
    def job() -> None:
        with debian.clone("theirs") as theirs, debian.clone("ours") as ours:
            for command in COMMANDS:
                run(theirs, command)
            accounts.make(ASKED, Root(ours), "debian")
            assert members(tables(ours)) == members(tables(theirs))
            assert modes(ours) == modes(theirs)
            skel = (ours / "home/bob/.profile").stat()
            assert skel.st_mtime == (ours / "etc/skel/.profile").stat().st_mtime
            assert run(ours, "pwck -r; grpck -r") == run(theirs, "pwck -r; grpck -r")
            for name in ("passwd app", "group extra", "shadow app", "gshadow extra", "initgroups app"):
                assert run(ours, f"getent {name}") == run(theirs, f"getent {name}")
            assert run(ours, "id app") == run(theirs, "id app")
            assert "does not exist" not in run(ours, "su -s /bin/sh -c 'id -un' app")

    private(job)


def test_without_a_time_pwck_finds_nothing_wrong_either(debian: Clones, private: Private[None]) -> None:
    def job() -> None:
        with debian.clone() as root:
            asked = Request(users=(User(name="app", uid=990, home="/root"), User(name="bob", uid=1500)))
            accounts.make(asked, Root(root), "debian")
            run(root, "pwck -q -r && grpck -r && passwd -S app && passwd -S bob")
            run(root, "adduser --system --group more && useradd again")  # the tables are still those of tools
            run(root, "pwck -q -r; grpck -r; getent passwd app again more")

    private(job)


# -- beside packages that make accounts ----------------------------------------------------------------------

POSTINST = """#!/bin/sh
set -e
getent group queue >/dev/null || groupadd --system queue
getent passwd queue >/dev/null || useradd --system --gid queue --home-dir /var/lib/queue --shell /bin/false queue
"""


def content(place: Yard, name: str) -> list[str]:
    with tarfile.open(place.out / "hello-1.0.0.tar") as tar:
        found = tar.extractfile(name)
        assert found is not None
        return found.read().decode().splitlines()


@pytest.mark.parametrize("order", ["packages-first", "proto-first"])
def test_a_package_takes_the_next_number_and_its_group_is_joined(
    place: Yard, private: Private[None], tmp_path: Path, order: str
) -> None:
    repository = make_repository(place, tmp_path / "repository")
    repository.put("queue", "1.0", postinst=POSTINST)
    repository.put("plain", "1.0")
    place.formats = ("tar",)
    users = [{"name": "app", "uid": 999, "groups": ["queue", "www-data"]}]
    place.build = {
        "compression": "none",
        "packages": ["queue"],
        "order": order,
        "users": users,
        "owner": {"*": "app:www-data"},
    }

    def job() -> None:
        with repository.served():
            done = place.run()
            assert not done.error, done.error
            passwd, group = content(place, "etc/passwd"), content(place, "etc/group")
            app, queue = passwd[-2:]
            assert app == "app:x:999:999::/nonexistent:/usr/sbin/nologin"
            assert queue == "queue:x:998:998::/var/lib/queue:/bin/false"
            assert group[-1].startswith("queue:x:998:")
            assert group[-1].endswith(":app")
            assert any(row == "www-data:x:33:app" for row in group)
            assert content(place, "etc/gshadow")[-1] == "queue:!::app"
            forget_outputs(place.pool)
            again = place.run()
            assert (again.steps["accounts"][0], again.steps["packages"][0]) == ("reuse", "reuse")
            assert again.same == done.same
            if order == "proto-first":
                return
            # Who packages are not known to, and their accounts with them, is told when they are there.
            (place.proto / "etc").mkdir()
            (place.proto / "etc/passwd").write_text("".join(f"{row}\n" for row in passwd[:-1]))
            assert "/etc/passwd: it drops queue;" in place.run().error
            shutil.rmtree(place.proto / "etc")
            # One package more, and the accounts that were there.
            place.build["packages"] = ["queue", "plain"]
            more = place.run()
            assert "extended" in more.steps["packages"][1]
            assert more.same == place.run(cache=False).same
            assert content(place, "etc/group")[-1] == group[-1]
            # Another number: nothing of before is used.
            place.build["users"] = [users[0] | {"uid": 997}]
            other = place.run()
            assert "users.app.uid: 999 -> 997" in other.steps["packages"][1]
            assert content(place, "etc/group")[-1] == "queue:x:996:app"
            place.build["users"] = [users[0] | {"groups": ["queue", "topic"]}]
            assert "there is no group topic, and no package brought it" in place.run().error

    private(job)


def test_the_number_of_a_package_can_be_given(place: Yard, private: Private[None], tmp_path: Path) -> None:
    repository = make_repository(place, tmp_path / "repository")
    repository.put("queue", "1.0", postinst=POSTINST)
    place.formats = ("tar",)
    place.build = {
        "compression": "none",
        "packages": ["queue"],
        "users": [{"name": "queue", "uid": 500, "home": "/var/lib/queue", "shell": "/bin/false"}],
    }

    def job() -> None:
        with repository.served():
            assert not place.run().error
            assert content(place, "etc/passwd")[-1] == "queue:x:500:500::/var/lib/queue:/bin/false"

    private(job)
