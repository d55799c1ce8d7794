"""Writing services: each is complete before it has its name, so that a create that is killed leaves nothing
that is read."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from buildstep.services.create_requests import Draft
from buildstep.services.hrd import Document, parse
from buildstep.services.repository import (
    IDENTITY,
    INSTANCE_FILE,
    QUESTIONS_FILE,
    SERVICES,
    TEMPLATE_FILE,
    Repository,
    Service,
    folder_name,
    read_instance,
)
from buildstep.services.templates import INSTANCE, SCHEMA, SERVICE, Template
from buildstep.system.files import fsync_dir
from buildstep.system.remove import remove_tree

NEW = ".new-"
"""Begins the name of a directory in which services are written before they have their names."""
_NOT_COPIED = {SERVICE, INSTANCE, "__pycache__"}


def write(repository: Repository, drafts: Sequence[Draft]) -> list[Service]:
    """Write drafts, in their order, and add them to the repository, whose lock is held. Raises OSError.

    What an earlier call left, which was killed, is removed.
    """
    top = repository.root / SERVICES
    top.mkdir(parents=True, exist_ok=True)
    for left in top.glob(f"{NEW}*"):
        remove_tree(left)
    staging = top / f"{NEW}{os.getpid()}-{time.monotonic_ns()}"
    staging.mkdir()
    made: list[Service] = []
    try:
        for number, draft in enumerate(drafts):
            _fill(staging / str(number), draft)
        _sync(staging)
        for number, draft in enumerate(drafts):
            above = draft.parent.folder if draft.parent else top
            folder = above / folder_name(draft.key)
            os.rename(staging / str(number), folder)
            fsync_dir(above)
            made.append(read_instance(folder, draft.parent))
    finally:
        remove_tree(staging)
    repository.services.update({service.key: service for service in made})
    return made


def _sync(top: Path) -> None:
    """Make what was written durable: the few files of it, not all that others write to the same disk."""
    for path, _, files in os.walk(top):
        for name in files:
            file = Path(path, name)
            if not file.is_symlink():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        fsync_dir(path)


def _fill(folder: Path, draft: Draft) -> None:
    """Write a service's directory."""
    folder.mkdir()
    copy_template(draft.template, folder, instance=draft.key.instance)
    assert draft.instance is not None, draft.text
    (folder / INSTANCE_FILE).write_text(str(draft.instance), encoding="utf-8")


def copy_template(template: Template, folder: Path, *, instance: str) -> None:
    """Write what a service has of its template, all but its parameters. Raises OSError."""
    service = template_document(template, instance)
    (folder / TEMPLATE_FILE).write_text(str(service), encoding="utf-8")
    (folder / QUESTIONS_FILE).write_text(str(template.instance), encoding="utf-8")
    if (schema := template.hrd_file(SCHEMA)) is not None:
        shutil.copyfile(schema, folder / SCHEMA)
    for path in files_of(template):
        target = folder / path.relative_to(template.directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)


def template_document(template: Template, instance: str) -> Document:
    """Return the template.hrd of a service: service.hrd, and of which template and instance it is."""
    document = parse(str(template.service), where=TEMPLATE_FILE)
    for part in IDENTITY:
        document.set(part, instance if part == "instance" else getattr(template, part))
    return document


def files_of(template: Template) -> list[Path]:
    """Return the files beside a template's HRD files, sorted, those in its directories too: action files and
    what they need. A directory with a dot before its name is left out, and so is one that is a template."""
    found = []
    for top, directories, files in os.walk(template.directory):
        directories[:] = [
            name
            for name in directories
            if not name.startswith(".") and name not in _NOT_COPIED and not _is_template(Path(top, name))
        ]
        names = [*files, *(name for name in directories if Path(top, name).is_symlink())]
        skip = _NOT_COPIED | {SCHEMA} if Path(top) == template.directory else set()
        found += [Path(top, name) for name in names if name not in skip and not name.endswith(".flist")]
    return sorted(found)


def _is_template(path: Path) -> bool:
    return any((path / name).is_file() for name in (SERVICE, INSTANCE, SCHEMA))
