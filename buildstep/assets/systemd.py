"""Units of systemd that keep a host up to date: a pull on a timer, or one that watches the register."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from buildstep.errors import UsageError

PULL: Final = "buildstep-pull.service"
TIMER: Final = "buildstep-pull.timer"
WATCH: Final = "buildstep-pull-watch.service"

ENVIRONMENT_FILE: Final = "/etc/buildstep/pull.env"
"""Where the units take variables from, if it is there: what must not be seen in a command line."""

_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?|[0-9]{1,10}")
_SPAN = re.compile(r"([0-9]+ ?(s|sec|m|min|h|hr|d|days?|w|weeks?)? ?)+")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitOptions:
    """What the units are made from.

    program: of buildstep, absolute. arguments: of `assets pull`. install: the directory that it writes to.
    every: the time between two pulls, as systemd writes spans. user: who runs it, empty for root. hooks:
    whether a pull runs commands of the administrator's, which may write anywhere. metrics: the file that
    `assets status` writes after each pull of the timer, with these arguments `status`; None: it is not asked.
    """

    program: Path
    arguments: Sequence[str]
    install: Path
    every: str = "5min"
    user: str = ""
    hooks: bool = False
    metrics: Path | None = None
    status: Sequence[str] = ()


def units(options: UnitOptions) -> dict[str, str]:
    """Return the text of each unit by its file name. Raises UsageError.

    The timed and the watching service exclude each other: one that is started stops the other.
    """
    every = span(options.every)
    if not options.program.is_absolute() or not options.install.is_absolute():
        raise UsageError("a unit needs absolute paths: of buildstep, and of the directory it installs to")
    check_user(options.user)
    return {
        PULL: _service(options, "Pull this host's services", watch=False),
        TIMER: _timer(every),
        WATCH: _service(options, "Pull this host's services whenever their mappings change", watch=True),
    }


def span(text: str) -> str:
    """Return a span of time as systemd.time(7) has it. Raises UsageError for what is none."""
    found = text.strip()
    if not _SPAN.fullmatch(found) or not re.search("[1-9]", found):
        raise UsageError(f"{text!r} is no span of time for systemd", hint="such as 5min, 90s or 1h")
    return found


def check_user(name: str) -> None:
    """Raise UsageError for what is no name of a user that a unit can have; empty is root."""
    if name and not _USER.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a user")


def quoted(word: str, *, command: bool = True) -> str:
    """Return a word as a unit's command line has it (systemd.service(5), "Command lines").

    command: whether it stands in one; in lists of paths $ stands for itself. Raises UsageError for one with a
    NUL, which no command can be given.
    """
    if "\0" in word:
        raise UsageError("an argument of a unit must not hold a NUL")
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if command:
        text = text.replace("$", "$$")
    text = text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    plain = re.fullmatch(r"[A-Za-z0-9_@%+=:,./~$-]+", text) is not None
    return text if plain else f'"{text}"'


def _service(options: UnitOptions, about: str, *, watch: bool) -> str:
    words = [str(options.program), "assets", "pull", *options.arguments, *(["--watch"] if watch else [])]
    other = PULL if watch else WATCH
    lines = [
        "[Unit]",
        f"Description={about}",
        "Documentation=man:buildstep-assets(1)",
        "Wants=network-online.target",
        "After=network-online.target",
        # Both would wait for one lock.
        f"Conflicts={other}" if not watch else f"Conflicts={other} {TIMER}",
        "",
        "[Service]",
        "Type=exec" if watch else "Type=oneshot",
        f"ExecStart={' '.join(map(quoted, words))}",
        f"EnvironmentFile=-{ENVIRONMENT_FILE}",
    ]
    if options.user:
        lines.append(f"User={options.user}")
    if watch:
        lines += ["Restart=always", "RestartSec=10s"]
    else:
        # A pull that hangs must not keep the timer from the next one for ever.
        lines.append("TimeoutStartSec=1h")
        if options.metrics is not None:
            # Also after a pull that failed; and no failure of its own.
            words = [str(options.program), "assets", "status", "--quiet", *options.status]
            words += ["--metrics", str(options.metrics)]
            lines.append(f"ExecStopPost=-{' '.join(map(quoted, words))}")
    lines += ["TimeoutStopSec=60s", "KillMode=mixed", "UMask=0022", "Nice=10", "IOSchedulingClass=idle"]
    lines += _walls(options)
    if watch:
        lines += ["", "[Install]", "WantedBy=multi-user.target"]
    return "\n".join(lines) + "\n"


def _walls(options: UnitOptions) -> list[str]:
    """Return the limits of a service that downloads and unpacks what others made.

    Hooks are commands of the administrator's, and what they need is not known here: without most of them.
    """
    always = ["NoNewPrivileges=yes", "LockPersonality=yes", "RestrictRealtime=yes"]
    if options.hooks:
        return always
    path = str(options.install)
    writable = [path] if options.metrics is None else [path, str(options.metrics.parent)]
    shared_tmp = path.startswith(("/tmp/", "/var/tmp/")) or path in ("/tmp", "/var/tmp")
    at_home = path.startswith(("/home/", "/root/")) or path in ("/home", "/root")
    return [
        *always,
        "ProtectSystem=strict",
        # The directory itself may not be there before the first pull.
        f"ReadWritePaths={' '.join(f'-{quoted(where, command=False)}' for where in writable)}",
        "StateDirectory=buildstep",
        *([] if shared_tmp else ["PrivateTmp=yes"]),
        *([] if at_home else ["ProtectHome=read-only"]),
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectControlGroups=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
        "RestrictNamespaces=yes",
    ]


def _timer(every: str) -> str:
    return "\n".join(
        [
            "[Unit]",
            "Description=Pull this host's services again and again",
            "",
            "[Timer]",
            "OnBootSec=1min",
            f"OnUnitInactiveSec={every}",
            # A thousand hosts that were started together must not ask together.
            "RandomizedDelaySec=30s",
            "AccuracySec=1s",
            "",
            "[Install]",
            "WantedBy=timers.target",
            "",
        ]
    )
