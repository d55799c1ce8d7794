"""What a layer brings."""

from __future__ import annotations

from buildstep.tree.diff import Brought, Changes, diff
from buildstep.tree.entry import Entry


def entry(path: bytes, kind: str = "f", size: int = 0, **more: object) -> Entry:
    found = Entry(path, kind, 0o644, 0, 0)
    found.size = size
    for name, value in more.items():
        setattr(found, name, value)
    return found


def test_files_are_counted_and_the_bytes_of_hard_links_once() -> None:
    rows = (
        entry(b"", "d"), entry(b"etc", "d"), entry(b"etc/a", size=10), entry(b"etc/b", size=10, first=b"etc/a"),
        entry(b"etc/l", "l", size=7), entry(b"etc/n", "c"),
    )  # fmt: skip
    assert Changes(rows, (b"opt", b"srv/x")).brought() == Brought(4, 10, 2)


def test_of_a_layer_on_others_only_what_it_changes() -> None:
    lower = {
        b"": entry(b"", "d"),
        b"a": entry(b"a", size=3, sha256="1"),
        b"b": entry(b"b", size=5, sha256="2"),
    }
    upper = {
        b"": entry(b"", "d"),
        b"a": entry(b"a", size=3, sha256="1"),
        b"c": entry(b"c", size=7, sha256="3"),
    }
    assert diff(lower, upper).brought() == Brought(1, 7, 1)
