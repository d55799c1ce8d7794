"""What was read of an image is found again, and a damaged file is none."""

from __future__ import annotations

from pathlib import Path

from buildstep.cache import kept_source
from buildstep.cache.kept_source import KeptSource
from buildstep.tree.entry import Entry, digest_of, line

LINES = [line(Entry(path=name, kind="d", mode=0o755, uid=0, gid=0)) for name in (b"a", b"b")]


def made() -> KeptSource:
    source = KeptSource(build="b", tree=digest_of(LINES), origins={b"a": ("sync", 1)}, sha1={"x": "y"})
    source.keep("d1", b"content")
    source.keep("", b"of no digest")
    source.heads["d2"] = (4, b"head")
    source.heads["d3"] = (8, b"all")
    return source


def test_it_is_what_it_was(tmp_path: Path) -> None:
    kept_source.save(tmp_path, "slot", made(), LINES)
    found = kept_source.load(tmp_path, "slot")
    assert found.list_lines() == LINES
    assert (found.build, found.content("d1"), found.content("d2")) == ("b", b"content", None)
    assert [found.head("d2", 2), found.head("d2", 4), found.head("d2", 5)] == [b"he", b"head", None]
    assert found.head("d3", 100) == b"all", "the file has no more"
    assert found.origins == {b"a": ("sync", 1)}
    assert kept_source.load(tmp_path, "other") == KeptSource()


def test_what_is_damaged_or_of_another_list_is_nothing(tmp_path: Path) -> None:
    kept_source.save(tmp_path, "slot", made(), LINES[:1])
    assert kept_source.load(tmp_path, "slot").list_lines() == []
    (path,) = (tmp_path / "artifacts").iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert kept_source.load(tmp_path, "slot") == KeptSource()


def test_too_much_is_not_kept(tmp_path: Path, monkeypatch: object) -> None:
    source = made()
    kept_source.save(tmp_path, "slot", source, LINES)
    source.contents["large"] = bytes(kept_source._LARGEST + 1)
    kept_source.save(tmp_path, "slot", source, LINES)
    kept = kept_source.load(tmp_path, "slot")
    assert kept == KeptSource(heads=source.heads, sha1=source.sha1), "what is small, and of no image"
