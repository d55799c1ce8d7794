"""A proto directory that changes while an image is made of it: the path is named, and nothing is shipped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildstep import emit
from tests.integration.conftest import demand
from tests.integration.yard import Yard, tiny_base

Private = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    demand("root", "namespaces", "overlay", "rsync")
    proto = tmp_path / "proto"
    for folder in ("a", "b/c"):
        (proto / folder).mkdir(parents=True)
        for number in range(5):
            (proto / folder / f"f{number}").write_text(f"content {number}\n")
    return Yard(
        pool=f"overlay:{tmp_path / 'pool'}", out=tmp_path / "out", proto=proto,
        base=tiny_base(tmp_path / "base.tar"),
    )  # fmt: skip


def other_content(proto: Path) -> None:
    """Of the same size and time."""
    path = proto / "a/f1"
    info = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def put_in_its_place(proto: Path) -> None:
    (proto / "new").write_text("longer than before, and another file\n")
    (proto / "new").rename(proto / "a/f1")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "other content": (other_content, "/a/f1 (changed)"),
    "put in its place": (put_in_its_place, "/a/f1 (changed)"),
    "longer": (lambda proto: (proto / "a/f1").write_text("x" * 99), "/a/f1 (changed)"),
    "mode": (lambda proto: (proto / "a/f1").chmod(0o600), "/a/f1 (changed)"),
    "removed": (lambda proto: (proto / "a/f1").unlink(), "/a/f1 (removed)"),
    "added": (lambda proto: (proto / "b/new").write_text(""), "/b/new (added)"),
    "renamed": (lambda proto: (proto / "b/c").rename(proto / "b/d"), "/b/c (removed)"),
}


@pytest.mark.parametrize("when", ["before it is read", "after it is read"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("plain", [False, True], ids=["in place", "copied"])
def test_a_change_is_named_and_nothing_is_shipped(
    yard: Yard, private: Private, monkeypatch: pytest.MonkeyPatch, plain: bool, change: str, when: str
) -> None:
    act, named = CHANGES[change]
    real = emit.emit

    def emit_(*args: Any, **more: Any) -> Any:
        if when.startswith("before"):
            act(yard.proto)
            return real(*args, **more)
        made = real(*args, **more)
        act(yard.proto)
        return made

    def job() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(emit, "emit", emit_)
            failed = yard.run(plain=plain)
        assert failed.error.startswith("EmitError: the proto directory changed during the build: ")
        assert named.partition(" ")[0] in failed.error
        assert named.partition(" ")[2].strip("()") in failed.error
        assert list(yard.out.iterdir()) == []
        again = yard.run(plain=plain)
        assert again.error == ""
        fresh = yard.run(cache=False)
        assert (again.tree, again.files) == (fresh.tree, fresh.files)

    private(job)


def test_an_edit_between_the_plan_and_an_update_is_named(
    yard: Yard, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large tree only the changed files are read, and looked at again."""
    from buildstep.emit import split_layer

    monkeypatch.setattr(split_layer, "LAYER_TARGET", 5000)
    real = emit.emit

    def emit_(*args: Any, **more: Any) -> Any:
        made = real(*args, **more)
        (yard.proto / "a/f2").write_text("even newer\n")
        return made

    def job() -> None:
        yard.formats = ("oci",)
        first = yard.run()
        (yard.proto / "a/f2").write_text("newer\n")
        with monkeypatch.context() as patch:
            patch.setattr(emit, "emit", emit_)
            failed = yard.run()
        assert "changed since" in str(failed.plan)
        assert "/a/f2 (changed)" in failed.error
        assert yard.run().same == yard.run(cache=False).same != first.same

    private(job)


def test_another_name_elsewhere_and_files_left_out_are_no_change(
    yard: Yard, private: Private, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A backup that links files, and a compiler whose files are excluded."""
    real = emit.emit

    def emit_(*args: Any, **more: Any) -> Any:
        made = real(*args, **more)
        os.link(yard.proto / "a/f1", tmp_path / "backup")
        (yard.proto / "a/x.o").write_text("")
        return made

    def job() -> None:
        yard.build["exclude"] = ["*.o"]
        yard.run()
        (yard.proto / "a/f2").write_text("newer\n")
        with monkeypatch.context() as patch:
            patch.setattr(emit, "emit", emit_)
            done = yard.run()
        assert done.error == ""
        assert done.same == yard.run(cache=False).same

    private(job)
