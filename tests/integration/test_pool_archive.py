"""A pool as one file, through caches that keep files and lose everything else."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.cache.layers import LayerCache
from buildstep.errors import DatasetError, UsageError
from buildstep.events import Bus
from buildstep.images import pool_archive
from buildstep.images.pool_archive import Contents
from buildstep.images.store import ImageStore
from buildstep.pool import open_pool
from buildstep.pool.heal import heal
from buildstep.pool.journal import open_journal
from tests.integration.pools import command, location
from tests.integration.repository import make_repository
from tests.integration.yard import Yard, environment, tiny_base

Private = Callable[[Callable[[], Any]], Any]


def opened(uri: str) -> tuple[ImageStore, LayerCache]:
    backend = open_pool(uri)
    return ImageStore(backend, bus=Bus(), environ=environment(None)), LayerCache(backend)


def export(store: ImageStore, cache: LayerCache, file: Path) -> Contents:
    with open_journal(store.backend.state, "export") as journal:
        return pool_archive.export(store, cache, journal, file)


def take_in(uri: str, file: Path) -> Contents:
    store, _ = opened(uri)
    with open_journal(store.backend.state, "import") as journal:
        return pool_archive.take_in(store, journal, file)


def tiny(top: Path) -> Yard:
    made = Yard(
        pool=f"overlay:{top / 'pool'}", out=top / "out", proto=top / "proto", base=tiny_base(top / "base.tar")
    )
    made.proto.mkdir()
    (made.proto / "file").write_text("0\n")
    return made


def through_a_cache(file: Path, into: Path) -> Path:
    """What the cache of a CI does: a zip file keeps content and names, no owner, link, device or attribute."""
    packed = into / "cache.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(file, file.name)
    file.unlink()
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(into)
    return into / file.name


def test_packages_and_base_are_found_on_another_machine(
    place: Yard, private: Private, tmp_path: Path
) -> None:
    """Nothing is imported and nothing installed there, and the image is the same."""

    def job() -> None:
        place.build = {"packages": ["first"], "order": "packages-first"}
        repository = make_repository(place, tmp_path / "repository")
        repository.put(
            "first",
            "1",
            files={"usr/share/first/f": "1", "usr/bin/suid": "x"},
            modes={"usr/bin/suid": 0o4755},
        )
        repository.publish()
        with repository.served():
            here = place.run()
            assert not here.error, here.error
            store, cache = opened(place.pool)
            file = tmp_path / "pool.tar.zst"
            contents = export(store, cache, file)
            assert (len(contents.images), len(contents.layers)) == (1, 1)
            assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, "a pool is its owner's"
            (tmp_path / "runner").mkdir()
            file = through_a_cache(file, tmp_path / "runner")
            other = replace(place, pool=f"overlay:{tmp_path / 'other'}", out=tmp_path / "other-out")
            assert take_in(other.pool, file) == contents
            assert take_in(other.pool, file) == Contents((), (), contents.size), "all of it is there"
            there = other.run()
        assert not there.error, there.error
        assert there.steps["import"][0] == there.steps["packages"][0] == "reuse"
        assert there.same == here.same
        assert os.listdir(tmp_path / "other/state/work") == os.listdir(tmp_path / "other/state/journal") == []

    private(job)


@pytest.mark.parametrize("kind", ["overlay", "dir", "btrfs"])
def test_trees_are_whole_again(kind: str, private: Private, tmp_path: Path) -> None:
    def job() -> None:
        with ExitStack() as stack:
            place = replace(tiny(tmp_path), pool=f"{kind}:{stack.enter_context(location(kind, tmp_path))}")
            root = tmp_path / "root"
            root.mkdir()
            command("tar", "-xf", str(place.base), "-C", str(root))
            os.mknod(root / "dev-null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            os.setxattr(root / "etc/base", "user.a", b"b")
            command("setcap", "cap_net_bind_service=ep", str(root / "usr/bin/tool"))
            command("tar", "--xattrs", "--xattrs-include=*", "-cf", str(place.base), "-C", str(root), ".")
            here = place.run()
            assert not here.error, here.error
            store, cache = opened(place.pool)
            file = tmp_path / "pool.tar.gz"
            if kind == "btrfs":
                with pytest.raises(UsageError, match="cannot be one file"):
                    export(store, cache, file)
                assert not file.exists()
                return
            export(store, cache, file)
            other = replace(place, pool=f"{kind}:{tmp_path / 'other'}")
            take_in(other.pool, file)
            shutil.rmtree(place.out)
            there = other.run()
            assert there.steps["import"][0] == "reuse"
            assert there.same == here.same

    private(job)


def test_what_is_damaged_is_made_again(private: Private, tmp_path: Path) -> None:
    def job() -> None:
        place = tiny(tmp_path)
        here = place.run()
        store, cache = opened(place.pool)
        file = tmp_path / "pool.tar"
        export(store, cache, file)
        data = file.read_bytes()
        assert data.count(b"of the base\n") == 1
        file.write_bytes(data.replace(b"of the base\n", b"of the BASE\n"))
        other = replace(place, pool=f"overlay:{tmp_path / 'other'}", out=tmp_path / "out2")
        take_in(other.pool, file)
        there = other.run()
        assert not there.error, there.error
        assert any("is imported again" in note for note in there.notes), there.notes
        assert there.steps["import"][0] == "run"
        assert there.same == here.same

    private(job)


def hostile(path: Path) -> Iterator[tuple[str, Path]]:
    """Archives that nobody of us wrote."""
    yield "no archive", path / "text"
    (path / "text").write_text("hello")
    for name in ("image", "state", "state/blobs"):
        file = path / f"{name.replace('/', '-')}.tar"
        with tarfile.open(file, "w") as tar:
            if "/" in name:
                tar.addfile(directory("state"))
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, str(path / "outside")
            tar.addfile(link)
        yield f"{name} is a link", file
    with tarfile.open(path / "empty.tar", "w") as tar:
        tar.addfile(directory("image"))
    yield "no archive of a pool", path / "empty.tar"


def directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o700
    return info


def test_foreign_archives_are_refused_and_leave_nothing(private: Private, tmp_path: Path) -> None:
    def job() -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside/mine").write_text("mine")
        pool = f"overlay:{tmp_path / 'pool'}"
        for _, file in hostile(tmp_path):
            with pytest.raises((UsageError, DatasetError)):
                take_in(pool, file)
            state = tmp_path / "pool/state"
            assert os.listdir(state / "work") == os.listdir(state / "journal") == []
            assert os.listdir(tmp_path / "pool/image") == []
            assert os.listdir(tmp_path / "outside") == ["mine"]
        place = tiny(tmp_path)
        place.run()
        export(*opened(place.pool), tmp_path / "good.tar")
        with pytest.raises(UsageError, match="another kind of pool"):
            take_in(f"dir:{tmp_path / 'dir'}", tmp_path / "good.tar")

    private(job)


def test_where_a_file_cannot_be_written_is_said(private: Private, tmp_path: Path) -> None:
    """A device is no file to replace, and a killed export leaves what the next command removes."""

    def job() -> None:
        place = tiny(tmp_path)
        place.run()
        pool = opened(place.pool)
        with pytest.raises(DatasetError, match="cannot be written: No such file"):
            export(*pool, tmp_path / "nowhere/pool.tar")
        made = tmp_path / "full"
        os.mknod(made, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        with pytest.raises(DatasetError) as caught:
            export(*pool, made)
        assert "No space left" in caught.value.detail
        assert stat.S_ISCHR(made.stat().st_mode)
        file = tmp_path / "a:b.tar"  # which tar would take for a host and a file there
        export(*pool, file)
        assert not take_in(place.pool, file).images
        size = file.stat().st_size
        kill_export(place.pool, file)
        assert [item.kind for item in heal(pool[0].backend)] == ["outputs"]
        assert [name for name in os.listdir(tmp_path) if name.endswith(".part")] == []
        assert file.stat().st_size == size

    private(job)


def kill_export(uri: str, file: Path) -> None:
    """Kill an export where tar would be at work."""
    child = os.fork()
    if not child:
        pool_archive._tar = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        export(*opened(uri), file)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
