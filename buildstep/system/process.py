"""Start commands: argv lists only, a built environment, bounded output, and no child left behind.

`run` is for commands whose output is text and wanted line by line; it stands on the `sh` package.
`query` is for short questions, where the threads that `sh` starts for each command would be felt.
`spawn` is for commands that are a stage of a binary pipe. Nothing else starts a process.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from buildstep.errors import CommandFailed, ToolMissing

TAIL_LINES = 40
"""How much of a failing command's output goes into the error."""

_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL when a child has to go."""

SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "LOGNAME", "TZ")

_BYTES = "latin-1"
"""The encoding that `sh` is given: one character per byte, since paths need not be UTF-8."""

Line = Callable[[str], None]

started = 0
"""Processes started so far; a counted cost that tests watch."""


def base_env(environ: Mapping[str, str], **extra: str) -> dict[str, str]:
    """The environment for a tool on the agent: what it needs to run, and none of the agent's tokens."""
    env = {key: environ[key] for key in _INHERITED if key in environ}
    env.setdefault("PATH", SAFE_PATH)
    env["LC_ALL"] = "C.UTF-8"
    return env | extra


def which(tool: str, *, hint: str = "", path: str | None = None) -> str:
    """The absolute path of a program; ToolMissing names it and tells how to get it."""
    found = find(tool, path=path)
    if found is None:
        raise ToolMissing(
            f"the program {tool} is not installed", hint=hint or f"install the package that has {tool}"
        )
    return found


def find(tool: str, *, path: str | None = None) -> str | None:
    """The absolute path of a program, or None. Looks into the sbin folders as well."""
    search = path if path is not None else os.environ.get("PATH", "") + ":" + SAFE_PATH
    return shutil.which(tool, path=search)


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended: its status and what it printed."""

    status: int
    stdout: str
    stderr: str


class Limits(NamedTuple):
    """How long a command may take, in seconds: in all, and without a line of output. None: no limit."""

    total: float | None = None
    idle: float | None = None


def _prepare(argv: Sequence[str], env: Mapping[str, str] | None) -> tuple[str, dict[str, str]]:
    """Return program and environment of a child that is about to be started, and count it."""
    global started  # noqa: PLW0603 - a counter for the whole process
    program = which(argv[0])
    started += 1
    return program, dict(base_env(os.environ) if env is None else env)


def _failure(argv: Sequence[str], status: int, output: str, what: str) -> CommandFailed:
    detail = f"{output}\ncommand: {shlex.join(argv)}"
    return CommandFailed(argv, status, detail=detail, what=what)


class _Output:
    """What a command prints: its lines, the last of both streams, and when the last one came."""

    def __init__(self, line: Line | None) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.heard = time.monotonic()
        self._line = line
        self._lock = threading.Lock()  # `sh` reads each stream in a thread of its own

    def take(self, raw: str, stream: list[str]) -> None:
        text = raw.rstrip("\n").encode(_BYTES).decode(errors="replace")
        with self._lock:
            self.heard = time.monotonic()
            stream.append(text)
            self.tail.append(text)
            if self._line is not None:
                self._line(text)


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    line: Line | None = None,
    ok: Sequence[int] = (0,),
    limits: Limits = Limits(),  # noqa: B008 - it cannot be changed
    what: str = "",
) -> Result:
    """Run one command to its end.

    env: the whole environment of the child (default: `base_env` of ours). line: called with every line
    of output as it comes. ok: statuses that are not a failure. Raises CommandFailed with the tail of the
    output, ToolMissing if there is no such program. Whatever ends this call, the child and its process
    group are gone.
    """
    import sh

    output = _Output(line)
    begin = time.monotonic()
    child = _start(argv, env, cwd, output)
    expired = ""
    try:
        while not expired and child.is_alive():
            expired = _expired(limits, begin, output)
            time.sleep(0.02)  # short naps, so that a signal's exception is raised here at once
        if expired:
            _end_group(child.pid, child.is_alive)
    except BaseException:
        _end_group(child.pid, child.is_alive)
        raise
    # What it left running in its group must neither go on nor hold its output open.
    _signal_group(child.pid, signal.SIGKILL)
    with contextlib.suppress(sh.SignalException, sh.ErrorReturnCode):
        child.wait()
    status = int(child.exit_code)
    if expired or status not in ok:
        label = f"{what or Path(argv[0]).name} {expired}".strip()
        raise _failure(argv, status, "\n".join(output.tail), label)
    return Result(status, "\n".join(output.out), "\n".join(output.err))


def _start(
    argv: Sequence[str], env: Mapping[str, str] | None, cwd: Path | str | None, output: _Output
) -> Any:
    """Start a command by the `sh` package and return its handle."""
    import sh

    program, environment = _prepare(argv, env)
    # Without it sh gives the child a pipe that nobody ever writes to or closes.
    with open(os.devnull, "rb") as nothing:
        return sh.Command(_as_bytes(program))(
            *map(_as_bytes, argv[1:]),
            _env=environment,
            _cwd=None if cwd is None else os.fspath(cwd),
            _in=nothing,
            _out=lambda raw: output.take(raw, output.out),
            _err=lambda raw: output.take(raw, output.err),
            _tty_out=False,
            _new_session=True,
            _bg=True,
            _bg_exc=False,
            _no_pipe=True,
            _internal_bufsize=0,
            _return_cmd=True,
            _ok_code=list(range(256)),
            _encoding=_BYTES,
        )


def _as_bytes(text: str) -> str:
    return os.fsencode(text).decode(_BYTES)


def _expired(limits: Limits, begin: float, output: _Output) -> str:
    """Return which limit a command has reached, in words; empty for none."""
    now = time.monotonic()
    if limits.total is not None and now - begin > limits.total:
        return f"did not end within {limits.total:g} s"
    if limits.idle is not None and now - output.heard > limits.idle:
        return f"printed nothing for {limits.idle:g} s"
    return ""


def query(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    ok: Sequence[int] = (0,),
    timeout: float = 60.0,
    what: str = "",
) -> Result:
    """Run a command that is over at once: like `run`, without lines as they come, and quicker."""
    program, environment = _prepare(argv, env)
    try:
        done = subprocess.run(
            [program, *argv[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(
            argv, -signal.SIGKILL, what=f"{what or argv[0]} did not end within {timeout:g} s"
        ) from error
    stdout, stderr = (raw.decode(errors="replace") for raw in (done.stdout, done.stderr))
    if done.returncode not in ok:
        raise _failure(argv, done.returncode, (stderr or stdout).rstrip(), what)
    return Result(done.returncode, stdout, stderr)


def _signal_group(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)


def _end_group(pid: int, alive: Callable[[], bool]) -> None:
    """Interrupt, terminate, then kill a child and its whole process group."""
    for signum, grace in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        _signal_group(pid, signum)
        end = time.monotonic() + grace
        while time.monotonic() < end:
            if not alive():
                # The leader is gone; whatever it started has no reason to stay.
                _signal_group(pid, signal.SIGKILL)
                return
            time.sleep(0.01)


@contextlib.contextmanager
def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    what: str = "",
    ok: Sequence[int] = (0,),
    **popen: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is a stage of a binary pipe, ended and checked when the block is left.

    popen: stdin, stdout, pass_fds, cwd for `subprocess.Popen`. stderr is kept (its tail goes into the
    CommandFailed raised for a bad status). When the block raises, the child is ended first.
    """
    program, environment = _prepare(argv, env)
    tail: deque[bytes] = deque(maxlen=TAIL_LINES)
    child = subprocess.Popen(
        [program, *argv[1:]],
        env=environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **popen,
    )
    assert child.stderr is not None
    stderr = child.stderr
    reader = threading.Thread(target=lambda: tail.extend(stderr), daemon=True)
    reader.start()
    try:
        yield child
        if child.stdin is not None and not child.stdin.closed:
            child.stdin.close()
        child.wait()
    except BaseException:
        _end_group(child.pid, lambda: child.poll() is None)
        raise
    finally:
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        child.wait()
        reader.join(_GRACE)
        stderr.close()
    if child.returncode not in ok:
        output = b"".join(tail).decode(errors="replace").rstrip()
        raise _failure(argv, child.returncode, output, what)
