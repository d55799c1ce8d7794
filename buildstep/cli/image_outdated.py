"""`buildstep image outdated`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, show, with_session

if TYPE_CHECKING:
    from buildstep.build.outdated import Outdated
    from buildstep.build.outdated_subject import Subject
    from buildstep.cli.session import Session
    from buildstep.rootfs.interface import Update
    from buildstep.spec.load import BuildSpec


@click.command("outdated")
@click.argument("word", metavar="IMAGE|RECORD|DIR|FILE", shell_complete=values.IMPORTABLE)
@click.option(
    "--security", is_flag=True, help="List and count of the packages those with a security problem only."
)
@click.option(
    "--exit-code", "judged", is_flag=True,
    help="Exit with 20 where something would change, or could not be asked.",
)  # fmt: skip
@with_session()
@click.option(
    "--source", "sources", multiple=True, metavar="URI", shell_complete=values.SOURCES,
    help="Look here for newer base images, and not where buildstep.toml says; repeat.",
)  # fmt: skip
@JSON
@click.option("-v", "--verbose", count=True, help="Show the tools' output.")
def command(session: Session, *, word: str, security: bool, judged: bool, as_json: bool) -> int:
    """List what would change in an image if it were built now: its base, and its packages.

    IMAGE is one in the store, or a locator such as docker://HOST/NAME:TAG; RECORD a build record, DIR a
    directory with one, FILE an image file. The source of the base is asked (a suite's Release file, a
    registry's tag, a repository), and the image's own package manager, in a copy of its files. Packages of
    security repositories are marked.
    """
    from dataclasses import replace

    from buildstep.build.outdated import outdated
    from buildstep.build.outdated_subject import subject_of
    from buildstep.errors import ExitCode
    from buildstep.pool.journal import open_journal

    subject = subject_of(word, session.store)
    with open_journal(session.backend.state, f"outdated {word}") as journal:
        found = outdated(subject, session.store, journal, _spec(session, subject))
    if security and found.packages is not None:
        found = replace(found, packages=found.security)
    show(found.to_json(), _lines(found), as_json=as_json)
    return ExitCode.GATE if judged and (found.count or found.unknown) else ExitCode.OK


def _spec(session: Session, subject: Subject) -> BuildSpec:
    """Return the settings of the build that made it, as far as they are about packages; or the usual."""
    import os
    from pathlib import Path

    from buildstep.cli.choices import choices
    from buildstep.spec import load as specs
    from buildstep.spec.document import Document

    build: dict[str, object] = {"image": "scratch"}
    if subject.record is not None:
        spec = subject.record.input("spec")
        options = _told(spec.get("installer_options") or {})
        assert isinstance(options, dict)
        options.pop("secrets", None)  # no record has what they are
        build |= {"installer_options": options} if options else {}
    document = {"name": "outdated", "version": "1", "build": build}
    flags = {"proto": os.fspath(session.backend.state), "output_dir": os.fspath(session.backend.state)}
    return specs.load(
        Document("the build record", document),
        flags=flags,
        environ=session.environ,
        cwd=Path.cwd(),
        choices=choices(),
    )


def _told(value: object) -> object:
    """Return what a record says of a setting as an m.json does, which has no key for what was not given."""
    if isinstance(value, dict):
        return {key: _told(item) for key, item in value.items() if item not in (None, "", [], {})}
    return [_told(item) for item in value] if isinstance(value, list) else value


def _lines(found: Outdated) -> Iterator[str]:
    """Yield the result for a person, with nothing in it that an image could do to a terminal."""
    from buildstep.system.text import printable

    yield from map(printable, _texts(found))


def _texts(found: Outdated) -> Iterator[str]:
    """Yield the base, a line for each package, and how many there are."""
    if found.base is not None:
        yield f"base: {found.base.text}"
    packages = found.packages or ()
    widths = [
        max((len(column) for column in column_of), default=0)
        for column_of in zip(*map(_row, packages), strict=True)
    ]
    for update in packages:
        cells = [cell.ljust(width) for cell, width in zip(_row(update), widths, strict=True)]
        yield "  ".join(cells).rstrip()
    if found.packages is None:
        yield f"packages: not known: {found.why}"
        return
    names = f"{found.subject.name}@{found.subject.version}".rstrip("@")
    yield f"{names}: {_summary(found)}"


def _row(update: Update) -> Sequence[str]:
    if not update.installed:
        change = f"new {update.candidate}"
    else:
        change = f"{update.installed} -> {update.candidate or 'none'}"
    name = f"{update.name}:{update.arch}" if update.arch not in ("", "all") else update.name
    return name, change, "security" if update.security else "", update.origin


def _summary(found: Outdated) -> str:
    from buildstep.system.text import plural

    count = len(found.packages or ())
    marked = f", {len(found.security)} of them for security" if found.security else ""
    parts = [
        f"{plural(count, 'package')} would change{marked}"
        if count
        else "all packages are as they would be now"
    ]
    if found.base is not None and found.base.state == "changed":
        parts.append("and it would have a new base")
    return ", ".join(parts)
