"""Assets that were made to do harm: refused or tamed, and nothing is written outside."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.assets.archive_check import LIMITS
from buildstep.assets.mark import MARK
from buildstep.assets.policy import Policy
from buildstep.formats.unpack import Limits
from tests.unit.assets.pulling import Member, MemoryAssets, archive, member, pulled, tree

DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
SMALL = replace(LIMITS, entries=50, size=1 << 20)


def outcome(
    tmp_path: Path, data: bytes, *, limits: Limits = SMALL, owners: bool = False, links_out: bool = False
) -> str:
    """Pull an asset among others; return why it was refused, empty if it was not. Nothing else may change."""
    install = tmp_path / "a/b/srv"
    (tmp_path / "outside").mkdir(exist_ok=True)
    (tmp_path / "outside/file").write_text("untouched")
    store = MemoryAssets()
    store.add("web-1.tar.gz", data)
    store.add("web-2.tar.gz", archive(member("run", b"good")))
    before = _state(tmp_path, install)
    modes = tmp_path.stat().st_mode
    report = pulled(store, install, policy=Policy(limits=limits, owners=owners, links_out=links_out))
    assert _state(tmp_path, install) == before
    assert tmp_path.stat().st_mode == modes
    assert os.listdir(install / ".staging") == ["lock"]
    assert tree(install)["web/2/run"] == "good"
    failed = report.services["web"].failed.get("1", "")
    assert (install / "web/1").exists() == (not failed)
    return failed


def _state(top: Path, install: Path) -> dict[str, str]:
    return {
        path.relative_to(top).as_posix(): path.read_text() if path.is_file() else str(path.stat().st_mode)
        for path in top.rglob("*")
        if path != install and install not in path.parents and path not in install.parents
    }


UP = "../" * 9


@pytest.mark.parametrize(
    ("members", "why"),
    [
        pytest.param([member("../../x", b"x")], "out of the root", id="traversal"),
        pytest.param([member("a/../../../x", b"x")], "out of the root", id="traversal-inside"),
        pytest.param([member("..", kind=DIR, mode=0)], "out of the root", id="parent"),
        pytest.param([member("../", kind=DIR, mode=0)], "out of the root", id="parent-slash"),
        pytest.param(
            [member("out", kind=LINK, linkname=f"{UP}tmp"), member("out/x", b"x")],
            "out of the root",
            id="through-a-link-out",
        ),
        pytest.param(
            [member("a", kind=LINK, linkname="b"), member("b", kind=LINK, linkname="a"), member("a/x", b"x")],
            "more than 40 symbolic links",
            id="links-in-a-circle",
        ),
        pytest.param(
            [member("h", kind=HARD, linkname=f"{UP}etc/passwd")], "out of the root", id="hard-link-out"
        ),
        pytest.param(
            [member("h", kind=HARD, linkname="nothing")], "nothing that came before", id="hard-link"
        ),
        pytest.param([member("d", kind=tarfile.BLKTYPE, devmajor=8)], "device", id="block-device"),
        pytest.param([member("d", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)], "device", id="char-device"),
        pytest.param([member("x" * 300, b"x")], "too long", id="long-name"),
        pytest.param([member("f", b"x", uid=2**32 - 1)], "the uid 4294967295", id="no-owner"),
        pytest.param([member(MARK, b"{}")], "the name of our own mark", id="our-mark"),
        pytest.param([member(f"./x/../{MARK}", b"{}")], "the name of our own mark", id="our-mark-hidden"),
        pytest.param(
            [member("top", kind=LINK, linkname=MARK), member(MARK, b"{}")], "our own mark", id="mark-link"
        ),
        pytest.param([member(".", kind=LINK, linkname="/etc")], "top of the tree", id="top-is-a-link"),
        pytest.param([member(f"n{number}") for number in range(60)], "more than 50 entries", id="count"),
        pytest.param([member("f", kind=DIR), member("f/a", b"x", size=1)], "", id="fine"),
    ],
)
def test_d09_members_that_lead_out_are_refused(tmp_path: Path, members: list[Member], why: str) -> None:
    failed = outcome(tmp_path, archive(*members))
    assert why in failed
    assert bool(failed) == bool(why)


def test_d09_a_member_through_an_absolute_link_stays_inside(tmp_path: Path) -> None:
    target = f"{tmp_path}/outside"
    data = archive(member("out", kind=LINK, linkname=target), member("out/file", b"evil"))
    assert "a symbolic link out of the asset" in outcome(tmp_path, data)
    assert outcome(tmp_path, data, links_out=True) == ""


def test_d09_an_absolute_name_stays_inside(tmp_path: Path) -> None:
    assert outcome(tmp_path, archive(member(f"{tmp_path}/outside/file", b"evil"))) == ""


def test_d09_nested_directories_without_entries_are_made(tmp_path: Path) -> None:
    assert outcome(tmp_path, archive(member("a/b/c/file", b"deep"), member("d/", kind=DIR))) == ""
    assert tree(tmp_path / "a/b/srv/web/1") == {"a/b/c/file": "deep"}
    assert (tmp_path / "a/b/srv/web/1/d").is_dir()


def test_d09_nested_directories_with_entries_are_where_they_belong(tmp_path: Path) -> None:
    names = ("a/", "a/b/", "a/b/c/")
    data = archive(*(member(name, kind=DIR) for name in names), member("a/b/c/file", b"deep"))
    assert outcome(tmp_path, data) == ""
    assert tree(tmp_path / "a/b/srv/web/1") == {"a/b/c/file": "deep"}


def test_d09_links_inside_are_kept(tmp_path: Path) -> None:
    data = archive(
        member("run", b"text"),
        member("link", kind=LINK, linkname="run"),
        member("hard", kind=HARD, linkname="run"),
    )
    assert outcome(tmp_path, data) == ""
    top = tmp_path / "a/b/srv/web/1"
    assert tree(top) == {"run": "text", "hard": "text", "link": "-> run"}
    assert (top / "hard").samefile(top / "run")


def test_d09_what_git_archive_writes_is_taken(tmp_path: Path) -> None:
    data = archive(member("file", b"x"), pax={"comment": "a commit's name"})
    assert outcome(tmp_path, data) == ""


@pytest.mark.parametrize("headers", [{"path": "../../x"}, {"size": "-1"}, {"linkpath": f"{UP}etc"}])
def test_pax_headers_for_all_members_are_checked_as_any(tmp_path: Path, headers: dict[str, str]) -> None:
    failed = outcome(tmp_path, archive(member("file", b"x"), pax=headers))
    assert bool(failed) == ("linkpath" not in headers)


def test_a_member_that_comes_twice_replaces_the_first(tmp_path: Path) -> None:
    data = archive(member("f", b"one"), member("f", b"two"), member("F", b"three"), member("f/g", b"four"))
    assert "not a directory" in outcome(tmp_path, data)
    data = archive(member("f", b"one"), member("f", b"two"), member("F", b"three"))
    assert outcome(tmp_path, data) == ""
    assert tree(tmp_path / "a/b/srv/web/1") == {"f": "two", "F": "three"}


def test_d09_a_pipe_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    assert "a named pipe" in outcome(tmp_path, archive(member("p", kind=tarfile.FIFOTYPE)))
    assert "holds nothing" in outcome(tmp_path, archive())


def test_a_link_that_replaces_a_directory_leads_nowhere(tmp_path: Path) -> None:
    data = archive(
        member("d", kind=DIR),
        member("d/file", b"x"),
        member("d", kind=LINK, linkname=f"{tmp_path}/outside"),
        member("d/file", b"evil"),
    )
    outcome(tmp_path, data, links_out=True)


def test_a_bomb_by_size_is_refused(tmp_path: Path) -> None:
    assert "together" in outcome(tmp_path, archive(member("f", bytes(2 << 20))))


def test_a_bomb_by_ratio_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    data = archive(member("f", (b"\1" * 4095 + b"\2") * 200))
    few = replace(LIMITS, floor=100_000, ratio=50)
    assert "more than 50 times its size" in outcome(tmp_path, data, limits=few)
    assert outcome(tmp_path, data) == ""


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_d10_a_truncated_archive_is_never_seen(tmp_path: Path, cut: int) -> None:
    data = archive(member("a", os.urandom(300)), member("b", os.urandom(300)))
    assert outcome(tmp_path, data[:-cut])


def test_d10_a_tar_without_its_end_is_never_seen(tmp_path: Path) -> None:
    plain = gzip.decompress(archive(member("a", b"x" * 512), member("b", b"x" * 512)))
    assert "end mark" in outcome(tmp_path, gzip.compress(plain[:2048]))


def test_d09_owners_and_modes_as_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root sets owners")
    data = archive(
        member("d", kind=DIR, uid=1234, gid=1235, mode=0o2750),
        member("d/f", b"x", uid=1234, gid=1235, mode=0o4755),
    )
    assert outcome(tmp_path, data, owners=True) == ""
    info = (tmp_path / "a/b/srv/web/1/d/f").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (1234, 1235, 0o755)
    info = (tmp_path / "a/b/srv/web/1/d").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (1234, 1235, 0o2750)


def test_d09_another_user_gets_what_he_can_have(tmp_path: Path) -> None:
    data = archive(
        member("d", kind=DIR, uid=1234, gid=1235, mode=0o500),
        member("d/f", b"x", uid=1234, gid=1235, mode=0o4555, mtime=1_000_000),
    )
    assert outcome(tmp_path, data) == ""
    info = (tmp_path / "a/b/srv/web/1/d/f").stat()
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (os.geteuid(), 0o755)
    assert info.st_mtime == 1_000_000
