"""`buildstep files diff`: what differs between two images, trees or lists, and limits on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from buildstep.cli import values
from buildstep.cli.files_options import with_work
from buildstep.cli.options import JSON, POOL, echo, print_json

if TYPE_CHECKING:
    from buildstep.cli.files_options import Work
    from buildstep.cli.files_side import Opening
    from buildstep.files.compare_gate import Gate, Growth
    from buildstep.files.compare_report import Diff


def _growth(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Growth | None:
    from buildstep.files.compare_gate import Growth

    try:
        return None if value is None else Growth.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_OPTIONS = (
    click.argument("old", metavar="OLD", shell_complete=values.SIDES),
    click.argument("new", metavar="NEW", shell_complete=values.SIDES),
    click.option(
        "--max-growth",
        metavar="SIZE|PERCENT%",
        callback=_growth,
        help="Fail where the files together grew by more: 500K, 10M, 2.5%.",
    ),
    click.option("--no-new-setuid", is_flag=True, help="Fail where a path became setuid or setgid."),
    click.option("--no-new-capabilities", is_flag=True, help="Fail where a file got a capability."),
    click.option("--no-removed-packages", is_flag=True, help="Fail where a package is gone."),
    click.option("--times", is_flag=True, help="Count a time that differs as a change."),
    click.option(
        "--limit",
        metavar="N",
        type=click.IntRange(0),
        default=200,
        show_default=True,
        help="Show no more than so many changes, the largest; 0 for all.",
    ),
    click.option(
        "--page",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write a page for a browser as well.",
    ),
    POOL,
    with_work,
    JSON,
)


def with_diff(job: Callable[..., None]) -> Callable[..., int]:
    """Give a command the arguments and options of a comparison."""
    for option in reversed(_OPTIONS):
        job = option(job)
    return cast("Callable[..., int]", job)


@click.command("diff")
@with_diff
def command(work: Work, **options: Any) -> None:
    """Compare two images, trees or file lists: files, packages, layers, privileges, sizes, and their causes.

    OLD and NEW: a file list; a directory; an image file (tar, OCI, docker-archive), or the build record
    beside one; docker://HOST/NAME:TAG; a ref or a digest in the store; or an image in the pool by its uuid,
    name@version or name. A word before a colon takes one kind for sure: build:, list:, tree:, archive:,
    store:, image:.

    The limits are judged when all is printed. Exit code 20 if one is exceeded, also where what it is about
    cannot be known.
    """
    run(work, **options)


def run(
    work: Work, *, as_json: bool, limit: int, page: Path | None, kinds: Collection[str] = (), **wanted: Any
) -> None:
    """Compare two sides, print what differs and judge it. kinds: see `Opening`."""
    from buildstep.cli.files_side import Opening
    from buildstep.files.compare_gate import Gate, enforce

    gate = Gate(
        growth=wanted["max_growth"],
        setuid=wanted["no_new_setuid"],
        capabilities=wanted["no_new_capabilities"],
        packages=wanted["no_removed_packages"],
    )
    with ExitStack() as stack:
        opening = Opening(stack, work, wanted["pool"], kinds)
        diff = _compare((wanted["old"], wanted["new"]), gate, opening, times=wanted["times"])
        _show(diff, limit=limit, page=page, as_json=as_json)
    enforce(diff.verdicts)


def _compare(words: tuple[str, str], gate: Gate, opening: Opening, *, times: bool) -> Diff:
    from buildstep.cli import files_evidence, user_namespace
    from buildstep.cli.files_sides import kind_of_side, side_of
    from buildstep.files.compare import compare
    from buildstep.files.compare_causes import causes
    from buildstep.files.compare_gate import judge
    from buildstep.files.compare_layers import compare_layers
    from buildstep.files.compare_privileges import shifts
    from buildstep.files.compare_report import Diff

    if any(kind_of_side(word, opening)[1].pool for word in words):
        user_namespace.enter(opening.pool)
    old, new = (side_of(word, opening) for word in words)
    if old.foreign and new.foreign:
        found = compare(old.listing, new.listing, times=times)
    else:
        found = compare(old.without_foreign(), new.without_foreign(), times=times)
    packages, notes = files_evidence.packages_of_sides(old, new)
    layers = compare_layers(old.layers, new.layers)
    known = files_evidence.evidence((old, new), found, packages, layers, opening)
    if found.skipped:
        notes.append(f"one of the lists does not tell {', '.join(sorted(found.skipped))}: not compared")
    moved = shifts(found.changes)
    return Diff(
        old=old.named,
        new=new.named,
        found=found,
        shifts=moved,
        packages=packages,
        causes=causes(found.changes, known),
        verdicts=judge(gate, found, moved, packages),
        notes=[*old.notes, *new.notes, *notes, *opening.notes],
        layers=layers,
    )


def _show(diff: Diff, *, limit: int, page: Path | None, as_json: bool) -> None:
    """Print the comparison, the page first: who sees the text can open it."""
    from buildstep.files import compare_report

    if page is not None:
        from buildstep.report import diff_page
        from buildstep.system.files import named_output

        with named_output(page) as stream:
            diff_page.render(diff.to_json(), stream)
    if as_json:
        print_json(diff.to_json())
        return
    colours = sys.stdout.isatty()
    for text, colour in compare_report.lines(diff, limit=limit):
        style = {"bold": True} if colour == "bold" else {"fg": colour} if colour else {}
        echo(text, **(style if colours else {}))
