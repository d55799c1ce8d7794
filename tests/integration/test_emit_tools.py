"""Our archives in the hands of other tools, and theirs in ours; needs root for owners and devices."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep import emit
from buildstep.emit.interface import ArchiveStyle, Artifact, EmitJob
from buildstep.emit.read_pass import with_parents
from buildstep.errors import EmitError, ImageError
from buildstep.events import Bus, Event, Note
from buildstep.formats.codecs import codec
from buildstep.formats.unpack import apply_layer, unpack
from buildstep.system import output_set
from buildstep.tree import entry as tree_entry
from buildstep.tree import scan
from buildstep.tree.diff import Changes, diff
from buildstep.tree.entry import FileList, tree_digest
from tests.unit import trees
from tests.unit.written_layers import write_layer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, devices, mounts")


def require(*names: str) -> None:
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")


def run(*argv: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [os.fspath(word) for word in argv],
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
    return done.stdout


ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *row)
    for row in (
        (1, 6, 2**32 - 1),
        (2, 4, 12345),
        (4, 4, 2**32 - 1),
        (8, 5, 54321),
        (16, 5, 2**32 - 1),
        (32, 4, 2**32 - 1),
    )
)
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep

ODD = [b"new\nline", b"\xff\xfe raw", b"-dash", b" ", "größe".encode(), b"back\\slash", b"*?["]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with everything that an image may hold."""
    top = tmp_path / "root"
    (top / "bin").mkdir(parents=True)
    (top / "empty/dir").mkdir(parents=True)
    (top / "bin/tool").write_bytes(os.urandom(100_000))
    os.chown(top / "bin/tool", 33, 44)
    (top / "bin/tool").chmod(0o6755)
    os.setxattr(top / "bin/tool", "user.note", b"a\nb=c\0d")
    (top / "bin/twin").hardlink_to(top / "bin/tool")
    (top / "bin/ping").write_bytes(b"ping")
    os.setxattr(top / "bin/ping", "security.capability", CAPABILITY)
    (top / "bin/ping2").hardlink_to(top / "bin/ping")
    (top / "shared").mkdir()
    os.setxattr(top / "shared", "system.posix_acl_default", ACL)
    os.setxattr(top / "shared", "trusted.mark", b"\0\xff")
    (top / "listed").write_bytes(b"acl")
    os.setxattr(top / "listed", "system.posix_acl_access", ACL)
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)
    (top / "link").symlink_to("bin/tool")
    os.symlink(b"long/" * 40, top / "long-link")
    os.chown(top / "link", 5, 6, follow_symlinks=False)
    os.link(top / "link", top / "link-twin", follow_symlinks=False)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    os.mkfifo(top / "fifo")
    os.chown(top / "fifo", 2**21 + 7, 2**31)
    deep = top / "/".join([f"directory-{i:02}" for i in range(20)])
    deep.mkdir(parents=True)
    (deep / "deep").write_bytes(b"deep")
    (top / ("n" * 240)).write_bytes(b"long")
    for name in ODD:
        (top / os.fsdecode(name)).write_bytes(name)
        (deep / os.fsdecode(name)).write_bytes(name)
    with (top / "sparse").open("wb") as file:
        file.truncate(64 << 20)
        for at in (0, 5 << 20, (64 << 20) - 100):
            file.seek(at)
            file.write(b"data" * 25)
        os.fsync(file.fileno())
    os.chmod(top, 0o751)
    return top


def write(job: EmitJob, *formats: str) -> list[Artifact]:
    with output_set.Outputs() as files:
        artifacts = emit.emit(job, formats, files)
        files.commit()
    return artifacts


def emitted(root: Path, out: Path, name: str, compression: str | None = None, *, sparse: bool = True) -> Path:
    job = trees.job(root, out / "hello-1.0.0", compression=compression, sparse=sparse)
    (artifact,) = write(job, name)
    return artifact.path


def same(root: Path, other: Path, *, without: tuple[bytes, ...] = ()) -> None:
    """Both trees are equal in all that a file list tells."""
    lists = []
    for top in (root, other):
        entries = trees.scanned(top)
        for path, entry in entries.items():
            entry.xattrs = tuple((k, v) for k, v in entry.xattrs if not k.startswith(without or (b"\0",)))
            assert path or entry.kind == "d"
        lists.append([tree_entry.line(entry) for entry in entries.values()])
    assert set(lists[0]) ^ set(lists[1]) == set()


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


# -- tar files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["zstd", "gzip", "xz", "bzip2", "none"])
def test_gnu_tar_restores_all_of_it(root: Path, tmp_path: Path, compression: str) -> None:
    require("tar", *({"zstd": ["zstd"], "xz": ["xz"], "bzip2": ["bzip2"]}.get(compression, [])))
    path = emitted(root, tmp_path, "tar", compression)
    into = tmp_path / "into"
    into.mkdir()
    run("tar", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-xpf", path, "-C", into)
    same(root, into)
    assert blocks(into / "sparse") < 1 << 20
    assert stat.S_IMODE(into.stat().st_mode) == 0o751


def test_bsdtar_restores_all_of_it(root: Path, tmp_path: Path) -> None:
    require("bsdtar")
    path = emitted(root, tmp_path, "tar", "gzip")
    into = tmp_path / "into"
    into.mkdir()
    run("bsdtar", "--numeric-owner", "-xpf", path, "-C", into)
    same(root, into)
    assert blocks(into / "sparse") < 1 << 20


@pytest.mark.parametrize("name", ["tar", "oci"])
def test_we_restore_all_of_it(root: Path, tmp_path: Path, name: str) -> None:
    path = emitted(root, tmp_path, name)
    if name == "oci":
        path = layers(path, tmp_path / "apart")[0]
    into = tmp_path / "into"
    into.mkdir()
    with path.open("rb") as stream:
        found = unpack(stream, into, privileged=True)
    same(root, into)
    assert tree_digest(found) == tree_digest(trees.scanned(root))
    assert blocks(into / "sparse") < 1 << 20
    other = tmp_path / "other"
    other.mkdir()
    with path.open("rb") as stream:
        assert tree_digest(unpack(stream, other, privileged=False)) == tree_digest(found)


@pytest.mark.parametrize("reader", ["tar", "bsdtar", "busybox", "umoci", "python"])
def test_which_readers_take_files_with_holes(tmp_path: Path, reader: str) -> None:
    """All take them as plain data, which is the default; all but simple ones take sparse files."""
    require(*{"busybox": ["busybox"], "python": ["python3"], "umoci": ["umoci", "tar"]}.get(reader, [reader]))
    top = tmp_path / "root"
    (top / "var/lib").mkdir(parents=True)
    with (top / "var/lib/disk").open("wb") as file:
        file.truncate(4 << 20)
        file.seek(2 << 20)
        file.write(b"data")
    content = (top / "var/lib/disk").read_bytes()
    for sparse in (False, True):
        out = tmp_path / f"sparse-{sparse}"
        into = out / "into"
        into.mkdir(parents=True)
        path = emitted(top, out, "oci" if reader == "umoci" else "tar", "none", sparse=sparse)
        if reader == "umoci":
            layers(path, out / "apart")
            run("umoci", "unpack", "--image", f"{out / 'apart'}:hello:1.0.0", out / "bundle")
            into = out / "bundle/rootfs"
        elif reader == "python":
            run(
                "python3",
                "-c",
                "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])",
                path,
                into,
            )
        else:
            run(*(["busybox", "tar"] if reader == "busybox" else [reader]), "-xf", path, "-C", into)
        if reader == "busybox" and sparse:  # why it is not the default
            assert [name.name for name in into.rglob("*disk*")] == ["disk"]
            assert not (into / "var/lib/disk").exists()
            assert (into / "GNUSparseFile.0/disk").exists()
        else:
            assert (into / "var/lib/disk").read_bytes() == content


@pytest.mark.parametrize("name", ["tar", "oci"])
def test_we_make_holes_of_zeros(tmp_path: Path, name: str) -> None:
    """A base image without sparse files does not fill the pool."""
    top, into = tmp_path / "root", tmp_path / "into"
    for folder in (top, into):
        folder.mkdir()
    with (top / "disk").open("wb") as file:
        file.truncate((64 << 20) + 5)
        for at in (0, 40 << 20, (64 << 20) + 1):
            file.seek(at)
            file.write(b"data")
    tree = trees.scanned(top)
    path = emitted(top, tmp_path, name, "zstd", sparse=False)
    if name == "oci":
        path = layers(path, tmp_path / "apart")[0]
    with path.open("rb") as stream:
        found = unpack(stream, into, privileged=True)
    assert tree_digest(found) == tree_digest(tree) == tree_digest(trees.scanned(into))
    assert blocks(into / "disk") < 1 << 20


@pytest.mark.parametrize(
    "argv",
    [
        ["tar", "--format=pax", "--sparse", "--xattrs", "--xattrs-include=*", "--acls"],
        ["tar", "--format=gnu", "--sparse"],
        ["tar", "--format=pax", "--sparse", "--sparse-version=0.0"],
        ["tar", "--format=pax", "--sparse", "--sparse-version=0.1"],
        ["bsdtar", "--format=pax"],
    ],
    ids=["gnu pax 1.0", "gnu", "gnu pax 0.0", "gnu pax 0.1", "bsdtar"],
)
def test_archives_of_other_tools(root: Path, tmp_path: Path, argv: list[str]) -> None:
    require(argv[0])
    path = tmp_path / "theirs.tar"
    run(*argv, "-cf", path, "-C", root, ".")
    into = tmp_path / "into"
    into.mkdir()
    with path.open("rb") as stream:
        found = unpack(stream, into, privileged=True)
    plain = "--xattrs" not in argv and argv[0] == "tar"
    lost = (b"user.", b"security.", b"trusted.", b"system.") if plain else ()
    same(root, into, without=lost)
    # Line by line, so that a difference says what it is.
    lines = {tree_entry.line(entry) for entry in trees.scanned(into).values()}
    assert {tree_entry.line(entry) for entry in found.values()} ^ lines == set()
    assert blocks(into / "sparse") < 1 << 20


def test_times_are_kept(root: Path, tmp_path: Path) -> None:
    for path in (root / "bin/ping", root / "empty", root):
        os.utime(path, (1_500_000_000, 1_500_000_000))
    os.utime(root / "link", (7, 7), follow_symlinks=False)
    archive = emitted(root, tmp_path, "tar")
    into = tmp_path / "into"
    into.mkdir()
    with archive.open("rb") as stream:
        unpack(stream, into, privileged=True)
    for name in ("bin/ping", "empty", "."):
        assert (into / name).stat().st_mtime == 1_500_000_000
    assert (into / "link").lstat().st_mtime == 7
    assert (into / "listed").stat().st_mtime == trees.EPOCH


FAR = {"old": -86_400, "ancient": -2_000_000_000, "late": 5_000_000_000, "later": 8_800_000_000}
"""Seconds since 1970: before it, after 2106, and after 2242, where the header's field ends. umoci counts
nanoseconds in 64 bits, up to 2262."""


@pytest.mark.parametrize("reader", ["tar", "bsdtar", "umoci"])
def test_times_far_from_now_are_kept_in_every_format(tmp_path: Path, reader: str) -> None:
    require(reader)
    top, into = tmp_path / "root", tmp_path / "into"
    for folder in (top, into):
        folder.mkdir()
    for name, second in FAR.items():
        (top / name).write_bytes(b"")
        (top / f"{name}-link").symlink_to(name)
        for path in (top / name, top / f"{name}-link"):
            os.utime(path, (second, second), follow_symlinks=False)
    tree = trees.scanned(top)
    if reader == "umoci":
        (artifact,) = write(trees.job(top, tmp_path / "x-1", tree=tree, epoch=None), "oci")
        layers(artifact.path, tmp_path / "apart")
        run("umoci", "unpack", "--image", f"{tmp_path / 'apart'}:hello:1.0.0", tmp_path / "bundle")
        into = tmp_path / "bundle/rootfs"
    else:
        (artifact,) = write(trees.job(top, tmp_path / "x-1", tree=tree, epoch=None), "tar")
        run(reader, "-xpf", artifact.path, "-C", into)
    for name, second in FAR.items():
        for path in (into / name, into / f"{name}-link"):
            assert int(path.lstat().st_mtime) == second, path


def test_attributes_with_an_equals_sign_in_their_name(tmp_path: Path) -> None:
    top = tmp_path / "root"
    top.mkdir()
    (top / "file").write_bytes(b"x")
    os.setxattr(top / "file", "user.a=b", b"=1\n")
    heard: list[Event] = []
    (artifact,) = write(trees.job(top, tmp_path / "x-1", bus=Bus(heard.append)), "tar")
    path = artifact.path
    assert [event.text.partition(":")[0] for event in heard if isinstance(event, Note)] == [
        "1 path with an extended attribute whose name holds `=`"
    ]
    for argv in (["tar", "--xattrs", "--xattrs-include=*"], ["bsdtar"]):
        require(argv[0])
        into = tmp_path / argv[0]
        into.mkdir()
        run(*argv, "-xpf", path, "-C", into)
        assert os.getxattr(into / "file", "user.a=b") == b"=1\n", argv
    into = tmp_path / "ours"
    into.mkdir()
    with path.open("rb") as stream:
        assert unpack(stream, into, privileged=True)[b"file"].xattrs == ((b"user.a=b", b"=1\n"),)
    # A reader in Go takes the archive and the value; the name is what a record can hold of it.
    require("umoci")
    layers(emitted(top, tmp_path, "oci"), tmp_path / "apart")
    run("umoci", "unpack", "--image", f"{tmp_path / 'apart'}:hello:1.0.0", tmp_path / "bundle")
    assert os.getxattr(tmp_path / "bundle/rootfs/file", "user.a%3Db") == b"=1\n"


@pytest.mark.parametrize("packer", ["tar", "bsdtar"])
def test_acls_that_other_tools_wrote_with_names(tmp_path: Path, packer: str) -> None:
    require(packer, "setfacl")
    top, into = tmp_path / "root", tmp_path / "into"
    (top / "etc").mkdir(parents=True)
    into.mkdir()
    (top / "acl").write_bytes(b"x")
    run("setfacl", "-m", "u:games:rw,g:tty:r", top / "acl")
    # The image's games and tty are not the CI host's: GNU tar writes names, bsdtar numbers as well.
    (top / "etc/passwd").write_text("games:x:4005:60::/:\n")
    (top / "etc/group").write_text("tty:x:4006:\n")
    path = tmp_path / "theirs.tar"
    run(packer, "--acls", "-cf", path, "-C", top, ".")
    with path.open("rb") as stream:
        found = unpack(stream, into, privileged=True)
    text = run("getfacl", "--numeric", "--omit-header", "--absolute-names", into / "acl")
    ids = (5, 5) if packer == "bsdtar" else (4005, 4006)
    assert text.splitlines()[:4] == [
        "user::rw-",
        f"user:{ids[0]}:rw-",
        "group::r--",
        f"group:{ids[1]}:r--",
    ]
    assert tree_digest(found) == tree_digest(trees.scanned(into))


def test_a_default_acl_of_a_lower_layer_does_not_reach_what_is_made_in_it(root: Path, tmp_path: Path) -> None:
    base = trees.scanned(root)
    (root / "shared/plain").write_bytes(b"")
    (root / "shared/dir").mkdir()
    for path in (root / "shared/plain", root / "shared/dir"):
        for name in os.listxattr(path):
            os.removexattr(path, name)
        path.chmod(0o755)
    tree = trees.scanned(root)
    into = tmp_path / "into"
    into.mkdir()
    found: FileList = {}
    for changes in (diff({}, base), diff(base, tree)):
        path = tmp_path / "blob"
        layer = Changes(tuple(with_parents(changes, tree)), changes.removed)
        write_layer(root, layer, path, codec=codec("zstd"), style=ArchiveStyle(), bus=Bus())
        with path.open("rb") as stream:
            found = apply_layer(stream, into, found, privileged=True)
    assert tree_digest(found) == tree_digest(tree)
    same(root, into)


# -- OCI ------------------------------------------------------------------------------------------------


def layers(archive: Path, apart: Path) -> list[Path]:
    """An OCI archive's layers, as files."""
    apart.mkdir()
    run("tar", "-xf", archive, "-C", apart)
    index = json.loads((apart / "index.json").read_bytes())

    def blob(descriptor: dict[str, str]) -> Path:
        return apart / "blobs/sha256" / descriptor["digest"].removeprefix("sha256:")

    manifest = json.loads(blob(index["manifests"][0]).read_bytes())
    return [blob(layer) for layer in manifest["layers"]]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_skopeo_reads_and_copies(root: Path, tmp_path: Path, compression: str) -> None:
    require("skopeo")
    path = emitted(root, tmp_path, "oci", compression)
    told = json.loads(run("skopeo", "inspect", "--raw", f"oci-archive:{path}:hello:1.0.0"))
    assert len(told["layers"]) == 1
    run("skopeo", "--insecure-policy", "copy", f"oci-archive:{path}", f"dir:{tmp_path / 'dir'}")
    config = json.loads(run("skopeo", "inspect", "--config", f"oci-archive:{path}:hello:1.0.0"))
    assert config["architecture"]


def engine(program: str, top: Path, *words: str | Path) -> str:
    """Run podman or buildah with a store of its own."""
    store: list[str | Path] = ["--root", top / "storage", "--runroot", top / "run", "--storage-driver", "vfs"]
    return run(program, *store, *words, env={"BUILDAH_ISOLATION": "chroot"})


@pytest.fixture
def engines() -> Iterator[Path]:
    """A place for an engine's store, whose path podman finds short enough."""
    with tempfile.TemporaryDirectory(prefix="engines-", dir="/tmp") as top:
        yield Path(top)


def names_in(program: str, top: Path) -> list[str]:
    how = ["--json"] if program == "buildah" else ["--format", "json"]
    rows = json.loads(engine(program, top, "images", *how))
    return [name for row in rows for name in row.get("Names") or row.get("names") or ()]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_engines_load_it_under_its_name(root: Path, tmp_path: Path, engines: Path, compression: str) -> None:
    require("podman", "buildah", "skopeo")
    path = emitted(root, tmp_path, "oci", compression)
    told = engine("podman", engines, "load", "--input", path)
    assert "localhost/hello:1.0.0" in told
    engine("podman", engines, "rmi", "localhost/hello:1.0.0")
    engine("buildah", engines, "pull", f"oci-archive:{path}")
    assert names_in("buildah", engines) == ["localhost/hello:1.0.0"]
    engine("buildah", engines, "rmi", "-a")
    # As `docker load` reads it.
    there = json.loads(run("skopeo", "inspect", "--config", f"docker-archive:{path}:hello:1.0.0"))
    assert there == json.loads(run("skopeo", "inspect", "--config", f"oci-archive:{path}:hello:1.0.0"))
    engine("podman", engines, "pull", f"docker-archive:{path}")
    assert [name.rpartition("/")[2] for name in names_in("podman", engines)] == ["hello:1.0.0"]


def two_layers(root: Path, tmp_path: Path, compression: str = "gzip") -> tuple[Path, Path]:
    """An image of a base and a layer that removes and replaces; (archive, the tree it stands for)."""
    (root / "was-dir/sub").mkdir(parents=True)
    (root / "was-dir/sub/file").write_bytes(b"1")
    (root / "was-file").write_bytes(b"2")
    (root / "was-link").symlink_to("empty")
    (root / "goes/deep").mkdir(parents=True)
    (root / "goes/deep/x").write_bytes(b"3")
    (root / "private").mkdir(mode=0o700)
    os.chown(root / "private", 77, 78)
    (root / "private/keep").write_bytes(b"4")
    base = trees.scanned(root)
    blob, _ = write_layer(
        root,
        diff({}, base),
        tmp_path / "base.blob",
        codec=codec(compression),
        style=ArchiveStyle(epoch=trees.EPOCH),
        bus=Bus(),
    )
    shutil.rmtree(root / "was-dir")
    (root / "was-dir").write_bytes(b"now a file")
    (root / "was-file").unlink()
    (root / "was-file").mkdir()
    (root / "was-file/in").write_bytes(b"5")
    (root / "was-link").unlink()
    (root / "was-link").mkdir()
    (root / "was-link/in").write_bytes(b"6")
    shutil.rmtree(root / "goes")
    (root / "private/new").write_bytes(b"7")
    (root / "bin/twin").unlink()
    (root / "null").unlink()
    (root / os.fsdecode(ODD[0])).unlink()
    tree = trees.scanned(root)
    job = trees.job(
        root,
        tmp_path / "hello-1.0.0",
        tree=tree,
        changes=diff(base, tree),
        layers=(blob,),
        compression=compression,
    )
    (artifact,) = write(job, "oci")
    return artifact.path, root


def test_umoci_unpacks_the_same_tree(root: Path, tmp_path: Path) -> None:
    require("umoci", "skopeo")
    archive, root = two_layers(root, tmp_path)
    layout = tmp_path / "layout"
    layout.mkdir()
    run("tar", "-xf", archive, "-C", layout)
    run("umoci", "unpack", "--image", f"{layout}:hello:1.0.0", tmp_path / "bundle")
    same(root, tmp_path / "bundle/rootfs")


def test_buildah_mounts_the_same_tree(root: Path, tmp_path: Path) -> None:
    require("buildah")
    archive, root = two_layers(root, tmp_path)
    env = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
    store: list[str | Path] = ["--root", tmp_path / "storage", "--runroot", tmp_path / "run"]
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    name = run(
        "buildah", *store, "from", "--signature-policy", policy, f"oci-archive:{archive}", env=env
    ).strip()
    try:
        mounted = Path(run("buildah", *store, "mount", name, env=env).strip())
        # buildah gives the top of a working container mode 0555, whatever the image's layers say (seen
        # with 1.28 on overlay), so the top's mode is the one thing that this test does not compare.
        root.chmod(0o555)
        same(root, mounted)
    finally:
        run("buildah", *store, "rm", name, env=env)
        run("buildah", *store, "rmi", "-a", env=env)


def test_we_lay_layers_over_one_another(root: Path, tmp_path: Path) -> None:
    archive, root = two_layers(root, tmp_path, "zstd")
    into = tmp_path / "into"
    into.mkdir()
    found: FileList = {}
    for layer in layers(archive, tmp_path / "apart"):
        with layer.open("rb") as stream:
            found = apply_layer(stream, into, found, privileged=True)
    same(root, into)
    assert tree_digest(found) == tree_digest(trees.scanned(root))


# -- size and failure -----------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=False)
    if done.returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("name", ["oci", "tar"])
@pytest.mark.parametrize("size", ["16k", "4m", "24m"])
def test_a_full_disk_fails_and_leaves_nothing(root: Path, tmp_path: Path, name: str, size: str) -> None:
    for number in range(40):
        (root / f"random-{number}").write_bytes(os.urandom(1 << 20))
    with small_disk(tmp_path / "disk", size) as disk:
        begin = time.monotonic()
        with pytest.raises(EmitError, match="No space left"):
            emitted(root, disk, name)
        assert time.monotonic() - begin < 20
        assert os.listdir(disk) == []


def test_a_full_disk_while_unpacking(root: Path, tmp_path: Path) -> None:
    (root / "random").write_bytes(os.urandom(8 << 20))
    archive = emitted(root, tmp_path, "tar")
    with (
        small_disk(tmp_path / "disk", "2m") as disk,
        archive.open("rb") as stream,
        pytest.raises(ImageError, match="No space left"),
    ):
        unpack(stream, disk, privileged=True)


def test_hostile_archives_of_a_real_tar_touch_nothing_outside(tmp_path: Path) -> None:
    require("tar")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"safe")
    source = tmp_path / "source"
    source.mkdir()
    (source / "escape").symlink_to(victim)
    archive = tmp_path / "evil.tar"
    run("tar", "-cf", archive, "-C", source, "escape")
    (source / "escape").unlink()
    (source / "escape").mkdir()
    (source / "escape/file").write_bytes(b"owned")
    run("tar", "-rf", archive, "-C", source, "escape/file")
    run("tar", "-rPf", archive, source / "escape/file")
    into = tmp_path / "into"
    into.mkdir()
    with archive.open("rb") as stream:  # both lead somewhere inside, as in a container
        found = unpack(stream, into, privileged=True)
    assert {os.fsencode(path).lstrip(b"/") for path in (victim / "file", source / "escape/file")} <= set(
        found
    )
    assert (into / os.fspath(victim).lstrip("/") / "file").read_bytes() == b"owned"
    assert (victim / "file").read_bytes() == b"safe"

    run("tar", "-rPf", archive, "-C", source, "../victim/file")
    (source / "climbing").symlink_to("../" * 20 + os.fspath(victim).lstrip("/"))
    run("tar", "-rf", archive, "-C", source, "climbing")
    (source / "climbing").unlink()
    (source / "climbing").mkdir()
    (source / "climbing/file").write_bytes(b"owned")
    run("tar", "-rf", archive, "-C", source, "climbing/file")
    into = tmp_path / "again"
    into.mkdir()
    with archive.open("rb") as stream, pytest.raises(ImageError) as caught:
        unpack(stream, into, privileged=True)
    assert caught.value.detail.count("\n") == 1
    assert "../victim/file: a name that leads out of the root" in caught.value.detail
    assert "climbing/file: through the symbolic link climbing" in caught.value.detail
    assert (victim / "file").read_bytes() == b"safe"
    assert os.listdir(victim) == ["file"]


@pytest.mark.slow
def test_a_file_of_5_gib(tmp_path: Path) -> None:
    top = tmp_path / "root"
    top.mkdir()
    with (top / "big").open("wb") as file:
        file.truncate(5 << 30)
        os.posix_fallocate(file.fileno(), 0, 64 << 20)
        file.seek((5 << 30) - 8)
        file.write(b"the end.")
    job = trees.job(top, tmp_path / "x-1", sparse=True)
    for artifact in write(job, "oci", "tar"):
        path = artifact.path
        if artifact.format == "oci":
            path = layers(path, tmp_path / "apart")[0]
        into = tmp_path / artifact.format
        into.mkdir()
        with path.open("rb") as stream:
            found = unpack(stream, into, privileged=True)
        assert tree_digest(found) == tree_digest(job.tree)
        assert blocks(into / "big") < 128 << 20


def test_a_dense_file_over_8_gib_has_a_header_that_tar_reads(tmp_path: Path) -> None:
    # The header alone: 8 GiB of content would only prove that writing works.
    require("tar")
    from buildstep.formats import tar_writer
    from buildstep.tree.entry import Entry

    path = tmp_path / "x.tar"
    big = 9 << 30
    with path.open("wb") as file:
        file.write(tar_writer.header(Entry(b"pax", "f", 0o644, 0, 0, size=big), epoch=0))
        file.seek(big, io.SEEK_CUR)
        file.write(tar_writer.big_size_header(b"base256", big))
        file.seek(big, io.SEEK_CUR)
        file.write(tar_writer.END)
    told = run("tar", "-tvf", path)
    assert told.count(str(big)) == 2
    require("bsdtar")
    assert run("bsdtar", "-tvf", path).count(str(big)) == 2


def test_the_cost_of_many_files(tmp_path: Path) -> None:
    """20,000 small files in one pass: far from the bar, so that a slow machine passes too."""
    top = tmp_path / "root"
    data = os.urandom(4096) + bytes(2048)
    for number in range(20_000):
        if number % 1000 == 0:
            (top / f"d{number // 1000}").mkdir(parents=True)
        (top / f"d{number // 1000}/f{number}").write_bytes(data)
    bus = Bus()
    tree = scan.scan(top)
    job = trees.job(top, tmp_path / "x-1", tree=tree, bus=bus)
    begin = time.monotonic()
    write(job, "oci")
    assert time.monotonic() - begin < 15
    assert bus.counts["files_read"] == 20_000
    nothing = replace(job, changes=Changes((), ()), bus=Bus())
    write(nothing, "oci")
    assert nothing.bus.counts["files_read"] == 0
