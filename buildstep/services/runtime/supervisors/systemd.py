"""A process as a unit of systemd: a unit file with our mark, and `systemctl`.

For root in /etc/systemd/system; for another user, with an instance of systemd of its own, in
$XDG_CONFIG_HOME/systemd/user. The forms are of systemd.unit(5), systemd.service(5) and systemd.syntax(7).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from buildstep.services.runtime import cgroup, commands, proc
from buildstep.services.runtime.answers import Failure
from buildstep.services.runtime.records import shortened, write
from buildstep.services.runtime.service import Process, Service
from buildstep.services.runtime.supervisors.status import Status, is_shell

MARK = "# Made by buildstep for process"

_CGROUPS = "/sys/fs/cgroup"
_KILL_SECONDS = 5.0
_UP = ("active", "activating", "reloading", "deactivating")


def user_folder() -> str:
    """Return where the units of a user are."""
    return os.path.join(
        os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "systemd", "user"
    )


class SystemdSupervisor:
    """See `Supervisor`."""

    def __init__(self, service: Service, process: Process) -> None:
        self._service = service
        self._process = process
        self._mark = f"{MARK} {process.number} of {service.key}\n"
        self.unit = unit_name(service.key, process.number)
        self._own = os.geteuid() != 0
        self.path = os.path.join(user_folder() if self._own else "/etc/systemd/system", self.unit)

    @staticmethod
    def usable() -> bool:
        """Return whether systemd runs this machine, or one of its own this user's: sd_booted(3)."""
        if not os.path.isdir("/run/systemd/system") or commands.find("systemctl") is None:
            return False
        run = os.environ.get("XDG_RUNTIME_DIR", "")
        return os.geteuid() == 0 or os.path.exists(os.path.join(run, "systemd", "private"))

    def start(self) -> None:
        self._check_mark()
        text = unit_text(self._service, self._process, self._mark, own=self._own)
        if proc.read_bytes(self.path).decode("utf-8", "surrogateescape") != text:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            write(self.path, text)
            self._systemctl("daemon-reload")
        self._call("reset-failed", self.unit)  # or the limit of starts in a time holds it back
        self._systemctl("enable", self.unit)
        if not self._call("start", self.unit).status:
            return
        if not self.status().failed:  # else the process itself failed, and its status tells how
            raise Failure(f"systemctl start {self.unit} failed")

    def stop(self) -> bool:
        self._check_mark()
        if not os.path.exists(self.path):
            return True
        self._systemctl("stop", self.unit)
        return not self.status().pids

    def halt(self) -> bool:
        self._check_mark()
        if not os.path.exists(self.path):
            return True
        self._call("kill", "--signal=SIGKILL", self.unit)
        self._systemctl("stop", self.unit)
        return proc.wait_until(lambda: not self.status().pids, _KILL_SECONDS)

    def status(self) -> Status:
        wanted = (
            "ActiveState",
            "MainPID",
            "ControlGroup",
            "NRestarts",
            "Result",
            "ExecMainStatus",
            "LoadState",
        )
        lines = self._call(
            "show", "--property=" + ",".join(wanted), self.unit, capture=True
        ).output.splitlines()
        shown = dict(line.split("=", 1) for line in lines if "=" in line)
        main = int(shown.get("MainPID") or 0)
        group = shown.get("ControlGroup") or ""
        # Hybrid hierarchies have systemd's own beside that of version 2.
        folders = (_CGROUPS, os.path.join(_CGROUPS, "systemd"), os.path.join(_CGROUPS, "unified"))
        pids = {pid for top in folders if group for pid in cgroup.members(top + group)}
        failed = ""
        if shown.get("Result", "success") != "success":
            failed = f"it ended: {shown['Result']}, status {shown.get('ExecMainStatus', '?')}"
        elif shown.get("LoadState") == "not-found":
            failed = f"there is no unit {self.unit}"
        elif shown.get("ActiveState") not in _UP:
            failed = f"its unit {self.unit} is {shown.get('ActiveState', 'unknown')}"
        pids |= {main} if main else set()
        kept = shown.get("ActiveState") in _UP
        return Status(main, frozenset(pids), failed, int(shown.get("NRestarts") or 0), kept)

    def tail(self, lines: int) -> list[str]:
        argv = ["journalctl", *(["--user"] if self._own else []), "-q", "--no-pager", "-o", "cat"]
        options = commands.Options(env={}, capture=True)
        if commands.find("journalctl") is None:
            return []
        return commands.run([*argv, "-n", str(lines), "-u", self.unit], options).output.splitlines()

    def remove(self) -> None:
        if not os.path.lexists(self.path):
            return
        self._check_mark()
        self._systemctl("disable", self.unit)
        os.unlink(self.path)
        self._systemctl("daemon-reload")
        self._call("reset-failed", self.unit)

    def _check_mark(self) -> None:
        """Refuse a unit that is not ours, or is of another service."""
        if os.path.lexists(self.path):
            text = proc.read_bytes(self.path).decode("utf-8", "surrogateescape")
            if not text.startswith(self._mark):
                raise Failure(f"{self.path} was not made for this service: remove it, or rename the service")

    def _systemctl(self, *words: str) -> None:
        result = self._call(*words)
        if result.status:
            raise Failure(f"systemctl {' '.join(words)}: it {result.ended}")

    def _call(self, *words: str, capture: bool = False) -> commands.Result:
        argv = ["systemctl", *(["--user"] if self._own else []), "--quiet", "--no-ask-password", *words]
        return commands.run(argv, commands.Options(env={}, capture=capture))


_PROGRAMS = ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")
_SYSTEM = "/etc/systemd/system"


def enable_in_image(service: Service) -> list[str]:
    """Write units for the processes of a service, and let them start with the system, while no systemd runs:
    what `systemctl --root` enable does, by a link. Return their names; none where there is no systemd."""
    if not any(os.path.exists(path) for path in _PROGRAMS):
        return []
    names = []
    for process in service.processes:
        name = unit_name(service.key, process.number)
        mark = f"{MARK} {process.number} of {service.key}\n"
        wants = os.path.join(_SYSTEM, "multi-user.target.wants")
        os.makedirs(wants, exist_ok=True)
        write(os.path.join(_SYSTEM, name), unit_text(service, process, mark, own=False))
        link = os.path.join(wants, name)
        if not os.path.lexists(link):
            os.symlink(os.path.join(_SYSTEM, name), link)
        names.append(name)
    return names


def unit_name(key: str, number: int) -> str:
    """Return the name of a unit: `buildstep-NAME:INSTANCE.N.service`, other characters as `:XX`."""
    text = re.sub(r"[^A-Za-z0-9_.-]", lambda m: ":" if m.group() == "!" else f":{ord(m.group()):02X}", key)
    return f"buildstep-{shortened(text)}.{number}.service"


def unit_text(service: Service, process: Process, mark: str, *, own: bool) -> str:
    """Return the text of a unit. Raises Failure for what cannot be written there."""
    lines = [
        "[Unit]",
        f"Description={_escaped(f'{process.name} of {service.key}')}",
        "After=network.target",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={_exec(process.argv)}",
        f"WorkingDirectory={_escaped(process.directory or '/')}",
    ]
    if process.user and not own:
        lines.append(f"User={_escaped(process.user)}")
    for name, value in sorted(process.environment.items()):
        lines.append(f"Environment={_quoted(f'{name}={value}')}")
    lines += [
        "Restart=on-failure",
        "RestartSec=1",
        f"TimeoutStopSec={process.stop_seconds:g}",
        f"KillMode={'control-group' if is_shell(process.argv) else 'mixed'}",
        "",
        "[Install]",
        f"WantedBy={'default.target' if own else 'multi-user.target'}",
    ]
    return mark + "\n".join(lines) + "\n"


def _exec(argv: Sequence[str]) -> str:
    program = argv[0] if "/" in argv[0] else commands.find(argv[0])
    if program is None:
        raise Failure(f"the program {argv[0]} is not installed")
    # `$` would be a variable, `;` alone another command.
    words = [_quoted(word).replace("$", "$$") for word in argv[1:]]
    return " ".join([_quoted(program), *words])


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    if "\0" in text:
        raise Failure(f"{text!r} cannot be in a unit of systemd")
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return text.replace("%", "%%")
