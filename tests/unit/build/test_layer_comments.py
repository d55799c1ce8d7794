"""Each layer of an image says in its history what it is."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from buildstep.emit import split_layer
from tests.unit.build.workshop import Workshop, make_workshop

pytestmark = pytest.mark.commands("cp", "find", "rsync")  # trees are really walked and copied


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return make_workshop(tmp_path, monkeypatch)


def history(workshop: Workshop) -> list[dict[str, Any]]:
    """The history of the last image, which has a row for each of its layers."""
    with tarfile.open(workshop.out / "hello-1.0.0.oci.tar") as archive:

        def blob(digest: str) -> Any:
            member = archive.extractfile("blobs/sha256/" + digest.removeprefix("sha256:"))
            assert member is not None
            return json.load(member)

        index = archive.extractfile("index.json")
        assert index is not None
        manifest = blob(json.load(index)["manifests"][0]["digest"])
        config = blob(manifest["config"]["digest"])
    rows: list[dict[str, Any]] = config["history"]
    assert sum(not row.get("empty_layer") for row in rows) == len(manifest["layers"])
    return rows


def comments(workshop: Workshop) -> list[str]:
    return [row["comment"] for row in history(workshop)]


@pytest.fixture
def base(workshop: Workshop) -> str:
    path = workshop.top / "base.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("etc/os-release")
        member.size = 8
        archive.addfile(member, io.BytesIO(b"ID=tiny\n"))
    return f"tar:{path}"


FIRST = {"order": "packages-first"}


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        ({}, ["proto directory"]),
        ({"motd": True, "source_repo": "x"}, ["proto directory; message of the day"]),
        ({"packages": ["a", "b"], **FIRST}, ["packages: a, b", "proto directory"]),
        ({"packages": ["a"], "upgrade_first": True, **FIRST}, ["packages: upgrade, a", "proto directory"]),
        ({"packages": ["a"]}, ["proto directory; packages: a"]),
        (
            {"packages": ["a"], "motd": True, "source_repo": "x"},
            ["proto directory; packages: a", "cleaned; message of the day"],
        ),
    ],
)
@pytest.mark.parametrize("cache", [True, False])
def test_every_layer_says_what_it_is(
    workshop: Workshop, base: str, build: dict[str, Any], expected: list[str], cache: bool
) -> None:
    workshop.build(image=base, cache=cache, **build)
    found = comments(workshop)
    assert found[0].startswith("base image ")
    assert found[1:] == expected
    if cache:  # of a layer that is reused it says the same
        (workshop.proto / "more").touch()
        workshop.build(image=base, **build)
        assert comments(workshop)[1:] == expected


def test_the_parts_of_a_large_proto_directory(
    workshop: Workshop, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_layer, "LAYER_TARGET", 4096)
    for number in range(9):
        (workshop.proto / f"file{number}").write_bytes(bytes([number]) * 3000)
    for plain in (False, False, True):  # a full build, a content update, and both by the long way
        workshop.build(image=base, plain=plain)
        _, *parts, top = comments(workshop)
        assert parts == [f"proto directory, part {n} of {len(parts)}" for n in range(1, len(parts) + 1)]
        assert len(parts) > 1
        assert top == "directories of the proto directory, with their times"
        (workshop.proto / "file3").write_bytes(b"other" * 600)


def test_an_image_without_files_of_its_own(workshop: Workshop, base: str) -> None:
    shutil.rmtree(workshop.proto / "srv")
    workshop.build(image=base, oci={"cmd": ["true"]})
    empty = history(workshop)[-1]
    assert (empty["empty_layer"], empty["comment"]) == (True, "nothing was added to the base image's files")
