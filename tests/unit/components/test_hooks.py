"""Hooks: what they are told, where they may write, and how they end."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest

from buildstep.components import hooks
from buildstep.components.hooks import Hook, run_hook
from buildstep.components.settings import HookOptions
from buildstep.components.stage import Stage, Stages
from buildstep.errors import CommandFailed
from buildstep.system.command_options import Reached
from buildstep.system.process import find
from tests.unit.components.componentdata import component

pytestmark = pytest.mark.commands("build-pre.sh", "bwrap")

PLAIN = HookOptions(sandbox=False)


def staged(tmp_path: Path, script: str) -> Stage:
    root = tmp_path / "repo"
    one = component(root, "one", {"build/build-pre.sh": f"#!/bin/sh\n{script}\n"})
    (one.path / "build/build-pre.sh").chmod(0o644)
    return Stages(tmp_path / "state", root).stage(one)


def hook(**more: object) -> Hook:
    return Hook(component="one", action="pre", file="build/build-pre.sh", **more)  # type: ignore[arg-type]


def run(stage: Stage, options: HookOptions = PLAIN, **more: object) -> list[str]:
    lines: list[str] = []
    run_hook(
        hook(images=["x", "y"], tag="v1", changed=["a b", "c"]), stage, options,
        environ={**os.environ, "SECRET_TOKEN": "s", "GIVEN": "g"},
        line=lambda text, *_: lines.append(text), **more,  # type: ignore[arg-type]
    )  # fmt: skip
    return lines


def test_d14_a_hook_is_told_its_component_tag_directories_and_changed_files(tmp_path: Path) -> None:
    stage = staged(tmp_path, "env; pwd; cat $BUILDSTEP_CHANGED_FILES; echo out > $BUILDSTEP_GENERATED_DIR/x")
    lines = run(stage, HookOptions(sandbox=False, environment=("GIVEN", "NONE")))
    told = dict(line.split("=", 1) for line in lines if "=" in line)
    assert {name for name in hooks.VARIABLES if name not in told} == set()
    assert (told["BUILDSTEP_IMAGES"], told["BUILDSTEP_TAG"], told["GIVEN"]) == ("x y", "v1", "g")
    assert "SECRET_TOKEN" not in told
    assert lines[-3:] == [os.fspath(stage.top), "a b", "c"]
    assert (stage.folder / "generated/x").read_text() == "out\n"


def test_d14_the_mode_of_the_source_stays_and_pais_way_in_works(tmp_path: Path) -> None:
    stage = staged(tmp_path, 'cd "$(dirname "$0")" && echo x > ../generated/y')
    run(stage)
    source = tmp_path / "repo/src/one/build/build-pre.sh"
    assert source.stat().st_mode & 0o777 == 0o644
    assert (stage.folder / "generated/y").exists()


def test_d14_a_hook_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    stage = staged(tmp_path, "sleep 60 & echo $!; sleep 60")
    lines: list[str] = []
    begin = time.monotonic()
    with pytest.raises(CommandFailed, match=r"the hook build/build-pre\.sh of one did not end within 0\.3 s"):
        run_hook(
            hook(), stage, HookOptions(sandbox=False, timeout=0.3), environ=os.environ,
            line=lambda text, *_: lines.append(text),
        )  # fmt: skip
    assert time.monotonic() - begin < 4
    end = time.monotonic() + 5
    while _is_alive(lines[0]) and time.monotonic() < end:
        time.sleep(0.01)  # it was killed, and a busy machine takes a moment to end it
    assert not _is_alive(lines[0])


def _is_alive(pid: str) -> bool:
    """Whether a process is there, and does not only wait to be collected by init."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text()
    return False


def test_a_failing_hook_names_itself_and_shows_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"the hook build/build-pre\.sh of one") as caught:
        run(staged(tmp_path, "echo no space; exit 3"))
    assert (caught.value.status, "no space" in caught.value.detail) == (3, True)


def test_a_hook_is_stopped_when_somebody_says_so(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="was stopped"):
        run(staged(tmp_path, "sleep 60"), watch=lambda: Reached("stop", "was stopped"))


@pytest.mark.skipif(find("bwrap") is None, reason="bubblewrap is not installed")
def test_a_sandboxed_hook_writes_to_its_stage_and_nowhere_else(tmp_path: Path) -> None:
    if not hooks.sandbox_works():
        pytest.skip("bubblewrap cannot make namespaces here")
    outside = tmp_path / "repo/src/one/made"
    stage = staged(
        tmp_path,
        f"pwd; echo x > /tmp/x && echo y > $BUILDSTEP_GENERATED_DIR/y; mkdir -p /var/tmp/buildstep-never && exit 9\n"
        f"touch {outside} 2>/dev/null; exit 0",
    )
    assert run(stage, HookOptions())[0] == os.fspath(stage.top)
    assert (stage.folder / "generated/y").exists()
    assert (stage.temporary / "x").exists()
    assert not outside.exists()
