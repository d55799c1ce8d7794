"""Writing images: one read pass, stable bytes, correct layers, and nothing left after a failure."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings

from buildstep import emit
from buildstep.emit import oci_config, stream
from buildstep.emit.interface import ArchiveStyle, Artifact, Blob, EmitJob
from buildstep.errors import EmitError, SpecError
from buildstep.events import Bus, Event, Note
from buildstep.formats import unpack
from buildstep.formats.codecs import codec
from buildstep.formats.decompress import Decompressed
from buildstep.system.output_set import Outputs, create, seal, temporary_name
from buildstep.tree import scan
from buildstep.tree.diff import Changes, diff
from buildstep.tree.entry import Entry, FileList, tree_digest
from tests.unit import trees
from tests.unit.written_layers import write_layer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    for name in ("etc", "var/empty", "usr/bin"):
        (top / name).mkdir(parents=True)
    (top / "etc/motd").write_bytes(b"hello\n")
    (top / "usr/bin/tool").write_bytes(os.urandom(300_000))
    (top / "usr/bin/tool").chmod(0o755)
    (top / "usr/bin/twin").hardlink_to(top / "usr/bin/tool")
    (top / "etc/link").symlink_to("motd")
    (top / "empty").touch()
    with (top / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(512 << 10)
        file.write(b"x" * 4096)
    (top / os.fsdecode(b"odd\n\xff")).write_bytes(b"odd")
    return top


def write(job: EmitJob, *formats: str) -> list[Artifact]:
    with Outputs() as outputs:
        artifacts = emit.emit(job, formats, outputs)
        outputs.commit()
    return artifacts


def archive(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: _read(tar, m) for m in tar.getmembers() if m.isfile()}


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


class Image:
    """An OCI archive, taken apart and checked on the way."""

    def __init__(self, path: Path) -> None:
        self.members = archive(path)
        for name, content in self.members.items():
            if name.startswith("blobs/"):
                assert name == "blobs/sha256/" + hashlib.sha256(content).hexdigest()
        assert json.loads(self.members["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        self.index = json.loads(self.members["index.json"])
        (self.descriptor,) = self.index["manifests"]
        self.manifest = json.loads(self.blob(self.descriptor))
        self.config = json.loads(self.blob(self.manifest["config"]))
        self.layers = [self.blob(layer) for layer in self.manifest["layers"]]
        for layer, diff_id in zip(self.layers, self.config["rootfs"]["diff_ids"], strict=True):
            raw = _decompressed(layer)
            assert diff_id == "sha256:" + hashlib.sha256(raw).hexdigest()

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        content = self.members["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
        assert len(content) == descriptor["size"]
        return content

    def names(self, index: int = -1) -> list[str]:
        with tarfile.open(fileobj=io.BytesIO(_decompressed(self.layers[index]))) as tar:
            return tar.getnames()


def _decompressed(data: bytes) -> bytes:
    with Decompressed(io.BytesIO(data)) as source:
        return source.read(1 << 30)


# -- the pass -------------------------------------------------------------------------------------------


def test_all_formats_of_one_pass(root: Path, tmp_path: Path) -> None:
    bus = Bus()
    job = trees.job(root, tmp_path / "bits/hello-1.0.0", bus=bus, sparse=True)
    oci_file, tar_file = write(job, "oci", "tar")
    assert oci_file.path == tmp_path / "bits/hello-1.0.0.oci.tar"
    assert tar_file.path == tmp_path / "bits/hello-1.0.0.tar.zst"
    assert (oci_file.compression, tar_file.compression) == ("none", "zstd")
    for artifact in (oci_file, tar_file):
        data = artifact.path.read_bytes()
        assert artifact.size == len(data)
        # Only the manifest needs a SHA-1, of the file that it describes.
        assert artifact.sha1 == (hashlib.sha1(data).hexdigest() if artifact is oci_file else "")
        assert artifact.sha256 == hashlib.sha256(data).hexdigest()
    assert sorted(os.listdir(tmp_path / "bits")) == ["hello-1.0.0.oci.tar", "hello-1.0.0.tar.zst"]
    assert bus.counts["files_read"] == 5
    assert bus.counts["bytes_read"] == 6 + 300_000 + 3 + 65536  # holes are not read
    assert bus.counts["bytes_compressed"] > 600_000
    # The digests came from the pass, and unpacking gives the same tree back.
    assert tree_digest(job.tree) == tree_digest(trees.scanned(root))
    for data in (tar_file.path.read_bytes(), Image(oci_file.path).layers[0]):
        into = tmp_path / hashlib.sha1(data).hexdigest()
        into.mkdir()
        got = unpack.unpack(io.BytesIO(data), into, privileged=False)
        assert tree_digest(got) == tree_digest(job.tree)
        assert (into / "sparse").stat().st_blocks * 512 < 100_000


def test_an_increment_leaves_the_times_of_the_base_alone(tmp_path: Path) -> None:
    """Parts of seconds, which an archive does not have, are no reason to send all that a receiver has."""
    whole = (trees.EPOCH - 1) * 10**9
    kept, new, touched = tmp_path / "kept", tmp_path / "new", tmp_path / "touched"
    touched.mkdir()
    for path in (kept, new):
        path.touch()
    for path in (tmp_path, kept, new, touched):
        os.utime(path, ns=(5, whole + 5))
    tree = scan.scan(tmp_path)
    base = {path: entry for path, entry in tree.items() if path != b"new"}
    os.utime(touched)  # a file came there, and went
    before = kept.stat().st_ctime_ns

    def settled(base: FileList, epoch: int | None) -> list[int]:
        stream._settle_times(trees.job(tmp_path, tmp_path / "x", tree=tree, epoch=epoch), base)
        return [path.stat().st_mtime_ns for path in (kept, new, touched)]

    assert settled(base, trees.EPOCH) == [whole + 5, whole, whole + 5]
    assert kept.stat().st_ctime_ns == before
    assert settled(base, trees.EPOCH - 100) == [whole - 99 * 10**9] * 3, "no file is younger than the epoch"
    assert settled({}, trees.EPOCH) == [whole] * 3, "a stream that is complete"


def test_holes_are_zeros_unless_sparse_files_are_asked_for(root: Path, tmp_path: Path) -> None:
    """Readers that do not know sparse files unpack them under a wrong name, with the map in front."""
    bus = Bus()
    made = write(trees.job(root, tmp_path / "x-1", bus=bus), "tar", "oci")
    assert bus.counts["bytes_of_holes"] == (1 << 20) - 4096
    for data in (made[0].path.read_bytes(), Image(made[1].path).layers[0]):
        with tarfile.open(fileobj=io.BytesIO(_decompressed(data))) as tar:
            member = tar.getmember("sparse")
            assert not member.issparse()
            assert _read(tar, member) == (root / "sparse").read_bytes()
    # The same content gives the same bytes, however it is stored.
    content = (root / "sparse").read_bytes()
    (root / "sparse").write_bytes(content)
    assert [item.sha256 for item in write(trees.job(root, tmp_path / "y-1"), "tar", "oci")] == [
        item.sha256 for item in made
    ]
    # Where holes save little, a file is plain data although sparse ones are asked for.
    for size, sparse in ((320 << 10, True), (319 << 10, False)):
        with (root / "sparse").open("wb") as file:
            file.truncate(size)
            file.write(b"x")
        (artifact,) = write(trees.job(root, tmp_path / "z-1", sparse=True), "tar")
        with tarfile.open(fileobj=io.BytesIO(_decompressed(artifact.path.read_bytes()))) as tar:
            assert tar.getmember("sparse").issparse() == sparse


@pytest.mark.parametrize("compression", ["zstd", "gzip", "xz", "bzip2", "none"])
def test_tar_compressions_and_their_names(root: Path, tmp_path: Path, compression: str) -> None:
    ends = {"zstd": ".tar.zst", "gzip": ".tar.gz", "xz": ".tar.xz", "bzip2": ".tar.bz2", "none": ".tar"}
    job = trees.job(root, tmp_path / "x-1", compression=compression)
    (first,) = write(job, "tar")
    assert first.path.name == "x-1" + ends[compression]
    assert first.compression == compression
    again = trees.job(root, tmp_path / "y-1", compression=compression)
    assert write(again, "tar")[0].sha256 == first.sha256


def test_the_same_tree_gives_the_same_bytes_whatever_its_times(root: Path, tmp_path: Path) -> None:
    first = write(trees.job(root, tmp_path / "a-1"), "oci", "tar")
    for path in root.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (trees.EPOCH + 99, trees.EPOCH + 99))
    again = write(trees.job(root, tmp_path / "b-1"), "oci", "tar")
    assert [a.sha256 for a in again] == [a.sha256 for a in first]


def test_only_the_layer_is_read_when_no_format_needs_the_tree(root: Path, tmp_path: Path) -> None:
    tree = trees.scanned(root)
    changes = Changes((tree[b"etc/motd"],), ())
    bus = Bus()
    job = trees.job(root, tmp_path / "x-1", tree=tree, changes=changes, bus=bus)
    write(job, "oci")
    assert bus.counts["files_read"] == 1


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(trees.entries())
def test_random_trees_through_both_formats(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[FileList, dict[bytes, bytes]]
) -> None:
    tree, content = made
    want = tree_digest(tree)
    top = tmp_path_factory.mktemp("t")
    (top / "files").mkdir()
    for path, source in trees.write_files(top / "files", content).items():
        tree[path] = replace(tree[path], source=source)
    for artifact in write(trees.job(top, top / "x-1", tree=tree), "oci", "tar"):
        data = artifact.path.read_bytes()
        if artifact.format == "oci":
            (data,) = Image(artifact.path).layers
        into = top / artifact.format
        into.mkdir()
        got = unpack.unpack(io.BytesIO(data), into, privileged=False)
        assert tree_digest(got) == want


def test_a_file_that_is_not_what_was_listed_is_named(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "bits"

    def fails(match: str, tree: FileList) -> None:
        with pytest.raises(EmitError, match=match):
            write(trees.job(root, out / "x-1", tree=tree), "oci", "tar")
        assert os.listdir(out) == []

    tree = scan.scan(root)
    tree[b"etc/motd"].sha256 = "0" * 64
    fails("etc/motd does not have the content", tree)
    tree = scan.scan(root)
    tree[b"usr/bin/tool"].sha256 = "0" * 64
    fails("usr/bin/tool does not have the content", tree)
    for path in (b"etc/motd", b"usr/bin/tool", b"sparse", b"empty"):
        for change in (-1, 1):
            tree = scan.scan(root)
            tree[path].size += change
            if tree[path].size >= 0:
                fails(f"{path.decode()} changed its size", tree)
    tree = scan.scan(root)
    (root / "etc/motd").unlink()
    fails("cannot read etc/motd: No such file", tree)
    (root / "etc/motd").symlink_to("/etc/passwd")
    fails("cannot read etc/motd: Too many levels", tree)
    (root / "etc/motd").unlink()
    os.mkfifo(root / "etc/motd")
    fails("etc/motd changed its size", tree)


def test_a_large_file_that_changes_while_it_is_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pread
    tool = root / "usr/bin/tool"

    def pread(fd: int, count: int, offset: int) -> bytes:
        if tool.stat().st_size == 300_000:
            os.truncate(tool, 1000)
        return real(fd, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(EmitError, match=r"usr/bin/tool .* while the image was written"):
        write(trees.job(root, tmp_path / "bits/x-1"), "tar")
    assert os.listdir(tmp_path / "bits") == []


def test_sockets_are_left_out_with_a_note(root: Path, tmp_path: Path) -> None:
    tree = scan.scan(root)
    tree[b"run.sock"] = Entry(b"run.sock", "s", 0o755, 0, 0)
    heard: list[Event] = []
    (artifact,) = write(trees.job(root, tmp_path / "x-1", tree=tree, bus=Bus(heard.append)), "oci")
    assert [e.text for e in heard if isinstance(e, Note)] == [
        "run.sock is a socket and was left out of the image"
    ]
    assert "run.sock" not in Image(artifact.path).names()


# -- formats --------------------------------------------------------------------------------------------


def test_unknown_formats_and_compressions_are_told_together(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        write(trees.job(root, tmp_path / "x-1", compression="xz"), "oic", "oci", "tar")
    assert [fault.hint for fault in caught.value.faults] == [
        "did you mean oci?",
        "one of gzip, zstd, none",
    ]


class _Point:
    def __init__(self, name: str, what: object) -> None:
        self.name, self.value, self._what = name, f"other:{name}", what

    def load(self) -> object:
        if isinstance(self._what, Exception):
            raise self._what
        return self._what


class _Quiet:
    name: ClassVar[str] = "quiet"
    compressions: ClassVar[tuple[str, ...]] = ()

    def extension(self, compression: str | None) -> str:
        return ".quiet"

    @contextlib.contextmanager
    def open(self, job: EmitJob, path: Path) -> Iterator[Any]:
        path.touch()
        yield _QuietSink(path)


class _QuietSink:
    scope = "tree"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seen = 0

    def begin(self, entry: Entry) -> None:
        self.seen += 1

    def data(self, offset: int, chunk: bytes) -> None: ...

    def end(self, entry: Entry) -> None: ...

    def finish(self) -> Artifact:
        self._path.write_text(str(self.seen))
        return Artifact(path=self._path, format="quiet", size=1, sha1="", sha256="", compression="none")


def test_formats_of_other_packages(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [_Point("broken", ImportError("no libfoo")), _Point("quiet", _Quiet)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points)
    heard: list[Event] = []
    job = trees.job(root, tmp_path / "x-1", bus=Bus(heard.append))
    (artifact,) = write(job, "quiet")
    assert artifact.path.name == "x-1.quiet"
    assert artifact.path.read_text() == str(len(job.tree))
    (note,) = [e.text for e in heard if isinstance(e, Note)]
    assert "'broken'" in note
    assert "no libfoo" in note


# -- OCI ------------------------------------------------------------------------------------------------


def blob(root: Path, path: Path, tree: FileList | None = None) -> tuple[Blob, FileList]:
    entries = tree or scan.scan(root)
    made, _ = write_layer(
        root, diff({}, entries), path, codec=codec("gzip"), style=ArchiveStyle(epoch=trees.EPOCH), bus=Bus()
    )
    return made, entries


def test_layers_whiteouts_and_parents(root: Path, tmp_path: Path) -> None:
    lower, base = blob(root, tmp_path / "base.blob")
    assert hashlib.sha256(lower.path.read_bytes()).hexdigest() == lower.digest
    (root / "usr/bin/tool").unlink()
    (root / "var/empty").rmdir()
    (root / "empty").unlink()
    (root / "usr/bin/new").write_bytes(b"new")
    (root / "etc/link").unlink()
    (root / "etc/link").mkdir()
    (root / "etc/link/below").write_bytes(b"")
    tree = trees.scanned(root)
    changes = diff(base, tree)
    job = trees.job(
        root,
        tmp_path / "x-1",
        tree=tree,
        changes=changes,
        layers=(replace(lower, comment="base image a 1"),),
        comment="proto directory",
    )
    (artifact,) = write(job, "oci")
    image = Image(artifact.path)
    assert len(image.layers) == 2
    assert image.layers[0] == lower.path.read_bytes()
    names = image.names()
    assert names == [
        ".",
        ".wh.empty",
        "etc",
        "etc/link",
        "etc/link/below",
        "usr",
        "usr/bin",
        "usr/bin/.wh.tool",
        "usr/bin/new",
        "usr/bin/twin",
        "var",
        "var/.wh.empty",
    ]
    assert [row["comment"] for row in image.config["history"]] == ["base image a 1", "proto directory"]
    # Laid over one another they give the tree.
    into = tmp_path / "into"
    into.mkdir()
    got: FileList = {}
    for layer in image.layers:
        got = unpack.apply_layer(io.BytesIO(layer), into, got, privileged=False)
    assert tree_digest(got) == tree_digest(tree)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_history_of_a_base_is_its_own_where_it_fits_its_layers(
    root: Path, tmp_path: Path, count: int
) -> None:
    lower, base = blob(root, tmp_path / "base.blob")
    theirs = [{"created_by": f"COPY {number}"} for number in range(count)]
    layers = tuple(replace(lower, comment=name) for name in ("base image a 1", "packages: b"))
    config = {"history": [*theirs, {"created_by": "CMD", "empty_layer": True}]}
    job = trees.job(
        root, tmp_path / "x-1", tree=base, changes=Changes((base[b""],), ()), layers=layers, base_layers=1,
        comment="proto directory", base_config=config,
    )  # fmt: skip
    rows = Image(write(job, "oci")[0].path).config["history"]
    assert [row.get("comment", row["created_by"]) for row in rows] == [
        *(["COPY 0", "CMD"] if count == 1 else ["base image a 1"]), "packages: b", "proto directory"
    ]  # fmt: skip


def test_an_empty_top_layer_is_left_out(root: Path, tmp_path: Path) -> None:
    lower, base = blob(root, tmp_path / "base.blob")
    job = trees.job(root, tmp_path / "x-1", tree=base, changes=Changes((), ()), layers=(lower, lower))
    image = Image(write(job, "oci")[0].path)
    assert len(image.layers) == 2
    assert len([name for name in image.members if name.startswith("blobs/")]) == 3
    alone = trees.job(root, tmp_path / "y-1", changes=Changes((), ()), tree={b"": base[b""]})
    assert len(Image(write(alone, "oci")[0].path).layers) == 1


def test_a_top_layer_that_the_base_has_too_is_there_once(root: Path, tmp_path: Path) -> None:
    """As of a base of ours, whose top is the same directories: an archive with two members of a name is none."""
    changes = Changes((trees.scanned(root)[b"etc"],), ())
    first = trees.job(root, tmp_path / "x-1", changes=changes)
    (artifact,) = write(first, "oci")
    (tmp_path / "base.blob").write_bytes(Image(artifact.path).layers[0])
    lower = replace(
        blob(root, tmp_path / "other.blob")[0],
        path=tmp_path / "base.blob",
        digest=artifact.extra["layers"][0].removeprefix("sha256:"),
        diff_id=artifact.extra["diff_ids"][0].removeprefix("sha256:"),
        size=(tmp_path / "base.blob").stat().st_size,
        new=False,
    )
    (again,) = write(trees.job(root, tmp_path / "y-1", changes=changes, layers=(lower,)), "oci")
    assert again.extra["layers"] == artifact.extra["layers"] * 2
    with tarfile.open(again.path) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))
    assert len(Image(again.path).layers) == 2


@pytest.mark.parametrize("form", ["oci", "oci-dir"])
def test_with_paranoid_no_damaged_lower_layer_is_shipped(root: Path, tmp_path: Path, form: str) -> None:
    written, base = blob(root, tmp_path / "base.blob")
    lower = replace(written, new=False)  # as one that an earlier build made
    data = bytearray(lower.path.read_bytes())
    data[len(data) // 2] ^= 1
    for bad in (bytes(data), bytes(data[:-1])):
        lower.path.write_bytes(bad)
        job = trees.job(root, tmp_path / "bits/x-1", tree=base, layers=(lower,))
        with pytest.raises(EmitError, match=r"base.blob is damaged"):
            write(replace(job, paranoid=len(bad) == len(data)), form)  # the size tells in any case
        assert os.listdir(tmp_path / "bits") == []
        assert lower.path.stat().st_nlink == 1


def test_names_that_mean_removal_are_refused(root: Path, tmp_path: Path) -> None:
    (root / "etc/.wh.motd").touch()
    with pytest.raises(EmitError, match=r"etc/\.wh\.motd cannot be part"):
        write(trees.job(root, tmp_path / "bits/x-1"), "oci")
    assert os.listdir(tmp_path / "bits") == []
    write(trees.job(root, tmp_path / "bits/x-1"), "tar")


@pytest.mark.parametrize(
    ("compression", "media_type"),
    [
        (None, "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("none", "application/vnd.oci.image.layer.v1.tar"),
    ],
)
def test_layer_compressions(root: Path, tmp_path: Path, compression: str | None, media_type: str) -> None:
    (artifact,) = write(trees.job(root, tmp_path / "x-1", compression=compression), "oci")
    assert artifact.path.name == "x-1.oci.tar"
    assert artifact.compression == "none"
    image = Image(artifact.path)
    assert [layer["mediaType"] for layer in image.manifest["layers"]] == [media_type]
    assert artifact.extra["digest"] == image.descriptor["digest"]
    assert artifact.extra["layers"] == [layer["digest"] for layer in image.manifest["layers"]]


def test_the_config_is_the_manifests_over_the_bases(root: Path, tmp_path: Path) -> None:
    job = trees.job(
        root,
        tmp_path / "x-1",
        manifest={"name": "hello", "version": "1.0.0", "os": "linux", "description": "Grüße"},
        config={
            "entrypoint": ("/usr/bin/tool", "-x"),
            "env": {"B": "2", "C": "3=4"},
            "user": "www",
            "workdir": "/srv",
            "expose": (80, "53/udp"),
            "volumes": ("/data",),
            "labels": {"a": "b"},
            "stop_signal": "SIGQUIT",
        },
        base_config={
            "architecture": "arm64",
            "variant": "v8",
            "author": "them",
            "config": {
                "Cmd": ["sh"],
                "Env": ["A=1", "B=old"],
                "Labels": {"z": "y"},
                "ExposedPorts": {"22/tcp": {}},
                "OnBuild": ["x"],
            },
            "history": [{"created_by": "one"}, {"created_by": "two", "empty_layer": True}],
        },
    )
    image = Image(write(job, "oci")[0].path)
    config = image.config
    note = "org.opencontainers.image."
    told = {
        note + "title": "hello",
        note + "version": "1.0.0",
        note + "description": "Grüße",
        note + "created": "2023-11-14T22:13:20Z",
    }
    assert config["config"] == {
        "Entrypoint": ["/usr/bin/tool", "-x"],
        "Env": [oci_config.PATH, "A=1", "B=2", "C=3=4"],
        "User": "www",
        "WorkingDir": "/srv",
        "ExposedPorts": {"22/tcp": {}, "80/tcp": {}, "53/udp": {}},
        "Volumes": {"/data": {}},
        "Labels": {"a": "b", "z": "y", **told},
        "StopSignal": "SIGQUIT",
        "OnBuild": ["x"],
    }
    assert (config["architecture"], config["variant"], config["os"]) == ("arm64", "v8", "linux")
    assert config["created"] == "2023-11-14T22:13:20Z"
    assert len([row for row in config["history"] if not row.get("empty_layer")]) == 1
    assert image.descriptor["annotations"] == {note + "ref.name": "hello:1.0.0"}
    for notes in (image.manifest["annotations"], image.index["annotations"]):
        assert notes == told


@pytest.mark.parametrize("architecture", ["arm", "arm/v7"])
@pytest.mark.parametrize(
    ("os_name", "want"), [("smartos", "illumos"), ("other", "linux"), ("bsd", "freebsd")]
)
def test_system_names(root: Path, tmp_path: Path, os_name: str, want: str, architecture: str) -> None:
    job = trees.job(
        root,
        tmp_path / "x-1",
        manifest={"name": "a", "version": "1", "os": os_name},
        config={"cmd": "echo hi", "env": ["A=1"], "architecture": architecture},
    )
    config = Image(write(job, "oci")[0].path).config
    assert config["os"] == want
    assert (config["architecture"], config["variant"]) == ("arm", "v7")
    assert config["config"]["Cmd"] == ["/bin/sh", "-c", "echo hi"]
    # Where programs are is only known of Linux.
    assert config["config"]["Env"] == [*([oci_config.PATH] if want == "linux" else []), "A=1"]


def test_what_a_base_says_of_itself_is_not_said_of_the_image(root: Path, tmp_path: Path) -> None:
    note = "org.opencontainers.image."
    theirs = {note + "licenses": "GPL", note + "vendor": "them", "z": "y"}
    job = trees.job(
        root,
        tmp_path / "x-1",
        config={"annotations": {note + "licenses": "MIT", "team": "web"}, "labels": {note + "title": "mine"}},
        base_config={"config": {"Labels": theirs, "Env": ["PATH=/x"]}},
    )
    job = replace(job, origin={"base.name": "debian:12", "source": "https://git.example/x"})
    image = Image(write(job, "oci")[0].path)
    told = {
        note + "version": "1.0.0",
        note + "created": "2023-11-14T22:13:20Z",
        note + "licenses": "MIT",
        note + "base.name": "debian:12",
        note + "source": "https://git.example/x",
    }
    assert image.config["config"]["Labels"] == {**told, "z": "y", note + "title": "mine"}
    assert image.manifest["annotations"] == {**told, note + "title": "hello", "team": "web"}
    assert image.config["config"]["Env"] == ["PATH=/x"], "the base's own wins"


def test_docker_finds_its_list_beside_the_index(root: Path, tmp_path: Path) -> None:
    archive = write(trees.job(root, tmp_path / "x-1"), "oci")[0].path
    image = Image(archive)
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        stream = tar.extractfile("manifest.json")
        assert stream is not None
        (row,) = json.loads(stream.read())
    assert row["RepoTags"] == ["hello:1.0.0"]
    assert row["Config"] == "blobs/sha256/" + image.manifest["config"]["digest"][7:]
    assert row["Layers"] == ["blobs/sha256/" + layer["digest"][7:] for layer in image.manifest["layers"]]
    assert {row["Config"], *row["Layers"]} < set(names)


def test_another_name_for_engines(root: Path, tmp_path: Path) -> None:
    job = replace(trees.job(root, tmp_path / "x-1"), ref="registry.example:5000/team/web")
    image = Image(write(job, "oci")[0].path)
    note = "org.opencontainers.image."
    assert image.descriptor["annotations"] == {note + "ref.name": "registry.example:5000/team/web:1.0.0"}


# -- outputs --------------------------------------------------------------------------------------------


def test_all_files_get_their_names_together_and_the_manifest_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # D9, D25, D26
    image, manifest = tmp_path / "x-1.oci.tar", tmp_path / "x-1.imgmanifest"
    order: list[str] = []
    rename = Path.rename

    def recorded(path: Path, target: Path) -> Path:
        if not path.name.startswith("x-") and not target.name.startswith("."):
            order.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", recorded)
    for text in (b"first", b"second"):
        with Outputs() as outputs:
            outputs.write(image, text)
            outputs.write(manifest, text)
            assert outputs.paths == [image, manifest]
            assert image.exists() == (text == b"second")
            outputs.commit()
        assert image.read_bytes() == manifest.read_bytes() == text
        assert len(os.listdir(tmp_path)) == 2
    assert order == [image.name, manifest.name] * 2


def commit(*paths: Path) -> None:
    with Outputs() as outputs:
        for path in paths:
            outputs.write(path, b"new")
        outputs.commit()


def test_a_failing_commit_brings_the_earlier_build_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "b", "c"]
    for name in names:
        (tmp_path / name).write_text("old")
    rename = Path.rename
    for failing in range(6):
        left = failing

        def limited(path: Path, target: Path) -> Path:
            nonlocal left
            left -= 1
            if left == -1:
                raise OSError(5, "Input/output error")
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", limited)
        with pytest.raises(EmitError, match="Input/output"):
            commit(*(tmp_path / name for name in names))
        monkeypatch.setattr(Path, "rename", rename)
        assert sorted(os.listdir(tmp_path)) == names
        assert all((tmp_path / name).read_text() == "old" for name in names)


def test_an_action_at_the_commit_that_fails_brings_the_earlier_build_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    seen: list[str] = []
    held = contextlib.ExitStack()
    held.callback(seen.append, "closed")

    def action() -> None:
        seen.append((tmp_path / "a").read_text())
        raise EmitError("not now")

    with Outputs() as outputs:
        outputs.write(tmp_path / "a", b"new")
        outputs.at_commit(action, held)
        with pytest.raises(EmitError, match="not now"):
            outputs.commit()
    assert seen == ["new", "closed"]
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_directory_or_a_link_under_a_final_name(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    with pytest.raises(EmitError, match="a directory has this name"):
        commit(tmp_path / "file", tmp_path / "dir")
    assert os.listdir(tmp_path) == ["dir"]
    victim = tmp_path / "victim"
    victim.write_text("safe")
    (tmp_path / "link").symlink_to(victim)
    with Outputs() as outputs:
        outputs.write(tmp_path / "link", b"new")
        outputs.commit()
    assert victim.read_text() == "safe"
    assert not (tmp_path / "link").is_symlink()


def test_temporary_names_are_never_followed_nor_shared(tmp_path: Path) -> None:
    names = {temporary_name(tmp_path / "x") for _ in range(1000)}
    assert len(names) == 1000
    (tmp_path / "planted").symlink_to(tmp_path / "victim")
    with pytest.raises(EmitError, match="cannot create"):
        create(tmp_path / "planted")
    assert not (tmp_path / "victim").exists()


def test_two_builds_into_one_directory_do_not_mix(root: Path, tmp_path: Path) -> None:
    done: list[Artifact] = []

    def build() -> None:
        done.extend(write(trees.job(root, tmp_path / "bits/x-1"), "oci", "tar"))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({artifact.sha256 for artifact in done}) == 2
    assert len(os.listdir(tmp_path / "bits")) == 2


def test_seal_tells_what_is_on_the_disk(tmp_path: Path) -> None:
    fd = create(tmp_path / "x")
    os.write(fd, b"abc")
    digests = seal(fd)
    os.close(fd)
    assert digests.size == 3
    assert digests.sha256 == hashlib.sha256(b"abc").hexdigest()


def test_a_missing_directory_is_made_and_an_impossible_one_is_an_error(root: Path, tmp_path: Path) -> None:
    write(trees.job(root, tmp_path / "new/deep/x-1"), "tar")
    (tmp_path / "file").touch()
    with pytest.raises(EmitError):
        write(trees.job(root, tmp_path / "file/x-1"), "tar")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_an_emitter_that_cannot_write_leaves_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = 0
    real = os.write

    def limited(fd: int, data: bytes) -> int:
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", limited)
    for limit in range(40):
        allowed = limit
        try:
            write(trees.job(root, tmp_path / "bits/x-1"), "oci", "tar")
        except EmitError as error:
            if "No space left" not in error.message:
                raise
            assert os.listdir(tmp_path / "bits") == []
        else:
            break
    else:
        pytest.fail("never succeeded")
    assert limit > 8
