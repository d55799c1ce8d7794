"""`buildstep image diff`: the comparison of `buildstep files diff`, of two images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from buildstep.cli.files_diff import run, with_diff

if TYPE_CHECKING:
    from buildstep.cli.files_options import Work

KINDS = ("build", "archive", "image")


@click.command("diff")
@with_diff
def command(work: Work, **options: Any) -> None:
    """Compare two images: files, packages, layers, privileges, sizes, and which step and layer made each.

    OLD and NEW: an image in the pool by its uuid, name@version or name; an image file (tar, OCI,
    docker-archive), or the build record beside one; docker://HOST/NAME:TAG. It is the comparison of
    `buildstep files diff`, which takes trees and file lists too; so does this with a word before a colon:
    tree:, list:, store:.

    The limits are judged when all is printed. Exit code 20 if one is exceeded, also where what it is about
    cannot be known.
    """
    run(work, kinds=KINDS, **options)
