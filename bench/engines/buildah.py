"""buildah, and podman which builds with the same code: COPY in a Containerfile, layers kept, pushed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench.engines import common
from bench.engines.common import CONTAINED, PEERS, environment, lacking, size_of, version
from bench.model import Case, Command, Input

_SCRIPT = os.fspath(PEERS / "buildah.sh")


class Buildah:
    def __init__(self, tool: str) -> None:
        self.name = tool
        self.title = f"{tool} build --layers, push to an OCI archive"

    def missing(self) -> str:
        return lacking([self.name, "unshare"], f"Debian: apt-get install {self.name}")

    def versions(self) -> dict[str, str]:
        return {self.name: version(self.name, "--version")}

    def lacks(self, case: Case) -> str:
        return common.only_ours(case)

    def forget(self, source: Input, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if source.base is not None:
            argv = [*CONTAINED, "sh", _SCRIPT, "base", self.name, os.fspath(folder), os.fspath(source.base)]
            subprocess.run(argv, env=environment(folder), check=True, stdout=subprocess.DEVNULL, cwd=folder)

    def command(self, source: Input, folder: Path) -> Command:
        file = folder / "Containerfile"
        file.write_text(containerfile(source))
        argv: tuple[str, ...] = (*CONTAINED, "sh", _SCRIPT, "build", self.name, os.fspath(folder))
        argv += (os.fspath(source.proto), os.fspath(file), os.fspath(folder / "out.oci.tar"))
        return Command(argv=argv, env=environment(folder), cwd=folder)

    def empty(self, folder: Path) -> None:
        (folder / "out.oci.tar").unlink(missing_ok=True)

    def told(self, source: Input, folder: Path) -> dict[str, Any]:
        del source
        return {"bytes": size_of(folder / "out.oci.tar")}


def containerfile(source: Input) -> str:
    """What a careful user writes: packages before files, apt's downloads and lists kept in cache mounts."""
    lines = ["FROM localhost/bench-base" if source.base else "FROM scratch"]
    if source.packages:
        caches = "--mount=type=cache,target=/var/cache/apt --mount=type=cache,target=/var/lib/apt"
        # Keeping the downloads is what makes a second install comparable with ours.
        install = "apt-get -o APT::Keep-Downloaded-Packages=true install -y -q --no-install-recommends"
        names = " ".join(source.packages)
        lines.append(f"RUN {caches} apt-get update -q && DEBIAN_FRONTEND=noninteractive {install} {names}")
    lines.append("COPY . /")
    return "\n".join(lines) + "\n"
