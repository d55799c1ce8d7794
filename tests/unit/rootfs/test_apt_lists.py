"""Package lists that are kept: what is damaged goes, and what a killed build left does not cost them."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.events import Bus, Event
from buildstep.rootfs.installers import apt_lists
from buildstep.rootfs.installers.apt_lists import PARSED, KeptLists, ListStore
from buildstep.system.root import Root


@pytest.fixture
def heard() -> list[Event]:
    return []


@pytest.fixture
def store(tmp_path: Path, heard: list[Event]) -> ListStore:
    return ListStore(tmp_path / "cache", "0" * 64, Bus(heard.append))


@pytest.fixture
def kept(store: ListStore, tmp_path: Path) -> KeptLists:
    private = tmp_path / "private"
    private.mkdir()
    (private / "x_dists_s_main_binary-amd64_Packages").write_text("Package: a\n")
    return store.keep(private, Root(tmp_path))


def test_a_build_that_was_killed_while_it_kept_what_apt_made_costs_only_that(
    store: ListStore, kept: KeptLists, tmp_path: Path, heard: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException): ...

    def killed(*_: object) -> None:
        raise Killed

    def make() -> None:
        (tmp_path / "work").mkdir(exist_ok=True)
        (tmp_path / "work" / PARSED).write_bytes(b"what apt made")
        store.keep_parsed(kept, tmp_path / "work")

    made = kept.parsed / PARSED
    with monkeypatch.context() as patch:
        patch.setattr(apt_lists, "_write_record", killed)
        with pytest.raises(Killed):
            make()
    assert apt_lists.damage(kept.folder, heal=False) == "", "a build may be at work"
    assert made.exists()
    assert store.find() == kept
    assert not made.exists()
    make()
    assert store.find() == kept
    assert made.exists()
    assert heard == []


def test_a_list_that_was_put_there_is_no_list(store: ListStore, kept: KeptLists) -> None:
    (kept.lists / "other_Packages").touch()
    assert store.find() is None
    assert not kept.folder.exists()
