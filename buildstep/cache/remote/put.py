"""Put a record: bytes first, the record last, nothing that is there written again.

Whoever reads a record finds all its bytes: an upload that is killed leaves bytes that no record names, which
a prune removes, and never a record without its bytes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace
from pathlib import Path

from buildstep.cache.remote import envelope, names
from buildstep.cache.remote.backend import Backend
from buildstep.cache.remote.calls import Calls
from buildstep.cache.remote.interface import Output, Record, TooSlow, Unusable, Wanted
from buildstep.system.digest import sha256_file
from buildstep.trust import dsse

Counting = Callable[[bytes, str, Wanted], Record]
"""Returns the record of an envelope if it counts. Raises Unusable."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Puts records into a store. until: a moment of the monotonic clock."""

    backend: Backend
    calls: Calls
    signers: Sequence[dsse.Signs]
    counting: Counting
    until: float

    def put(self, record: Record, scope: str, files: Mapping[str, Path | bytes]) -> bool:
        """See `SharedStore.put`. Raises StoreError, OSError, ValueError."""
        facts = record.kind == "layer"
        outputs = tuple(_inline(output, files.get(output.name), facts=facts) for output in record.outputs)
        record = replace(record, outputs=outputs, made_at=record.made_at or time.time())
        blobs = {
            names.blob_name(output.digest): files[output.name]
            for output in outputs
            if output.name in files and not output.data and output.size
        }
        there = self.backend.exists(blobs) if blobs else set()
        waiting = [
            self.calls.start(lambda name=name, data=data: self.backend.write(name, data))  # type: ignore[misc]
            for name, data in blobs.items()
            if name not in there
        ]
        for future in waiting:
            try:
                future.result(max(0.0, self.until - time.monotonic()))
            except NotYet:
                raise TooSlow(f"the upload to {self.backend.url} took too long") from None
        return self._record(record, scope)

    def _record(self, record: Record, scope: str) -> bool:
        """Write the record itself, unless there is one that counts."""
        name = names.record_name(scope, record.wanted)
        data = envelope.dumps(record, scope, self.signers)
        if self.backend.write(name, data):
            return True
        try:
            self.counting(self.backend.small(name, envelope.LARGEST), scope, record.wanted)
        except Unusable:
            # Somebody has put there what counts for nobody who reads by our policy.
            self.backend.delete([name])
            return self.backend.write(name, data)
        return True


def _inline(output: Output, data: Path | bytes | None, *, facts: bool) -> Output:
    """Return an output with its bytes in it, where they are few. facts: it may be without bytes at all.

    Raises ValueError for the wrong bytes.
    """
    if data is None:
        if not facts:
            raise ValueError(f"the output {output.name} has no file")
        return output
    if isinstance(data, bytes):
        size, digest = len(data), hashlib.sha256(data).hexdigest()
    else:
        size, digest = data.stat().st_size, sha256_file(data)
    if (size, digest) != (output.size, output.digest):
        raise ValueError(f"the file of the output {output.name} is not what its record says")
    if size > envelope.INLINE:
        return output
    return replace(output, data=data if isinstance(data, bytes) else data.read_bytes())
