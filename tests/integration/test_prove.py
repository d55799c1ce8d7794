"""Two builds in other surroundings: planted sources of differences are named with their step and their cause."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.integration.ordinary_user import place as own_place
from tests.integration.ordinary_user import user
from tests.integration.repository import make_repository
from tests.integration.support import REPOSITORY, Lab, write_base
from tests.integration.test_unprivileged import lab_for
from tests.integration.yard import Yard

__all__ = ["own_place", "user"]  # fixtures

PLANTED = {
    "clockwork": """#!/bin/sh
mkdir -p /var/lib/clockwork
date > /var/lib/clockwork/installed-on
perl -e 'print pack("A4NA8", "HEAD", time, "tail")' > /var/lib/clockwork/header.bin
ln -s "release-$(date +%s)" /var/lib/clockwork/current
""",
    "identity": """#!/bin/sh
mkdir -p /var/lib/identity
cat /proc/sys/kernel/random/uuid > /var/lib/identity/id
(echo "-----BEGIN PRIVATE KEY-----"; head -c 48 /dev/urandom | base64; echo "-----END PRIVATE KEY-----") \
    > /etc/identity.pem
head -c 300 /dev/urandom > /var/lib/identity/salt
""",
}
"""Packages and what their scripts do."""

RUN = [
    {"name": "list", "script": "ls -U /usr/share /etc /usr/bin > /srv/listing"},
    {"name": "pack", "script": """
        mkdir /tmp/in && echo one > /tmp/in/one && echo two > /tmp/in/two
        cp /tmp/in/one /tmp/log && gzip -c /tmp/log > /srv/log.gz
        tar -C /tmp -cf /srv/in.tar in"""},
    {"name": "compile", "script": """
        mkdir -p /opt/app/__pycache__
        perl -e 'print "\\xa7\\x0d\\x0d\\x0a", pack("VVV", 0, time, 7), "code"' > /opt/app/__pycache__/a.pyc
        perl -e 'my %h = map { $_ => 1 } 1 .. 200; print "$_\\n" for keys %h' > /opt/app/hash-order
        echo "$(date) compiled" > /opt/app/build.log"""},
    {"name": "ask", "script": """
        hostname > /srv/host; uname -r > /srv/kernel; nproc > /srv/processors
        echo "zone ${TZ:-UTC}" > /srv/zone; echo "locale $LC_ALL" > /srv/locale
        mktemp /srv/cache-XXXXXXXX; umask > /srv/umask; umask 077; touch /srv/private"""},
]  # fmt: skip

EXPECTED = {
    "/var/lib/clockwork/installed-on": ("packages", "time stamp"),
    "/var/lib/clockwork/header.bin": ("packages", "time stamp"),
    "/var/lib/clockwork/current": ("packages", "time stamp"),
    "/var/lib/identity/id": ("packages", "random"),
    "/var/lib/identity/salt": ("packages", "random"),
    "/etc/identity.pem": ("packages", "key"),
    "/srv/listing": ("run:list", "directory order"),
    "/srv/log.gz": ("run:pack", "archive metadata"),
    "/srv/in.tar": ("run:pack", "archive metadata"),
    "/opt/app/__pycache__/a.pyc": ("run:compile", "byte code"),
    "/opt/app/hash-order": ("run:compile", "order"),
    "/opt/app/build.log": ("run:compile", "log"),
    "/srv/host": ("run:ask", "host name"),
    "/srv/kernel": ("run:ask", "kernel"),
    "/srv/processors": ("run:ask", "processors"),
    "/srv/zone": ("run:ask", "time zone"),
    "/srv/locale": ("run:ask", "locale"),
    "/srv/cache-": ("run:ask", "random"),
}
"""Paths, the step that made each, and the class of its cause."""


def run(top: Path, *words: str, **environ: str) -> tuple[int, dict[str, Any], str]:
    env = {**os.environ, "PYTHONPATH": os.fspath(REPOSITORY), "SOURCE_DATE_EPOCH": "1700000000", **environ}
    done = subprocess.run(
        [sys.executable, "-m", "buildstep", *words],
        cwd=top,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else {}, done.stderr


def test_planted_sources_are_named(place: Yard, tmp_path: Path) -> None:
    repository = make_repository(place, tmp_path / "repository")
    for name, script in PLANTED.items():
        repository.put(name, "1.0", postinst=script)
    manifest = {
        "name": "planted", "version": "1", "os": "linux",
        "build": {
            "image": f"tar:{place.base}", "packages": list(PLANTED), "run": RUN, "formats": ["oci", "tar"],
        },
    }  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    with repository.served():
        code, said, errors = run(
            tmp_path, "prove", "--json", "-m", "m.json", os.fspath(place.proto), "--pool", place.pool, "-o", "out",
            **place.environ,
        )  # fmt: skip
    assert code == 37, errors
    downloads = [path for path, _ in repository.asked if path.endswith(".deb")]
    assert len(downloads) == 2, "packages come once"
    found = {row["path"]: (row["step"], row["kind"]) for row in said["differences"]}
    missed = {}
    for path, wanted in EXPECTED.items():
        names = [name for name in found if name.startswith(path)]
        told = {found[name] for name in names}
        if told != {wanted}:
            missed[path] = told
    assert not missed
    packages = {row["path"]: row["package"] for row in said["differences"]}
    assert packages["/var/lib/clockwork/installed-on"] == "clockwork (postinst)"
    assert packages["/etc/identity.pem"] == "identity (postinst)"
    assert all(row["fix"] for row in said["differences"]), "each has what removes it"
    others = [path for path in found if not path.startswith(tuple(EXPECTED))]
    assert others == [], "nothing else differs"
    assert json.loads((tmp_path / "out/planted-1.proof.json").read_text()) == said
    state = Path(place.pool.partition(":")[2]) / "state"
    assert not list((state / "proving").iterdir())
    assert not list((state / "journal").iterdir())


def started(lab: Lab) -> subprocess.Popen[str]:
    """A proof whose first build hangs in a command."""
    lab.manifest(build={"run": ["touch /srv/hanging; sleep 600"]})
    argv = [
        lab.python, "-P", "-m", "buildstep", "prove", "-m", "m.json", "-i", f"tar:{lab.base}", "--pool", lab.uri,
        "proto",
    ]  # fmt: skip
    child = subprocess.Popen(
        argv, cwd=lab.top, env=lab.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list((lab.pool / "build").glob("*/*/srv/hanging")) and child.poll() is None:
        assert time.monotonic() < deadline, "it does not get that far"
        time.sleep(0.05)
    return child


def proving(lab: Lab) -> list[Path]:
    return list((lab.pool / "state/proving").glob("*"))


def test_a_proof_that_is_stopped_leaves_nothing(lab: Lab) -> None:
    child = started(lab)
    assert proving(lab)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM, errors
    assert "Traceback" not in errors
    assert (proving(lab), lab.leftovers()) == ([], [])


def test_what_a_killed_proof_left_is_healed(lab: Lab) -> None:
    child = started(lab)
    child.kill()
    child.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while subprocess.run(["pgrep", "-f", os.fspath(lab.pool)], capture_output=True, check=False).stdout:
        assert time.monotonic() < deadline, "its builds end with it"
        time.sleep(0.05)
    assert lab.heal()
    assert (proving(lab), lab.leftovers()) == ([], [])


def test_the_same_image_is_told_with_its_digests(lab: Lab) -> None:
    lab.manifest(build={"run": ["echo made > /srv/made"], "formats": ["oci-dir", "tar"]})
    done = lab.command(
        "prove", "--json", "-m", "m.json", "-i", f"tar:{lab.base}", "--pool", lab.uri, "proto",
        env={"SOURCE_DATE_EPOCH": "1700000000"},
    )  # fmt: skip
    assert done.status == 0, done.stdout + done.stderr
    assert done.json["digests"][0] == done.json["digests"][1]
    assert done.json["digests"][0].keys() == {"tree", "oci-dir", "oci-dir image", "tar"}
    assert (done.json["equal"], done.json["builds"], done.json["not_varied"]) == (True, 2, {})
    assert lab.outputs() == {}
    wrong = lab.command("prove", "-m", "m.json", "--vary", "clok,host", "proto")
    assert wrong.status == 2
    assert 'did you mean "clock"' in wrong.stderr


def test_an_ordinary_user_proves_too(user: pwd.struct_passwd, own_place: Path, tmp_path: Path) -> None:
    lab = lab_for(own_place, write_base(tmp_path / "base.tar"), user.pw_uid, user.pw_gid)
    lab.manifest(build={"run": ["echo $(busybox date) > /srv/date; busybox find /etc > /srv/listing"]})
    lab.give()
    done = lab.command(
        "prove", "--json", "-m", "m.json", "-i", f"tar:{lab.base}", "--pool", lab.uri, "proto",
        env={"SOURCE_DATE_EPOCH": "1700000000"},
    )  # fmt: skip
    assert done.status == 37, done.stderr
    found = {row["path"]: row["kind"] for row in done.json["differences"]}
    assert found == {"/srv/date": "time stamp", "/srv/listing": "directory order"}, done.json["not_varied"]
    assert done.json["not_varied"] == {}
    record = lab.build(env={"SOURCE_DATE_EPOCH": "1700000000"}).json["record"]
    lab.manifest(build={"run": ["echo 1 > /srv/date"]})
    time.sleep(1.1)  # date tells seconds, and the build was quick
    assert lab.command("rebuild", record, "-o", "again", "--pool", lab.uri).status == 37
