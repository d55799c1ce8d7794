"""Whether programs of another platform run here: what the kernel's list says, and a small program."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.errors import ToolMissing
from buildstep.formats.oci.spec import OciPlatform
from buildstep.rootfs import emulation
from buildstep.rootfs.emulation import probe, runs_here

HERE, ARM = OciPlatform.parse("linux/amd64"), OciPlatform.parse("linux/arm64")


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("enabled\ninterpreter /usr/bin/qemu\nflags: POF\noffset 0\n", True),
        ("enabled\ninterpreter /usr/bin/qemu\nflags: F\n", True),
        # Without it the kernel looks for the emulator in the image.
        ("enabled\ninterpreter /usr/bin/qemu\nflags: PO\n", False),
        ("disabled\ninterpreter /usr/bin/qemu\nflags: POF\n", False),
        ("", False),
    ],
)
def test_the_kernel_has_to_hold_an_emulator(tmp_path: Path, text: str, runs: bool) -> None:
    (tmp_path / "qemu-aarch64").write_text(text)
    assert runs_here(ARM, here=HERE, binfmt=tmp_path) is runs
    assert runs_here(HERE, here=HERE, binfmt=tmp_path)


@pytest.mark.parametrize(
    ("name", "machine", "bits", "order"),
    [
        ("386", 3, 1, "little"), ("amd64", 62, 2, "little"), ("arm", 40, 1, "little"),
        ("arm64", 183, 2, "little"), ("ppc64le", 21, 2, "little"), ("riscv64", 243, 2, "little"),
        ("s390x", 22, 2, "big"),
    ],
)  # fmt: skip
def test_a_program_that_is_tried_is_one_of_its_machine(
    name: str, machine: int, bits: int, order: str
) -> None:
    program = probe(name)
    assert program is not None
    assert program[:5] == b"\x7fELF" + bytes([bits])
    assert int.from_bytes(program[18:20], "little" if order == "little" else "big") == machine
    assert len(program) < 200


def test_what_cannot_run_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe("loong64") is None
    monkeypatch.setattr(emulation, "can_run", lambda _platform: False)
    with pytest.raises(ToolMissing) as caught:
        emulation.demand(ARM, "installing packages runs")
    assert caught.value.message.startswith(
        "installing packages runs programs of linux/arm64, which this machine, "
    )
    assert "qemu-user-static" in caught.value.hint
