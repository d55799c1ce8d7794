"""Whether programs of another platform can be run on this machine: by itself, or by an emulator.

Source: binfmt_misc of the kernel (Documentation/admin-guide/binfmt-misc.rst): a file for each interpreter;
those of Debian's qemu-user-static are `qemu-` and the machine, as `uname -m` has it there. In a container
that directory is often not there, and what the kernel knows holds all the same: then a small program of that
platform is tried out, in a root with nothing else in it, as an image has no emulator of its own.
"""

from __future__ import annotations

import os
import re
import struct
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from buildstep.errors import CommandFailed, ToolMissing
from buildstep.formats.oci.spec import OciPlatform
from buildstep.system import bubblewrap, process

BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")

HINT: Final = "apt-get install qemu-user-static binfmt-support; or build on a machine of that platform"

_NATIVE: Final[Mapping[str, Collection[str]]] = {"amd64": ("386",), "arm64": ("arm",)}
"""Older machines whose programs a processor runs, as a rule."""

_QEMU: Final[Mapping[str, str]] = {
    "386": "i386", "amd64": "x86_64", "arm64": "aarch64", "loong64": "loongarch64", "mips64le": "mips64el",
    "mipsle": "mipsel",
}  # fmt: skip


def runs_here(platform: OciPlatform, *, here: OciPlatform | None = None, binfmt: Path = BINFMT) -> bool:
    """Return whether programs of a platform run on this machine, by itself or by an emulator that is seen.

    The kernel has to hold the emulator open (flag F), as it is not to be found in an image.
    """
    own = (here or OciPlatform.here()).architecture
    wanted = platform.architecture
    if wanted == own or wanted in _NATIVE.get(own, ()):
        return True
    try:
        text = (binfmt / f"qemu-{_QEMU.get(wanted, wanted)}").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False
    flags = re.search(r"(?m)^flags: *(.*)$", text)
    return text.startswith("enabled") and (flags is None or "F" in flags[1])


def can_run(platform: OciPlatform) -> bool:
    """Return whether programs of a platform run in an image here: as `runs_here` sees, or by trying."""
    return runs_here(platform) or _tried(platform.architecture)


def demand(platform: OciPlatform, what: str) -> None:
    """Raise ToolMissing where programs of a platform cannot be run. what: needs them, as `installing packages
    runs`."""
    if not can_run(platform):
        raise ToolMissing(
            f"{what} programs of {platform}, which this machine, {OciPlatform.here()}, cannot", hint=HINT
        )


# -- trying -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Machine:
    """What an ELF header says of a machine (System V ABI), and its instructions for `exit(0)`."""

    number: int
    code: bytes
    bits: int = 64
    order: str = "<"
    flags: int = 0


_MACHINES: Final[Mapping[str, _Machine]] = {
    "386": _Machine(number=3, bits=32, code=bytes.fromhex("b801000000 31db cd80")),
    "amd64": _Machine(number=62, code=bytes.fromhex("b83c000000 31ff 0f05")),
    "arm": _Machine(
        number=40, bits=32, flags=0x05000000, code=struct.pack("<3I", 0xE3A00000, 0xE3A07001, 0xEF000000)
    ),
    "arm64": _Machine(number=183, code=struct.pack("<3I", 0xD2800000, 0xD2800BA8, 0xD4000001)),
    "ppc64le": _Machine(number=21, flags=2, code=struct.pack("<3I", 0x38000001, 0x38600000, 0x44000002)),
    "riscv64": _Machine(number=243, code=struct.pack("<3I", 0x00000513, 0x05D00893, 0x00000073)),
    "s390x": _Machine(number=22, order=">", code=bytes.fromhex("a7290000 0a01")),
}


def probe(architecture: str) -> bytes | None:
    """Return a static program that ends with status 0 at once; None for a processor that is not known."""
    machine = _MACHINES.get(architecture)
    if machine is None:
        return None
    wide, order = machine.bits == 64, machine.order
    base = 0x10000
    header, segment = (64, 56) if wide else (52, 32)
    entry, size = base + header + segment, header + segment + len(machine.code)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    address = "Q" if wide else "I"
    head = struct.pack(
        f"{order}HHI3{address}I6H", 2, machine.number, 1, entry, header, 0, machine.flags, header, segment, 1,
        0, 0, 0,
    )  # fmt: skip
    # One segment, that is loaded and may be run: the file as it is.
    if wide:
        load = struct.pack(f"{order}2I6Q", 1, 5, 0, base, base, size, size, 0x1000)
    else:
        load = struct.pack(f"{order}8I", 1, 0, base, base, size, size, 5, 0x1000)
    return ident + head + load + machine.code


@cache
def _tried(architecture: str) -> bool:
    program = probe(architecture)
    if program is None:
        return False
    with tempfile.TemporaryDirectory(prefix="buildstep-probe-") as folder:
        path = Path(folder, "probe")
        path.write_bytes(program)
        path.chmod(0o755)
        argv = [
            bubblewrap.program(),
            "--unshare-net",
            "--die-with-parent",
            "--ro-bind",
            folder,
            "/",
            "/probe",
        ]
        try:
            process.query(argv, env=process.base_env(os.environ))
        except (CommandFailed, ToolMissing):
            return False
    return True
