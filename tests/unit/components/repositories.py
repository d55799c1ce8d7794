"""Repositories of components for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from buildstep.components.discover import Repository, discover
from buildstep.components.graph import Graph
from buildstep.components.interface import ReadOptions

NINE = Path(__file__).parents[3] / "fixtures" / "components"
"""The nine components of OpenPAI."""


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Write files below root/src, such as `a/build/a.common.dockerfile`; return root."""
    for name, text in files.items():
        path = root / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def images(root: Path, **texts: str) -> Path:
    """Write a component with one image for each Dockerfile, `_` in a name stands for `-`."""
    names = {name.replace("_", "-"): text for name, text in texts.items()}
    return write(root, {f"{name}/build/{name}.common.dockerfile": text for name, text in names.items()})


def found(root: Path, **options: object) -> Repository:
    return discover(root, ReadOptions(**options))  # type: ignore[arg-type]


def graph(root: Path, **options: object) -> Graph:
    return Graph(found(root, **options), ReadOptions(**options))  # type: ignore[arg-type]
