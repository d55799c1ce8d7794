"""What is left of an image that is a directory: swept if it is ours, and left alone if it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.pool import stale
from buildstep.pool.stale import Stale


def half(stem: Path, *names: str) -> Path:
    folder = stem.with_name(f".{stem.name}.oci.12.345.part")
    (folder / "blobs/sha256").mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize("names", [(), ("oci-layout", "blobs/sha256/abc"), ("index.json", "top")])
def test_half_an_image_is_removed(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = half(tmp_path / "x-1", *names)
    item = Stale("b", "outputs", str(tmp_path / "x-1"))
    assert stale.exists(item)
    healed = stale.remove(tmp_path / "state", item)
    assert healed is not None
    assert healed.removed
    assert not folder.exists()
    folder = half(tmp_path / "x-1", *names)
    stale.sweep_outputs(tmp_path / "x-1")
    assert not folder.exists()


def test_what_is_no_image_stays(tmp_path: Path) -> None:
    folder = half(tmp_path / "x-1", "mine")
    other = tmp_path / ".x-1.notes.part"
    other.mkdir()
    (tmp_path / ".x-1.oci.1.2.part").symlink_to(tmp_path)
    stale.sweep_outputs(tmp_path / "x-1")
    assert (folder / "mine").exists()
    assert other.exists()
