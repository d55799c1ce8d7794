"""What goes beside an image: no secret is in it, in no form; every format has it; others' tools accept it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.conftest import demand
from tests.integration.pools import location
from tests.integration.support import Lab, write_base
from tests.integration.test_sample import SAMPLE
from tests.integration.test_sample import build as build_sample

EPOCH = "1700000000"
ALL = {"sbom": ["spdx", "cyclonedx", "spdx3"], "provenance": "max", "key": "release.key"}
SECRETS = {
    "env": 'canary-of-env/7"Q2x é',
    "file": "canary+of+file/Zk93==",
    "mirror": "canary-of-mirror-Aa1",
    "proxy": "canary-of-proxy-Bb2",
    "define": "canary of define/'$'",
    "cache secret": "canary-of-cache-Cc3/x",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("root", "namespaces", "overlay", "busybox", "rsync")
    return write_base(tmp_path_factory.mktemp("base") / "base.tar")


@pytest.fixture
def lab(tmp_path: Path, base: Path) -> Lab:
    made = Lab(top=tmp_path, base=base)
    command(made, "keygen", os.fspath(tmp_path / "release"))
    return made


def command(lab: Lab, *words: str, **env: str) -> str:
    done = lab.run([sys.executable, "-P", "-m", "buildstep", *words], env=env)
    assert done.status == 0, done.stderr
    return done.stdout


def statements(out: Path) -> dict[str, Any]:
    lines = next(out.glob("*.intoto.jsonl")).read_bytes().splitlines()
    found = [json.loads(base64.b64decode(json.loads(line)["payload"])) for line in lines]
    return {row["predicateType"]: row for row in found}


# -- no secret ----------------------------------------------------------------------------------------------


def forms(word: str) -> Iterator[bytes]:
    """Every form in which a secret can turn up; made here, by nothing of ours."""
    raw = word.encode()
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    yield quote(word, safe="").encode()
    yield quote(word).encode()
    yield json.dumps(word)[1:-1].encode()
    yield json.dumps(word, ensure_ascii=False)[1:-1].encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            text = encode(b"\0" * before + raw).rstrip(b"=")
            yield text[(0, 2, 3)[before] : len(text) - (1 if (before + len(raw)) % 3 else 0)]


def published(out: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a build, and what is in its envelopes."""
    for path in sorted(out.iterdir()):
        yield path.name, path.read_bytes()
    for name, row in statements(out).items():
        yield name, json.dumps(row, ensure_ascii=False).encode()


@pytest.mark.parametrize("detail", ["min", "max"])
def test_six_secrets_and_two_keys_are_in_no_published_file_in_any_form(lab: Lab, detail: str) -> None:
    command(lab, "keygen", os.fspath(lab.top / "cache"))
    (lab.top / "given").write_text(SECRETS["file"])
    build = {
        "secrets": {"a": {"env": "MINE", "variable": "TOKEN"}, "b": {"file": "given"}},
        "run": [
            {"name": "use", "secrets": ["a", "b"], "script": "echo $TOKEN; cat /run/secrets/b; echo {{ token | tojson }}"}
        ],
        "run_options": {"env": {"API_TOKEN": "{{ token }}"}},
        "installer_options": {"mirror": f"http://me:{SECRETS['mirror']}@127.0.0.1:9/debian"},
        "cache": {"shared": f"dir:{lab.top}/shared", "key": "cache.key"},
        "trust": {**ALL, "provenance": detail},
    }  # fmt: skip
    document = json.dumps(
        {"name": "hello", "version": "1.0.0", "os": "linux", "type": "other", "build": build}
    )
    (lab.top / "m.json.j2").write_text(document.replace("{{ token | tojson }}", "{{ token }}"))
    argv = [word.replace("m.json", "m.json.j2") for word in lab.argv("-D", f"token={SECRETS['define']}")]
    env = {
        "MINE": SECRETS["env"],
        "https_proxy": f"http://me:{SECRETS['proxy']}@127.0.0.1:9",
        "BUILDSTEP_CACHE_SECRET": SECRETS["cache secret"],
        "BUILDSTEP_CACHE_UPLOAD": "0",
    }
    done = lab.run(argv, env=env)
    assert done.status == 0, done.stderr
    names = {path.name.removeprefix("hello-1.0.0") for path in lab.out.iterdir()}
    assert names >= {
        ".spdx.json",
        ".cdx.json",
        ".spdx3.json",
        ".intoto.jsonl",
        ".sig",
        ".buildrecord.json",
        ".events.jsonl",
    }
    keys = {
        f"line {number} of {name}": line
        for name in ("release.key", "cache.key")
        for number, line in enumerate((lab.top / name).read_text().splitlines())
        if "-----" not in line
    }
    assert keys
    for name, data in published(lab.out):
        for what, word in {**SECRETS, **keys}.items():
            for form in forms(word):
                assert form not in data, f"the {what} is in {name}"
    assert b"***" in (lab.out / "hello-1.0.0.buildrecord.json").read_bytes(), "there was something to hide"
    assert b"***" in (lab.out / "hello-1.0.0.events.jsonl").read_bytes()
    if detail == "min":
        told = json.dumps(statements(lab.out)["https://slsa.dev/provenance/v1"])
        for place in (os.fspath(lab.top), os.uname().nodename, "/root"):
            assert place not in told


# -- every format -------------------------------------------------------------------------------------------


def digests(row: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    return {it["name"]: it["digest"] for it in row["subject"]}


def test_a_stream_of_btrfs_and_a_list_of_files_are_proved_too(base: Path, tmp_path: Path) -> None:
    demand("root", "namespaces", "busybox", "rsync")
    with location("btrfs", tmp_path) as place:
        lab = Lab(top=tmp_path / "lab", base=base, scheme="btrfs")
        command(lab, "keygen", os.fspath(lab.top / "release"))
        lab.manifest(build={"formats": ["btrfs", "files"], "store": f"dir:{lab.top}/store", "trust": ALL})
        argv = [place if word == lab.uri else word for word in lab.argv("--json")]
        done = lab.run([f"btrfs:{word}" if word == place else word for word in argv])
        assert done.status == 0, done.stderr
        (stream, listed) = done.json["files"]
        row = statements(lab.out)["https://slsa.dev/provenance/v1"]
        names = digests(row)
        assert names[Path(stream["path"]).name]["sha256"] == stream["sha256"]
        assert names[Path(listed["path"]).name]["sha256"] == listed["sha256"]
        assert names["tree"] == {"buildstepTree": done.json["tree_digest"]}
        stem = Path(stream["path"]).name.partition(".btrfs")[0]
        assert (lab.out / f"{stem}.sig").is_file()
        assert (lab.out / f"{Path(listed['path']).name}.sig").is_file()
        verified(lab.top, Path(stream["path"]), lab.out / f"{stem}.sig")


def verified(keys: Path, file: Path, signature: Path) -> None:
    """Let ssh-keygen check a signature."""
    if shutil.which("ssh-keygen") is None:
        return
    (keys / "signers").write_text(f"me {(keys / 'release.ssh.pub').read_text()}")
    argv: list[str | Path] = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        keys / "signers",
        "-I",
        "me",
        "-n",
        "buildstep@v1",
        "-s",
        signature,
    ]
    with file.open("rb") as data:
        done = subprocess.run(argv, stdin=data, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# -- the sample ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The sample without anything; the same with everything on; and another one with everything on."""
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror")
    top = tmp_path_factory.mktemp("sample")
    subprocess.run(
        [sys.executable, "-P", "-m", "buildstep", "keygen", top / "release"], check=True, cwd=top,
        env={**os.environ, "PYTHONPATH": os.fspath(SAMPLE.parents[1])}, capture_output=True,
    )  # fmt: skip
    words = ("--sbom", "--provenance", "max", "--sign-key", os.fspath(top / "release.key"))
    found: dict[str, dict[str, Any]] = {"key": {"pub": os.fspath(top / "release.pub")}}
    none: tuple[str, ...] = ()
    for name, page, more in (("plain", "a", none), ("proved", "a", words), ("new", "b", words)):
        proto = top / name / "proto"
        shutil.copytree(SAMPLE / "proto", proto)
        (proto / "var/www/html/new.html").write_text(top.name + page)
        found[name] = build_sample(top / name / "out", *more, proto=proto, SOURCE_DATE_EPOCH=EPOCH)
    return found


def test_the_sample_is_the_same_image_and_verifies(sample: dict[str, dict[str, Any]]) -> None:
    (plain,), (proved,) = sample["plain"]["files"], sample["proved"]["files"]
    assert proved["sha256"] == plain["sha256"]
    assert proved["extra"]["digest"] == plain["extra"]["digest"]
    argv = [sys.executable, "-P", "-m", "buildstep", "verify", proved["path"], "--key", sample["key"]["pub"]]
    env = {**os.environ, "PYTHONPATH": os.fspath(SAMPLE.parents[1])}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_provenance_names_every_package_and_its_bills_have_them_too(
    sample: dict[str, dict[str, Any]],
) -> None:
    out = Path(sample["new"]["record"]).parent
    record = json.loads(Path(sample["new"]["record"]).read_bytes())
    rows = statements(out)["https://slsa.dev/provenance/v1"]["predicate"]["buildDefinition"][
        "resolvedDependencies"
    ]
    named = {row["name"]: row for row in rows}
    installed = {package["name"] for package in record["packages"]}
    assert installed <= named.keys()
    assert all(named[name]["uri"].startswith("pkg:deb/debian/") for name in installed)
    for row in record["package_files"]:
        assert named[row["name"].partition(":")[0]]["digest"]["sha256"] == row["sha256"]
    bill = json.loads((out / "hello-1.0.0.cdx.json").read_bytes())
    assert installed <= {row["name"] for row in bill["components"]}
    tests = statements(out)["https://in-toto.io/attestation/test-result/v0.1"]["predicate"]
    assert tests["result"] in ("PASSED", "WARNED")


def test_what_it_costs(sample: dict[str, dict[str, Any]]) -> None:
    """Of the image only what packages say of themselves is read, once; nothing else is read or made again."""
    record, plain = (json.loads(Path(sample[name]["record"]).read_bytes()) for name in ("new", "plain"))
    # Nothing, where an earlier session has left what it read of the same packages in the pool.
    assert record["counts"].get("trust_files_read", 0) < 1000
    for name in ("bytes_compressed", "layers_made", "bytes_hashed"):
        assert record["counts"].get(name, 0) <= plain["counts"].get(name, 0), name
