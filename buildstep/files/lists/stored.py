"""Our own form of list: as it is stored, with times, or canonical, without."""

from __future__ import annotations

from buildstep.errors import StoreError
from buildstep.files.lists.gather import Faults, Gathering, Notes
from buildstep.files.lists.interface import Reading, ReadList, Writing, Written
from buildstep.system.text import shown_path
from buildstep.tree import entry as tree_entry
from buildstep.tree.entry import HEADER, FileList


class StoredForm:
    """All that a tree has; the page of lists describes it. A list of another tool's making is checked:
    a line that we would not write is a fault."""

    name = "buildstep"

    def matches(self, line: bytes) -> bool:
        return line + b"\n" == HEADER

    def read(self, data: bytes, reading: Reading) -> ReadList:
        if not data.startswith(HEADER):
            raise StoreError(f"{reading.source}: not a file list of a format that this version reads")
        found = Gathering(reading)
        rows = data[len(HEADER) :].split(b"\n")
        if rows.pop():
            found.fault(len(rows) + 2, "the line does not end: the list was cut off")
        before = None
        for line, row in enumerate(rows, 2):
            entry = _entry(row)
            if entry is None:
                found.fault(line, f"not a line of a list: {shown_path(row)}")
                continue
            if row.count(b"\t") == 8:
                found.note("times", "entries without a time, read as 1970-01-01", line, entry.path)
            if entry.kind == "f" and not entry.sha256:
                found.note("unhashed", "files of which the list names no content", line, entry.path)
            if before is not None and entry.path < before:
                found.note("unsorted", "lines that are not in the order of the paths", line, entry.path)
            before = entry.path
            found.add(entry, line)
        return found.finish()

    def write(self, entries: FileList, writing: Writing) -> Written:
        losses, faults = Notes(), Faults(f"the tree as a list of the form {self.name}")
        for path, entry in entries.items():
            if entry.kind == "f" and not entry.sha256:
                text = "files whose content was not read, and which the list cannot name"
                losses.add("unhashed", text, path)
                faults.add(shown_path(path), "its content was not read", "hash it first")
        if not writing.lossy:
            faults.check()
        return Written(lines=tree_entry.dumps(entries).splitlines(keepends=True), losses=losses.result())


def _entry(row: bytes) -> tree_entry.Entry | None:
    """Return the entry of a line; None for one that differs from what we would write of it."""
    try:
        entry = tree_entry.parse(row)
        text = tree_entry.line(entry)[:-1]
    except (ValueError, KeyError):
        return None
    stamped = row.count(b"\t") == 9
    return entry if row == (text + b"\t%d" % entry.mtime if stamped else text) else None
