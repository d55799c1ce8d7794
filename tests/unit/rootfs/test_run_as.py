"""Who a command runs as: by the image's own tables, with a program of the image."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.errors import SandboxError
from buildstep.rootfs.run_as import ROOT, account
from buildstep.system.root import Root

PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:990:991::/srv/app:/bin/sh\nbroken:x:a:b\nodd:x:5:5:::/bin/sh\n"
GROUP = "app:x:991:\nweb:x:33:x,app\nlog:x:4:app\n"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "etc").mkdir()
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/sbin").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return Root(tmp_path)


def program(root: Root, name: str, target: str = "") -> None:
    path = root.path / name
    if target:
        path.symlink_to(target)
    else:
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)


def test_numbers_groups_and_home_are_the_images_own(root: Root) -> None:
    app = account(root, "app")
    assert (app.uid, app.gid, app.groups) == (990, 991, (4, 33, 991))
    assert app.env == {"HOME": "/srv/app", "USER": "app", "LOGNAME": "app"}
    assert account(root, "990") == app
    assert account(root, "app:web").groups == ()
    assert account(root, "app:web").gid == 33
    assert account(root, "1234:5678").home == "/"
    assert account(root, "odd").home == "/"
    assert account(root, None) is account(root, "root") is account(root, "0") is ROOT


@pytest.mark.parametrize(
    ("who", "what"), [("nobody", "user nobody"), ("app:none", "group none"), ("broken", "user broken")]
)
def test_who_is_in_no_table_is_refused(root: Root, who: str, what: str) -> None:
    with pytest.raises(SandboxError, match=f"has no {what}"):
        account(root, who)


def test_a_program_of_the_image_changes_to_the_account(root: Root) -> None:
    app = account(root, "app")
    assert ROOT.argv(root, ["id"]) == ("id",)
    with pytest.raises(SandboxError, match="none of setpriv, chroot and su"):
        app.argv(root, ["id"])
    program(root, "usr/bin/busybox")
    program(root, "usr/bin/setpriv", "busybox")
    program(root, "usr/bin/su", "busybox")
    assert app.argv(root, ["id", "a b"]) == ("/usr/bin/su", "-s", "/bin/sh", "app", "-c", "exec id 'a b'")
    program(root, "usr/sbin/chroot")
    assert app.argv(root, ["id"]) == (
        "/usr/sbin/chroot",
        "--userspec=990:991",
        "--groups=4,33,991",
        "/",
        "id",
    )
    (root.path / "usr/bin/setpriv").unlink()
    program(root, "usr/bin/setpriv")
    assert app.argv(root, ["id"])[:5] == ("/usr/bin/setpriv", "--reuid", "990", "--regid", "991")
