"""A part of a tree as a tree of its own."""

from __future__ import annotations

import pytest

from buildstep.emit.selection import Selection
from buildstep.errors import EmitError, SpecError
from buildstep.tree.entry import Entry, FileList


def tree(*paths: str) -> FileList:
    """A tree of these; one that ends with a slash is a directory, and `a=b` a hard link to b."""
    found: FileList = {b"": Entry(b"", "d", 0o755, 0, 0)}
    for text in paths:
        name, _, first = text.partition("=")
        path = name.rstrip("/").encode()
        kind = "d" if name.endswith("/") else "f"
        found[path] = Entry(
            path, kind, 0o644, 0, 0, sha256="" if kind == "d" else "ab" * 32, first=first.encode()
        )
    return found


APP = tree("opt/", "opt/app/", "opt/app/bin", "opt/app/doc/", "opt/app/doc/a.txt", "opt/app/.gitignore",
           "opt/other", "usr/", "usr/lib/", "usr/lib/x.so", "usr/lib/y.a")  # fmt: skip


def names(found: FileList) -> list[str]:
    return [path.decode() for path in sorted(found)]


def test_a_directory_comes_with_all_below_and_what_is_above() -> None:
    found = Selection(["/opt/app", "/usr/lib/*.so"]).take(APP)
    assert names(found) == [
        "", "opt", "opt/app", "opt/app/.gitignore", "opt/app/bin", "opt/app/doc", "opt/app/doc/a.txt", "usr",
        "usr/lib", "usr/lib/x.so",
    ]  # fmt: skip


def test_what_stays_out_is_anchored() -> None:
    assert "opt/app/doc/a.txt" not in names(Selection(["/opt/app", "!/opt/app/doc"]).take(APP))
    assert "opt/app/doc/a.txt" in names(Selection(["/opt/app", "!/doc"]).take(APP))


def test_the_top_is_stripped() -> None:
    found = Selection(["/opt/app"], "/opt/app").take(APP)
    assert names(found) == ["", ".gitignore", "bin", "doc", "doc/a.txt"]
    assert found[b"doc/a.txt"].path == b"doc/a.txt"
    with pytest.raises(EmitError, match="not below /opt/app"):
        Selection(["/opt/other", "/opt/app"], "/opt/app").take(APP)


def test_nothing_is_no_output() -> None:
    with pytest.raises(EmitError, match="/opt/none"):
        Selection(["/opt/app", "/opt/none"]).take(APP)
    for pattern in ("opt", "/a\\b", "/"):
        with pytest.raises(SpecError):
            Selection([pattern])


def test_a_group_of_hard_links_has_its_first_among_what_is_taken() -> None:
    linked = tree("a", "x/", "x/b=a", "x/c=a")
    found = Selection(["/x"], "/x").take(linked)
    assert (found[b"b"].first, found[b"c"].first) == (b"", b"b")
    assert linked[b"x/b"].first == b"a"
