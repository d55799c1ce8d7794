"""Users that are not root: one without a name, and one with ids to hand out; and a Python that they may start."""

from __future__ import annotations

import pwd
import secrets
import subprocess
import sys
import sysconfig
from collections.abc import Iterator

import pytest

from tests.integration.conftest import demand
from tests.integration.support import REPOSITORY

UID = 54321
"""A user that is in no table."""

LOGIN_PATH = "/usr/bin:/bin"
"""What an ordinary user has, and a service: no sbin."""


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
