"""Causes: only what is shown is said."""

from __future__ import annotations

from buildstep.files.compare import Listing, compare
from buildstep.files.compare_causes import Cause, Evidence, causes
from buildstep.files.compare_packages import PackageChange
from buildstep.tree.entry import Entry, FileList

A, B = "a" * 64, "b" * 64


def tree(*entries: Entry) -> FileList:
    return {entry.path: entry for entry in entries}


def file(path: bytes, sha256: str = A, mode: int = 0o644) -> Entry:
    return Entry(path, "f", mode, 0, 0, 1, sha256)


def said(old: FileList, new: FileList, known: Evidence) -> dict[bytes, Cause]:
    found = compare(Listing.of(old), Listing.of(new)).changes
    return {change.path: cause for change, cause in zip(found, causes(found, known), strict=True)}


def test_without_evidence_nothing_is_known() -> None:
    found = said(tree(file(b"a"), file(b"b")), tree(file(b"a", B), file(b"c", B)), Evidence())
    assert set(found.values()) == {Cause("unknown")}


def test_the_proto_directory_has_it_just_so() -> None:
    known = Evidence(proto=lambda entry: entry.sha256 == B, proto_changed=[b"gone"])
    found = said(tree(file(b"a"), file(b"gone")), tree(file(b"a", B), file(b"c", "c" * 64)), known)
    assert found == {b"a": Cause("proto"), b"c": Cause("unknown"), b"gone": Cause("proto")}


def test_a_package_that_changed_owns_it() -> None:
    known = Evidence(
        packages=[PackageChange("new", "", "added", "", "1"), PackageChange("old", "", "removed", "1", "")],
        new_owners={b"a": "new", b"kept": "other"},
        old_owners={b"gone": "old", b"a": "old", b"kept": "other"},
    )
    old = tree(file(b"gone"), file(b"a"), file(b"kept"), file(b"var/lib/dpkg/status"))
    new = tree(file(b"a", B), file(b"kept", B), file(b"var/lib/dpkg/status", B))
    assert said(old, new, known) == {
        b"a": Cause("packages", "new added"),
        b"gone": Cause("packages", "old removed"),
        b"kept": Cause("unknown", "owned by other"),  # its package is the same: something else has changed it
        b"var/lib/dpkg/status": Cause("packages", "the package database"),
    }


def test_what_the_record_names_as_cleaned() -> None:
    known = Evidence(cleaned={b"a": "logs", b"b": "logs"})
    found = said(tree(file(b"a"), file(b"b")), tree(file(b"b", B)), known)
    assert found == {b"a": Cause("clean", "logs"), b"b": Cause("unknown")}


def test_the_bases_differ_in_it() -> None:
    old_base, new_base = (
        tree(file(b"a"), file(b"b"), file(b"gone"), file(b"m/x", "c" * 64)),
        tree(file(b"a", B), file(b"b", B), file(b"come"), file(b"n/x", "c" * 64)),
    )
    known = Evidence(old_base=old_base.get, new_base=new_base.get)
    old = tree(file(b"a"), file(b"b"), file(b"gone"), file(b"m/x", "c" * 64), file(b"own"))
    new = tree(file(b"a", B), file(b"b", "d" * 64), file(b"come", A), file(b"n/x", "c" * 64), file(b"own", B))
    found = said(old, new, known)
    assert found.pop(b"b") == Cause("unknown")  # the base's was changed again
    assert found.pop(b"own") == Cause("unknown")
    assert set(found.values()) == {Cause("base")}
    assert b"n/x" in found


def test_the_same_base_is_no_cause() -> None:
    base = tree(file(b"a"))
    found = said(base, tree(file(b"a", B)), Evidence(old_base=base.get, new_base=base.get))
    assert found == {b"a": Cause("unknown")}
