"""Tools from the npm registry: what others wrote, and judges what we wrote.

They are installed once, outside of the checkout, each version in a folder of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

VERSIONS = {
    "http-signature": "1.4.0",
    "npm-groovy-lint": "14.6.0",
    "sdc-clients": "13.0.6",
}
HERE = Path(__file__).parent


def installed(name: str, cache: Path) -> Path:
    """Return the node_modules folder with a tool, installed below `cache` if it is not there.

    No install script of any package runs. Raises CalledProcessError with npm's words where it cannot be had.
    """
    final = cache / "npm" / f"{name}-{VERSIONS[name]}"
    if not final.is_dir():
        final.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=final.parent))
        try:
            subprocess.run(
                ["npm", "install", "--prefix", aside, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error",
                 f"{name}@{VERSIONS[name]}"],
                check=True, stdin=subprocess.DEVNULL, timeout=300,
            )  # fmt: skip
            if not final.is_dir():  # another worker may have been faster
                aside.rename(final)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return final / "node_modules"


def node(script: str, *words: object, modules: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run one of the scripts of this folder."""
    return subprocess.run(
        ["node", HERE / script, *map(os.fspath, words)],  # type: ignore[arg-type]
        input=stdin, capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": os.environ["PATH"], "NODE_PATH": os.fspath(modules)},
    )  # fmt: skip


def packed(name: str, version: str, cache: Path) -> Path:
    """Return the archive of a package as the registry has it, fetched into `cache` if it is not there."""
    final = cache / "npm" / f"{name}-{version}.tgz"
    if not final.is_file():
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent) as aside:
            argv = ["npm", "pack", "--silent", "--pack-destination", aside, f"{name}@{version}"]
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, timeout=300)
            (file,) = Path(aside).iterdir()
            file.rename(final)
    return final
