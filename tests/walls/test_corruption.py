"""A damaged pool: every kind of kept file, cut short, changed by a bit, or gone, one at a time.

Each round starts with a copy of the same healthy pool. After the damage a build gives the right image, or says
which file is damaged and what to do; the builds after it give the right image; and `cache verify` has named
every file whose content was changed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from buildstep.build import kept
from buildstep.emit import split_layer
from buildstep.events import Bus
from buildstep.pool.journal import open_journal
from buildstep.system import process
from tests.integration.conftest import demand, enclosed
from tests.integration.support import write_base
from tests.integration.yard import EPOCH, Yard, environment
from tests.rounds import chosen, rounds
from tests.walls.damage import HARMS, SEED, build, hurt, unnoticed, wrong_outcome

ROUNDS = 100

KINDS: dict[str, tuple[str, ...]] = {
    "pool": ("buildstep-pool.json",),
    "image record": ("state/images/*.json",),
    "image list": ("state/images/*.list",),
    "image tree": ("image/*/tree/**/*",),
    "layer record": ("state/layers/*.json",),
    "layer list": ("state/layers/*.list",),
    "layer tree": ("layer/*/upper/**/*", "layer/*/tree/**/*"),
    "layer origin": ("layer/*/origin.json",),
    "blob": ("state/blobs/" + "[0-9a-f]" * 64,),
    "blob record": ("state/blobs/*.json",),
    "chunks": ("state/blobs/*.parts",),
    "mark": ("state/blobs/*.shape", "state/images/*.used", "state/layers/*.used"),
    "last layers": ("state/blobs/*.last",),
    "index": ("state/index/*.idx",),
    "answer": ("state/resolved/*.json",),
    "outputs": ("state/artifacts/*.json",),
    "kept tree": ("state/artifacts/*.bin",),
    "digests": ("state/filehash.json",),
    "journal": ("state/journal/*.jsonl",),
}
"""Every kind of kept file, and where it is in a pool. Those of apt are in `test_corruption_apt`."""

OF_OVERLAY = {"layer origin"}


def rows() -> list[tuple[str, str, str, int]]:
    """Pool, kind, harm and seed of each round: every kind with every harm, on both kinds of pool, and again."""
    found = []
    for seed in range(ROUNDS):
        kind = list(KINDS)[seed % len(KINDS)]
        harm = HARMS[(seed + seed // len(KINDS)) % len(HARMS)]
        scheme = "dir" if seed // len(KINDS) % 2 and kind not in OF_OVERLAY else "overlay"
        found.append((scheme, kind, harm, seed))
    return found


@dataclass(frozen=True, kw_only=True)
class Healthy:
    """A pool in which everything is kept that builds keep, and the images that builds with it give. first: of the
    proto directory as it was when the pool was made; second: with a change."""

    yard: Yard
    pool: Path
    first: tuple[object, ...]
    second: tuple[object, ...]


def edit(yard: Yard, text: str) -> None:
    (yard.proto / "srv/d3/file3").write_text(f"{text}\n" * 900)
    time.sleep(0.03)  # past the grain of the clock of files


def die(pool: str, out: Path) -> None:
    """Leave what a build leaves that is killed: a journal, a dataset, a directory, half an output."""
    from buildstep import pool as pool_module

    child = os.fork()
    if child == 0:
        backend = pool_module.open_pool(pool)
        with open_journal(backend.state, "a build that is killed") as journal:
            backend.create(journal.dataset(f"{journal.ident}-1"))
            journal.folder(backend.state / "work" / journal.ident)
            journal.outputs(out / "hello-1.0.0")
            (out / ".hello-1.0.0.oci.tar.77.1.part").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def make_healthy(top: Path, base: Path, scheme: str) -> Healthy:
    yard = Yard(
        pool=f"{scheme}:{top / 'pool'}", out=top / "out", proto=top / "proto", base=base, formats=("oci",),
        build={"packages": ["one-1"], "order": "packages-first"},
    )  # fmt: skip
    for number in range(60):
        place = yard.proto / f"srv/d{number % 6}/file{number}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(random.Random(number).randbytes(4000))

    def job() -> tuple[tuple[object, ...], tuple[object, ...]]:
        expected = []
        for text in ("second", "first"):
            edit(yard, text)
            cold = Yard(
                pool=f"{scheme}:{top / 'cold'}", out=top / "cold-out", proto=yard.proto, base=base,
                formats=yard.formats, build=yard.build,
            ).run(cache=False)  # fmt: skip
            assert not cold.error, cold.error
            done = yard.run()
            assert done.same == cold.same
            expected.append(done.same)
        return expected[1], expected[0]

    first, second = enclosed(job)
    shutil.rmtree(top / "cold")
    (top / "pool").rename(top / "healthy")
    return Healthy(yard=yard, pool=top / "healthy", first=first, second=second)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Healthy]]:
    demand("root", "namespaces", "overlay", "busybox", "rsync")
    made: dict[str, Healthy] = {}
    top = tmp_path_factory.mktemp("corruption")
    base = write_base(top / "base.tar")
    time.sleep(2.1)  # so that its digest is remembered

    def get(scheme: str) -> Healthy:
        if scheme not in made:
            made[scheme] = make_healthy(top / scheme, base, scheme)
        return made[scheme]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_layer, "LAYER_TARGET", 100_000)
        yield get


@pytest.mark.parametrize(("scheme", "kind", "harm", "seed"), chosen(rows(), 6))
def test_one_damaged_file_gives_no_wrong_image(
    healthy: Callable[[str], Healthy], scheme: str, kind: str, harm: str, seed: int
) -> None:
    healthy_pool = healthy(scheme)
    process.run(["rm", "-rf", os.fspath(pool_of(healthy_pool))])
    process.run(["cp", "-a", os.fspath(healthy_pool.pool), os.fspath(pool_of(healthy_pool))])
    wrong = enclosed(lambda: damaged_and_built(healthy_pool, kind, harm, random.Random(SEED + seed)))
    assert wrong == ""


def pool_of(healthy: Healthy) -> Path:
    return Path(healthy.yard.pool.partition(":")[2])


def damaged_and_built(healthy: Healthy, kind: str, harm: str, dice: random.Random) -> str:
    """Damage a file and build. Returns what is wrong."""
    yard = healthy.yard
    edit(yard, "first")
    assert yard.run().same == healthy.first
    die(yard.pool, yard.out)
    file = hurt(pool_of(healthy), KINDS[kind], harm, dice)
    what = f"{harm} {file}: "
    # Only the time of a `.used` counts, and a file that is gone is no damage: it may never have been there.
    if harm != "remove" and file.suffix != ".used" and (problem := unnoticed(yard, file)):
        return what + problem
    way = dice.choice(("same", "edited", "outputs gone"))
    wanted = healthy.first
    if way == "edited":
        edit(yard, "second")
        wanted = healthy.second
    elif way == "outputs gone":
        (yard.out / "hello-1.0.0.oci.tar").unlink()
    done, error = build(yard)
    if problem := wrong_outcome(done, error, wanted, file):
        return f"{what}{way}: {problem}"
    for text, expected in (("second", healthy.second), ("first", healthy.first)):
        edit(yard, text)
        done, error = build(yard)
        if error is not None or done != expected:
            return f"{what}{way}: not healed: {error}"
    left = [path.name for path in yard.out.glob(".hello*")]
    left += [path.name for path in (pool_of(healthy) / "build").iterdir()]
    left += [path.name for path in (pool_of(healthy) / "state/work").iterdir()]
    return f"{what}{way}: left {left}" if left else ""


def test_what_is_verified_beside_builds_is_sound(healthy: Callable[[str], Healthy]) -> None:
    """What a build writes or removes meanwhile is not taken for damage."""
    healthy_pool = healthy("overlay")
    yard = healthy_pool.yard
    process.run(["rm", "-rf", os.fspath(pool_of(healthy_pool))])
    process.run(["cp", "-a", os.fspath(healthy_pool.pool), os.fspath(pool_of(healthy_pool))])

    def builds() -> list[str]:
        wrong = []
        for number in range(rounds(30, 4)):
            edit(yard, ("first", "second")[number % 2])
            expected = (healthy_pool.first, healthy_pool.second)[number % 2]
            done = yard.run(cache=number % 4 != 3)
            if done.same != expected:
                wrong.append(done.error or "another image")
        return wrong

    def looks() -> list[str]:
        store, _ = yard.open(Bus(), environment(EPOCH))
        return [f"{row.kind} {row.file}: {row.problem}" for row, _ in kept.verify(store.backend, mend=True)]

    told = yard.out.parent / "told"
    child = os.fork()
    if child == 0:
        try:
            told.write_text(json.dumps(enclosed(builds)))
        finally:
            os._exit(0)
    found: list[str] = []
    looked = 0
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        found += enclosed(looks)
        looked += 1
    assert json.loads(told.read_text()) == []
    assert found == []
    assert looked > 2


def test_every_kind_of_kept_file_is_damaged(healthy: Callable[[str], Healthy]) -> None:
    """No file of a pool is forgotten here: all are of a kind, or hold nothing."""
    pool = healthy("overlay").pool
    known = {path for patterns in KINDS.values() for pattern in patterns for path in pool.glob(pattern)}
    files = {path for path in pool.rglob("*") if path.is_file() and not path.is_symlink()}
    forgotten = sorted(os.fspath(path.relative_to(pool)) for path in files - known if path.stat().st_size)
    assert forgotten == []
    for kind, patterns in KINDS.items():
        there = [path for pattern in patterns for path in pool.glob(pattern) if path.is_file()]
        assert there or kind == "journal", kind  # which is only there while a build is


def test_the_rounds_cover_every_kind_with_every_harm() -> None:
    done: set[Any] = {(kind, harm) for _, kind, harm, _ in rows()}
    assert done == {(kind, harm) for kind in KINDS for harm in HARMS}
    assert len(rows()) == ROUNDS
