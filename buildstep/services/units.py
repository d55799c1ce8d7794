"""Units of systemd that look after services: one that watches them, and a timer that lets them tidy up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from buildstep.assets.systemd import check_user, quoted, span
from buildstep.errors import UsageError
from buildstep.system.text import printable

ENVIRONMENT_FILE: Final = "/etc/buildstep/services.env"
"""Where the units take variables from, if it is there: what `secret:env:NAME` names."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitOptions:
    """What the units are made from.

    program: of buildstep, absolute. root: of the repository, absolute. keys: of the services, none for all.
    name: what stands in the names of the units, so that two repositories have their own.
    every: of `monitor --watch`. cleanup: how often, as systemd writes spans.
    user: who runs it, empty for root.
    """

    program: Path
    root: Path
    keys: Sequence[str] = ()
    name: str = "services"
    every: str = "5m"
    cleanup: str = "1d"
    user: str = ""


def units(options: UnitOptions) -> Mapping[str, str]:
    """Return the text of each unit by its file name, the watching one first. Raises UsageError."""
    if not options.program.is_absolute() or not options.root.is_absolute():
        raise UsageError("a unit needs absolute paths: of buildstep, and of the repository")
    if not _NAME.fullmatch(options.name):
        raise UsageError(f"{options.name!r} cannot be in the name of a unit", hint="letters, digits, - and _")
    check_user(options.user)
    name = f"buildstep-{options.name}"
    about = f"the services in {printable(str(options.root))}".replace("%", "%%")
    return {
        f"{name}.service": _service(
            options, f"Watch {about}", "exec", "monitor", "--watch", "--restart", "--every", options.every
        ),
        f"{name}-cleanup.service": _service(
            options, f"Tidy up {about}", "oneshot", "cleanup", "--keep-going"
        ),
        f"{name}-cleanup.timer": _timer(f"Tidy up {about} again and again", span(options.cleanup)),
    }


def _service(options: UnitOptions, about: str, kind: str, verb: str, *flags: str) -> str:
    words = [str(options.program), "service", verb, *flags, "--root", str(options.root)]
    words += ["--", *options.keys] if options.keys else []
    lines = [
        "[Unit]",
        f"Description={about}",
        "Documentation=man:buildstep-service(1)",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        f"Type={kind}",
        f"ExecStart={' '.join(map(quoted, words))}",
        f"EnvironmentFile=-{ENVIRONMENT_FILE}",
        *([f"User={options.user}"] if options.user else []),
        # What it has started and that is no unit of its own is to go on when it ends.
        "KillMode=process",
        "TimeoutStopSec=60s",
    ]
    if kind == "exec":
        lines += ["Restart=always", "RestartSec=10s", "", "[Install]", "WantedBy=multi-user.target"]
    else:
        lines.append("TimeoutStartSec=1h")
    return "\n".join(lines) + "\n"


def _timer(about: str, every: str) -> str:
    lines = [
        "[Unit]",
        f"Description={about}",
        "",
        "[Timer]",
        "OnBootSec=15min",
        f"OnUnitInactiveSec={every}",
        "RandomizedDelaySec=30s",
        "",
        "[Install]",
        "WantedBy=timers.target",
    ]
    return "\n".join(lines) + "\n"
