"""`buildstep files list` and `remove`: what is in a store."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.files_options import Work, with_work
from buildstep.cli.options import JSON
from buildstep.cli.options import show as print_rows
from buildstep.system.text import plural, shown_path, size_text

if TYPE_CHECKING:
    from buildstep.tree.entry import Entry, FileList


@click.command("list")
@click.argument("name", metavar="[LIST]", required=False, shell_complete=values.REFS)
@click.option("--tree", "as_tree", is_flag=True, help="Draw the directories of LIST as a tree.")
@click.option(
    "--path", metavar="PATH", shell_complete=values.FOLDERS, default="", help="Only what is below it in LIST."
)
@with_work
@JSON
def list_(work: Work, name: str | None, as_tree: bool, path: str, as_json: bool) -> None:
    """List the refs of a store, newest first; or the paths of a list, as `ls -l` does.

    LIST: a ref; a list digest or a tree digest, or their first digits; file:PATH, a list in a file.
    """
    from buildstep.errors import UsageError

    if name is not None:
        _list_paths(work, name, as_tree, path, as_json)
    elif as_tree or path:
        raise UsageError("--tree and --path are for the paths of a list", hint="name one")
    else:
        _list_refs(work, as_json)


def _list_refs(work: Work, as_json: bool) -> None:
    from buildstep.files import refs

    store = work.open()
    _ = store.settings
    found = sorted(refs.every(store.storage), key=lambda ref: (-ref.created, ref.name))
    rows = [{key: value for key, value in asdict(ref).items() if key != "version"} for ref in found]
    width = max((len(ref.name) for ref in found), default=0)
    lines = (
        f"{ref.name:{width}}  {ref.list[:12]:12}  {ref.entries:8,} paths  {size_text(ref.size):>10}"
        f"  {_minute(ref.created)}"
        for ref in found
    )
    print_rows({"store": store.storage.url, "refs": rows}, lines, as_json=as_json)


def _list_paths(work: Work, name: str, as_tree: bool, path: str, as_json: bool) -> None:
    import os

    from buildstep.errors import UsageError
    from buildstep.files.lookup import find

    found = find(work.open(), name)
    below = os.fsencode(path.strip("/"))
    entries = {
        key: entry
        for key, entry in found.entries.items()
        if not below or key == below or key.startswith(below + b"/")
    }
    if not entries:
        raise UsageError(f"{name} has no path {path!r}")
    lines = _tree(entries, below) if as_tree else map(_line, (entries[key] for key in sorted(entries)))
    rows = [_json(entries[key]) for key in sorted(entries)] if as_json else []
    print_rows({"list": found.digest, "entries": rows}, lines, as_json=as_json)


@click.command("remove")
@click.argument("names", metavar="REF...", nargs=-1, required=True, shell_complete=values.REFS)
@with_work
@JSON
def remove(work: Work, names: tuple[str, ...], as_json: bool) -> None:
    """Remove refs. What only they kept is deleted by the next gc; nothing is removed if one is not there."""
    from buildstep.files import refs

    store = work.open()
    found = [refs.get(store.storage, name) for name in dict.fromkeys(names)]
    for ref in found:
        refs.remove(store.storage, ref)
    done = f"removed {plural(len(found), 'ref')}"
    print_rows({"removed": [ref.name for ref in found]}, [done], as_json=as_json, done=done)


# -- lines -------------------------------------------------------------------------------------------------


def _minute(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _mode(entry: Entry) -> str:
    from buildstep.tree.entry import TYPE_BITS

    return stat.filemode(TYPE_BITS[entry.kind] | entry.mode)


def _name(entry: Entry, path: bytes) -> str:
    if entry.kind == "l":
        return f"{shown_path(path)} -> {shown_path(entry.target)}"
    if entry.first:
        return f"{shown_path(path)} = {shown_path(entry.first)}"
    return shown_path(path)


def _line(entry: Entry) -> str:
    size = "{}, {}".format(*entry.rdev) if entry.kind in "cb" else str(entry.size)
    plus = "+" if entry.xattrs else " "
    return (
        f"{_mode(entry)}{plus} {entry.uid:5} {entry.gid:5} {size:>12} {_minute(entry.mtime / 1e9)}"
        f" {_name(entry, entry.path)}"
    )


def _tree(entries: FileList, top: bytes) -> Iterator[str]:
    children: dict[bytes, list[bytes]] = {}
    for path in sorted(entries):
        if path != top and path:
            children.setdefault(path.rpartition(b"/")[0], []).append(path)
    yield shown_path(top)
    pending: list[tuple[bytes, str, bool]] = []

    def push(parent: bytes, indent: str) -> None:
        below = children.get(parent, [])
        pending.extend((path, indent, path == below[-1]) for path in reversed(below))

    push(top, "")
    while pending:
        path, indent, last = pending.pop()
        entry = entries[path]
        size = f"  {size_text(entry.size)}" if entry.kind == "f" else ""
        yield f"{indent}{'└── ' if last else '├── '}{_name(entry, path.rpartition(b'/')[2])}{size}"
        push(path, indent + ("    " if last else "│   "))


def _json(entry: Entry) -> dict[str, Any]:
    """Return an entry for a program. Bytes that are no UTF-8 come as surrogate escapes (PEP 383)."""
    import os

    row: dict[str, Any] = {
        "path": os.fsdecode(entry.path),
        "kind": entry.kind,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime_ns": entry.mtime,
    }
    if entry.kind == "f":
        row |= {"size": entry.size, "sha256": entry.sha256}
    if entry.kind == "l":
        row["target"] = os.fsdecode(entry.target)
    if entry.kind in "cb":
        row["device"] = list(entry.rdev)
    if entry.first:
        row["first"] = os.fsdecode(entry.first)
    if entry.xattrs:
        row["xattrs"] = {os.fsdecode(name): value.hex() for name, value in entry.xattrs}
    return row
