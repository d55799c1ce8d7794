"""A small checkout for tests of what calls bin/build: our make and Jenkins files, and bin/ that writes down its calls.

What bin/build is asked is always recorded; whether it then really builds is up to the test. bin/buildstep runs
the commands that exist, and records those that do not.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]

_SHIM = """\
#!{python} -P
import json, os, sys
sys.path.insert(0, {repo!r})
name, argv, log = os.path.basename(sys.argv[0]), sys.argv[1:], {log!r}
shown = {{key: value for key, value in os.environ.items() if key.startswith("BUILDSTEP_KEY")}}
with open(log, "a") as stream:
    stream.write(json.dumps([name, argv, shown]) + "\\n")
if name == "build" and {fake!r}:
    from tests.checkouts import fake_build
    sys.exit(fake_build(argv, log))
from buildstep import cli
cli.COMMANDS.setdefault("make", ("buildstep.cli.make:command", ""))
cli.COMMANDS.setdefault("jenkins", ("buildstep.cli.jenkins:command", ""))
stands_in = argv[:2] == ["image", "publish"] or argv[0] == "doctor" or (argv[0] == "report" and {fake!r})
if name == "buildstep" and (argv[0] not in cli.COMMANDS or stands_in):
    sys.exit(int(os.environ.get("FAKE_" + argv[0].upper(), "0")))
sys.exit(cli.main(["build", *argv] if name == "build" else argv))
"""


@dataclass(frozen=True)
class Checkout:
    path: Path

    def calls(self, name: str = "build") -> list[list[str]]:
        """The arguments of each call so far."""
        return [row[1] for row in self._rows() if row[0] == name]

    def environments(self, name: str) -> list[dict[str, str]]:
        return [row[2] for row in self._rows() if row[0] == name]

    def manifests(self) -> list[Any]:
        """The m.json of each fake build, as bin/build reads it."""
        return [row[1] for row in self._rows() if row[0] == "manifest"]

    def forget(self) -> None:
        (self.path / "calls").unlink(missing_ok=True)

    def _rows(self) -> list[Any]:
        log = self.path / "calls"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def checkout(path: Path, *, fake: bool = True) -> Checkout:
    """Make one. fake: bin/build writes small files where the real one builds."""
    (path / "bin").mkdir(parents=True)
    for name in ("Makefile.inc", "Jenkinsfile"):
        shutil.copy(REPO / name, path / name)
    for name in ("make", "jenkins", "fixtures/component"):
        shutil.copytree(REPO / name, path / name, ignore=shutil.ignore_patterns("bits"))
    text = _SHIM.format(python=sys.executable, repo=str(REPO), log=str(path / "calls"), fake=fake)
    # A line that starts a script holds one argument and no blanks: sh finds the interpreter for us.
    shim = path / "bin" / "shim.py"
    shim.write_text(text)
    for name in ("build", "buildstep"):
        start = path / "bin" / name
        start.write_text(f'#!/bin/sh\nexec {sys.executable} -P "$(dirname "$0")/.{name}/{name}" "$@"\n')
        start.chmod(0o755)
        (path / "bin" / f".{name}").mkdir()
        shutil.copy(shim, path / "bin" / f".{name}" / name)
    return Checkout(path)


def fake_build(argv: list[str], log: str) -> int:
    """What bin/build does, as far as its callers see."""
    import os
    from datetime import UTC, datetime

    from buildstep.spec import template

    def option(name: str, default: str) -> str:
        return argv[argv.index(name) + 1] if name in argv else default

    source = option("--manifest", "")
    text = Path(source).read_text()
    if source.endswith(".j2"):
        given = [argv[at + 1].split("=", 1) for at, word in enumerate(argv) if word == "-D"]
        text = template.render(
            text,
            source=source,
            git=dict,
            moment=datetime.now(UTC),
            environ=os.environ,
            defines={pair[0]: pair[1] for pair in given},
        )
    document = json.loads(text)
    with open(log, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(["manifest", document, {}]) + "\n")
    if status := int(os.environ.get("FAKE_BUILD", "0")):
        return status
    if "--dry-run" in argv:
        return 0
    out = Path(option("--output-dir", f"bits/{document['name']}")).absolute()
    out.mkdir(parents=True, exist_ok=True)
    stem = f"{document['name']}-{document['version']}"
    image, manifest, record = (
        out / f"{stem}{it}" for it in (".oci.tar", ".imgmanifest", ".buildrecord.json")
    )
    for path in (image, manifest, record):
        path.write_text(json.dumps(document))
    print(json.dumps({"files": [{"path": str(image)}], "manifest": str(manifest), "record": str(record)}))  # noqa: T201
    return 0
