"""Inventories of images that are there: what tells what they are called, made of, and by which step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from buildstep.cli import sbom as cli
from buildstep.errors import ImageError
from buildstep.events import Bus
from buildstep.images import inventory
from buildstep.trust.inventory.model import Base, Inventory, Origin
from tests.servers.layouts import diff_id, layer, make_layout, make_saved, pack
from tests.unit import reportdata

STATUS = (
    "Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n"
    "Maintainer: A <a@example.org>\n\n"
)
RELEASE = b'ID=debian\nVERSION_ID="12"\n'
BELOW = layer({
    "etc/": b"", "etc/os-release": RELEASE, "etc/kept": b"kept",
    "var/lib/dpkg/status": STATUS.format(name="one", version="1").encode(),
    "var/lib/dpkg/info/one.list": b"/etc/kept\n",
})  # fmt: skip
TOP = layer({
    "usr/bin/two": b"two", "srv/page": b"page",
    "var/lib/dpkg/status": (STATUS.format(name="one", version="1") + STATUS.format(name="two", version="2")).encode(),
    "var/lib/dpkg/info/two.list": b"/usr/bin/two\n",
})  # fmt: skip

ANNOTATION = "org.opencontainers.image."


def config(*comments: str, ours: bool = True, **labels: str) -> dict[str, Any]:
    by = "buildstep" if ours else "/bin/sh -c true"
    return {
        "created": "2026-09-21T14:13:20Z",
        "config": {"Labels": {ANNOTATION + name.replace("_", "."): value for name, value in labels.items()}},
        "history": [{"created_by": "/bin/sh"}, *({"created_by": by, "comment": text} for text in comments)],
    }


def found(image: Path) -> Inventory:
    with inventory.of_archive(str(image), bus=Bus(), environ={"BUILDSTEP_PLATFORM": "linux/amd64"}) as looked:
        return looked.inventory


def origins(given: Inventory) -> dict[str, Origin]:
    files = {file.path.decode(): file.origin for file in given.files}
    return files | {component.name: component.origin for component in given.components}


@pytest.mark.parametrize(
    ("comment", "page", "package"),
    [
        ("packages: two", "packages", "packages"),
        ("proto directory; packages: two", "sync, packages", "packages"),
        ("command: install", "run install", "run install"),
    ],
)
def test_steps_and_layers_of_an_image_of_ours(tmp_path: Path, comment: str, page: str, package: str) -> None:
    make_layout(tmp_path / "x.oci", [BELOW, TOP], config=config(comment))
    rows = origins(found(tmp_path / "x.oci"))
    assert rows["srv/page"] == Origin(step=page, layer=1)
    assert rows["two"] == Origin(step=package, layer=1)
    assert rows["one"] == Origin(step="base", layer=0)
    assert "etc/kept" not in rows
    assert ("usr/bin/two" in rows) == comment.startswith("command")  # it is not the package's any more


def test_an_image_of_ours_without_a_time_has_no_digest_of_its_own(tmp_path: Path) -> None:
    make_layout(
        tmp_path / "x.oci", [BELOW, TOP],
        config=config("proto directory", title="hello", version="1.0", description="A test", base_name="tar:/home/me/x.tar",
                      vendor="Example\n Inc."),
    )  # fmt: skip
    given = found(tmp_path / "x.oci")
    assert (given.name, given.version, given.description) == ("hello", "1.0", "A test")
    assert given.supplier == "Example Inc."
    assert (given.known_from, given.created, given.layers) == ("build", None, ())
    assert given.digests.keys() == {"tree"}
    assert given.base == Base(label="tar:x.tar")


def test_an_image_of_others_has_its_digest_and_time(tmp_path: Path) -> None:
    digest = make_layout(tmp_path / "x.oci", [BELOW, TOP], config=config("packages: two", ours=False))
    given = found(tmp_path / "x.oci")
    assert (given.known_from, given.created, given.digests["oci"]) == ("image", 1_790_000_000, digest)
    assert len(given.layers) == 2
    assert origins(given)["srv/page"] == Origin(step="", layer=1)
    assert given.base is None


def test_archives_of_all_kinds_tell_the_same(tmp_path: Path) -> None:
    make_layout(tmp_path / "x.oci", [BELOW, TOP], config=config("packages: two"))
    told = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id(BELOW), diff_id(TOP)]}}
        | config("packages: two")
    )  # fmt: skip
    images = [
        found(tmp_path / "x.oci"),
        found(pack(tmp_path / "x.oci", tmp_path / "x.oci.tar")),
        found(make_saved(tmp_path / "saved.tar", {"x:1": [BELOW, TOP]}, config=told)),
    ]
    assert images[0].components == images[1].components == images[2].components
    assert images[0].files == images[1].files == images[2].files


def test_the_record_beside_an_image_tells_of_its_base_and_time(tmp_path: Path) -> None:
    digest = make_layout(tmp_path / "hello-1.oci", [BELOW, TOP], config=config("packages: two"))
    tree = found(tmp_path / "hello-1.oci").digests["tree"]
    value = reportdata.record()
    value |= {"name": "hello", "version": "1", "tree_digest": tree}
    value["artifacts"] = [{**value["artifacts"][0], "path": "/elsewhere/hello-1.oci", "format": "oci-dir"}]
    value["inputs"] = {
        "image": {"label": "docker://me:secret@reg/debian:12", "name": "debian", "version": "12", "digest": "sha256:12"},
        "spec": {"source_date_epoch": 1_790_000_000},
        "manifest": {"description": "As its m.json has it"},
    }  # fmt: skip
    record = reportdata.write(tmp_path / "hello-1.buildrecord.json", value)
    given = found(record)
    assert given == found(tmp_path / "hello-1.oci")
    assert given.base == Base(label="docker://reg/debian:12", name="debian", version="12", digest="sha256:12")
    assert (given.created, given.description) == (1_790_000_000, "As its m.json has it")
    assert given.digests == {"oci": digest, "tree": tree}
    reportdata.write(tmp_path / "hello-1.buildrecord.json", {**value, "tree_digest": "0" * 64})
    with inventory.of_archive(str(tmp_path / "hello-1.oci"), bus=Bus(), environ={}) as looked:
        assert (looked.record, looked.inventory.created) == (None, None)
        assert "of another tree" in looked.notes[0]


def test_what_cannot_be_listed_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.zfs").write_bytes(b"btrfs-stream\0" + bytes(600))
    with pytest.raises(ImageError, match="of the kind btrfs"):
        found(tmp_path / "x.zfs")


# -- the command ----------------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILDSTEP_PLATFORM", "linux/amd64")
    make_layout(tmp_path / "x.oci", [BELOW, TOP], config=config("packages: two"))
    return tmp_path / "x.oci"


@pytest.mark.parametrize(
    ("words", "member"),
    [
        (("-o", "a.cdx.json"), "bomFormat"),
        (("-o", "a.spdx3.json"), "@graph"),
        (("-o", "a.json"), "spdxVersion"),
        (("-o", "a.spdx.json", "--format", "cyclonedx"), "bomFormat"),
    ],
)
def test_the_format_is_the_one_of_the_flag_or_of_the_files_name(
    image: Path, words: tuple[str, ...], member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(image.parent)
    done = CliRunner().invoke(cli.command, [str(image), *words], catch_exceptions=False)
    assert (done.exit_code, done.output) == (0, "")
    assert member in json.loads(Path(words[1]).read_text())


def test_without_a_file_it_is_printed_and_what_is_unknown_is_told_beside(image: Path) -> None:
    done = CliRunner().invoke(cli.command, [str(image)], catch_exceptions=False)
    assert json.loads(done.stdout)["spdxVersion"] == "SPDX-2.3"


def test_an_image_that_is_damaged_leaves_no_file(image: Path, tmp_path: Path) -> None:
    for blob in (image / "blobs/sha256").iterdir():
        blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(ImageError, match="damaged"):
        CliRunner().invoke(
            cli.command, [str(image), "-o", str(tmp_path / "out.json")], catch_exceptions=False
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.oci"]
