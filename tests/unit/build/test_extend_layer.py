"""When a layer with packages may be made from a smaller one: what is decided without a package manager."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from buildstep.build import extend_layer
from buildstep.cache.layers import LayerRecord
from buildstep.cache.resolutions import KeptResolution
from buildstep.errors import InstallError
from buildstep.rootfs.installers import apt_incremental
from buildstep.rootfs.installers.deb_file import Deb, downloads, file_stem
from buildstep.rootfs.interface import Package
from buildstep.system.root import Root
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry


def layer(order: list[str], **versions: str) -> LayerRecord:
    return cast(
        LayerRecord, SimpleNamespace(result={"order": order}, inputs={"versions": versions, "packages": []})
    )


def answer(order: list[str], **versions: str) -> KeptResolution:
    return KeptResolution(index="i", versions=versions, exact=True, asked=0.0, order=tuple(order))


@pytest.mark.parametrize(
    ("now", "problem"),
    [
        (["Inst a", "Inst x", "Inst b", "Conf x", "Conf a", "Conf b"], ""),
        (["Inst b", "Inst a", "Inst x", "Conf a", "Conf b", "Conf x"], "b would be installed before a"),
        (["Inst a", "Inst b", "Conf a", "Inst x"], "what is there would be installed in other steps"),
    ],
)
def test_the_order_of_what_is_there_must_stay(now: list[str], problem: str) -> None:
    before = layer(["Inst a", "Inst b", "Inst gone", "Conf a", "Conf gone", "Conf b"], a="1", b="1", gone="1")
    assert extend_layer.reordered(before, answer(now, a="1", b="1", x="1")) == problem


def test_a_layer_of_unknown_order_is_no_start() -> None:
    assert extend_layer.reordered(layer([]), answer(["Inst a"])) == "the order of what is there is not known"


def test_a_folder_of_a_package_has_the_time_of_what_came_into_it() -> None:
    def folder(path: bytes) -> Entry:
        return Entry(path=path, kind="d", mode=0o755, uid=0, gid=0, mtime=5)

    base = {path: folder(path) for path in (b"", b"usr")}
    tree = {path: folder(path) for path in (b"", b"usr", b"usr/made", b"usr/other")}
    new = [Entry(path=path, kind="f", mode=0o644, uid=0, gid=0) for path in (b"usr/made/x", b"usr/y")]
    extend_layer.touch_folders(tree, Changes(tuple(new), ()), base, 9)
    assert {path: entry.mtime for path, entry in tree.items()} == {
        b"": 5, b"usr": 5, b"usr/made": 9, b"usr/other": 5,
    }  # fmt: skip


def test_apts_list_has_one_form(tmp_path: Path) -> None:
    file = tmp_path / "var/lib/apt/extended_states"
    file.parent.mkdir(parents=True)
    rows = [f"Package: {name}\nArchitecture: all\nAuto-Installed: {auto}\n" for name, auto in
            (("b", 1), ("c", 0), ("a", 1), ("b", 1))]  # fmt: skip
    file.write_text("\n".join(rows))
    apt_incremental.sort_extended_states(Root(tmp_path))
    assert file.read_text() == f"{rows[2]}\n{rows[0]}\n"
    apt_incremental.sort_extended_states(Root(tmp_path))
    assert file.read_text() == f"{rows[2]}\n{rows[0]}\n"


def member(name: str, size: int) -> bytes:
    """The header of a member of an ar archive."""
    return f"{name:<16}{'0':<12}{'0':<6}{'0':<6}{'644':<8}{size:<10}`\n".encode()


def tarred(**files: str) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return raw.getvalue()


def test_what_is_in_a_package_file(tmp_path: Path) -> None:
    control = gzip.compress(tarred(control="Package: a\n", postinst="exit 0\n"))
    data = tarred(file="x" * 600, other="y")

    def read(data: bytes) -> Deb:
        parts = (
            member("control.tar.gz", len(control)),
            control,
            b"\n" * (len(control) % 2),
            member("data.tar", len(data)),
            data,
        )
        (tmp_path / "a.deb").write_bytes(
            b"".join((b"!<arch>\n", member("debian-binary", 4), b"2.0\n", *parts))
        )
        return Deb.read("a", tmp_path / "a.deb")

    good = read(data)
    assert good.control == {"control": "Package: a\n", "postinst": "exit 0\n"}
    assert [info.name for info in good.files] == ["./file", "./other"]
    damaged = bytearray(data)
    damaged[3 * 512 + 3] ^= 1  # in the second header: what followed it would be passed over
    with pytest.raises(InstallError, match=r"a\.deb cannot be read: the archive is damaged"):
        read(bytes(damaged))


def test_a_package_file_that_goes_back_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"!<arch>\n" + member("debian-binary", -60))
    with pytest.raises(InstallError, match="size of -60"):
        Deb.read("a", tmp_path / "a.deb")


def test_the_names_of_downloads(tmp_path: Path) -> None:
    for name in ("a_1%3a2_all.deb", "b_1_amd64.deb", "b_1_i386.deb"):
        (tmp_path / name).touch()
    assert downloads(tmp_path) == {"a_1%3a2": tmp_path / "a_1%3a2_all.deb"}
    assert file_stem("a", "1:2") == "a_1%3a2"


SCRIPTS: dict[str, tuple[str, str]] = {
    "nothing": ("#!/bin/sh\nset -e\n\n# a comment\nexit 0\n", ""),
    "of an upgrade": (
        '#!/bin/sh\nset -e\ndpkg-maintscript-helper rm_conffile \\\n  /etc/a 1.0~ -- "$@"\n', "",
    ),
    "if a command is there, and it is not": (
        '#!/bin/sh\nif [ "$1" = "configure" ] && [ -x "`command -v gone`" ]; then\n\tgone\nfi\n', "",
    ),
    "if a command is there, and it is": (
        '#!/bin/sh\nif [ "$1" = "configure" ] && [ -x "`command -v there`" ]; then\n\tthere\nfi\n',
        "a has a script (postinst)",
    ),
    "more behind it": (
        '#!/bin/sh\ndpkg-maintscript-helper rm_conffile /etc/a 1.0~ -- "$@"; touch /b\n', "a has a script (postinst)",
    ),
    "a command": ("#!/bin/sh\ntouch /b\n", "a has a script (postinst)"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_that_do_nothing(name: str) -> None:
    text, problem = SCRIPTS[name]
    control: dict[str, Any] = {"control": "Package: a\n", "postinst": text}
    assert Deb(name="a", control=control, files=()).acts(lambda command: command == "gone") == problem


# -- what makes one layer of another ------------------------------------------------------------------------


def inputs(packages: list[str], **versions: str) -> dict[str, Any]:
    return {"packages": packages, "versions": versions, "base image": "b"}


def kept(created: float, packages: list[str], **versions: str) -> LayerRecord:
    order = [f"Inst {name}" for name in versions]
    return cast(
        LayerRecord,
        SimpleNamespace(
            created=created, under=(), inputs=inputs(packages, **versions), result={"order": order}
        ),
    )


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        (kept(0, ["a"], a="1"), inputs(["a", "b"], a="1", b="1"), ({}, {"b": "1"}, False)),
        (kept(0, ["a", "b"], a="1", b="1"), inputs(["a"], a="1"), ({"b": "1"}, {}, False)),
        (kept(0, ["a", "b=1"], a="1", b="1"), inputs(["a", "b=2"], a="1", b="2"), ({"b": "1"}, {"b": "2"}, False)),
        (kept(0, ["a"], a="1", b="1"), inputs(["a", "b"], a="1", b="1"), ({}, {}, True)),
        # It is needed still, and was asked for: apt has another mark for it then.
        (kept(0, ["a", "b"], a="1", b="1"), inputs(["a"], a="1", b="1"), None),
        # A package of the base goes, or does not.
        (kept(0, ["a"], a="1", old=""), inputs(["a"], a="1"), None),
        (kept(0, ["a"], a="1"), inputs(["a"], a="1", old=""), None),
    ],
)  # fmt: skip
def test_what_goes_and_what_comes(before: LayerRecord, now: dict[str, Any], found: Any) -> None:
    change = extend_layer.change(before, now)
    assert (change and (change.gone, change.lacking, change.marks)) == found


def test_the_layer_that_needs_the_least_change(tmp_path: Path) -> None:
    small, more, other = (
        kept(1, ["a"], a="1"),
        kept(2, ["a", "b", "x"], a="1", b="1", x="1"),
        kept(3, ["z"], z="1"),
    )
    cache = cast(Any, SimpleNamespace(records=lambda: [small, more, other]))
    now = inputs(["a", "b", "c"], a="1", b="1", c="1")
    resolved = answer(["Inst a", "Inst b", "Inst c"], a="1", b="1", c="1")
    assert extend_layer.nearest(cache, now, resolved, frozenset()) == (small, "")
    now["versions"]["d"] = resolved.versions["d"] = "1"  # type: ignore[index]
    more.inputs["versions"]["d"] = "1"
    assert extend_layer.nearest(cache, now, resolved, frozenset()) == (more, "")
    # Where nothing can go, or what would go is of the base.
    assert extend_layer.nearest(cache, now, resolved) == (small, "")
    assert extend_layer.nearest(cache, now, resolved, frozenset(("x",))) == (small, "")


def test_what_is_installed_then_is_what_was_wanted() -> None:
    rows = [
        {"name": name, "arch": "all", "version": version}
        for name, version in (("a", "1"), ("b", "1"), ("base", "1"))
    ]
    record = kept(0, ["a", "b"], a="1", b="1")
    record.result["installed"] = {"packages": rows}  # type: ignore[index]

    def told(now: dict[str, str], there: dict[str, str]) -> str:
        found = [Package(name=name, version=version, arch="all") for name, version in there.items()]
        return extend_layer.mismatch(record, answer([], **now), found)

    assert told({"a": "1"}, {"a": "1", "base": "1"}) == ""
    assert told({"a": "1", "b": "2"}, {"a": "1", "b": "2", "base": "1"}) == ""
    assert told({"a": "1"}, {"a": "1", "b": "1", "base": "1"}) == "b 1 is still there"
    assert told({"a": "1"}, {"a": "1"}) == "base is gone"
    assert told({"a": "1", "c": "1"}, {"a": "1", "base": "1"}) == "c is not installed"
    assert told({"a": "1"}, {"a": "1", "base": "1", "d": "1"}) == "d 1"
