"""Names of files beside an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.trust import sidecars
from buildstep.trust.sidecars import BUNDLE, SIDECARS, SSHSIG, STATEMENTS, sidecar, signature_files, stem_of


@pytest.mark.parametrize(
    "ending",
    [
        ".oci.tar", ".oci", ".oci.tar.gz", ".tar", ".tar.gz", ".tar.zst", ".tar.xz", ".tar.bz2", ".zfs", ".zfs.gz",
        ".zvol.zst", ".btrfs", ".btrfs.zst", ".files.json", ".imgmanifest", ".buildrecord.json", *SIDECARS.values(),
    ],
)  # fmt: skip
def test_every_output_of_a_build_leads_to_one_stem(ending: str) -> None:
    assert stem_of(Path(f"bits/hello-1.0.0{ending}")) == Path("bits/hello-1.0.0")


def test_what_no_build_wrote_is_its_own_stem() -> None:
    assert stem_of(Path("a/notes.txt")) == Path("a/notes.txt")
    assert stem_of(Path("a/.tar")) == Path("a/.tar"), "there is nothing before the ending"
    assert sidecar(Path("a/notes.txt"), SSHSIG) == Path("a/notes.txt.sig")


def test_a_signature_is_looked_for_under_the_name_of_its_own_file_first() -> None:
    found = signature_files(Path("d/web-2.zfs.gz"), BUNDLE)
    assert found == (Path("d/web-2.zfs.gz.sigstore.json"), Path("d/web-2.sigstore.json"))
    assert signature_files(Path("d/blob"), SSHSIG) == (Path("d/blob.sig"),)
    assert sidecar(Path("d/web-2"), STATEMENTS) == Path("d/web-2.intoto.jsonl")


def test_of_a_directory_its_index_is_signed(tmp_path: Path) -> None:
    image = tmp_path / "web-2.oci"
    image.mkdir()
    assert sidecars.signed_file(image) == image, "it is no image"
    for name in ("index.json", "oci-layout"):
        (image / name).write_text("{}")
    assert sidecars.signed_file(image) == image / "index.json"
    assert sidecars.signed_file(tmp_path / "web-2.tar") == tmp_path / "web-2.tar"
