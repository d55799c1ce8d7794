"""The accounts of a build, in its clone: before anything else is put into it, and once packages are in it."""

from __future__ import annotations

import os

from buildstep.build import keep_layer, layer_comments
from buildstep.build.account_check import request
from buildstep.build.cached_layer import LayerName, add_blob
from buildstep.build.clones import read_clone
from buildstep.build.context import BuildContext, BuildState
from buildstep.rootfs import accounts


def make(context: BuildContext, state: BuildState) -> None:
    """Make them. Sets owners, where the clone cannot hold those. Raises SpecError for what does not fit."""
    if not context.spec.wants_accounts:
        return
    asked = request(context.spec, owners=context.backend.privileged)
    made = accounts.make(asked, state.root, state.image.label)
    state.owners = {
        os.fsencode(os.path.join(state.root_prefix, path.lstrip("/"))): ids
        for path, ids in made.owners.items()
    }


def keep_apart(context: BuildContext, state: BuildState) -> None:
    """Make the accounts a layer by themselves, in an image that has layers, if nothing else is to share it.

    What is in the layers below is of no concern to a build that only replaces contents of the proto
    directory's files.
    """
    if state.blobs is None or not layer_comments.accounts_apart(context.spec):
        return
    base = state.below
    keep_layer.set_below(context, state, read_clone(context, state, base))
    add_blob(state, state.dataset.path, base, LayerName("accounts", layer_comments.ACCOUNTS))


def join(context: BuildContext, state: BuildState) -> None:
    """Put users into the groups that packages brought. Raises SpecError for groups that did not come."""
    if context.spec.wants_accounts:
        accounts.join(request(context.spec, owners=context.backend.privileged), state.root)
