"""The tar writer: what readers make of its headers, byte for byte stable, and what it costs."""

from __future__ import annotations

import base64
import io
import struct
import tarfile
import time
import urllib.parse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildstep.formats import acl, tar_writer, unpack
from buildstep.system import files
from buildstep.tree.entry import Entry, FileList, tree_digest
from tests.unit import trees


class Sponge:
    """Takes an archive and remembers where entries begin."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.starts: list[tuple[bytes, int, int]] = []

    def boundary(self, path: bytes, size: int, header: int = 512) -> None:
        self.starts.append((path, size, header))

    def write(self, data: bytes | memoryview) -> None:
        self.data += data


def archive(
    tree: FileList, content: dict[bytes, bytes], *, acl_text: bool = False, epoch: int | None = None
) -> bytes:
    out = Sponge()
    tar = tar_writer.TarWriter(out, epoch=epoch, acl_text=acl_text)
    for path in sorted(tree):
        entry = tree[path]
        tar.begin(entry)
        if entry.kind == "f" and not entry.first and entry.size:
            tar.data(0, content[path])
        tar.end(entry)
    tar.finish()
    return bytes(out.data)


def read(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        return tar.getmembers()


def one(entry: Entry, extents: files.Extents | None = None) -> tarfile.TarInfo:
    head = tar_writer.header(entry, epoch=None, extents=extents)
    body = bytes(tar_writer.content_size(entry, extents))
    (member,) = read(head + body + tar_writer.padding(len(body)) + tar_writer.END)
    return member


PLAIN = Entry(b"dir/file", "f", 0o644, 0, 0, size=3, mtime=1_600_000_000 * 10**9 + 5)


def test_a_plain_entry_is_one_block_and_has_no_names_or_fractions() -> None:
    head = tar_writer.header(PLAIN, epoch=None)
    assert len(head) == 512
    member = one(PLAIN)
    assert (member.name, member.size, member.mode, member.mtime) == (
        "dir/file",
        3,
        0o644,
        1_600_000_000,
    )
    assert (member.uname, member.gname, member.pax_headers) == ("", "", {})


@pytest.mark.parametrize(
    ("mtime", "epoch", "want"),
    [(2_000_000_000, 1_700_000_000, 1_700_000_000), (5, 10, 5), (9, 0, 0)],
)
def test_times_are_clamped(mtime: int, epoch: int | None, want: int) -> None:
    head = tar_writer.header(replace(PLAIN, mtime=mtime * 10**9), epoch=epoch)
    assert int(head[136:147], 8) == want


@pytest.mark.parametrize(
    ("second", "seen_without_pax"),
    [
        (-1, 0),
        (-(2**36), 0),
        (2**32, 2**32),
        (2**33 - 1, 2**33 - 1),
        (2**33, 2**33 - 1),
        (2**40, 2**33 - 1),
    ],
)
def test_times_before_1970_and_after_2242_are_kept(second: int, seen_without_pax: int) -> None:
    late = replace(PLAIN, mtime=second * 10**9 + 5)
    assert one(late).mtime == second
    head = tar_writer.header(late, epoch=None)
    assert int(head[-512:][136:147], 8) == seen_without_pax
    assert (len(head) == 512) == (second == seen_without_pax)
    if second > 5:
        assert tar_writer.header(late, epoch=5) == tar_writer.header(replace(PLAIN, mtime=5 * 10**9), epoch=5)


@pytest.mark.parametrize(
    "path",
    [
        b"x" * 100,
        b"x" * 101,
        b"d" * 155 + b"/" + b"x" * 100,
        b"d" * 156 + b"/" + b"x" * 100,
        b"d" * 154 + b"/" + b"x" * 101,
        b"d/" * 60 + b"x",
        b"new\nline",
        b"-leading",
        b" ",
        b"\xff\xfe" * 20,
        b"\xff\xfe" * 80,
        "é".encode() * 100,
        b"back\\slash",
        b"d/" * 900 + b"x" * 200,
    ],
)
@pytest.mark.parametrize("kind", ["f", "d", "l"])
def test_names_survive(path: bytes, kind: str) -> None:
    entry = Entry(path, kind, 0o777, 1, 2, target=path[:250] if kind == "l" else b"")
    member = one(entry)
    assert member.name.encode("utf-8", "surrogateescape") == path
    assert member.linkname.encode("utf-8", "surrogateescape") == entry.target


@pytest.mark.parametrize("ident", [0, 0o7777777, 0o7777777 + 1, 2**32 - 2])
def test_owners_survive(ident: int) -> None:
    member = one(replace(PLAIN, uid=ident, gid=ident // 2))
    assert (member.uid, member.gid) == (ident, ident // 2)


@pytest.mark.parametrize("size", [2**33 - 1, 2**33, 2**40])
def test_sizes_from_8_gib_on(size: int) -> None:
    head = tar_writer.header(replace(PLAIN, size=size), epoch=None)
    info = tarfile.TarFile(fileobj=io.BytesIO(head)).next()
    assert info is not None
    assert info.size == size
    block = tar_writer.big_size_header(b"blobs/x", size)
    assert len(block) == 512
    assert tarfile.TarInfo.frombuf(block, "utf-8", "strict").size == size


@pytest.mark.parametrize("length", [*range(80, 104), 990, 991, 992, 993, 994, 995, 9990, 9991, 9992])
def test_pax_records_count_their_own_length(length: int) -> None:
    record = tar_writer.pax_record(b"path", b"v" * length)
    assert int(record.split(b" ")[0]) == len(record)


def test_xattr_names_and_values_survive() -> None:
    pairs = (
        (b"security.capability", bytes(range(20))),
        (b"user.a=b", b"\n=\0"),
        (b"user.p%25", b""),
        (b"user.plain%41", b"x"),
    )
    for name, _ in pairs:
        assert tar_writer.xattr_name(tar_writer.xattr_key(name)[len(b"SCHILY.xattr.") :]) == name
    member = one(replace(PLAIN, xattrs=pairs))
    assert member.pax_headers["SCHILY.xattr.user.a%3Db"] == "\n=\0"
    # Who does not know GNU tar's way of writing a name with `=` finds it, and its value, in libarchive's.
    told = {
        urllib.parse.unquote_to_bytes(key[17:]): base64.b64decode(value + "=" * (-len(value) % 4))
        for key, value in member.pax_headers.items()
        if key.startswith("LIBARCHIVE.xattr.")
    }
    assert told == dict(pairs[1:3])


ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *row)
    for row in (
        (1, 6, 2**32 - 1),
        (2, 4, 1000),
        (2, 7, 70000),
        (4, 5, 2**32 - 1),
        (8, 1, 33),
        (16, 7, 2**32 - 1),
        (32, 0, 2**32 - 1),
    )
)


def test_acls_become_text_and_come_back() -> None:
    text = acl.acl_to_text(ACL)
    assert text == (
        b"user::rw-,user:1000:r--:1000,user:70000:rwx:70000,group::r-x,group:33:--x:33,mask::rwx,other::---"
    )
    assert acl.parse_acl(text).value() == ACL
    assert acl.parse_acl(b"user::rw-\nuser:lisa:r--:1000 # c\ngroup::r--\nmask::r--\nother::---").value()
    for junk in (b"", b"\x01\0\0\0", ACL[:-1], ACL[:4] + b"\xff" * 8):
        assert acl.acl_to_text(junk) is None
    named = b"user::rw-,user:lisa:r--,group::r--,group:w=eb:r--,mask::r--,other::---"
    numbers = {("user", "lisa"): 1000, ("group", "w=eb"): 7}
    assert acl.parse_acl(named).names == set(numbers)
    assert acl.parse_acl(text).names == set()
    assert acl.acl_to_text(acl.parse_acl(named).value(numbers)) == (
        b"user::rw-,user:1000:r--:1000,group::r--,group:7:r--:7,mask::r--,other::---"
    )
    for wrong in (b"user", b"nobody::rwx", b"user:4294967295:rwx"):
        with pytest.raises(ValueError):
            acl.parse_acl(wrong).value()


def test_a_broken_acl_is_kept_as_it_is() -> None:
    entry = replace(PLAIN, size=0, xattrs=((b"system.posix_acl_access", b"junk"),))
    head = tar_writer.header(entry, epoch=None, acl_text=True)
    assert b"SCHILY.xattr.system.posix_acl_access=junk\n" in head


@pytest.mark.parametrize(
    ("extents", "size"),
    [
        ([], 1 << 40),
        ([(0, 512)], 1 << 20),
        ([(4096, 100)], 4196),
        ([(4096, 4096), (1 << 34, 512)], 1 << 35),
        ([(i * 8192, 4096) for i in range(500)], 500 * 8192),
    ],
)
def test_sparse_files(extents: list[tuple[int, int]], size: int) -> None:
    path = b"d/" * 70 + b"disk.img"
    member = one(replace(PLAIN, path=path, size=size), extents)
    assert member.name == path.decode()
    assert member.size == size
    sparse: Any = getattr(member, "sparse", None)
    pieces = [tuple(piece) for piece in sparse or () if piece[1]]
    assert pieces == extents


def test_the_writer_tells_where_entries_begin_and_how_long_they_are() -> None:
    out = Sponge()
    tar = tar_writer.TarWriter(out, epoch=None)
    entry = replace(PLAIN, size=1000, path=b"p" * 300)
    tar.begin(entry)
    tar.data(0, bytes(1000))
    tar.end(entry)
    assert out.starts == [(entry.path, 1000, 512 * 3)]
    assert len(out.data) == 512 * 3 + 1024


def test_missing_content_is_our_bug() -> None:
    tar = tar_writer.TarWriter(Sponge(), epoch=None)
    tar.begin(PLAIN)
    with pytest.raises(AssertionError, match="missing"):
        tar.end(PLAIN)


def test_whiteouts() -> None:
    assert tar_writer.whiteout(b"a/b").path == b"a/.wh.b"
    assert tar_writer.whiteout(b"b").path == b".wh.b"


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)
@given(trees.entries(), st.booleans())
def test_random_trees_come_back_and_bytes_are_stable(
    tmp_path_factory: pytest.TempPathFactory, tree: tuple[FileList, dict[bytes, bytes]], acls: bool
) -> None:
    entries, content = tree
    data = archive(entries, content, acl_text=acls)
    assert data == archive(entries, content, acl_text=acls)
    assert len(data) % 512 == 0
    into = Path(tmp_path_factory.mktemp("t"))
    try:
        got = unpack.unpack(io.BytesIO(data), into, privileged=False)
    finally:
        for path in sorted(into.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
    assert tree_digest(got) == tree_digest(entries)
    assert {p: e.mtime for p, e in got.items()} == {p: e.mtime for p, e in entries.items()}


def test_a_plain_header_costs_little() -> None:
    entries = [
        Entry(b"usr/share/doc/package-%06d/file" % i, "f", 0o644, 0, 0, size=i, mtime=10**18)
        for i in range(20_000)
    ]
    begin = time.process_time()
    for entry in entries:
        tar_writer.header(entry, epoch=1_700_000_000)
    # 2 us each when measured; the bound only catches a header that went down the slow way.
    assert (time.process_time() - begin) / len(entries) < 30e-6
