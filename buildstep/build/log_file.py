"""The event log of one build: shipped with its outputs, or kept in the pool when it failed.

<stem>.events.jsonl                  beside the image, of a build that ended well
state/logs/BUILD-ID.events.jsonl     of one that failed, with BUILD-ID.buildrecord.json; the last few
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from buildstep.build.private_words import masked
from buildstep.events import Bus
from buildstep.report.event_log import SUFFIX, EventLog
from buildstep.report.record import RECORD_SUFFIX, BuildRecord
from buildstep.system.files import write_json
from buildstep.system.output_set import Outputs, create, temporary_name
from buildstep.system.private import private_dir

KEPT = 20
"""How many logs of failed builds a pool keeps."""


class BuildLog:
    """Records events from the moment it is entered; its file is hidden until the build ships."""

    def __init__(self, stem: Path, state: Path, build_id: str, bus: Bus) -> None:
        self._final = stem.with_name(stem.name + SUFFIX)
        self._folder = state / "logs"
        self._build_id = build_id
        self._bus = bus
        self._path = temporary_name(self._final)
        self._shipped = False

    def __enter__(self) -> Self:
        self._stream = os.fdopen(create(self._path), "wb")
        self._log = EventLog(self._stream)
        self._bus.subscribe(self._log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bus.unsubscribe(self._log)
        self._log.flush()
        with contextlib.suppress(OSError):  # it is what `problem` is about, and no error hides another
            self._stream.close()
        if self._log.problem is not None:
            self._bus.note(f"the event log is incomplete: {self._log.problem.strerror}", level="warning")
        if not self._shipped:
            self._path.unlink(missing_ok=True)

    def ship(self, outputs: Outputs) -> None:
        """Let the file get its name with the other outputs; the last events are still added to it."""
        self._log.flush()
        outputs.add(self._path, self._final)
        self._shipped = True

    def keep_failed(self, record: BuildRecord) -> None:
        """Copy the log into the pool, with the record of the failure, and say where."""
        self._log.flush()
        private_dir(self._folder)
        place = self._folder / (self._build_id + SUFFIX)
        try:
            if self._path.exists():
                shutil.copyfile(self._path, place)
            write_json(
                place.with_name(self._build_id + RECORD_SUFFIX),
                masked(record.to_json(), self._bus),
                durable=False,
            )
        except OSError:
            place.unlink(missing_ok=True)
            raise
        for old in sorted(self._folder.iterdir(), reverse=True)[2 * KEPT :]:
            old.unlink(missing_ok=True)
        self._bus.note(f"the log of this build: {place}")
