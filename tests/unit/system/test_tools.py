"""Programs are found where root has them, whoever starts them, and what is missing is named with its package."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.errors import ToolMissing
from buildstep.system import process, tools

PACKAGE = Path(__file__).parents[3] / "buildstep"

ILLUMOS_ONLY = {"zonename", "sysinfo", "umount", "chroot"}
"""Started on illumos only, where they are the system's own."""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (None, process.SAFE_PATH),
        ("", process.SAFE_PATH),
        ("/usr/bin:/bin", "/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin"),
        (
            "/home/me/bin::/usr/sbin:",
            "/home/me/bin:/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin:/sbin:/bin",
        ),
        (process.SAFE_PATH, process.SAFE_PATH),
    ],
)
def test_the_folders_that_a_users_path_lacks_come_after_its_own(path: str | None, expected: str) -> None:
    environ = {} if path is None else {"PATH": path}
    assert process.search_path(environ) == expected
    assert process.base_env(environ)["PATH"] == expected


def test_what_lies_in_the_current_directory_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-tool").write_text("#!/bin/sh\n")
    (tmp_path / "a-tool").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for path in ("", ":", "/usr/bin:"):
        monkeypatch.setenv("PATH", path)
        assert process.find("a-tool") is None


@pytest.mark.commands
@pytest.mark.parametrize("path", ["/usr/bin:/bin", ""])
def test_a_program_that_a_program_starts_is_found_as_well(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As mmdebstrap starts chroot, and unshare newuidmap."""
    if not os.access("/usr/sbin/chroot", os.X_OK):
        pytest.skip("chroot is not in /usr/sbin here")
    monkeypatch.setenv("PATH", path)
    argv = ["sh", "-c", "command -v chroot"]
    assert process.query(argv).stdout == "/usr/sbin/chroot"
    assert process.run(argv, limits=process.Limits(answer=100)).stdout == "/usr/sbin/chroot"


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find", lambda *_, **__: None)
    with pytest.raises(ToolMissing) as caught:
        process.which("nsenter")
    assert caught.value.message == "the program nsenter is not installed"
    assert caught.value.hint == f"install it: {tools.getting('nsenter')}"
    assert tools.getting("nsenter", system="linux") == "apt-get install util-linux"
    assert tools.getting("rsync", system="sunos5") == "pkgin install rsync"
    assert "part of SmartOS" in tools.getting("zfs", system="sunos5")
    assert tools.getting("other", system="linux") == "install the package that has other"


def test_every_program_that_we_start_has_a_package() -> None:
    found = dict(_started())
    assert {"rsync", "bwrap", "nsenter", "btrfs", "zfs", "git", "mmdebstrap"} <= set(found)
    unknown = {name: place for name, place in found.items() if name not in {*tools.DEBIAN, *ILLUMOS_ONLY}}
    assert unknown == {}


def _started() -> Iterator[tuple[str, str]]:
    """The programs that are named in a call of `process`, each with a place where it is."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr not in ("run", "query", "spawn", "which", "find"):
                continue
            if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "process"):
                continue
            first = node.args[0]
            if isinstance(first, ast.List):
                first = first.elts[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value, f"{path.name}:{node.lineno}"
