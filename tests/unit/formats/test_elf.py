"""What ELF files need: of this machine's own programs, and of files that are damaged."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import pytest

from buildstep.formats import elf
from buildstep.system import process


@pytest.mark.commands("readelf")
@pytest.mark.skipif(process.find("readelf") is None, reason="readelf is not installed")
@pytest.mark.parametrize("program", [sys.executable, "/bin/sh", "/bin/ls"])
def test_what_programs_need_is_what_readelf_says(program: str) -> None:
    path = os.path.realpath(program)
    shown = process.query(["readelf", "-ld", path]).stdout
    with open(path, "rb") as stream:
        needs = elf.needs(stream)
    assert [os.fsencode(name) for name in re.findall(r"\(NEEDED\).*\[(.*)\]", shown)] == list(needs.libraries)
    assert os.fsencode(re.findall(r"interpreter: (.*)\]", shown)[0]) == needs.interpreter


def test_what_is_cut_short_or_damaged_needs_nothing_and_ends() -> None:
    data = Path(os.path.realpath("/bin/ls")).read_bytes()
    for size in (0, 3, 4, 20, 63, 64, 100, 800):
        assert isinstance(elf.needs(io.BytesIO(data[:size])), elf.Needs)
    for at in range(4, 1200, 7):
        changed = data[:at] + b"\xff" * 8 + data[at + 8 : 20000]
        assert isinstance(elf.needs(io.BytesIO(changed)), elf.Needs)
    assert elf.needs(io.BytesIO(b"#!/bin/sh\n" + bytes(100))) == elf.Needs()
