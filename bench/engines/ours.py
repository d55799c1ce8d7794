"""This project's build, called as its users call it: `bin/build`, a whole process each time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench.engines.common import CHECKOUT, environment, size_of, version
from bench.model import Command, Input

_VERSION = "1.0.0"


class Ours:
    name = "ours"
    title = "buildstep"

    def __init__(self, checkout: Path = CHECKOUT) -> None:
        """checkout: whose `bin/build` is measured."""
        self._build = os.fspath(checkout / "bin/build")
        self._checkout = checkout

    def missing(self) -> str:
        return "" if os.geteuid() == 0 else "measured as root, like the others"

    def versions(self) -> dict[str, str]:
        asked = ["git", "-C", os.fspath(self._checkout), "describe", "--always", "--dirty", "--tags"]
        return {
            "buildstep": version(self._build, "--version"),
            "commit": version(*asked),
        }

    def forget(self, source: Input, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if source.base is None:
            return
        empty = folder / "empty"
        empty.mkdir()
        manifest = _manifest("warm", source.base, (), folder / "warm.json")
        command = _command(self._build, folder, manifest, empty)
        subprocess.run(command.argv, env=dict(command.env), check=True, stdout=subprocess.DEVNULL, cwd=folder)

    def command(self, source: Input, folder: Path, extra: tuple[str, ...]) -> Command:
        packages = (*source.packages, *extra)
        manifest = _manifest(source.name, source.base, packages, folder / "m.json")
        return _command(self._build, folder, manifest, source.tree.root)

    def empty(self, folder: Path) -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)

    def told(self, source: Input, folder: Path) -> dict[str, Any]:
        path = folder / "out" / f"bench-{source.name}-{_VERSION}.buildrecord.json"
        record = json.loads(path.read_text())
        size = sum(size_of(Path(item["path"])) for item in record["artifacts"])
        if path.stat().st_mtime < (folder / "m.json").stat().st_mtime:
            return {"bytes": size}  # what is there was left as it is, with the record of its making
        return {
            "bytes": size,
            "counts": record.get("counts", {}),
            "steps": {step["name"]: step["seconds"] for step in record["steps"]},
        }


def _manifest(name: str, base: Path | None, packages: tuple[str, ...], path: Path) -> Path:
    build: dict[str, Any] = {
        "image": "scratch" if base is None else f"tar:{base}",
        "formats": ["oci"],
        "sparse": True,
    }
    if packages:
        build |= {"packages": list(packages), "installer": "apt", "order": "packages-first"}
    value = {"name": f"bench-{name}", "version": _VERSION, "os": "linux", "type": "other", "build": build}
    path.write_text(json.dumps(value))
    return path


def _command(build: str, folder: Path, manifest: Path, proto: Path) -> Command:
    argv = [build, "--quiet", "--manifest", os.fspath(manifest)]
    argv += ["--output-dir", os.fspath(folder / "out"), "--pool", f"overlay:{folder}/pool", os.fspath(proto)]
    return Command(argv=tuple(argv), env=environment(folder), cwd=folder)
