"""What commands in an image get of the CI host's environment: no token (D18); and how they are started."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.errors import SandboxError
from buildstep.events import Bus
from buildstep.rootfs import sandbox
from buildstep.rootfs.sandbox import ChrootSandbox, SandboxOptions, command_env
from buildstep.system.root import Root


def test_d18_the_environment_is_built_not_inherited(tmp_path: Path) -> None:
    environ = {
        "AGENT_TOKEN": "secret",
        "HOME": "/home/ci",
        "PATH": "/opt/ci",
        "SOURCE_DATE_EPOCH": "1700000000",
    }
    env = command_env(Root(tmp_path), environ)
    assert env["HOME"] == "/root"
    assert "/opt/ci" not in env["PATH"]
    assert env["LC_ALL"] == "C"
    assert env["TERM"] == "dumb"
    assert env["SOURCE_DATE_EPOCH"] == "1700000000"
    assert "secret" not in env.values()


def test_the_locale_is_utf8_where_the_image_has_it(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/locale/C.utf8").mkdir(parents=True)
    assert command_env(Root(tmp_path), {})["LC_ALL"] == "C.UTF-8"


def test_a_command_needs_a_name(tmp_path: Path) -> None:
    inside = ChrootSandbox(Root(tmp_path), Bus(), {}, SandboxOptions())
    for argv in ([], [""]):
        with pytest.raises(SandboxError, match="no command"):
            inside.wrapped(argv, None)


def test_what_is_no_directory_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link", "absent"):
        entering = sandbox.enter(tmp_path / name, bus=Bus(), environ={})
        with pytest.raises(SandboxError, match="not a directory"), entering:
            pass
