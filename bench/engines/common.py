"""What the engines share: finding tools, asking their versions, an environment, a namespace around peers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.model import Case

PEERS = Path(__file__).parents[1] / "peers"
CHECKOUT = Path(__file__).parents[2]

# Around a peer: whatever it mounts or leaves running is gone when it ends, however it ends.
CONTAINED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def lacking(tools: Sequence[str], hint: str) -> str:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return f"{', '.join(missing)} not installed ({hint})" if missing else ""


def version(*argv: str) -> str:
    """The version number in what a tool says of itself, or the first line it says."""
    if shutil.which(argv[0]) is None:
        return "not installed"
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=600
    )
    lines = (done.stdout or done.stderr).strip().splitlines()
    if done.returncode != 0 or not lines:
        return "unknown"
    number = re.search(r"\bv?(\d+(\.\d+)+)\b", lines[0])
    return number[1] if number else lines[0].strip()


def environment(folder: Path) -> dict[str, str]:
    """The agent's environment without settings of ours, which would change what is measured."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("BUILDSTEP_") or key in ("BUILDSTEP_VENV", "BUILDSTEP_APT_MIRROR")
    }
    kept.pop("SOURCE_DATE_EPOCH", None)
    temporary = folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return {**kept, "LC_ALL": "C.UTF-8", "TMPDIR": os.fspath(temporary)}


def only_ours(case: Case) -> str:
    """Why a peer sits a case out that is about what only we have."""
    if case.formats or case.shared or case.program:
        return "has no such thing"
    if case.packages == "bumped":
        return "its packages are the mirror's: as one package added"
    return ""


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a directory."""
    try:
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files)
    except OSError:
        return 0
