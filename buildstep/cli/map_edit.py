"""`buildstep map edit`: all mappings in an editor; what differs afterwards is checked, shown and made."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from buildstep.cli.map_options import COMPAT, MapWork, with_register
from buildstep.cli.options import echo, tell
from buildstep.system.text import plural

if TYPE_CHECKING:
    from buildstep.assets.edit import Edit


@click.command("edit")
@COMPAT
@click.option("--yes", is_flag=True, help="Make the changes without asking.")
@with_register
def edit(work: MapWork, yes: bool) -> int:
    """Edit all mappings in an editor ($VISUAL, $EDITOR or vi), and make the changes that were made to them.

    One mapping a line: PATTERN: SERVICE, SERVICE. A line that is removed is a mapping that is removed. What
    cannot be is told at its line, and the editor opens again. A mapping that somebody else changed meanwhile
    is left as it is, and told.
    """
    from buildstep.assets import edit as editing
    from buildstep.errors import ExitCode, UsageError

    before = editing.before(work.register)
    text = editing.text_of(work.register.url, before)
    while True:
        changed = click.edit(text, extension=".mappings", require_save=False)
        if changed is None:
            raise UsageError("the editor left without a text", hint="set EDITOR to another one")
        found = editing.parse(changed, before)
        faults = editing.with_faults(changed, found.faults)
        if not found.faults:
            break
        tell("\n".join(found.faults))
        if faults == text or not _asked("open the editor again?", yes=False):
            raise UsageError("the mappings were not changed", detail="\n".join(found.faults))
        text = faults
    edits = editing.differences(before, found.mappings)
    if not edits:
        echo("nothing was changed")
        return ExitCode.OK
    for line in editing.shown(edits):
        echo(line)
    for finding in editing.new_findings(before, found.mappings, compat=work.compat):
        tell(f"note: {finding}")
    if not _asked(f"make {plural(len(edits), 'change')}?", yes=yes):
        echo("nothing was changed")
        return ExitCode.OK
    return _make(work, edits)


def _asked(question: str, *, yes: bool) -> bool:
    """Return whether the user wants that; nobody can be asked without a terminal."""
    return yes or (sys.stdin is not None and sys.stdin.isatty() and click.confirm(question, err=True))


def _make(work: MapWork, edits: list[Edit]) -> int:
    from buildstep.assets import mapping
    from buildstep.assets.interface import Incomplete

    lost = [
        one.pattern for one in edits if not mapping.replace(work.register, one.pattern, one.before, one.after)
    ]
    echo(f"{plural(len(edits) - len(lost), 'mapping')} changed")
    if lost:
        raise Incomplete(
            f"{plural(len(lost), 'mapping')} were changed by somebody else meanwhile, and left as they are",
            detail="\n".join(f"  {pattern}" for pattern in lost),
            hint="edit again: it begins with what they are now",
        )
    return 0
