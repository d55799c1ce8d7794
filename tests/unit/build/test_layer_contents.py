"""What the record says of each layer of an image: what it is, where it is from, and what it brings."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.images.layer_list import layers_of
from buildstep.system.digest import sha256_file
from tests.servers.layouts import layer, make_layout
from tests.unit.build.workshop import Workshop, make_workshop
from tests.unit.images.test_store import archive

pytestmark = pytest.mark.commands("cp", "find", "rsync")


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = make_workshop(tmp_path, monkeypatch)
    archive(tmp_path / "base.tar", name="base", other="xyz")
    return made


def layers(workshop: Workshop) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workshop.record()["layers"]
    return found


def brings(row: dict[str, Any]) -> tuple[object, ...]:
    return (row["files"], row["bytes"], row["removed"], row["packages"])


def test_a_base_that_was_one_tree_is_a_layer_with_a_line_of_its_own(workshop: Workshop) -> None:
    ref = f"tar:{workshop.top}/base.tar"
    workshop.build(image=ref)
    base, top = layers(workshop)
    assert (base["base"], base["created_by"]) == (True, "buildstep image import tar:base.tar")
    assert base["comment"] == "base image base 0"
    assert brings(base) == (2, 7, 0, [])
    assert (top["base"], top["created_by"], top["comment"]) == (False, "buildstep", "proto directory")
    assert brings(top) == (1, 5, 0, [])
    # The store lists the same.
    store, _, _ = workshop.open()
    (shown,) = layers_of(store.get(ref), store)
    assert {key: shown[key] for key in ("digest", "diff_id", "size", "created_by")} == {
        key: base[key] for key in ("digest", "diff_id", "size", "created_by")
    }
    assert brings(shown) == brings(base)


def test_packages_are_told_of_the_layer_that_has_them(workshop: Workshop) -> None:
    workshop.build(["a", "b"], order="packages-first")
    packages, proto = layers(workshop)
    assert packages["comment"] == "packages: a, b"
    assert packages["packages"] == ["a 1", "b 1"]
    assert packages["files"] == 2
    assert proto["packages"] == []
    # From the cache it is the same.
    (workshop.proto / "more").write_text("more\n")
    workshop.build(["a", "b"], order="packages-first")
    assert layers(workshop)[0] == packages


STATUS = "Package: {}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n"


def test_layers_that_came_with_a_base_are_told_one_by_one(workshop: Workshop) -> None:
    one, two = (STATUS.format(name).encode() for name in ("one", "two"))
    folders = {"etc/": b"", "var/": b"", "var/lib/": b"", "var/lib/dpkg/": b""}
    make_layout(
        workshop.top / "layout",
        [
            layer({**folders, "etc/a": b"1234", "var/lib/dpkg/status": one}),
            layer({"etc/.wh.a": b"", "etc/b": b"12", "var/lib/dpkg/status": one + two}),
            layer({"etc/c": b"1"}),
        ],
    )
    ref = f"oci:{workshop.top}/layout"
    workshop.build(image=ref)
    rows = layers(workshop)
    assert [row["base"] for row in rows] == [True, True, True, False]
    told = [
        (2, 4 + len(one), 0, ["one 1"]), (2, 2 + len(one + two), 1, ["two 1"]), (1, 1, 0, []), (1, 5, 0, []),
    ]  # fmt: skip
    assert [brings(row) for row in rows] == told
    store, _, _ = workshop.open()
    image = store.get(ref)
    assert [package.name for package in image.packages] == ["one", "two"]
    assert [brings(row) for row in layers_of(image, store)] == told[:3]
    # Of one that was imported before anybody counted, they are read; as far as they are there.
    older = replace(image, layers=tuple(replace(it, brought=None, packages=()) for it in image.layers))
    assert [brings(row)[:3] for row in layers_of(older, store)] == [row[:3] for row in told[:3]]
    blobs = [path for path in (workshop.top / "pool/state/blobs").iterdir() if not path.suffix]
    next(path for path in blobs if sha256_file(path) == image.layers[1].digest).unlink()
    assert [row["files"] for row in layers_of(older, store)] == [2, None, None]


def test_an_archive_of_ours_has_the_name_that_its_record_has(workshop: Workshop) -> None:
    workshop.build(formats=["oci", "tar"], compression="gzip", image=f"tar:{workshop.top}/base.tar")
    path = next(workshop.out.glob("*.tar.gz"))
    workshop.build(image=f"tar:{path}", name="child", version="2")
    store, _, _ = workshop.open()
    image = store.get(f"tar:{path}")
    assert (image.name, image.version) == ("hello", "1.0.0")


def test_a_record_tells_only_of_the_file_that_it_is_about(workshop: Workshop) -> None:
    base = f"tar:{workshop.top}/base.tar"
    workshop.build(formats=["tar"], compression="none", image=base)
    path = next(workshop.out.glob("*.tar"))
    data = bytearray(path.read_bytes())
    data[data.index(b"hello")] = ord("y")
    path.write_bytes(data)
    workshop.build(image=f"tar:{path}", name="child", version="2")
    store, _, _ = workshop.open()
    assert store.get(f"tar:{path}").name == "hello-1.0.0"


def test_layers_change_nothing_of_the_tree_and_of_a_tar(workshop: Workshop) -> None:
    make_layout(
        workshop.top / "layout",
        [layer({"etc/": b"", "etc/a": b"1"}), layer({"etc/.wh.a": b"", "etc/b": b"2"})],
    )
    both: dict[str, Any] = {"formats": ["oci", "tar"], "compression": "none"}
    page = workshop.proto / "srv/page"
    text = page.read_text()
    page.unlink()
    page.parent.rmdir()
    workshop.build(image=f"oci:{workshop.top}/layout", name="flat", formats=["tar"], compression="none")
    page.parent.mkdir()
    page.write_text(text)
    for path in (page, page.parent, workshop.proto):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    made = []
    for image in (f"oci:{workshop.top}/layout", f"tar:{workshop.out}/flat-1.0.0.tar"):
        result = workshop.build(image=image, **both)
        tar = next(file["sha256"] for file in result.files if file["format"] == "tar")
        made.append((result.tree_digest, tar, len(layers(workshop))))
    assert made[0][:2] == made[1][:2]
    assert [count for _, _, count in made] == [3, 2]
