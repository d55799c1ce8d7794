"""Images as ZFS streams on real pools: written, proved, received, and refused when they are not right."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.emit.interface import Artifact
from buildstep.emit.zfs import ZfsEmitter
from buildstep.errors import DatasetError, EmitError, ImageError
from buildstep.images.sources import zfs_file
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.interface import Dataset, Kind
from buildstep.pool.streams import NativeJob
from buildstep.pool.zfs import ZfsBackend
from buildstep.spec import imgmanifest
from buildstep.spec.imgmanifest import uuid_of
from buildstep.system.mount_table import mount_points
from buildstep.tree.diff import diff
from buildstep.tree.entry import tree_digest
from tests.integration.pools import IN_GUEST, change, command, fill, full
from tests.unit import trees

pytestmark = pytest.mark.skipif(not IN_GUEST, reason="runs in the ZFS guest")

FIRST, SECOND = "zones/agent/data/first", "other/data"
BASE, BUILT = uuid_of("base"), uuid_of("built")
WORKING: dict[str, Dataset] = {}
"""The datasets that the images were made from, by ident."""


@dataclass(frozen=True, kw_only=True)
class File:
    """An image file and its manifest, and what is in it."""

    path: Path
    manifest: dict[str, Any]
    digest: str
    artifact: Artifact


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ZfsBackend, ZfsBackend]]:
    image = tmp_path_factory.mktemp("pool") / "other.img"
    with image.open("wb") as file:
        file.truncate(1 << 30)
    command("zfs", "create", FIRST)
    command("zpool", "create", "-m", "none", "other", str(image))
    command("zfs", "create", SECOND)
    try:
        yield ZfsBackend(FIRST), ZfsBackend(SECOND)
    finally:
        for mount_point in [*mount_points("/zones/agent/data/first"), *mount_points("/var/lib/buildstep")]:
            command("umount", mount_point)
        command("zfs", "destroy", "-R", "-f", FIRST)
        command("zpool", "destroy", "-f", "other")


def emit(
    backend: ZfsBackend,
    ident: str,
    folder: Path,
    *,
    uuid: str,
    origin: str | None,
    compression: str | None = None,
) -> File:
    """Write a working dataset as the pipeline does."""
    folder.mkdir(parents=True, exist_ok=True)
    working = WORKING[ident]
    tree = full(working.path)
    job = replace(
        trees.job(working.path, folder / uuid, tree=tree, changes=diff({}, tree), compression=compression),
        native=NativeJob(streams=backend, dataset=working, origin=origin),
    )
    emitter = ZfsEmitter()
    path = folder / (uuid + emitter.extension(compression))
    with emitter.open(job, path) as sink:
        artifact = sink.finish()
    codec = "none" if artifact.compression == "zstd" else artifact.compression
    told = imgmanifest.assemble(
        user={"name": "test", "version": "1", "type": "zone-dataset", "os": "smartos"},
        origin={"uuid": origin} if origin else None,
        uuid=uuid,
        published_at="2024-01-01T00:00:00Z",
        incremental=bool(artifact.extra["incremental"]),
        file={
            "size": artifact.size,
            "compression": codec,
            "sha1": artifact.sha1,
            "dataset_guid": artifact.extra["dataset_guid"],
        },
    )
    (folder / f"{uuid}.imgmanifest").write_text(imgmanifest.dumps(told))
    return File(path=path, manifest=told, digest=tree_digest(tree), artifact=artifact)


@pytest.fixture(scope="module")
def base(pools: tuple[ZfsBackend, ZfsBackend], tmp_path_factory: pytest.TempPathFactory) -> File:
    """A full image, in the first pool and as a file."""
    first, _ = pools
    WORKING["base"] = dataset = first.create("base")
    fill(dataset.path)
    file = emit(first, "base", tmp_path_factory.mktemp("base"), uuid=BASE, origin=None)
    first.snapshot(dataset, Kind.IMAGE, BASE)
    return file


@pytest.fixture(scope="module")
def built(pools: tuple[ZfsBackend, ZfsBackend], base: File, tmp_path_factory: pytest.TempPathFactory) -> File:
    """An incremental image on it."""
    first, _ = pools
    WORKING["built"] = dataset = first.clone(Kind.IMAGE, BASE, "built")
    change(dataset.path, seed=5)
    (dataset.path / "large").write_bytes(os.urandom(6 << 20))
    return emit(first, "built", tmp_path_factory.mktemp("built"), uuid=BUILT, origin=BASE)


@pytest.fixture
def second(pools: tuple[ZfsBackend, ZfsBackend]) -> Iterator[ZfsBackend]:
    """The pool that receives; it must be as it was when a test has removed its images."""
    backend = pools[1]
    before = listing()
    yield backend
    for ident in backend.idents(Kind.BUILD):
        backend.destroy(Kind.BUILD, ident)
    for ident in (BUILT, BASE):
        backend.destroy(Kind.IMAGE, ident)
    assert listing() == before


def listing() -> str:
    return command("zfs", "list", "-H", "-t", "all", "-r", "-o", "name", "other")


def install(backend: ZfsBackend, file: File, uuid: str) -> str:
    """Receive a file as an image and tell its tree digest."""
    source = zfs_file.ZfsFile()
    dataset, fetched = source.receive(str(file.path), backend, f"import-{uuid}")
    assert fetched.manifest["uuid"] == uuid
    digest = tree_digest(full(dataset.path))
    backend.snapshot(dataset, Kind.IMAGE, uuid)
    assert backend.guid(Kind.IMAGE, uuid) == file.manifest["files"][0]["dataset_guid"]
    assert command("zfs", "list", "-H", "-t", "snapshot", "-r", "-o", "name", f"{SECOND}/{uuid}") == (
        f"{SECOND}/{uuid}@final\n"
    )
    return digest


def test_incremental_stream_on_its_origin(second: ZfsBackend, base: File, built: File) -> None:
    assert "origin" not in base.manifest
    assert built.manifest["origin"] == BASE
    assert install(second, base, BASE) == base.digest
    assert install(second, built, BUILT) == built.digest
    with second.tree(Kind.IMAGE, BUILT) as tree:
        assert tree_digest(full(tree)) == built.digest
    assert second.idents(Kind.IMAGE) == sorted([BASE, BUILT])
    with pytest.raises(DatasetError, match="is the origin of"):
        second.destroy(Kind.IMAGE, BASE)


def test_full_stream_needs_no_origin(
    pools: tuple[ZfsBackend, ZfsBackend], second: ZfsBackend, built: File, tmp_path: Path
) -> None:
    file = emit(pools[0], "built", tmp_path, uuid=BUILT, origin=None)
    assert "origin" not in file.manifest
    assert file.artifact.size > built.artifact.size
    assert install(second, file, BUILT) == built.digest == file.digest


@pytest.mark.parametrize("compression", ["none", "gzip", "bzip2", "xz", "zstd"])
def test_every_compression(
    pools: tuple[ZfsBackend, ZfsBackend],
    second: ZfsBackend,
    base: File,
    built: File,
    tmp_path: Path,
    compression: str,
) -> None:
    file = emit(pools[0], "built", tmp_path, uuid=BUILT, origin=BASE, compression=compression)
    ending = {"none": "", "gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst"}[compression]
    assert file.path.name == f"{BUILT}.zfs{ending}"
    install(second, base, BASE)
    assert install(second, file, BUILT) == built.digest


def test_zfs_receive_takes_it(second: ZfsBackend, base: File, built: File) -> None:
    """Another program's way in: what imgadm pipes together."""
    for file, name in ((base, "plain"), (built, "plain-child")):
        options = ["-o", f"origin={SECOND}/plain@final"] if file is built else []
        with gzip.open(file.path) as stream:
            argv = ["zfs", "receive", "-u", *options, f"{SECOND}/{name}@final"]
            subprocess.run(argv, input=stream.read(), check=True)
    command("zfs", "destroy", "-R", f"{SECOND}/plain")


def test_zstreamdump_finds_nothing_wrong(base: File, built: File) -> None:
    for file in (base, built):
        with gzip.open(file.path) as stream:
            done = subprocess.run(["zstreamdump"], input=stream.read(), capture_output=True, check=True)
        told = done.stdout.decode()
        assert not done.stderr
        assert "Total DRR_END records = 1" in told
        assert f"{int(file.manifest['files'][0]['dataset_guid']):x}" in told


def test_same_stream_same_bytes(pools: tuple[ZfsBackend, ZfsBackend], built: File, tmp_path: Path) -> None:
    """D24: no time, no order of threads gets into the file."""
    for number in range(3):
        again = emit(pools[0], "built", tmp_path / str(number), uuid=BUILT, origin=BASE)
        assert again.path.read_bytes() == built.path.read_bytes()
    assert built.path.read_bytes()[4:8] == b"\0\0\0\0"


# -- refused -------------------------------------------------------------------------------------------------


def copied(file: File, folder: Path, **changes: Any) -> File:
    path = folder / file.path.name
    shutil.copy(file.path, path)
    return replace(file, path=path, manifest={**file.manifest, **changes})


def refuse(backend: ZfsBackend, file: File, match: str, **entry: Any) -> None:
    """Fail unless it is refused, and nothing is left of the try."""
    before = listing()
    told: Mapping[str, Any] = {**file.manifest, "files": [{**file.manifest["files"][0], **entry}]}
    with pytest.raises(ImageError, match=match):
        zfs_file.receive_image(backend, "import-x", file.path, told)
    assert listing() == before
    assert not backend.exists(Kind.BUILD, "import-x")


def resealed(path: Path) -> dict[str, Any]:
    """Size and sha1 of a file as it is now: damage that its maker did not notice."""
    import hashlib

    return {"size": path.stat().st_size, "sha1": hashlib.sha1(path.read_bytes()).hexdigest()}


def test_bad_byte_is_seen_before(second: ZfsBackend, base: File, tmp_path: Path) -> None:
    file = copied(base, tmp_path)
    data = bytearray(file.path.read_bytes())
    data[len(data) // 2] ^= 1
    file.path.write_bytes(data)
    refuse(second, file, "is not the file of its manifest")


def test_truncated_file_is_seen_before(second: ZfsBackend, base: File, tmp_path: Path) -> None:
    file = copied(base, tmp_path)
    os.truncate(file.path, file.path.stat().st_size // 2)
    refuse(second, file, "its manifest says")


def test_damage_inside_the_compression(second: ZfsBackend, base: File, tmp_path: Path) -> None:
    file = copied(base, tmp_path)
    os.truncate(file.path, file.path.stat().st_size // 2)
    refuse(second, file, "cannot be read", **resealed(file.path))


@pytest.mark.parametrize(
    ("name", "match"),
    [("flipped", "(?i)bad backup stream|checksum"), ("short", "incomplete|failed to read"), ("longer", "goes on after"), ("noise", "not a ZFS stream"),
     ("empty", "not a ZFS stream")],
)  # fmt: skip
def test_damage_in_the_stream(second: ZfsBackend, base: File, tmp_path: Path, name: str, match: str) -> None:
    with gzip.open(base.path) as stream:
        data = bytearray(stream.read())
    if name == "flipped":
        data[len(data) // 2] ^= 1
    file = copied(base, tmp_path)
    content = {
        "flipped": data,
        "short": data[: len(data) // 2],
        "longer": data + b"more",
        "noise": os.urandom(5000),
        "empty": b"",
    }[name]
    file.path.write_bytes(gzip.compress(bytes(content)))
    refuse(second, file, match, **resealed(file.path))


def test_origin_is_not_there(second: ZfsBackend, built: File) -> None:
    refuse(second, built, f"is based on {BASE}, which is not in")


def test_wrong_origin(second: ZfsBackend, built: File) -> None:
    """An image of the right name with other content: nothing but the guid tells (D36)."""
    dataset = second.create("imposter")
    fill(dataset.path)
    second.snapshot(dataset, Kind.IMAGE, BASE)
    refuse(second, built, "does not fit its origin")


def test_manifest_of_another_stream(second: ZfsBackend, base: File, built: File, tmp_path: Path) -> None:
    refuse(second, base, "holds snapshot", dataset_guid="12345")
    install(second, base, BASE)
    lies = {key: value for key, value in built.manifest.items() if key != "origin"}
    refuse(second, replace(built, manifest=lies), "names no origin")
    refuse(second, replace(base, manifest={**base.manifest, "uuid": BUILT, "origin": BASE}), "does not fit")


def test_package_of_several_snapshots(
    pools: tuple[ZfsBackend, ZfsBackend], second: ZfsBackend, base: File, tmp_path: Path
) -> None:
    file = copied(base, tmp_path)
    with file.path.open("wb") as out:
        subprocess.run(["zfs", "send", "-R", f"{FIRST}/{BASE}@final"], stdout=out, check=True)
    refuse(second, file, "package of several", **resealed(file.path))


def test_other_pools_cannot(base: File, tmp_path: Path) -> None:
    backend = DirectoryBackend(str(tmp_path / "pool"))
    with pytest.raises(ImageError, match="only a zfs pool"):
        zfs_file.ZfsFile().receive(str(base.path), backend, "import-x")
    job = trees.job(tmp_path, tmp_path / "x")
    with (
        pytest.raises(EmitError, match="only be made in a zfs pool"),
        ZfsEmitter().open(job, tmp_path / "x.zfs"),
    ):
        pass
    assert not (tmp_path / "x.zfs").exists()


def test_full_disk_ends_the_stream(pools: tuple[ZfsBackend, ZfsBackend], built: File, tmp_path: Path) -> None:
    """D25: a write error ends the build, the send, and leaves no file."""
    small = tmp_path / "small"
    small.mkdir()
    command("mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small))
    try:
        with pytest.raises(EmitError, match="No space left"):
            emit(pools[0], "built", small, uuid=BUILT, origin=None, compression="none")
        assert list(small.iterdir()) == []
    finally:
        command("umount", str(small))


def test_manifest_is_found_beside(base: File, tmp_path: Path) -> None:
    path, found = zfs_file.split(str(base.path))
    assert found == base.path.parent / f"{BASE}.imgmanifest"
    assert zfs_file.split(f"{base.path},{found}") == (path, found)
    lonely = tmp_path / "lonely.zfs.gz"
    lonely.touch()
    with pytest.raises(ImageError, match="no manifest beside"):
        zfs_file.split(str(lonely))
