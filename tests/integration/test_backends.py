"""The contract of every backend, on real file systems. The zfs ones run in the guest (`make check-zfs`)."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import stat
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildstep.errors import DatasetError
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.heal import find_stale, heal
from buildstep.pool.interface import Backend, Dataset, Kind
from buildstep.pool.journal import open_journal
from buildstep.pool.overlay import OverlayBackend, OverlayDataset
from buildstep.system import namespaces
from buildstep.system.locks import lock, try_lock
from buildstep.system.mount_table import mount_points
from buildstep.system.mounts import unmount
from buildstep.system.userns import in_user_namespace
from buildstep.tree.entry import FileList, tree_digest
from tests.integration.pools import (
    IMAGE,
    KEY,
    KINDS,
    MAKERS,
    OTHER,
    change,
    command,
    fill,
    full,
    hashed,
    location,
    same,
)
from tests.rounds import chosen

SEEDS = chosen(range(12), 4)


@pytest.fixture(scope="module", params=KINDS)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    with location(request.param, tmp_path_factory.mktemp(request.param)) as where:
        yield request.param, where


@pytest.fixture
def pool(place: tuple[str, str]) -> Iterator[Backend]:
    """A pool that is empty, and must be again when a test has removed what it made."""
    kind, where = place
    backend = MAKERS[kind](where)
    yield backend
    for each in (Kind.BUILD, Kind.LAYER, Kind.IMAGE):
        for ident in backend.idents(each):
            backend.destroy(each, ident)
    assert [backend.idents(each) for each in Kind] == [[], [], []]


@pytest.fixture
def image(pool: Backend) -> Path:
    """An image in the pool; the path of its tree while it was made, which is gone."""
    dataset = pool.create("import-1")
    fill(dataset.path)
    pool.snapshot(dataset, Kind.IMAGE, IMAGE)
    return dataset.path


def test_create_is_empty_and_writable(pool: Backend) -> None:
    dataset = pool.create("b1")
    assert (dataset.ident, os.listdir(dataset.path)) == ("b1", [])
    assert dataset.path.stat().st_mode & 0o7777 == 0o755
    assert pool.exists(Kind.BUILD, "b1")
    assert pool.idents(Kind.BUILD) == ["b1"]
    fill(dataset.path)
    same(hashed(dataset.scan({}, owner=None), dataset.path), full(dataset.path))


def test_import_becomes_an_image(pool: Backend) -> None:
    dataset = pool.create("import-1")
    fill(dataset.path)
    before = full(dataset.path)
    pool.snapshot(dataset, Kind.IMAGE, IMAGE)
    assert pool.exists(Kind.IMAGE, IMAGE)
    assert not pool.exists(Kind.BUILD, "import-1")
    assert [pool.idents(kind) for kind in Kind] == [[IMAGE], [], []]
    with pool.tree(Kind.IMAGE, IMAGE) as tree:
        same(before, full(tree))


def test_name_that_is_taken(pool: Backend, image: Path) -> None:
    dataset = pool.create("again")
    with pytest.raises(DatasetError):
        pool.snapshot(dataset, Kind.IMAGE, IMAGE)
    with pytest.raises(DatasetError):
        pool.create("again")
    with pool.tree(Kind.IMAGE, IMAGE) as tree:
        assert (tree / "etc/conf").exists()


def test_clone_has_everything(pool: Backend, image: Path) -> None:
    with pool.tree(Kind.IMAGE, IMAGE) as tree:
        base = full(tree)
    clone = pool.clone(Kind.IMAGE, IMAGE, "b1")
    same(base, full(clone.path))
    same(base, hashed(clone.scan(base, owner=None), clone.path))


def test_clone_of_nothing(pool: Backend) -> None:
    with pytest.raises(DatasetError, match="there is no image"):
        pool.clone(Kind.IMAGE, IMAGE, "b1")
    with pytest.raises(DatasetError, match="there is no layer"):
        pool.clone(Kind.LAYER, KEY, "b1")
    with pytest.raises(DatasetError), pool.tree(Kind.IMAGE, IMAGE):
        pass
    assert pool.idents(Kind.BUILD) == []


def test_two_clones_at_once(pool: Backend, image: Path) -> None:
    one = pool.clone(Kind.IMAGE, IMAGE, "b1")
    two = pool.clone(Kind.IMAGE, IMAGE, "b2")
    (one.path / "etc/conf").write_text("changed")
    (one.path / "only-one").touch()
    assert (two.path / "etc/conf").read_text() == "one\n"
    assert not (two.path / "only-one").exists()
    with pool.tree(Kind.IMAGE, IMAGE) as tree:
        assert (tree / "etc/conf").read_text() == "one\n"
        assert not (tree / "only-one").exists()
    assert pool.idents(Kind.BUILD) == ["b1", "b2"]


def seen_anew(clone: Dataset, pool: Backend, kind: Kind, origin: str) -> FileList:
    """All of a clone, read in full.

    In a user namespace the kernel does not note from which file a copy was made. So a new hard link to a
    copied file can look like a file of its own, until it is mounted anew: both are one in the upper directory.
    """
    if not isinstance(pool, OverlayBackend) or not in_user_namespace():
        return full(clone.path)
    assert isinstance(clone, OverlayDataset)
    assert clone.upper is not None
    view = pool.state / "view"
    view.mkdir()
    pool.mount(view, [clone.upper, *pool.lower(kind, origin)])
    try:
        return full(view)
    finally:
        unmount(view)
        view.rmdir()


def test_layer_and_a_clone_of_it(pool: Backend, image: Path) -> None:
    clone = pool.clone(Kind.IMAGE, IMAGE, "b1")
    change(clone.path, seed=99)
    layer = seen_anew(clone, pool, Kind.IMAGE, IMAGE)
    pool.snapshot(clone, Kind.LAYER, KEY)
    assert not pool.exists(Kind.BUILD, "b1")
    assert pool.exists(Kind.LAYER, KEY)
    with pool.tree(Kind.LAYER, KEY) as tree:
        same(layer, full(tree))
    top = pool.clone(Kind.LAYER, KEY, "b2")
    same(layer, full(top.path))
    change(top.path, seed=100)
    same(hashed(top.scan(layer, owner=None), top.path), seen_anew(top, pool, Kind.LAYER, KEY))
    with pool.tree(Kind.LAYER, KEY) as tree:
        same(layer, full(tree))


@pytest.mark.parametrize("seed", SEEDS)
def test_scan_is_a_full_scan(pool: Backend, image: Path, seed: int) -> None:
    with pool.tree(Kind.IMAGE, IMAGE) as tree:
        base = full(tree)
    clone = pool.clone(Kind.IMAGE, IMAGE, "b1")
    change(clone.path, seed)
    seen = hashed(clone.scan(base, owner=None), clone.path)
    real = seen_anew(clone, pool, Kind.IMAGE, IMAGE)
    same(seen, real)
    assert tree_digest(seen) == tree_digest(real)


def test_views_at_once(pool: Backend, image: Path) -> None:
    with pool.tree(Kind.IMAGE, IMAGE) as one:
        with pool.tree(Kind.IMAGE, IMAGE) as two:
            assert (two / "etc/conf").read_text() == "one\n"
        assert (one / "etc/conf").read_text() == "one\n"
    assert not [point for point in mount_points(pool.state) if point != str(pool.state)]


def test_what_is_written_to_a_scratch_view_is_gone_when_it_is_left(pool: Backend, image: Path) -> None:
    clone = pool.clone(Kind.IMAGE, IMAGE, "b1")
    (clone.path / "of-the-build").write_text("1")
    before = full(clone.path)
    for _ in range(2):
        with pool.scratch(clone) as view:
            assert full(view) == before
            names = sorted(os.listdir(view))
            (view / "new").write_text("2")
            (view / "of-the-build").unlink()
            (view / names[0]).chmod(0o711)
            assert (clone.path / "of-the-build").read_text() == "1"
        assert full(clone.path) == before
    with pytest.raises(FileExistsError), pool.scratch(clone) as view:
        (view / "of-the-build").mkdir()
    assert full(clone.path) == before
    assert [point for point in mount_points(clone.path.parent) if "scratch" in point] == []
    assert [name for name in os.listdir(clone.path.parent) if name.startswith("scratch")] == []
    pool.destroy(Kind.BUILD, "b1")
    assert not pool.exists(Kind.BUILD, "b1")


def test_destroy_is_idempotent(pool: Backend, image: Path) -> None:
    pool.clone(Kind.IMAGE, IMAGE, "b1")
    for _ in range(2):
        pool.destroy(Kind.BUILD, "b1")
        pool.destroy(Kind.LAYER, KEY)
    assert not pool.exists(Kind.BUILD, "b1")
    for _ in range(2):
        pool.destroy(Kind.IMAGE, IMAGE)
    assert not pool.exists(Kind.IMAGE, IMAGE)
    assert pool.idents(Kind.IMAGE) == []


def test_origin_in_use_is_kept(pool: Backend, image: Path) -> None:
    """Either it is refused, and says who stands on it, or the clone does not need it."""
    clone = pool.clone(Kind.IMAGE, IMAGE, "b1")
    if pool.scheme in ("overlay", "zfs"):
        with pytest.raises(DatasetError, match=r"is the origin of .*b1"):
            pool.destroy(Kind.IMAGE, IMAGE)
        assert pool.exists(Kind.IMAGE, IMAGE)
    else:
        pool.destroy(Kind.IMAGE, IMAGE)
    assert (clone.path / "etc/conf").read_text() == "one\n"


def test_destroy_unmounts_what_a_build_left(pool: Backend, image: Path) -> None:
    clone = pool.clone(Kind.IMAGE, IMAGE, "b1")
    (clone.path / "proc").mkdir()
    command("mount", "-t", "tmpfs", "none", str(clone.path / "proc"))
    pool.destroy(Kind.BUILD, "b1")
    assert not pool.exists(Kind.BUILD, "b1")
    assert not mount_points(clone.path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "-x", "a b", "a@b", "a\n", "x" * 200])
def test_names_that_are_no_names(pool: Backend, name: str) -> None:
    for act in (pool.create, lambda n: pool.destroy(Kind.LAYER, n), lambda n: pool.exists(Kind.IMAGE, n)):
        with pytest.raises(DatasetError):
            act(name)


def test_foreign_place_is_refused(place: tuple[str, str], tmp_path: Path) -> None:
    kind, where = place
    if kind == "zfs":
        command("zfs", "create", f"{where}/theirs")
        command("zfs", "create", f"{where}/theirs/buildstep")
        with pytest.raises(DatasetError, match="was not made by buildstep"):
            MAKERS[kind](f"{where}/theirs")
        command("zfs", "destroy", "-r", f"{where}/theirs")
        return
    theirs = Path(where).parent / "theirs"
    theirs.mkdir()
    (theirs / "file").touch()
    with pytest.raises(DatasetError, match="not ours"):
        MAKERS[kind](str(theirs))
    assert os.listdir(theirs) == ["file"]


def test_reopened(pool: Backend, place: tuple[str, str], image: Path) -> None:
    again = MAKERS[place[0]](place[1])
    assert again.idents(Kind.IMAGE) == [IMAGE]
    assert again.state == pool.state
    assert again.uri == pool.uri


# -- killed builds ----------------------------------------------------------------------------------------


def hold(kind: str, where: str, work: Callable[[Backend, str], None], *, enclosed: bool) -> int:
    """A process that has a journal, does `work` and then waits; its pid, once the work is done."""
    ready_read, ready_write = os.pipe()

    def job() -> int:
        backend = MAKERS[kind](where)
        with open_journal(backend.state, "a test") as journal:
            work(backend, journal.dataset(journal.ident))
            os.write(ready_write, b"x")
            signal.pause()
        return 0

    pid = os.fork()
    if pid == 0:
        try:
            os.close(ready_read)
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: none outlives a failed session
            os._exit(namespaces.enclose(job) if enclosed else job())
        finally:
            os._exit(1)
    os.close(ready_write)
    assert select.select([ready_read], [], [], 60)[0]
    assert os.read(ready_read, 1) == b"x"
    os.close(ready_read)
    return pid


def end(pid: int) -> None:
    """Kill a holder as a CI agent would, and wait until the kernel has ended what it started."""
    inner = children_of(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    limit = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in inner):
        assert time.monotonic() < limit
        time.sleep(0.01)


def clone_and_work(backend: Backend, ident: str) -> None:
    clone = backend.clone(Kind.IMAGE, IMAGE, ident)
    os.chdir(clone.path)
    (clone.path / "half").write_text("written")


def import_and_work(backend: Backend, ident: str) -> None:
    fill(backend.create(ident).path)


@pytest.mark.parametrize("work", [clone_and_work, import_and_work])
@pytest.mark.parametrize("enclosed", [True, False])
def test_killed_build_is_healed(
    pool: Backend, place: tuple[str, str], image: Path, enclosed: bool, work: Callable[[Backend, str], None]
) -> None:
    host = mount_points(pool.state.parent)
    # In this order: a namespace that is made later begins with a copy of what its maker has mounted.
    live = hold(*place, clone_and_work, enclosed=True)
    dead = hold(*place, work, enclosed=enclosed)
    try:
        if enclosed:
            assert mount_points(pool.state.parent) == host
        builds = pool.idents(Kind.BUILD)
        assert len(builds) == 2
        assert find_stale(pool) == []
        assert heal(pool) == []
        end(dead)
        assert len(find_stale(pool)) == 1
        report = heal(pool)
        assert [left.removed for left in report] == [True]
        rest = pool.idents(Kind.BUILD)
        assert len(rest) == 1
        assert rest[0] in builds
        assert rest[0] != report[0].name
        assert Path(f"/proc/{children_of(live)[0]}/cwd/half").read_text() == "written"
        assert heal(pool) == []
    finally:
        end(live)
    assert [left.removed for left in heal(pool)] == [True]
    assert [pool.idents(kind) for kind in Kind] == [[IMAGE], [], []]
    assert mount_points(pool.state.parent) == host
    assert not list((pool.state / "journal").iterdir())


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_many_builds_at_once(pool: Backend, place: tuple[str, str], image: Path) -> None:
    pids = [hold(*place, clone_and_work, enclosed=True) for _ in range(4)]
    assert len(pool.idents(Kind.BUILD)) == 4
    for pid in pids:
        end(pid)
    assert [left.removed for left in heal(pool)] == [True] * 4
    assert pool.idents(Kind.BUILD) == []


def test_locks_hold_between_processes(pool: Backend, place: tuple[str, str]) -> None:
    """Also where each process has mounted the pool's state for itself."""
    path = pool.state / "locks" / "test.lock"

    def job() -> int:
        backend = MAKERS[place[0]](place[1])
        with try_lock(backend.state / "locks" / "test.lock") as ours:
            return 0 if ours else 7

    with lock(path):
        pid = os.fork()  # whoever encloses a build can start no process beside it
        if pid == 0:
            try:
                os._exit(namespaces.enclose(job))
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


# -- without root --------------------------------------------------------------------------------------------


def test_dir_needs_no_privilege(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("drops root's rights")
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    # pytest's own folders are closed to others; how many there are depends on its workers.
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            backend = DirectoryBackend(str(home / "pool"))
            assert not backend.privileged
            dataset = backend.create("i")
            (dataset.path / "file").write_text("x")
            backend.snapshot(dataset, Kind.IMAGE, OTHER)
            clone = backend.clone(Kind.IMAGE, OTHER, "b")
            with backend.tree(Kind.IMAGE, OTHER) as tree:
                base = full(tree)
            for entry in base.values():
                entry.uid = entry.gid = 0  # what the record says, though it could not be set
            (clone.path / "file2").write_text("y")
            seen = clone.scan(base, owner=lambda entry: (7, 7))
            assert (seen[b"file"].uid, seen[b"file2"].uid) == (0, 7)
            backend.destroy(Kind.BUILD, "b")
            backend.destroy(Kind.IMAGE, OTHER)
            status = 0
        except Exception:  # noqa: BLE001  (the last frame of this process)
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
