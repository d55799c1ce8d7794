"""`build.run`: commands in the image, behind the same walls as package scripts, and what is left of them."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.integration.conftest import demand
from tests.integration.support import Lab, host_state, step, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("root", "namespaces", "busybox", "rsync")
    return write_base(tmp_path_factory.mktemp("base") / "base.tar")


@pytest.fixture
def lab(tmp_path: Path, base: Path) -> Lab:
    return Lab(top=tmp_path, base=base)


def contents(path: str) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}  # type: ignore[union-attr]


def test_commands_see_the_proto_directory_and_change_the_image(lab: Lab) -> None:
    lab.manifest(
        build={
            "run": [
                "cat /etc/hello > /opt/seen; id > /opt/id; echo changed >> /etc/hello",
                ["touch", "/opt/a b"],
            ],
            "run_options": {"env": {"WHO": "me"}},
        }
    )
    before = host_state(lab.top)
    built = lab.built("-f", "tar", "-c", "none")
    assert host_state(lab.top) == before
    assert step(built, "run:1")["state"] == "run"
    found = contents(built["files"][0]["path"])
    assert found["opt/seen"] == b"hello\n"
    assert found["etc/hello"] == b"hello\nchanged\n"
    assert found["opt/id"].startswith(b"uid=0(root)")
    assert "opt/a b" in found
    assert (lab.proto / "etc/hello").read_text() == "hello\n", "the proto directory itself stays"
    record = json.loads(Path(built["record"]).read_text())
    assert [(row["command"], row["status"]) for row in record["commands"]] == [
        ("cat /etc/hello > /opt/seen; id > /opt/id; echo changed >> /etc/hello", 0), ("touch '/opt/a b'", 0),
    ]  # fmt: skip
    assert lab.leftovers() == []
    again = lab.built("-f", "tar", "-c", "none")
    assert step(again, "run:1")["state"] == "reuse", "the same inputs give the same outputs"
    lab.manifest(build={"run": ["echo other > /opt/seen"]})
    assert step(lab.built("-f", "tar", "-c", "none"), "run:1")["state"] == "run"


def test_a_command_that_fails_ends_the_build_and_is_told(lab: Lab) -> None:
    lab.manifest(build={"run": ["echo begun > /opt/x; false; echo never > /opt/y"]})
    done = lab.refused(4, "-f", "tar")
    assert "echo begun" in done.stderr


def test_there_is_no_network_and_no_ci_host_in_there(lab: Lab) -> None:
    lab.manifest(build={"run": ["env > /opt/env; ls /sys/class/net > /opt/net 2>&1 || true"]})
    built = lab.built("-f", "tar", "-c", "none", env={"SECRET_TOKEN": "s3cret"})
    found = contents(built["files"][0]["path"])
    assert b"SECRET_TOKEN" not in found["opt/env"]
    assert os.uname().nodename.encode() not in found["opt/env"]


def test_each_command_with_inputs_is_a_layer_that_an_edit_elsewhere_leaves(lab: Lab) -> None:
    """On the embedded pool, whose layers lie on one another, with the compressed layers of an archive."""
    (lab.proto / "srv").mkdir()
    (lab.proto / "srv/lock").write_text("1")
    script = lab.top / "check.sh"
    script.write_text("#!/bin/sh\nset -e\ntest -f /etc/hello\ncat /opt/deps > /opt/check\n")
    lab.manifest(
        build={
            "order": "packages-first",
            "run": [
                {
                    "name": "deps",
                    "argv": ["sh", "-c", "cat lock > /opt/deps; test ! -e /etc/hello; pwd >> /opt/deps"],
                    "workdir": "/srv",
                    "inputs": ["srv/lock"],
                },
                {"name": "check", "file": os.fspath(script)},
            ],
        }
    )
    built = lab.built()
    names = [row["name"] for row in built["steps"]]
    assert names[names.index("packages") : names.index("clean")] == [
        "packages", "run:deps", "sync", "run:check",
    ]  # fmt: skip
    (lab.proto / "etc/hello").write_text("other")
    again = lab.built()
    assert (step(again, "run:deps")["state"], step(again, "run:check")["state"]) == ("reuse", "run")
    fresh = lab.built("--no-cache")
    assert fresh["tree_digest"] == again["tree_digest"]
    record = json.loads(Path(again["record"]).read_text())
    assert [(row["name"], row["status"]) for row in record["commands"]] == [("deps", 0), ("check", 0)]
    (lab.proto / "srv/lock").write_text("2")
    third = lab.built("-f", "tar", "-c", "none")
    assert step(third, "run:deps")["state"] == "run"
    assert contents(third["files"][0]["path"])["opt/check"] == b"2/srv\n"
    assert lab.leftovers() == []


def test_more_commands_than_layers_can_lie_on_one_another(lab: Lab) -> None:
    """The topmost are run each time, and the image is the same."""
    run = [
        {"name": f"n{number}", "script": f"echo {number} >> /opt/all", "inputs": ["etc/hello"]}
        for number in range(20)
    ]
    lab.manifest(build={"order": "packages-first", "run": run})
    first = lab.built()
    (lab.proto / "etc/other").write_text("1")
    again = lab.built("-f", "tar", "-c", "none")
    states = [step(again, f"run:n{number}")["state"] for number in range(20)]
    assert states == ["reuse"] * 16 + ["run"] * 4
    assert contents(again["files"][0]["path"])["opt/all"].split() == [b"%d" % n for n in range(20)]
    assert first["tree_digest"] != again["tree_digest"]
    assert lab.leftovers() == []


def test_two_builds_of_a_component_run_a_command_once(lab: Lab) -> None:
    (lab.proto / "etc/other").write_text("1")
    lab.manifest(
        build={
            "order": "packages-first",
            "run": [
                {"name": "slow", "script": "sleep 2; date +%N > /opt/made", "inputs": ["etc/hello"]},
                {"name": "late", "script": "cat /opt/made > /opt/late", "cache": ["/srv/c"]},
            ],
        }
    )
    lab.built()  # the base is there
    (lab.proto / "etc/hello").write_text("other\n")
    argv = [lab.argv("--json", "-o", os.fspath(lab.top / f"out{number}"), "-f", "oci") for number in range(2)]
    running = [
        subprocess.Popen(words, env=lab.env(), cwd=lab.top, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for words in argv
    ]
    results = [json.loads(child.communicate()[0]) for child in running]
    assert sorted(step(result, "run:slow")["state"] for result in results) == ["reuse", "run"]
    assert len({result["tree_digest"] for result in results}) == 1
