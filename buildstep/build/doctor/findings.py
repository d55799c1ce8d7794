"""What the doctor has found, and what it looks at."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from buildstep.build.forecast import Forecast
from buildstep.errors import BuildstepError, ExitCode
from buildstep.images.store import ImageRecord
from buildstep.pool.interface import Backend
from buildstep.spec.config import Config
from buildstep.spec.load import BuildSpec
from buildstep.system import root_namespace
from buildstep.tree.exclude import excluder
from buildstep.tree.proto import ProtoDir, scan_proto

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing looked at. where: what it is about; what: how it is; fix: what to do, unless it is ok.

    code: what a build ends with because of it, 0 unless it is an error.
    """

    level: Level
    area: str
    where: str
    what: str
    fix: str = ""
    code: int = 0

    def to_json(self) -> dict[str, object]:
        return {
            "level": self.level,
            "area": self.area,
            "where": self.where,
            "what": self.what,
            "fix": self.fix,
        }


@dataclass(slots=True)
class Examination:
    """What is looked at, and what has been found.

    spec: None for an agent as such, without an m.json. proto: None where it is not known or not there yet.
    pool: the URI asked for, None for the one that a build would choose; backend: it, once it is open;
    image: the base, if the store has it; download: its bytes, if not; skews: how far our clock is ahead
    of servers'.
    """

    spec: BuildSpec | None
    proto: Path | None
    config: Config
    pool: str | None
    environ: Mapping[str, str]
    findings: list[Finding] = field(default_factory=list)
    backend: Backend | None = None
    image: ImageRecord | None = None
    download: int = 0
    forecast: Forecast | None = None
    skews: list[float] = field(default_factory=list)
    _scan: ProtoDir | None = None
    _walked: bool = False

    @property
    def scan(self) -> ProtoDir | None:
        """The proto directory as it is, walked once; what is wrong with it is raised once as well."""
        if not self._walked and self.proto is not None and self.spec is not None:
            self._walked = True
            self._scan = scan_proto(self.proto, exclude=excluder(self.spec.exclude), index=None)
        return self._scan

    @property
    def root(self) -> bool:
        """Whether this is root, here or of a user namespace, with the right to mount."""
        return os.geteuid() == 0 and not root_namespace.is_needed()

    @property
    def packages(self) -> bool:
        return self.spec is not None and self.spec.wants_packages

    @property
    def runs(self) -> bool:
        """Whether programs of the image are run."""
        return self.spec is not None and self.spec.runs

    @property
    def exit_code(self) -> int:
        """That of the first error; 0 where there are only warnings."""
        return next((found.code for found in self.findings if found.level == "error"), int(ExitCode.OK))

    def ok(self, area: str, where: str, what: str) -> None:
        self.findings.append(Finding(level="ok", area=area, where=where, what=what))

    def warn(self, area: str, where: str, what: str, fix: str) -> None:
        self.findings.append(Finding(level="warning", area=area, where=where, what=what, fix=fix))

    def fail(self, area: str, where: str, what: str, fix: str, code: int) -> None:
        found = Finding(level="error", area=area, where=where, what=what, fix=fix, code=int(code))
        self.findings.append(found)

    def error(self, area: str, where: str, error: BuildstepError, *, code: int | None = None) -> None:
        """An error that a build would end with."""
        detail = error.detail.partition("\n")[0].strip()
        what = f"{error.message} ({detail})" if detail else error.message
        self.fail(area, where, what, error.hint, error.code if code is None else code)

    def to_json(self) -> dict[str, Any]:
        return {
            "able": self.exit_code == 0,
            "exit_code": self.exit_code,
            "name": self.spec.name if self.spec else None,
            "version": self.spec.version if self.spec else None,
            "pool": self.pool,
            "forecast": self.forecast.to_json() if self.forecast else None,
            "findings": [found.to_json() for found in self.findings],
        }
