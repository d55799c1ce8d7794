"""Builds that go on from what earlier ones left, whatever came between: always what a build without it makes."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.build import context, kept
from buildstep.build.execute import execute
from buildstep.build.plan import plan as plan_build
from buildstep.cache import prune
from buildstep.emit import chunk_reuse
from buildstep.emit.chunk_reuse import LayerFromChunks, ReusableChunks
from buildstep.emit.interface import ArchiveStyle, Blob
from buildstep.errors import BuildstepError
from buildstep.events import Bus
from buildstep.formats import codecs
from buildstep.formats.codecs import Codec
from buildstep.images.store import ImageRecord
from buildstep.pool.interface import Dataset
from buildstep.spec.check_rules import RULES
from buildstep.system.digest import sha256_file
from buildstep.system.root import Root
from buildstep.tree import hashing
from buildstep.tree import proto as tree_proto
from buildstep.tree import scan as tree_scan
from buildstep.tree.diff import diff
from buildstep.tree.proto import ProtoDir, scan_proto
from buildstep.tree.stat_index import StatIndex
from tests.integration import pools
from tests.integration.conftest import demand
from tests.integration.yard import EPOCH, Outcome, Yard, environment, tiny_base, unpacked
from tests.unit.written_layers import save_chunks, write_layer

pytestmark = pytest.mark.usefixtures("capable", "small")

STYLE = ArchiveStyle(epoch=EPOCH, sparse=True)

Private = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def capable() -> None:
    demand("root", "namespaces", "overlay", "rsync")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base.tar")


def settle() -> None:
    """Let files grow older than the clock's grain."""
    time.sleep(0.03)


UNCHECKED = {"rules": dict.fromkeys(RULES, "off")}
"""Trees made by chance keep no rule."""


def yard(top: Path, base: Path, name: str = "warm", *, out: str = "", **build: Any) -> Yard:
    (top / "proto").mkdir(exist_ok=True)
    return Yard(
        pool=f"overlay:{top / name}-pool", out=top / f"{out or name}-out", proto=top / "proto", base=base,
        formats=("oci",), build={"checks": UNCHECKED, **build},
    )  # fmt: skip


def cold(top: Path, base: Path, **build: Any) -> Outcome:
    """What a build makes that uses nothing."""
    return yard(top, base, "anew", **build).run(cache=False)


def many(proto: Path, count: int = 120, size: int = 2000) -> None:
    rng = random.Random(3)
    for number in range(count):
        path = proto / f"d{number % 7}/f{number:03}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(size))


def odd(proto: Path) -> None:
    """What is easily got wrong."""
    pools.fill(proto)
    (proto / "d1" / ("n" * 150)).write_bytes(b"a long name" * 300)
    (proto / os.fsdecode(b"d2/\xff\xfe")).write_bytes(b"no UTF-8" * 300)
    with (proto / "d3/sparse").open("wb") as stream:
        stream.write(b"x" * 70_000)
        stream.seek(300_000)
        stream.write(b"x" * 70_000)
    os.utime(proto / "d4/f004", ns=(0, -5_250_000_000))
    (proto / "d5/none").touch()
    (proto / "usr/bin").mkdir(parents=True)
    (proto / "usr/bin/behind").write_bytes(b"the base has a link here" * 90)
    (proto / "bin/before").write_bytes(b"of another folder" * 90)


def plain_files(proto: Path) -> list[Path]:
    found = sorted(path for path in proto.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in found if path.stat().st_nlink == 1]


MANIFESTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "owners": ({"owner": {"d1/**": "keep", "d2/*": "5:6", "*": "0:0"}}, {}),
    "fewer": ({"exclude": ["*3", "/d6/"], "motd": True, "source_repo": "r", "compression": "zstd"}, {}),
    "earlier": ({"compression": "none"}, {"epoch": EPOCH - 3}),
    "two": ({"formats": ["tar", "oci"]}, {}),
    "no cache": ({}, {"cache": False}),
}
TOLD = ("files_added", "packages", "entropy", "layers", "audit", "tree_digest", "uuid")
"""What a record has of the image; how the build went is another matter."""


def test_manifests_take_turns_on_one_directory(tmp_path: Path, base: Path, private: Private) -> None:
    """One pool and one index for all of them; the records are as complete as a whole build's."""

    def job() -> None:
        rng = random.Random(2)
        proto = yard(tmp_path, base).proto
        many(proto)
        odd(proto)
        amended = 0
        turns = ["plain", "plain", *MANIFESTS, "plain", "fewer", "fewer"]
        for step, name in enumerate(turns):
            for path in rng.sample(plain_files(proto), 2 if step else 0):
                sizes = [0, 100, 15_872, 16_384, 65_535, 65_536, 65_537]
                path.write_bytes(rng.randbytes(rng.choice(sizes)))
            if step % 3 == 1:
                os.utime(proto / "d2", (EPOCH - step, EPOCH - step))
            settle()
            build, flags = MANIFESTS[name]
            warm = yard(tmp_path, base, out=name, **build)
            done = warm.run(**flags)
            anew = yard(tmp_path, base, "anew", **build)
            assert done.same == anew.run(**{**flags, "cache": False}).same, (step, name, done.error)
            assert not done.error
            amended += "changed since" in done.reasons()
            one, two = warm.record, anew.record
            assert {key: one[key] for key in TOLD} == {key: two[key] for key in TOLD}
            assert one.keys() == two.keys()
            for key in ("files", "bytes", "direct"):
                assert one["inputs"]["proto"][key] == two["inputs"]["proto"][key]
            if "changed since" in done.reasons():
                assert len(one["inputs"]["proto"]["changed"]) >= 2
        assert amended >= 2

    private(job)


@pytest.mark.parametrize(
    ("harm", "fails"),
    [
        ("content", True), ("size", True), ("gone", True), ("link", True), ("pruned", False),
        ("mode", True), ("index", False), ("tree", False),
    ],
)  # fmt: skip
def test_between_the_plan_and_the_build(
    tmp_path: Path, base: Path, private: Private, *, harm: str, fails: bool
) -> None:
    """A file that is not what was planned with is not shipped, and the next builds are right."""

    def job() -> None:
        warm = yard(tmp_path, base)
        many(warm.proto)
        settle()
        warm.run()
        file, state = warm.proto / "d1/f001", tmp_path / "warm-pool/state"
        file.write_bytes(b"a" * 2000)
        settle()
        environ, bus = environment(EPOCH), Bus()
        store, cache = warm.open(bus, environ)
        plan = plan_build(warm.spec(environ), store, cache, environ=environ)
        assert plan.update is not None
        if harm in ("content", "size"):
            file.write_bytes(b"b" * (2000 if harm == "content" else 70_000))
        elif harm in ("gone", "link"):
            file.rename(warm.proto / "d1/other")
            if harm == "link":
                file.symlink_to("other")
        elif harm == "mode":
            file.chmod(0o600)
        elif harm == "pruned":
            prune.prune(cache)
        else:
            for path in state.glob("index/*.idx" if harm == "index" else "artifacts/tree-*"):
                path.unlink()
        shipped = (warm.out / "hello-1.0.0.oci.tar").read_bytes()
        try:
            execute(plan, store=store, cache=cache, bus=bus, environ=environ)
            failed = False
        except BuildstepError:
            failed = True
            assert (warm.out / "hello-1.0.0.oci.tar").read_bytes() == shipped
        assert failed == fails
        for text in (b"", b"again"):
            if text:
                file.unlink(missing_ok=True)
                file.write_bytes(text)
            settle()
            assert warm.run().same == cold(tmp_path, base).same
        assert kept.verify(cache.backend, mend=True) == []

    private(job)


def test_notes_that_are_lost_or_from_another_time(tmp_path: Path, base: Path, private: Private) -> None:
    """Indexes, trees, outputs' notes and tables of parts that went, or came back from before."""

    def job() -> None:
        rng = random.Random(1)
        warm = yard(tmp_path, base)
        many(warm.proto)
        settle()
        warm.run()
        state = tmp_path / "warm-pool/state"
        kinds = ("index/*.idx", "artifacts/tree-*", "artifacts/*.json", "blobs/*.last", "blobs/*.parts")
        old = {path: path.read_bytes() for kind in kinds for path in state.glob(kind)}
        for step in range(12):
            file = warm.proto / f"d{step % 7}/f{step:03}"
            file.write_bytes(rng.randbytes(rng.choice([10, 2000, 16_000, 70_000])))
            if step % 4 == 3:
                (warm.proto / f"d{step % 7}/f{step + 7:03}").unlink()
                os.utime(file, ns=(0, -1_500_000_001))
            if step % 5:
                settle()
            paths = list(state.glob(kinds[step % len(kinds)]))
            for path in paths:
                if step % 2:
                    path.unlink()
                elif path in old:
                    path.write_bytes(old[path])
            done = warm.run()
            assert not done.error
            assert done.same == cold(tmp_path, base).same, f"step {step}"

    private(job)


def test_what_the_base_has_as_well(tmp_path: Path, base: Path, private: Private) -> None:
    """Files that become what the base has, and another again; a tree that is cut, is not, and is again."""

    def job() -> None:
        warm = yard(tmp_path, base)
        many(warm.proto)
        for name in ("etc", "opt", "bin"):
            (warm.proto / name).mkdir()
        (warm.proto / "opt/stays").write_bytes(b"x")
        os.link(warm.proto / "opt/stays", warm.proto / "opt/linked")
        for name, text in (
            ("etc/conf", "other\n"), ("etc/conf", "of the base\n"), ("etc/conf", "third\n"),
            ("bin/tool", "newer\n"), ("opt/stays", "through another name\n"), ("d1/f001", "x" * 70_000),
            ("d1/f001", ""),
        ):  # fmt: skip
            (warm.proto / name).write_text(text)
            settle()
            done = warm.run()
            assert not done.error
            assert done.same == cold(tmp_path, base).same, (name, text)
        for size in (0, 50):
            for number in range(120):
                (warm.proto / f"d{number % 7}/f{number:03}").write_bytes(b"z" * number * size)
            for text in ("a", "b"):
                (warm.proto / "d1/f001").write_text(text)
                settle()
                assert warm.run().same == cold(tmp_path, base).same

    private(job)


def test_what_takes_the_place_of_something_in_the_base(tmp_path: Path, base: Path, private: Private) -> None:
    """A directory that a file replaces and the other way round, changed again and again, and given up."""

    def job() -> None:
        rules = ["/var/lib", "/etc/conf", "/usr/bin/t*"]
        warm = yard(tmp_path, base, replace=rules)
        many(warm.proto)
        for name in ("var", "etc/conf", "bin/tool"):
            (warm.proto / name).mkdir(parents=True)
        (warm.proto / "var/lib").write_bytes(b"a directory with content in the base" * 90)
        updates = 0
        for name, text in (
            ("etc/conf/part", "1\n" * 900), ("bin/tool/twin", "2"), ("etc/conf/part", "3\n" * 900),
            ("var/lib", "still a file\n" * 200), ("d1/f001", "x" * 2000), ("bin/tool/twin", "4\n" * 900),
        ):  # fmt: skip
            (warm.proto / name).write_text(text)
            settle()
            done = warm.run()
            assert not done.error, done.error
            assert done.same == cold(tmp_path, base, replace=rules).same, (name, text)
            updates += "only the content of" in done.reasons()
            assert "replace" in [row["cleaner"] for row in warm.record["cleaned"]]
        assert updates  # a part of the tree has what a hard link of the base leaves: that is made anew
        assert unpacked(warm.out / "hello-1.0.0.oci.tar", tmp_path / "umoci") == done.tree
        shipped = warm.record
        refused = yard(tmp_path, base).run()  # the same outputs, without the rules
        assert refused.error.startswith(
            "UsageError: the proto directory does not fit on tar:base.tar: 3 conflicts"
        )
        assert warm.record == shipped
        for name in ("etc/conf", "bin/tool"):
            shutil.rmtree(warm.proto / name)
        (warm.proto / "var/lib").unlink()
        assert yard(tmp_path, base).run().same == cold(tmp_path, base).same

    private(job)


def test_a_root_in_a_folder_of_the_tree(
    tmp_path: Path, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zone's image: the proto's own root/ is not the zone's."""
    zone = tmp_path / "zone.tar"
    with tarfile.open(zone, "w") as tar:
        for name in (".", "root", "root/etc", "root/usr", "root/usr/bin", "config", "root/bin"):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, EPOCH
            if name == "root/bin":
                member.type, member.linkname = tarfile.SYMTYPE, "usr/bin"
            tar.addfile(member)

    def image_root(dataset: Dataset, _image: ImageRecord) -> Root:
        return Root(dataset.path / "root")

    monkeypatch.setattr(context, "image_root", image_root)

    def job() -> None:
        warm = yard(tmp_path, zone)
        many(warm.proto)
        for name in ("root", "bin", "root/d1"):
            (warm.proto / name).mkdir()
            (warm.proto / name / "f001").write_text(name)
        settle()
        warm.run()
        for name in ("bin/f001", "root/d1/f001", "d1/f001"):
            (warm.proto / name).write_text(f"new {name}")
            settle()
            done = warm.run()
            assert done.same == cold(tmp_path, zone).same
            assert "changed since" in done.reasons()

    private(job)


def test_builds_beside_each_other(tmp_path: Path, base: Path, private: Private) -> None:
    """Two of one name and one of another, on one directory and in one pool."""

    def job() -> None:
        proto = yard(tmp_path, base).proto
        many(proto)
        rng = random.Random(1)
        for _step in range(3):
            for path in rng.sample(plain_files(proto), 3):
                path.write_bytes(rng.randbytes(2000))
            settle()
            children = []
            for out in ("a", "b", "a"):
                child = os.fork()
                if not child:
                    os._exit(bool(yard(tmp_path, base, out=out).run().error))
                children.append(child)
            assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
            expected = cold(tmp_path, base).same
            for out in ("a", "b"):
                assert yard(tmp_path, base, out=out).run().same == expected
        _, cache = yard(tmp_path, base).open(Bus(), {})
        assert kept.verify(cache.backend, mend=True) == []

    private(job)


def test_nothing_stays_open(tmp_path: Path, base: Path, private: Private) -> None:
    def job() -> None:
        warm = yard(tmp_path, base)
        many(warm.proto)
        settle()
        warm.run()
        warm.run()
        there = len(os.listdir("/proc/self/fd"))
        for number in range(3):
            (warm.proto / "d1/f001").write_bytes(b"x" * number)
            settle()
            assert "changed since" in warm.run().reasons()
        assert len(os.listdir("/proc/self/fd")) == there

    private(job)


# -- what went wrong once ----------------------------------------------------------------------------------


def test_a_proto_directory_given_by_a_link(tmp_path: Path, base: Path, private: Private) -> None:
    """The first build of it, where find makes the lines, is not empty."""

    def job() -> None:
        warm = yard(tmp_path, base)
        many(warm.proto, 5)
        expected = cold(tmp_path, base)
        (tmp_path / "link").symlink_to("proto")
        warm.proto = tmp_path / "link"
        assert warm.run().same == expected.same

    private(job)


def test_what_an_overlaid_file_of_the_base_was_linked_to(
    tmp_path: Path, base: Path, private: Private
) -> None:
    """The proto has one name of a group of the base, with the same content and another mode."""

    def job() -> None:
        warm = yard(tmp_path, base)
        many(warm.proto)
        (warm.proto / "bin").mkdir()
        (warm.proto / "bin/tool").write_text("other")
        settle()
        warm.run()
        (warm.proto / "bin/tool").write_text("tool of the base")
        (warm.proto / "bin/tool").chmod(0o700)
        settle()
        assert warm.run().same == cold(tmp_path, base).same

    private(job)


def test_two_builds_that_note_what_they_saw(tmp_path: Path) -> None:
    """The index was written anew in between, to the same length."""
    proto = tmp_path / "proto"
    proto.mkdir()

    def write(begin: int, end: int, text: str) -> None:
        for number in range(begin, end):
            (proto / f"f{number:02}").write_text(text)
        settle()

    index = StatIndex(tmp_path / "state", proto)

    def note(scan: ProtoDir) -> None:
        scan.read_all()
        scan.digest(owners=False, epoch=EPOCH)
        scan.save(index)

    write(0, 40, "one")
    for text in ("one", "aaa", "bbb"):
        write(10, 20, text)
        note(scan_proto(proto, index=index))
    write(0, 1, "two")
    early = scan_proto(proto, index=index)
    write(10, 20, "ccc")
    note(scan_proto(proto, index=index))
    note(early)
    settle()
    found, anew = scan_proto(proto, index=index), scan_proto(proto)
    for scan in (found, anew):
        scan.read_all()
    assert found.digest(owners=False, epoch=EPOCH) == anew.digest(owners=False, epoch=EPOCH)


def layer(root: Path, path: Path, chosen: Codec, *, old: ReusableChunks | None = None) -> Blob:
    entries = tree_scan.scan(root)
    hashing.hash_entries(root, entries.values())
    hashing.spread_digests(entries)
    whole = diff({}, entries)
    rows = [chunk_reuse.layer_line(entry, STYLE) for entry in whole.entries]
    reuse = LayerFromChunks(old, root, whole.entries, rows, style=STYLE) if old else None
    blob, stream = write_layer(root, whole, path, codec=chosen, style=STYLE, bus=Bus(), reuse=reuse)
    found = chunk_reuse.table(stream, list(whole.entries), rows)
    save_chunks(path.with_suffix(".parts"), found)
    return blob


def again(tmp_path: Path, root: Path, change: Callable[[], object]) -> Path:
    """A layer from the parts of the one before a change; it is the one made without them."""
    chosen = replace(codecs.codec("gzip"), grain=1 << 10)
    first = tmp_path / "first"
    layer(root, first, chosen)
    change()
    old = ReusableChunks([(first, first.with_suffix(".parts"), sha256_file(first))], chosen)
    warm, anew = tmp_path / "warm", layer(root, tmp_path / "anew", chosen)
    try:
        assert layer(root, warm, chosen, old=old).digest == anew.digest
    finally:
        old.close()
    return warm


@pytest.mark.parametrize("change", ["before", "after", "grown"])
def test_an_end_that_is_in_two_parts(tmp_path: Path, change: str) -> None:
    """The last part of whole entries has no place for all of the archive's end."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "c").write_bytes(random.Random(1).randbytes(7168))
    name = {"before": "b", "after": "d", "grown": "c"}[change]
    warm = again(tmp_path, root, lambda: (root / name).write_bytes(bytes(9000)))
    with tarfile.open(warm) as tar:
        assert "c" in tar.getnames()


@pytest.mark.parametrize(("name", "size"), [("b", 7424), ("z", 6912)])
def test_a_large_file_in_one_part(tmp_path: Path, name: str, size: int) -> None:
    """Its header is of several blocks, and only with it is it larger than a part."""
    root = tmp_path / "root"
    root.mkdir()
    for other in "ac":
        (root / other).write_bytes(bytes(500))
    (root / name).write_bytes(random.Random(1).randbytes(size))
    os.setxattr(root / name, "user.x", b"y")
    again(tmp_path, root, lambda: (root / "c").write_bytes(bytes(700)))


def test_owners_that_need_a_longer_header(tmp_path: Path, base: Path, private: Private) -> None:
    def job() -> None:
        warm = yard(tmp_path, base, owner="keep")
        many(warm.proto)
        for path in warm.proto.rglob("f*"):
            os.chown(path, 3_000_000, 3_000_000)
        for number in range(4):
            (warm.proto / f"d{number}/f{number:03}").write_bytes(b"other" * 50)
            settle()
            assert warm.run().same == cold(tmp_path, base, owner="keep").same

    private(job)


def test_sockets_among_the_entries_of_a_part(tmp_path: Path, base: Path, private: Private) -> None:
    def job() -> None:
        warm = yard(tmp_path, base)
        many(warm.proto)
        for number in range(35):
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(os.fspath(warm.proto / f"d{number % 7}/f{number:03}s"))
        for number in range(4):
            (warm.proto / f"d{number}/f{number:03}").write_bytes(b"other" * 50)
            settle()
            assert warm.run().same == cold(tmp_path, base).same

    private(job)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("over", ["motd", "two"])
def test_files_that_come_to_be_covered(
    tmp_path: Path, base: Path, private: Private, monkeypatch: pytest.MonkeyPatch, *, over: str, cache: bool
) -> None:
    """By the message of the day, or by another path that goes to the same place."""
    monkeypatch.setattr(tree_proto, "FEW_FILES", 3)

    def job() -> None:
        build: dict[str, Any] = {"motd": True, "source_repo": "here"} if over == "motd" else {}
        warm = yard(tmp_path, base, **build)
        many(warm.proto)
        for name in ("etc/motd",) if over == "motd" else ("bin/x", "usr/bin/x"):
            (warm.proto / name).parent.mkdir(parents=True)
            (warm.proto / name).write_text(name)
        assert not warm.run(cache=cache).error

    private(job)


def test_a_message_of_the_day_in_a_zone(
    tmp_path: Path, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = tmp_path / "zone.tar"
    with tarfile.open(zone, "w") as tar:
        for name in (".", "root", "root/etc", "config"):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, EPOCH
            tar.addfile(member)

    def image_root(dataset: Dataset, _image: ImageRecord) -> Root:
        return Root(dataset.path / "root")

    monkeypatch.setattr(context, "image_root", image_root)

    def job() -> None:
        warm = yard(tmp_path, zone, motd=True, source_repo="here")
        (warm.proto / "etc").mkdir()
        (warm.proto / "etc/motd").write_text("of the proto")
        direct = warm.run()
        assert (
            direct.same == yard(tmp_path, zone, "plain", motd=True, source_repo="here").run(plain=True).same
        )

    private(job)
