"""Checked extraction: what is refused, what is kept, and layers laid over one another."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from buildstep.errors import ImageError
from buildstep.formats import acl, tar_writer
from buildstep.formats.codecs import codec
from buildstep.formats.tree_writer import Lister
from buildstep.formats.unpack import Limits, apply_layer, list_archive, list_layer, unpack
from buildstep.tree import entry as tree_entry
from buildstep.tree.entry import Entry, FileList, tree_digest
from tests.unit import trees


def info(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    made.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def link(name: str, target: str) -> tarfile.TarInfo:
    return info(name, tarfile.LNKTYPE, linkname=target)


def symlink(name: str, target: str) -> tarfile.TarInfo:
    return info(name, tarfile.SYMTYPE, linkname=target)


def directory(name: str, **fields: object) -> tarfile.TarInfo:
    return info(name, tarfile.DIRTYPE, **fields)


def tar(*rows: tarfile.TarInfo | tuple[str, bytes], end: bool = True) -> bytes:
    out = io.BytesIO()
    archive = tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
    for row in rows:
        if isinstance(row, tarfile.TarInfo):
            archive.addfile(row)
        else:
            archive.addfile(info(row[0], size=len(row[1])), io.BytesIO(row[1]))
    data = out.getvalue()
    return data + bytes(1024) if end else data


@pytest.fixture
def into(tmp_path: Path) -> Path:
    path = tmp_path / "into"
    path.mkdir()
    return path


def extract(data: bytes, into: Path, **limits: int) -> FileList:
    """Unpack an archive; listing it gives the same."""
    found = unpack(io.BytesIO(data), into, privileged=False, limits=Limits(**limits))
    assert list_archive(io.BytesIO(data), Lister(nothing), limits=Limits(**limits)) == found
    return found


def nothing(_path: bytes) -> bool:
    return False


def refused(data: bytes, into: Path, **limits: int) -> str:
    before = sorted(os.listdir(into.parent))
    with pytest.raises(ImageError) as caught:
        extract(data, into, **limits)
    with pytest.raises(ImageError) as listed:
        list_archive(io.BytesIO(data), Lister(nothing), limits=Limits(**limits))
    assert (listed.value.message, listed.value.detail) == (caught.value.message, caught.value.detail)
    assert sorted(os.listdir(into.parent)) == before
    return f"{caught.value.message}\n{caught.value.detail}"


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, lzma.compress, codec("zstd").compress],
    ids=["plain", "gz", "bz2", "xz", "zst"],
)
def test_every_compression_is_told_by_its_magic(into: Path, pack: Callable[[bytes], bytes]) -> None:
    found = extract(pack(tar(directory("./etc/"), ("./etc/motd", b"hi"))), into)
    assert (into / "etc/motd").read_bytes() == b"hi"
    assert list(found) == [b"", b"etc", b"etc/motd"]
    assert found[b"etc/motd"].sha256 == hashlib.sha256(b"hi").hexdigest()


def test_times_modes_owners_are_exact_in_the_result(into: Path) -> None:
    found = extract(
        tar(
            info(
                "f",
                mode=0o4755,
                uid=3_000_000,
                gid=7,
                pax_headers={"mtime": "1600000000.123456789"},
            ),
            directory("d", mode=0o1000, mtime=5),
            info("tty", tarfile.CHRTYPE, devmajor=5, devminor=1, mode=0o600),
            info("fifo", tarfile.FIFOTYPE),
        ),
        into,
    )
    entry = found[b"f"]
    assert (entry.mode, entry.uid, entry.gid) == (0o4755, 3_000_000, 7)
    assert entry.mtime == 1_600_000_000_123_456_789
    assert (into / "f").stat().st_mtime_ns == entry.mtime
    assert (into / "f").stat().st_mode & 0o7777 == 0o755  # no setuid for the agent's user
    assert (into / "d").stat().st_mode & 0o7777 == 0o700
    assert (into / "d").stat().st_mtime == 5
    assert found[b"d"].mode == 0o1000
    assert found[b"tty"].rdev == (5, 1)
    assert not (into / "tty").exists()
    assert (into / "fifo").is_fifo()


def test_hard_links_are_groups_whatever_their_order(into: Path) -> None:
    found = extract(
        tar(("z", b"data"), link("a", "z"), link("m", "./a"), symlink("s", "x"), link("t", "s")), into
    )
    assert found[b"a"].first == b""
    assert found[b"m"].first == found[b"z"].first == b"a"
    assert found[b"t"].first == b"s"
    assert tree_digest(found)
    assert (into / "a").stat().st_nlink == 3
    scanned = trees.scanned(into)
    for path in (b"a", b"m", b"z", b"t"):
        assert found[path].first == scanned[path].first
        assert found[path].sha256 == scanned[path].sha256


def test_sparse_files_get_their_holes_back(into: Path, tmp_path: Path) -> None:
    found = extract(_sparse_tar(), into)
    assert (into / "disk").stat().st_size == 8 << 20
    assert (into / "disk").stat().st_blocks * 512 <= 64 << 10
    data = (into / "disk").read_bytes()
    assert data[4096:4100] == b"xxxx"
    assert found[b"disk"].sha256 == hashlib.sha256(data).hexdigest()


def _sparse_tar() -> bytes:
    entry = Entry(b"disk", "f", 0o644, 0, 0, size=8 << 20)
    head = tar_writer.header(entry, epoch=0, extents=[(4096, 4096)])
    twin = Entry(b"twin", "f", 0o644, 0, 0, first=b"disk")
    return head + b"x" * 4096 + tar_writer.header(twin, epoch=0) + tar_writer.END


@pytest.mark.parametrize("pieces", [[], [(0, 4096)], [(4096, 100)]])
def test_a_small_file_may_end_with_a_hole(into: Path, pieces: list[tuple[int, int]]) -> None:
    entry = Entry(b"small", "f", 0o644, 0, 0, size=8192)
    data = b"x" * sum(length for _, length in pieces)
    head = tar_writer.header(entry, epoch=0, extents=pieces)
    found = extract(head + data + bytes(-len(data) % 512) + tar_writer.END, into)
    content = (into / "small").read_bytes()
    assert len(content) == found[b"small"].size == 8192
    assert found[b"small"].sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.commands("tar")
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_gnu_tars_sparse_files_are_read(into: Path, tmp_path: Path, form: str) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(1 << 20)
    argv = ["tar", "-S", "-H", form, "-C", os.fspath(tmp_path), "-cf", "-", "holes"]
    extract(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout, into)
    assert (into / "holes").read_bytes() == (tmp_path / "holes").read_bytes()


def test_missing_parents_are_made(into: Path) -> None:
    found = extract(tar(("a/b/c", b"")), into)
    assert [found[p].kind for p in (b"", b"a", b"a/b", b"a/b/c")] == ["d", "d", "d", "f"]
    assert found[b"a/b"].mode == 0o755


def test_the_later_of_two_members_wins(into: Path) -> None:
    found = extract(
        tar(
            ("f", b"one"),
            ("f", b"second"),
            directory("d", mode=0o700),
            ("d/x", b""),
            directory("d", mode=0o750),
            symlink("l", "/etc/passwd"),
            ("l", b"now a file"),
            directory("gone"),
            ("gone/y", b""),
            ("gone", b"file"),
            ("h", b"h"),
            link("i", "h"),
            ("h", b"new"),
        ),
        into,
    )
    assert (into / "f").read_bytes() == b"second"
    assert found[b"d"].mode == 0o750
    assert (into / "d/x").exists()
    assert (into / "l").read_bytes() == b"now a file"
    assert b"gone/y" not in found
    assert (into / "i").read_bytes() == b"h"
    scanned = trees.scanned(into)
    assert {p: e.sha256 for p, e in found.items()} == {p: e.sha256 for p, e in scanned.items()}
    assert all(not e.first for e in found.values())


# -- names from the root, and links inside it ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["/ko-app/app", "//ko-app///app", "./ko-app/./app", "/./ko-app/app", "x/../ko-app/app"]
)
def test_names_are_taken_from_the_root(into: Path, name: str) -> None:
    found = extract(tar((name, b"go"), link("/usr//bin/./app", name)), into)
    assert list(found) == [b"", b"ko-app", b"ko-app/app", b"usr", b"usr/bin", b"usr/bin/app"]
    assert found[b"usr/bin/app"].first == b"ko-app/app"
    assert (into / "usr/bin/app").read_bytes() == b"go"


def test_the_root_itself_may_be_named_with_a_slash(into: Path) -> None:
    assert extract(tar(directory("/", mode=0o711), ("/etc/motd", b"")), into)[b""].mode == 0o711


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([symlink("lib", "usr/lib")], id="relative"),
        pytest.param([symlink("lib", "/usr/lib")], id="absolute"),
        pytest.param([symlink("lib", "./usr//lib/")], id="untidy"),
        pytest.param([symlink("lib", "usr/share/../lib"), directory("usr/share")], id="with dots"),
        pytest.param([symlink("usr/l", "lib"), symlink("lib", "/usr/l")], id="through another"),
        pytest.param([symlink("opt/lib", "../usr/lib"), symlink("lib", "opt/lib")], id="up, and down"),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_links_among_the_parents_are_followed_inside_the_root(
    into: Path, rows: list[tarfile.TarInfo], there: bool
) -> None:
    """As runtimes do; what a link leads to and is not there is made."""
    target = [directory("usr/lib", mode=0o700)] if there else []
    found = extract(
        tar(*target, *rows, ("lib/foo", b"foo"), ("/lib/d/bar", b"bar"), link("l2", "lib/foo")), into
    )
    assert (into / "usr/lib/foo").read_bytes() == b"foo"
    assert (into / "usr/lib/d/bar").read_bytes() == b"bar"
    assert found[b"usr/lib/foo"].first == b"l2"
    assert found[b"usr/lib"].mode == (0o700 if there else 0o755)
    assert found[b"lib"].kind == "l"
    assert not [path for path in found if path.startswith(b"lib/")]
    assert list(found) == sorted(trees.scanned(into))


def test_a_hard_link_to_itself_by_another_name_is_nothing_to_do(into: Path) -> None:
    found = extract(tar(("usr/lib/x", b"x"), symlink("lib", "usr/lib"), link("lib/x", "/usr/lib/x")), into)
    assert (into / "usr/lib/x").read_bytes() == b"x"
    assert found[b"usr/lib/x"].first == b""


def test_a_directory_takes_the_place_of_a_link(into: Path) -> None:
    """As in runtimes and in tar: what comes behind it goes into the new directory."""
    found = extract(tar(symlink("lib", "usr/lib"), directory("lib"), ("lib/foo", b"")), into)
    assert list(found) == [b"", b"lib", b"lib/foo"]


def test_links_are_never_looked_up_on_the_host(into: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    rows = [symlink("l", os.fspath(outside)), ("l/secret", b"new"), ("l/made", b"")]
    found = extract(tar(*rows), into)  # type: ignore[arg-type]
    assert (outside / "secret").read_bytes() == b"secret"
    assert os.listdir(outside) == ["secret"]
    assert os.fsencode(outside).lstrip(b"/") + b"/made" in found


# -- refusals -------------------------------------------------------------------------------------------


HOSTILE: list[tuple[str, bytes, str]] = [
    ("dots", tar(("../x", b"")), "leads out of the root"),
    ("inner dots", tar(("a/../../x", b"")), "leads out of the root"),
    ("absolute dots", tar(("/../x", b"")), "leads out of the root"),
    ("through dots", tar(symlink("l", ".."), ("l/a/x", b"")), "through the symbolic link l -> .., out of"),
    (
        "through more dots",
        tar(symlink("d/l", "../../tmp"), symlink("m", "/d/l"), ("m/x", b"")),
        "through the symbolic link d/l -> ../../tmp, out of the root",
    ),
    ("in a circle", tar(symlink("a", "b"), symlink("b", "a/c"), ("a/x", b"")), "more than 40 symbolic links"),
    ("circle of one", tar(symlink("a", "a"), ("a/x", b"")), "more than 40 symbolic links"),
    ("link to a file", tar(("f", b""), symlink("l", "f"), ("l/x", b"")), "below f, which is not a directory"),
    ("long link", tar(symlink("l", "x" * 300), ("l/y", b"")), "too long"),
    ("long way", tar(symlink("l", "y/" * 2000), ("l/" + "x/" * 1000 + "y", b"")), "a path of "),
    ("below a file", tar(("f", b""), ("f/x", b"")), "below f, which is not a directory"),
    ("link out", tar(link("h", "../../etc/shadow")), "hard link to '../../etc/shadow'"),
    ("link absolute", tar(link("h", "/etc/shadow")), "nothing that came before"),
    ("link out by link", tar(symlink("l", ".."), link("h", "l/shadow")), "symbolic link l -> .., out of"),
    ("link nowhere", tar(link("h", "later"), ("later", b"")), "nothing that came before"),
    ("link to dir", tar(directory("d"), link("h", "d")), "which is a directory"),
    ("link through", tar(symlink("l", "/etc"), link("h", "l/shadow")), "nothing that came before"),
    ("top is a file", tar(info(".")), "top of the tree"),
    ("top is a link", tar(symlink("./", "/")), "top of the tree"),
    ("unknown type", tar(info("v", b"V")), "unknown type"),
    ("device", tar(info("d", tarfile.BLKTYPE, devmajor=5000, devminor=0)), "device number"),
    ("whiteout device", tar(info("d", tarfile.CHRTYPE)), "0:0"),
    ("long name", tar(("x" * 300, b"")), "too long"),
    ("long path", tar(("x/" * 3000 + "y", b"")), "a path of 6001 bytes"),
    ("time", tar(info("t", pax_headers={"mtime": "nan"})), "the time"),
    ("endless time", tar(info("t", pax_headers={"mtime": "9" * 20})), "a time of"),
    ("acl", tar(info("t", pax_headers={"SCHILY.acl.access": "root"})), "not understood"),
    ("xattr", tar(info("t", pax_headers={"SCHILY.xattr.": "x"})), "attribute"),
    ("base64", tar(info("t", pax_headers={"LIBARCHIVE.xattr.user.x": "*"})), "not understood"),
]


@pytest.mark.parametrize(("data", "why"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_hostile_members_are_refused(into: Path, data: bytes, why: str) -> None:
    assert why in refused(data, into)


def test_all_refusals_are_told_in_one_error_and_the_list_is_bounded(into: Path) -> None:
    text = refused(tar(("/../a", b""), ("ok", b""), ("../b", b""), link("c", "nope")), into)
    assert "3 faults" in text
    assert [line.split(":")[0].strip() for line in text.splitlines()[1:]] == ["/../a", "../b", "c"]
    into.joinpath("ok").unlink(missing_ok=True)
    text = refused(tar(*((f"../{i}", b"") for i in range(50))), into)
    assert "50 faults" in text
    assert "and 30 more" in text


def test_limits(into: Path) -> None:
    assert "more than 2 entries" in refused(tar(("a", b""), ("b", b""), ("c", b"")), into, entries=2)
    nodes = [info(f"n{i}", tarfile.CHRTYPE, devmajor=1, devminor=3) for i in range(3)]
    assert "more than 2 device nodes" in refused(tar(*nodes), into, devices=2)
    assert "more than 1000 bytes" in refused(_sparse_tar(), into, size=1000)
    huge = info("huge", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    assert "damaged" in refused(tar(huge), into)


@pytest.mark.parametrize("cut", [100, 600, 1023, 1300, -1024, -1500])
def test_archives_that_are_cut_short(into: Path, cut: int) -> None:
    data = tar(("a", b"x" * 700), ("b", b"y" * 10))
    assert "archive" in refused(data[:cut], into)


def test_damage(into: Path) -> None:
    assert "archive" in refused(b"", into)
    assert "not a tar" in refused(b"hello world" * 100, into)
    data = bytearray(tar(("a", b"x" * 700), ("b", b"y" * 10)))
    data[512 + 1024 + 3] ^= 1  # in the second header: tarfile itself would stop there, content
    assert "damaged" in refused(bytes(data), into)
    big = info("x", tarfile.XHDTYPE, size=1 << 30)
    assert "header of" in refused(big.tobuf(tarfile.USTAR_FORMAT) + bytes(4096), into)
    negative = bytearray(info("x").tobuf(tarfile.USTAR_FORMAT))
    negative[124:136] = b"\xff" * 12
    total = sum(negative[:148]) + sum(negative[156:]) + 256
    negative[148:156] = b"%06o\0 " % total
    assert "size of -1" in refused(bytes(negative) + bytes(1024), into)


def test_a_full_disk_is_an_image_error(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_more: object) -> None:
        raise OSError(28, "No space left on device", os.fspath(into / "d"))

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(ImageError, match="No space left") as caught:
        extract(tar(directory("d")), into)
    assert caught.value.retryable


def test_selinux_labels_and_overlay_marks_are_not_part_of_an_image(into: Path) -> None:
    headers = {
        "SCHILY.xattr.security.selinux": "x",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.redirect": "/",
        "SCHILY.xattr.user.keep": "1",
        "LIBARCHIVE.xattr.user.b%3Dc": "AAE",
        "SCHILY.acl.access": "user::rw-,group::r--,other::r--",
    }
    found = extract(tar(info("f", pax_headers=headers)), into)
    assert found[b"f"].xattrs == ((b"user.b=c", b"\0\1"), (b"user.keep", b"1"))


def test_acl_text_becomes_the_attribute(into: Path) -> None:
    text = "user::rw-,user:lisa:r--:1000,group::r--,mask::r--,other::r--"
    found = extract(tar(info("f", pax_headers={"SCHILY.acl.access": text})), into)
    ((name, value),) = found[b"f"].xattrs
    assert name == b"system.posix_acl_access"
    assert value[:4] == struct.pack("<I", 2)
    assert len(value) == 4 + 5 * 8


def test_attributes_as_bsdtar_writes_them(into: Path) -> None:
    headers = {
        "LIBARCHIVE.xattr.user.%C3%A9": "dg", "SCHILY.xattr.user.%C3%A9": "v",
        "LIBARCHIVE.xattr.user.a%3Db": "dw", "SCHILY.xattr.user.a%3Db": "w",
        "SCHILY.xattr.user.gnu%3D": "x",
    }  # fmt: skip
    found = extract(tar(info("f", pax_headers=headers)), into)
    assert found[b"f"].xattrs == ((b"user.a=b", b"w"), (b"user.gnu=", b"x"), ("user.é".encode(), b"v"))


NAMED = "user::rw-\nuser:lisa:rw-\ngroup::r--\ngroup:web:r-x\nmask::rwx\nother::r--\n"
"""As GNU tar writes it; with and without --numeric-owner."""


def with_names(*more: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    return tar(
        info("f", pax_headers={"SCHILY.acl.access": NAMED}),
        link("twin", "f"),
        directory("d", pax_headers={"SCHILY.acl.access": NAMED, "SCHILY.acl.default": NAMED}),
        ("d/inside", b""),
        ("etc/group", b"web:x:33:\n"),
        *more,
    )


def test_names_in_acls_are_those_of_the_images_own_tables(into: Path) -> None:
    found = extract(with_names(("etc/passwd", b"root:x:0:0::/:\nlisa:x:1000:1000::/:\n")), into)
    text = b"user::rw-,user:1000:rw-:1000,group::r--,group:33:r-x:33,mask::rwx,other::r--"
    for path in (b"f", b"twin", b"d"):
        assert acl.acl_to_text(dict(found[path].xattrs)[b"system.posix_acl_access"]) == text
        assert found[path].mode == 0o674  # with the mask for the group
    assert found[b"twin"].first == b"f"
    assert acl.acl_to_text(dict(found[b"d"].xattrs)[b"system.posix_acl_default"]) == text
    assert found[b"d/inside"].xattrs == ()
    # A later member of the name counts, not the first.
    late = with_names(("etc/passwd", b"lisa:x:5:5::/:\n"), ("f", b"plain"))
    other = into.parent / "other"
    other.mkdir()
    assert extract(late, other)[b"f"].xattrs == ()


def test_each_acl_is_parsed_once(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = Mock(wraps=acl._rows)
    monkeypatch.setattr(acl, "_rows", parse)
    data = with_names(("etc/passwd", b"lisa:x:5:5::/:\n"))
    unpack(io.BytesIO(data), into, privileged=False)
    assert [call.args for call in parse.call_args_list] == [(NAMED.encode(),)] * 3


def test_names_in_acls_that_the_image_does_not_know_are_told(into: Path) -> None:
    told = refused(with_names(("etc/passwd", b"root:x:0:0::/:\n")), into)
    assert "  f: its ACL names the user 'lisa', which the image's etc/passwd does not have" in told
    assert "  d: its ACL names" in told
    assert "web" not in told


@pytest.mark.parametrize("number", ["\u00b2", "4294967295", "9" * 5000, "-1", ""])
def test_what_the_images_tables_have_for_a_number_is_not_trusted(into: Path, number: str) -> None:
    told = refused(with_names(("etc/passwd", f"lisa:x:{number}:5::/:\n".encode())), into)
    assert "  f: " in told
    assert "ACL" in told


@pytest.mark.parametrize(
    ("text", "want"), [("-7.5", -7_500_000_000), ("6000000000.25", 6_000_000_000_250_000_000)]
)
def test_times_that_are_far_from_now(into: Path, text: str, want: int) -> None:
    found = extract(tar(info("f", pax_headers={"mtime": text})), into)
    assert found[b"f"].mtime == want
    assert (into / "f").stat().st_mtime_ns == want


# -- layers -----------------------------------------------------------------------------------------------


LOWER = tar(
    directory("etc"),
    ("etc/a", b"a"),
    ("etc/b", b"b"),
    directory("d"),
    directory("d/sub"),
    ("d/sub/x", b"x"),
    ("d/y", b"y"),
    symlink("l", "/etc"),
    ("one", b"1"),
    link("two", "one"),
)


def test_contents_are_kept_where_they_are_wanted(tmp_path: Path) -> None:
    lister = Lister(lambda path: path.startswith(b"var/"), largest=100)
    rows: list[tarfile.TarInfo | tuple[str, bytes]]
    rows = [("var/a", b"first"), link("b", "var/a"), ("other", b"x"), ("var/large", b"x" * 101)]
    found = list_archive(io.BytesIO(tar(*rows)), lister)
    above = list_layer(io.BytesIO(tar(("var/c", b"second"))), lister, found)
    kept = {path: lister.content(entry) for path, entry in above.items() if entry.kind == "f"}
    assert kept == {
        b"b": b"first",
        b"other": None,
        b"var/a": b"first",
        b"var/c": b"second",
        b"var/large": None,
    }
    assert above[b"var/a"].first == b"b"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [100, 64 << 20])
def test_the_content_of_a_sparse_file_is_kept_with_its_holes(size: int) -> None:
    lister = Lister(lambda _path: True, largest=size)
    found = list_archive(io.BytesIO(_sparse_tar()), lister)
    data = lister.content(found[b"twin"])
    if size == 100:
        assert data is None
    else:
        assert data == bytes(4096) + b"x" * 4096 + bytes((8 << 20) - 8192)
        assert hashlib.sha256(data).hexdigest() == found[b"disk"].sha256


@pytest.fixture
def lower(into: Path) -> FileList:
    return extract(LOWER, into)


def lay(data: bytes, into: Path, lower: FileList) -> FileList:
    before = {path: tree_entry.line(entry) for path, entry in lower.items()}
    found = apply_layer(io.BytesIO(data), into, lower, privileged=False)
    assert list_layer(io.BytesIO(data), Lister(nothing), lower) == found
    assert {path: tree_entry.line(entry) for path, entry in lower.items()} == before
    scanned = trees.scanned(into)
    assert list(found) == sorted(scanned)
    assert {p: e.sha256 for p, e in found.items()} == {p: e.sha256 for p, e in scanned.items()}
    assert {p: e.first for p, e in found.items()} == {p: e.first for p, e in scanned.items()}
    return found


def test_whiteouts(into: Path, lower: FileList) -> None:
    found = lay(tar(("etc/.wh.a", b""), (".wh.d", b""), (".wh.absent", b""), end=False), into, lower)
    assert list(found) == [b"", b"etc", b"etc/b", b"l", b"one", b"two"]


def test_a_whiteout_hides_only_what_is_below_its_layer(into: Path, lower: FileList) -> None:
    found = lay(tar(("d/new", b"n"), ("d/.wh.new", b""), (".wh.d", b"")), into, lower)
    assert [p for p in found if p.startswith(b"d")] == [b"d", b"d/new"]


@pytest.mark.parametrize("first", [True, False])
def test_opaque_directories(into: Path, lower: FileList, first: bool) -> None:
    rows: list[tarfile.TarInfo | tuple[str, bytes]] = [("d/.wh..wh..opq", b""), ("d/sub/z", b"z")]
    found = lay(tar(*(rows if first else rows[::-1])), into, lower)
    assert [p for p in found if p.startswith(b"d")] == [b"d", b"d/sub", b"d/sub/z"]


def test_an_opaque_top(into: Path, lower: FileList) -> None:
    assert list(lay(tar((".wh..wh..opq", b""), ("n", b"")), into, lower)) == [b"", b"n"]


def test_kinds_replace_one_another(into: Path, lower: FileList) -> None:
    found = lay(tar(("d", b"file"), directory("l"), ("l/x", b""), directory("one")), into, lower)
    assert (found[b"d"].kind, found[b"l"].kind, found[b"one"].kind) == ("f", "d", "d")
    assert b"d/y" not in found
    assert found[b"two"].first == b""


def test_links_to_lower_layers_and_notes_of_aufs(into: Path, lower: FileList) -> None:
    found = lay(tar(link("three", "/one"), (".wh..wh.plnk", b""), (".wh..wh.aufs", b"")), into, lower)
    assert found[b"three"].first == found[b"two"].first == b"one"
    assert not [path for path in found if b".wh." in path]


def test_hard_links_of_aufs_keep_their_files(into: Path, lower: FileList) -> None:
    """Its driver put files with several names below `.wh..wh.plnk`, and links to them into the layer."""
    rows = [
        directory(".wh..wh.plnk"),
        (".wh..wh.plnk/7.1", b"7"),
        link("v", "/.wh..wh.plnk/7.1"),
        link("w", "v"),
    ]
    found = lay(tar(*rows), into, lower)  # type: ignore[arg-type]
    assert (into / "v").read_bytes() == b"7"
    assert found[b"w"].first == b"v"
    assert not [path for path in found if b".wh." in path]


USR_MERGED = tar(
    *(directory(name) for name in ("usr", "usr/lib", "usr/bin", "usr/lib/sub")),
    ("usr/lib/a", b"a"),
    ("usr/lib/b", b"b"),
    ("usr/lib/sub/x", b"x"),
    ("usr/bin/sh", b"sh"),
    symlink("lib", "usr/lib"),
    symlink("bin", "/usr/bin"),
)


class TestLayersOnABaseMergedIntoUsr:
    @pytest.fixture
    def merged(self, into: Path) -> FileList:
        return extract(USR_MERGED, into)

    def test_files_and_hard_links(self, into: Path, merged: FileList) -> None:
        rows = [("lib/new", b"new"), ("/bin/tool", b"t"), link("lib/again", "/bin/sh"), ("lib/a", b"A")]
        found = lay(tar(*rows), into, merged)  # type: ignore[arg-type]
        assert (into / "usr/lib/new").read_bytes() == b"new"
        assert (into / "usr/lib/a").read_bytes() == b"A"
        assert found[b"usr/lib/again"].first == b"usr/bin/sh"
        assert found[b"lib"].kind == found[b"bin"].kind == "l"

    def test_whiteouts(self, into: Path, merged: FileList) -> None:
        found = lay(tar(("lib/.wh.a", b""), ("/bin/.wh.sh", b""), ("lib/.wh.none", b"")), into, merged)
        assert [p for p in found if p.count(b"/") > 1] == [b"usr/lib/b", b"usr/lib/sub", b"usr/lib/sub/x"]

    @pytest.mark.parametrize("first", [True, False])
    def test_opaque_directories(self, into: Path, merged: FileList, first: bool) -> None:
        rows: list[tuple[str, bytes]] = [("lib/.wh..wh..opq", b""), ("usr/lib/sub/z", b"z"), ("lib/n", b"n")]
        found = lay(tar(*(rows if first else rows[::-1])), into, merged)
        assert [p for p in found if p.startswith(b"usr/lib/")] == [
            b"usr/lib/n",
            b"usr/lib/sub",
            b"usr/lib/sub/z",
        ]

    def test_a_whiteout_of_the_link_itself_leaves_what_it_leads_to(
        self, into: Path, merged: FileList
    ) -> None:
        found = lay(tar((".wh.lib", b"")), into, merged)
        assert b"lib" not in found
        assert b"usr/lib/a" in found

    def test_whiteouts_where_nothing_is_make_nothing(self, into: Path, merged: FileList) -> None:
        rows = [symlink("far", "/no/where"), ("far/.wh.x", b""), ("usr/bin/sh/.wh.x", b"")]
        found = lay(tar(*rows), into, merged)  # type: ignore[arg-type]
        assert list(found) == sorted([*merged, b"far"])


# -- layers that end early ------------------------------------------------------------------------------------


UNPADDED = tar(("etc/c", b"c" * 700), end=False)[: -(1024 - 700)]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(UNPADDED, id="no padding"),
        pytest.param(UNPADDED + bytes(7), id="some padding"),
        pytest.param(UNPADDED + bytes(324), id="no end mark"),
        pytest.param(gzip.compress(UNPADDED), id="compressed"),
    ],
)
def test_a_layer_may_end_behind_its_last_content(into: Path, lower: FileList, data: bytes) -> None:
    lay(data, into, lower)
    assert (into / "etc/c").read_bytes() == b"c" * 700
    (into.parent / "tar").mkdir()
    assert refused(data, into.parent / "tar"), "an archive that nobody vouches for may not"


def test_an_empty_layer_changes_nothing(into: Path, lower: FileList) -> None:
    for data in (b"", gzip.compress(b""), bytes(1024)):
        assert lay(data, into, lower) == lower


@pytest.mark.parametrize("missing", [1, 100, 699, 700 + 10])
def test_a_layer_that_ends_inside_of_an_entry_is_damaged(into: Path, lower: FileList, missing: int) -> None:
    with pytest.raises(ImageError, match=r"ends inside of etc/c|damaged"):
        lay(tar(("etc/b", b"b"), end=False) + UNPADDED[:-missing], into, lower)


def test_a_layer_that_ends_inside_of_a_long_name_is_damaged(into: Path, lower: FileList) -> None:
    data = tar(("etc/b", b"b"), ("x" * 200, b""), end=False)
    for cut in (512, 700, 1024):  # the name's own record, then the header that it belongs to
        with pytest.raises(ImageError, match="damaged"):
            lay(data[: 1024 + cut], into, lower)


# -- refusals of layers ---------------------------------------------------------------------------------------


def test_the_metadata_of_directories_survives_what_is_done_in_them(into: Path, lower: FileList) -> None:
    os.utime(into / "etc", ns=(7, 7))
    lower[b"etc"].mtime = 7
    found = lay(tar(("etc/c", b"")), into, lower)
    assert (into / "etc").stat().st_mtime_ns == 7
    assert found[b"etc"].mtime == 7


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (tar(symlink("o", ".."), ("o/x", b"")), "through the symbolic link o -> .., out of the root"),
        (tar(symlink("o", ".."), ("o/.wh.x", b"")), "through the symbolic link o -> .., out of the root"),
        (
            tar(symlink("o", ".."), ("o/.wh..wh..opq", b"")),
            "through the symbolic link o -> .., out of the root",
        ),
        (tar(("etc/.wh...", b"")), "whiteout of nothing"),
        (tar(("etc/.wh.", b"")), "whiteout of nothing"),
        (tar(("../.wh.x", b"")), "leads out of the root"),
    ],
)
def test_hostile_layers(into: Path, lower: FileList, data: bytes, why: str) -> None:
    with pytest.raises(ImageError) as caught:
        apply_layer(io.BytesIO(data), into, lower, privileged=False)
    assert why in caught.value.detail
