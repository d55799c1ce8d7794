"""Accounts in the tables of an image, by text alone; the integration tests compare with useradd."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep.errors import SandboxError, SpecError, UsageError
from buildstep.rootfs import accounts
from buildstep.rootfs.account_tables import Tables, lost
from buildstep.rootfs.accounts import Made, Request
from buildstep.spec.accounts import Group, User
from buildstep.system.root import Root


@pytest.fixture
def image(tmp_path: Path) -> Root:
    top = tmp_path / "image"
    (top / "etc/skel/.d").mkdir(parents=True)
    (top / "etc/skel/.d/x").write_text("x")
    (top / "etc/skel/.link").symlink_to(".d/x")
    (top / "usr/sbin").mkdir(parents=True)
    (top / "usr/sbin/nologin").touch(0o755)
    (top / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/bash\nwww:x:33:33:www:/var/www:/usr/sbin/nologin\n+::::::\n"
    )
    (top / "etc/group").write_text("root:x:0:\nwww:x:33:\nadm:x:4:\n")
    (top / "etc/shadow").write_text("root:*:1:0:99999:7:::\nwww:*:1:0:99999:7:::\n")
    (top / "etc/gshadow").write_text("root:*::\nwww:*::\nadm:*::\n")
    for name in ("shadow", "gshadow"):
        (top / "etc" / name).chmod(0o640)
    (top / "etc/login.defs").write_text("#x\nUMASK 027 # y\nPASS_MAX_DAYS\t99999\nPASS_MIN_DAYS 0\n")
    return Root(top)


def made(image: Root, asked: Request) -> Made:
    return accounts.make(asked, image, "the base")


def request(*users: User, groups: tuple[Group, ...] = (), packages: bool = False) -> Request:
    return Request(users=users, groups=groups, packages=packages, epoch=1_700_000_000, owners=False)


def rows(image: Root, table: str) -> list[str]:
    return (image.path / "etc" / table).read_text().splitlines()


def test_a_daemon_and_a_person(image: Root) -> None:
    app = User(name="app", uid=990, home="/srv/app", groups=("www",), comment="App")
    done = made(image, request(app, User(name="bob", uid=1500), groups=(Group(name="extra", gid=977),)))
    assert rows(image, "passwd")[2:] == [
        "app:x:990:990:App:/srv/app:/usr/sbin/nologin", "bob:x:1500:1500::/home/bob:/bin/sh", "+::::::",
    ]  # fmt: skip
    assert rows(image, "group")[1:] == [
        "www:x:33:app",
        "adm:x:4:",
        "extra:x:977:",
        "app:x:990:",
        "bob:x:1500:",
    ]
    assert rows(image, "gshadow")[1:] == ["www:*::app", "adm:*::", "extra:!::", "app:!::", "bob:!::"]
    assert rows(image, "shadow")[2:] == ["app:!:19675::::::", "bob:!:19675:0:99999::::"]
    home = image.path / "home/bob"
    assert home.stat().st_mode & 0o7777 == 0o750
    assert (home / ".d/x").read_text() == "x"
    assert os.readlink(home / ".link") == ".d/x"
    assert done.owners["/home"] == (0, 0)
    assert {done.owners[f"/home/bob{name}"] for name in ("", "/.d", "/.d/x", "/.link")} == {(1500, 1500)}
    assert not (image.path / "srv").exists(), "a daemon's home is the proto directory's"
    assert [path.name for path in (image.path / "etc").iterdir() if path.name.startswith(".")] == []
    assert (image.path / "etc/shadow").stat().st_mode & 0o7777 == 0o640


def test_twice_is_once(image: Root) -> None:
    asked = request(User(name="app", uid=990, groups=("www",)), groups=(Group(name="g", gid=5),))
    made(image, asked)
    before = {name: rows(image, name) for name in ("passwd", "group", "shadow", "gshadow")}
    stamp = (image.path / "etc/passwd").stat().st_ino
    made(image, asked)
    assert {name: rows(image, name) for name in before} == before
    assert (image.path / "etc/passwd").stat().st_ino == stamp


def test_an_account_that_is_there_gets_what_is_asked_for(image: Root) -> None:
    made(image, request(User(name="www", uid=33, shell="/bin/sh", groups=("adm",))))
    assert rows(image, "passwd")[1] == "www:x:33:33:www:/var/www:/bin/sh"
    assert rows(image, "group")[1:] == ["www:x:33:", "adm:x:4:www"]
    assert rows(image, "shadow")[1] == "www:*:1:0:99999:7:::"


def test_first_groups(image: Root) -> None:
    users = (
        User(name="a", uid=901, group="adm"),
        User(name="b", uid=902, gid=33),
        User(name="c", uid=903, gid=77),
        User(name="d", uid=904),
        User(name="e", uid=905, group="d"),
    )
    made(image, request(*users, groups=(Group(name="d", gid=66, members=("www",)),)))
    assert [row.split(":")[3] for row in rows(image, "passwd")[2:-1]] == ["4", "33", "77", "66", "66"]
    assert rows(image, "group")[3:] == ["d:x:66:www", "c:x:77:"]


def test_no_tables_at_all(tmp_path: Path) -> None:
    made(Root(tmp_path), request(User(name="app", uid=990)))
    assert (tmp_path / "etc/passwd").read_text() == "app:!:990:990::/nonexistent:/usr/sbin/nologin\n"
    assert (tmp_path / "etc/group").read_text() == "app:x:990:\n"
    assert not (tmp_path / "etc/shadow").exists()


def test_without_a_time_there_is_no_day_of_the_last_change(image: Root) -> None:
    made(image, Request(users=(User(name="app", uid=990),), owners=False))
    assert rows(image, "shadow")[-1] == "app:!:::::::"


def test_all_conflicts_are_told_before_anything_is_changed(image: Root) -> None:
    users = (
        User(name="www", uid=34),
        User(name="app", uid=33),
        User(name="x", uid=4),
        User(name="y", uid=991, group="none", groups=("ww",)),
    )
    groups = (Group(name="adm", gid=5), Group(name="new", gid=33, members=("ww",)))
    before = rows(image, "passwd")
    with pytest.raises(SpecError) as caught:
        made(image, request(*users, groups=groups))
    found = {fault.where: str(fault) for fault in caught.value.faults}
    assert found.keys() == {
        *("$.build.groups[0].gid", "$.build.groups[1].gid", "$.build.groups[1].members[0]"),
        *("$.build.users[0].uid", "$.build.users[1].uid", "$.build.users[2].uid"),
        *("$.build.users[3].group", "$.build.users[3].groups[0]"),
    }
    assert "the base has the user www with 33, not 34" in found["$.build.users[0].uid"]
    assert "33 is the number of the user www in the base" in found["$.build.users[1].uid"]
    assert "4 is the number of the group adm in the base" in found["$.build.users[2].uid"]
    assert 'did you mean "www"?' in found["$.build.users[3].groups[0]"]
    assert rows(image, "passwd") == before


def test_groups_of_packages_are_waited_for(image: Root) -> None:
    asked = request(User(name="app", uid=990, groups=("redis", "www")), packages=True)
    assert made(image, asked).waiting == ("redis",)
    with pytest.raises(SpecError, match="accounts: 1 fault") as caught:
        accounts.join(asked, image)
    assert "$.build.users[0].groups[0]: there is no group redis" in caught.value.detail
    with (image.path / "etc/group").open("a") as table:
        table.write("redis:x:101:\n")
    accounts.join(asked, image)
    assert rows(image, "group")[-1] == "redis:x:101:app"


def test_a_table_behind_a_link_stays_behind_it(image: Root) -> None:
    (image.path / "etc/passwd").rename(image.path / "etc/real")
    (image.path / "etc/passwd").symlink_to("/etc/real")
    made(image, request(User(name="app", uid=990)))
    assert os.readlink(image.path / "etc/passwd") == "/etc/real"
    assert "app:x:990" in (image.path / "etc/real").read_text()
    assert Tables.read(image).number(Tables.read(image).passwd, "app") == 990


def test_tables_that_are_no_files(image: Root) -> None:
    (image.path / "etc/passwd").unlink()
    (image.path / "etc/passwd").symlink_to("nowhere")
    made(image, request(User(name="app", uid=990)))
    assert not (image.path / "etc/passwd").is_symlink()
    assert (image.path / "etc/passwd").stat().st_mode & 0o7777 == 0o644
    (image.path / "etc/group").unlink()
    (image.path / "etc/group").mkdir()
    with pytest.raises(SandboxError, match="/etc/group in the image is not a regular file"):
        made(image, request(User(name="other", uid=991)))


def test_a_home_whose_way_is_no_directory(image: Root) -> None:
    with pytest.raises(UsageError, match="/etc/shadow in the image is no directory"):
        made(image, request(User(name="app", uid=1990, home="/etc/shadow/x/y")))


def test_a_home_that_is_there_stays_as_it_is(image: Root) -> None:
    (image.path / "srv/app").mkdir(parents=True)
    (image.path / "srv").rename(image.path / "var-srv")
    (image.path / "srv").symlink_to("/var-srv")
    assert made(image, request(User(name="app", uid=1990, home="/srv/app"))).owners == {}
    done = made(image, request(User(name="new", uid=1991, home="/srv/new")))
    assert (image.path / "var-srv/new/.d/x").exists(), "links are followed inside the image"
    assert done.owners["/var-srv/new/.d/x"] == (1991, 1991)
    done = made(image, request(User(name="top", uid=1992, home="/top")))
    assert done.owners["/top"] == (1992, 1992)


def test_what_a_table_drops() -> None:
    before = b"root:x:0:\nwww:x:33:app,bob\nadm:x:4:\n# x:y\n+:::\n"
    assert lost("group", before, b"root:x:0:\nwww:x:34:bob\n") == [
        "adm", "www (its number 33 becomes 34)", "app in www",
    ]  # fmt: skip
    assert lost("shadow", b"root:*:\napp:!:\n", b"root:x:\n") == ["app"]
    assert lost("group", before, before + b"more:x:9:\n") == []
