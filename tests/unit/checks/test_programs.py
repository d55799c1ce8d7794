"""Scripts and programs that cannot start, and texts that name the CI host: found in files on a disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from buildstep.checks import programs, texts
from buildstep.checks.image_tree import ImageTree
from buildstep.checks.interface import Finder, Found, Subject
from buildstep.formats import elf
from buildstep.tree.entry import FileList
from buildstep.tree.scan import scan


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("bin/sh", "usr/bin/env", "usr/bin/python3"):
        lay(tmp_path / "tree", name, "program", 0o755)
    lay(tmp_path / "tree", "etc/plain", "text", 0o644)
    return tmp_path / "tree"


def lay(top: Path, name: str, text: str, mode: int = 0o755) -> None:
    path = top / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, newline="")
    path.chmod(mode)


def found(
    finder: Finder, top: Path, *, others: Sequence[bytes] = (), hosts: Sequence[str] = ()
) -> list[Found]:
    entries: FileList = dict(sorted(scan(top).items()))
    subject = Subject(
        tree=ImageTree(entries), base={}, added=list(entries.values()), own=lambda path: path not in others,
        top=top, host_paths=hosts,
    )  # fmt: skip
    return list(finder(subject))


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("#!/bin/sh", ""), ("#! /bin/sh -e", ""), ("#!/usr/bin/env python3", ""), ("#!/usr/bin/env -S python3 -u", ""),
        ("#!/usr/bin/env A=b python3", ""), ("#!/usr/bin/env -u X python4", ""), ("no script", ""), ("#![feature(x)]", ""),
        ("#!/usr/bin/env ./there", "./there"), ("#!/usr/bin/perl -w", "/usr/bin/perl, which is not in the image"),
        ("#!/usr/bin/env node", "node (#!/usr/bin/env node), which is nowhere on the image's PATH"),
        ("#!/bin/sh\r", "carriage return"), ("#!/etc/plain", "which is no program"), ("#!/usr/bin", "which is no program"),
        ("#!/proc/self/exe", ""),
    ],
)  # fmt: skip
def test_first_lines_of_scripts(top: Path, line: str, wrong: str) -> None:
    lay(top, "srv/run", f"{line}\necho\n")
    lay(top, "srv/not-run", "#!/gone\n", 0o644)
    rows = found(programs.shebang, top)
    assert [row.path for row in rows] == ([b"srv/run"] if wrong else [])
    assert all(wrong in row.text and row.grave for row in rows)


def test_scripts_of_what_an_application_takes_from_others_are_a_warning(top: Path) -> None:
    lay(top, "srv/app/node_modules/x/bin.js", "#!/usr/bin/env node\n")
    assert [row.grave for row in found(programs.shebang, top)] == [False]
    assert found(programs.shebang, top, others=[b"srv/app/node_modules/x/bin.js"]) == []


def test_programs_without_their_loader_or_libraries(top: Path) -> None:
    program = os.path.realpath("/bin/ls")
    (top / "opt").mkdir()
    shutil.copy(program, top / "opt/ls")
    loader = found(programs.library, top)
    assert [row.path for row in loader] == [b"opt/ls"]
    assert "to be loaded, which is not in the image" in loader[0].text
    with open(program, "rb") as stream:
        needs = elf.needs(stream)
    lay(top, os.fsdecode(needs.interpreter).lstrip("/"), "x")
    assert {row.text for row in found(programs.library, top)} == {
        f"needs the library {os.fsdecode(name)}, which is not in the image" for name in needs.libraries
    }
    for name in needs.libraries:
        lay(top, f"opt/lib/{os.fsdecode(name)}", "x", 0o644)
    assert found(programs.library, top) == []


def test_paths_of_the_ci_host_in_texts(top: Path) -> None:
    lay(top, "etc/a", "one\nhome=/home/ci/job/proto/x\n", 0o644)
    lay(top, "etc/binary", "\0/home/ci/job/proto", 0o644)
    lay(top, "etc/other", "/home/ci/job/protocol /x/home/ci/job/proto /etc", 0o644)
    rows = found(texts.host_path, top, hosts=["/home/ci/job/proto", "/etc", "/usr/bin"])
    assert rows == [Found(b"etc/a", "has a path of the CI host in line 2: /home/ci/job/proto")]
    lay(top, "home/ci/job/proto/x", "", 0o644)
    assert found(texts.host_path, top, hosts=["/home/ci/job/proto"]) == []
