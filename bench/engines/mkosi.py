"""mkosi: a Debian with packages and an extra tree. It makes its own base, kept in its incremental cache."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from bench.engines import common
from bench.engines.common import CONTAINED, PEERS, environment, lacking, size_of, version
from bench.model import Case, Command, Input
from bench.workloads import SUITE


class Mkosi:
    name = "mkosi"
    title = "mkosi --incremental, a tar archive"

    def missing(self) -> str:
        return lacking(["mkosi", "debootstrap", "systemd-nspawn"], "Debian: apt-get install mkosi")

    def versions(self) -> dict[str, str]:
        return {"mkosi": version("mkosi", "--version")}

    def lacks(self, case: Case) -> str:
        return common.only_ours(case)

    def forget(self, source: Input, folder: Path) -> None:
        del source
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def command(self, source: Input, folder: Path) -> Command:
        packages = ",".join(source.packages)
        argv: tuple[str, ...] = (
            *CONTAINED,
            "sh",
            os.fspath(PEERS / "mkosi.sh"),
            os.fspath(folder),
            SUITE,
            packages,
        )
        argv += (os.fspath(source.proto), os.fspath(folder / "out.tar.zst"))
        return Command(argv=argv, env=environment(folder), cwd=folder)

    def empty(self, folder: Path) -> None:
        (folder / "out.tar.zst").unlink(missing_ok=True)

    def told(self, source: Input, folder: Path) -> dict[str, Any]:
        del source
        return {"bytes": size_of(folder / "out.tar.zst")}
