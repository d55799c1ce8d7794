"""What other machines have made, fetched from the hand-over when a job here needs it."""

from __future__ import annotations

import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from buildstep.components.builders import Builder, Run
from buildstep.components.handover import Handover
from buildstep.components.interface import Base, GraphError
from buildstep.components.stage import Stages


class HandoverStock:
    """See `work.Stock`. builder: returns the builder; state: a directory with room for an image."""

    def __init__(self, handover: Handover, builder: Callable[[], Builder], state: Path) -> None:
        self._handover, self._builder, self._state = handover, builder, state
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._named: set[Base] = set()

    def image(self, base: Base, run: Run) -> None:
        with self._locks[base.image]:
            if base in self._named:
                return
            builder = self._builder()
            if base.image not in builder.images():
                self._fetch(base, run)
            elif base.name and builder.name_of(base.image) != base.name:
                builder.tag(base.image, base.name, run)
            self._named.add(base)

    def _fetch(self, base: Base, run: Run) -> None:
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=self._state) as folder:
            layout = Path(folder, "layout")
            self._handover.images.get(base.image, layout)
            taken = self._builder().take(layout, base.name, run)
        if taken != base.image:
            raise GraphError(f"the image {base.image[:19]} was fetched, and {taken[:19]} is in the store")

    def products(self, output: str, stages: Stages) -> None:
        with self._locks[output]:
            self._handover.get_products(output, stages)
