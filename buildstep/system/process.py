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
from typing import Any

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

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    seconds: float


def _as_bytes(text: str) -> str:
    return os.fsencode(text).decode(_BYTES)


def paste(argv: Sequence[str]) -> str:
    """The command as one line for a shell."""
    return shlex.join(argv)


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    input_text: str | None = None,
    line: Line | None = None,
    ok: Sequence[int] = (0,),
    timeout: float | None = None,
    idle_timeout: float | None = None,
    what: str = "",
    hint: str = "",
) -> Result:
    """Run one command to its end.

    env: the whole environment of the child (default: `base_env` of ours). line: called with every line
    of output as it comes. ok: statuses that are not a failure. timeout: seconds in all; idle_timeout:
    seconds without a line of output. Raises CommandFailed with the tail of the output, ToolMissing if
    there is no such program. Whatever ends this call, the child and its process group are gone.
    """
    import sh

    global started  # noqa: PLW0603 - a counter for the whole process
    program = which(argv[0])
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    heard = [time.monotonic()]
    captured: dict[str, list[str]] = {"out": [], "err": []}
    lock = threading.Lock()

    def receive(stream: str) -> Callable[[str], None]:
        def on_line(raw: str) -> None:
            text = raw.rstrip("\n").encode(_BYTES).decode(errors="replace")
            with lock:
                heard[0] = time.monotonic()
                captured[stream].append(text)
                tail.append(text)
                if line is not None:
                    line(text)

        return on_line

    begin = time.monotonic()
    started += 1
    # Without it sh gives the child a pipe that nobody ever writes to or closes.
    with open(os.devnull, "rb") as nothing:
        child = sh.Command(_as_bytes(program))(
            *map(_as_bytes, argv[1:]),
            _env=dict(env if env is not None else base_env(os.environ)),
            _cwd=None if cwd is None else os.fspath(cwd),
            _in=nothing if input_text is None else _as_bytes(input_text),
            _out=receive("out"),
            _err=receive("err"),
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
    expired = ""
    try:
        while child.is_alive():
            now = time.monotonic()
            if timeout is not None and now - begin > timeout:
                expired = f"did not end within {timeout:g} s"
            elif idle_timeout is not None and now - heard[0] > idle_timeout:
                expired = f"printed nothing for {idle_timeout:g} s"
            if expired:
                _end_group(child.pid, child.is_alive)
                break
            time.sleep(0.02)  # short naps, so that a signal's exception is raised here at once
    except BaseException:
        _end_group(child.pid, child.is_alive)
        raise
    # What it left running in its group must neither go on nor hold its output open.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(sh.SignalException, sh.ErrorReturnCode):
        child.wait()
    status = int(child.exit_code)
    stdout, stderr = "\n".join(captured["out"]), "\n".join(captured["err"])
    if expired or status not in ok:
        detail = "\n".join([*tail, f"command: {paste(argv)}"])
        label = what or Path(argv[0]).name
        raise CommandFailed(argv, status, detail=detail, hint=hint, what=f"{label} {expired}".strip())
    return Result(tuple(argv), status, stdout, stderr, time.monotonic() - begin)


def query(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    ok: Sequence[int] = (0,),
    timeout: float = 60.0,
    what: str = "",
) -> Result:
    """Ask a short question of a tool: like `run`, without lines as they come, and quicker."""
    global started  # noqa: PLW0603
    program = which(argv[0])
    started += 1
    begin = time.monotonic()
    try:
        done = subprocess.run(
            [program, *argv[1:]],
            env=dict(env if env is not None else base_env(os.environ)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(
            argv, -signal.SIGKILL, what=f"{what or argv[0]} did not answer within {timeout:g} s"
        ) from error
    stdout, stderr = (raw.decode(errors="replace") for raw in (done.stdout, done.stderr))
    if done.returncode not in ok:
        detail = f"{(stderr or stdout).rstrip()}\ncommand: {paste(argv)}"
        raise CommandFailed(argv, done.returncode, detail=detail, what=what)
    return Result(tuple(argv), done.returncode, stdout, stderr, time.monotonic() - begin)


def _end_group(pid: int, alive: Callable[[], bool]) -> None:
    """Interrupt, terminate, then kill a child and its whole process group."""
    for signum, grace in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signum)
        end = time.monotonic() + grace
        while time.monotonic() < end:
            if not alive():
                # The leader is gone; whatever it started has no reason to stay.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
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
    global started  # noqa: PLW0603
    program = which(argv[0])
    started += 1
    tail: deque[bytes] = deque(maxlen=TAIL_LINES)
    child = subprocess.Popen(
        [program, *argv[1:]],
        env=dict(env if env is not None else base_env(os.environ)),
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
        text = b"".join(tail).decode(errors="replace").rstrip()
        raise CommandFailed(argv, child.returncode, detail=f"{text}\ncommand: {paste(argv)}", what=what)
