"""What is reused gives what is made anew, byte for byte; what is missed is told; what is damaged is not used."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildstep import layers
from tests.integration import pools
from tests.integration.conftest import demand
from tests.integration.yard import Outcome, Yard, tiny_base, unpacked

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
        monkeypatch.setattr(layers, "LAYER_TARGET", target)

    def job() -> None:
        rng = random.Random(seed)
        warm = yard(tmp_path, base, "warm")
        others: dict[str, tuple[Yard, dict[str, Any]]] = {
            "no cache": (yard(tmp_path, base, "anew"), {"cache": False}),
            "copied": (yard(tmp_path, base, "plain"), {"plain": True}),
            "dir": (yard(tmp_path, base, "dir", "dir"), {}),
        }
        pools.fill(warm.proto)
        for step in range(6):
            if step:
                shuffle(rng, warm.proto, step)
            if rng.random() < 0.5:
                settle()
            first = warm.run()
            again = warm.run()
            assert again.same == first.same, f"step {step}: {again.error}"
            for name, (other, flags) in others.items():
                found = other.run(**flags)
                assert found.same == first.same, f"step {step}, {name}: {found.error or first.error}"
        if first.error:
            return
        fresh = yard(tmp_path, base, "fresh").run()
        assert fresh.same == first.same
        cut = len(warm.record["layers"])
        assert cut > 2 if 0 < target < 100_000 else cut <= 2
        assert unpacked(warm.out / "hello-1.0.0.oci.tar", tmp_path / "unpacked") == first.tree

    private(job)
