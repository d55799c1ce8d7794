"""A build is done again from its record: without a network, from what is here, or the missing input is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.repository import Repository, make_repository
from tests.integration.support import REPOSITORY, Done, Lab
from tests.integration.yard import Yard

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
PACKAGES = ("alpha", "beta")


def run(top: Path, *words: str, environ: Mapping[str, str]) -> tuple[int, str, str]:
    keep = {key: value for key, value in os.environ.items() if not key.startswith("BUILDSTEP_")}
    keep.pop("SOURCE_DATE_EPOCH", None)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "buildstep", *words], cwd=top, capture_output=True, text=True, check=False,
        env={**keep, "PYTHONPATH": os.fspath(REPOSITORY), **environ},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_packages_come_from_the_cache_and_nothing_is_sent(place: Yard, tmp_path: Path) -> None:
    repository: Repository = make_repository(place, tmp_path / "repository")
    for name in PACKAGES:
        repository.put(name, "1:1.0", postinst=f"#!/bin/sh\necho {name} >> /etc/order\n")
    manifest = {
        "name": "again", "version": "1", "os": "linux",
        "build": {"image": f"tar:{place.base}", "packages": ["alpha", "beta"], "order": "packages-first",
                  "formats": ["oci", "tar"], "run": ["sort /etc/order > /srv/sorted"]},
    }  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    words = ["-m", "m.json", "--pool", place.pool, os.fspath(place.proto)]
    record = tmp_path / "second/again-1.buildrecord.json"
    with repository.served():
        for out in ("first", "second"):  # the second has its packages from a layer
            (place.proto / "file").write_text(f"{out}\n")
            code, _, said = run(tmp_path, "build", "-q", "-o", out, *words, environ=place.environ | EPOCH)
            assert code == 0, said
        repository.put("alpha", "1:2.0")
        repository.asked.clear()
        for path in (tmp_path / "second").iterdir():
            if path != record:
                path.unlink()
        code, out, said = run(
            tmp_path, "rebuild", "--json", os.fspath(record), "-o", "third", "--pool", place.pool,
            environ=place.environ,
        )  # fmt: skip
        assert code == 0, said
    assert repository.asked == [], "it has no network"
    again = json.loads(out)
    assert again["compared"] == ["tree", "oci", "oci image", "tar"]
    rows = json.loads(record.read_text())["package_files"]
    assert [(row["name"], row["version"]) for row in rows] == [("alpha", "1:1.0"), ("beta", "1:1.0")]
    assert all(len(row["sha256"]) == 64 for row in rows)
    cache = Path(place.pool.partition(":")[2]) / "state/packages/apt/debs"
    (kept,) = cache.glob("beta_*")
    kept.rename(tmp_path / "aside")
    code, _, said = run(
        tmp_path, "rebuild", os.fspath(record), "-o", "third", "--pool", place.pool, environ=place.environ
    )
    assert code == 38
    assert "the package file of beta 1:1.0 is not there" in said
    assert os.fspath(kept) in said
    old = json.loads(record.read_text())
    old["package_files"] = []
    (tmp_path / "old.buildrecord.json").write_text(json.dumps(old))
    code, _, said = run(
        tmp_path,
        "rebuild",
        "old.buildrecord.json",
        "-o",
        "third",
        "--pool",
        place.pool,
        environ=place.environ,
    )
    assert code == 38
    assert "does not have its digest" in said
    (tmp_path / "aside").rename(kept)
    code, _, said = run(
        tmp_path,
        "rebuild",
        "old.buildrecord.json",
        "-o",
        "third",
        "--pool",
        place.pool,
        environ=place.environ,
    )
    assert code == 0, said


def rebuilt(lab: Lab, *words: str) -> Done:
    record = lab.out / "hello-1.0.0.buildrecord.json"
    return lab.command("rebuild", "--json", os.fspath(record), "-o", "again", "--pool", lab.uri, *words)


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True)


@pytest.fixture
def own(lab: Lab) -> Lab:
    """A place whose base archive is its own."""
    lab.base = Path(shutil.copy(lab.base, lab.top / "own.tar"))
    return lab


def test_the_proto_directory_is_that_of_its_commit(own: Lab) -> None:
    git(own.top, "init", "-q")
    git(own.top, "add", "proto")
    git(own.top, "commit", "-q", "-m", "one")
    made = own.built(env=EPOCH)
    shutil.rmtree(own.out / "x", ignore_errors=True)
    (own.proto / "etc/hello").write_text("another\n")
    done = rebuilt(own)
    assert done.status == 0, done.stderr
    assert done.json["digests"]["tree"] == [made["tree_digest"]] * 2
    assert done.json["inputs"][0]["from"].startswith("commit ")
    other = own.top / "checkout"
    shutil.copytree(own.proto, other)
    assert "looked" not in (wrong := rebuilt(own, "--proto", os.fspath(other))).stderr
    assert wrong.status == 38
    assert os.fspath(other) in wrong.stderr
    (other / "etc/hello").write_text("hello\n")
    assert rebuilt(own, "--proto", os.fspath(other)).status == 0
    assert own.leftovers() == []
    assert not list((own.pool / "state/proving").iterdir())


def test_an_altered_base_is_made_good_or_named(own: Lab) -> None:
    own.built(env=EPOCH)
    (file,) = (own.pool / "image").glob("*/**/etc/os-release")
    file.write_text("ID=other\n")
    assert rebuilt(own).status == 0, "its archive is there"
    (file,) = (own.pool / "image").glob("*/**/etc/os-release")
    file.write_text("ID=other\n")
    own.base.unlink()
    done = rebuilt(own)
    assert done.status == 38, done.stderr
    assert "the base image tar:own.tar is not here as it was" in done.stderr
    assert own.uri in done.stderr
    assert own.leftovers() == []


def test_another_image_is_told_path_by_path(own: Lab) -> None:
    own.manifest(build={"run": ["cat /proc/sys/kernel/random/uuid > /srv/id"]})
    own.built(env=EPOCH)
    done = rebuilt(own)
    assert done.status == 37, done.stderr
    rows = [(row["path"], row["step"].partition(":")[0], row["kind"]) for row in done.json["differences"]]
    assert rows == [("/srv/id", "run", "random")]
    (own.out / "hello-1.0.0.oci.tar").unlink()
    done = rebuilt(own)
    assert (done.status, done.json["differences"]) == (37, [])
    assert "which files differ cannot be told" in done.json["notes"][-1]


def test_without_an_epoch_the_tree_is_compared_and_records_without_inputs_say_so(own: Lab) -> None:
    own.manifest(build={"run": ["echo made > /srv/made"]})
    own.built()
    done = rebuilt(own)
    assert done.status == 0, done.stderr
    assert done.json["compared"] == ["tree"]
    assert "no SOURCE_DATE_EPOCH" in done.json["notes"][0]
    path = own.out / "hello-1.0.0.buildrecord.json"
    record: dict[str, Any] = json.loads(path.read_text())
    del record["inputs"]["proto"]["digest"]
    path.write_text(json.dumps(record))
    done = rebuilt(own)
    assert done.status == 38
    assert "does not say what was in the proto directory" in done.stderr
    over = own.command("rebuild", os.fspath(path), "-o", os.fspath(own.out), "--pool", own.uri)
    assert over.status == 2


def test_what_a_record_hides_is_named_and_is_no_value(own: Lab) -> None:
    word = "tok-9f8e7d6c"
    commands = [
        {"name": "sum", "script": 'printf %s "$API_TOKEN" | md5sum > /srv/sum', "env": {"API_TOKEN": word}}
    ]
    own.manifest(build={"run": commands})
    own.built(env=EPOCH)
    done = rebuilt(own)
    assert done.status == 38, done.stderr
    assert "hidden in run.0.env.API_TOKEN" in done.stderr
    assert "-D 'run.0.env.API_TOKEN=VALUE'" in done.stderr
    done = rebuilt(own, "-D", f"run.0.env.API_TOKEN={word}")
    assert done.status == 0, done.stderr
    written = [path for path in (own.top / "again").iterdir() if path.suffix == ".json"]
    assert written
    assert not [path for path in written if word in path.read_text()]
    assert rebuilt(own, "-D", "run.1=x").status == 2


def test_each_secret_that_is_not_there_is_named(own: Lab) -> None:
    secret = own.top / "secret"
    secret.write_text("sesame-4711\n")
    own.manifest(build={
        "secrets": {"one": {"file": os.fspath(secret)}, "two": {"env": "SECOND"}},
        "run": [{"name": "shown", "script": "test -s /run/secrets/one", "secrets": ["one", "two"]}],
    })  # fmt: skip
    own.built(env=EPOCH | {"SECOND": "open-4712"})
    secret.unlink()
    done = rebuilt(own)
    assert done.status == 38, done.stderr
    assert f"one: looked for in the file {secret}" in done.stderr
    assert "two: looked for in the variable SECOND" in done.stderr


def test_base_and_proto_directory_come_from_a_store_in_a_directory(own: Lab) -> None:
    store, root = f"dir:{own.top / 'store'}", own.top / "root"
    root.mkdir()
    subprocess.run(["tar", "-xf", own.base, "-C", root], check=True)
    for folder, ref in ((root, "base"), (own.proto, "proto")):
        done = own.command("files", "put", os.fspath(folder), "--store", store, "--ref", ref)
        assert done.status == 0, done.stderr
    made = own.built("-i", f"files:{store}#base", env=EPOCH)
    shutil.rmtree(own.proto)
    record = os.fspath(own.out / "hello-1.0.0.buildrecord.json")
    words = ["rebuild", "--json", record, "-o", "again", "--pool", f"overlay:{own.top / 'empty'}", "--proto"]
    done = own.command(*words, f"files:{store}#proto")
    assert done.status == 0, done.stderr
    assert done.json["digests"]["tree"] == [made["tree_digest"]] * 2
    assert done.json["inputs"][0]["from"] == f"proto of the store {store}"
    for proto, why in (
        (f"files:{store}#prot", "has no ref"),
        (f"files:{store}#base", "digest"),
        ("files:s3://bucket/store#proto", "over a network alone"),
    ):
        done = own.command(*words, proto)
        assert done.status == 38, done.stderr
        assert why in done.stderr
    shutil.rmtree(own.top / "store")
    done = own.command(*words, f"files:{store}#proto")
    assert done.status == 38, done.stderr
    own.proto.mkdir()
