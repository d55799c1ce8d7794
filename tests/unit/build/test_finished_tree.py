"""A finished tree: what is read of a clone, and what is left out."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from buildstep.build import finished_tree
from buildstep.build.finished_tree import read_tree
from buildstep.events import Bus, Event, Note
from buildstep.pool.directory import DirectoryBackend
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.scan import scan

pytestmark = pytest.mark.commands("cp", "find")


def bind(folder: Path, name: str) -> None:
    """Make a socket; its whole path may be longer than one can have."""
    here = os.open(folder, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{here}/{name}")
    os.close(here)


class Asked(FileList):
    """A file list that notes which paths it is asked for."""

    def __init__(self, entries: FileList) -> None:
        super().__init__(entries)
        self.paths: list[bytes] = []

    def get(self, path: bytes, *default: object) -> Entry | None:  # type: ignore[override]
        self.paths.append(path)
        return super().get(path)


def test_sockets_are_left_out_wherever_they_come_from(tmp_path: Path) -> None:
    dataset = DirectoryBackend(os.fspath(tmp_path / "pool")).create("x")
    proto = tmp_path / "proto"
    proto.mkdir()
    for folder, name in ((dataset.path, "made"), (dataset.path, "base"), (proto, "brought")):
        bind(folder, name)
        (folder / "file").touch()
    below = {path: entry for path, entry in scan(dataset.path).items() if path in (b"", b"base")}
    heard: list[Event] = []
    found = read_tree(dataset, {}, below, bus=Bus(heard.append), overlay=scan(proto))
    assert sorted(found.entries) == [b"", b"base", b"file"], "what the base has is part of it"
    assert sorted(os.listdir(dataset.path)) == ["base", "file"]
    notes = [event.text for event in heard if isinstance(event, Note)]
    assert notes == [f"{name} is a socket and is left out of the image" for name in ("made", "brought")]


def test_only_sockets_are_looked_up_in_the_base(tmp_path: Path) -> None:
    bind(tmp_path, "made")
    for number in range(3):
        (tmp_path / f"file{number}").touch()
    entries = scan(tmp_path)
    below = Asked(entries)
    assert finished_tree._leave_out_sockets(entries, entries, below, Bus()) == []
    assert below.paths == [b"made"]
