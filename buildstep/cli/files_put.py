"""`buildstep files put`: record a tree in a store."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.files_options import Work, owner, with_work
from buildstep.cli.options import CLAMP, JSON, QUIET, show
from buildstep.system.text import plural, size_text

if TYPE_CHECKING:
    from buildstep.files.content import ContentStore
    from buildstep.files.put import Options, Put


@click.command("put")
@click.argument("tree", metavar="TREE", shell_complete=values.FOLDERS)
@click.option("--ref", metavar="NAME", default="", help="Set this name to the list, such as web/1.2.0.")
@click.option("--exclude", metavar="PATTERN", multiple=True, help="Leave out what fits, as rsync; repeat.")
@click.option(
    "--owner", metavar="UID:GID", callback=owner, help="Record this owner, not the one on this machine."
)
@CLAMP
@click.option(
    "--linkable",
    is_flag=True,
    help="For a new store: keep each content as a plain file, so that checkouts can share its blocks.",
)
@with_work
@JSON
@QUIET
def command(
    work: Work, tree: str, ref: str, *, linkable: bool, as_json: bool, quiet: bool, **how: Any
) -> None:
    """Record a tree: each content that the store does not have, then the list, then the ref.

    TREE: a directory; an image file (tar, OCI, docker-archive); docker://HOST/NAME:TAG or oci:DIRECTORY.
    What an interrupted put has stored is found by the next one. The list's digest is the tree digest that a
    build of the same tree has. Without --ref the list stays until a gc finds it older than its grace time.
    """
    from buildstep.files import layout
    from buildstep.files.content import LINKABLE
    from buildstep.files.places import state_folder
    from buildstep.files.put import Options, put_tree
    from buildstep.report.progress import progress

    if ref:
        layout.ref_name(ref)  # before anything is done
    store = work.open()
    store.create(LINKABLE if linkable else None)
    if os.path.isdir(tree):
        begin = partial(progress, "put", quiet=quiet)
        state = state_folder(os.environ)
        done = put_tree(store, Path(tree), ref=ref, options=Options(**how), state=state, begin=begin)
    else:
        done = _put_image(work, store, tree, ref, Options(**how))
    stored = done.stored
    value = {
        "store": store.storage.url,
        "ref": ref,
        "digest": stored.tree,
        "list": stored.digest,
        "entries": stored.entries,
        "bytes": stored.size,
        "new_objects": done.new_objects,
        "new_bytes": done.new_bytes,
        "files_read": done.read,
        "unchanged": done.unchanged,
    }
    news = (
        "nothing changed since the last time"
        if done.unchanged
        else f"{plural(done.new_objects, 'new content')} of {size_text(done.new_bytes)}"
    )
    line = f"{ref or stored.digest}  {plural(stored.entries, 'path')}, {size_text(stored.size)}; {news}"
    show(value, [line], as_json=as_json, done=line)


def _put_image(work: Work, store: ContentStore, image: str, ref: str, options: Options) -> Put:
    from buildstep.errors import UsageError
    from buildstep.files.put import put_listed
    from buildstep.formats.tree_storer import Storer
    from buildstep.images.listing import listed

    if options.exclude:
        raise UsageError("--exclude is for directories, and not for images")
    if not os.path.exists(image) and ":" not in image:
        raise UsageError(f"there is no {image}", hint="a directory, an image file, or docker://HOST/NAME:TAG")
    with ExitStack() as stack:
        return put_listed(
            store, ref, options,
            lambda take: listed(image, Storer(take), stack, work.bus, work.environ)[1].entries or {},
        )  # fmt: skip
