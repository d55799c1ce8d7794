"""Contents of an archive, kept in one file and read in any order."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from buildstep.formats.spool import Spool
from buildstep.formats.unpack import list_archive, list_layer
from buildstep.tree.entry import FileList


def archive(**files: bytes) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    out.seek(0)
    return out


def content(spool: Spool, entries: FileList, name: bytes) -> bytes:
    entry = entries[name]
    return spool.read_content(entry.sha256, entry.size)


def test_contents_come_back_in_any_order_and_in_parts() -> None:
    files = {
        "one": b"1" * 300_000,
        "two": b"",
        "three": b"abc",
        "holes": b"x" + bytes(1 << 20) + b"y" + bytes(1 << 20),
    }
    with Spool() as spool:
        entries = list_archive(archive(**files), spool)
        for name in reversed(files):
            assert content(spool, entries, name.encode()) == files[name]
            assert entries[name.encode()].sha256 == hashlib.sha256(files[name]).hexdigest()
        assert spool.read_content(entries[b"three"].sha256, 100, offset=1) == b"bc"
        assert spool.read_content(entries[b"three"].sha256, 1) == b"a"


def test_what_is_there_twice_is_kept_once_and_spoils_nothing() -> None:
    same = b"z" * (1 << 20)
    with Spool() as spool:
        entries = list_archive(archive(a=same, b=same, c=bytes(1 << 20), d=same, e=b"end"), spool)
        assert [content(spool, entries, name) for name in (b"a", b"b", b"c", b"d", b"e")] == [
            same, same, bytes(1 << 20), same, b"end",
        ]  # fmt: skip


def test_layers_over_each_other() -> None:
    with Spool() as spool:
        below = list_layer(archive(a=b"old", b=b"same"), spool, {})
        above = list_layer(archive(a=b"new!"), spool, below)
        assert (content(spool, above, b"a"), content(spool, above, b"b")) == (b"new!", b"same")
        with pytest.raises(KeyError):
            spool.read_content("0" * 64, 1)
