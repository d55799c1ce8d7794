"""What is known of two trees beside their files: records, the proto directory, package lists."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from buildstep.cli.files_evidence import evidence, packages_of_sides
from buildstep.cli.files_side import Opening, Side
from buildstep.files.compare import Listing, compare
from buildstep.files.compare_causes import Cause, causes
from buildstep.files.compare_packages import Packages
from buildstep.files.compare_report import Named
from buildstep.report.record import BuildRecord, Cleaner
from buildstep.rootfs.interface import Package
from buildstep.tree.entry import Entry, FileList

START = datetime(2026, 1, 1, tzinfo=UTC)


def record(hour: int = 0, **more: Any) -> BuildRecord:
    base = {"image": {"uuid": "u", "tree_digest": "t"}}
    more["inputs"] = {**base, **more.get("inputs", {})}
    return BuildRecord(
        build_id=f"b{hour}", name=more.pop("name", "app"), version="1", ok=True, seconds=1.0,
        started=START + timedelta(hours=hour), **more,
    )  # fmt: skip


def tree(*entries: Entry) -> FileList:
    return {entry.path: entry for entry in entries}


def file(path: bytes, content: bytes, mode: int = 0o644) -> Entry:
    return Entry(path, "f", mode, 0, 0, len(content), hashlib.sha256(content).hexdigest())


def side(entries: FileList, build: BuildRecord | None = None, **more: Any) -> Side:
    return Side(named=Named("x", "tar", Listing.of(entries)), build=build, **more)


def said(old: Side, new: Side) -> dict[bytes, Cause]:
    found = compare(old.listing, new.listing)
    with ExitStack() as stack:
        known = evidence((old, new), found, [], None, Opening(stack, cast(Any, None)))
    return {it.path: cause for it, cause in zip(found.changes, causes(found.changes, known), strict=True)}


def test_the_proto_directory_is_asked_also_where_its_paths_go_through_a_link(tmp_path: Path) -> None:
    for name, text, mode in (("lib/x.so", "x", 0o644), ("etc/a", "a", 0o644), ("etc/b", "b", 0o600)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    (tmp_path / "etc/link").symlink_to("a")
    new = tree(
        Entry(b"lib", "l", 0o777, 0, 0, target=b"usr/lib"), file(b"usr/lib/x.so", b"x"), file(b"etc/a", b"a"),
        file(b"etc/b", b"b"), file(b"etc/other", b"x"), Entry(b"etc/link", "l", 0o777, 0, 0, target=b"a"),
        Entry(b"etc/gone", "l", 0o777, 0, 0, target=b"b"),
    )  # fmt: skip
    found = said(side({}), side(new, record(inputs={"proto": {"path": str(tmp_path)}})))
    assert {path for path, cause in found.items() if cause == Cause("proto")} == {
        b"usr/lib/x.so", b"etc/a", b"etc/link",
    }  # fmt: skip
    assert found[b"etc/b"] == Cause("unknown")  # it has another mode


@pytest.mark.parametrize("inputs", [{}, {"proto": {"path": "/nowhere/at/all"}}, {"proto": {"path": ""}}])
def test_without_a_proto_directory_nothing_is_said_of_it(inputs: dict[str, Any]) -> None:
    found = said(side({}), side(tree(file(b"etc/passwd", b"x")), record(inputs=inputs)))
    assert found == {b"etc/passwd": Cause("unknown")}


def test_what_the_record_names_as_changed_counts_for_the_newer_build_alone() -> None:
    changed = {"proto": {"path": "", "changed": [["etc/a", "removed"], ["", "the index was not trusted"]]}}
    old = tree(file(b"etc/a", b"a"), file(b"etc/b", b"b"))
    new: FileList = {}
    found = said(side(old, record(1)), side(new, record(2, inputs=changed)))
    assert found == {b"etc/a": Cause("proto"), b"etc/b": Cause("unknown")}
    for before in (None, record(3), record(1, name="other")):
        found = said(side(old, before), side(new, record(2, inputs=changed)))
        assert set(found.values()) == {Cause("unknown")}


def test_what_the_record_names_as_cleaned() -> None:
    cleaned = (Cleaner(cleaner="logs", paths=2, names=("/var/log/a", "/var/log/b/")),)
    old = tree(file(b"var/log/a", b"a"), Entry(b"var/log/b", "d", 0o755, 0, 0), file(b"var/log/c", b"c"))
    assert said(side(old), side({}, record(cleaned=cleaned))) == {
        b"var/log/a": Cause("clean", "logs"),
        b"var/log/b": Cause("clean", "logs"),
        b"var/log/c": Cause("unknown"),
    }


def test_a_pool_that_cannot_be_opened_only_means_that_less_is_known() -> None:
    class Closed:
        def session(self) -> None:
            raise PermissionError("no")

    one, two = record(1), record(2)
    two = replace(two, inputs={"image": {"uuid": "v", "tree_digest": "other"}})
    old, new = side(tree(file(b"a", b"1")), one), side(tree(file(b"a", b"2")), two)
    found = compare(old.listing, new.listing)
    known = evidence((old, new), found, None, None, cast(Any, Closed()))
    assert known.old_base is None
    assert causes(found.changes, known) == [Cause("unknown")]


def test_packages_of_a_record_are_for_trees_that_do_not_tell_theirs() -> None:
    def of(version: str) -> Packages:
        return Packages((Package(name="x", version=version, arch="amd64"),), "apt")

    status = file(b"var/lib/dpkg/status", b"Package: x\nStatus: install ok installed\nVersion: 3\n"
                  b"Architecture: amd64\n")  # fmt: skip
    known = b"Package: x\nStatus: install ok installed\nVersion: 3\nArchitecture: amd64\n"
    plain, told = side({}, packages=of("1")), side({}, packages=of("2"))
    changes, notes = packages_of_sides(plain, told)
    assert [(row.old, row.new, row.change) for row in changes or ()] == [("1", "2", "upgraded")]
    assert notes == []
    # What is in the tree counts more than what a record says of it.
    own = side(tree(status), packages=of("9"), content=lambda _entry: known)
    changes, _ = packages_of_sides(told, own)
    assert [row.new for row in changes or ()] == ["3"]
    # A list alone has no database to read, so that the record is all there is.
    changes, _ = packages_of_sides(told, side(tree(status), packages=of("9")))
    assert [row.new for row in changes or ()] == ["9"]
    changes, notes = packages_of_sides(told, side(tree(status)))
    assert changes is None
    assert "not known" in notes[0]
