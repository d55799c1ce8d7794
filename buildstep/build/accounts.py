"""The accounts of a build, in its clone: before anything else is put into it, and once packages are in it."""

from __future__ import annotations

import os

from buildstep.build.account_check import request
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


def join(context: BuildContext, state: BuildState) -> None:
    """Put users into the groups that packages brought. Raises SpecError for groups that did not come."""
    if context.spec.wants_accounts:
        accounts.join(request(context.spec, owners=context.backend.privileged), state.root)
