"""The proto directory, against the base image that it is laid on."""

from __future__ import annotations

import os
from functools import partial

from buildstep.build import account_check, proto_conflicts
from buildstep.build.doctor.findings import Examination
from buildstep.errors import BuildstepError, ExitCode
from buildstep.events import Bus
from buildstep.images.store import ImageStore
from buildstep.rootfs import conflicts
from buildstep.system.text import plural


def fits(seen: Examination) -> None:
    """Whether one has a directory where the other has none, as far as the base image is in the store."""
    spec, proto = seen.spec, seen.scan
    if spec is None or proto is None or seen.image is None or seen.backend is None:
        return
    base = ImageStore(seen.backend, bus=Bus(), environ=seen.environ).known_entries(seen.image)
    if base is None:
        return
    try:
        account_check.check(spec, seen.backend, seen.image)
    except BuildstepError as error:
        seen.error("proto", "accounts", error)
    root = proto_conflicts.root_of(seen.image, base)
    tree = partial(account_check.base_root, seen.backend, seen.image)
    allowed, refused = proto_conflicts.judge(spec, proto, root, tree)
    for row in refused:
        seen.fail("proto", f"/{os.fsdecode(row.path)}", row.words, conflicts.HINT, ExitCode.USAGE)
    if not refused:
        some = f", and takes the place of {plural(len(allowed), 'path')} there" if allowed else ""
        seen.ok("proto", os.fspath(spec.proto), f"fits on {seen.image.label}{some}")
