"""Users that are not root: one without a name, and one with ids to hand out; and a Python that they may start."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import demand
from tests.integration.support import REPOSITORY, Done, Lab, write_base

UID = 54321
"""A user that is in no table."""

LOGIN_PATH = "/usr/bin:/bin"
"""What an ordinary user has, and a service: no sbin."""


NO_MOUNTS = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")
"""As most containers start their root."""

_FORBID = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
NO_NAMESPACES = ("unshare", "--user", "--map-root-user", "sh", "-c", _FORBID, "sh")
"""And where such a root may not have a user namespace either."""


def usable_python() -> tuple[str, str]:
    """A Python that anybody may start, and where our requirements are."""
    packages = sysconfig.get_paths()["purelib"]
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for candidate in (sys.executable, f"/usr/bin/{version}"):
        argv = [candidate, "-P", "-c", "import click, sh"]
        env = {"PYTHONPATH": f"{REPOSITORY}:{packages}", "PATH": "/usr/bin:/bin"}
        try:
            done = subprocess.run(argv, user=UID, group=UID, extra_groups=[], env=env, capture_output=True, check=False, cwd="/")  # fmt: skip
        except PermissionError:
            continue
        if done.returncode == 0:
            return candidate, env["PYTHONPATH"]
    pytest.skip("no Python here that another user may start")


@pytest.fixture(scope="session")
def user() -> Iterator[pwd.struct_passwd]:
    """A user with a range of ids to hand out, for as long as the tests run."""
    with _made() as made:
        yield made


@pytest.fixture(scope="session")
def users() -> Iterator[tuple[pwd.struct_passwd, ...]]:
    """Two such users, each with a range of its own."""
    with _made() as one, _made() as two:
        yield one, two


@contextlib.contextmanager
def _made() -> Iterator[pwd.struct_passwd]:
    demand("root", "newuidmap", "useradd", "unshare")
    name = f"bs{secrets.token_hex(4)}"
    subprocess.run(
        ["useradd", "--no-create-home", "--shell", "/bin/sh", name], check=True, capture_output=True
    )
    try:
        start = 3_000_000 + secrets.randbelow(1000) * 65_536
        for flag in ("--add-subuids", "--add-subgids"):
            subprocess.run(
                ["usermod", flag, f"{start}-{start + 65_535}", name], check=True, capture_output=True
            )
        yield pwd.getpwnam(name)
    finally:
        subprocess.run(["userdel", name], check=False, capture_output=True)


@dataclass(kw_only=True)
class UserLab(Lab):
    """A place to build in that belongs to somebody who is not root."""

    uid: int
    gid: int

    def run(self, argv: list[str], *, env: Any = None, **popen: Any) -> Done:
        home = {
            "HOME": os.fspath(self.top / "home"),
            "XDG_DATA_HOME": "",
            "XDG_CACHE_HOME": "",
            "USER": "somebody",
        }
        popen = {"user": self.uid, "group": self.gid, "extra_groups": [], "umask": 0o077, **popen}
        return super().run(argv, env={**home, **(env or {})}, **popen)

    def give(self) -> None:
        """Make all of it the user's."""
        for folder, folders, files in os.walk(self.top):
            for name in [".", *folders, *files]:
                path = os.path.join(folder, name)
                info = os.lstat(path)
                os.chown(path, self.uid, self.gid, follow_symlinks=False)
                if not stat.S_ISLNK(info.st_mode):
                    os.chmod(path, stat.S_IMODE(info.st_mode))


def devices(tar: tarfile.TarFile) -> None:
    """What an ordinary user cannot make, and still ships."""
    for name, kind, major, minor in (
        ("dev/null", tarfile.CHRTYPE, 1, 3),
        ("dev/loop0", tarfile.BLKTYPE, 7, 0),
    ):
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.devmajor, member.devminor = kind, 0o660, major, minor
        member.gid = 6
        tar.addfile(member)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("root", "namespaces", "busybox", "rsync")
    return write_base(tmp_path_factory.mktemp("base") / "base.tar", devices)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others may enter, which pytest's are not."""
    top = Path(tempfile.mkdtemp(prefix="buildstep-test-"))
    top.chmod(0o755)
    yield top
    shutil.rmtree(top)
