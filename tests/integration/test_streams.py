"""Every command with a standard stream that is closed, full, or that nobody reads: the job is done all the same."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from buildstep import cli
from buildstep.build.steps import STEPS
from buildstep.cli.lazy_group import LazyGroup
from buildstep.trust.vulnerabilities import directory
from tests.integration.conftest import demand
from tests.integration.support import LIMIT, Lab, end

FULL, GONE, CLOSED = "full", "gone", "closed"
READER_LEFT, DISK = 141, 6


LOADED = (
    "buildstep.cli.session", "buildstep.cli.make_state", "buildstep.build.execute", "buildstep.build.doctor",
    "buildstep.build.kept", "buildstep.images.importing", "buildstep.images.publish", "buildstep.images.gc",
    "buildstep.images.sources.scratch", "buildstep.net.jenkins", "buildstep.report.parse", "buildstep.report.markdown",
    "buildstep.emit.oci", "buildstep.spec.load", "buildstep.pool.overlay", "buildstep.images.publishers.directory",
    *(f"buildstep.build.steps.{row.module}" for row in STEPS),
)  # fmt: skip


class Ended(NamedTuple):
    status: int
    out: str
    err: str


def call(argv: list[str], cwd: Path, **streams: str) -> Ended:
    """Run a command in a fork of this process, whose modules are loaded; streams: what is the matter with which."""
    read, write = {}, {}
    for name in ("stdout", "stderr"):
        read[name], write[name] = os.pipe()
    child = os.fork()
    if child == 0:
        status = 255
        with contextlib.suppress(BaseException):
            os.chdir(cwd)
            os.environ["BUILDSTEP_POOL"] = f"overlay:{cwd}/pool"
            os.environ["BUILDSTEP_SOURCES"] = "none"
            os.environ.pop("JENKINS_URL", None)
            os.environ["VISUAL"] = "true"
            for name in ("stdout", "stderr"):
                os.close(read[name])
            _arrange(streams, write)
            status = cli.main(argv)
        os._exit(status)
    for fd in write.values():
        os.close(fd)
    texts = []
    for name in ("stdout", "stderr"):  # neither is more than a pipe holds
        with os.fdopen(read[name], "rb") as stream:
            texts.append(stream.read().decode())
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *texts)


def _arrange(streams: dict[str, str], write: dict[str, int]) -> None:
    """Make the standard streams of this process what Python makes of them when it starts."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        match streams.get(name):
            case "closed":
                os.close(number)
                setattr(sys, name, None)
                continue
            case "full":
                fd = os.open("/dev/full", os.O_WRONLY)
            case "gone":
                left, fd = os.pipe()
                os.close(left)
            case _:
                fd = os.open(os.devnull, os.O_RDONLY) if name == "stdin" else write[name]
        os.dup2(fd, number)
        mode = "r" if name == "stdin" else "w"
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an m.json, a proto directory, a pool and what a build made."""
    demand("root", "namespaces", "overlay", "busybox")
    for module in (*(row[0].partition(":")[0] for row in cli.COMMANDS.values()), *LOADED):
        importlib.import_module(module)  # once, and not in each fork
    top = tmp_path_factory.mktemp("streams")
    (top / "proto").mkdir()
    (top / "proto/file").write_text("x")
    build = {"image": "scratch", "output_dir": "out"}
    (top / "m.json").write_text(
        json.dumps({"name": "hello", "version": "1", "os": "linux", "type": "other", "build": build})
    )
    (top / "advisories.json").write_text('{"zlib": {"CVE-2024-1": {"releases": {}}}}')
    directory.import_files([top / "advisories.json"], top / "known", updated=None, note=print)
    (top / "graph/src/web/build").mkdir(parents=True)
    (top / "graph/src/tool/build").mkdir(parents=True)
    (top / "graph/src/tool/build/build-pre.sh").write_text("#!/bin/sh\necho made > generated-by-tool\n")
    (top / "graph/src/web/build/web.dockerfile").write_text("FROM scratch")
    (top / "s.hrd").write_text("name   = hello\n")
    waiver = 'match = ["*"]\nreason = "a test"\nuntil = 2099-01-01\n'
    (top / "trust.toml").write_text(f"format = 1\n[[except]]\n{waiver}")
    (top / "m.toml").write_text('[hosts]\n"web-*" = ["web"]\n')
    recipe = {"name": "r", "version": "1", "image": "scratch", "outputs": ["/opt"],
              "sources": [{"path": "proto", "dest": "/opt"}]}  # fmt: skip
    (top / "recipe.json").write_text(json.dumps(recipe))
    state = ["--state", "state"]
    assert call(["make", "begin", *state, "--proto", "proto"], top).status == 0
    made = call(["build", "-m", "m.json", "--json", "proto"], top)
    assert made.status == 0, made
    (top / "state/result.part").write_text(made.out)
    assert call(["make", "finish", *state], top).status == 0
    assert call(["cache", "export", "kept.tar"], top).status == 0
    assert call(["keygen", "k"], top).status == 0
    assert call(["files", "put", "proto", "--store", "store", "--ref", "hello"], top).status == 0
    with tarfile.open(top / "web.tar.gz", "w:gz") as archive:
        archive.add(top / "proto", "proto")
    assert call(["assets", "push", "web", "1.0", "web.tar.gz", "--store", "assets"], top).status == 0
    for name in ("db", "web"):
        (top / "services/servicetemplates" / name).mkdir(parents=True)
        (top / "services/servicetemplates" / name / "service.hrd").touch()
        assert call(["service", "create", "--root", "services", name], top).status == 0
    assert call(["files", "export", "hello", "ays", "--store", "store", "--to", "ays3"], top).status == 0
    return top


COMMANDS: dict[str, list[str]] = {
    "--help": [],
    "--version": [],
    "build": ["-m", "m.json", "--no-cache", "proto"],
    "check": ["scratch", "-m", "m.json"],
    "run": ["scratch", "--", "true"],
    "lock": ["m.json", "proto"],
    "image import": ["scratch"],
    "image list": [],
    "image show": ["scratch"],
    "image diff": ["scratch", "scratch"],
    "image verify": [],
    "image outdated": ["scratch"],
    "image delete": ["no-such-image"],
    "image gc": ["--unused", "10"],
    "image publish": ["out/hello-1.imgmanifest", "dir:there"],
    "image copy": ["oci:out/hello-1.oci.tar", "oci:copied"],
    "files put": ["proto", "--store", "store", "--ref", "hello"],
    "files list": ["hello", "--store", "store"],
    "files get": ["hello", "got", "--update", "--store", "store"],
    "files mount": ["no-such-ref", "mounted", "--store", "store"],
    "files umount": ["proto"],
    "files diff": ["store:hello", "tree:proto", "--store", "store"],
    "files verify": ["--store", "store"],
    "files gc": ["--store", "store"],
    "files stats": ["--store", "store"],
    "files build": ["recipe.json", "--store", "store"],
    "files remove": ["no-such-ref", "--store", "store"],
    "files import": ["hello", "--store", "store", "--objects", "ays", "--ref", "again"],
    "files export": ["hello", "ays", "--store", "store", "--to", "ays3"],
    "assets push": ["web", "1.0", "web.tar.gz", "--store", "assets"],
    "assets list": ["--store", "assets"],
    "assets show": ["web", "1.0", "--store", "assets"],
    "assets pull": ["web", "--store", "assets", "--install-dir", "srv", "--activate"],
    "assets rollback": ["web", "--to", "1.0", "--install-dir", "srv"],
    "assets status": ["--store", "assets", "--register", "m.toml", "--install-dir", "srv"],
    "assets systemd": [],
    "assets verify": ["--store", "assets"],
    "assets delete": ["web", "9.9", "--store", "assets"],
    "assets index": ["--store", "assets"],
    "components list": ["--root", "graph"],
    "components plan": ["--root", "graph"],
    "components why": ["web", "--root", "graph"],
    "components build": ["--root", "graph", "--state", "graph-state", "-s", "tool"],
    "components push": ["--root", "graph", "--state", "graph-state", "-i", "no-such-image"],
    "components work": ["0" * 64, "--handover", "store"],
    "map add": ["web-*", "web", "--register", "m.toml"],
    "map remove": ["no-such-pattern", "--all", "--register", "m.toml"],
    "map list": ["--register", "m.toml"],
    "map resolve": ["web-1", "--register", "m.toml"],
    "map check": ["--register", "m.toml"],
    "map edit": ["--yes", "--register", "m.toml"],
    "service create": ["--root", "services", "web", "--dry-run"],
    "service list": ["--root", "services"],
    "service show": ["--root", "services", "web"],
    "service check": ["--root", "services"],
    "service consume": ["--root", "services", "web", "db"],
    "service update": ["--root", "services"],
    "service remove": ["--root", "services", "no-such-service"],
    "service build": ["--root", "services", "no-such-template"],
    "service bake": ["--root", "services", "no-such-service", "-m", "{}"],
    "service templates": ["--root", "services"],
    "hrd get": ["s.hrd"],
    "hrd check": ["s.hrd"],
    "hrd convert": ["s.hrd", "--to", "json"],
    "hrd fmt": ["s.hrd", "--check"],
    "hrd set": ["s.hrd", "name", "web"],
    "hrd grammar": [],
    "service plan": ["--root", "services"],
    "service apply": ["--root", "services", "--dry-run"],
    "service install": ["--root", "services", "web", "--dry-run"],
    "service start": ["--root", "services", "web"],
    "service stop": ["--root", "services", "web", "--dry-run"],
    "service restart": ["--root", "services", "web"],
    "service halt": ["--root", "services", "web", "--dry-run"],
    "service uninstall": ["--root", "services", "web", "--dry-run"],
    "service purge": ["--root", "services", "web", "--dry-run"],
    "service test": ["--root", "services", "web"],
    "service export": ["--root", "services", "web"],
    "service import": ["--root", "services", "web", "20260101T000000Z"],
    "service enable": ["--root", "services", "web"],
    "service disable": ["--root", "services", "web", "--dry-run"],
    "service status": ["--root", "services"],
    "service monitor": ["--root", "services"],
    "service systemd": ["--root", "services"],
    "service cleanup": ["--root", "services"],
    "service log": ["--root", "services", "web"],
    "cache list": [],
    "cache size": [],
    "cache verify": [],
    "cache prune": ["--older-than", "100"],
    "cache export": ["pool.tar"],
    "cache import": ["kept.tar"],
    "cache warm": ["m.json", "--shared-cache", "dir:shared"],
    "cache doctor": ["--shared-cache", "dir:shared"],
    "jenkins agents": [],
    "jenkins trigger": ["job"],
    "jenkins watch": ["job"],
    "jenkins fetch": ["job"],
    "make stamp": [],
    "make stale": ["--state", "other", "--proto", "proto"],
    "make begin": ["--state", "state", "--proto", "proto"],
    "make finish": ["--state", "state"],
    "make publishable": ["--state", "state"],
    "make clean": ["--state", "other", "--output", "nowhere"],
    "make name": ["--manifest", "m.json"],
    "why": ["out/hello-1.buildrecord.json"],
    "doctor": ["--json"],
    "report": ["out/hello-1.buildrecord.json", "-f", "markdown"],
    "verify": ["m.json", "--policy", "trust.toml"],
    "sbom": ["out/hello-1.buildrecord.json"],
    "scan": ["out/hello-1.buildrecord.json", "--db", "known"],
    "sign": ["out/hello-1.oci.tar", "--key", "k.key"],
    "keygen": ["k"],
    "prove": ["-m", "m.json", "proto", "--vary", "none"],
    "rebuild": ["out/hello-1.buildrecord.json", "-o", "again"],
    "heal": [],
    "schema": [],
    "completion": ["bash"],
}

DOES = {
    "build",
    "lock",
    "prove",
    "rebuild",
    "assets push",
    "assets pull",
    "assets verify",
    "assets index",
    "files put",
    "files get",
    "files verify",
    "files gc",
    "files build",
    "files import",
    "files export",
    "components build",
    "components push",
    "map add",
    "service consume",
    "service update",
    "hrd set",
    "service enable",
    "service monitor",
    "service cleanup",
    "image import",
    "image gc",
    "image publish",
    "image copy",
    "cache verify",
    "cache prune",
    "cache export",
    "cache import",
    "cache warm",
    "sign",
    "keygen",
    "heal",
}
"""Commands that do something, and are done whether or not anybody reads what they say of it."""

MATTERS = (
    ("stdin", CLOSED), ("stdout", CLOSED), ("stderr", CLOSED), ("stdout", GONE), ("stderr", GONE), ("stdout", FULL),
)  # fmt: skip


def test_every_command_is_tried() -> None:
    def names(group: click.Group, before: str = "") -> Iterator[str]:
        for name in group.rows if isinstance(group, LazyGroup) else group.commands:
            found = group.get_command(click.Context(group), name)
            if isinstance(found, click.Group):
                yield from names(found, f"{name} ")
            else:
                yield before + name

    assert {name for name in COMMANDS if name[0] != "-"} == set(names(cli.root))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_stream_that_is_lost_changes_no_more_than_it_must(name: str, place: Path) -> None:
    argv = [*name.split(), *COMMANDS[name]]
    good = call(argv, place)
    assert "Traceback" not in good.err
    # What doctor tries takes long.
    for stream, matter in MATTERS[2:4] if name == "doctor" else MATTERS:
        shutil.rmtree(place / "there", ignore_errors=True)  # published anew
        done = call(argv, place, **{stream: matter})
        expected = good.status
        if good.out and name not in DOES and (stream, matter) == ("stdout", GONE):
            expected = READER_LEFT
        if good.out and matter == FULL:
            expected = DISK
        assert done.status == expected, (stream, matter, done, good)
        for word in ("Traceback", "a bug", "Exception ignored", "Error"):
            assert word not in done.err, (stream, matter, done)
        if expected == READER_LEFT:  # notes that come before what is printed are no complaint
            assert [row for row in done.err.splitlines() if not row.startswith("note: ")] == [], (
                "it ends quietly"
            )
        if expected == DISK:
            assert "cannot use /dev/full: No space left on device" in done.err
        if stream != "stdout":
            assert bool(done.out) == bool(good.out), (stream, matter, done)


def test_what_a_command_does_it_does_to_all_though_nobody_reads_it(place: Path) -> None:
    """The first one's line cannot be printed."""
    targets = [f"dir:{place}/first", f"dir:{place}/second"]
    done = call(["image", "publish", "out/hello-1.imgmanifest", *targets], place, stdout=GONE)
    assert done.status == 0, done
    assert list((place / "second").iterdir())
    assert done.err.count("nobody reads standard output") == 1
    full = call(["build", "-m", "m.json", "--no-cache", "proto"], place, stdout=FULL)
    assert "the image was built: out/hello-1.imgmanifest" in full.err


def test_a_device_or_a_pipe_is_written_to_and_not_replaced(place: Path) -> None:
    """As root could replace even /dev/null."""
    device, pipe = place / "device", place / "pipe"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 7))  # as /dev/full
    os.mkfifo(pipe)
    read = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    argv = ["report", "out/hello-1.buildrecord.json", "-f", "badge", "-o"]
    assert call([*argv, "pipe"], place).status == 0
    assert os.read(read, 1 << 16).startswith(b"<svg")
    os.close(read)
    done = call([*argv, "device"], place)
    assert done.status == DISK, done
    assert stat.S_ISCHR(device.lstat().st_mode)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert call([*argv, "/dev/stdout"], place).out.startswith("<svg")
    assert Path("/dev/stdout").is_symlink()
    device.unlink()


def test_a_log_that_cannot_be_opened_is_told_before_the_build(place: Path) -> None:
    done = call(["build", "-m", "m.json", "--log-json", "no/such/place", "proto"], place)
    assert done.status == 2, done
    assert "--log-json no/such/place cannot be written: No such file or directory" in done.err


@pytest.mark.parametrize("command", ["build", "doctor"])
def test_a_manifest_that_cannot_be_read_from_stdin(command: str, place: Path) -> None:
    done = call([command, "-m", "-", "proto"], place, stdin=CLOSED)
    assert done.status == 2, done
    assert "no m.json can be read from standard input: it is closed" in done.err + done.out


# -- as a shell starts a build --------------------------------------------------------------------------------


def notes(lab: Lab) -> str:
    (log,) = lab.out.glob("*.events.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return "\n".join(row["text"] for row in rows if row["event"] == "note")


@pytest.mark.parametrize(
    ("redirection", "note"),
    [
        ("<&- >&- 2>&-", "standard error is closed"),
        (">&-", "standard output is closed"),
        ("2>/dev/full", "standard error: No space left on device"),
        ("-v -p env-1 2>&1 | head -1", "standard error: Broken pipe"),
        ("-v -p env-1 2>&1 | true", "standard error: Broken pipe"),
        ("--log-json /dev/stdout | head -1", "a log of this build ends here: "),
    ],
)
def test_the_log_tells_that_the_console_was_lost(redirection: str, note: str, lab: Lab) -> None:
    words = " ".join(f"'{word}'" for word in lab.argv())
    done = lab.run(["/bin/bash", "-c", f"set -o pipefail; {words} {redirection}"])
    assert done.status == 0, done
    assert {Path(name).suffix for name in lab.outputs()} == {".tar", ".imgmanifest", ".json", ".jsonl"}
    assert lab.leftovers() == []
    assert note in notes(lab)
    assert "Traceback" not in done.stderr


def test_a_terminal_that_hangs_up_ends_no_build(lab: Lab) -> None:
    """As one does that a build was started from with `setsid`, or that a `screen` had."""
    master, slave = os.openpty()
    child = subprocess.Popen(
        [*lab.argv("-p", "env-1"), "-v"],
        env=lab.env(TERM="xterm"),
        cwd=lab.top,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        text=True,
    )
    os.close(slave)
    try:
        assert os.read(master, 1)
        os.close(master)
        child.wait(LIMIT)
        assert child.returncode == 0 or lab.outputs()
        assert "standard error: Input/output error" in notes(lab)
    finally:
        end(child)
