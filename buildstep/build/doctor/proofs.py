"""Whether what proves an image can be made: the databases that it is to be looked up in."""

from __future__ import annotations

import time

from buildstep.build import vulnerabilities
from buildstep.build.doctor.findings import Examination
from buildstep.system.text import plural

_OLD = 7
"""Days after which a database is told to be old, as `buildstep scan` does."""


def databases(seen: Examination) -> None:
    """Tell which databases of vulnerabilities there are. Raises what a build would end with."""
    given = seen.spec.proof.vulnerabilities if seen.spec is not None else None
    if seen.spec is None or given is None:
        return
    for feed in vulnerabilities.ready(seen.spec):
        age = int((time.time() - feed.updated) / 86400)
        said = f"{feed.name}: {feed.rows:,} rows, {plural(max(age, 0), 'day')} old"
        if age > _OLD:
            fix = "download it anew and import it: buildstep scan --import FILE"
            seen.warn("vulnerabilities", given.db, said, fix)
        else:
            seen.ok("vulnerabilities", given.db, said)
