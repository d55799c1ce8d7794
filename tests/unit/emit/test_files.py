"""Recording an image in a store: every content once, the list, and a ref that appears with the outputs."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep import emit
from buildstep.emit.files import FilesEmitter
from buildstep.emit.interface import Artifact, EmitJob, StoreTarget
from buildstep.errors import EmitError, SpecError, StoreError, UsageError
from buildstep.events import Bus
from buildstep.files import layout, leases, open_storage, refs
from buildstep.files.content import ContentStore
from buildstep.files.interface import ReadOnly
from buildstep.files.refs import Ref, RefChanged
from buildstep.system.output_set import Outputs
from buildstep.tree import hashing, scan
from buildstep.tree.entry import dumps, tree_digest
from tests.unit import trees

LARGE = 20 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    (top / "etc").mkdir(parents=True)
    (top / "etc/motd").write_bytes(b"hello\n")
    (top / "etc/again").write_bytes(b"hello\n")
    (top / "etc/link").symlink_to("motd")
    (top / "empty").touch()
    (top / "tool").write_bytes(os.urandom(300_000))
    (top / "twin").hardlink_to(top / "tool")
    with (top / "sparse").open("wb") as file:
        file.truncate(LARGE)
        file.seek(LARGE // 2)
        file.write(b"x" * 4096)
    os.mkfifo(top / "pipe")
    (top / os.fsdecode(b"odd\n\xff")).write_bytes(b"odd")
    return top


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(open_storage(f"dir:{tmp_path}/store"))


def target(store: ContentStore, ref: str = "hello/1.0.0") -> StoreTarget:
    return StoreTarget(url=store.storage.url, ref=ref, environ={}, notes={"manifest": {"name": "hello"}})


def job(root: Path, store: ContentStore, *, epoch: int | None = trees.EPOCH) -> EmitJob:
    made = trees.job(root, root.parent / "out/hello-1.0.0", epoch=epoch)
    return replace(made, target=target(store))


def write(job: EmitJob, *formats: str) -> list[Artifact]:
    with Outputs() as outputs:
        artifacts = emit.emit(job, formats, outputs)
        outputs.commit()
    return artifacts


def names(store: ContentStore, under: str) -> list[str]:
    return [item.name for item in store.storage.list(under)]


def test_the_store_has_the_list_and_every_content(root: Path, store: ContentStore) -> None:
    (artifact,) = write(job(root, store), "files")
    ref = refs.get(store.storage, "hello/1.0.0")
    entries = store.get_list(ref.list)
    truth = scan.scan(root)
    hashing.hash_entries(root, truth.values())
    hashing.spread_digests(truth)
    assert ref.tree == tree_digest(entries) == tree_digest(truth)
    for path, entry in entries.items():
        if entry.kind == "f":
            assert store.get(entry.sha256) == (root / os.fsdecode(path)).read_bytes(), path
    told = json.loads(artifact.path.read_bytes())
    assert told == {
        "format": "buildstep.files", "format_version": 1, "store": store.storage.url, "ref": "hello/1.0.0",
        "list": ref.list, "tree": ref.tree, "entries": len(truth), "bytes": ref.size,
    }  # fmt: skip
    # `again` is `motd`, and `twin` is `tool`: the parts of what is large count as one.
    assert artifact.extra["new_contents"] == 5
    assert ref.notes["manifest"] == {"name": "hello"}
    assert ref.notes["config"]["os"] == "linux"
    assert names(store, layout.LEASES) == []
    assert names(store, "tmp/") == ["tmp/swap.lock"]


def test_the_file_of_a_format_is_the_same_again_and_nothing_is_stored_twice(
    root: Path, store: ContentStore
) -> None:
    (first,) = write(job(root, store), "files")
    before = names(store, "objects/") + names(store, "packs/")
    (again,) = write(job(root, store), "files")
    assert (again.extra["new_contents"], again.sha256) == (0, first.sha256)
    assert names(store, "objects/") + names(store, "packs/") == before


def test_times_are_those_of_the_tar(root: Path, store: ContentStore) -> None:
    os.utime(root / "tool", ns=(5_700_000_001, 5_700_000_001))
    tree = scan.scan(root)
    write(replace(job(root, store), tree=tree), "files")
    listed = store.get_list(refs.get(store.storage, "hello/1.0.0").list)
    assert listed[b"tool"].mtime == 5_000_000_000
    assert listed[b"etc/motd"].mtime == trees.EPOCH * 1_000_000_000
    assert tree[b"tool"].mtime == 5_700_000_001, "the build's own list keeps what the file system says"


def test_all_formats_record_one_tree(root: Path, store: ContentStore) -> None:
    artifacts = write(job(root, store), "files", "oci", "tar")
    assert [artifact.format for artifact in artifacts] == ["files", "oci", "tar"]
    assert emit.main_artifact(artifacts).format == "oci"
    assert emit.main_artifact(artifacts[:1]).format == "files"


def test_no_ref_before_the_commit_and_none_without_it(root: Path, store: ContentStore) -> None:
    with Outputs() as outputs:
        (artifact,) = emit.emit(job(root, store), ["files"], outputs)
        assert names(store, layout.REFS) == []
        assert len(names(store, layout.LEASES)) == 1, "what was stored is held until then"
    assert names(store, layout.REFS) == names(store, layout.LEASES) == []
    assert not artifact.path.exists()


def test_a_file_that_cannot_be_read_leaves_no_ref(root: Path, store: ContentStore) -> None:
    made = job(root, store)
    (root / "sparse").write_bytes(b"shorter")
    with pytest.raises(EmitError, match="changed its size"):
        write(made, "files")
    assert names(store, layout.REFS) == names(store, layout.LEASES) == []
    assert list((root.parent / "out").iterdir()) == []


def test_a_known_content_is_not_sent_and_still_compared(root: Path, store: ContentStore) -> None:
    write(job(root, store), "files")
    made = job(root, store)
    hashing.hash_entries(root, made.tree.values())
    hashing.spread_digests(made.tree)
    (root / "tool").write_bytes(os.urandom(300_000))
    before = refs.get(store.storage, "hello/1.0.0")
    with pytest.raises(EmitError, match="does not have the content"):
        write(made, "files")
    assert refs.get(store.storage, "hello/1.0.0") == before


def test_a_store_that_fails_meanwhile_says_so(
    root: Path, store: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create()

    def full(*_: object) -> bool:
        raise StoreError("no space left on that device")

    monkeypatch.setattr("buildstep.files.local.Local.write", full)
    with pytest.raises(StoreError, match="no space left"):
        write(job(root, store), "files")
    assert names(store, layout.REFS) == []


@pytest.mark.parametrize("same", [False, True])
def test_a_ref_that_somebody_changed_meanwhile(root: Path, store: ContentStore, *, same: bool) -> None:
    with Outputs() as outputs:
        (artifact,) = emit.emit(job(root, store), ["files"], outputs)
        digest = artifact.extra["list"] if same else "ab" * 32
        refs.write(store.storage, Ref(name="hello/1.0.0", list=digest), None)
        if same:
            outputs.commit()
        else:
            with pytest.raises(RefChanged):
                outputs.commit()
        assert artifact.path.exists() == same, "without its ref the image has no file either"
    assert refs.get(store.storage, "hello/1.0.0").list == digest


def test_gc_takes_nothing_of_a_build_that_has_not_committed(root: Path, store: ContentStore) -> None:
    with Outputs() as outputs:
        emit.emit(job(root, store), ["files"], outputs)
        ((_, lease),) = leases.living(store.storage)
        assert lease.what == "build hello-1.0.0"
        outputs.commit()


# -- before anything starts ---------------------------------------------------------------------------------


def check(url: str, ref: str = "a/1") -> list[str]:
    return emit.check_target(["files", "oci"], StoreTarget(url=url, ref=ref, environ={}), Bus())


def test_a_store_is_looked_at_and_not_made(tmp_path: Path) -> None:
    (text,) = check(f"dir:{tmp_path}/new/store")
    assert text == f"dir:{tmp_path}/new/store, which is made, takes the image as a/1"
    assert not (tmp_path / "new").exists()
    assert emit.check_target(["oci"], None, Bus()) == []


def test_what_cannot_take_an_image(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a store"):
        check("")
    with pytest.raises(UsageError, match="is not the name of a ref"):
        check(f"dir:{tmp_path}", ref="a b")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ReadOnly, match="cannot be written to"):
        check(f"dir:{shared}")
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "mine/letter").touch()
    with pytest.raises(StoreError, match="no store of ours"):
        check(f"dir:{tmp_path}/mine")


def test_any_compression_is_the_other_formats_matter(root: Path, store: ContentStore) -> None:
    made = replace(job(root, store), compression="xz")
    files, tar = write(made, "files", "tar")
    assert (files.compression, tar.compression) == ("none", "xz")
    with pytest.raises(SpecError):
        emit.resolve(["files"], "rar")


def test_what_was_recorded_is_looked_for(root: Path, store: ContentStore) -> None:
    (artifact,) = write(job(root, store), "files")
    rows = [{"format": "oci", "extra": {}}, {"format": "files", "extra": dict(artifact.extra)}]

    def there() -> bool:
        return emit.still_recorded(rows, target(store), Bus())

    assert there()
    ref = refs.get(store.storage, "hello/1.0.0")
    refs.write(store.storage, replace(ref, list="ab" * 32), ref)
    assert not there(), "the ref means another list"
    ref = refs.get(store.storage, "hello/1.0.0")
    refs.write(store.storage, replace(ref, list=artifact.extra["list"]), ref)
    assert there()
    store.storage.delete([layout.list_name(artifact.extra["list"])])
    assert not there()
    assert not FilesEmitter().recorded(target(store, "other"), artifact.extra, Bus())


def test_digest_of_the_list_is_its_name(root: Path, store: ContentStore) -> None:
    (artifact,) = write(job(root, store), "files")
    data = store.read_list(artifact.extra["list"])
    assert hashlib.sha256(data).hexdigest() == artifact.extra["list"]
    assert data == dumps(store.get_list(artifact.extra["list"]))
