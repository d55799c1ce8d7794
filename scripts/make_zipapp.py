"""Make dist/buildstep.pyz: buildstep and all that it needs in one file that Python runs.

    python -m scripts.make_zipapp [--python PYTHON] [--extras all] [OUTPUT]

What is native in it is for the Python and the processor that it is made with; elsewhere the file says so.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TOP = Path(__file__).parents[1]
SHEBANG = b"#!/usr/bin/env python3\n"


def install(python: str, extras: str, work: Path) -> Path:
    """Have pip install buildstep and its requirements into a directory, compiled."""
    source, lib, venv = work / "source", work / "lib", work / "venv"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, source)
    # From a copy, since setuptools writes into the directory it builds in.
    shutil.copytree(TOP / "buildstep", source / "buildstep", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([python, "-m", "venv", venv], check=True)
    inner = venv / "bin/python"
    argv = [inner, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    if wheels := os.environ.get("BUILDSTEP_WHEELS"):
        argv += ["--no-index", "--find-links", wheels]
    wanted = f"{source}[{extras}]" if extras else os.fspath(source)
    subprocess.run([*argv, "--target", lib, wanted], check=True)
    shutil.rmtree(lib / "bin", ignore_errors=True)  # programs that start from where they were installed
    for folder in [*lib.rglob("tests"), *lib.rglob("test")]:
        shutil.rmtree(folder, ignore_errors=True)
    # Found by hash and not by time: what is unpacked has other times.
    compiling = ["-m", "compileall", "-q", "-s", lib, "--invalidation-mode", "unchecked-hash", lib]
    subprocess.run(
        [inner, *compiling], check=False, stdout=subprocess.DEVNULL
    )  # some have tests for Python 2
    return lib


def needs(python: str, lib: Path) -> str:
    """The Python and processor that the file is for, or `any any`."""
    if not any(lib.rglob("*.so")):
        return "any any"
    code = "import os, sys; print(sys.implementation.cache_tag, os.uname().machine)"
    done = subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def pack(lib: Path, wanted: str, output: Path) -> None:
    """Write the file: entries in order and without times, so that the same content gives the same bytes."""
    files = sorted(path for path in lib.rglob("*") if path.is_file())
    digest = hashlib.sha256(wanted.encode())
    for path in files:
        digest.update(f"{path.relative_to(lib)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.part")
    with part.open("wb") as stream:
        stream.write(SHEBANG)
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:

            def add(name: str, data: bytes) -> None:
                info = zipfile.ZipInfo(name)
                info.external_attr = 0o100644 << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, data)

            add("__main__.py", (TOP / "scripts/zipapp/__main__.py").read_bytes())
            add("needs", f"{digest.hexdigest()} {wanted}\n".encode())
            for path in files:
                add(f"lib/{path.relative_to(lib)}", path.read_bytes())
    part.chmod(0o755)
    part.rename(output)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make buildstep.pyz.")
    parser.add_argument("--python", default=sys.executable, help="the Python that it is for")
    parser.add_argument("--extras", default="all", help="extras of pyproject.toml; empty: none")
    parser.add_argument("output", nargs="?", type=Path, default=TOP / "dist/buildstep.pyz")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zipapp-") as work:
        lib = install(options.python, options.extras, Path(work))
        pack(lib, needs(options.python, lib), options.output)
    size = options.output.stat().st_size / 1e6
    sys.stdout.write(f"{options.output} ({size:.0f} MB)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
