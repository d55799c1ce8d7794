"""`buildstep files import` and `export`: lists of other forms, with their contents, in and out of a store."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.files_options import Work, owner, with_work
from buildstep.cli.options import JSON, QUIET, show, tell
from buildstep.system.text import plural, size_text

if TYPE_CHECKING:
    from buildstep.files.interface import Storage
    from buildstep.files.lists.interface import Note, Owners


@click.command("import")
@click.argument("name", metavar="LIST", shell_complete=values.FILES)
@click.option(
    "--from",
    "form",
    metavar="FORM",
    shell_complete=values.FORMS,
    help="Its form, such as ays1 (default: as its first line tells).",
)
@click.option(
    "--objects",
    metavar="URL",
    shell_complete=values.STORES,
    help="Where its contents are: the store that it was made for.",
)
@click.option("--ref", metavar="NAME", default="", help="Set this name to the list, such as web/1.2.0.")
@click.option(
    "--conflicts",
    type=click.Choice(["refuse", "last"]),
    default="refuse",
    help="Where lines say different things of one path: refuse the list, or take the last line, as AYS did.",
)
@click.option(
    "--owner", metavar="UID:GID", callback=owner, help="Record this owner, not the ones that the list names."
)
@click.option(
    "--accounts",
    metavar="TREE",
    shell_complete=values.FOLDERS,
    help="Take the numbers of owners from etc/passwd and etc/group in this directory.",
)
@click.option(
    "--unknown-owner",
    metavar="N",
    type=click.IntRange(0, 2**32 - 2),
    help="The number of owners whose name is not known; else the list is refused.",
)
@with_work
@JSON
@QUIET
def import_(work: Work, name: str, objects: str | None, *, as_json: bool, quiet: bool, **how: Any) -> None:
    """Take over a list and its contents: AYS's, by MD5, or a list of ours from another store.

    LIST: a file, or the name of a list in the store of the contents, as DOMAIN__SERVICE. What is odd in it,
    and what had to be assumed, is told. Each content is verified. Where one is missing, all that are missing
    are named, and nothing is stored.
    """
    from buildstep.files import layout
    from buildstep.files.import_list import Order, import_list
    from buildstep.files.lists.interface import Reading
    from buildstep.files.places import state_folder
    from buildstep.report.progress import progress

    ref: str = how["ref"]
    if ref:
        layout.ref_name(ref)  # before anything is done
    source = work.storage(objects) if objects else None
    data = _list_data(name, source)
    given = how["owner"]
    unknown = how["unknown_owner"] if given is None else given[0]
    reading = Reading(source=name, conflicts=how["conflicts"], owners=_owners(how["accounts"], unknown))
    store = work.open()
    done = import_list(
        store,
        data,
        source,
        Order(form=how["form"], reading=reading, ref=ref, owner=given, state=state_folder(os.environ)),
        begin=partial(progress, "import", quiet=quiet),
    )
    # Whoever gives the owner need not know which names were not found.
    notes = [note for note in done.notes if given is None or note.kind != "owner"]
    _tell(notes)
    stored = done.stored
    value = {
        "store": store.storage.url,
        "ref": ref,
        "digest": stored.tree,
        "list": stored.digest,
        "form": done.form,
        "entries": stored.entries,
        "bytes": stored.size,
        "new_objects": done.new_objects,
        "new_bytes": done.new_bytes,
        "notes": [asdict(note) for note in notes],
    }
    line = (
        f"{ref or stored.digest}  {plural(stored.entries, 'path')}, {size_text(stored.size)};"
        f" {plural(done.new_objects, 'new content')} of {size_text(done.new_bytes)}"
    )
    show(value, [line], as_json=as_json, done=line)


@click.command("export")
@click.argument("name", metavar="LIST", shell_complete=values.REFS)
@click.argument("dest", metavar="DEST", shell_complete=values.STORES)
@click.option(
    "--to",
    "form",
    metavar="FORM",
    required=True,
    shell_complete=values.FORMS,
    help="ays1 or ays3: into a store as AYS reads it; buildstep: into another store of ours.",
)
@click.option("--name", "called", metavar="NAME", default="", help="What the list is called there.")
@click.option(
    "--lossy", is_flag=True, help="Leave out paths that the form cannot say; else that is an error."
)
@with_work
@JSON
@QUIET
def export(work: Work, name: str, dest: str, form: str, *, as_json: bool, quiet: bool, **how: Any) -> None:
    """Write a list and its contents to another store, in a form that others read.

    LIST: a ref, or a digest. AYS's readers find the contents in files/H0/H1/MD5 and the list in
    md/NAME.flist, if DEST is called dedupe. What the list cannot say is told. The contents come first, and
    the list last. Without --name it is called as the ref, with __ for each slash.
    """
    from buildstep.files.export_list import export_list
    from buildstep.files.lists import form_of
    from buildstep.files.lookup import find
    from buildstep.report.progress import progress

    form_of(form)  # before anything is read
    store = work.open()
    _ = store.settings
    done = export_list(
        store,
        find(store, name),
        work.storage(dest),
        form=form,
        name=how["called"],
        lossy=how["lossy"],
        begin=partial(progress, "export", quiet=quiet),
    )
    _tell(done.losses)
    value = {
        "store": done.url,
        "name": done.name,
        "form": form,
        "entries": done.entries,
        "objects": done.objects,
        "bytes": done.size,
        "new_objects": done.new_objects,
        "losses": [asdict(note) for note in done.losses],
    }
    line = (
        f"{done.name}  {plural(done.entries, 'path')}, {plural(done.objects, 'content')},"
        f" {done.new_objects:,} of them new"
    )
    show(value, [line], as_json=as_json, done=line)


def _list_data(name: str, source: Storage | None) -> bytes:
    """Return the bytes of a list: of a file, or of one that AYS's store has by name."""
    from buildstep.errors import UsageError
    from buildstep.files.ays_store import AysStore

    path = Path(name)
    if source is not None and "/" not in name and (path.is_dir() or not path.exists()):
        return AysStore(source).read_list(name)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the list {name}: {error.strerror}") from error


def _owners(accounts: str | None, unknown: int | None) -> Owners:
    from buildstep.errors import UsageError
    from buildstep.files.lists.interface import Owners
    from buildstep.system.accounts import TABLES
    from buildstep.system.root import Root

    if accounts is None:
        return Owners(unknown=unknown)
    tree = Root(Path(accounts))
    try:
        passwd, group = (tree.read("/" + table) for table in TABLES.values())
    except OSError as error:
        tables = " and ".join(TABLES.values())
        raise UsageError(f"cannot read {tables} in {accounts}: {error.strerror}") from error
    return Owners.of_tables(passwd, group, unknown=unknown)


def _tell(notes: Iterable[Note]) -> None:
    """Say what is odd or lost, whether or not progress is shown: nothing is lost in silence."""
    for note in notes:
        tell(f"{'left out' if note.left_out else 'note'}: {note}")
