"""Builds that are stopped, politely or not: no process, no mount, and after `heal` no file of theirs."""

from __future__ import annotations

import glob
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from buildstep.build import steps
from tests.integration.support import (
    LIMIT,
    Lab,
    descendants,
    end,
    host_state,
    matches,
    none_left,
    ours,
    step,
    wait_for,
)

STEPS = tuple(step.name for step in steps.STEPS)
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SIGNALS = (*HANDLED, signal.SIGKILL)

DRIVER = """\
# The command line as it is, but at one step it stops and says so.
import os, sys, time
from pathlib import Path
from typing import Any
from buildstep.cli import main, session
from buildstep.events import StepFinished, StepStarted

kind = StepFinished if os.environ.get("STOP_AFTER") else StepStarted

def view_for(*_, **__):
    def view(event):
        if isinstance(event, kind) and event.step == os.environ["STOP_AT"]:
            Path(os.environ["READY"]).touch()
            time.sleep(600)
    return view

session.view_for = view_for
sys.exit(main())
"""


@pytest.fixture
def overlay(base: Path, tmp_path: Path) -> Iterator[Lab]:
    yield from watched(Lab(top=tmp_path, base=base))


@pytest.fixture
def plain(base: Path, tmp_path: Path) -> Iterator[Lab]:
    yield from watched(Lab(top=tmp_path, base=base, scheme="dir"))


@pytest.fixture(params=["overlay", "dir"])
def lab(request: pytest.FixtureRequest, base: Path, tmp_path: Path) -> Iterator[Lab]:
    yield from watched(Lab(top=tmp_path, base=base, scheme=request.param))


def watched(lab: Lab) -> Iterator[Lab]:
    """The lab; afterwards no process of it is left and the agent is as it was."""
    (lab.top / "driver.py").write_text(DRIVER)
    before = host_state(lab.top)
    yield lab
    assert none_left(os.fspath(lab.top)) == []
    assert host_state(lab.top) == before


@contextmanager
def started(lab: Lab, argv: list[str], **env: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        argv, env=lab.env(**env), cwd=lab.top, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield child
    finally:
        end(child)


@contextmanager
def stopped_at(lab: Lab, name: str, *arguments: str, after: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A build that has come to a step, or to its end, and waits there."""
    ready = lab.top / "ready"
    argv = [lab.python, "-P", os.fspath(lab.top / "driver.py"), *lab.argv("--no-cache", *arguments)[4:]]
    env = {"READY": os.fspath(ready), "STOP_AT": name, "STOP_AFTER": "yes" if after else ""}
    with started(lab, argv, **env) as child:
        wait_for(ready.exists, child)
        yield child
    ready.unlink()


@contextmanager
def hanging(lab: Lab, package: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A build in the middle of a package's script."""
    with started(lab, lab.argv("--no-cache", "-p", package, *arguments)) as child:
        wait_for(lambda: matches(lab.pool, "build/*/*/opt/local/hanging"), child)
        yield child


def finish(child: subprocess.Popen[str], signum: signal.Signals) -> str:
    """Send a signal and see that the status is the one that belongs to it; returns what it said."""
    child.send_signal(signum)
    out, err = child.communicate(timeout=LIMIT)
    expected = -signum if signum == signal.SIGKILL else 128 + signum
    assert child.returncode == expected, err
    assert out == ""
    assert "Traceback" not in err, err
    return err


def check_nothing_left(lab: Lab, signum: signal.Signals) -> None:
    assert none_left(os.fspath(lab.top)) == []
    if signum in HANDLED:
        assert lab.leftovers() == [], "a build that could undo its work has to"
        return
    lab.heal()
    assert lab.leftovers() == []


ASKED_FOR: dict[str, dict[str, Any]] = {
    "accounts": {"groups": [{"name": "g", "gid": 77}]},
    "run": {"run": ["true"]},
    "units": {"units": {"mask": ["x.service"]}},
    "trust": {"trust": True},
}
"""The steps that are only there where they are asked for, and what asks for each."""
ALL = ("-p", "one-1", "-M", "-S", "http://x", "-f", "oci", "-f", "tar")


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
@pytest.mark.parametrize("name", STEPS)
def test_d05_a_signal_at_each_step(overlay: Lab, name: str, signum: signal.Signals) -> None:
    check_stop(overlay, name, signum)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
@pytest.mark.parametrize("name", STEPS)
def test_d05_a_signal_at_each_step_in_a_plain_pool(plain: Lab, name: str, signum: signal.Signals) -> None:
    check_stop(plain, name, signum)


def check_stop(lab: Lab, name: str, signum: signal.Signals) -> None:
    if name in ASKED_FOR:
        lab.manifest(build=ASKED_FOR[name])
    before = host_state(lab.top)
    with stopped_at(lab, name.replace("run", "run:1"), *ALL) as child:
        assert host_state(lab.top) == before, "the agent sees no mount of a build"
        finish(child, signum)
    assert lab.outputs() == {}
    check_nothing_left(lab, signum)


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_d05_a_signal_while_a_command_runs(overlay: Lab, signum: signal.Signals) -> None:
    overlay.manifest(build={"run": ["sleep 600 & touch /opt/hanging; exec sleep 600"]})
    with started(overlay, overlay.argv()) as child:
        hanging = f"{overlay.pool}/build/**/opt/hanging"
        wait_for(lambda: glob.glob(hanging, recursive=True))
        finish(child, signum)
    assert overlay.outputs() == {}
    check_nothing_left(overlay, signum)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
@pytest.mark.parametrize("cache", [True, False])
def test_a_signal_while_a_command_has_a_secret_and_a_cache(
    lab: Lab, signum: signal.Signals, cache: bool
) -> None:
    (lab.top / "secret").write_text("very-secret-word\n")
    row = {
        "name": "hang", "script": "cp ~/.npmrc /srv/c/x; rm /srv/c/x; touch /srv/c/here /opt/hanging; sleep 600",
        "cache": ["/srv/c"], "secrets": ["npmrc"],
    }  # fmt: skip
    lab.manifest(build={"secrets": {"npmrc": {"file": "secret"}}, "run": [row]})
    before = host_state(lab.top)
    with started(lab, lab.argv(*([] if cache else ["--no-cache"]))) as child:
        wait_for(lambda: matches(lab.pool, "build/*/*/opt/hanging"), child)
        assert host_state(lab.top) == before
        finish(child, signum)
    check_nothing_left(lab, signum)
    assert [
        path for path in lab.pool.rglob("*") if path.is_file() and b"very-secret" in path.read_bytes()
    ] == []
    row["script"] = "ls /srv/c > /opt/seen"
    lab.manifest(build={"secrets": {"npmrc": {"file": "secret"}}, "run": [row]})
    lab.built()
    assert matches(lab.pool, "state/step-caches/work/*") == []
    assert lab.leftovers() == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
@pytest.mark.parametrize("name", ["import", "clone", "packages", "snapshot", "emit", "destroy"])
def test_d05_a_signal_at_the_end_of_a_step(lab: Lab, name: str, signum: signal.Signals) -> None:
    """What the step acquired is there, and what follows has not begun."""
    with stopped_at(lab, name, *ALL, after=True) as child:
        finish(child, signum)
    assert lab.outputs() == {}
    check_nothing_left(lab, signum)
    lab.built(*ALL)


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
@pytest.mark.parametrize("package", ["hang-1", "daemon-1"])
def test_d05_a_signal_inside_a_running_package_script(lab: Lab, package: str, signum: signal.Signals) -> None:
    before = host_state(lab.top)
    with hanging(lab, package) as child:
        assert host_state(lab.top) == before
        finish(child, signum)
    check_nothing_left(lab, signum)


def test_d05_a_daemon_that_a_script_left_holds_nothing(lab: Lab) -> None:
    """It stays in the root's /opt with its output closed: the step ends it and the build goes on."""
    begin = time.monotonic()
    result = lab.built("-p", "leave-1")
    assert time.monotonic() - begin < 20
    assert step(result, "packages")["state"] == "run"
    assert lab.leftovers() == []


@pytest.mark.parametrize("who", ["the first process inside", "all that is inside"])
def test_d05_the_kernel_kills_what_is_inside(lab: Lab, who: str) -> None:
    """The agent's memory runs out: the parent, which stays outside, tells of it."""
    with hanging(lab, "daemon-1") as child:
        inside = descendants(child.pid)
        assert len(inside) > 3
        for pid in inside[:1] if who == "the first process inside" else reversed(inside):
            with suppress(ProcessLookupError):  # it went with its parent
                os.kill(pid, signal.SIGKILL)
        child.communicate(timeout=LIMIT)
        assert child.returncode in (12, 137)
    check_nothing_left(lab, signal.SIGKILL)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
@pytest.mark.parametrize("form", ["oci", "tar"])
def test_d26_a_signal_while_the_image_is_written(lab: Lab, form: str, signum: signal.Signals) -> None:
    (lab.proto / "big").write_bytes(os.urandom(40 << 20))
    compression = "xz" if form == "tar" else "gzip"
    argv = lab.argv("--no-cache", "-f", form, "-c", compression)
    with started(lab, argv) as child:
        wait_for(lambda: matches(lab.out, ".*.part"), child)
        assert not any(path.name[0] != "." for path in lab.out.iterdir()), "no name is given before the end"
        finish(child, signum)
    assert lab.outputs() == {}
    check_nothing_left(lab, signum)
    assert list(lab.out.iterdir()) == []


def test_earlier_outputs_outlive_a_killed_build(lab: Lab) -> None:
    lab.built()
    before = lab.outputs()
    (lab.proto / "big").write_bytes(os.urandom(40 << 20))
    with started(lab, lab.argv("-f", "oci", "-f", "tar", "-c", "gzip")) as child:
        wait_for(lambda: matches(lab.out, ".*.part"), child)
        finish(child, signal.SIGKILL)
    lab.heal()
    assert lab.outputs() == before
    assert lab.leftovers() == []


def test_a_second_signal_does_not_break_the_unwinding(lab: Lab) -> None:
    with hanging(lab, "daemon-1") as child:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            child.send_signal(signum)
            time.sleep(0.01)
        _, err = child.communicate(timeout=LIMIT)
    assert child.returncode == 128 + signal.SIGTERM, err
    assert lab.leftovers() == []


def test_a_signal_is_never_lost_however_early_it_comes(lab: Lab) -> None:
    """Process 1 of a namespace ignores what it has no handler for: there must be no moment without one."""
    ready = lab.top / "ready"
    argv = [lab.python, "-P", os.fspath(lab.top / "driver.py"), *lab.argv()[4:]]
    for number in range(24):
        with started(lab, argv, READY=os.fspath(ready), STOP_AT="import", STOP_AFTER="") as child:
            time.sleep(0.05 + number * 0.012)
            child.send_signal(signal.SIGTERM)
            child.communicate(timeout=10)
        # Python itself is ended while it starts.
        assert child.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
        ready.unlink(missing_ok=True)
    check_nothing_left(lab, signal.SIGTERM)


def test_d22_heal_leaves_a_live_build_alone(lab: Lab) -> None:
    with hanging(lab, "hang-1") as child:
        there = sorted((lab.pool / "build").iterdir())
        assert lab.heal() == []
        assert json.loads(lab.command("heal", "--pool", lab.uri, "--json", "--dry-run").stdout)["left"] == []
        assert sorted((lab.pool / "build").iterdir()) == there
        # Another build of the same pool heals it as well, and is not kept waiting.
        other = Lab(top=lab.top / "other", base=lab.base)
        other.built("--pool", lab.uri)
        assert child.poll() is None
        assert sorted((lab.pool / "build").iterdir()) == there
        assert ours(os.fspath(lab.top)), "it still runs"
        finish(child, signal.SIGTERM)
    assert lab.leftovers() == []


def test_a_dead_build_is_healed_beside_a_live_one_of_the_same_name(lab: Lab) -> None:
    with hanging(lab, "hang-1", "-o", os.fspath(lab.top / "elsewhere")) as live:
        there = set((lab.pool / "build").iterdir())
        with stopped_at(lab, "snapshot") as child:
            finish(child, signal.SIGKILL)
        wait_for(lambda: len(set((lab.pool / "build").iterdir())) == len(there) + 1)
        (left,) = [item for item in lab.heal() if item["kind"] == "dataset"]
        assert left["removed"]
        assert set((lab.pool / "build").iterdir()) == there
        finish(live, signal.SIGTERM)
    assert lab.leftovers() == []


def test_the_next_build_heals_by_itself_and_says_so(lab: Lab) -> None:
    with hanging(lab, "hang-1") as child:
        finish(child, signal.SIGKILL)
    assert lab.leftovers()
    done = lab.build()
    assert done.status == 0, done.stderr
    assert "a build that died" in done.stderr
    assert lab.leftovers() == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
def test_what_is_kept_on_failure_is_not_kept_mounted(lab: Lab, signum: signal.Signals) -> None:
    with hanging(lab, "daemon-1", "--keep-on-failure") as child:
        finish(child, signum)
    assert none_left(os.fspath(lab.top)) == []
    lab.heal()
    kept = list((lab.pool / "build").iterdir())
    # Only a build that could still speak has kept something on purpose.
    assert len(kept) == (1 if signum == signal.SIGTERM else 0)
    lab.heal("--kept")
    assert list((lab.pool / "build").iterdir()) == []


@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no-cache"])
def test_a_secret_in_a_cache_goes_with_the_build_that_was_killed(overlay: Lab, cache: bool) -> None:
    lab, canary = overlay, "canary-4471-of-the-cache"
    script = "cat /run/secrets/key > /srv/c/left; : > /srv/c/ready; exec sleep 600"
    row = {"name": "r", "script": script, "cache": ["/srv/c"], "secrets": ["key"]}
    lab.manifest(build={"secrets": {"key": {"env": "CI_KEY"}}, "run": [row]})
    with started(lab, lab.argv(*([] if cache else ["--no-cache"])), CI_KEY=canary) as child:
        wait_for(lambda: list((lab.pool / "state").rglob("ready")), child)
        finish(child, signal.SIGKILL)
    check_nothing_left(lab, signal.SIGKILL)
    files = [path for path in lab.top.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in files if canary.encode() in path.read_bytes()] == []


def test_a_killed_build_gives_back_its_locks(lab: Lab) -> None:
    """The next build of the same name and layer does not wait for it."""
    flags = ("-p", "hang-1", "--order", "packages-first")
    with started(lab, lab.argv(*flags)) as child:
        wait_for(lambda: matches(lab.pool, "build/*/*/opt/local/hanging"), child)
        finish(child, signal.SIGKILL)
    lab.manifest(build={"timeouts": {"command": 1}})
    begin = time.monotonic()
    assert lab.build(*flags).status == 12
    assert time.monotonic() - begin < 15


def test_many_builds_killed_at_random_leave_a_pool_that_works(lab: Lab) -> None:
    delays = [0.12 + 0.023 * number for number in range(18)]
    children = []
    for number, delay in enumerate(delays):
        other = Lab(top=lab.top / str(number), base=lab.base)
        argv = other.argv(
            "--pool", lab.uri, "-p", "one-1", "--order", "packages-first", "-f", "oci", "-f", "tar"
        )
        child = subprocess.Popen(argv, env=other.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        children.append((child, other))
    for child, _ in children:
        child.wait(timeout=20)
    assert none_left(os.fspath(lab.top)) == []
    lab.heal()
    assert lab.leftovers() == []
    for _, other in children:
        assert other.leftovers() == []
    last = Lab(top=lab.top / "last", base=lab.base)
    result = last.built("--pool", lab.uri, "-p", "one-1", "--order", "packages-first")
    verified = lab.command("image", "verify", "--pool", lab.uri, "base@0")
    assert verified.status == 0, verified.stderr
    fresh = Lab(top=lab.top / "fresh", base=lab.base)
    assert fresh.built("-p", "one-1")["tree_digest"] == result["tree_digest"]
