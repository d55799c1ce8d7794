"""The modules of each room, in reading order, each with the first sentence of its docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from scripts.markdown import table

TOP = Path(__file__).parents[1]


def modules(room: str) -> list[Path]:
    """Return the files of a room, each before those it uses, as far as imports at the top of a file show.

    Directories stay together, each with its `__init__.py` first.
    """
    folder = TOP / "buildstep" / room
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    names = {_dotted(path): path for path in files}
    sorter: TopologicalSorter[Path] = TopologicalSorter(dict.fromkeys(reversed(files), ()))
    for path in files:
        if path.name != "__init__.py":  # the table of a seam names its rows
            sorter.add(path, *sorted({names[name] for name in _imported(path) if name in names} - {path}))
    order = reversed(list(sorter.static_order()))
    return sorted(order, key=lambda path: (path.parent.as_posix(), path.name != "__init__.py"))


def _dotted(path: Path) -> str:
    parts = path.relative_to(TOP).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, or nothing."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = " ".join(text.partition("\n\n")[0].split())
    return re.sub(r"\. (?=[A-Z]).*", ".", sentence)


def room_table(room: str) -> str:
    """Return the table of a room."""
    rows = (
        (f"`{path.relative_to(TOP / 'buildstep').as_posix()}`", first_sentence(path))
        for path in modules(room)
    )
    return table(("module", "what it does"), rows)
