"""What is reused gives what is made anew, byte for byte; what is missed is told; what is damaged is not used."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.build import kept
from buildstep.build.execute import execute
from buildstep.build.plan import plan as plan_build
from buildstep.cache import prune
from buildstep.cache.blob_files import BlobRecord
from buildstep.cli.choices import choices
from buildstep.emit import split_layer
from buildstep.events import Bus
from buildstep.formats import codecs
from buildstep.pool.heal import heal
from buildstep.spec import load as specs
from buildstep.spec.document import read_document
from buildstep.system import files as system_files
from buildstep.system import sealed
from buildstep.tree import proto as tree_proto
from tests.integration import pools
from tests.integration.conftest import demand
from tests.integration.support import Lab, write_base
from tests.integration.yard import EPOCH, Yard, differences, forget_outputs, tiny_base, unpacked

pytestmark = pytest.mark.usefixtures("capable")

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


def yard(top: Path, base: Path, name: str, scheme: str = "overlay", **more: Any) -> Yard:
    (top / "proto").mkdir(exist_ok=True)
    return Yard(
        pool=f"{scheme}:{top / name}-pool", out=top / f"{name}-out", proto=top / "proto", base=base, **more
    )


# -- the same bytes ------------------------------------------------------------------------------------------


def shuffle(rng: random.Random, proto: Path, step: int) -> None:
    """Random changes, and now and then one that moves much: a directory renamed, one removed, one copied."""
    pools.change(proto, rng.randrange(1 << 30), count=rng.choice([1, 3, 10]))
    folders = sorted(path for path in proto.iterdir() if path.is_dir() and not path.is_symlink())
    if not folders or rng.random() < 0.4:
        return
    folder = rng.choice(folders)
    act = rng.randrange(3)
    if act == 0:
        folder.rename(proto / f"moved{step}")
    elif act == 1:
        shutil.rmtree(folder)
    else:
        shutil.copytree(folder, proto / f"copy{step}", symlinks=True, ignore=_no_nodes)


def _no_nodes(folder: str, names: list[str]) -> list[str]:
    there = {name: Path(folder, name) for name in names}
    return [
        name for name, path in there.items()
        if not (path.is_symlink() or path.is_dir() or path.is_file())
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seed", "target"), [(1, 0), (2, 0), (3, 20_000), (4, 60_000), (5, 9_000), (6, 200_000)]
)
def test_every_way_gives_the_same_bytes(
    tmp_path: Path, base: Path, private: Private, monkeypatch: pytest.MonkeyPatch, seed: int, target: int
) -> None:
    """Warm, without a cache, copied in, on a pool of copies, and in a pool made for it: one artifact.

    target: the size of a layer, so that small trees are cut as large ones are.
    """
    demand("umoci")
    if target:
        monkeypatch.setattr(split_layer, "LAYER_TARGET", target)

    def job() -> None:
        rng = random.Random(seed)
        warm = yard(tmp_path, base, "warm")
        others: dict[str, tuple[Yard, dict[str, Any]]] = {
            "no cache": (yard(tmp_path, base, "anew"), {"cache": False}),
            "copied": (yard(tmp_path, base, "plain"), {"plain": True}),
            "dir": (yard(tmp_path, base, "dir", "dir"), {}),
        }
        pools.fill(warm.proto)
        cut = 0
        for step in range(6):
            if step:
                shuffle(rng, warm.proto, step)
            if rng.random() < 0.5:
                settle()
            first = warm.run()
            cut = max(cut, 0 if first.error else len(warm.record["layers"]))
            again = warm.run()
            assert again.same == first.same, f"step {step}: {again.error}"
            for name, (other, flags) in others.items():
                found = other.run(**flags)
                assert found.same == first.same, f"step {step}, {name}: {found.error or first.error}"
        if first.error:
            return
        fresh = yard(tmp_path, base, "fresh").run()
        assert fresh.same == first.same
        assert cut > 2 if target else cut <= 2
        assert unpacked(warm.out / "hello-1.0.0.oci.tar", tmp_path / "unpacked") == first.tree

    private(job)


def edit(rng: random.Random, proto: Path) -> None:
    """Other content for a few files: in place, or as editors and checkouts do it."""
    files = sorted(path for path in proto.rglob("*") if path.is_file() and not path.is_symlink())
    for path in rng.sample(files, rng.choice([1, 2, 7])):
        data = path.read_bytes() + rng.randbytes(rng.choice([0, 1, 3000])) if rng.random() < 0.8 else b""
        if rng.random() < 0.5:
            path.write_bytes(data)
            continue
        info, new = path.stat(), path.with_name(".new")
        new.write_bytes(data)
        new.chmod(info.st_mode & 0o7777)
        os.chown(new, info.st_uid, info.st_gid)
        for name in os.listxattr(path):
            os.setxattr(new, name, os.getxattr(path, name))
        new.rename(path)


@pytest.mark.parametrize(
    ("seed", "target", "grain"), [(1, 9_000, 1 << 10), (2, 30_000, 4 << 10), (3, 60_000, 0)]
)
def test_content_alone_is_put_into_the_last_tree(
    tmp_path: Path,
    base: Path,
    private: Private,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    target: int,
    grain: int,
) -> None:
    """Edits one after another, and now and then something else: always what a build without a cache makes.

    grain: of the parts of layers, so that small ones are cut as large ones are.
    """
    monkeypatch.setattr(split_layer, "LAYER_TARGET", target)
    gzip = codecs.codec("gzip")
    if grain:
        monkeypatch.setitem(codecs.CODECS, "gzip", lambda: replace(gzip, grain=grain))

    def job() -> None:
        rng = random.Random(seed)
        warm = yard(tmp_path, base, "warm", formats=("oci",))
        anew = yard(tmp_path, base, "anew", formats=("oci",))
        pools.fill(warm.proto)
        many(warm.proto)
        amended = reused = 0
        for step in range(14):
            if step and rng.random() < 0.2:
                shuffle(rng, warm.proto, step)
            elif step:
                edit(rng, warm.proto)
            if rng.random() < 0.8:
                settle()
            first = warm.run()
            assert first.same == anew.run(cache=False).same, f"step {step}: {first.error}"
            amended += "changed since" in first.reasons() and first.counts.get("layers_made", 0) > 0
            reused += first.counts.get("layers_reused", 0)
            if first.error:
                return
        assert amended >= 4
        assert reused or amended

    private(job)


def test_of_a_large_file_only_what_changed_is_compressed(
    tmp_path: Path, base: Path, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it changed and however, and whatever it is called; a stored piece that is damaged is not used."""
    monkeypatch.setattr(split_layer, "LAYER_TARGET", 1 << 20)

    def job() -> None:
        warm = yard(tmp_path, base, "warm", formats=("oci",))
        anew = yard(tmp_path, base, "anew", formats=("oci",))
        many(warm.proto, 50)
        data = random.Random(1).randbytes(12 << 20)
        middle, large = len(data) // 2, warm.proto / "large"
        large.write_bytes(data)
        warm.run()
        for content in (
            data[:middle] + b"inserted" + data[middle:],
            data[:middle] + bytes(1 << 20) + data[middle + (1 << 20) :],
            data[9:],
            data + b"appended",
        ):
            large.write_bytes(content)
            settle()
            done = warm.run()
            assert done.same == anew.run(cache=False).same, done.error
            assert done.counts["bytes_compressed"] < 5 << 20
            assert done.counts["bytes_of_known_pieces"] > 8 << 20
        large.rename(warm.proto / "renamed")
        done = warm.run()
        assert done.same == anew.run(cache=False).same, done.error
        assert done.counts["bytes_compressed"] < 1 << 20
        (stored,) = [
            path
            for path in (tmp_path / "warm-pool/state/blobs").iterdir()
            if not path.suffix and path.stat().st_size > 12 << 20 and "renamed" in lines_of(path)
        ]
        damaged = bytearray(stored.read_bytes())
        damaged[6 << 20] ^= 1
        stored.chmod(0o600)
        stored.write_bytes(damaged)
        (warm.proto / "renamed").write_bytes(data)
        settle()
        done = warm.run()
        assert done.same == anew.run(cache=False).same, done.error
        assert any("damaged" in note for note in done.notes)

    private(job)


def lines_of(path: Path) -> str:
    """The paths that a stored layer has, one to a line."""
    with tarfile.open(path) as archive:
        return "\n".join(archive.getnames())


@pytest.mark.parametrize("harm", ["tree", "layer", "parts", "part"])
def test_what_a_build_goes_on_from_is_damaged(
    tmp_path: Path, base: Path, private: Private, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """The next build is right all the same."""
    monkeypatch.setattr(split_layer, "LAYER_TARGET", 60_000)
    gzip = codecs.codec("gzip")
    monkeypatch.setitem(codecs.CODECS, "gzip", lambda: replace(gzip, grain=2 << 10))

    def job() -> None:
        rng = random.Random(harm)
        warm = yard(tmp_path, base, "warm", formats=("oci",))
        many(warm.proto)
        settle()
        assert not warm.run().error
        state = tmp_path / "warm-pool/state"
        for path in sorted((state / "blobs").iterdir()):
            if harm == "layer" and not path.suffix:
                path.unlink()
            elif (harm == "parts" and path.suffix == ".parts") or (harm == "part" and not path.suffix):
                data = bytearray(path.read_bytes())
                for _ in range(3):
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                path.write_bytes(data)
        if harm == "tree":
            (tree,) = (state / "artifacts").glob("tree-*")
            data = bytearray(tree.read_bytes())
            data[rng.randrange(len(data))] ^= 1
            tree.write_bytes(data)
        edit(rng, warm.proto)
        settle()
        first = warm.run()
        assert first.same == yard(tmp_path, base, "anew", formats=("oci",)).run().same

    private(job)


# -- every change has its name -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A change between two builds. told: what the plan says of it; why: what `buildstep why` does (the
    same, unless given); harmless: the outputs of the build before still stand."""

    act: Callable[[Yard], dict[str, Any] | None]
    told: str
    why: str = ""
    harmless: bool = False


def _write(name: str, text: str) -> Callable[[Yard], None]:
    return lambda yard: void((yard.proto / name).write_text(text))


def void(_value: object) -> None:
    return None


def _same_size(yard: Yard) -> None:
    (yard.proto / "etc/a").write_text("A\n")


def _set_back(yard: Yard) -> None:
    path = yard.proto / "etc/a"
    info = path.stat()
    path.write_text("@\n")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def _relink(yard: Yard) -> None:
    (yard.proto / "etc/link").unlink()
    (yard.proto / "etc/link").symlink_to("b")


def _to_directory(yard: Yard) -> None:
    (yard.proto / "etc/gone").unlink()
    (yard.proto / "etc/gone").mkdir()


def _replaced(yard: Yard) -> None:
    """Another inode with the same content, as an editor or a checkout leaves it."""
    path = yard.proto / "etc/b"
    path.with_name(".new").write_bytes(path.read_bytes())
    path.with_name(".new").rename(path)


def _there_and_back(yard: Yard) -> None:
    (yard.proto / "etc/a").chmod(0)
    (yard.proto / "etc/a").chmod(0o600)


def _options(**build: Any) -> Callable[[Yard], None]:
    return lambda yard: void(yard.build.update(build))


def _fields(**document: Any) -> Callable[[Yard], None]:
    return lambda yard: void(yard.document.update(document))


def _backwards(yard: Yard) -> None:
    yard.build = dict(reversed(yard.build.items()))
    yard.document = dict(reversed(yard.document.items()))


CHANGES: dict[str, Change] = {
    "content": Change(_write("etc/a", "longer\n"), "etc/a (content (2 -> 7 bytes))"),
    "content of the same size": Change(_same_size, "etc/a (content (7 -> 2 bytes))"),
    "content, its time set back": Change(_set_back, "etc/a (content (2 -> 2 bytes))"),
    "mode": Change(lambda y: (y.proto / "etc/a").chmod(0o600), "etc/a (mode 0644 -> 0600)"),
    "mode of a directory": Change(lambda y: (y.proto / "srv").chmod(0o750), "srv (mode 0755 -> 0750)"),
    "attribute": Change(lambda y: os.setxattr(y.proto / "etc/a", "user.x", b"1"), "etc/a (attribute user.x)"),
    "link target": Change(_relink, "etc/link (target a -> b)"),
    "rename": Change(
        lambda y: void((y.proto / "etc/old").rename(y.proto / "etc/new")), "etc/new (renamed from etc/old)"
    ),
    "renamed directory": Change(
        lambda y: void((y.proto / "srv/dir").rename(y.proto / "srv/moved")), "srv/moved (renamed from srv/dir)"
    ),
    "hard link added": Change(
        lambda y: os.link(y.proto / "etc/a", y.proto / "etc/twin"), "etc/twin (added, a hard link to etc/a)"
    ),
    "hard link removed": Change(lambda y: (y.proto / "etc/twin").unlink(), "etc/twin (removed)"),
    "file to directory": Change(_to_directory, "etc/gone (type f -> d)"),
    "new empty directory": Change(lambda y: (y.proto / "srv/empty").mkdir(), "srv/empty (added)"),
    "new file": Change(_write("srv/more.o", "x"), "srv/more.o (added)"),
    "removed file": Change(lambda y: (y.proto / "etc/b").unlink(), "etc/b (removed)"),
    "file back": Change(_write("etc/b", "b\n"), "etc/b (added)"),
    "exclude": Change(_options(exclude=["*.o"]), "option.exclude: *.o added", "option exclude: *.o added"),
    "owner rules": Change(
        _options(owner={"etc/**": "1:2", "srv/**": "3:4", "*": "root:root"}), "option.owner: etc/**=1:2 added",
        "option owner: etc/**=1:2 added",
    ),
    "order of owner rules": Change(
        _options(owner={"srv/**": "3:4", "etc/**": "1:2", "*": "root:root"}), "option.owner: order changed",
        "option owner: order changed",
    ),
    "owner kept": Change(_options(owner="keep"), "option.owner: *=keep added", "option owner: *=keep added"),
    "owner, where it counts": Change(
        lambda y: os.chown(y.proto / "etc/a", 7, 8), "etc/a (owner 0:0 -> 7:8)"
    ),
    "compression": Change(
        _options(compression="zstd"), "option.compression: None -> zstd", "option compression: None -> zstd"
    ),
    "format": Change(_options(formats=["oci"]), "option.formats: tar removed", "option formats: tar removed"),
    "description": Change(
        _fields(description="new"), "option.manifest.description: new added", "manifest description: new added"
    ),
    "OCI configuration": Change(
        _options(oci={"user": "www"}), "option.oci.user: www added", "option oci.user: www added"
    ),
    "cleaner": Change(
        _options(clean=["-tmp"]), "option.clean: tmp removed", "option clean: None -> ['-tmp']"
    ),
    "environment": Change(
        lambda _: {"epoch": EPOCH + 5}, f"option.source_date_epoch: {EPOCH} -> {EPOCH + 5} (environment)",
        f"option source_date_epoch: {EPOCH} -> {EPOCH + 5} (environment)",
    ),
    "environment back": Change(
        lambda _: {"epoch": EPOCH}, f"option.source_date_epoch: {EPOCH + 5} -> {EPOCH} (environment)",
        f"option source_date_epoch: {EPOCH + 5} -> {EPOCH} (environment)",
    ),
    "motd": Change(
        _options(motd=True, source_repo="here"), "option.motd: False -> True", "option motd: False -> True"
    ),
    "touched": Change(
        lambda y: os.utime(y.proto / "etc/a", ns=(0, (EPOCH + 9999) * 10**9)), "etc/a (time", harmless=True
    ),
    "mode there and back": Change(
        _there_and_back,
        "etc/a (touched, the same otherwise)", harmless=True,
    ),
    "another inode": Change(_replaced, "etc/b (time", harmless=True),
    "order of keys": Change(_backwards, "up to date with build", harmless=True),
    "limits of time": Change(_options(timeouts={"idle": 5}), "up to date with build", harmless=True),
    "age of answers": Change(_options(index_max_age=5), "up to date with build", harmless=True),
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """A yard whose builds follow one another through the table of changes."""
    top = tmp_path_factory.mktemp("changes")
    made = yard(top, tiny_base(top / "base.tar"), "warm")
    for folder in ("etc", "srv/dir"):
        (made.proto / folder).mkdir(parents=True)
    for name in ("a", "b", "old", "gone"):
        (made.proto / "etc" / name).write_text(f"{name[:1]}\n")
    (made.proto / "etc/link").symlink_to("a")
    (made.proto / "srv/dir/file").write_text("in it\n")
    for path in made.proto.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return made


def test_each_change_is_named_and_harmless_ones_hit(shared: Yard, private: Private) -> None:
    def job() -> list[str]:
        wrong = []
        settle()
        epoch: int | None = EPOCH
        shared.run(epoch=epoch)
        for name, change in CHANGES.items():
            before = shared.record
            settle()
            flags = change.act(shared) or {}
            epoch = flags.get("epoch", epoch)
            settle()
            told = "\n".join(reason for _, reason in shared.plan(epoch=epoch).values())
            if change.told not in told:
                wrong.append(f"{name}: the plan does not tell {change.told!r}:\n{told}")
            done = shared.run(epoch=epoch)
            reused = done.steps.get("emit", ("failed", ""))[0] == "reuse"
            if reused != change.harmless or done.error:
                wrong.append(f"{name}: reused is {reused} {done.error}\n{told}")
            if change.harmless:
                if "(saved " not in done.steps["emit"][1] or shared.record != before:
                    wrong.append(f"{name}: {done.steps['emit']}")
                continue
            why = differences(before, shared.record)
            wanted = change.why or "proto " + change.told.replace(" (", ": ", 1).removesuffix(")")
            if wanted not in why:
                wrong.append(f"{name}: why does not tell {wanted!r}:\n{why}")
            again = shared.run(epoch=epoch)
            if {state for state, _ in again.steps.values()} != {"reuse"}:
                wrong.append(f"{name}: the build after it is {again.steps}")
        return wrong

    wrong = private(job)
    assert not wrong, "\n\n".join(wrong)
    assert len(CHANGES) >= 25


def test_another_base_and_another_tool_are_named(
    tmp_path: Path, base: Path, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = codecs.codec

    def job() -> None:
        warm = yard(tmp_path, base, "warm")
        (warm.proto / "file").write_text("x")
        settle()
        warm.run()
        first = warm.record
        warm.base = tiny_base(tmp_path / "other.tar", salt="other")
        assert "tar:other.tar is not in the store" in "\n".join(
            reason.replace(f"{tmp_path}/", "") for _, reason in warm.plan().values()
        )
        warm.run()
        why = differences(first, warm.record)
        assert f"base image tree_digest: {first['inputs']['image']['tree_digest'][:12]} -> " in why
        warm.base = base
        # Both are in the store now: what differs is told before anything is done.
        assert "base image.tree: " in warm.plan()["emit"][1]
        assert warm.run().steps["emit"][0] == "run"
        before = warm.record
        monkeypatch.setattr(codecs, "codec", lambda name: replace(real(name), ident="another 1"))
        assert "tool.oci: " in warm.plan()["emit"][1]
        assert "-> another 1" in warm.plan()["emit"][1]
        done = warm.run()
        assert done.steps["emit"][0] == "run"
        assert "tool codec gzip: " in differences(before, warm.record)

    private(job)


def test_a_comment_in_a_template_changes_nothing(tmp_path: Path, base: Path, private: Private) -> None:
    def job() -> None:
        warm = yard(tmp_path, base, "warm")
        (warm.proto / "file").write_text("x")
        settle()
        template = tmp_path / "m.json.j2"
        text = '{"name": "hello", "version": "{{ v }}", "build": {"image": "tar:BASE"}}'.replace(
            "BASE", os.fspath(base)
        )

        def load() -> specs.BuildSpec:
            environ = {"SOURCE_DATE_EPOCH": "5"}
            document = read_document(os.fspath(template), cwd=tmp_path, environ=environ, defines={"v": "1"})
            flags = {"proto": "proto", "output_dir": "warm-out"}
            return specs.load(document, flags=flags, environ=environ, cwd=tmp_path, choices=choices())

        states = []
        for comment in ("", "{# said #}\n"):
            template.write_text(comment + text)
            store, cache = warm.open(Bus(), {})
            plan = plan_build(load(), store, cache)
            execute(plan, store=store, cache=cache, bus=Bus(), environ={})
            states.append(plan.outputs is not None)
        assert states == [False, True]

    private(job)


def test_the_same_content_elsewhere_is_compressed_once(
    tmp_path: Path, base: Path, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another checkout: every file is read and known; nothing is made again, and after a change one layer."""
    monkeypatch.setattr(split_layer, "LAYER_TARGET", 100_000)

    def job() -> None:
        warm = yard(tmp_path, base, "warm", formats=("oci",))
        rng = random.Random(3)
        for number in range(300):
            (warm.proto / f"d{number % 7}").mkdir(exist_ok=True)
            (warm.proto / f"d{number % 7}/f{number}").write_bytes(rng.randbytes(4000))
        first = warm.run()
        assert first.counts["layers_made"] > 5
        shutil.copytree(warm.proto, tmp_path / "elsewhere", symlinks=True)
        warm.proto = tmp_path / "elsewhere"
        monkeypatch.setattr(tree_proto, "FEW_FILES", 10)  # as if there were many
        second = warm.run()
        assert second.same == first.same
        assert "fresh checkout, same content (300 files read)" in second.reasons()
        assert second.counts["files_hashed"] == 300
        assert not {"files_read", "layers_made", "layers_reused", "bytes_compressed"} & second.counts.keys()
        shutil.copytree(warm.proto, tmp_path / "third", symlinks=True)
        warm.proto = tmp_path / "third"
        (warm.proto / "d3/f3").write_bytes(b"other")
        third = warm.run()
        assert "only the content of 1 file changed" in third.reasons()
        assert third.counts["layers_made"] == 1
        assert third.counts["layers_reused"] == first.counts["layers_made"] - 2  # without the base's

    private(job)


def test_what_is_excluded_is_told_as_that(tmp_path: Path, base: Path, private: Private) -> None:
    def job() -> None:
        warm = yard(tmp_path, base, "warm")
        (warm.proto / "d").mkdir()
        for name in ("a.o", "d/b", "c"):
            (warm.proto / name).write_text("x")
        settle()
        warm.run()
        warm.build["exclude"] = ["*.o", "d/"]
        text = warm.plan()["sync"][1]
        assert "a.o (excluded)" in text
        assert "d (excluded)" in text

    private(job)


# -- what it costs ------------------------------------------------------------------------------------------


def many(proto: Path, count: int = 300, size: int = 4000) -> None:
    """A tree that is cut into several layers when a layer is to hold 100 kB."""
    rng = random.Random(3)
    for number in range(count):
        (proto / f"d{number % 7}").mkdir(exist_ok=True)
        (proto / f"d{number % 7}/f{number}").write_bytes(rng.randbytes(size))


def test_work_is_proportional_to_the_change(
    tmp_path: Path, base: Path, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_layer, "LAYER_TARGET", 100_000)

    def job() -> None:
        warm = yard(tmp_path, base, "warm", formats=("oci",))
        many(warm.proto)
        settle()
        cold = warm.run()
        parts = cold.counts["layers_made"] - 1  # one is the base's
        assert cold.counts["files_read"] == 300 + 5  # and the base's files
        assert cold.counts["bytes_hashed"] == 0  # hashed while they are written
        # Nothing changed: nothing is read, compressed, or started.
        same = warm.run()
        assert {name: count for name, count in same.counts.items() if count} == {}
        # So it is after the outputs are gone, but for what is not kept: the directories' layer.
        forget_outputs(warm.pool)
        anew = warm.run()
        assert anew.same == cold.same
        assert anew.counts["layers_reused"] == parts
        assert (
            anew.counts.get("layers_made", 0) == anew.counts["files_read"] == anew.counts["bytes_hashed"] == 0
        )
        assert anew.counts["started"] == 0
        # One file: it is hashed, and its layer is made, alone.
        (warm.proto / "d3/f10").write_bytes(b"new")
        settle()
        one = warm.run()
        assert one.counts["bytes_hashed"] == 3
        assert (one.counts["layers_made"], one.counts["layers_reused"]) == (1, parts - 1)
        assert one.counts["files_read"] < 300 / parts * 4
        assert one.counts["started"] == 0
        # Only touched, where times do not count: it is hashed, and the outputs stand.
        os.utime(warm.proto / "d3/f10")
        settle()
        touched = warm.run()
        assert touched.counts["bytes_hashed"] == 3
        assert touched.counts.get("files_read", 0) == touched.counts.get("bytes_compressed", 0) == 0
        # And it is known from now on.
        assert {name: count for name, count in warm.run().counts.items() if count} == {}
        # A directory renamed: of the files in it, none is read to know what it is.
        (warm.proto / "d5").rename(warm.proto / "e5")
        moved = warm.run()
        assert moved.counts["layers_reused"] > 0
        assert moved.counts["files_read"] <= 300

    private(job)


# -- what does not stay ---------------------------------------------------------------------------------------


def test_limits_keep_what_was_of_use_last(
    tmp_path: Path, base: Path, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_layer, "LAYER_TARGET", 100_000)

    def job() -> None:
        warm = yard(tmp_path, base, "warm", formats=("oci",))
        many(warm.proto)
        warm.run()
        _, cache = warm.open(Bus(), {})
        early = {item.name for item in prune.items(cache) if item.kind == "blob"}
        for path in (tmp_path / "warm-pool/state/blobs").glob("*.json"):
            os.utime(path, (1, 1))  # as if long ago
        for folder in warm.proto.iterdir():
            for path in folder.iterdir():
                path.write_bytes(path.read_bytes()[::-1])
        warm.run()
        late = {item.name for item in prune.items(cache) if item.kind == "blob"} - early
        total = sum(item.size for item in prune.items(cache))
        limit = total * 2 // 3
        gone = prune.prune(cache, prune.Limits(bytes=limit))
        there = {item.name for item in prune.items(cache) if item.kind == "blob"}
        assert sum(item.size for item in prune.items(cache)) <= limit
        assert late <= there
        assert {item.name for item in gone if item.kind == "blob"} == early - there
        assert prune.prune(cache, prune.Limits(bytes=limit)) == []
        # As few files as wanted; what a build holds stays.
        (held,) = [
            path for path in (tmp_path / "warm-pool/state/blobs").glob("*") if path.name in sorted(there)[:1]
        ]
        with held.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            prune.prune(cache, prune.Limits(inodes=1))
            assert held.exists()
        assert sum(item.inodes for item in prune.items(cache)) <= 3
        prune.prune(cache)
        assert prune.items(cache) == []
        assert not warm.run().error
        assert kept.verify(cache.backend, mend=True) == []
        # By age.
        assert prune.prune(cache, prune.Limits(keep_seconds=3600)) == []
        assert prune.prune(cache, prune.Limits(keep_seconds=0)) != []

    private(job)


def test_damage_is_found_told_and_mended(
    tmp_path: Path, base: Path, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_layer, "LAYER_TARGET", 100_000)

    def job() -> None:
        warm = yard(tmp_path, base, "warm", formats=("oci",))
        many(warm.proto)
        first = warm.run()
        state = tmp_path / "warm-pool/state"
        _, cache = warm.open(Bus(), {})

        def hurt(path: Path) -> None:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)

        blobs = sorted(path for path in (state / "blobs").iterdir() if not path.suffix)
        hurt(blobs[0])
        ((told, mended),) = kept.verify(cache.backend, mend=True)
        assert (told.kind, told.name, told.problem, mended) == ("blob", blobs[0].name, "damaged", True)
        assert kept.verify(cache.backend, mend=True) == []
        # Without asking: what was touched is looked at before it is used.
        hurt(blobs[1])
        os.truncate(blobs[2], 10)
        forget_outputs(warm.pool)
        done = warm.run()
        assert done.same == first.same
        assert sum("it is made again" in note for note in done.notes) == 2
        # What rots without a trace is found by its sample, which is all of so small a layer; with `paranoid`
        # where no sample finds it: that build fails, and the next is right.
        for paranoid in (False, True):
            hurt(blobs[3])
            record = blobs[3].with_name(blobs[3].name + ".json")
            sealed.write(record, {**sealed.read(record), "stamp": system_files.stamp(blobs[3])[1:]})
            forget_outputs(warm.pool)
            if not paranoid:
                done = warm.run()
                assert done.same == first.same
                assert sum("it is made again" in note for note in done.notes) == 1
                continue
            with monkeypatch.context() as blind:
                blind.setattr(BlobRecord, "known", lambda *_: True)
                failed = warm.run(paranoid=True)
            assert failed.error.startswith("EmitError")
            assert "damaged" in failed.error
            assert warm.run().same == first.same
        # Records that are torn are as good as none.
        for folder in ("blobs", "artifacts"):
            for path in (state / folder).glob("*.json"):
                path.write_bytes(path.read_bytes()[:20])
        for path in (state / "index").glob("*.idx"):
            hurt(path)
        assert warm.run().same == first.same
        hurt(warm.out / "hello-1.0.0.oci.tar")
        assert warm.run().same == first.same

    private(job)


@contextlib.contextmanager
def loop(folder: Path, size: int) -> Iterator[Path]:
    """A small ext4 of its own, in the mount namespace of the test's job."""
    disk = folder / "disk.img"
    with disk.open("wb") as stream:
        stream.truncate(size)
    where = folder / "disk"
    where.mkdir()
    for argv in (["mkfs.ext4", "-q", "-m", "0", str(disk)], ["mount", "-o", "loop", str(disk), str(where)]):
        subprocess.run(argv, check=True, capture_output=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_a_pool_that_fills_up_at_any_moment(
    tmp_path: Path, base: Path, private: Private, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever could not be written: the next build is right, and nothing that is damaged is kept."""
    demand("mkfs.ext4")
    monkeypatch.setattr(split_layer, "LAYER_TARGET", 100_000)

    def job() -> None:
        warm = yard(tmp_path, base, "warm", formats=("oci",))
        many(warm.proto)
        expected = warm.run().same
        failed = 0
        with loop(tmp_path, 24 << 20) as disk:
            small = yard(tmp_path, base, "small", formats=("oci",))
            small.pool = f"overlay:{disk}/pool"
            small.run()
            ballast = disk / "ballast"
            for free in (0, 4, 8, 40, 120, 300, 700, 1100, 1300, 1500, 2000):
                _, cache = small.open(Bus(), {})
                prune.prune(cache)
                with ballast.open("wb", buffering=0) as stream:
                    with contextlib.suppress(OSError):
                        while True:
                            stream.write(bytes(1 << 12))
                    stream.truncate(max(0, os.fstat(stream.fileno()).st_size - free * 1024))
                try:
                    done = small.run()
                    failed += bool(done.error)
                    assert done.error or done.same == expected
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    failed += 1
                ballast.unlink()
                store, cache = small.open(Bus(), {})
                heal(store.backend)
                assert kept.verify(cache.backend, mend=True) == [], f"{free} KiB free"
                assert small.run().same == expected, f"{free} KiB free"
        assert 3 < failed < 11

    private(job)


SMALL_LAYERS = """
import sys
from buildstep.emit import split_layer
split_layer.LAYER_TARGET = 100_000
from buildstep.cli import main
sys.exit(main())
"""


def test_a_build_killed_at_any_moment(tmp_path: Path) -> None:
    """SIGKILL while layers, records and indexes are written: the next build is right, nothing is damaged."""
    demand("busybox")
    lab = Lab(
        top=tmp_path / "lab", base=write_base(tmp_path / "base.tar"), environ={"SOURCE_DATE_EPOCH": "5"}
    )
    lab.manifest(build={"order": "packages-first", "packages": ["one-1"]})
    many(lab.proto)
    driver = lab.top / "driver.py"
    driver.write_text(SMALL_LAYERS)
    argv = [lab.python, "-P", os.fspath(driver), *lab.argv("--json")[4:]]
    begin = time.monotonic()
    expected = lab.run(argv).json
    long = time.monotonic() - begin
    rng = random.Random(7)
    wanted = {expected["tree_digest"]: {row["sha256"] for row in expected["files"]}}
    for step in range(8):
        shutil.rmtree(lab.pool / "state/blobs", ignore_errors=True)
        shutil.rmtree(lab.pool / "state/artifacts", ignore_errors=True)
        if step % 2:
            shutil.rmtree(lab.pool / "state/index", ignore_errors=True)
            assert lab.command("cache", "prune", "--pool", lab.uri).status == 0
        child = subprocess.Popen(
            argv, env=lab.env(), cwd=lab.top, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        time.sleep(rng.uniform(0.15, max(0.3, long)))
        child.kill()
        child.communicate()
        checked = lab.command("cache", "verify", "--pool", lab.uri, "--json")
        assert checked.status == 0, checked.stdout + checked.stderr
        done = lab.run(argv)
        assert done.status == 0, done.stderr
        assert {row["sha256"] for row in done.json["files"]} == wanted[done.json["tree_digest"]]
        assert lab.leftovers() == []


# -- the command ---------------------------------------------------------------------------------------------


def test_the_command_tells_and_prunes(tmp_path: Path) -> None:
    demand("busybox")
    lab = Lab(top=tmp_path / "lab", base=write_base(tmp_path / "base.tar"))
    lab.manifest(build={"order": "packages-first", "packages": ["one-1"]})
    lab.built()
    pool = ("--pool", lab.uri, "--json")
    (layer,) = lab.command("cache", "list", *pool).json["layers"]
    assert layer["slot"] == "hello/packages"
    assert layer["size"] > 0
    size = lab.command("cache", "size", *pool, env={"BUILDSTEP_CACHE_MAX_BYTES": "123456"}).json
    assert {"layer", "blob", "index", "answer", "outputs"} <= set(size["kinds"])
    assert size["bytes"] == sum(row["bytes"] for row in size["kinds"].values())
    assert (size["max_bytes"], size["max_inodes"]) == (123456, 1_000_000)
    assert lab.command("cache", "verify", *pool).json == {"damaged": []}
    (answer,) = (lab.pool / "state/resolved").iterdir()
    answer.write_text("{}")
    for flags, removed in ((("--dry-run",), False), ((), True)):
        done = lab.command("cache", "verify", *pool, *flags)
        (row,) = done.json["damaged"]
        assert (done.status, row["kind"], row["file"], row["removed"]) == (
            10,
            "answer",
            os.fspath(answer),
            removed,
        )
        assert row["remedy"]
        assert answer.exists() is not removed
    lab.built()
    assert lab.command("cache", "prune", *pool, "--older-than", "1").json["items"] == []
    assert lab.command("cache", "prune", *pool, "--max-bytes", "nonsense").status == 2
    # A build that adds to it keeps the limits by itself; what it stands on goes last.
    lab.manifest(build={"order": "packages-first", "packages": ["two-1"]})
    lab.built(env={"BUILDSTEP_CACHE_MAX_BYTES": str(size["bytes"] - 1)})
    after = lab.command("cache", "list", *pool).json["layers"]
    assert [row["inputs"]["packages"] for row in after] == [["two-1"]]
    assert lab.command("cache", "size", *pool).json["bytes"] < size["bytes"]
    gone = lab.command("cache", "prune", *pool).json
    assert gone["removed"] == [after[0]["key"]]
    assert lab.command("cache", "size", *pool).json["count"] == 0
    assert list((lab.pool / "layer").iterdir()) == []
