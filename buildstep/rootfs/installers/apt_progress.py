"""How far apt is: by what it writes to APT::Status-Fd, and by the files that it has fetched.

The lines are `pmstatus:PACKAGE:PERCENT:WHAT` (apt's README.progress-reporting). They go into a file in memory
that is read when somebody looks: nobody has to keep up with apt, and it waits for nobody. apt closes the
descriptor before it starts dpkg, so that no script of a package has it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO

from buildstep.errors import CommandFailed
from buildstep.events import Bus, Reading
from buildstep.rootfs.installers.apt_archives import Archive

_LINE = re.compile(rb"^pmstatus:.*?:([0-9]+)(?:\.[0-9]+)?:(.*)$", re.MULTILINE)
_END = 4096
"""Bytes at the end of what apt wrote that are looked at."""


@contextlib.contextmanager
def changing(bus: Bus, title: str) -> Iterator[tuple[str, int]]:
    """Show how far an apt is that changes packages. Yields an option for it and a descriptor that it gets;
    an error of the command does not tell of the option, which means nothing to who runs it again."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(os.fdopen(os.memfd_create("apt-status"), "rb"))
        word = f"-oAPT::Status-Fd={file.fileno()}"
        stack.enter_context(bus.job(title, 100, unit="percent", read=partial(_reading, file)))
        try:
            yield word, file.fileno()
        except CommandFailed as error:
            error.argv = tuple(part for part in error.argv if part != word)
            error.detail = error.detail.replace(f"{word} ", "")
            raise


def _reading(file: IO[bytes]) -> Reading:
    fd = file.fileno()
    size = os.fstat(fd).st_size
    found = _LINE.findall(os.pread(fd, _END, max(0, size - _END)))
    if not found:
        return Reading(0)
    percent, what = found[-1]
    return Reading(min(100, int(percent)), text=what.decode(errors="replace")[:200])


@contextlib.contextmanager
def fetching(bus: Bus, folder: Path, archives: Sequence[Archive]) -> Iterator[None]:
    """Show how much of package files has come into a directory, or the `partial` in it."""
    total, names = sum(archive.size for archive in archives), {archive.name for archive in archives}
    with bus.job("download packages", total, files=len(names), read=lambda: _fetched(folder, names)):
        yield


def _fetched(folder: Path, names: set[str]) -> Reading:
    size = files = 0
    for place in (folder, folder / "partial"):
        with contextlib.suppress(FileNotFoundError), os.scandir(place) as entries:
            for entry in entries:
                if entry.name in names and entry.is_file(follow_symlinks=False):
                    size += entry.stat(follow_symlinks=False).st_size
                    files += place is folder
    return Reading(size, files)
