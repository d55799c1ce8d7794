"""Walk the proto directory of a build, and recognise what of it is as in the component's last image."""

from __future__ import annotations

import os
from pathlib import Path

from buildstep.build import cache_inputs
from buildstep.spec.load import BuildSpec
from buildstep.tree import stat_index
from buildstep.tree.exclude import excluder
from buildstep.tree.proto import Memory, ProtoDir, scan_proto


def scan(spec: BuildSpec, state: Path) -> ProtoDir:
    """Walk the proto directory, and recognise what is in it; the last image may be of another checkout."""
    exclude = excluder(spec.exclude)
    chosen = exclude if spec.exclude else None
    if not spec.cache or exclude is None:
        return scan_proto(spec.proto, exclude=chosen)
    last = stat_index.last_checkout(state, cache_inputs.component(spec))
    other = last is not None and last != Path(os.path.realpath(spec.proto))
    memory = Memory(
        last=cache_inputs.proto_index(spec, state, last) if other else None,
        stable=cache_inputs.stable_times(spec),
    )
    return scan_proto(spec.proto, exclude=chosen, index=cache_inputs.proto_index(spec, state), memory=memory)
