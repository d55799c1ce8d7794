"""Compare a pool's own files with their digests, for `build.kept`."""

from __future__ import annotations

from collections.abc import Iterator

from buildstep.pool import journal
from buildstep.pool.damage import Damage
from buildstep.pool.interface import Backend
from buildstep.pool.layout import DirectoryPool
from buildstep.system.locks import try_lock


def marks(backend: Backend) -> Iterator[Damage]:
    """Say whether the file that marks a directory as a pool is what was written."""
    if isinstance(backend, DirectoryPool) and (problem := backend.mark_problem()):
        yield Damage(
            kind="pool", name=backend.mark.name, problem=problem, file=backend.mark,
            remedy="the next build writes it again", mend=backend.write_mark,
        )  # fmt: skip


def journals(backend: Backend) -> Iterator[Damage]:
    """Compare each line of the journals with its digest; of a build that is running, all but the last."""
    for path in sorted((backend.state / "journal").glob(f"*{journal.SUFFIX}")):
        try:
            with try_lock(path, shared=True, create=False) as dead:
                rows = path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            continue
        if wrong := journal.damaged_lines(rows if dead else rows[:-1]):
            yield Damage(
                kind="journal", name=path.stem, problem=f"line {wrong[0]} is not what was written", file=path,
                remedy="`buildstep heal` removes it, and what that build left",
            )  # fmt: skip
