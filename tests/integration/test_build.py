"""Whole builds, as a CI agent starts them: what they print and write, and what they refuse."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from buildstep.spec.imgmanifest import validate
from buildstep.system import sealed
from buildstep.tree import entry
from buildstep.tree.entry import tree_digest
from tests.integration.conftest import demand
from tests.integration.support import (
    EPOCH,
    REPOSITORY,
    Done,
    Lab,
    host_state,
    matches,
    none_left,
    sha1,
    sha256,
    step,
    wait_for,
    write_base,
)
from tests.rounds import FULL
from tests.unit import trees

PLAIN = {"BUILDSTEP_PLAIN": "1"}
"""The proto directory is copied by rsync, and not taken as it is."""


@pytest.fixture(params=["read in place", "copied"])
def laid(request: pytest.FixtureRequest, lab: Lab) -> Lab:
    """Both ways of laying in the proto directory."""
    if request.param == "copied":
        lab.environ.update(PLAIN)
    return lab


def tree_of(lab: Lab, *arguments: str, name: str = "tree") -> Path:
    """Build a tar image and unpack it with GNU tar."""
    result = lab.built("-f", "tar", *arguments)
    return untarred(Path(result["files"][0]["path"]), lab.top / name)


def untarred(archive: Path, into: Path) -> Path:
    into.mkdir()
    argv = ["tar", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-xpf", os.fspath(archive), "-C", os.fspath(into)]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True)
    return into


def unbundled(archive: Path, into: Path, tag: str = "hello:1.0.0") -> Path:
    """Unpack an OCI archive with umoci."""
    layout = into.with_name(into.name + "-layout")
    layout.mkdir()
    subprocess.run(["tar", "-xf", os.fspath(archive), "-C", os.fspath(layout)], check=True)
    argv = ["umoci", "unpack", "--image", f"{layout}:{tag}", os.fspath(into)]
    subprocess.run(argv, check=True, capture_output=True)
    return into / "rootfs"


def digest_of(root: Path) -> str:
    return tree_digest(trees.scanned(root))


# -- what a build prints and writes -------------------------------------------------------------------------


def test_the_object_that_is_printed(lab: Lab) -> None:
    result = lab.built("-f", "oci", "-f", "tar")
    assert set(result) == {
        "uuid",
        "manifest",
        "record",
        "files",
        "steps",
        "tree_digest",
        "seconds",
        "sources",
    }
    assert [step["name"] for step in result["steps"]] == [
        "import", "clone", "sync", "packages", "clean", "motd", "snapshot", "check", "emit", "destroy",
    ]  # fmt: skip
    for row in result["steps"]:
        assert set(row) == {"name", "state", "reason", "seconds"}
        assert row["state"] in ("run", "reuse", "skip")
        assert row["seconds"] >= 0
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", result["uuid"])
    assert re.fullmatch(r"[0-9a-f]{64}", result["tree_digest"])
    assert result["manifest"] == os.fspath(lab.out / "hello-1.0.0.imgmanifest")
    assert result["record"] == os.fspath(lab.out / "hello-1.0.0.buildrecord.json")
    assert [(row["format"], Path(row["path"]).name) for row in result["files"]] == [
        ("oci", "hello-1.0.0.oci.tar"),
        ("tar", "hello-1.0.0.tar.zst"),
    ]
    for row in result["files"]:
        path = Path(row["path"])
        assert {"path", "format", "size", "sha1", "sha256", "compression"} <= set(row)
        assert (row["size"], row["sha256"]) == (path.stat().st_size, sha256(path))
    # Only the manifest wants it, of the file that it describes.
    first, second = result["files"]
    assert (first["sha1"], second["sha1"]) == (sha1(Path(first["path"])), "")
    assert set(lab.outputs()) == {
        "hello-1.0.0.oci.tar", "hello-1.0.0.tar.zst", "hello-1.0.0.imgmanifest", "hello-1.0.0.buildrecord.json",
        "hello-1.0.0.events.jsonl",
    }  # fmt: skip
    assert lab.leftovers() == []


@pytest.mark.parametrize(
    ("form", "compression"),
    [("oci", "gzip"), ("tar", "gzip"), ("tar", "zstd"), ("tar", "xz"), ("tar", "none")],
)
def test_the_manifests_file_entry_is_exact(lab: Lab, form: str, compression: str) -> None:
    result = lab.built("-f", form, "-c", compression)
    image = Path(result["files"][0]["path"])
    manifest = json.loads(Path(result["manifest"]).read_bytes())
    # An OCI archive is not compressed as a whole; imgmanifest knows no zstd.
    told = compression if form == "tar" and compression != "zstd" else "none"
    assert manifest["files"] == [{"size": image.stat().st_size, "compression": told, "sha1": sha1(image)}]
    assert validate(manifest, limits="emit") == []
    assert manifest["uuid"] == result["uuid"]
    assert (manifest["name"], manifest["version"], manifest["v"]) == ("hello", "1.0.0", 2)
    assert "build" not in manifest


def test_the_record_tells_what_went_in_and_what_came_out(lab: Lab) -> None:
    result = lab.built("-p", "one-1.0,two-2.0nb1")
    record = json.loads(Path(result["record"]).read_bytes())
    assert (record["ok"], record["exit_code"], record["uuid"]) == (True, 0, result["uuid"])
    assert record["tree_digest"] == result["tree_digest"]
    assert record["inputs"]["image"]["key"] == f"tar:sha256:{sha256(lab.base)}"
    assert record["artifacts"] == result["files"]
    assert [(row["name"], row["version"]) for row in record["packages"]] == [
        ("one", "1.0"),
        ("two", "2.0nb1"),
    ]
    assert [row["name"] for row in record["steps"]] == [row["name"] for row in result["steps"]]
    assert record["tools"]["buildstep"]


def test_paths_are_printed_without_json(lab: Lab) -> None:
    argv = [word for word in lab.argv() if word != "--json"]
    done = lab.run(argv)
    assert done.stdout.splitlines() == [
        "out/hello-1.0.0.oci.tar", "out/hello-1.0.0.imgmanifest", "out/hello-1.0.0.buildrecord.json",
    ]  # fmt: skip


def test_a_second_build_says_what_it_reused(lab: Lab) -> None:
    first = lab.built()
    time.sleep(0.05)  # files as young as the clock's grain are looked at again
    second = lab.built()
    assert step(second, "import")["state"] == "reuse"
    assert second["tree_digest"] == first["tree_digest"]
    (lab.proto / "etc/hello").write_text("changed\n")
    third = lab.built()
    assert third["tree_digest"] != first["tree_digest"]
    assert untarred_member(Path(third["files"][0]["path"]), "etc/hello") == b"changed\n"


def untarred_member(archive: Path, name: str) -> bytes | None:
    """What the topmost layer of an OCI archive that has this path says of it."""
    with tarfile.open(archive) as outer:

        def blob(digest: str) -> bytes:
            member = outer.extractfile("blobs/sha256/" + digest.removeprefix("sha256:"))
            assert member is not None
            return member.read()

        index = outer.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(json.loads(index.read())["manifests"][0]["digest"]))
        for layer in reversed(manifest["layers"]):
            with tarfile.open(fileobj=io.BytesIO(blob(layer["digest"]))) as inner:
                for member in inner:
                    if member.name.removeprefix("./") == name:
                        found = inner.extractfile(member)
                        return found.read() if found else None
    return None


def test_a_file_of_the_same_size_and_time_is_still_the_protos(laid: Lab) -> None:
    """A checkout with clamped times: rsync's quick check would take the base's file for the proto's."""
    (laid.proto / "same").write_bytes(b"proto")
    os.utime(laid.proto / "same", (EPOCH, EPOCH))
    assert (tree_of(laid) / "same").read_bytes() == b"proto"


def test_the_protos_own_directory_is_not_part_of_it(laid: Lab) -> None:
    laid.proto.chmod(0o700)
    os.chown(laid.proto, 1234, 1234)
    top = tree_of(laid).stat()
    assert (stat.S_IMODE(top.st_mode), top.st_uid) == (0o755, 0)


# -- everything that an image may hold -----------------------------------------------------------------------

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *row)
    for row in ((1, 6, 2**32 - 1), (2, 4, 12345), (4, 4, 2**32 - 1), (8, 5, 54321), (16, 5, 2**32 - 1), (32, 4, 2**32 - 1))
)  # fmt: skip
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep
ODD = (b"new\nline", b"\xff\xfe", b"-rf", b" ", b"*?[", "größe".encode(), b"back\\slash", b"a" * 255)


def furnish(top: Path) -> None:
    """A proto directory with all of it; over links of the base too."""
    for folder in ("data/empty/deep", "lib/extra", "var/run/service", "srv/chain1"):
        (top / folder).mkdir(parents=True)
    for folder in ("lib/extra", "var/run/service", "srv/chain1"):
        (top / folder / "file").write_text(folder)
    data = top / "data"
    (data / "tool").write_bytes(os.urandom(200_000))
    os.chown(data / "tool", 33, 44)
    (data / "tool").chmod(0o6755)
    os.setxattr(data / "tool", "user.note", b"a\nb=c\0d")
    os.link(data / "tool", data / "twin")
    os.link(data / "tool", top / "lib/extra/triplet")
    (data / "ping").write_bytes(b"ping")
    os.setxattr(data / "ping", "security.capability", CAPABILITY)
    os.link(data / "ping", data / "ping2")
    (data / "shared").mkdir()
    os.setxattr(data / "shared", "system.posix_acl_default", ACL)
    (data / "shared/inside").write_bytes(b"no ACL of its own")
    for name in os.listxattr(data / "shared/inside"):
        os.removexattr(data / "shared/inside", name)
    os.setxattr(data / "shared", "trusted.mark", b"\0\xff")
    (data / "listed").write_bytes(b"acl")
    os.setxattr(data / "listed", "system.posix_acl_access", ACL)
    (data / "sticky").mkdir()
    (data / "sticky").chmod(0o1777)
    (data / "closed").mkdir()
    (data / "closed/file").write_bytes(b"x")
    (data / "closed/file").chmod(0)
    (data / "closed").chmod(0o500)
    (data / "relative").symlink_to("tool")
    (data / "absolute").symlink_to("/data/tool")
    (data / "dangling").symlink_to("../../../../nowhere")
    os.chown(data / "dangling", 5, 6, follow_symlinks=False)
    os.link(data / "dangling", data / "dangling2", follow_symlinks=False)
    os.mknod(data / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(data / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    os.mkfifo(data / "fifo")
    os.chown(data / "fifo", 2**21 + 7, 2**31)
    for odd in ODD:
        (data / os.fsdecode(odd)).write_bytes(odd)
        (data / "shared" / os.fsdecode(odd)).mkdir()
    with (data / "sparse").open("wb") as stream:
        stream.truncate(64 << 20)
        for at in (0, 5 << 20, (64 << 20) - 100):
            stream.seek(at)
            stream.write(b"data" * 25)
        os.fsync(stream.fileno())
    # Two ways to one place: what lies behind the link is laid last.
    (top / "usr/lib/extra").mkdir(parents=True)
    for number, folder in enumerate(("usr/lib/extra", "lib/extra")):
        (top / folder / "both").write_text(folder)
        (top / folder / "both").chmod(0o640 + number * 4)
    os.link(top / "usr/lib/extra/both", data / "both-twin")
    (top / "usr/lib/extra").chmod(0o711)
    # In the base's own places: something else than the base has.
    (top / "usr/lib/base").mkdir()
    (top / "usr/lib/base/one").write_bytes(b"no longer linked\n")
    (top / "etc/os-release").symlink_to("../usr/lib/os-release")
    (top / "var/log").mkdir(parents=True)
    (top / "var/log/old.log").mkdir()
    (top / "var/log/old.log/now a folder").write_bytes(b"")


def test_everything_survives_in_every_format_pool_and_way(lab: Lab) -> None:
    demand("umoci", "tar", "zstd")
    furnish(lab.proto)
    (lab.proto / "opt/local").mkdir(parents=True, exist_ok=True)
    (lab.proto / "opt/local/sbin").symlink_to("nowhere")  # a directory with content in the base
    rules = ["/var/log/*", "/opt/local/sbin"]
    build = {"owner": "keep", "formats": ["oci", "tar"], "sparse": True, "replace": rules}
    lab.environ["SOURCE_DATE_EPOCH"] = str(EPOCH)
    found: dict[str, dict[str, Any]] = {}
    for scheme in ("overlay", "dir"):
        for way, env in (("taken", {}), ("copied", PLAIN)):
            other = Lab(top=lab.top, base=lab.base, scheme=scheme, environ={**lab.environ, **env})
            lab.manifest(build=build)
            found[f"{scheme} {way}"] = other.built(
                "--pool", f"{scheme}:{lab.top}/pool-{scheme}-{way}", "-o", f"{lab.top}/out-{scheme}-{way}"
            )
    results = list(found.values())
    digest = results[0]["tree_digest"]
    for name, result in found.items():
        assert result["tree_digest"] == digest, name
        told = [(row["format"], row["sha256"]) for row in result["files"]]
        assert told == [(row["format"], row["sha256"]) for row in results[0]["files"]], f"{name}: other bytes"
    oci, tar = (Path(row["path"]) for row in results[0]["files"])
    trees_ = {"tar": untarred(tar, lab.top / "tar"), "oci": unbundled(oci, lab.top / "oci")}
    for name, root in trees_.items():
        real = trees.scanned(root)
        if tree_digest(real) != digest:
            pytest.fail(f"{name} unpacks to another tree: {differing(real, trees_['tar'])}")
        check_furniture(lab.proto, root)


def differing(one: entry.FileList, other: Path) -> object:
    two = trees.scanned(other)
    return {entry.line(e) for e in one.values()} ^ {entry.line(e) for e in two.values()}


def check_furniture(proto: Path, root: Path) -> None:
    """The tree is what was put in: read with nothing of ours but the list of what to look at."""
    data = root / "data"
    tool = (data / "tool").stat()
    assert (tool.st_uid, tool.st_gid, stat.S_IMODE(tool.st_mode)) == (33, 44, 0o6755)
    assert (data / "tool").read_bytes() == (proto / "data/tool").read_bytes()
    assert tool.st_ino == (data / "twin").stat().st_ino == (root / "usr/lib/extra/triplet").stat().st_ino
    assert os.getxattr(data / "tool", "user.note") == b"a\nb=c\0d"
    assert os.getxattr(data / "ping2", "security.capability") == CAPABILITY
    assert os.getxattr(data / "shared", "system.posix_acl_default") == ACL
    assert os.getxattr(data / "shared", "trusted.mark") == b"\0\xff"
    assert os.getxattr(data / "listed", "system.posix_acl_access") == ACL
    assert os.listxattr(data / "shared/inside") == []
    assert stat.S_IMODE((data / "sticky").stat().st_mode) == 0o1777
    assert stat.S_IMODE((data / "closed/file").stat().st_mode) == 0
    assert os.readlink(data / "dangling") == "../../../../nowhere"
    assert (data / "dangling").lstat().st_ino == (data / "dangling2").lstat().st_ino
    assert (data / "dangling").lstat().st_uid == 5
    assert (data / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISBLK((data / "loop").stat().st_mode)
    assert stat.S_ISFIFO((data / "fifo").stat().st_mode)
    assert ((data / "fifo").stat().st_uid, (data / "fifo").stat().st_gid) == (2**21 + 7, 2**31)
    assert {os.fsencode(path.name) for path in data.iterdir()} >= set(ODD)
    assert list((data / "empty/deep").iterdir()) == []
    if root.name == "tar":  # a layer tells of its holes too, but umoci cannot make any
        assert (data / "sparse").stat().st_blocks * 512 < 1 << 20
    assert sha256(data / "sparse") == sha256(proto / "data/sparse")
    # Behind the base's links, which stay.
    assert os.readlink(root / "lib") == "usr/lib"
    assert os.readlink(root / "var/run") == "/run"
    assert (root / "usr/lib/extra/file").read_text() == "lib/extra"
    assert (root / "usr/lib/extra/both").read_text() == "lib/extra"
    assert (data / "both-twin").read_text() == "usr/lib/extra"
    assert stat.S_IMODE((root / "usr/lib/extra").stat().st_mode) == 0o755
    assert (root / "run/service/file").read_text() == "var/run/service"
    assert (root / "srv/real/file").read_text() == "srv/chain1"
    assert (root / "usr/lib/base/two").read_bytes() == b"linked\n"
    assert (root / "usr/lib/base/two").stat().st_nlink == 1
    assert (root / "var/log/old.log/now a folder").exists()
    assert os.readlink(root / "opt/local/sbin") == "nowhere"
    assert stat.S_IMODE((root / "usr/bin/setuid").stat().st_mode) == 0o4755


def test_a_file_of_5_gib_survives(lab: Lab) -> None:
    """Mostly a hole, with data on both sides of what 32 bits can count."""
    path = lab.proto / "big"
    with path.open("wb") as stream:
        stream.truncate(5 << 30)
        for at in (0, (4 << 30) - 2, (5 << 30) - 4):
            stream.seek(at)
            stream.write(b"data")
        os.fsync(stream.fileno())
    result = lab.built("-f", "tar", "-f", "oci", "-c", "zstd", "--sparse")
    (path,) = (row["path"] for row in result["files"] if row["format"] == "tar")
    big = untarred(Path(path), lab.top / "tree") / "big"
    assert big.stat().st_size == 5 << 30
    assert big.stat().st_blocks * 512 < 1 << 20
    with big.open("rb") as stream:
        for at in (0, (4 << 30) - 2, (5 << 30) - 4):
            stream.seek(at)
            assert stream.read(4) == b"data"


@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="make check-full: writes 5 GiB")
def test_5_gib_of_data_survive(lab: Lab) -> None:
    block = os.urandom(1 << 20)
    with (lab.proto / "big").open("wb") as stream:
        for number in range(5 << 10):
            stream.write(number.to_bytes(8, "big") + block[8:])
    result = lab.built("-f", "tar", "-c", "none")
    tree = untarred(Path(result["files"][0]["path"]), lab.top / "tree")
    assert sha256(tree / "big") == sha256(lab.proto / "big")


# -- owners and excludes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        (None, {"etc/hello": (0, 0), "srv/real/x": (0, 0), "data": (0, 0)}),
        ("keep", {"etc/hello": (1001, 1002), "srv/real/x": (1001, 1002)}),
        ("7:8", {"etc/hello": (7, 8), "srv/real/x": (7, 8), "data/link": (7, 8)}),
        ("www:adm", {"etc/hello": (33, 4)}),
        (
            {"data/**": "www:www", "etc/hello": "keep", "*.conf": "7:7", "*": "root:adm"},
            {
                "data/x": (33, 44),
                "data/link": (33, 44),
                "etc/hello": (1001, 1002),
                "etc/a.conf": (7, 7),
                "etc/b": (0, 4),
            },
        ),
    ],
    ids=["default", "keep", "numbers", "names", "globs"],
)
def test_owners_follow_the_rule(laid: Lab, owner: object, expected: dict[str, tuple[int, int]]) -> None:
    for name in ("etc/a.conf", "etc/b", "data/x", "srv/chain1/x"):
        (laid.proto / name).parent.mkdir(parents=True, exist_ok=True)
        (laid.proto / name).write_text(name)
    (laid.proto / "data/link").symlink_to("x")
    (laid.proto / "data/x").chmod(0o4755)
    for folder, folders, files in os.walk(laid.proto):
        for name in [*folders, *files]:
            os.chown(os.path.join(folder, name), 1001, 1002, follow_symlinks=False)
    (laid.proto / "data/x").chmod(0o4755)
    laid.manifest(build={} if owner is None else {"owner": owner})
    root = tree_of(laid)
    for name, ids in expected.items():
        info = (root / name).lstat()
        assert (info.st_uid, info.st_gid) == ids, name
    assert stat.S_IMODE((root / "data/x").stat().st_mode) == 0o4755, "a change of owner takes the set-id bits"
    base_owned = (root / "usr/lib/base/owned").stat()
    assert (base_owned.st_uid, base_owned.st_gid) == (33, 44), "the rule is for the proto's files"


def test_an_owner_that_the_image_does_not_know(laid: Lab) -> None:
    laid.manifest(build={"owner": "nobody-there:no-group"})
    done = laid.refused(2)
    assert "the image has no user 'nobody-there'" in done.stderr
    assert "the image has no group 'no-group'" in done.stderr


def test_excluded_files_stay_out_behind_links_too(laid: Lab) -> None:
    for name in (
        "lib/drop",
        "lib/keep",
        "lib/a.o",
        "etc/b.o",
        "etc/drop",
        "opt/gone/x",
        "data/sub/deep",
        "data/x",
    ):
        (laid.proto / name).parent.mkdir(parents=True, exist_ok=True)
        (laid.proto / name).write_text(name)
    laid.manifest(build={"exclude": ["*.o", "/lib/drop", "gone/", "data/sub/deep"]})
    root = tree_of(laid)
    there = {name for name in ("usr/lib/drop", "usr/lib/keep", "usr/lib/a.o", "etc/b.o", "etc/drop", "opt/gone", "data/sub", "data/sub/deep", "data/x") if (root / name).exists()}  # fmt: skip
    assert there == {"usr/lib/keep", "etc/drop", "data/sub", "data/x"}


# -- links never lead a write out of the tree ----------------------------------------------------------------


@pytest.fixture
def trap(lab: Lab) -> Lab:
    """A base whose links lead to a directory of the agent."""
    agent = lab.top / "agent"
    (agent / "etc").mkdir(parents=True)
    (agent / "etc/precious").write_text("the agent's")

    def plant(tar: tarfile.TarFile) -> None:
        for name, target in {
            "a": os.fspath(agent),
            "b": "../" * 30 + os.fspath(agent).lstrip("/"),
            "c": "a/etc",
            "opt/d": os.fspath(agent / "etc/precious"),
            "etc/motd": os.fspath(agent / "etc/precious"),
            "etc/machine-id": os.fspath(agent / "etc/precious"),
            "var/cache": os.fspath(agent),
        }.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)

    lab.base = write_base(lab.top / "trap.tar", plant)
    return lab


@pytest.mark.parametrize("env", [{}, PLAIN], ids=["read in place", "copied"])
def test_d16_no_link_of_the_base_leads_out(trap: Lab, env: dict[str, str]) -> None:
    for name in ("a/planted", "b/planted", "c/planted", "opt/d", "var/cache/planted", "etc/machine-id"):
        (trap.proto / name).parent.mkdir(parents=True, exist_ok=True)
        (trap.proto / name).write_text("planted")
    before = host_state(trap.top)
    # Only by these rules do the proto's directories take the place of links that lead nowhere inside.
    links, rules = ("/a", "/b", "/c", "/var/cache"), ("--replace", "/?", "--replace", "var/cache")
    refused = trap.refused(2, env=env)
    assert [path for path in links if f"  {path}: a directory over a link to " in refused.stderr] == [*links]
    done = trap.build("-f", "tar", "-p", "one-1", "-M", "-S", "http://x", *rules, env=env)
    agent = trap.top / "agent"
    assert sorted(path.relative_to(agent).as_posix() for path in agent.rglob("*")) == ["etc", "etc/precious"]
    assert (agent / "etc/precious").read_text() == "the agent's"
    assert host_state(trap.top) == before
    assert done.status == 0, done.stderr
    root = untarred(Path(done.json["files"][0]["path"]), trap.top / "tree")
    assert (root / "a/planted").read_text() == "planted"
    assert not (root / "a").is_symlink()
    assert (root / "opt/d").read_text() == "planted"
    assert not (root / "etc/motd").is_symlink()
    assert trap.leftovers() == []


def test_d16_links_of_the_proto_are_links_of_the_image(laid: Lab) -> None:
    agent = laid.top / "agent"
    agent.mkdir()
    (laid.proto / "home").symlink_to(agent)
    (laid.proto / "data").symlink_to("../" * 20 + "etc")
    (laid.proto / "var").mkdir()
    (laid.proto / "var/log").symlink_to(agent)
    # The base has a directory there that is not empty; that is said before anything is done.
    assert "  /var/log: a link over a directory with 1 path in it" in laid.refused(2).stderr
    root = tree_of(laid, "--replace", "/var/log")
    assert list(agent.iterdir()) == []
    assert os.readlink(root / "home") == os.readlink(root / "var/log") == os.fspath(agent)
    assert os.readlink(root / "data") == "../" * 20 + "etc"
    assert laid.leftovers() == []


# -- reproducible ------------------------------------------------------------------------------------------


def test_the_same_inputs_give_the_same_bytes(lab: Lab) -> None:
    lab.environ["SOURCE_DATE_EPOCH"] = str(EPOCH)
    furnish(lab.proto)
    replaces = ("--replace", "/var/log/old.log")
    results = []
    for number in range(2):
        again = Lab(top=lab.top / str(number), base=lab.base, environ=lab.environ)
        shutil.rmtree(again.proto)
        subprocess.run(["cp", "-a", os.fspath(lab.proto), os.fspath(again.proto)], check=True)
        os.utime(again.proto / "data/tool")  # times beyond the epoch are clamped to it
        results.append(
            again.built("-f", "oci", "-f", "tar", "-p", "one-1", "-M", "-S", "http://x", *replaces)
        )
    one, two = results
    assert [row["sha256"] for row in one["files"]] == [row["sha256"] for row in two["files"]]
    assert one["uuid"] == two["uuid"]
    assert Path(one["manifest"]).read_bytes() == Path(two["manifest"]).read_bytes()
    assert json.loads(Path(one["manifest"]).read_bytes())["published_at"] == "2023-11-14T22:13:20Z"


def test_d24_no_time_of_the_build_is_in_the_file(lab: Lab) -> None:
    """pigz over a pipe, as the original calls it, writes the current time into the header."""
    result = lab.built("-f", "tar", "-c", "gzip")
    head = Path(result["files"][0]["path"]).read_bytes()[:10]
    assert head[:4] == b"\x1f\x8b\x08\x00"
    assert head[4:8] == bytes(4)


# -- defects, by number ------------------------------------------------------------------------------------


def broken_base(lab: Lab) -> str:
    path = lab.top / "broken.tar"
    path.write_bytes(lab.base.read_bytes()[:300_000])
    return f"tar:{path}"


@pytest.mark.parametrize(
    ("image", "status"),
    [
        (lambda lab: f"tar:{lab.top}/none.tar", 11),
        (broken_base, 11),
        (lambda _lab: "nobody@1", 11),
        (lambda _lab: "7b5981c4-1889-11e7-b4c5-3f3bdfc9b88b", 11),
    ],
    ids=["not there", "cut off", "unknown name", "unknown uuid"],
)
def test_d01_a_failed_import_fails(lab: Lab, image: Callable[[Lab], str], status: int) -> None:
    lab.refused(status, "-i", image(lab))


def test_d01_a_pool_that_cannot_be_written_to_fails(lab: Lab) -> None:
    lab.built()
    (lab.pool / "build").rmdir()
    (lab.pool / "build").write_text("in the way")
    done = lab.build("--no-cache")
    assert done.status == 10, done.stderr
    assert "Traceback" not in done.stderr


def test_d02_a_failure_is_cleaned_up_after_and_the_next_build_works(lab: Lab) -> None:
    before = host_state(lab.top)
    done = lab.refused(12, "-p", "one-1,fail-1")
    assert "fail-1" in done.stderr
    assert "no pkg found for 'fail-1', sorry." in done.stderr, "the tool's own words"
    assert host_state(lab.top) == before
    assert none_left(os.fspath(lab.top)) == []
    lab.built("-p", "one-1")


def test_d02_a_failure_to_write_is_cleaned_up_after(lab: Lab) -> None:
    (lab.proto / "etc/.wh.hidden").write_text("no OCI layer can hold this name")
    done = lab.refused(14)
    assert ".wh.hidden" in done.stderr
    (lab.proto / "etc/.wh.hidden").unlink()
    lab.built()


@pytest.fixture
def fake_rsync(lab: Lab) -> Callable[[int], dict[str, str]]:
    """An rsync that copies what it can and ends with a status of our choice."""
    folder = lab.top / "fakes"
    folder.mkdir()
    real = shutil.which("rsync")

    def make(status: int) -> dict[str, str]:
        script = folder / "rsync"
        script.write_text(
            f'#!/bin/sh\n{real} "$@"\necho "rsync error: some files were not copied" >&2\nexit {status}\n'
        )
        script.chmod(0o755)
        return {**PLAIN, "PATH": f"{folder}:{os.environ['PATH']}"}

    return make


@pytest.mark.parametrize("status", [1, 11, 23, 24, 30])
def test_d03_rsyncs_status_decides(
    lab: Lab, fake_rsync: Callable[[int], dict[str, str]], status: int
) -> None:
    done = lab.refused(4, env=fake_rsync(status))
    assert f"exited with status {status}" in done.stderr
    assert "some files were not copied" in done.stderr


def test_d03_a_missing_proto_directory_is_no_empty_one(lab: Lab) -> None:
    shutil.rmtree(lab.proto)
    done = lab.refused(2)
    assert "does not exist" in done.stderr
    assert not lab.pool.exists()


def test_d03_a_file_that_goes_while_it_is_copied_fails_the_build(lab: Lab) -> None:
    """rsync itself says 24 then; a proto that is taken as it is has to be as strict."""
    (lab.proto / "etc/unreadable").symlink_to("x")
    os.remove(lab.proto / "etc/unreadable")
    fifo = lab.proto / "a-first"
    fifo.write_bytes(os.urandom(50 << 20))
    (lab.proto / "z-last").write_text("x")
    child = subprocess.Popen(
        lab.argv("-c", "xz", "-f", "tar"), env=lab.env(), stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: matches(lab.out, ".*.part"), child)
    os.remove(lab.proto / "z-last")
    _, err = child.communicate(timeout=60)
    assert child.returncode != 0
    assert "z-last" in err
    assert lab.outputs() == {}
    assert lab.leftovers() == []


FAIL_MOUNT = """
import ctypes, os, sys
from buildstep.system import mounts
real, count = mounts._libc, [0]
class Fake:
    def mount(self, *words):
        count[0] += 1
        if count[0] == int(os.environ["FAIL_AT"]):
            ctypes.set_errno(12)
            return -1
        return real.mount(*words)
    def __getattr__(self, name):
        return getattr(real, name)
mounts._libc = Fake()
from buildstep.cli import main
sys.exit(main())
"""


def test_d04_whichever_mount_fails_all_are_undone(lab: Lab) -> None:
    lab.built()  # the base is in
    before = host_state(lab.top)
    driver = lab.top / "driver.py"
    driver.write_text(FAIL_MOUNT)
    seen = []
    for number in range(1, 13):
        argv = [lab.python, "-P", os.fspath(driver), *lab.argv("--no-cache", "-p", "one-1")[4:]]
        done = lab.run(argv, env={"FAIL_AT": str(number)})
        seen.append(done.status)
        assert lab.leftovers() == [], f"mount {number}: {done.stderr}"
        assert host_state(lab.top) == before, f"mount {number}"
        # A /dev/pts without the group tty is as good; beyond the last mount nothing fails.
        assert done.status in (0, 10, 13), f"mount {number}: {done.stderr}"
        assert "Traceback" not in done.stderr
        assert done.status == 0 or "cannot mount" in done.stderr
    assert seen[-1] == 0
    assert len([status for status in seen if status]) >= 6, (
        "a build with packages makes more mounts than that"
    )


def test_d06_no_packages_name_is_ever_a_path_to_remove(lab: Lab) -> None:
    root = tree_of(lab, "-p", "same,etc,srv")
    assert (root / "same").exists()
    assert (root / "etc/passwd").exists()
    assert (root / "srv/real").is_dir()


def test_d07_nothing_that_the_build_needed_stays(lab: Lab) -> None:
    tree = trees.scanned(tree_of(lab, "-p", "mounts-1"))
    names = {os.fsdecode(path) for path in tree}
    # The base has none of these: they were made to mount on.
    assert not names & {"dev", "proc", "sys", "etc/resolv.conf", "etc/mtab"}
    with tarfile.open(lab.base) as archive:
        before = {member.name.removeprefix("./").rstrip("/") for member in archive} - {"."}
    assert names - before - {""} == {
        "etc/hello", "opt/local/mounts", "opt/local/dev", "opt/local/pkg/installed",
    }  # fmt: skip
    assert before - names == set()


def test_d08_network_steps_have_the_builds_own_proxy(lab: Lab) -> None:
    env = {
        "http_proxy": "http://localhost:localhost@localhost:3128/",
        "HTTPS_PROXY": "http://localhost:3129",
        "no_proxy": "internal",
    }
    root = tree_of_env(lab, env)
    got = dict(row.split("=", 1) for row in (root / "opt/local/env").read_text().splitlines() if "=" in row)
    # What is in the image goes through the build's proxy, and that through the host's.
    assert got["http_proxy"] == got["HTTPS_PROXY"] == "http://127.0.0.1:3128"
    assert got["no_proxy"] == ""


def tree_of_env(lab: Lab, env: dict[str, str]) -> Path:
    result = lab.built("-f", "tar", "-p", "env-1", env=env)
    return untarred(Path(result["files"][0]["path"]), lab.top / "tree")


def test_d09_a_link_under_an_outputs_name_is_replaced(lab: Lab) -> None:
    lab.out.mkdir()
    precious = lab.top / "precious"
    precious.write_text("x")
    for name in ("hello-1.0.0.oci.tar", "hello-1.0.0.imgmanifest", "hello-1.0.0.buildrecord.json"):
        (lab.out / name).symlink_to(precious)
    lab.built()
    assert precious.read_text() == "x"
    assert not any(path.is_symlink() for path in lab.out.iterdir())


def test_d09_a_slash_in_the_version_is_refused_before_any_work(lab: Lab) -> None:
    lab.manifest(version="1/0")
    done = lab.refused(2)
    assert "$.version" in done.stderr
    assert not lab.pool.exists()
    assert not lab.out.exists()


def test_d09_two_builds_of_one_name_do_not_mix_their_files(lab: Lab) -> None:
    """Two agents of a CI server with one workspace: the second waits, and every set of files is whole."""
    labs = [Lab(top=lab.top / str(number), base=lab.base) for number in range(2)]
    for other in labs:
        (other.proto / "etc/which").write_bytes(os.urandom(3 << 20))
    flags = ("-o", os.fspath(lab.out), "-f", "oci", "-f", "tar", "--no-cache")
    for _ in range(3):
        results = at_once(*(lambda other=other: other.built(*flags) for other in labs))
        assert len(results) == 2
        manifest = json.loads((lab.out / "hello-1.0.0.imgmanifest").read_bytes())
        record = json.loads((lab.out / "hello-1.0.0.buildrecord.json").read_bytes())
        assert manifest["uuid"] == record["uuid"]
        assert manifest["files"][0]["sha1"] == sha1(lab.out / "hello-1.0.0.oci.tar")
        for row in record["artifacts"]:
            assert row["sha256"] == sha256(Path(row["path"]))
    assert lab.leftovers() == []


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """Run jobs in threads; their results in the order of the jobs, or the first error."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def test_d10_nothing_appears_in_the_agents_root(lab: Lab) -> None:
    before = {name: sorted(os.listdir(name)) for name in ("/", "/mnt", "/var", "/home", "/srv")}
    lab.built("-p", "one-1")
    assert {name: sorted(os.listdir(name)) for name in before} == before


def test_d11_two_builds_at_once_in_one_pool_both_succeed(lab: Lab) -> None:
    """Both import the same base, want the same layer, and heal the pool when they begin."""
    labs = [Lab(top=lab.top / str(number), base=lab.base) for number in range(3)]
    for number, other in enumerate(labs):
        (other.proto / "etc/which").write_text(str(number))
    flags = ("--pool", lab.uri, "-p", "one-1", "--order", "packages-first")
    results: list[Done] = at_once(*(lambda other=other: other.build(*flags) for other in labs))
    for number, done in enumerate(results):
        assert done.status == 0, done.stderr
        assert untarred_member(Path(done.json["files"][0]["path"]), "etc/which") == str(number).encode()
    states = sorted(step(done.json, "packages")["state"] for done in results)
    assert states == ["reuse", "reuse", "run"], "the layer is made once"
    assert len(list((lab.pool / "image").iterdir())) == 1
    assert lab.leftovers() == []


def image_tree(lab: Lab) -> Path:
    (found,) = (lab.pool / "image").iterdir()
    return found / "tree"


def test_d12_a_base_that_was_touched_is_not_used(lab: Lab) -> None:
    lab.built()
    good = (image_tree(lab) / "etc/passwd").read_bytes()
    (image_tree(lab) / "etc/passwd").write_text("evil:x:0:0::/:/bin/sh\n")
    done = lab.build("--no-cache")
    assert done.status == 0, done.stderr
    assert "etc/passwd" in done.stderr
    assert "imported again" in done.stderr
    assert (image_tree(lab) / "etc/passwd").read_bytes() == good


def test_d12_a_base_that_was_only_looked_at_by_a_writer_is_proved_again(lab: Lab) -> None:
    lab.built()
    os.utime(image_tree(lab) / "etc/passwd")
    assert "hashing it again" in lab.build("--no-cache").stderr
    assert "hashing it again" not in lab.build("--no-cache").stderr


def test_d12_a_stored_layer_that_was_damaged_is_not_shipped(lab: Lab) -> None:
    lab.built(env={"SOURCE_DATE_EPOCH": str(EPOCH)})
    blobs = [
        path
        for path in (lab.pool / "state/blobs").iterdir()
        if path.suffix == "" and path.stat().st_size > 100_000
    ]
    for path in blobs:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    assert blobs
    first = lab.outputs()["hello-1.0.0.oci.tar"]
    (lab.out / "hello-1.0.0.oci.tar").unlink()
    done = lab.build(env={"SOURCE_DATE_EPOCH": str(EPOCH)})
    assert done.status == 0, done.stderr
    assert "damaged; it is made again" in done.stderr
    assert lab.outputs()["hello-1.0.0.oci.tar"][1] == first[1]


BAD = {
    "a bad name": ({"name": "-bad/name"}, (), "$.name"),
    "a stray field": ({"stray": 1}, (), "$.stray"),
    "a setting outside of build": ({"packages": ["a"]}, (), "$.build.packages"),
    "a stray setting": ({"build": {"pakages": []}}, (), "packages"),
    "a package like an option": ({"build": {"packages": ["ok", "-rf"]}}, (), "$.build.packages[1]"),
    "a package like an option on the command line": ({}, ("-p", "ok,-rf"), "--packages"),
    "an empty package": ({}, ("-p", "ok,,other"), "--packages"),
    "a version with a slash": ({"version": "a/b"}, (), "$.version"),
    "an unknown format": ({}, ("-f", "ocy"), "oci"),
    "an unknown compression": ({}, ("-c", "lzma"), "--compression"),
    "an unknown installer": ({}, ("--installer", "atp"), "apt"),
    "an unknown order": ({}, ("--order", "x"), "--order"),
    "a motd without a source": ({}, ("-M",), "-S"),
    "an unknown cleaner": ({}, ("--clean", "lgos"), "logs"),
}


@pytest.mark.parametrize(("fields", "flags", "told"), BAD.values(), ids=BAD)
def test_d13_bad_input_is_refused_before_anything_is_touched(
    lab: Lab, fields: dict[str, Any], flags: tuple[str, ...], told: str
) -> None:
    lab.manifest(**fields)
    done = lab.refused(2, *flags)
    assert told in done.stderr
    assert not lab.pool.exists()
    assert not lab.out.exists()


def test_d13_what_only_the_format_knows_is_refused_too(lab: Lab) -> None:
    done = lab.refused(2, "-f", "oci", "-c", "bzip2")
    assert "bzip2" in done.stderr


def test_d14_the_bases_requirements_are_kept(lab: Lab) -> None:
    lab.built()
    (path,) = (lab.pool / "state/images").glob("*.json")
    record = sealed.read(path)
    record["manifest"]["requirements"] = {
        "networks": [{"name": "net0", "description": "public"}],
        "ssh_key": True,
    }
    sealed.write(path, record)
    manifest = json.loads(Path(lab.built("--no-cache")["manifest"]).read_bytes())
    assert manifest["requirements"]["ssh_key"] is True
    assert manifest["requirements"]["networks"] == [{"name": "net0", "description": "public"}]
    assert "min_platform" not in manifest["requirements"], "the agent's platform says nothing of the image"


def test_d15_the_motd(lab: Lab) -> None:
    (lab.proto / "etc").chmod(0o755)
    root = tree_of(lab, "-M", "-S", "https://git.example/hello")
    assert (root / "etc/motd").read_text() == (
        "\n =  B U I L D S T E P  =\n\n    hello (1.0.0)\n    https://git.example/hello\n    base@0\n\n"
    )
    bare = Lab(top=lab.top / "bare", base=lab.base)
    shutil.rmtree(bare.proto / "etc")
    result = bare.built("-i", "scratch", "-f", "tar", "-M", "-S", "x")
    assert (untarred(Path(result["files"][0]["path"]), bare.top / "tree") / "etc/motd").exists()


def test_d17_the_prefix_is_optional_and_packages_are_recorded(lab: Lab) -> None:
    record = json.loads(Path(lab.built("-p", "one-1.0")["record"]).read_bytes())
    assert record["packages"][0]["name"] == "one"
    result = lab.built("-P", "hello-zfs")
    assert Path(result["manifest"]).name == "hello-zfs-1.0.0.imgmanifest"


def test_d18_no_token_of_the_agent_reaches_a_package_script(lab: Lab) -> None:
    env = {"GITHUB_TOKEN": "secret-one", "AWS_SECRET_ACCESS_KEY": "secret-two", "MY_SETTING": "secret-three"}
    root = tree_of_env(lab, env)
    text = (root / "opt/local/env").read_text()
    assert "secret-" not in text
    assert "PATH=" in text
    found = dict(row.split("=", 1) for row in text.splitlines())
    proxies = {name for name in found if name.lower().endswith("_proxy")}
    assert {found[name] for name in proxies} <= {"", "http://127.0.0.1:3128"}, "the sandbox's own loopback"
    assert found.keys() - proxies <= {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LC_ALL",
        "TERM",
        "PWD",
        "SHLVL",
        "OLDPWD",
        "_",
    }


def test_d19_a_private_dev_and_no_mount_of_the_agent(lab: Lab) -> None:
    root = tree_of(lab, "-p", "mounts-1")
    nodes = {row.split()[-1] for row in (root / "opt/local/dev").read_text().splitlines()}
    assert {"null", "zero", "urandom"} <= nodes
    assert not nodes & {"vda", "sda", "mem", "kmsg", "loop0", "kvm", "fuse"}
    points = {row.split()[1] for row in (root / "opt/local/mounts").read_text().splitlines()}
    assert "/proc" in points
    assert not any(os.fspath(lab.top) in point for point in points)


@pytest.mark.parametrize("which", ["command", "idle"])
def test_d20_a_package_that_hangs_is_ended(lab: Lab, which: str) -> None:
    lab.manifest(build={"timeouts": {which: 1}})
    begin = time.monotonic()
    lab.refused(12, "-p", "hang-1")
    assert time.monotonic() - begin < 15
    assert none_left(os.fspath(lab.top)) == []


def test_d21_several_kinds_of_base(lab: Lab) -> None:
    """One hard-wired source in the original; here also what a build wrote, and what the store has."""
    first = lab.built("-f", "tar", "-f", "oci")
    (uuid,) = (path.stem for path in (lab.pool / "state/images").glob("*.json"))
    for number, row in enumerate(first["files"]):
        scheme = {"oci": "oci", "tar": "tar"}[row["format"]]
        second = Lab(top=lab.top / str(number), base=lab.base)
        assert second.built("-i", f"{scheme}:{row['path']}")["tree_digest"] == first["tree_digest"]
    for ref in (uuid, "base@0"):
        assert step(lab.built("--no-cache", "-i", ref), "import")["state"] == "reuse"


def test_d22_heal_takes_only_what_is_ours(lab: Lab) -> None:
    """The original's clean-up destroys whatever has "zoneproto" in its name, a neighbour's live build too."""
    lab.built()
    other = lab.top / "zoneproto-1234"
    other.mkdir()
    (other / "file").write_text("a neighbour's")
    dead = lab.pool / "build" / "20200101T000000-00000000-1"
    (dead / "upper").mkdir(parents=True)
    (dead / "upper/link").symlink_to(other)
    (left,) = lab.heal()
    assert left["name"] == dead.name
    assert (other / "file").exists()
    assert lab.heal() == []


def test_d23_the_program_can_be_started_again_and_again(lab: Lab) -> None:
    for _ in range(2):
        done = lab.run([os.fspath(REPOSITORY / "bin/buildstep"), "--version"])
        assert done.status == 0, done.stderr
        assert done.stdout.startswith("buildstep, version")


# -- a full disk --------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system on a loop device, for as long as the block runs."""
    image = folder.with_suffix(".img")
    with image.open("wb") as stream:
        stream.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", os.fspath(image)], check=True, capture_output=True)
    folder.mkdir()
    subprocess.run(["mount", "-o", "loop", os.fspath(image), os.fspath(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", os.fspath(folder)], check=True)


@contextmanager
def small_tmpfs(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", os.fspath(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", os.fspath(folder)], check=True)


@pytest.mark.parametrize("form", ["oci", "tar"])
def test_d25_a_full_output_directory(lab: Lab, form: str) -> None:
    (lab.proto / "big").write_bytes(os.urandom(8 << 20))
    with small_tmpfs(lab.out, "4m"):
        (lab.out / "earlier").write_text("x")
        done = lab.refused(6, "-f", form)
        assert "No space left on device" in done.stderr
        assert f"{lab.out} (output directory)" in done.stderr
        assert [path.name for path in lab.out.iterdir()] == ["earlier"]


@pytest.mark.parametrize(
    ("size", "flags"),
    [(2, ()), (8, ("-p", "fill-1")), (8, ()), (7, ("--format", "oci"))],
    ids=["while importing", "while installing", "while copying", "while compressing"],
)
def test_a_full_pool(lab: Lab, size: int, flags: tuple[str, ...]) -> None:
    demand("mkfs.ext4")
    if "-p" not in flags:
        (lab.proto / "big").write_bytes(os.urandom(8 << 20))
    with small_disk(lab.top / "disk", size) as disk:
        lab.environ.update(PLAIN)
        done = lab.build("--pool", f"overlay:{disk}/pool", *flags)
        assert done.status == 6, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert lab.outputs() == {}
        pool = disk / "pool"
        assert list((pool / "build").glob("*")) == []
        assert list((pool / "state/journal").glob("*")) == []
        assert list((pool / "state").rglob("*.part")) == []


def test_earlier_outputs_stay_whole_when_a_build_fails(lab: Lab) -> None:
    """They are the earlier build's, to the byte and to their times: nothing can be taken for new."""
    lab.built()
    before = lab.outputs()
    assert len(before) == 4
    lab.refused(12, "-p", "fail-1")
    (lab.proto / "etc/.wh.x").write_text("")
    lab.refused(14)
    assert lab.outputs() == before


def test_a_format_that_is_no_longer_asked_for_does_not_stay_beside_the_new_manifest(lab: Lab) -> None:
    lab.built("-f", "oci", "-f", "tar")
    (lab.proto / "etc/hello").write_text("new\n")
    lab.built("-f", "oci")
    assert "hello-1.0.0.oci.tar" in lab.outputs()
    assert "hello-1.0.0.tar.zst" not in lab.outputs()


# -- the store and the cache ----------------------------------------------------------------------------------


def test_d27_a_damaged_record_is_no_image(lab: Lab) -> None:
    lab.built()
    (path,) = (lab.pool / "state/images").glob("*.json")
    path.write_text("{")
    result = lab.built("--no-cache")
    assert step(result, "import")["state"] == "run"
    assert len(list((lab.pool / "image").iterdir())) == 1


def test_a_layer_of_a_dead_build_is_made_again(lab: Lab) -> None:
    """A build can die between keeping a layer's tree and writing its record, or the agent can reboot."""
    flags = ("-p", "one-1", "--order", "packages-first")
    first = lab.built(*flags)
    (record,) = (lab.pool / "state/layers").glob("*.json")
    breaks: tuple[Callable[[], None], ...] = (record.unlink, lambda: outdate(lab))
    for spoil in breaks:
        spoil()
        (lab.proto / "etc/hello").write_text(f"{time.monotonic()}\n")
        again = lab.built(*flags)
        assert step(again, "packages")["state"] == "run"
        (lab.proto / "etc/hello").write_text("hello\n")
        back = lab.built(*flags)
        assert step(back, "packages")["state"] == "reuse"
        assert back["tree_digest"] == first["tree_digest"]


def outdate(lab: Lab) -> None:
    (origin,) = (lab.pool / "layer").glob("*/origin.json")
    origin.write_text(json.dumps({**json.loads(origin.read_bytes()), "boot": "another"}))


def test_keep_on_failure_keeps_and_heal_kept_removes(lab: Lab) -> None:
    done = lab.build("--keep-on-failure", "-p", "one-1,fail-1")
    assert done.status == 12
    (kept,) = (lab.pool / "build").iterdir()
    assert os.fspath(kept) in done.stderr, "it is told where"
    assert lab.leftovers() == []
    lab.built()
    assert kept.exists(), "the next build's heal passes it by"
    assert lab.heal() == []
    (left,) = lab.heal("--kept")
    assert left["removed"]
    assert not kept.exists()
    lab.built("--keep-on-failure")
    assert list((lab.pool / "build").iterdir()) == [], "success always cleans"
