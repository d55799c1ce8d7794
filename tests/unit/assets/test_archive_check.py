"""What can be an asset, and what is refused before it is stored."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.assets.archive_check import LIMITS, Policy, check_archive
from buildstep.errors import ImageError
from buildstep.formats.codecs import codec
from tests.servers.archives import Member, member, tar, tar_gz

DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def check(path: Path, *members: Member, policy: Policy | None = None, form: str = ".tar.gz") -> object:
    path = path / "asset"
    path.write_bytes(tar_gz(*members))
    return check_archive(path, form, policy or Policy())


def test_what_is_told_of_a_good_one(tmp_path: Path) -> None:
    data = tar_gz(member("./", DIR, mode=0o755), ("./bin/run", b"#!/bin/sh\n"), ("lib/x", b"x" * 100_000))
    (tmp_path / "a").write_bytes(data)
    found = check_archive(tmp_path / "a", ".tar.gz")
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.size == len(data)
    assert found.content == 100_010
    assert found.entries == 5, "the top, and two directories that have no member of their own"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "bin/../../../etc/cron.d/x", "./../x"])
def test_d14_a_member_that_leads_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="refused: 1 fault") as caught:
        check(tmp_path, ("good", b"x"), (name, b"x"))
    assert "leads out of the root" in caught.value.detail


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([member("a", LINK, linkname="/etc"), ("a/passwd", b"x")], "link out of the asset, to /etc"),
        ([member("a", LINK, linkname=".."), ("a/x", b"x")], "out of the root"),
        ([member("d/a", LINK, linkname="../.."), ("d/a/b/x", b"x")], "out of the root"),
        ([member("a", LINK, linkname="../elsewhere")], "out of the asset, to ../elsewhere"),
        ([member("a", LINK, linkname="/etc/passwd")], "out of the asset, to /etc/passwd"),
        (
            [member("t/", DIR), member("p/q/l", LINK, linkname="../../t"), member("z", LINK, linkname="p/q/l/../../x")],
            "out of the asset",
        ),
        ([member("a", LINK, linkname="b"), member("b", LINK, linkname="a")], "out of the asset"),
        ([member("a", HARD, linkname="../../etc/shadow")], "hard link to '../../etc/shadow'"),
        ([member("a", HARD, linkname="/etc/shadow")], "nothing that came before"),
        ([member("dev", tarfile.CHRTYPE, devmajor=1, devminor=3)], "device nodes"),
        ([member("dev", tarfile.BLKTYPE, devmajor=8, devminor=0)], "device nodes"),
        ([member("pipe", tarfile.FIFOTYPE)], "a named pipe"),
        ([("f", b"x"), ("f/below", b"x")], "not a directory"),
        ([member("odd", b"Z")], "unknown type"),
    ],
    ids=[
        "link out and through", "link up and through", "deep link up and through", "link up", "absolute link",
        "through another link", "circle", "hard link out", "absolute hard link", "character device",
        "block device", "pipe", "below a file", "unknown type",
    ],
)  # fmt: skip
def test_d14_hostile_members(tmp_path: Path, members: list[Member], why: str) -> None:
    with pytest.raises(ImageError, match="refused") as caught:
        check(tmp_path, ("good", b"x"), *members)
    assert why in caught.value.detail
    assert caught.value.hint


def test_links_inside_are_good(tmp_path: Path) -> None:
    check(
        tmp_path,
        ("lib/libx.so.1", b"x"),
        member("lib/libx.so", LINK, linkname="libx.so.1"),
        member("bin/up", LINK, linkname="../lib/libx.so"),
        member("top", LINK, linkname="."),
        member("dangling", LINK, linkname="not/there"),
        member("hard", HARD, linkname="lib/libx.so.1"),
    )


def test_links_out_can_be_allowed_but_not_gone_through(tmp_path: Path) -> None:
    allowed = Policy(links_out=True)
    mtab = member("etc/mtab", LINK, linkname="/proc/self/mounts")
    check(tmp_path, mtab, policy=allowed)
    with pytest.raises(ImageError, match="refused"):
        check(tmp_path, member("a", LINK, linkname="../.."), ("a/x", b"x"), policy=allowed)


def test_d14_bombs(tmp_path: Path) -> None:
    few = Policy(limits=replace(LIMITS, entries=50))
    with pytest.raises(ImageError, match="refused") as caught:
        check(tmp_path, *((f"f{number}", b"") for number in range(60)), policy=few)
    assert "more than 50 entries" in caught.value.detail
    small = Policy(limits=replace(LIMITS, size=1000))
    with pytest.raises(ImageError, match="refused") as caught:
        check(tmp_path, ("a", b"x" * 600), ("b", b"x" * 600), policy=small)
    assert "more than 1000 bytes together" in caught.value.detail
    # A header that promises more than there is costs nothing: it is refused by what it says.
    huge = member("huge")
    huge.size = 1 << 50
    (tmp_path / "huge").write_bytes(gzip.compress(huge.tobuf(tarfile.GNU_FORMAT), mtime=0))
    with pytest.raises(ImageError, match="refused"):
        check_archive(tmp_path / "huge", ".tar.gz")


def test_d14_a_bomb_by_ratio(tmp_path: Path) -> None:
    """A few kilobytes that would fill a disk with anything but zeros, which become holes."""
    block = gzip.compress(b"x" * (16 << 20), 9, mtime=0)
    info = member("bomb")
    info.size = 192 << 20
    head = gzip.compress(info.tobuf(tarfile.GNU_FORMAT), mtime=0)
    (tmp_path / "bomb").write_bytes(head + block * 12)
    with pytest.raises(ImageError, match="unpacks to more than 250 times"):
        check_archive(tmp_path / "bomb", ".tar.gz")


def test_what_comes_twice_or_differs_in_case_only_is_two_files_or_the_later_one(tmp_path: Path) -> None:
    found = check(tmp_path, ("a", b"first"), ("A", b"other"), ("./a", b"second!"))
    assert getattr(found, "entries", 0) == 3
    assert getattr(found, "content", 0) == len("other") + len("second!")


def test_a_pax_global_header_as_git_archive_writes_it(tmp_path: Path) -> None:
    data = tar([("a", b"x")], format=tarfile.PAX_FORMAT, pax_headers={"comment": "0123abcd"})
    assert b"g" in data[156:157], "it begins with one"
    (tmp_path / "a").write_bytes(gzip.compress(data, mtime=0))
    assert check_archive(tmp_path / "a", ".tar.gz").entries == 2


@pytest.mark.parametrize("cut", [1, 20, 200, 5000])
def test_d14_what_is_cut_short(tmp_path: Path, cut: int) -> None:
    data = tar_gz(("a", bytes(range(256)) * 40), ("b", bytes(range(255)) * 44))
    (tmp_path / "a").write_bytes(data[: max(8, len(data) - cut)])
    with pytest.raises(ImageError):
        check_archive(tmp_path / "a", ".tar.gz")


def test_d14_what_is_altered(tmp_path: Path) -> None:
    data = bytearray(tar_gz(("a", bytes(range(256)) * 40)))
    data[-6] ^= 1  # in the checksum of the content
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ImageError):
        check_archive(tmp_path / "a", ".tar.gz")


@pytest.mark.parametrize(
    ("data", "form", "match"),
    [
        (b"", ".tar.gz", "empty"),
        (b"#!/bin/sh\necho hello\n" * 30, ".tar.gz", "compressed with nothing"),
        (tar([("a", b"x")]), ".tar.gz", "compressed with nothing"),
        (tar_gz(("a", b"x")), ".tar.zst", "compressed with gzip, not with zstd"),
        (gzip.compress(b"no tar at all, but long enough for a header" * 30), ".tar.gz", "not a tar|damaged"),
        (gzip.compress(tar([])), ".tar.gz", "holds nothing"),
        (gzip.compress(tar([("a", b"x")])[:1024]), ".tar.gz", "no end mark"),
    ],
    ids=["empty", "script", "plain tar", "other compression", "no tar", "nothing in it", "no end"],
)
def test_d14_what_is_no_tarball(tmp_path: Path, data: bytes, form: str, match: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ImageError, match=match):
        check_archive(tmp_path / "a", form)


def test_zstd(tmp_path: Path) -> None:
    data = codec("zstd").compress(tar([("a", b"x" * 1000)]))
    (tmp_path / "a").write_bytes(data)
    assert check_archive(tmp_path / "a", ".tar.zst").content == 1000


def test_behind_the_end_all_is_hashed(tmp_path: Path) -> None:
    """Bytes that no reader of the archive looks at are part of the file."""
    stream = io.BytesIO(tar_gz(("a", b"x")) + bytes(3_000_000))
    (tmp_path / "a").write_bytes(stream.getvalue())
    found = check_archive(tmp_path / "a", ".tar.gz")
    assert (found.size, found.sha256) == (
        len(stream.getvalue()),
        hashlib.sha256(stream.getvalue()).hexdigest(),
    )
