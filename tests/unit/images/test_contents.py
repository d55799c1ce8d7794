"""Images as inventories read them: contents through links, digests, and what brought each path."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from buildstep.images import contents
from buildstep.tree.scan import scan
from buildstep.trust.inventory.model import Origin


@pytest.fixture
def image(tmp_path: Path) -> contents.ImageContents:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text("ID=debian\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").symlink_to("../usr/lib/os-release")
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "large").write_bytes(b"x" * 3_000_000)
    (tmp_path / "loop").symlink_to("loop")
    return contents.of_tree(scan(tmp_path), tmp_path, lambda _path: Origin(step="base"))


def test_contents_are_read_through_links(image: contents.ImageContents) -> None:
    assert image.read(b"etc/os-release", 100) == b"ID=debian\n"
    assert image.read(b"lib/os-release", 100) == b"ID=debian\n"
    assert image.head(b"lib/os-release", 3) == b"ID="


def test_what_is_not_there_too_large_or_no_file_is_none(image: contents.ImageContents) -> None:
    for path in (b"nothing", b"usr", b"loop", b"large"):
        assert image.read(path, 1000) is None
    assert image.head(b"nothing", 10) == b""
    assert image.head(b"large", 10) == b"x" * 10


def test_digests_of_files(image: contents.ImageContents) -> None:
    data = b"x" * 3_000_000
    assert image.sha256([b"large"]) == {b"large": hashlib.sha256(data).hexdigest()}
    assert image.sha1([b"large", b"usr"]) == {b"large": hashlib.sha1(data, usedforsecurity=False).hexdigest()}
    assert image.origin(b"large") == Origin(step="base")


def test_a_file_that_became_a_link_is_not_followed(image: contents.ImageContents, tmp_path: Path) -> None:
    os.unlink(tmp_path / "large")
    (tmp_path / "large").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="Too many levels"):
        image.head(b"large", 10)


# -- steps and layers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comment", "step"),
    [
        ("proto directory", "sync"),
        ("proto directory, part 3 of 12", "sync"),
        ("what is removed from the base", "sync"),
        ("directories of the proto directory, with their times", "sync"),
        ("packages: nginx-light, curl", "packages"),
        ("proto directory; packages: nginx-light", "sync, packages"),
        ("accounts; packages: upgrade", "accounts, packages"),
        ("command: install", "run install"),
        ("cleaned; commands; units; message of the day", "clean, run, units, motd"),
        ("something else", ""),
    ],
)
def test_a_step_by_the_words_of_the_history(comment: str, step: str) -> None:
    assert contents.step_named(comment) == step


def test_what_lies_below_our_layers_is_the_base() -> None:
    ours = {"created_by": "buildstep", "comment": "proto directory"}
    assert contents.steps_of([{"created_by": "/bin/sh"}, {"created_by": "buildstep image import x"}, ours]) == [
        "base", "base", "sync",
    ]  # fmt: skip
    assert contents.steps_of([{"created_by": "/bin/sh"}, {}]) == ["", ""]


def test_origins_of_an_image_with_layers_with_one_and_with_none() -> None:
    two = contents.origins({b"a": 1, b"b": 2}, ["base", "sync"])
    assert (two(b"a"), two(b"b")) == (Origin(step="base", layer=0), Origin(step="sync", layer=1))
    assert two(b"unknown") == Origin()
    assert contents.origins({}, ["base"])(b"a") == Origin(step="base", layer=0)
    assert contents.origins({}, [])(b"a") == Origin()
