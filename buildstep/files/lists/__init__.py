"""The forms of file lists, one row each; a list is read in any of them, and written."""

from __future__ import annotations

import io

from buildstep.errors import StoreError, UsageError
from buildstep.files.lists.interface import ListForm, Reading, ReadList, Writing, Written
from buildstep.system.registry import Registry, importing
from buildstep.tree.entry import FileList

LISTS: Registry[type[ListForm]] = Registry(
    "lists",
    "form of list",
    {
        "buildstep": importing("buildstep.files.lists.stored:StoredForm"),
        "ays1": importing("buildstep.files.lists.ays1:Ays1Form"),
        "ays3": importing("buildstep.files.lists.ays3:Ays3Form"),
    },
)


def form_of(name: str) -> ListForm:
    """Return a form by name. Raises UsageError if there is none."""
    kind = LISTS.find(name)
    if kind is None:
        raise UsageError(f"no form of list is called {name!r}", hint=LISTS.hint(name))
    return kind()


def detect(data: bytes) -> str | None:
    """Return the name of the form that a list, or its beginning, has; None if it is none of ours.

    The first line that is not blank tells. A beginning must hold it whole.
    """
    line = next((row for row in io.BytesIO(data) if row.strip()), b"").removesuffix(b"\n")
    return next((name for name, kind in LISTS.items() if kind().matches(line)), None)


def read_list(data: bytes, form: str | None = None, reading: Reading | None = None) -> ReadList:
    """Read a list. form: a name of LISTS, None to tell it by the first line.

    Raises UsageError for a form that is not there, StoreError for a list of no known form, SpecError with
    every fault of the list.
    """
    reading = reading or Reading()
    name = form or detect(data)
    if name is None:
        what = "is empty" if not data.strip() else "has no form that is known"
        hint = f"say which of {', '.join(LISTS.names())} it is"
        raise StoreError(f"{reading.source}: the list {what}", hint=hint)
    return form_of(name).read(data, reading)


def write_list(entries: FileList, form: str, writing: Writing | None = None) -> Written:
    """Write a list. Raises UsageError for a form that is not there, SpecError for what it cannot say."""
    return form_of(form).write(entries, writing or Writing())
