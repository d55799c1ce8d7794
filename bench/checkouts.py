"""Proto directories as CI has them: made anew before each run, in one place, with new inodes and times."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bench.model import Checkout
from bench.trees import Tree

_GIT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{
        f"GIT_{who}_{what}": "bench@localhost"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    },
}


def check_out(tree: Tree, kind: Checkout, folder: Path) -> Path:
    """Make a tree anew below a folder, and return the proto directory in it.

    `git` commits it first, in a repository beside, whose objects are not compressed: that is not what is
    measured.
    """
    place = folder / "checkout"
    shutil.rmtree(place, ignore_errors=True)
    if kind == "copy":
        place.mkdir(parents=True)
        # Modes are kept, times are not.
        _run("cp", "-R", "--no-dereference", "--preserve=mode,links", os.fspath(tree.root), f"{place}/proto")
        return place / "proto"
    repository = folder / "repository.git"
    if not repository.exists():
        _run("git", "init", "--quiet", "--bare", os.fspath(repository))
        _git(repository, "config", "core.looseCompression", "0")
        _git(repository, "config", "gc.auto", "0")
    _git(repository, "--work-tree", os.fspath(tree.root), "add", "--all", ".")
    rows = f"040000 tree {_git(repository, 'write-tree')}\tproto\n"
    commit = _git(repository, "commit-tree", "-m", "tree", _git(repository, "mktree", rows=rows))
    _git(repository, "update-ref", "HEAD", commit)
    _run("git", "clone", "--quiet", "--shared", os.fspath(repository), os.fspath(place))
    return place / "proto"


def _git(repository: Path, *words: str, rows: str = "") -> str:
    return _run("git", "--git-dir", os.fspath(repository), *words, rows=rows)


def _run(*argv: str, rows: str = "") -> str:
    done = subprocess.run(
        argv, input=rows, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **_GIT}
    )
    return done.stdout.strip()
