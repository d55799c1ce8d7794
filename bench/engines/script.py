"""The floor: rsync into a kept root, tar and zstd, nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from bench.engines import common
from bench.engines.common import PEERS, environment, lacking, size_of, version
from bench.model import Case, Command, Input


class Script:
    name = "script"
    title = "rsync, tar and zstd in a shell script"

    def missing(self) -> str:
        return lacking(["rsync", "tar", "zstd"], "Debian: apt-get install rsync tar zstd")

    def versions(self) -> dict[str, str]:
        return {tool: version(tool, "--version") for tool in ("rsync", "tar", "zstd")}

    def lacks(self, case: Case) -> str:
        return common.only_ours(case)

    def forget(self, source: Input, folder: Path) -> None:
        del source
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def command(self, source: Input, folder: Path) -> Command:
        argv = ("sh", os.fspath(PEERS / "script.sh"), os.fspath(folder), os.fspath(source.proto))
        return Command(argv=(*argv, os.fspath(folder / "out.tar.zst")), env=environment(folder), cwd=folder)

    def empty(self, folder: Path) -> None:
        (folder / "out.tar.zst").unlink(missing_ok=True)

    def told(self, source: Input, folder: Path) -> dict[str, Any]:
        del source
        return {"bytes": size_of(folder / "out.tar.zst")}
