"""Programs that no package owns: what they themselves say of what they are made of.

Each is read once, for all readers. A program that says nothing is told as unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from buildstep.formats.elf import MAGIC
from buildstep.formats.elf_sections import sections
from buildstep.system.text import shown_path
from buildstep.trust.inventory import cargo_audit, elf_note, go_buildinfo
from buildstep.trust.inventory.interface import Database, Reading
from buildstep.trust.inventory.model import Component, Origin

_LIMIT = 256 << 20
_LARGEST_SECTION = 16 << 20
_SMALLEST = 64
_MOST_NAMED = 5
_TEXTS = (
    b".py", b".pyc", b".sh", b".js", b".mjs", b".ts", b".css", b".html", b".htm", b".json", b".xml", b".txt",
    b".md", b".pl", b".pm", b".rb", b".php", b".lua", b".yml", b".yaml", b".conf", b".h", b".c", b".png",
    b".jpg", b".svg", b".gz", b".zip", b".jar",
)  # fmt: skip
"""Ends of names that no program has, whatever its mode."""

Read = Callable[[bytes, bytes, Origin], list[Component]]
READERS: Mapping[bytes, Read] = {
    go_buildinfo.SECTION: go_buildinfo.components,
    cargo_audit.SECTION: cargo_audit.components,
    elf_note.SECTION: elf_note.components,
}
"""One row a section: what reads its content, with the program's path and origin."""


def read(reading: Reading) -> None:
    """Add what the programs are made of that no package owns."""
    silent = []
    for path in _programs(reading):
        data = reading.read(path, limit=_LIMIT)
        if data is None:
            continue
        found = sections(data, READERS, _LARGEST_SECTION)
        origin = reading.source.origin(path)
        components = [row for name, content in found.items() for row in READERS[name](content, path, origin)]
        for component in components:
            reading.add(component)
        if all(component.name == go_buildinfo.STANDARD_LIBRARY for component in components):
            silent.append(path)  # also one in Go that was not built from modules
    if silent:
        named = ", ".join(shown_path(path) for path in silent[:_MOST_NAMED])
        more = f" and {len(silent) - _MOST_NAMED} more" if len(silent) > _MOST_NAMED else ""
        reading.tell(f"programs that do not say what they are made of: {named}{more}")


def _programs(reading: Reading) -> Iterator[bytes]:
    for path in reading.paths:
        entry = reading.entries[path]
        if entry.kind != "f" or entry.first or entry.size < _SMALLEST or path in reading.owned:
            continue
        may_be = entry.mode & 0o111 or b".so" in path[path.rfind(b"/") :]
        if may_be and not path.endswith(_TEXTS) and reading.source.head(path, len(MAGIC)) == MAGIC:
            yield path


DATABASE = Database(
    name="programs", what="modules of programs in Go and Rust, and notes of others", read=read
)
