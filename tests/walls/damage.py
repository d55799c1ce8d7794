"""Damage a file of a pool, build, and judge what came of it."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

from buildstep.build import kept
from buildstep.build.execute import execute
from buildstep.build.plan import plan
from buildstep.errors import BuildstepError
from buildstep.events import Bus
from buildstep.pool.heal import heal
from tests.integration.yard import EPOCH, Yard, environment

HARMS = ("flip", "cut", "remove")

SEED = int(os.environ.get("BUILDSTEP_FULL_SEED", "0"))
"""Another number damages other bytes of other files."""

Image = tuple[object, ...]


def hurt(pool: Path, patterns: Sequence[str], harm: str, dice: random.Random) -> Path:
    """Damage one of the files that these patterns name, and return it."""
    found = sorted(
        path
        for pattern in patterns
        for path in pool.glob(pattern)
        if path.is_file() and not path.is_symlink()
    )
    file = dice.choice(found)
    data = bytearray(file.read_bytes())
    if harm == "remove":
        file.unlink()
    elif not data:
        file.write_bytes(b"\0")
    elif harm == "flip":
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        file.write_bytes(data)
    else:
        os.truncate(file, dice.randrange(len(data)))
    return file


def build(yard: Yard, **flags: object) -> tuple[Image, BuildstepError | None]:
    """Heal and build as the command does; the image, and the error it ended with. Any other error is a bug."""
    environ = environment(EPOCH) | yard.environ
    try:
        store, cache = yard.open(Bus(), environ)
        heal(store.backend)
        decided = plan(yard.spec(environ, **flags), store, cache, environ=environ)
        result = execute(decided, store=store, cache=cache, bus=store.bus, environ=environ)
    except BuildstepError as error:
        return (), error
    files = {str(row["format"]): str(row["sha256"]) for row in result.files}
    return (files, result.tree_digest, ""), None


def wrong_outcome(done: Image, error: BuildstepError | None, wanted: Image, file: Path) -> str:
    """Say what is wrong with how a build ended that met a damaged file; empty if nothing is."""
    if error is None:
        return "" if done == wanted else "another image"
    text = f"{error} {error.detail} {error.hint}"
    good = error.hint and os.fspath(file) in text
    return "" if good else f"the message names no file or no remedy: {text}"


def unnoticed(yard: Yard, file: Path) -> str:
    """Say so where `cache verify` does not name this file."""
    store, _ = yard.open(Bus(), environment(EPOCH))
    found = kept.verify(store.backend, mend=False)
    if any(file.is_relative_to(row.file) for row, _ in found):
        return ""
    return f"`cache verify` did not find it, but {[(row.kind, row.problem) for row, _ in found]}"
