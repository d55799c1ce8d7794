"""`buildstep files diff`: every kind of side, its output, and its limits."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from buildstep.cli.files_side import Opening
from buildstep.cli.files_sides import kind_of_side
from buildstep.errors import ExitCode, UsageError
from buildstep.tree.entry import Entry, dumps
from tests.servers import layouts
from tests.servers.registry import RegistryServer
from tests.unit import trees
from tests.unit.cli.conftest import Run

STATUS = "Package: {}\nStatus: install ok installed\nArchitecture: all\nVersion: {}\n\n"


def make(top: str, files: dict[str, str], modes: dict[str, int] | None = None) -> str:
    """A directory with these files."""
    for name, text in files.items():
        path = Path(top, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod((modes or {}).get(name, 0o644))
    return top


def pack(top: str, name: str, mode: str = "w") -> str:
    with tarfile.open(name, mode) as archive:  # type: ignore[call-overload]
        archive.add(top, ".")
    return name


def stored(top: str, name: str) -> str:
    Path(name).write_bytes(dumps(trees.scanned(Path(top))))
    return name


LOWER = layouts.layer({"etc/": b"", "etc/a": b"1", "etc/b": b"2", "d/": b"", "d/x": b"x"})
UPPER = layouts.layer({"etc/.wh.b": b"", "etc/a": b"new", "d/.wh..wh..opq": b"", "d/y": b"y"})


@pytest.mark.parametrize(
    "kind", ["oci", "oci-archive", "oci-compressed", "docker-archive", "docker-compressed"]
)
def test_layers_are_laid_one_over_another(run: Run, kind: str) -> None:
    one, two = Path("one"), Path("two")
    if kind.startswith("oci"):
        for folder, layers in ((one, [LOWER]), (two, [LOWER, UPPER])):
            layouts.make_layout(folder, layers)
    else:
        layouts.make_saved(one, {"x:1": [LOWER]}, style="skopeo")
        layouts.make_saved(two, {"x:2": [LOWER, UPPER]}, style="skopeo")
    if "-" in kind and kind.startswith("oci"):
        one, two = layouts.pack(one, Path("one.tar")), layouts.pack(two, Path("two.tar"))
    if kind.endswith("compressed"):
        for path in (one, two):
            path.write_bytes(gzip.compress(path.read_bytes()))
    value = diffed(run, str(one), str(two))
    assert value["old"]["kind"] == ("oci" if kind.startswith("oci") else "docker-archive")
    assert {path: change for path, (change, _, _) in rows(value).items()} == {
        "d/x": "removed", "d/y": "added", "etc/a": "changed", "etc/b": "removed",
    }  # fmt: skip


def test_layers_are_told_by_the_door_of_images_too(run: Run) -> None:
    layouts.make_layout(Path("one"), [LOWER])
    layouts.make_saved(Path("two"), {"x:2": [LOWER, UPPER]}, style="skopeo")
    code, out, err = run("image", "diff", "one", "two", "--json")
    assert code == 0, err
    value = json.loads(out)
    assert value == diffed(run, "one", "two"), "one comparison, two doors"
    assert [(row["change"], row["old"], row["new"]) for row in value["layers"]["changes"]] == [
        ("same", 1, 1),
        ("added", None, 2),
    ]
    assert value["layers"]["bytes_to_fetch"] == value["layers"]["new"][1]["size"]
    counted = [(row["files"], row["bytes"], row["removed"]) for row in value["layers"]["new"]]
    assert counted == [(3, 3, 0), (2, 4, 2)]
    numbers = {row["path"]: (row["old_layer"], row["new_layer"]) for row in value["changes"]}
    assert numbers == {"d/x": (1, 2), "d/y": (None, 2), "etc/a": (1, 2), "etc/b": (1, 2)}
    _, text, _ = run("image", "diff", "one", "two")
    assert "\nlayers: 1 of 2 are the same; who has the old image fetches " in text
    assert "  - f x  0644 0:0  1 B  [removed by layer 2]\n" in text


def test_the_door_of_images_takes_no_word_for_a_tree(run: Run) -> None:
    make("tree", {"a": "1"})
    stored("tree", "list")
    for word in ("tree", "list"):
        code, _, err = run("image", "diff", word, word)
        assert code != 0
        assert "Traceback" not in err
    assert run("image", "diff", "tree:tree", "list:list")[0] == 0


def test_an_image_of_a_registry(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layouts.make_layout(Path("one"), [LOWER])
    digest = layouts.make_layout(Path("two"), [LOWER, UPPER])
    with RegistryServer() as server:
        for blob in Path("two/blobs/sha256").iterdir():
            server.content[f"blobs/sha256:{blob.name}"] = (blob.read_bytes(), "application/octet-stream")
        manifest = Path("two/blobs/sha256", digest.removeprefix("sha256:")).read_bytes()
        server.content["manifests/2"] = (manifest, "application/vnd.oci.image.manifest.v1+json")
        monkeypatch.setenv("BUILDSTEP_INSECURE_REGISTRIES", server.host)
        value = diffed(run, "one", f"docker://{server.host}/x:2")
    assert value["new"]["kind"] == "docker"
    assert {path: change for path, (change, _, _) in rows(value).items()} == {
        "d/x": "removed", "d/y": "added", "etc/a": "changed", "etc/b": "removed",
    }  # fmt: skip
    assert not (tmp_path / "pool").exists()


@pytest.fixture
def both(run: Run) -> tuple[str, str]:
    """Two trees: one file added, one removed, two changed, one package upgraded, one program made setuid."""
    info = "var/lib/dpkg/info"
    owned = {f"{info}/one.list": "/usr/one\n", f"{info}/two.list": "/usr/two\n"}
    database = "var/lib/dpkg/status"
    old = {"etc/a": "1", "bin/x": "x", "gone": "g", "usr/one": "1", "usr/two": "1"}
    new = {"etc/a": "12", "bin/x": "x", "come": "c", "usr/one": "2", "usr/two": "2"}
    old[database] = STATUS.format("one", "1") + STATUS.format("two", "1")
    new[database] = STATUS.format("one", "2") + STATUS.format("two", "1")
    return make("old", old | owned), make("new", new | owned, {"bin/x": 0o4755})


def diffed(run: Run, *argv: str, status: int = 0) -> dict[str, Any]:
    code, out, err = run("files", "diff", "--json", *argv)
    assert code == status, err
    value: dict[str, Any] = json.loads(out)
    return value


def rows(value: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    return {row["path"]: (row["change"], row["cause"], row["cause_detail"]) for row in value["changes"]}


EXPECTED = {
    "bin/x": ("changed", "unknown", ""),
    "come": ("added", "unknown", ""),
    "etc/a": ("changed", "unknown", ""),
    "gone": ("removed", "unknown", ""),
    "usr/one": ("changed", "packages", "one upgraded"),
    "usr/two": ("changed", "unknown", "owned by two"),
    "var/lib/dpkg/status": ("changed", "packages", "the package database"),
}


def test_every_kind_of_side_gives_the_same(run: Run, both: tuple[str, str]) -> None:
    old, new = both
    sides = [(old, new), (pack(old, "old.tar"), pack(new, "new.tgz", "w:gz")), (old, "new.tgz")]
    for pair in sides:
        value = diffed(run, *pair)
        assert rows(value) == EXPECTED
        assert [(row["name"], row["change"]) for row in value["packages"]] == [("one", "upgraded")]
    digests = {diffed(run, it, it)["old"]["tree_digest"] for it in (old, "old.tar", stored(old, "old.list"))}
    assert len(digests) == 1


def test_a_list_tells_no_packages_and_says_so(run: Run, both: tuple[str, str]) -> None:
    old, new = both
    value = diffed(run, stored(old, "old.list"), new)
    assert rows(value).keys() == EXPECTED.keys()
    assert value["packages"] is None
    assert any("the packages of old.list are not known" in note for note in value["notes"])


def test_foreign_lists(run: Run) -> None:
    md5 = "c4ca4238a0b923820dcc509a6f75849b"  # of "1"
    Path("v1").write_text(f"/etc/a|{md5}|1\n/gone|{md5}|1\n")
    Path("v2").write_text(f"/etc/a|{md5[::-1]}|1\n/moved|{md5}|1\n")
    value = diffed(run, "v1", "v2")
    assert {row["path"]: (row["change"], row.get("what")) for row in value["changes"]} == {
        "etc/a": ("changed", ["content"]),
        "moved": ("moved", None),
    }
    assert value["old"]["tree_digest"] is None
    # Of a tree only the sizes can be compared with it, and the modes of neither.
    make("tree", {"etc/a": "2", "gone": "22"}, {"etc/a": 0o4755})
    value = diffed(run, "v1", "tree", "--no-new-setuid", status=ExitCode.GATE)
    assert {row["path"]: row.get("what") for row in value["changes"]} == {"gone": ["size"]}
    assert any("does not tell" in note and "content" in note for note in value["notes"])


def test_the_limits_are_judged_after_all_is_printed(run: Run, both: tuple[str, str]) -> None:
    argv = ("--max-growth", "0", "--no-new-setuid", "--no-new-capabilities", "--no-removed-packages")
    code, out, err = run("files", "diff", *both, *argv)
    assert code == ExitCode.GATE
    assert "/etc: 1 changed" in out
    assert "--no-new-capabilities: kept" in out
    assert "2 limits exceeded" in err
    assert "--max-growth: 1 B more, 0 allowed" in err
    assert "--no-new-setuid: 1 new one: /bin/x" in err
    assert diffed(run, both[1], both[0], *argv[2:])["gate"][0]["ok"] is True
    assert run("files", "diff", *both, "--max-growth", "lots")[0] == ExitCode.USAGE


def test_a_page_is_written_as_a_whole_or_not(run: Run, both: tuple[str, str]) -> None:
    assert run("files", "diff", *both, "--page", "diff.html")[0] == 0
    assert Path("diff.html").read_text().startswith("<!doctype html>")
    assert run("files", "diff", both[0], "missing.tar", "--page", "other.html")[0] != 0
    assert not Path("other.html").exists()


def test_times_count_when_asked_for(run: Run) -> None:
    for name, when in (("old", 1), ("new", 2)):
        os.utime(make(name, {"a": "1"}) + "/a", (when, when))
        os.utime(name, (5, 5))
    assert diffed(run, "old", "new")["same"] is True
    assert [row["what"] for row in diffed(run, "old", "new", "--times")["changes"]] == [["time"]]


def test_colours_are_for_terminals(run: Run, both: tuple[str, str]) -> None:
    assert "\x1b" not in run("files", "diff", *both)[1]


@pytest.mark.parametrize(
    ("word", "status", "said"),
    [
        ("nothing", ExitCode.IMAGE, "the image nothing is not in the store"),
        ("tar:nothing.tar", ExitCode.IMAGE, "there is no file nothing.tar"),
        ("list:nothing", ExitCode.USAGE, "cannot read the list nothing"),
        ("tree:nothing", ExitCode.USAGE, "there is no directory nothing"),
        ("junk", ExitCode.IMAGE, "holds no image that we know"),
        ("oci:plain.tar", ExitCode.IMAGE, "not an OCI layout"),
        ("cut.tar", ExitCode.IMAGE, "the archive"),
        ("zfs.img", ExitCode.IMAGE, "image import"),
        ("", ExitCode.USAGE, "names nothing"),
    ],
)
def test_what_is_no_side(run: Run, word: str, status: int, said: str) -> None:
    make("tree", {"a": "1"})
    Path("junk").write_bytes(b"\1" * 2000)
    data = Path(pack("tree", "plain.tar")).read_bytes()
    Path("cut.tar").write_bytes(data[:700])
    Path("zfs.img").write_bytes(b"btrfs-stream\0" + bytes(100))
    code, out, err = run("files", "diff", "tree", word)
    assert (code, out) == (status, ""), err
    assert said in err


def test_archives_are_listed_without_room_for_them(
    run: Run, both: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / "tmp"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", os.fspath(room))
    seen: list[list[str]] = []
    fetch = tarfile.TarFile.next

    def watched(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        seen.append([name for _, _, files in os.walk(room) for name in files])
        return fetch(archive)

    monkeypatch.setattr(tarfile.TarFile, "next", watched)
    diffed(run, pack(both[0], "old.tar"), pack(both[1], "new.tgz", "w:gz"))
    assert len(seen) > 20
    assert not any(seen)
    assert os.listdir(room) == []


def test_an_archive_with_devices_and_owners_needs_no_root(run: Run) -> None:
    with tarfile.open("dev.tar", "w") as archive:
        for name, kind, uid in (("null", tarfile.CHRTYPE, 0), ("web", tarfile.REGTYPE, 33)):
            info = tarfile.TarInfo(name)
            info.type, info.uid, info.devmajor, info.devminor = kind, uid, 1, 3
            archive.addfile(info, io.BytesIO())
    make("tree", {})
    Path("tree").mkdir()
    value = diffed(run, "tree", "dev.tar")
    facts = {row["path"]: row["new"] for row in value["changes"] if row["change"] == "added"}
    assert (facts["null"]["device"], facts["web"]["uid"]) == ([1, 3], 33)
    gained = [(row["path"], row["change"], row["kind"], row["detail"]) for row in value["privileges"]]
    assert ("null", "gained", "device", "c 1:3") in gained


class NoStore:
    """A `Work` whose store is not there."""

    def open(self) -> object:
        return SimpleNamespace(is_there=lambda: False)


def test_a_word_before_a_colon_takes_one_kind(run: Run) -> None:
    make("image", {"a": "1"})

    def kind(word: str) -> tuple[str, str]:
        name, _, rest = kind_of_side(word, Opening(ExitStack(), cast(Any, NoStore())))
        return name, rest

    assert kind("image") == ("tree", "image")
    assert kind("image:image") == ("image", "image")
    assert kind("tree:x:y") == ("tree", "x:y")
    assert kind("store:x") == ("store", "x")
    assert kind("docker://host/name:1") == ("archive", "docker://host/name:1")
    assert kind("debian@12") == ("image", "debian@12")
    with pytest.raises(UsageError):
        kind("")


@pytest.mark.commands("find")
def test_lists_in_a_store(run: Run, both: tuple[str, str]) -> None:
    """By their refs, and by the first digits of a digest; packages are read out of the store."""
    argv = ("--store", "dir:store")
    for tree, ref in zip(both, ("web/1", "web/2"), strict=True):
        code, _, err = run("files", "put", tree, "--ref", ref, *argv, "--json")
        assert code == 0, err
    value = diffed(run, "web/1", "web/2", *argv)
    assert rows(value) == EXPECTED
    assert value["new"]["kind"].startswith("list ")
    digest = value["old"]["tree_digest"]
    assert diffed(run, digest[:12], "web/2", *argv)["changes"] == value["changes"]
    assert diffed(run, "store:web/1", both[0], *argv)["same"] is True
    code, _, err = run("files", "diff", "store:web/3", "web/2", *argv)
    assert code == ExitCode.STORE
    assert "no ref" in err


def test_a_mode_of_three_digits_does_not_say_whether_a_program_is_setuid(run: Run) -> None:
    md5 = "c4ca4238a0b923820dcc509a6f75849b"
    for name, mode in (("old", "755"), ("new", "4755")):
        Path(name).write_text(f"/bin/x|{md5}|1|root|root|{mode}|2|1|1|\n")
    value = diffed(run, "old", "new", "--no-new-setuid", status=ExitCode.GATE)
    assert value["gate"][0]["text"] == "one of the lists does not tell mode"
    assert value["changes"] == []
    Path("old").write_text(f"/bin/x|{md5}|1|root|root|0755|2|1|1|\n")
    value = diffed(run, "old", "new", "--no-new-setuid", status=ExitCode.GATE)
    assert [row["what"] for row in value["changes"]] == [["mode"]]
    assert "/bin/x (as uid 0)" in value["gate"][0]["text"]


@pytest.mark.parametrize("page", [False, True])
def test_a_hostile_list_is_only_text(run: Run, page: bool) -> None:
    names = [
        b"../../../../etc/passwd",
        b"/etc/shadow",
        b"a\x1b[2J",
        b"b\nremoved",
        b"<script>x</script>",
        b"\xff",
    ]
    Path("old").write_bytes(dumps({}))
    Path("new").write_bytes(dumps({name: Entry(name, "f", 0o4755, 0, 0, 3, "a" * 64) for name in names}))
    code, out, err = run("files", "diff", "old", "new", *(["--page", "x.html"] if page else []))
    assert code == 0, err
    assert "\x1b" not in out
    assert len([row for row in out.splitlines() if "4755 0:0" in row]) == len(names)
    if page:
        assert "<script>x" not in Path("x.html").read_text()
