"""Checks of finished images: broken ones are stopped with a word about why, and good ones leave nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import demand
from tests.integration.support import (
    Done,
    Lab,
    descendants,
    end,
    host_state,
    none_left,
    ours,
    step,
    wait_for,
    write_base,
)

HTTPD = ["/usr/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/srv/www"]
STRICT = {"BUILDSTEP_CHECKS": ""}
"""Of the environment: as for everybody, where the other tests let pass what their trees are full of."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("root", "namespaces", "overlay", "busybox", "rsync")
    return write_base(tmp_path_factory.mktemp("base") / "base.tar")


@pytest.fixture(scope="module")
def shared(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A lab with a pool in which the base is."""
    return Lab(top=tmp_path_factory.mktemp("lab"), base=base, environ=STRICT)


@pytest.fixture
def lab(shared: Lab) -> Lab:
    """The same with an empty proto directory and no outputs."""
    for folder in (shared.proto, shared.out):
        shutil.rmtree(folder, ignore_errors=True)
    (shared.proto / "srv/www").mkdir(parents=True)
    (shared.proto / "srv/www/health").write_text("fine\n")
    return shared


def put(lab: Lab, name: str, text: str = "x\n", mode: int = 0o644) -> Path:
    path = lab.proto / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, newline="")
    path.chmod(mode)
    return path


def run_of(kind: str, **test: Any) -> dict[str, Any]:
    return {"checks": {kind: [test] if kind != "metadataTest" else test}, "oci": {"cmd": HTTPD}}


def command(*argv: str, **more: Any) -> dict[str, Any]:
    return run_of("commandTests", name="try", command=argv[0], args=list(argv[1:]), **more)


def listen(*cmd: str, **more: Any) -> dict[str, Any]:
    return {"checks": {"listen": [{"port": 8080, "timeout": 1, **more}]}, "oci": {"cmd": list(cmd or HTTPD)}}


BROKEN: dict[str, tuple[Callable[[Lab], object], Mapping[str, Any], str]] = {
    "a dangling link": (
        lambda lab: (lab.proto / "srv/l").symlink_to("gone"), {}, "dangling-link: /srv/l leads to gone"),
    "a script for nobody": (
        lambda lab: put(lab, "srv/run", "#!/usr/bin/perl\n", 0o755), {}, "shebang: /srv/run is a script for /usr/bin/perl"),
    "a script with the line ends of another system": (
        lambda lab: put(lab, "srv/run", "#!/bin/sh\r\n", 0o755), {}, "shebang: /srv/run has a carriage return"),
    "a program without its loader": (
        lambda lab: shutil.copy(os.path.realpath("/bin/ls"), lab.proto / "srv/ls"), {}, "library: /srv/ls needs /lib"),
    "a path of the CI host": (
        lambda lab: put(lab, "etc/conf", f"a\ndata = {lab.proto}/srv\n"), {}, "host-path: /etc/conf has a path of the CI host in line 2"),
    "a setuid program": (lambda lab: put(lab, "srv/x", mode=0o4755), {}, "setuid: /srv/x is setuid (runs as uid 0)"),
    "a program with capabilities": (
        lambda lab: os.setxattr(put(lab, "srv/x", mode=0o755), "security.capability", bytes.fromhex("0100000200200000" + "00" * 12)),
        {}, "capability: /srv/x has capabilities"),
    "a file that everybody can write": (
        lambda lab: put(lab, "srv/x", mode=0o666), {}, "world-writable: /srv/x can be written by everybody (mode 0666)"),
    "a tree over its budget": (
        lambda lab: put(lab, "srv/large", "x" * 3_000_000), {"checks": {"budget": "2M"}}, "budget: all files have"),
    "a wrong owner": (
        lambda lab: put(lab, "srv/x"),
        run_of("fileExistenceTests", name="own", path="/srv/x", uid=33), "file own: /srv/x belongs to uid 0, and 33 is expected"),
    "a file that is missing": (
        lambda lab: None, run_of("fileExistenceTests", name="there", path="/srv/x"), "file there: /srv/x is not in the image"),
    "a wrong content": (
        lambda lab: put(lab, "srv/x", "debug = on\n"),
        run_of("fileContentTests", name="off", path="/srv/x", excludedContents=["debug = on"]), "content off: /srv/x has a match of"),
    "a wrong configuration": (
        lambda lab: None, run_of("metadataTest", exposedPorts=["80"]), "metadata configuration: the port 80 is not declared"),
    "a command that fails": (
        lambda lab: None, command("sh", "-c", "echo why >&2; exit 7"), "command try: it exited with status 7, and 0 is expected; it printed 'why'"),
    "a command that prints something else": (
        lambda lab: None, command("echo", "one", expectedOutput=["two"]), "command try: standard output has no match of 'two': 'one'"),
    "a command that is not there": (lambda lab: None, command("nothing"), "command try: nothing cannot be started"),
    "a command that takes too long": (lambda lab: None, command("sleep", "600", timeout=1), "did not end within 1 s"),
    "a command that prints without end": (
        lambda lab: None, command("sh", "-c", "while :; do cat /usr/bin/busybox; done"), "command try: sh"),
    "a port that never opens": (
        lambda lab: None, listen("/bin/sleep", "600"), "listen port 8080: port 8080 did not answer within 1 s: nothing listens there"),
    "a service that ends": (
        lambda lab: None, listen("/bin/sh", "-c", "echo no database >&2; exit 3"),
        "listen port 8080: it exited with status 3 before it answered (port 8080: nothing listens there)"),
    "a service that answers otherwise": (
        lambda lab: None, listen(path="/gone"), "GET /gone on port 8080 answers 404, and 200 is expected"),
    "a service that says something else": (
        lambda lab: None, listen(path="/health", body="^ok$"), "the answer to GET /health on port 8080 has no match of '^ok$': 'fine\\n'"),
    "a service that is no program": (lambda lab: None, listen("/srv/serve"), "/srv/serve cannot be started"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken_images_are_stopped_with_the_file_and_the_rule(lab: Lab, what: str) -> None:
    breaks, build, message = BROKEN[what]
    breaks(lab)
    lab.manifest(build=build)
    before = host_state(lab.top)
    done = lab.refused(25)
    assert message in done.stderr
    assert done.stderr.count("Traceback") == 0
    assert not lab.out.is_dir() or lab.outputs() == {}
    assert lab.leftovers() == []
    assert host_state(lab.top) == before


def test_every_fault_is_told_at_once_and_each_can_be_allowed(lab: Lab) -> None:
    (lab.proto / "srv/l").symlink_to("gone")
    put(lab, "srv/x", mode=0o4777)
    lab.manifest(build=command("false"))
    done = lab.refused(25)
    assert "4 checks of the image failed" in done.stderr
    for name in ("dangling-link", "world-writable", "setuid", "command try"):
        assert f"\n{name}: " in done.stderr, name
    assert '"allow": {"dangling-link": ["/PATH"]}' in done.stderr
    allow = {"dangling-link": ["/srv/l"], "world-writable": ["/srv/*"], "setuid": ["/srv"]}
    lab.manifest(build={"allow": allow})
    assert step(lab.built(), "check")["state"] == "run"
    lab.manifest(
        build={
            "allow": {"setuid": ["/srv/x"]},
            "checks": {"rules": {"dangling-link": "warn", "world-writable": "off"}},
        }
    )
    record = json.loads(Path(lab.built()["record"]).read_text())
    results = {row["check"]: row["result"] for row in record["checks"]}
    assert results["dangling-link"] == "warned"
    assert results["setuid"] == "passed"
    assert "world-writable" not in results


GOOD: dict[str, Any] = {
    "oci": {"cmd": HTTPD, "env": {"A": "b"}, "workdir": "/srv/new", "expose": ["8080"], "labels": {"team": "web"}},
    "checks": {
        "schemaVersion": "2.0.0",
        "globalEnvVars": [{"key": "TWICE", "value": "$A$A"}],
        "commandTests": [
            {"name": "env", "setup": [["touch", "/var/made"]], "command": "sh",
             "args": ["-c", "env; pwd; id -u; ls /var/made; echo warn >&2"], "envVars": [{"key": "PATH", "value": "/x:$PATH"}],
             "expectedOutput": ["^A=b$", "^TWICE=bb$", "^PATH=/x:/usr/local/sbin", "^/srv/new$", "^0$", "^/var/made$"],
             "excludedOutput": ["BUILDSTEP", "TOKEN"], "expectedError": ["warn"]},
            {"name": "apart", "command": "ls", "args": ["/var/made"], "exitCode": 1},
        ],
        "fileExistenceTests": [
            {"name": "mode", "path": "/bin/busybox", "permissions": "-rwxr-xr-x", "uid": 0, "gid": 0, "isExecutableBy": "any"},
            {"name": "gone", "path": "/srv/made", "shouldExist": False},
            {"name": "go", "path": "/tmp", "permissions": "dtrwxrwxrwx"},
        ],
        "fileContentTests": [{"name": "os", "path": "/etc/os-release", "expectedContents": ["^ID=t.ny$"]}],
        "metadataTest": {
            "envVars": [{"key": "A", "value": "b"}, {"key": "PATH", "value": "/bin", "isRegex": True}],
            "unboundEnvVars": [{"key": "B"}], "labels": [{"key": "team", "value": "web"}], "cmd": HTTPD, "entrypoint": [],
            "exposedPorts": ["8080"], "unexposedPorts": ["80"], "workdir": "/srv/new", "user": "",
        },
        "listen": [
            {"name": "health", "port": 8080, "path": "/health", "body": "^fine$"},
            {"port": 9090, "command": ["/usr/bin/busybox", "nc", "-l", "-p", "9090"]},
        ],
    },
}  # fmt: skip


def test_a_good_image_passes_and_is_none_the_worse_for_it(lab: Lab, tmp_path: Path) -> None:
    lab.manifest(build={"oci": GOOD["oci"]})
    plain = lab.built("-f", "tar")
    lab.manifest(build=GOOD)
    before = host_state(lab.top)
    built = lab.built("-f", "tar")
    assert built["tree_digest"] == plain["tree_digest"], "what tests write is thrown away"
    assert lab.leftovers() == []
    assert host_state(lab.top) == before
    rows = json.loads(Path(built["record"]).read_text())["checks"]
    assert {row["result"] for row in rows} == {"passed"}
    assert [(row["group"], row["check"]) for row in rows if row["group"] != "rule"] == [
        ("file", "mode"), ("file", "gone"), ("file", "go"), ("content", "os"), ("metadata", "configuration"),
        ("command", "env"), ("command", "apart"), ("listen", "health"), ("listen", "port 9090"),
    ]  # fmt: skip
    junit = tmp_path / "report.xml"
    assert lab.command("report", built["record"], "-o", os.fspath(junit)).status == 0
    names = {
        case.get("name")
        for case in ET.parse(junit).iter("testcase")
        if case.get("classname") == "hello.check"
    }
    assert {"setuid", "command: env", "listen: health", "metadata: configuration"} <= names
    again = lab.built("-f", "tar")
    assert step(again, "check")["state"] == "reuse", "what is checked need not be checked again"
    changed = json.loads(json.dumps(GOOD))
    changed["checks"]["listen"][0]["body"] = "bad"
    lab.manifest(build=changed)
    assert "has no match of 'bad'" in lab.refused(25, "-f", "tar").stderr


GOSS = """#!/bin/sh
# Stands in for goss, which nobody packages: it says of each `file:` of its file whether it is there.
[ "$*" = "--gossfile /run/buildstep-goss/goss.yaml validate --format json" ] || exit 9
rows=
for path in $(sed -n 's/^  \\(.*\\):$/\\1/p' "$2"); do
    if [ -e "$path" ]; then good=true; else good=false; fi
    rows="$rows${rows:+,}{\\"successful\\": $good, \\"summary-line-compact\\": \\"File: $path: exists\\"}"
done
echo "{\\"results\\": [$rows], \\"summary\\": {}}"
"""


def test_files_of_goss_are_run_by_the_goss_of_this_host(lab: Lab, tmp_path: Path) -> None:
    (lab.top / "goss.yaml").write_text("file:\n  /etc/hello:\n    exists: true\n")
    put(lab, "etc/hello")
    lab.manifest(build={"checks": {"goss": ["goss.yaml"]}})
    done = lab.refused(5)
    assert "goss" in done.stderr
    assert not lab.pool.joinpath("state/work").exists() or lab.leftovers() == []
    (tmp_path / "goss").write_text(GOSS)
    (tmp_path / "goss").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    shared = dataclasses.replace(lab, environ={**lab.environ, "PATH": path})
    shared.manifest(build={"checks": {"goss": ["goss.yaml"]}})
    assert shared.built()["files"]
    (lab.top / "goss.yaml").write_text("file:\n  /etc/hello:\n  /etc/gone:\n")
    assert "goss goss.yaml: File: /etc/gone: exists" in shared.refused(25).stderr
    shared.manifest(build={"checks": {"goss": ["none.yaml"]}})
    assert "$.build.checks.goss[0]" in shared.refused(2).stderr


def test_an_image_that_is_there_is_checked_as_a_build_does(lab: Lab) -> None:
    lab.manifest(build={"oci": GOOD["oci"]})
    built = lab.built()
    manifest = os.fspath(lab.manifest(build=GOOD))
    before = host_state(lab.top)

    def check(*words: str) -> Done:
        done = lab.command("check", "--pool", lab.uri, built["record"], *words)
        assert lab.leftovers() == []
        assert host_state(lab.top) == before
        return done

    done = check("-m", manifest, "--json")
    assert done.status == 0, done.stderr
    assert {row["result"] for row in done.json["checks"]} == {"passed"}
    assert len(done.json["checks"]) == 9
    done = check("--json")
    assert done.status == 25
    assert "setuid: /usr/bin/setuid is setuid" in done.stderr, "of the base, which a build does not look at"
    assert {row["check"] for row in done.json["checks"]} >= {"dangling-link", "shebang"}
    wrong = json.dumps({"name": "a", "version": "1", "build": {"checks": {"fileContentTests": [
        {"name": "a", "path": "/etc/hello", "expectedContents": ["("]}]}}})  # fmt: skip
    done = check("-m", wrong)
    assert done.status == 2
    assert "$.build.checks.fileContentTests[0].expectedContents[0]: is no regular expression" in done.stderr


@pytest.mark.parametrize("scheme", ["dir", "overlay"])
def test_a_build_that_is_killed_in_a_test_leaves_nothing(base: Path, tmp_path: Path, scheme: str) -> None:
    lab = Lab(top=tmp_path, base=base, scheme=scheme, environ=STRICT)
    lab.manifest(build=listen("/bin/sh", "-c", "sleep 4711 & trap '' TERM; sleep 4711", timeout=600))
    child = subprocess.Popen(
        lab.argv(),
        env=lab.env(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=lab.top,
        text=True,
    )
    try:
        wait_for(lambda: len(ours("sleep\x004711")) >= 2 or len(ours("sleep 4711")) >= 2, child)
        assert descendants(child.pid)
        child.send_signal(signal.SIGKILL)
        child.wait(30)
        assert none_left("4711") == []
    finally:
        end(child)
    lab.manifest(build={})
    lab.built()
    assert lab.leftovers() == []
