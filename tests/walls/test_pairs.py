"""Pairs of builds that begin at once in one pool, with prune, gc and heal looping beside them: all are right."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import demand
from tests.integration.support import LIMIT, Lab, host_state, none_left, write_base
from tests.rounds import rounds

PAIRS = rounds(50, 2)
LOOPS = (("cache", "prune"), ("image", "gc", "--unused", "0"), ("heal",))
"""Commands that remove what nobody uses."""

PACKAGES = ("one-1", "two-1", "three-1")
SHAPES = ("same everything", "same base", "same layer", "same proto directory", "no cache")
"""What the two builds of a pair have in common."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("root", "namespaces", "overlay", "busybox", "rsync")
    return write_base(tmp_path_factory.mktemp("base") / "base.tar")


def make_lab(top: Path, base: Path, packages: tuple[str, ...]) -> Lab:
    """A place to build in. Its proto directory is the same in every lab."""
    lab = Lab(top=top, base=base, environ={"SOURCE_DATE_EPOCH": "1700000000"})
    for number in range(20):
        (lab.proto / f"file{number}").write_text(f"{number}\n" * 200)
    lab.manifest(build={"order": "packages-first", "packages": list(packages)})
    return lab


def start(lab: Lab, proto: Path, *arguments: str) -> subprocess.Popen[str]:
    argv = [*lab.argv("--json", *arguments)[:-1], os.fspath(proto)]
    return subprocess.Popen(
        argv, env=lab.env(), cwd=lab.top, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@contextlib.contextmanager
def looping(lab: Lab) -> Iterator[list[str]]:
    """Run the removers again and again, beside each other; yields what went wrong with them."""
    wrong: list[str] = []
    over = threading.Event()

    def loop(words: tuple[str, ...]) -> None:
        while not over.is_set():
            done = lab.command(*words, "--pool", lab.uri)
            if done.status != 0:
                wrong.append(f"{' '.join(words)}: status {done.status}\n{done.stdout}{done.stderr}")
            over.wait(0.2)

    threads = [threading.Thread(target=loop, args=(words,)) for words in LOOPS]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        over.set()
        for thread in threads:
            thread.join()


def run_pair(rng: random.Random, top: Path, base: Path, pool: str, number: int) -> list[tuple[Lab, str]]:
    """Start two builds of one kind; returns each with the packages that it asked for."""
    shape = SHAPES[number % len(SHAPES)]
    packages = rng.choice(PACKAGES)
    other = rng.choice(PACKAGES) if shape in ("same base", "same proto directory", "no cache") else packages
    first = make_lab(top / "first", base, (packages,))
    second = make_lab(top / "second", base, (other,))
    flags = ("--no-cache",) if shape == "no cache" else ()
    options = [["--pool", pool, *flags], ["--pool", pool]]
    if shape == "same everything":
        options[1] += ["-o", os.fspath(first.out)]
    proto = first.proto if shape == "same proto directory" else second.proto
    children = [start(first, first.proto, *options[0]), start(second, proto, *options[1])]
    for child in children:
        _, err = child.communicate(timeout=LIMIT)
        assert child.returncode == 0, f"pair {number}, {shape}: status {child.returncode}\n{err}"
    return [(first, packages), (first if shape == "same everything" else second, other)]


def test_pairs_beside_prune_gc_and_heal(base: Path, tmp_path: Path) -> None:
    rng = random.Random(12)
    right = {}
    for name in PACKAGES:
        made = make_lab(tmp_path / f"alone-{name}", base, (name,)).built()
        right[name] = {row["sha256"] for row in made["files"]}
    shared = make_lab(tmp_path / "shared", base, ())
    before = host_state(tmp_path)
    with looping(shared) as wrong:
        for number in range(PAIRS):
            for lab, packages in run_pair(rng, tmp_path / f"pair{number}", base, shared.uri, number):
                written = {digest for name, (_, digest) in lab.outputs().items() if name.endswith(".oci.tar")}
                assert written == right[packages], f"pair {number}"
    assert wrong == []
    assert none_left(os.fspath(tmp_path)) == []
    assert host_state(tmp_path) == before
    assert shared.leftovers() == []
    checked = shared.command("cache", "verify", "--pool", shared.uri)
    assert checked.status == 0, checked.stdout + checked.stderr
    made = shared.built("-p", "one-1")
    assert {row["sha256"] for row in made["files"]} == right["one-1"]
