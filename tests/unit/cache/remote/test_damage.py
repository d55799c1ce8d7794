"""A bit that flips anywhere in a store: never in what a build gets, always named, and made good by the next."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from buildstep.cache.remote.interface import Gone, Output, Record, Seed, Settings, Unusable, Wanted
from buildstep.cache.remote.names import shared_key
from buildstep.cache.remote.store import SharedStore
from buildstep.events import Bus
from tests.rounds import rounds
from tests.unit.cache.remote.layers import tree, write_layer
from tests.unit.cache.remote.test_policy import pair

ROUNDS = rounds(1000, 150)


def wanted(number: int) -> Wanted:
    return ("packages", shared_key("packages", {"number": number}))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings, list[Output]]:
    """A store with two versions of a layer, a list in its record, and a file that has no parts."""
    top = tmp_path_factory.mktemp("full")
    key = pair(top, "main")
    (top / "policy.toml").write_text(
        f'format = 1\n[[key]]\nname = "main"\npublic = "{key.public}"\nscopes = ["main"]\n'
    )
    settings = Settings(url=f"dir:{top}/store", policy=top / "policy.toml", key=key.private)
    outputs = []
    with SharedStore.open(settings, {}, Bus()) as store:
        for number, contents in enumerate((tree(6), tree(6, updated=2))):
            layer = write_layer(top / f"layer{number}", contents)
            (top / f"list{number}").write_bytes(random.Random(number).randbytes(30_000))
            plain = Output(name="list", digest=_sha256(top / f"list{number}"), size=30_000)
            few = Output(name="few", digest=_sha256_of(b"few"), size=3)
            record = Record(
                kind="packages",
                key=wanted(number)[1],
                outputs=(layer, plain, few),
                slot="x",
                made_at=1.0 + number,
            )
            files: dict[str, Path | bytes] = {
                "layer": top / f"layer{number}",
                "list": top / f"list{number}",
                "few": b"few",
            }
            assert store.put(record, files, seeds=[top / "layer0"]), store.troubles
            outputs += [layer, plain, few]
    return top, settings, outputs


def _sha256_of(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _sha256(path: Path) -> str:
    return _sha256_of(path.read_bytes())


def test_no_flipped_bit_is_ever_used(full: tuple[Path, Settings, list[Output]], tmp_path: Path) -> None:
    top, settings, outputs = full
    objects = [path for path in (top / "store").rglob("*") if path.is_file() and path.stat().st_size]
    kinds = {path.relative_to(top / "store").parts[0] for path in objects}
    assert kinds == {"ac", "cas"}
    assert len(objects) == 2 + 2 + 2 + 2 + 1  # records, lists, packs, tables, a patch
    state = random.Random(7)
    named = 0
    for round_ in range(ROUNDS):
        path = objects[round_ % len(objects)]
        bit = state.randrange(8 * path.stat().st_size)
        _flip(path, bit)
        try:
            named += _read_all(top, settings, outputs, tmp_path, path)
        finally:
            _flip(path, bit)
    # A bit of base64 or of a name for people may stand for nothing; whatever it is, nothing wrong is used.
    assert named > 0.95 * ROUNDS


def _flip(path: Path, bit: int) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(fd, 1, bit // 8)[0] ^ (1 << bit % 8)
        os.pwrite(fd, bytes([byte]), bit // 8)
    finally:
        os.close(fd)


def _read_all(top: Path, settings: Settings, outputs: list[Output], folder: Path, damaged: Path) -> bool:
    """Fetch all there is, as fresh agents and as those that have the older layer; return whether it was named."""
    with SharedStore.open(settings, {}, Bus()) as store:
        found = store.find([wanted(0), wanted(1)], deadline=10)
        for number in (0, 1):
            record = found.get(wanted(number))
            for output in record.outputs if record else ():
                real = next(one for one in outputs[3 * number :] if one.name == output.name)
                target = folder / "target"
                old = [Seed(top / "layer0", outputs[0].digest)]
                for seeds in ([], old) if output.parts and number else ([],):
                    try:
                        store.fetch(output, target, seeds=seeds)
                    except (Unusable, Gone):
                        assert not target.exists()
                        continue
                    assert _sha256(target) == real.digest
                    target.unlink()
        return any(damaged.name in text for text in store.troubles)
