"""This project's build, called as its users call it: `bin/build`, a whole process each time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.engines.common import CHECKOUT, environment, size_of, version
from bench.model import Case, Command, Input

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
        if source.base is None or source.image:
            return
        empty = folder / "empty"
        empty.mkdir()
        warm = Input(name="warm", tree=source.tree, base=source.base, place=empty)
        command = _command(self._build, folder, _manifest(warm, folder / "warm.json"), warm)
        subprocess.run(command.argv, env=dict(command.env), check=True, stdout=subprocess.DEVNULL, cwd=folder)

    def command(self, source: Input, folder: Path) -> Command:
        manifest = _manifest(source, folder / "m.json")
        command = _command(self._program(source, folder), folder, manifest, source)
        env = dict(command.env)
        if source.program:
            env = {**self._environment(), **env}
        if source.repository:  # this machine is not reached by a build unless it is said
            env["BUILDSTEP_NETWORK_ALLOW"] = urlsplit(source.repository).netloc
        return replace(command, env=env)

    def lacks(self, case: Case) -> str:
        missing = [name for name in case.formats if name not in self._formats()]
        if missing:
            return f"this checkout has no format {', '.join(missing)}"
        if case.shared and "--shared-cache" not in self._ask("build", "--help"):
            return "this checkout has no shared cache"
        return ""

    def _formats(self) -> list[str]:
        schema = json.loads(self._ask("schema"))
        found: list[str] = schema["properties"]["build"]["properties"]["formats"]["items"]["enum"]
        return found

    def _ask(self, *words: str) -> str:
        argv = [os.fspath(self._checkout / "bin/buildstep"), *words]
        return subprocess.run(
            argv, capture_output=True, text=True, check=True, env=self._environment()
        ).stdout

    def _environment(self) -> dict[str, str]:
        """Ours, with the checkout's environment by name: checkouts made for a run have none of their own."""
        return {**os.environ, "BUILDSTEP_VENV": os.environ.get("BUILDSTEP_VENV") or f"{self._checkout}/.venv"}

    def _program(self, source: Input, folder: Path) -> str:
        """What is run: this checkout's bin/build, or that of a new copy, all of whose times are new."""
        if not source.program:
            return self._build
        copy = folder / "program"
        shutil.rmtree(copy, ignore_errors=True)
        left_out = shutil.ignore_patterns("__pycache__")
        for name in ("bin", "scripts", "buildstep"):
            shutil.copytree(
                self._checkout / name, copy / name, symlinks=True, ignore=left_out, copy_function=shutil.copy
            )
        shutil.copy(self._checkout / "pyproject.toml", copy)
        return os.fspath(copy / "bin/build")

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


def _manifest(source: Input, path: Path) -> Path:
    base = f"tar:{source.base}" if source.base else "scratch"
    build: dict[str, Any] = {
        "image": source.image or base,
        "formats": list(source.formats or ("oci",)),
        "sparse": True,
    }
    if source.packages:
        build |= {"packages": list(source.packages), "installer": "apt", "order": "packages-first"}
    if source.repository:
        ours = {"name": "bench", "uris": [source.repository], "suites": ["./"], "trusted": True}
        build["installer_options"] = {"repositories": [ours]}
    if source.shared:
        build["cache"] = {"shared": source.shared, **({"budget": 300} if source.fills else {})}
    value = {
        "name": f"bench-{source.name}", "version": _VERSION, "os": "linux", "type": "other", "build": build
    }  # fmt: skip
    path.write_text(json.dumps(value))
    return path


def _command(build: str, folder: Path, manifest: Path, source: Input) -> Command:
    argv = [build, "--quiet", "--manifest", os.fspath(manifest)]
    argv += ["--output-dir", os.fspath(folder / "out"), "--pool", f"overlay:{folder}/pool"]
    return Command(argv=(*argv, os.fspath(source.proto)), env=environment(folder), cwd=folder)
