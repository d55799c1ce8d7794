"""The index of an archive that is read in place: what is damaged is refused, as where archives are unpacked."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from buildstep.errors import ImageError
from buildstep.formats.archive_index import read_index
from buildstep.images.file_kind import kind_of


def header(name: str, *, size: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """One member without content. size: the field's bytes, if they are to be odd ones; with a right sum."""
    member = tarfile.TarInfo(name)
    member.pax_headers = headers or {}
    if not size:
        return member.tobuf(tarfile.PAX_FORMAT)
    block = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 8 * 32)
    return bytes(block)


GOOD = header("oci-layout")
LOOP = header("..", size=b"\xff" * 10 + b"\xfe\0")
"""A member of -512 bytes: what follows it would be itself. Its name is one that is passed over."""

DAMAGED = {
    "a block that is no header": GOOD + b"x" * 512 + bytes(1024),
    "a number that is none": GOOD + header("f", headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
    "a negative size": GOOD + LOOP + bytes(1024),
    "a negative size in a record": GOOD + header("f", headers={"size": "-512"}) + bytes(1024),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_is_damaged_is_refused_by_name(what: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DAMAGED[what])
    with pytest.raises(ImageError, match=r"^oci:x: the archive is damaged"):
        read_index(tmp_path / "x", "oci:x")


def test_what_is_damaged_has_no_kind(tmp_path: Path) -> None:
    """While the names are a container's, the whole of it is read."""
    named = header("blobs") + header("index.json")
    for content in DAMAGED.values():
        (tmp_path / "x").write_bytes(named + content.removeprefix(GOOD))
        with pytest.raises(ImageError, match="x is damaged: "):
            kind_of(tmp_path / "x")


def test_padding_and_end_mark_may_be_missing(tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("f\udcff")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    for end in (515, 600, 1024, 1536):
        (tmp_path / "x").write_bytes(raw.getvalue()[:end])
        place = read_index(tmp_path / "x", "x").get("f\udcff")
        assert place is not None
        assert (place.offset, place.size) == (512, 3)
    (tmp_path / "x").write_bytes(raw.getvalue()[:514])
    with pytest.raises(ImageError, match="ends inside of f"):
        read_index(tmp_path / "x", "x")
