"""`buildstep files mount` and `umount`: the tree of a list, without a checkout."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from buildstep.cli import values
from buildstep.cli.files_get import tell_left_out
from buildstep.cli.files_options import PATHS, Work, with_work
from buildstep.cli.options import JSON, QUIET, show


@click.command("mount")
@click.argument("name", metavar="LIST", shell_complete=values.REFS)
@click.argument("folder", metavar="DIR", shell_complete=values.FOLDERS)
@PATHS
@click.option(
    "--kind",
    type=click.Choice(["erofs", "squashfs"]),
    help="Kind of file system (default: what can be made).",
)
@click.option("--trusted", is_flag=True, help="Let setuid programs and devices work in it.")
@with_work
@JSON
@QUIET
def mount(
    work: Work, name: str, folder: str, *, paths: tuple[str, ...], as_json: bool, quiet: bool, **how: Any
) -> None:
    """Mount the tree of a list at DIR, read-only, with its owners and attributes; this needs root.

    An image of it is made in the store's directory and mounted by a loop device. It has no name: its room is
    free again after `umount`.
    """
    from buildstep.files import image_file
    from buildstep.files.checkout_plan import subset
    from buildstep.files.lookup import find
    from buildstep.report.progress import progress

    store = work.open()
    found = find(store, name)
    used, report = image_file.mount(
        store,
        subset(found.entries, paths),
        Path(folder),
        **how,
        begin=partial(progress, "get", quiet=quiet),
    )
    tell_left_out(report)
    line = f"{folder}  mounted, {used}"
    value = {"store": store.storage.url, "list": found.digest, "dest": folder, "kind": used}
    show({**value, **report.to_json()}, [line], as_json=as_json, done=line)


@click.command("umount")
@click.argument("folder", metavar="DIR", shell_complete=values.FOLDERS)
@JSON
def umount(folder: str, as_json: bool) -> None:
    """Unmount what `mount` has mounted at DIR."""
    from buildstep.files import image_file

    image_file.unmount(Path(folder))
    show({"dest": folder}, [f"{folder}  unmounted"], as_json=as_json, done=f"{folder} unmounted")
