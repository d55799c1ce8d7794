"""Guard of the unit tests: a command or a connection that a test has not announced fails it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

# A machine that does other things as well takes its time: that is no fault of what is tested.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
_LOOPBACK = ("127.", "::1", "localhost")


class Guard:
    """What the running test may do. `seen` has what it did without announcing it, for the end of the test."""

    def __init__(self) -> None:
        self.active = False
        self.commands: tuple[str, ...] | None = None
        self.seen: list[str] = []

    def refuse(self, what: str) -> NoReturn:
        self.seen.append(what)
        pytest.fail(what)

    def announced(self, argv: object) -> bool:
        """Whether the test has named this program. A test that names none may run every one."""
        first = argv[0] if isinstance(argv, list | tuple) and argv else argv
        name = os.fsdecode(first) if isinstance(first, str | bytes | os.PathLike) else ""
        return os.path.basename(name) in (self.commands or ())

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Look at one audit event of the interpreter. https://docs.python.org/3/library/audit_events.html"""
        if not self.active:
            return
        if event in _COMMANDS and self.commands != ():
            argv = _COMMANDS[event](args)
            if argv is not None and not self.announced(argv):
                self.refuse(
                    f"an unplanned command: {argv!r}. Replace it by a stand-in, or mark the test with "
                    "@pytest.mark.commands if it means to run one"
                )
        elif event == "socket.connect" and not _is_local(args[1]):
            self.refuse(
                f"an unplanned connection to {args[1]!r}: unit tests talk to servers on loopback only"
            )
        elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not _is_local((args[0],)):
            self.refuse(
                f"an unplanned look-up of the host {args[0]!r}: unit tests use names on loopback only"
            )


def _fork(_: tuple[Any, ...]) -> object:
    """A fork by itself is no command, but `sh` makes one before it starts its command."""
    frame = sys._getframe(2)  # 0 is this function, 1 is the audit hook
    return frame.f_locals.get("cmd", "?") if frame.f_globals.get("__name__") == "sh" else None


_COMMANDS = {
    "subprocess.Popen": lambda args: args[1],
    "os.exec": lambda args: args[1],
    "os.posix_spawn": lambda args: args[1],
    "os.system": lambda args: args[0],
    "os.fork": _fork,
    "os.forkpty": _fork,
}


def _is_local(address: object) -> bool:
    """Whether an address is on loopback, or a socket file that a test has made or that is not there."""
    if isinstance(address, tuple):
        host = address[0]
        host = host.decode() if isinstance(host, bytes) else host
        return host is None or host == "" or str(host).startswith(_LOOPBACK)
    if isinstance(address, str | bytes):
        path = os.fsdecode(address)
        return path.startswith(tempfile.gettempdir()) or not os.path.exists(path)
    return True


GUARD = Guard()
sys.addaudithook(GUARD.audit)


@pytest.fixture(autouse=True)
def guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Watch one test. Proxies of the environment are taken away: they may be on loopback too."""
    for name in _PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    mark = request.node.get_closest_marker("commands")
    GUARD.commands = mark.args if mark else None
    GUARD.seen = []
    GUARD.active = True
    yield
    GUARD.active = False
    if GUARD.seen:  # in a thread, or where the code under test hides every failure
        pytest.fail("\n".join(GUARD.seen))


@pytest.fixture
def unplanned(guard: None) -> list[str]:
    """What the running test has done without announcing it; whoever empties the list is forgiven."""
    return GUARD.seen
