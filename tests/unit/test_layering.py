"""One ordered list of rooms: a room imports only rooms before it, and outside packages have one door."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "buildstep"

ROOMS = [
    "errors",
    "events",
    "system",
    "tree",
    "formats",
    "spec",
    "pool",
    "rootfs",
    "report",
    "net",
    "files",
    "trust",
    "checks",
    "emit",
    "cache",
    "images",
    "build",
    "assets",
    "components",
    "services",
    "cli",
    "__main__",
]
"""Bottom up. A module lies in the room that is the first part of its path; `buildstep/__init__.py` belongs to
none, as it holds nothing but the version."""

FLAT = {"__init__", "__main__", "errors", "events"}
"""The only modules that lie in no folder."""

SEAMS = {
    "pool", "rootfs/installers", "rootfs/cleaners", "checks", "files", "files/lists", "emit", "images/sources",
    "images/publishers", "report", "build/steps", "build/doctor", "assets",
    "components", "services", "trust/inventory", "trust/keys", "trust/sbom", "trust/signatures",
    "trust/vulnerabilities/feeds", "trust/vulnerabilities/orders",
}  # fmt: skip
"""Folders whose `__init__.py` holds the table of a seam. Its rows do not import it at start-up."""

DOORS = {
    "click": {"cli/*"},
    "sh": {"system/process"},
    "subprocess": {"system/process", "services/runtime/*"},
    "requests": {"net/*"},
    "urllib3": {"net/*"},
    "boto3": {"net/s3", "net/credentials"},
    "botocore": {"net/s3", "net/s3_account", "net/credentials"},
    "jenkins": {"net/jenkins"},
    "consul": {"net/consul"},
    "distributed": {
        "components/executors/dask",
        "components/executors/dask_cluster",
        "components/executors/dask_task",
    },
    "libzfs_core": {"pool/zfs_library"},
    "jinja2": {"spec/template", "report/*", "services/runtime/service"},
    "rich": {"report/*"},
    "markupsafe": {"report/*"},
    "deflate": {"formats/codecs"},
    "isal": {"formats/decompress"},
    "blake3": {"formats/content_cut"},
    "pyfastcdc": {"formats/content_cut"},
    "yaml": {"components/settings"},
    "zstandard": {"formats/codecs", "formats/decompress", "formats/zfs_stream", "formats/zstd_patch"},
    "pkcs11": {"trust/keys/pkcs11"},
    "cryptography": {"trust/*"},
}
"""Outside packages, and the only modules that import them."""

AT_START = {"net/transport", "report/bars", "cli/*"}
"""Modules that may import an outside package when they are imported: the field demands it (click), or nothing
of them is imported before it is needed (transport, bars)."""

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 7

LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
MANY_PARAMETERS: dict[str, str] = {}
"""What is over a limit, and the reason."""


class Import(NamedTuple):
    """One imported name. target: our module, or an outside package; top: made whenever the module is."""

    module: str
    target: str
    name: str
    line: int
    top: bool

    def __str__(self) -> str:
        return f"buildstep/{self.module}.py:{self.line} imports {self.name} of {self.target}"


def path_of(module: str) -> Path:
    return PACKAGE / f"{module}.py"


def fits(module: str, pattern: str) -> bool:
    return module.startswith(pattern[:-1]) if pattern.endswith("/*") else module == pattern


def room_of(module: str) -> str:
    return module.partition("/")[0]


def _our_module(name: str) -> str:
    """The module of ours that a dotted name is in: buildstep.tree.entry.Entry is in tree/entry."""
    parts = name.split(".")[1:]
    for length in range(len(parts), -1, -1):
        path = "/".join(parts[:length])
        if path and path_of(path).is_file():
            return path
        if (PACKAGE / path / "__init__.py").is_file():
            return f"{path}/__init__".lstrip("/")
    raise AssertionError(name)


def _imports(module: str) -> Iterator[Import]:
    tree = ast.parse(path_of(module).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"buildstep/{module}.py:{node.lineno}: a relative import"
            names = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for base, name in names:
            ours = base == "buildstep" or base.startswith("buildstep.")
            target = _our_module(f"{base}.{name}") if ours else base.partition(".")[0]
            yield Import(module, target, name, node.lineno, node in tree.body)


MODULES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))
ALL = [found for module in MODULES for found in _imports(module)]
OURS = [found for found in ALL if found.target in MODULES and found.target != "__init__"]


def test_every_module_is_in_a_room() -> None:
    assert [module for module in MODULES if module != "__init__" and room_of(module) not in ROOMS] == []
    assert {module for module in MODULES if "/" not in module} == FLAT
    assert [room for room in ROOMS if not any(room_of(module) == room for module in MODULES)] == []


def test_no_room_imports_a_later_one() -> None:
    wrong = [
        found
        for found in OURS
        if found.module != "__init__"
        and ROOMS.index(room_of(found.target)) > ROOMS.index(room_of(found.module))
    ]
    assert [str(found) for found in wrong] == []


def test_no_module_imports_a_private_name_of_another() -> None:
    wrong = [found for found in OURS if found.name.startswith("_") and found.name != "__version__"]
    assert [str(found) for found in wrong] == []


def test_there_is_no_circle_at_import() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in OURS:
        if found.top and found.target != found.module:
            graph[found.module].add(found.target)
    TopologicalSorter(graph).prepare()


def test_the_rows_of_a_table_do_not_import_the_table() -> None:
    wrong = [
        found
        for found in OURS
        if found.target.removesuffix("/__init__") in SEAMS
        and found.target.endswith("/__init__")
        and found.module.startswith(found.target.removesuffix("__init__"))
        and found.top
    ]
    assert [str(found) for found in wrong] == []


def test_outside_packages_are_imported_in_one_place_each() -> None:
    known = {*sys.stdlib_module_names} - {"subprocess"}
    wrong = []
    for found in ALL:
        if found.target in MODULES or found.target in known:
            continue
        doors = DOORS.get(found.target)
        if doors is None:
            wrong.append(f"{found}: name it, and where it may be imported, in this file")
        elif not any(fits(found.module, door) for door in doors):
            wrong.append(f"{found}: only {', '.join(sorted(doors))} may")
    assert wrong == []


def test_outside_packages_are_imported_on_use() -> None:
    wrong = [
        str(found)
        for found in ALL
        if found.target in DOORS
        and found.target != "subprocess"
        and found.top
        and not any(fits(found.module, pattern) for pattern in AT_START)
    ]
    assert wrong == []


def _functions(module: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.walk(ast.parse(path_of(module).read_text())):
        if isinstance(node, ast.FunctionDef):
            yield f"{module}:{node.name}", node


def _parameters(node: ast.FunctionDef) -> int:
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_files_and_functions_are_short() -> None:
    long_files = {
        module for module in MODULES if len(path_of(module).read_text().splitlines()) > MAX_FILE_LINES
    }
    functions = [row for module in MODULES for row in _functions(module)]
    long = {name for name, node in functions if (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES}
    many = {name for name, node in functions if _parameters(node) > MAX_PARAMETERS}
    assert (long_files, long, many) == (set(LONG_FILES), set(LONG_FUNCTIONS), set(MANY_PARAMETERS))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_docstring_of_a_sentence(module: str) -> None:
    text = path_of(module).read_text()
    if text.strip():
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, f"buildstep/{module}.py has no docstring"
        assert docstring.split("\n")[0].rstrip().endswith((".", ":", ",")) or "\n" in docstring
