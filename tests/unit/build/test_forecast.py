"""What a build certainly needs of its pool, told before anything is touched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from buildstep.build import forecast
from buildstep.cli.choices import choices
from buildstep.errors import DiskError
from buildstep.spec.document import Document
from buildstep.spec.load import load
from buildstep.system import space
from buildstep.system.space import Room
from buildstep.tree.proto import scan_proto

pytestmark = pytest.mark.commands("find")  # trees are really walked

MIB = 1 << 20


class Pool:
    """A pool with so much room, and one image."""

    def __init__(self, top: Path, *, cheap: bool) -> None:
        self.state, self.cheap_clone, self._tree = top / "pool/state", cheap, top / "base"

    @contextlib.contextmanager
    def tree(self, *_: object) -> Iterator[Path]:
        yield self._tree


class Image:
    uuid, size, files = "u", 3 * MIB, 1


class Spec:
    name, version, image = "hello", "1.0.0", "scratch"


@pytest.fixture(autouse=True)
def nothing_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "_watched", {})


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name, size in (("proto", 2 * MIB), ("base", 3 * MIB)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "big").write_bytes(os.urandom(size))
    return tmp_path


def check(
    top: Path, monkeypatch: pytest.MonkeyPatch, free: int, *, cheap: bool = True, spec: object = Spec,
    image: object = Image, copied: bool = True, packs: bool = False,
) -> None:  # fmt: skip
    monkeypatch.setattr(Room, "at", lambda path: Room(folder=top, free=free, inodes=None, total=free))
    monkeypatch.setattr(space, "packs", lambda _: packs)
    forecast.check_room(
        cast(Any, spec), backend=cast(Any, Pool(top, cheap=cheap)), image=cast(Any, image),
        proto=scan_proto(top / "proto"), copied=copied,
    )  # fmt: skip


def test_a_copy_that_does_not_fit_is_refused_with_need_and_room(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DiskError) as caught:
        check(top, monkeypatch, MIB)
    assert "cannot build hello 1.0.0: No space left on device" in caught.value.message
    # It stops to count where it is too much.
    assert f"{top} has 1.0 MiB free, about 2.0 MiB are needed" in caught.value.message
    check(top, monkeypatch, 2 * MIB)
    check(top, monkeypatch, MIB, copied=False)


def test_a_clone_that_does_not_fit_is_refused_where_it_is_a_copy(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(top, monkeypatch, MIB, copied=False, cheap=True)
    with pytest.raises(DiskError):
        check(top, monkeypatch, 2 * MIB + 1, copied=False, cheap=False)
    # The proto directory may replace what is in the base: together they need no more than the larger one.
    check(top, monkeypatch, 3 * MIB, cheap=False)


def test_a_base_that_is_to_be_made_counts_as_what_it_has_at_least(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Debian(Spec):
        image = "mmdebstrap:bookworm"

    class Own(Spec):
        image = "mmdebstrap:bookworm?variant=custom"

    with pytest.raises(DiskError, match=r"about 78\.0 MiB are needed"):
        check(top, monkeypatch, 50 * MIB, spec=Debian, image=None)
    check(top, monkeypatch, 50 * MIB, spec=Own, image=None)


def test_a_pool_that_may_be_too_small_for_a_new_base_is_told(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is before minutes of downloads, of which nobody can say exactly what they will need."""

    def said(free: int) -> str:
        monkeypatch.setattr(Room, "at", lambda path: Room(folder=top, free=free, inodes=None, total=free))
        monkeypatch.setattr(space, "packs", lambda _: False)
        spec = load(
            Document("inline", {"name": "x", "version": "1", "build": {"image": "mmdebstrap:bookworm"}}),
            flags={"proto": os.fspath(top / "proto")}, environ={}, cwd=top, choices=choices(),
        )  # fmt: skip
        pool = cast(Any, Pool(top, cheap=True))
        return forecast.warning(spec, backend=pool, proto=scan_proto(top / "proto"))

    assert said(240 * MIB) == ""
    assert said(100 * MIB).startswith(f"the pool has 100.0 MiB free in {top}, and this build is likely to")


def test_what_takes_no_room_is_not_counted(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that would have fitted must not be refused."""
    proto = top / "proto"
    (proto / "zeros").write_bytes(bytes(4 * MIB))
    with (proto / "hole").open("wb") as stream:
        stream.truncate(64 * MIB)
    (proto / "twin").hardlink_to(proto / "big")
    (proto / "link").symlink_to("big")
    os.mkfifo(proto / "pipe")
    check(top, monkeypatch, 2 * MIB)
    with pytest.raises(DiskError):
        check(top, monkeypatch, 2 * MIB - 1)


def test_nothing_is_certain_where_blocks_are_shared_or_compressed(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not space.packs(Path("/proc"))
    check(top, monkeypatch, 1, packs=True)
