"""Builds whose proto directory has a file where the tree below has a directory, or the other way round."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import UsageError
from buildstep.events import Bus, Progress
from buildstep.rootfs import copy_proto
from tests.unit.build.workshop import Workshop, make_workshop

pytestmark = pytest.mark.commands("cp", "find", "rsync")  # trees are really walked and copied

RULES = ("/opt/app", "/etc/conf", "/opt/lib/*")


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """Its base has a directory with content, a file, and a link to a directory; its proto has the others."""
    made = make_workshop(tmp_path, monkeypatch)
    with tarfile.open(tmp_path / "base.tar", "w") as tar:
        for name, text in {"opt/app/data": "12345", "opt/app/more/x": "678", "etc/conf": "9", "opt/lib/d/x": "a"}.items():  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
        other = tarfile.TarInfo("etc/linked")  # outlives the directory that its other name is in
        other.type, other.linkname = tarfile.LNKTYPE, "opt/app/data"
        tar.addfile(other)
        link = tarfile.TarInfo("lib")
        link.type, link.linkname = tarfile.SYMTYPE, "opt/lib"
        tar.addfile(link)
    for name in ("opt/app", "etc/conf/part", "lib/d"):
        path = made.proto / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} of the proto directory")
    return made


def on_base(workshop: Workshop, **build: object) -> dict[str, Any]:
    """What a build on that base is asked for."""
    return {"image": f"tar:{workshop.top / 'base.tar'}", "formats": ["tar"], "compression": "none", **build}


def shipped(workshop: Workshop) -> dict[str, tuple[bytes, int]]:
    """Type and size of all in the emitted tar."""
    with tarfile.open(workshop.out / "hello-1.0.0.tar") as tar:
        return {member.name.removeprefix("./"): (member.type, member.size) for member in tar}


def started(workshop: Workshop) -> list[str]:
    return [name for name, (state, _) in workshop.steps().items() if state != "failed"]


def test_all_are_told_together_before_anything_starts(workshop: Workshop) -> None:
    """The first build has to import the base to know; then it is known at once, also to a dry run."""
    with pytest.raises(UsageError) as first:
        workshop.build(**on_base(workshop))
    assert started(workshop) == []
    with pytest.raises(UsageError) as second:
        workshop.plan(**on_base(workshop))
    assert [event for event in workshop.events if not isinstance(event, Progress)] == []
    assert (first.value.message, first.value.detail) == (second.value.message, second.value.detail)
    assert first.value.message.endswith("base.tar: 3 conflicts")
    assert [row.partition(";")[0] for row in first.value.detail.splitlines()] == [
        "  /etc/conf: a directory over a file",
        "  /opt/app: a file over a directory with 3 paths in it",
        "  /opt/lib/d: a file (lib/d) over a directory with 1 path in it",
    ]
    assert not list(workshop.out.glob("*"))


@pytest.mark.parametrize("rules", [RULES, ["**"]])
def test_a_rule_lets_the_proto_directory_win_however_it_is_laid_in(
    workshop: Workshop, rules: list[str]
) -> None:
    build = on_base(workshop, replace=list(rules), formats=["tar", "oci"])
    found = []
    for plain in (False, True):
        result = workshop.build(**build, plain=plain, cache=False)
        found.append((result.tree_digest, [row["sha256"] for row in result.files]))
        there = shipped(workshop)
        assert there["opt/app"] == (tarfile.REGTYPE, 30)
        assert there["etc/conf"][0] == tarfile.DIRTYPE
        assert there["opt/lib/d"] == (tarfile.REGTYPE, 28)
        assert there["lib"][0] == tarfile.SYMTYPE
        assert there["etc/linked"] == (tarfile.REGTYPE, 5)
        assert not [name for name in there if name.startswith(("opt/app/", "opt/lib/d/"))]
        record = workshop.record()
        assert record["cleaned"][0] == {
            "cleaner": "replace", "paths": 7, "bytes": 5, "names": ["/etc/conf", "/opt/app", "/opt/lib/d"]
        }  # fmt: skip
        assert "takes the place of /etc/conf and 2 more" in workshop.steps()["sync"][1]
        assert record["inputs"]["spec"]["replace"] == list(rules)
    assert found[0] == found[1]


def test_a_rule_that_is_taken_away_ends_the_reuse(workshop: Workshop) -> None:
    build = on_base(workshop)
    workshop.build(**build, replace=RULES)
    assert workshop.plan(**build, replace=RULES).outputs is not None
    with pytest.raises(UsageError, match="1 conflict"):
        workshop.build(**build, replace=RULES[1:])


def test_with_packages_on_top_the_layer_is_reused_and_the_rule_is_needed_still(workshop: Workshop) -> None:
    build = on_base(workshop, replace=RULES)
    for _ in range(2):
        workshop.build(["a"], **build)
        assert workshop.record()["cleaned"][0]["cleaner"] == "replace"
        assert shipped(workshop)["opt/app"][0] == tarfile.REGTYPE
        (workshop.out / "hello-1.0.0.tar").unlink()
    assert workshop.repository.installs == [("a",)]
    with pytest.raises(UsageError, match="3 conflicts"):
        workshop.build(["a"], **on_base(workshop))


def test_what_packages_brought_is_found_before_the_proto_directory_is_laid_in(workshop: Workshop) -> None:
    (workshop.proto / "usr/a").mkdir(parents=True)
    build = on_base(workshop, order="packages-first")
    for plain in (False, True):
        with pytest.raises(UsageError) as caught:
            workshop.build(["a"], **build, replace=RULES, plain=plain)
        assert caught.value.message.endswith(" does not fit on the base image with the packages: 1 conflict")
        assert caught.value.detail == "  /usr/a: a directory over a file; to allow it: --replace '/usr/a'"
        assert started(workshop)[-1] == "packages"
    for plain in (False, True):
        workshop.build(["a"], **build, replace=[*RULES, "/usr/a"], plain=plain, cache=plain)
        assert shipped(workshop)["usr/a"][0] == tarfile.DIRTYPE
        assert "replace" in [row["cleaner"] for row in workshop.record()["cleaned"]]


def test_a_link_where_packages_need_a_directory_is_refused_unless_they_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = make_workshop(tmp_path, monkeypatch)
    (workshop.proto / "tmp").symlink_to("var/tmp")
    allow = {"dangling-link": ["/tmp"]}
    workshop.build(allow=allow)
    with pytest.raises(UsageError) as caught:
        workshop.build(["a"])
    assert caught.value.detail.startswith("  /tmp: a link, where package scripts need a directory: leave")
    for plain in (False, True):
        workshop.build(["a"], order="packages-first", plain=plain, allow=allow)


@pytest.mark.parametrize("pattern", ["/opt/app", "/opt/ap[[:alpha:]]"])
def test_what_is_excluded_is_in_nobodys_way(workshop: Workshop, pattern: str) -> None:
    """Also where only rsync knows what a pattern means."""
    build = on_base(workshop, exclude=[pattern])
    with pytest.raises(UsageError, match="2 conflicts"):
        workshop.build(**build)
    workshop.build(**build, replace=RULES[1:])
    assert shipped(workshop)["opt/app/more/x"] == (tarfile.REGTYPE, 3)


def test_rsync_has_the_time_that_a_command_may_take(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, times = copy_proto._rsync, []

    def rsync(arguments: Sequence[str], timeout: float, bus: Bus) -> str:
        times.append((timeout, "--dry-run" in arguments))
        return real(arguments, timeout, bus)

    monkeypatch.setattr(copy_proto, "_rsync", rsync)
    build = on_base(workshop, exclude=["/opt/ap[[:alpha:]]"], replace=RULES[1:])
    workshop.build(**build, timeouts={"command": 77})
    assert sorted(set(times)) == [(77, False), (77, True)]
