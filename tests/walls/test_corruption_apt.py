"""A damaged package cache: apt's lists and package files, cut short, changed by a bit, or gone, one at a time.

Each round starts with the same healthy cache, and without the layer with the packages, so that they are
installed from what is kept.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildstep.system import process
from tests.integration.conftest import demand, enclosed
from tests.integration.repository import Repository, make_place, make_repository
from tests.integration.yard import Yard
from tests.rounds import chosen
from tests.walls.damage import HARMS, SEED, Image, build, hurt, unnoticed, wrong_outcome

KINDS: dict[str, tuple[str, ...]] = {
    "package": ("debs/*",),
    "list": ("lists/*/*/lists/*",),
    "parsed list": ("lists/*/*/parsed/*",),
    "record of lists": ("lists/*/*/record",),
    "known package files": ("lists/*/*/archives",),
    "mirror": ("mirror.json",),
}
"""Every kind of file with content in apt's cache, and where it is."""


@dataclass(frozen=True, kw_only=True)
class Healthy:
    """A yard whose packages are all in the cache; kept: a copy of that; image: what a build without it gives."""

    yard: Yard
    repository: Repository
    kept: Path
    image: Image

    @property
    def pool(self) -> Path:
        return Path(self.yard.pool.partition(":")[2])

    @property
    def cache(self) -> Path:
        return self.pool / "state/packages/apt"

    def renew(self) -> None:
        """Put the healthy cache back, and forget what was made from it."""
        self.forget()
        shutil.rmtree(self.cache)
        process.run(["cp", "-a", os.fspath(self.kept), os.fspath(self.cache)])

    def forget(self) -> None:
        for name in ("layer", "state/layers", "state/resolved", "state/artifacts", "state/blobs"):
            shutil.rmtree(self.pool / name, ignore_errors=True)
        (self.pool / "layer").mkdir()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Healthy]:
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror", "dpkg-deb", "rsync")
    top = tmp_path_factory.mktemp("apt")
    yard = make_place(top)
    repository = make_repository(yard, top / "repository")
    repository.put("beta", "1.0")
    repository.put("alpha", "1.0", depends="beta")
    yard.build = {"packages": ["alpha"], "order": "packages-first"}
    with repository.served():
        cold, error = enclosed(lambda: build(yard, cache=False))
        assert error is None, error
        warm, error = enclosed(lambda: build(yard))
        assert (warm, error) == (cold, None)
        found = Healthy(yard=yard, repository=repository, kept=top / "kept", image=cold)
        process.run(["cp", "-a", os.fspath(found.cache), os.fspath(found.kept)])
        yield found


ROWS = [(kind, harm, seed) for seed, (kind, harm) in enumerate((k, h) for h in HARMS for k in KINDS)]


@pytest.mark.parametrize(("kind", "harm", "seed"), chosen(ROWS, 1))
def test_one_damaged_file_gives_no_wrong_image(healthy: Healthy, kind: str, harm: str, seed: int) -> None:
    healthy.renew()
    file = hurt(healthy.cache, KINDS[kind], harm, random.Random(SEED + seed))
    if harm != "remove":
        assert enclosed(lambda: unnoticed(healthy.yard, file)) == "", file
    done, error = enclosed(lambda: build(healthy.yard))
    assert wrong_outcome(done, error, healthy.image, file) == "", file
    healthy.forget()
    assert enclosed(lambda: build(healthy.yard)) == (healthy.image, None), file


def test_no_file_of_the_cache_is_forgotten(healthy: Healthy) -> None:
    found = {
        kind: [path for it in patterns for path in healthy.kept.glob(it)] for kind, patterns in KINDS.items()
    }
    assert all(found.values()), found
    known = {path for paths in found.values() for path in paths}
    files = {path for path in healthy.kept.rglob("*") if path.is_file() and path.stat().st_size}
    assert sorted(files - known) == []
