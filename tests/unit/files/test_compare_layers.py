"""The layers of two images: aligned by digest, then by title; which layer each path is from."""

from __future__ import annotations

from buildstep.files.compare import Change
from buildstep.files.compare_causes import Evidence, causes
from buildstep.files.compare_layers import Gathering, Layer, Layers, compare_layers, step_of
from buildstep.files.compare_layers_report import lines, to_json
from buildstep.tree.diff import Brought
from buildstep.tree.entry import Entry, FileList

A, B = "a" * 64, "b" * 64


def layer(diff_id: str, title: str = "", size: int = 100, **more: object) -> Layer:
    digest = str(more.pop("digest", f"digest of {diff_id}"))
    return Layer(digest=digest, diff_id=diff_id, size=size, title=title, **more)  # type: ignore[arg-type]


def file(path: bytes, sha256: str = A, size: int = 10) -> Entry:
    return Entry(path, "f", 0o644, 0, 0, size, sha256)


def tree(*entries: Entry) -> FileList:
    return {entry.path: entry for entry in entries}


def words(old: list[Layer], new: list[Layer]) -> list[tuple[str, int | None, int | None]]:
    found = compare_layers(Layers(old), Layers(new))
    assert found is not None
    return [(it.word, it.old, it.new) for it in found.changes]


def test_equal_layers_stay_and_others_pair_by_their_title() -> None:
    old = [layer("base"), layer("p1", "packages"), layer("x1", "proto"), layer("gone", "gone")]
    new = [layer("base"), layer("new", "new"), layer("x2", "proto"), layer("p2", "packages")]
    assert words(old, new) == [
        ("same", 1, 1),
        ("replaced", 4, 2),
        ("replaced", 3, 3),
        ("replaced", 2, 4),
    ]
    assert words(old, [*old[:1], layer("n", "n"), *old[1:3]]) == [
        ("same", 1, 1), ("added", None, 2), ("same", 2, 3), ("same", 3, 4), ("removed", 4, None),
    ]  # fmt: skip
    assert words([], new[:1]) == [("added", None, 1)]


def test_one_tar_compressed_in_another_way_is_another_blob() -> None:
    gzip, zstd = layer("base", digest="gzip"), layer("base", digest="zstd", size=70)
    assert words([gzip], [zstd]) == [("recompressed", 1, 1)]
    assert words([layer("")], [layer("", size=7)]) == [("replaced", 1, 1)], "nobody knows that they are one"


def test_who_has_the_old_image_fetches_what_is_new_once() -> None:
    old, new = (
        [layer("a"), layer("b")],
        [layer("a"), layer("c", size=7), layer("c", size=7), layer("d", size=1)],
    )
    found = compare_layers(Layers(old), Layers(new))
    assert found is not None
    assert found.fetched == 8
    assert compare_layers(None, Layers(new)) is None
    assert compare_layers(Layers(old), None) is None


def test_the_layer_of_each_path_is_seen_while_they_are_laid() -> None:
    status = file(b"var/lib/dpkg/status", "c" * 64)
    texts = {
        "c" * 64: b"Package: x\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n",
    }
    gathered = Gathering(lambda entry: texts.get(entry.sha256))
    one = tree(Entry(b"d", "d", 0o755, 0, 0), file(b"d/a"), file(b"d/b"), file(b"e"))
    two = tree(file(b"e", B), status)
    three = tree(file(b"e", B), status, Entry(b"d", "d", 0o755, 0, 0), file(b"d/b"))
    four = tree(file(b"e", B), status)
    for before, after in (({}, one), (one, two), (two, three), (three, four)):
        gathered.take(before, after)
    found = Layers([layer(str(at)) for at in range(4)], gathered.made, gathered.removed)
    assert (found.of(b"e"), found.of(status.path)) == (2, 2)
    assert (found.without(b"d"), found.without(b"d/b"), found.without(b"d/a")) == (4, 4, 4)
    assert (found.of(b"never"), found.without(b"never")) == (None, None)
    assert gathered.brought == [
        (Brought(3, 30, 0), ()),
        (Brought(2, 20, 1), ("x 1",)),
        (Brought(1, 10, 0), ()),
        (Brought(0, 0, 1), ()),
    ]
    assert Layers([layer("only")]).of(b"any") == 1


RECORDED = [
    layer("base", "base image debian 12", base=True), layer("p", "packages: nginx"), layer("c", "cleaned"),
    layer("proto", "proto directory, part 1 of 2"), layer("m", "proto directory; commands"),
]  # fmt: skip


def test_a_layer_shows_its_step_only_where_a_record_says_what_it_is() -> None:
    known = Layers(RECORDED, recorded=True)
    steps = [step_of(known, number, gone=False) for number in range(1, 6)]
    assert steps == ["base", "packages", "clean", "proto", None]
    assert step_of(known, 4, gone=True) is None, "the cleaners may have taken it away"
    assert step_of(Layers(RECORDED), 2, gone=False) is None, "anybody can write that into a history"
    assert step_of(known, None, gone=False) is None


def test_causes_by_layers() -> None:
    old = Layers(RECORDED, {b"gone": 2, b"b": 1, b"p": 2, b"cache": 2}, recorded=True)
    new = Layers(RECORDED, {b"b": 1, b"p": 1, b"come": 4, b"mixed": 5}, {b"cache": 3}, recorded=True)
    found = compare_layers(old, new)
    changes = [
        Change("removed", file(b"gone"), None),
        Change("changed", file(b"b"), file(b"b", B), ("content",)),
        Change("changed", file(b"p"), file(b"p", B), ("content",)),
        Change("added", None, file(b"come")),
        Change("added", None, file(b"mixed")),
        Change("removed", file(b"cache"), None),
    ]
    steps = [cause.step for cause in causes(changes, Evidence(layers=found))]
    assert steps == ["packages", "base", "unknown", "proto", "unknown", "clean"]
    assert {cause.step for cause in causes(changes, Evidence())} == {"unknown"}


def test_what_is_told() -> None:
    old = Layers([layer("a", "base"), layer("b", "packages: x", size=2048, packages=("x 1",))])
    new = Layers(
        [
            layer("a", "base"),
            layer("n", "a\x1b[31m" + "long " * 100),
            layer("c", "packages: x", size=4096, brought=Brought(3, 30, 2), packages=("x 2", "y 1")),
        ]
    )
    found = compare_layers(old, new)
    assert found is not None
    text = [row for row, _ in lines(found)]
    assert text[1] == "layers: 1 of 3 are the same; who has the old image fetches 4.1 KiB"
    assert text[2] == "  =  1  base  100 B"
    assert text[3].startswith("  +  2  a?[31mlong long")
    assert text[3].endswith("100 B  (added)")
    assert len(text[3]) < 90
    assert text[4] == (
        "  ~  3  packages: x  2.0 KiB -> 4.0 KiB  (replaced; was 2; 3 files of 30 B; 2 removed; 2 packages)"
    )
    assert found.bringing("x 2", new=True) == 3
    assert (found.bringing("x 1", new=False), found.bringing("x 1", new=True)) == (2, None)
    value = to_json(found)
    assert value["changes"][2] == {"change": "replaced", "old": 2, "new": 3}
    assert (value["new"][2]["files"], value["new"][0]["files"], value["bytes_to_fetch"]) == (3, None, 4196)
