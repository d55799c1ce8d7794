"""Compiled modules by content: taken where source and bytes are the ones that were kept, and compiled anew otherwise."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from pathlib import Path

import pytest

from buildstep.system import bytecode
from buildstep.system.bytecode import Store

SOURCE = b"value = 1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kept").mkdir(mode=0o755)
    return tmp_path / "kept"


def keep(folder: Path, source: bytes = SOURCE, name: str = "buildstep.m") -> bool:
    return Store([os.fspath(folder)]).write(name, source, compile(source, "m.py", "exec"))


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_kept_is_found_by_the_content_of_the_source(folder: Path) -> None:
    assert keep(folder)
    store = Store([os.fspath(folder)])
    found = store.read("buildstep.m", SOURCE)
    assert found is not None
    assert marshal.loads(found[16:]) == compile(SOURCE, "m.py", "exec")
    assert store.read("buildstep.m", SOURCE + b"#") is None
    assert store.read("buildstep.n", SOURCE) is None


@pytest.mark.parametrize("harm", ["cut", "empty", "bit", "other"])
def test_a_damaged_file_counts_as_none(folder: Path, harm: str) -> None:
    keep(folder)
    (file,) = kept(folder)
    data = file.read_bytes()
    if harm == "other":
        other = next(b"value = %d\n" % n for n in range(2, 99) if _slot(b"value = %d\n" % n) == _slot(SOURCE))
        keep(folder, other)
        assert kept(folder) == [file]
    else:
        broken = {"cut": data[:-1], "empty": b"", "bit": data[:-1] + bytes([data[-1] ^ 1])}[harm]
        file.write_bytes(broken)
    assert Store([os.fspath(folder)]).read("buildstep.m", SOURCE) is None
    assert keep(folder)
    assert Store([os.fspath(folder)]).read("buildstep.m", SOURCE) is not None


def _slot(source: bytes) -> str:
    import hashlib

    return bytecode._slot("m", hashlib.sha256(source).digest())


def test_a_directory_does_not_grow_for_ever(folder: Path) -> None:
    for number in range(60):
        keep(folder, b"value = %d\n" % number)
    assert 1 < len(kept(folder)) <= bytecode.SLOTS


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_directory_that_others_can_write_is_not_used(folder: Path, mode: int) -> None:
    keep(folder)
    folder.chmod(mode)
    store = Store([os.fspath(folder)])
    assert store.read("buildstep.m", SOURCE) is None
    assert not keep(folder, b"value = 2\n")


def test_a_link_is_not_used(folder: Path, tmp_path: Path) -> None:
    keep(folder)
    (tmp_path / "link").symlink_to(folder)
    assert Store([os.fspath(tmp_path / "link")]).read("buildstep.m", SOURCE) is None


def test_all_are_read_and_the_last_is_written(folder: Path, tmp_path: Path) -> None:
    keep(folder)
    own = tmp_path / "home/cache"
    store = Store([os.fspath(folder), os.fspath(own)])
    assert store.read("buildstep.m", SOURCE) is not None
    assert store.write("buildstep.n", SOURCE, compile(SOURCE, "n.py", "exec"))
    assert len(kept(folder)) == 1
    assert len(kept(own)) == 1
    assert not Store(["relative"]).write("buildstep.n", SOURCE, compile(SOURCE, "n.py", "exec"))


PROGRAM = """
import os, sys
from buildstep.system import bytecode
bytecode.install(sys.argv[1], os.environ.get(bytecode.VARIABLE))
from pack import part
from pack.below import deep
import builtins
print(part.value, deep.value, part.__file__, part.function.__code__.co_filename, sep="\\n")
"""


@pytest.mark.commands
def test_modules_are_loaded_from_it_wherever_the_checkout_is(folder: Path, tmp_path: Path) -> None:
    """The second checkout, elsewhere and with other times, compiles nothing; tracebacks name its files."""
    times = []
    for number, name in enumerate(("one", "two")):
        pack = tmp_path / name / "pack"
        (pack / "below").mkdir(parents=True)
        for file in ("__init__.py", "below/__init__.py"):
            (pack / file).touch()
        (pack / "part.py").write_text("value = 1\ndef function() -> None: ...\n")
        (pack / "below/deep.py").write_text("value = 2\n")
        os.utime(pack / "part.py", (number, number))
        env = {"PYTHONPATH": f"{tmp_path / name}:{Path(bytecode.__file__).parents[2]}"}
        env[bytecode.VARIABLE] = f"{tmp_path}/none:{folder}"
        argv = [sys.executable, "-P", "-B", "-c", PROGRAM, os.fspath(pack)]
        told = subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout.split()
        part = os.fspath(pack / "part.py")
        assert told == ["1", "2", part, part]
        assert not list(pack.rglob("__pycache__"))
        times.append([path.stat().st_mtime_ns for path in kept(folder)])
    assert times[0] == times[1]
    assert len(times[0]) == 3  # the package itself was found before


def test_without_the_variable_nothing_changes() -> None:
    before = list(sys.path_hooks), sys.dont_write_bytecode
    bytecode.install("/nowhere", None)
    bytecode.install("/nowhere", "")
    assert (list(sys.path_hooks), sys.dont_write_bytecode) == before


def test_a_whole_package_is_compiled_at_once(folder: Path, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "__init__.py").write_text("")
    (pack / "part.py").write_text("value = 1\n")
    (pack / "broken.py").write_text("this is no Python\n")
    assert bytecode.fill(pack, os.fspath(folder)) == 2
    assert bytecode.fill(pack, os.fspath(folder)) == 0
    assert Store([os.fspath(folder)]).read("pack.part", b"value = 1\n") is not None


def test_a_folder_that_was_made_under_a_lax_umask_is_used_later(tmp_path: Path) -> None:
    folder = tmp_path / "home/.cache/kept"
    before = os.umask(0o002)
    try:
        assert keep(folder)
    finally:
        os.umask(before)
    assert Store([os.fspath(folder)]).read("buildstep.m", SOURCE) is not None
    assert keep(folder, b"value = 2\n")
