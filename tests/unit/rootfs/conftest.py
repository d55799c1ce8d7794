"""A base image's root and a proto directory for the tests of what goes where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.rootfs.placement import Kinds, Placement, find_placements
from buildstep.system.root import Root
from buildstep.tree.entry import FileList
from buildstep.tree.scan import scan


def kinds(entries: FileList) -> Kinds:
    return lambda path: entries[path].kind if path in entries else ""


def placements(proto: Path, base: Root) -> list[Placement]:
    """Where the directories of a proto directory go in a root, by the lists of both."""
    return find_placements(kinds(scan(proto)), scan(base.path))


@pytest.fixture
def base(tmp_path: Path) -> Root:
    """A base with a merged /usr, links in a chain, and links that would lead out of it."""
    top = tmp_path / "base"
    for folder in ("usr/bin", "usr/lib/x", "run", "etc", "var", "opt/real"):
        (top / folder).mkdir(parents=True)
    (top / "bin").symlink_to("usr/bin")
    (top / "lib").symlink_to("/usr/lib")
    (top / "var/run").symlink_to("/run")
    (top / "var/tmp").symlink_to("../../../../../tmp")
    (top / "opt/one").symlink_to("two")
    (top / "opt/two").symlink_to("/opt/real")
    (top / "opt/nowhere").symlink_to("/gone")
    (top / "opt/loop").symlink_to("loop")
    (top / "opt/file").write_text("x")
    (top / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nwww:x:33:44::/:/bin/sh\nbad:x:y:z::/:\n")
    (top / "etc/group").write_text("root:x:0:\nwww:x:55:\nadm:x:4:\n")
    return Root(top)


@pytest.fixture
def proto(tmp_path: Path) -> Callable[..., Path]:
    """Make a proto directory with these files, or directories where a name ends in a slash."""

    def make(*names: str) -> Path:
        top = tmp_path / "proto"
        for name in names:
            path = top / name
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        return top

    return make
