"""Modules stack: a lower one does not know that a higher one exists, and outside packages have one door."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "buildstep"

BASE = """
    __init__ errors events log process platform rootwalk fsutil mounts namespaces
"""
"""L0 may import what is listed before it."""

MODEL = """
    filelist interfaces rules manifestfields manifest template specfields specdoc spec layerkey pooldir journal
    tarfmt tarread compress parts layerparts decompress zstream native readpass proxies loans leftovers outputs ociconfig record
    config excludes frames statlines protoscan protowhy compare makestate agents eventlog resolution buildlog
"""
"""L1 may import L0 and itself, without a circle."""

DRIVERS = """
    clients/* datasets/* installers/* emitters/* sources/* publishers/* sandbox cleaners cas provenance/* sync
    unpack
"""
"""L2 may import L0 and L1, never each other; CHANNELS has the ways between them that are meant."""

FLOWS = """
    artifacts remote imagerecord imagefile images imagegc cache layers pruning steps shipping keys amend growth planning underway packagelayer pipeline doctor/* components/* publish pull services/* report/*
"""
"""L3 may import all below it and what is listed before it here."""

FRONT = """
    cli/* __main__
"""
"""L4 may import everything."""

CHANNELS = {
    "datasets/*": {"datasets/*"},
    "installers/*": {"installers/*"},
    "emitters/*": {"emitters/*"},
    "clients/*": {"clients/*"},
    "sources/*": {"sources/*", "clients/*", "unpack"},
    "publishers/*": {"publishers/*", "clients/*"},
}
"""A table imports its own drivers, drivers what they share; sources and publishers a client."""

DOORS = {
    "click": {"cli/*"},
    "sh": {"process"},
    "subprocess": {"process"},
    "requests": {"clients/*"},
    "urllib3": {"clients/*"},
    "boto3": {"clients/s3", "clients/credentials"},
    "botocore": {"clients/s3", "clients/credentials"},
    "consul": {"clients/consul"},
    "jenkins": {"clients/jenkins"},
    "libzfs_core": {"datasets/zfs", "datasets/zfslib"},
    "jinja2": {"template", "report/*", "services/*"},
    "rich": {"log", "report/*"},
    "markupsafe": {"report/*"},
    "isal": {"compress", "decompress"},
    "zstandard": {"compress", "decompress", "zstream"},
    "cryptography": {"clients/sshkeys", "provenance/*"},
}
"""Outside packages, and the only modules that import them."""


class Import(NamedTuple):
    """One import statement. top: at module level, so that it is made whenever the module is."""

    module: str
    target: str
    line: int
    top: bool

    def __str__(self) -> str:
        return f"buildstep/{self.module}.py:{self.line} imports {self.target}"


def modules() -> list[str]:
    return sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))


def fits(module: str, pattern: str) -> bool:
    return module.startswith(pattern[:-1]) if pattern.endswith("/*") else module == pattern


def place(module: str) -> tuple[int, int, str] | None:
    """(level, position in it, the table's row) of a module."""
    for level, names in enumerate((BASE, MODEL, DRIVERS, FLOWS, FRONT)):
        for position, pattern in enumerate(names.split()):
            if fits(module, pattern):
                return level, position, pattern
    return None


def imports(module: str) -> Iterator[Import]:
    """Every import of a module: ours by path in the package, others by their top-level name."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert node.level == 0, f"buildstep/{module}.py:{node.lineno}: a relative import"
            base = node.module or ""
            names = (
                [f"{base}.{alias.name}" for alias in node.names] if base.startswith("buildstep") else [base]
            )
        for name in names:
            yield Import(module, _ours(name) or name.partition(".")[0], node.lineno, node in tree.body)


def _ours(name: str) -> str:
    """The module of ours that a dotted name is in: buildstep.filelist.Entry is in filelist."""
    parts = name.split(".")
    if parts[0] != "buildstep":
        return ""
    for length in range(len(parts), 0, -1):
        path = "/".join(parts[1:length])
        if path and (PACKAGE / f"{path}.py").is_file():
            return path
        if (PACKAGE / path / "__init__.py").is_file():
            return f"{path}/__init__" if path else "__init__"
    return ""


ALL = [found for module in modules() for found in imports(module)]
OURS = set(modules())


def test_every_module_has_a_level() -> None:
    missing = [module for module in modules() if place(module) is None]
    assert missing == [], "add them to a level in this file"


def test_every_row_stands_for_something_or_is_planned() -> None:
    planned = {
        "cas",
        "provenance/*",
        "components/*",
        "publish",
        "pull",
        "services/*",
        "report/*",
        "clients/consul",
    }
    rows = {row for names in (BASE, MODEL, DRIVERS, FLOWS, FRONT) for row in names.split()}
    for row in sorted(rows - planned):
        assert any(fits(module, row) for module in modules()), f"{row} is gone: take it out of its level"


def faults() -> Iterator[str]:
    for found in ALL:
        if found.target not in OURS:
            continue
        here, there = place(found.module), place(found.target)
        if here is None or there is None or found.target in (found.module, "__init__"):
            continue
        (level, position, row), (other, other_position, other_row) = here, there
        if other > level:
            yield f"{found}, which is of a higher level (L{level} -> L{other})"
        elif other == level in (0, 3) and other_position > position:
            yield f"{found}, which is listed later in L{level}"
        elif other == level == 2 and row != other_row and other_row not in CHANNELS.get(row, ()):
            yield f"{found}: drivers meet through interfaces, not each other"


def test_no_module_knows_a_higher_one() -> None:
    assert list(faults()) == []


def test_a_tables_drivers_do_not_know_the_table() -> None:
    wrong = [
        found
        for found in ALL
        if found.target.endswith("/__init__")
        and found.module.rpartition("/")[0] == found.target.rpartition("/")[0]
        and found.target.partition("/")[0] in ("datasets", "installers", "emitters", "publishers")
        and found.top
    ]
    assert [str(found) for found in wrong] == []


def test_outside_packages_are_imported_in_one_place_each() -> None:
    known = {*sys.stdlib_module_names} - {"subprocess"}
    wrong = []
    for found in ALL:
        if found.target in OURS or found.target in known or found.target == "buildstep":
            continue
        doors = DOORS.get(found.target)
        if doors is None:
            wrong.append(f"{found}: name it, and where it may be imported, in this file")
        elif not any(fits(found.module, door) for door in doors):
            wrong.append(f"{found}: only {', '.join(sorted(doors))} may")
    assert wrong == []


def test_costly_or_optional_packages_are_imported_on_use() -> None:
    costly = {"sh", "rich", "requests", "boto3", "botocore", "jenkins", "libzfs_core", "jinja2", "isal", "zstandard", "consul", "cryptography"}  # fmt: skip
    wrong = [str(found) for found in ALL if found.target in costly and found.top and found.module != "clients/transport"]  # fmt: skip
    assert wrong == []


def test_there_is_no_circle_at_import() -> None:
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for found in ALL:
        if found.top and found.target in OURS and found.target != found.module:
            graph[found.module].add(found.target)
    from graphlib import TopologicalSorter

    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", modules())
def test_a_module_has_a_docstring_of_a_sentence(module: str) -> None:
    text = (PACKAGE / f"{module}.py").read_text()
    if text.strip():
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, f"buildstep/{module}.py has no docstring"
        assert docstring.split("\n")[0].rstrip().endswith((".", ":", ",")) or "\n" in docstring
