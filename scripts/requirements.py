"""What pyproject.toml asks for, and what of it an environment lacks: bin/setup runs it with that Python.

python -I scripts/requirements.py list|lacks PYPROJECT EXTRAS
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any


def wanted(project: dict[str, Any], extras: list[str]) -> list[str]:
    """Requirements of a project with some extras; an extra that names others of the project is followed."""
    found: dict[str, None] = dict.fromkeys(project["dependencies"])
    todo, done = list(extras), set[str]()
    while todo:
        extra = todo.pop(0)
        if extra in done:
            continue
        done.add(extra)
        for requirement in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{re.escape(project['name'])}\[(.*)\]", requirement)
            if own:
                todo += [name.strip() for name in own[1].split(",")]
            else:
                found[requirement] = None
    return list(found)


def lacking(requirements: list[str]) -> Iterator[str]:
    """What this environment does not have, a sentence for each."""
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert name is not None, requirement
        try:
            there = metadata.version(name[0])
        except metadata.PackageNotFoundError:
            yield f"{requirement} is not installed"
            continue
        if not _meets(there, requirement):
            yield f"{requirement} is asked for, {there} is installed"


def _meets(version: str, requirement: str) -> bool:
    """Whether a version is one that a requirement takes; where nothing can tell, it is."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        try:
            from pip._vendor.packaging.requirements import Requirement
        except ImportError:
            return True
    return bool(Requirement(requirement).specifier.contains(version, prereleases=True))


def main() -> int:
    """Print one a line."""
    what, path, extras = sys.argv[1:]
    project = tomllib.loads(Path(path).read_text())["project"]
    found = wanted(project, extras.split(","))
    lowest = re.fullmatch(r">=(\d+)\.(\d+)", project["requires-python"])
    assert lowest is not None, project["requires-python"]
    if what == "lacks":
        found = list(lacking(found))
        if sys.version_info[:2] < (int(lowest[1]), int(lowest[2])):
            found.append(f"Python {project['requires-python']} is asked for, it has {sys.version.split()[0]}")
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
