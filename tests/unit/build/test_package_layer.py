"""The package layer: found, extended or made, each step recorded once, and never a wrong one kept."""

from __future__ import annotations

import errno
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from buildstep.build.plan import Plan
from buildstep.cache import outputs
from buildstep.cache.layers import LayerCache, LayerRecord
from buildstep.errors import DiskError, InstallError
from buildstep.pool.directory import DirectoryBackend
from buildstep.rootfs import copy_proto
from buildstep.system import sealed
from buildstep.system.root import Root
from tests.unit.build.workshop import Workshop, make_workshop

pytestmark = pytest.mark.commands("cp", "find", "rsync")  # trees are really walked and copied


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return make_workshop(tmp_path, monkeypatch)


def age(workshop: Workshop) -> None:
    """Make what the repository said last too old to be used without a query."""
    for path in (workshop.top / "pool").rglob("*.json"):
        if '"asked"' in path.read_text():
            value = sealed.read(path)
            sealed.write(path, value | {"asked": value["asked"] - 1e6})


def packages(workshop: Workshop) -> tuple[str, str]:
    steps = workshop.steps()
    recorded = [step["name"] for step in workshop.record()["steps"]]
    assert recorded == list(steps), "record and events have the same steps, each once"
    return steps["packages"]


def test_a_layer_is_made_kept_and_found_again(workshop: Workshop) -> None:
    first = workshop.build(["a"], order="packages-first")
    assert packages(workshop)[0] == "run"
    assert workshop.repository.installs == [("a",)]
    (workshop.proto / "srv/page").write_text("changed")
    second = workshop.build(["a"], order="packages-first")
    state, reason = packages(workshop)
    assert (state, workshop.repository.installs) == ("reuse", [("a",)])
    assert reason.startswith("reused cached layer")
    assert workshop.steps()["clone"][1].startswith("layer ")
    assert first.tree_digest != second.tree_digest


def test_a_found_layer_gives_the_same_tree_as_a_made_one(workshop: Workshop) -> None:
    made = workshop.build(["a", "b"], order="packages-first", cache=False)
    workshop.build(["a", "b"], order="packages-first")
    found = workshop.build(["a", "b"], order="packages-first", description="another")
    assert packages(workshop)[0] == "reuse"
    assert made.tree_digest == found.tree_digest


def test_a_layer_on_the_proto_directory_keeps_times_that_the_pool_does_not(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = 10_000_000_000 * 10**9  # 2286, which most file systems have
    os.utime(workshop.proto / "srv/page", ns=(far, far))
    real = copy_proto.copy

    def copy(proto: Path, root: Root, *more: Any) -> None:
        real(proto, root, *more)
        os.utime(root.path / "srv/page", (2**31 - 1,) * 2)  # ext4 with small inodes has no later one

    monkeypatch.setattr(copy_proto, "copy", copy)
    for state in ("run", "reuse"):
        workshop.build(["a"], order="proto-first", description=state, formats=["tar"])
        assert packages(workshop)[0] == state
        cache = workshop.open()[1]
        (record,) = cache.records()
        assert cache.entries(record)[b"srv/page"].mtime == far


def test_a_layer_on_the_proto_directory_has_the_owners_that_could_not_be_set(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = property(lambda _: False, lambda *_: None)
    monkeypatch.setattr(DirectoryBackend, "privileged", never, raising=False)
    for state in ("run", "reuse"):
        workshop.build(["a"], order="proto-first", description=state, owner={"/srv/page": "7:8"})
        assert packages(workshop)[0] == state
        cache = workshop.open()[1]
        (record,) = cache.records()
        entry = cache.entries(record)[b"srv/page"]
        assert (entry.uid, entry.gid) == (7, 8)


def planned(found: Plan) -> dict[str, str]:
    return {step.name: step.reason for step in found.steps}


def test_a_reason_compares_with_the_last_build_of_the_same_component(workshop: Workshop) -> None:
    def build(name: str, *names: str, **more: Any) -> tuple[str, str]:
        asked: dict[str, Any] = {"name": name, "order": "packages-first", **more}
        emit = planned(workshop.plan(names, **asked))["emit"]
        workshop.build(names, **asked)
        return workshop.steps()["packages"][1], emit

    assert "built for the first time" in build("web", "a")[0]
    # Another component of the pool is no "last time", however much is the same.
    why, emit = build("queue", "a", "b")
    assert "built for the first time" in why
    assert "extended layer" in why, "what can be gone on from is another matter"
    assert emit == "oci"
    assert "the first build of this component" in build("cron", "a")[1]
    # Of one's own builds it is the last, not the nearest.
    assert "packages: c added; packages: a removed" in build("web", "c")[0]
    assert "option.manifest.version: 1.0.0 -> 2" in build("web", "c", version="2")[1]
    build("web", "a", version="1.0.0")
    assert "packages: d added; packages: a removed" in build("web", "d")[0]


def test_another_component_finds_the_layer_whatever_names_the_installer(
    workshop: Workshop, apt_base: str
) -> None:
    for name, installer in (("web", "auto"), ("queue", "auto"), ("cron", "apt")):
        workshop.build(["a", "b"], name=name, image=apt_base, order="packages-first", installer=installer)
    assert workshop.repository.installs == [("a", "b")]
    assert workshop.steps()["packages"][0] == "reuse"


def test_a_build_that_is_up_to_date_is_the_last_one_too(workshop: Workshop) -> None:
    for names in (["a"], ["b"], ["a"]):
        workshop.build(names, order="packages-first", version=names[0])
    assert workshop.steps()["emit"][0] == "reuse"
    why = planned(workshop.plan(["a", "c"], order="packages-first", version="a"))["packages"]
    assert "packages: c added" in why
    assert "removed" not in why


def test_the_last_build_is_read_only_for_a_reason(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.build(["a"], order="packages-first")
    read: list[str] = []
    real = outputs.last

    def last(state: Path, component: str) -> outputs.Last | None:
        read.append(component)
        return real(state, component)

    monkeypatch.setattr(outputs, "last", last)
    assert planned(workshop.plan(["a"], order="packages-first"))["emit"].startswith("up to date")
    assert read == []
    workshop.plan(["b"], order="packages-first")
    assert len(read) == 1


@pytest.fixture
def apt_base(workshop: Workshop) -> str:
    path = workshop.top / "base.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("usr/bin/apt-get", "usr/bin/dpkg-query"):
            member = tarfile.TarInfo(name)
            member.mode = 0o755
            archive.addfile(member)
    return f"tar:{path}"


def test_what_auto_finds_and_its_name_are_one(workshop: Workshop, apt_base: str) -> None:
    def build(*names: str, **more: Any) -> dict[str, tuple[str, str]]:
        workshop.build(names, image=apt_base, order="packages-first", **more)
        return workshop.steps()

    build("a")
    assert workshop.record()["inputs"]["installer"] == "apt"
    assert build("a", installer="apt")["emit"][0] == "reuse"
    assert build("a", "b", installer="auto")["packages"][1].startswith(
        "2 packages in the image; packages: b added"
    )
    assert "extended layer" in build("a", "b", "c", installer="apt")["packages"][1]
    assert "installer: apt -> pkgsrc" in build("a", installer="pkgsrc")["packages"][1]
    # A default that is named is the default.
    assert build("a", installer="pkgsrc", compression="gzip")["emit"][0] == "reuse"
    plan = workshop.plan(
        ["a"], image=apt_base, order="packages-first", installer="pkgsrc", compression="zstd"
    )
    assert "option.compression: None -> zstd" in planned(plan)["emit"]


def test_without_packages_it_does_not_matter_what_would_install_them(workshop: Workshop) -> None:
    workshop.build()
    for more in (
        {"installer": "pkgsrc"},
        {"order": "packages-first"},
        {"installer_options": {"mirror": "http://m"}},
    ):
        workshop.build(**more)
        assert workshop.steps()["emit"][0] == "reuse", more


def test_an_old_resolution_is_checked_by_a_query_and_the_layer_found(workshop: Workshop) -> None:
    workshop.build(["a"], order="packages-first")
    age(workshop)
    workshop.build(["a"], order="packages-first")
    state, reason = packages(workshop)
    assert (state, workshop.repository.installs) == ("reuse", [("a",)])
    assert len(workshop.repository.refreshed) == 2
    assert workshop.steps()["clone"][1].startswith("image "), "the base was cloned to query in it"
    assert reason.startswith("reused cached layer")


def test_a_new_version_makes_a_new_layer_and_says_which(workshop: Workshop) -> None:
    workshop.build(["a"], order="packages-first")
    age(workshop)
    workshop.repository.versions["a"], workshop.repository.index = "2", "index 2"
    workshop.build(["a"], order="packages-first")
    state, reason = packages(workshop)
    assert (state, workshop.repository.installs) == ("run", [("a",), ("a",)])
    assert "a" in reason
    assert "1 -> 2" in reason


def test_one_package_more_extends_the_layer(workshop: Workshop) -> None:
    workshop.build(["a"], order="packages-first")
    extended = workshop.build(["a", "b"], order="packages-first")
    assert workshop.repository.installs == [("a",), ("b",)]
    state, reason = packages(workshop)
    assert state == "run"
    assert "extended layer" in reason
    whole = workshop.build(["a", "b"], order="packages-first", cache=False)
    assert extended.tree_digest == whole.tree_digest


@pytest.mark.parametrize("field", ["blocker", "unexpected"])
def test_where_extending_will_not_do_all_are_installed_and_the_reason_is_named(
    workshop: Workshop, field: str
) -> None:
    workshop.build(["a"], order="packages-first")
    setattr(workshop.repository, field, "b has a trigger")
    workshop.build(["a", "b"], order="packages-first")
    assert workshop.repository.installs[-1] == ("a", "b")
    state, reason = packages(workshop)
    assert state == "run"
    assert "b has a trigger" in reason
    assert "extended layer" not in reason


def test_a_failed_extension_leaves_nothing_and_all_are_installed(workshop: Workshop) -> None:
    workshop.build(["a"], order="packages-first")
    workshop.repository.failures = ["b breaks"]
    result = workshop.build(["a", "b"], order="packages-first")
    assert workshop.repository.installs[-1] == ("a", "b")
    assert "b breaks" in packages(workshop)[1]
    whole = workshop.build(["a", "b"], order="packages-first", cache=False)
    assert result.tree_digest == whole.tree_digest


def test_something_unasked_for_in_an_extension_is_not_kept(workshop: Workshop) -> None:
    workshop.build(["a"], order="packages-first")
    workshop.repository.surplus = ("c",)
    workshop.build(["a", "b"], order="packages-first")
    assert "c 1" in packages(workshop)[1]
    assert workshop.repository.installs[-1] == ("a", "b")


def test_a_file_that_an_old_index_names_and_is_gone_is_looked_up_in_a_new_one(workshop: Workshop) -> None:
    workshop.repository.failures, workshop.repository.stale = ["404 for a"], True
    workshop.build(["a"], order="packages-first")
    assert workshop.repository.refreshed == [3600, 0.0]
    assert "404 for a; the repository is queried again" in workshop.notes()
    assert packages(workshop)[0] == "run"


def test_a_file_that_the_new_index_names_as_well_fails_the_build(workshop: Workshop) -> None:
    workshop.repository.failures, workshop.repository.stale = ["404 for a", "404 for a again"], True
    with pytest.raises(InstallError, match="404 for a again"):
        workshop.build(["a"], order="packages-first")
    assert workshop.repository.refreshed == [3600, 0.0]


@pytest.mark.parametrize("there", [(), ("a",)], ids=["on the base", "an extension"])
def test_a_server_whose_clock_is_behind_is_not_asked_for_ever(
    workshop: Workshop, there: tuple[str, ...]
) -> None:
    """Each index that it gives looks like one from before the build."""
    if there:
        workshop.build(there, order="packages-first")
        workshop.repository.blocker = "made to be one"
    workshop.repository.slow = 600.0
    workshop.repository.failures = [f"404 for b, number {number}" for number in range(4)]
    workshop.repository.stale = True
    queries = len(workshop.repository.refreshed)
    with pytest.raises(InstallError, match="404 for b, number 1"):
        workshop.build(["a", "b"], order="packages-first")
    assert 0.0 in workshop.repository.refreshed[queries:]


def test_a_script_that_fails_is_not_run_again(workshop: Workshop) -> None:
    """An index that is not the last has nothing to do with it, and a person may want to look around."""
    workshop.repository.failures = ["a is broken"]
    with pytest.raises(InstallError, match="a is broken"):
        workshop.build(["a"], order="packages-first")
    assert workshop.repository.refreshed == [3600]


def test_what_an_old_index_does_not_know_is_looked_up_in_a_new_one(workshop: Workshop) -> None:
    workshop.repository.upcoming = {"new": "1"}
    workshop.build(["a", "new"], order="packages-first")
    assert workshop.repository.refreshed == [3600, 0.0]
    assert "new is not known; the repository is queried again" in workshop.notes()
    assert workshop.repository.installs == [("a", "new")]
    # The layer is kept under the versions of the new index.
    (workshop.proto / "srv/page").write_text("changed")
    workshop.build(["a", "new"], order="packages-first")
    assert packages(workshop)[0] == "reuse"


@pytest.mark.parametrize("fetched", ["before", "now"])
def test_what_the_new_index_does_not_know_either_fails_the_build(workshop: Workshop, fetched: str) -> None:
    workshop.repository.fetched = time.time() + 60 if fetched == "now" else 0
    with pytest.raises(InstallError, match="nope is not known"):
        workshop.build(["nope"], order="packages-first")
    assert workshop.repository.refreshed == ([3600] if fetched == "now" else [3600, 0.0])


def test_where_the_index_cannot_be_refreshed_both_are_told(workshop: Workshop) -> None:
    workshop.repository.down = 2
    with pytest.raises(InstallError, match="nope is not known"):
        workshop.build(["nope"], order="packages-first")
    assert "the repository's index cannot be refreshed: no route to the repository" in workshop.notes()


def test_a_failed_install_from_a_new_index_fails(workshop: Workshop) -> None:
    workshop.repository.fetched = time.time() + 60
    workshop.repository.failures = ["a is broken"]
    with pytest.raises(InstallError, match="a is broken"):
        workshop.build(["a"], order="packages-first")
    assert workshop.steps()["packages"][0] == "failed"
    assert list((workshop.top / "pool/build").iterdir()) == []
    assert list(workshop.out.iterdir()) == []


def test_without_the_repository_the_last_resolution_is_used(workshop: Workshop) -> None:
    workshop.build(["a"], order="packages-first")
    age(workshop)
    workshop.repository.down = True
    workshop.build(["a"], order="packages-first")
    assert packages(workshop)[0] == "reuse"
    assert "the repository cannot be queried" in workshop.notes()


def test_without_repository_and_layer_the_build_fails(workshop: Workshop) -> None:
    workshop.repository.down = True
    with pytest.raises(InstallError, match="no route"):
        workshop.build(["a"], order="packages-first")


@pytest.mark.parametrize("there", [(), ("a",)], ids=["from an old index", "an extension"])
def test_an_install_that_a_full_disk_fails_is_not_tried_again(
    workshop: Workshop, there: tuple[str, ...]
) -> None:
    if there:
        workshop.build(there, order="packages-first")
    installs = len(workshop.repository.installs)
    workshop.repository.failures = ["a does not fit"]
    workshop.repository.disk = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DiskError, match="a does not fit"):
        workshop.build(["a", "b"], order="packages-first")
    assert len(workshop.repository.installs) == installs


@pytest.mark.parametrize("kept", [False, True])
def test_a_layer_whose_record_does_not_fit_takes_no_room(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    def full(_cache: LayerCache, record: LayerRecord) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{workshop.top}/pool/{record.key}")

    monkeypatch.setattr(LayerCache, "_write", full)
    with pytest.raises(DiskError):
        workshop.build(["a"], order="packages-first", keep_on_failure=kept)
    pool = workshop.top / "pool"
    assert [os.listdir(pool / name) for name in ("layer", "build", "state/layers")] == [[], [], []]
    assert "the clone is kept" not in workshop.notes(), "it is not there any more"


def test_an_index_that_does_not_fit_is_not_a_repository_out_of_reach(workshop: Workshop) -> None:
    workshop.build(["a"], order="packages-first")
    age(workshop)
    workshop.repository.down = True
    workshop.repository.disk = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DiskError):
        workshop.build(["a"], order="packages-first")


def test_a_layer_with_other_content_than_resolved_is_not_kept(workshop: Workshop) -> None:
    workshop.repository.surplus = ("a",)
    resolved = dict(workshop.repository.versions)
    workshop.repository.versions = dict.fromkeys(resolved, "1")

    def lie() -> None:
        workshop.repository.versions["a"] = "9"

    install = workshop.repository.installs
    workshop.repository.installs = _OnAppend(lie)
    workshop.build(["a"], order="packages-first")
    assert install == []
    assert "is not kept" in workshop.notes()
    workshop.build(["a"], order="packages-first", description="another")
    assert packages(workshop)[0] == "run"


class _OnAppend(list[tuple[str, ...]]):
    """A list that tells of each append."""

    def __init__(self, act: object) -> None:
        super().__init__()
        self.act = act

    def append(self, row: tuple[str, ...]) -> None:
        super().append(row)
        assert callable(self.act)
        self.act()


def test_proto_first_copies_before_packages_and_reuses_only_with_the_same_proto(workshop: Workshop) -> None:
    workshop.build(["a"])
    assert list(workshop.steps())[:4] == ["import", "clone", "sync", "packages"]
    workshop.build(["a"], description="another")
    assert (workshop.steps()["sync"][0], packages(workshop)[0]) == ("reuse", "reuse")
    (workshop.proto / "srv/page").write_text("other content")
    workshop.build(["a"])
    assert (workshop.steps()["sync"][0], packages(workshop)[0]) == ("run", "run")
    assert len(workshop.repository.installs) == 2


def test_without_cache_nothing_is_kept_or_used(workshop: Workshop) -> None:
    for _ in range(2):
        workshop.build(["a"], order="packages-first", cache=False)
        state, reason = packages(workshop)
        assert state == "run"
        assert reason.endswith("--no-cache")
    assert not list((workshop.top / "pool").glob("**/layer/*"))


def test_a_damaged_layer_is_made_again(workshop: Workshop) -> None:
    first = workshop.build(["a"], order="packages-first")
    lists = list((workshop.top / "pool/state/layers").glob("*.list"))
    assert lists
    for path in lists:
        path.write_bytes(b"damaged")
    again = workshop.build(["a"], order="packages-first", description="another")
    assert packages(workshop)[0] == "run"
    assert len(workshop.repository.installs) == 2
    assert first.tree_digest == again.tree_digest
