"""What was built: which inputs of a job gave which output, in files that outlive a run and a kill.

A file for each job, `records/JOB.json`, has its last builds, the newest at the end, so that going back to an
earlier state of the sources builds nothing anew. It is replaced as a whole when a job has ended well: what a
killed run had finished is known to the next one, and what it had not finished is not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

from buildstep.components.interface import Built
from buildstep.pool import default_location
from buildstep.system.digest import sha256_bytes
from buildstep.system.files import read_json, write_json
from buildstep.system.private import private_dir

FORMAT: Final = 1
KEPT: Final = 16
"""Builds of each job that are kept: branches that a CI host builds by turns."""


def state_directory(root: Path, environ: Mapping[str, str]) -> Path:
    """Return where the state of a repository's components is kept: BUILDSTEP_COMPONENTS_STATE, or a directory
    of its own beside this user's pools."""
    if named := environ.get("BUILDSTEP_COMPONENTS_STATE"):
        return Path(named).absolute()
    ident = sha256_bytes(str(root.resolve()).encode())[:16]
    return default_location(environ) / "components" / f"{root.resolve().name}-{ident}"


class Records:
    """The builds of a repository's jobs; meets `interface.History`. Safe to use from several threads.

    Each file is read once: what other processes add later is not seen.
    usable: whether the result of a build is still there, such as its image in the store of the builder.
    """

    def __init__(self, state: Path, usable: Callable[[Built], bool] = lambda _built: True) -> None:
        self._folder = state / "records"
        self._usable = usable
        self._lock = threading.Lock()
        self._known: dict[str, list[Built]] = {}

    def find(self, job: str, key: str) -> Built | None:
        """Return the build of a job with this key whose result is still there, None if there is none."""
        found = [built for built in self._read(job) if built.key == key]
        return found[-1] if found and self._usable(found[-1]) else None

    def last(self, job: str) -> Built | None:
        """Return the last successful build of a job."""
        found = self._read(job)
        return found[-1] if found else None

    def add(self, built: Built) -> None:
        """Write down a build that has ended well. Raises OSError."""
        with self._lock:
            private_dir(self._folder)
            rows = [row for row in self._read(built.job) if row.key != built.key][1 - KEPT :]
            rows.append(built)
            value = {"format": FORMAT, "job": built.job, "builds": [asdict(row) for row in rows]}
            # A record that a crash of the machine leaves empty is no record: the job is done again.
            write_json(self._path(built.job), value, durable=False)
            self._known[built.job] = rows

    def outputs(self) -> set[str]:
        """Return the outputs of all builds that are known, for whoever removes what nobody needs."""
        found: set[str] = set()
        if self._folder.is_dir():
            for path in self._folder.glob("*.json"):
                found.update(built.output for built in self._read(unquote(path.stem)))
        return found

    def _path(self, job: str) -> Path:
        return self._folder / f"{quote(job, safe='')}.json"

    def _read(self, job: str) -> list[Built]:
        if job not in self._known:
            self._known[job] = _builds(self._path(job))
        return self._known[job]


def _builds(path: Path) -> list[Built]:
    """Return the builds in a file; of one that is damaged or of another format none: they are made again."""
    try:
        value = read_json(path)
        return [_built(row) for row in value["builds"]] if value["format"] == FORMAT else []
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []


def _built(row: Mapping[str, Any]) -> Built:
    return Built(
        job=str(row["job"]),
        key=str(row["key"]),
        output=str(row["output"]),
        inputs={str(name): str(value) for name, value in row["inputs"].items()},
        seconds=float(row["seconds"]),
        ended=float(row["ended"]),
        worker=str(row.get("worker", "")),
    )
