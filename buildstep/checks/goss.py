"""Files of goss, run in the image by the CI host's goss, which is one program without libraries.

What its JSON output looks like: goss's manual, "validate", output format `json`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from buildstep.checks.expressions import shown
from buildstep.checks.image import Image, Test
from buildstep.rootfs.run_image import How
from buildstep.system import process

PROGRAM: Final = "goss"
_PLACE: Final = "/run/buildstep-goss"
_ANSWER: Final = 16 << 20
_TIMEOUT: Final = 300
"""Seconds that all tests of a file may take."""


def run(test: Test, image: Image) -> Iterator[str]:
    """Yield what goss finds wrong. test: the `name` of its file, and its `text`. Raises ToolMissing."""
    with tempfile.TemporaryDirectory(prefix="buildstep-goss-") as name, image.enter() as inside:
        folder = Path(name)
        folder.chmod(0o755)  # the image's user reads them
        shutil.copyfile(process.which(PROGRAM), folder / PROGRAM)
        (folder / PROGRAM).chmod(0o755)
        (folder / "goss.yaml").write_text(test["text"], encoding="utf-8")
        (folder / "goss.yaml").chmod(0o644)
        argv = [f"{_PLACE}/{PROGRAM}", "--gossfile", f"{_PLACE}/goss.yaml", "validate", "--format", "json"]
        with inside.share(folder, _PLACE):
            done = inside.call(argv, How(timeout=_TIMEOUT), answer=_ANSWER)
        if done.problem:
            yield f"goss: {done.problem}"
            return
        try:
            found = json.loads(done.stdout)
            yield from _failed(found)
        except (ValueError, KeyError, TypeError):
            yield f"goss ended with status {done.status} and said {shown(done.stdout or done.stderr)}"


def _failed(found: Any) -> Iterator[str]:
    for row in found["results"]:
        if not row["successful"] and not row.get("skipped", False):
            yield str(row.get("summary-line-compact") or row.get("summary-line") or row.get("resource-id"))
