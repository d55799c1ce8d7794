"""What steps say of layers and of the proto directory, in a plan and after it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from buildstep.build import proto_conflicts
from buildstep.cache.layers import LayerRecord
from buildstep.cache.resolutions import KeptResolution
from buildstep.rootfs.conflicts import Conflict
from buildstep.spec.load import BuildSpec
from buildstep.system.text import plural
from buildstep.tree.proto import ProtoDir
from buildstep.tree.proto_changes import explain


def proto_text(spec: BuildSpec, proto: ProtoDir, *, in_place: bool, replaced: Sequence[Conflict] = ()) -> str:
    """Describe the proto directory: how much there is, how it is taken, what gives way, and what changed."""
    how = "read in place" if in_place else "copied"
    text = f"{spec.proto.name}/, {plural(proto.files, 'file')}, {how}{proto_conflicts.text(replaced)}"
    if proto.unchanged:
        return f"{text}; unchanged"
    if proto.changed:
        changes = explain(proto)
        if proto.checkout:
            text, changes = f"{text}; {changes[0][1]}", changes[1:]
            if proto.same:
                return text
        shown = ", ".join(f"{path} ({why})" for path, why in changes[:3])
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        return f"{text}; {proto.unread} to read: {shown}{more}"
    return f"{text}; no index yet: all are read"


def layer_text(record: LayerRecord) -> str:
    """Describe a cached layer that is reused."""
    return f"reused cached layer {record.key[:12]} (saved {record.seconds:.1f} s)"


def age_text(resolution: KeptResolution, *, fresh: bool) -> str:
    """Describe how old the repository's index is that a resolution is from."""
    if not resolution.index:
        return "; known by the packages' names only"
    minutes = (time.time() - resolution.asked) / 60
    text = f"; the repository was queried {minutes:.0f} min ago"
    return text if fresh else f"{text}, and is queried again first"
