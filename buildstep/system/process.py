"""Start commands: argv lists only, a built environment, bounded output, and no child left behind.

`run` is for commands whose output is text and wanted line by line; it stands on the `sh` package.
`query` is for short questions, where the threads that `sh` starts for each command would be felt.
`spawn` is for commands that are a stage of a binary pipe. Nothing else starts a process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from buildstep.errors import CommandFailed, ToolMissing
from buildstep.system import space, tools
from buildstep.system.child import FIRST_NAP, GRACE, NAP, end_group, follow, signal_group
from buildstep.system.command_options import Limits, Reached, Start
from buildstep.system.command_output import READ, Line, Output, Stream, last_lines
from buildstep.system.deferral import uninterrupted

__all__ = ["Limits", "Reached", "Result", "Start", "base_env", "find", "query", "run", "spawn", "which"]

ANSWER = 64 << 20
"""Bytes of output that a query may have: more than any tool lists of the largest pool."""

STAGE = 12 * 3600.0
"""Seconds after which a stage of a pipe that does not end is taken for stuck."""

SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What the PATH of root has. An ordinary user's lacks the sbin folders, and a service's may be empty."""

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "LOGNAME", "TZ")

_BYTES = "latin-1"
"""The encoding that `sh` is given: one character per byte, since paths need not be UTF-8."""

started = 0
"""Processes started so far; a counted cost that tests watch."""


def base_env(environ: Mapping[str, str], **extra: str) -> dict[str, str]:
    """The environment for a tool on the agent: what it needs to run, and none of the agent's tokens. Programs
    that it starts itself are looked for where ours are."""
    env = {key: environ[key] for key in _INHERITED if key in environ}
    env["PATH"] = search_path(environ)
    env["LC_ALL"] = "C.UTF-8"
    return env | extra


def search_path(environ: Mapping[str, str]) -> str:
    """Return the PATH of an environment with all folders of SAFE_PATH, those it lacks at its end. Nothing is
    looked for in the current directory, which an empty entry stands for."""
    given = [folder for folder in environ.get("PATH", "").split(os.pathsep) if folder]
    more = [folder for folder in SAFE_PATH.split(":") if folder not in given]
    return os.pathsep.join([*given, *more])


def which(tool: str, *, hint: str = "", path: str | None = None) -> str:
    """The absolute path of a program; ToolMissing names it and tells how to get it."""
    found = find(tool, path=path)
    if found is None:
        raise ToolMissing(
            f"the program {tool} is not installed", hint=hint or f"install it: {tools.getting(tool)}"
        )
    return found


def find(tool: str, *, path: str | None = None) -> str | None:
    """The absolute path of a program, or None. Looks into the sbin folders as well."""
    return shutil.which(tool, path=search_path(os.environ) if path is None else path)


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended: its status and what it printed."""

    status: int
    stdout: str
    stderr: str


def _prepare(argv: Sequence[str], env: Mapping[str, str] | None) -> tuple[str, dict[str, str]]:
    """Return program and environment of a child that is about to be started, and count it."""
    global started  # noqa: PLW0603 - a counter for the whole process
    program = which(argv[0])
    started += 1
    return program, dict(base_env(os.environ) if env is None else env)


def _failure(
    argv: Sequence[str], status: int, output: str, what: str, reached: Reached | None = None, errors: str = ""
) -> CommandFailed:
    detail = f"{output}\ncommand: {shlex.join(argv)}"
    if reached is None:
        return space.caused(CommandFailed(argv, status, detail=detail, what=what, errors=errors), output)
    label = f"{what or Path(argv[0]).name} {reached.text}"
    return CommandFailed(argv, status, detail=detail, what=label, limit=reached.limit, errors=errors)


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    start: Start = Start(),  # noqa: B008 - it cannot be changed
    line: Line | None = None,
    ok: Sequence[int] = (0,),
    limits: Limits = Limits(),  # noqa: B008 - it cannot be changed
    what: str = "",
) -> Result:
    """Run one command to its end.

    env: the whole environment of the child (default: `base_env` of ours). line: called with the lines of
    output as they come; of a very long output with its beginning and its end (`command_output`). ok: statuses
    that are not a failure.

    Raises CommandFailed with the tail of the output (where the limits ask for an answer, with what was said
    beside it first), ToolMissing if there is no such program. Whatever ends this call, the child and its
    process group are gone.
    """
    import sh

    output = Output(line, keep=limits.answer)
    with contextlib.ExitStack() as pipes:
        child: Any = None
        try:
            with uninterrupted():
                child, ends = _start(argv, env, start, pipes)
            reached = follow(child.pid, child.is_alive, ends, output, limits)
        except BaseException:
            if child is not None:
                end_group(child.pid, child.is_alive)
            raise
    with contextlib.suppress(sh.SignalException, sh.ErrorReturnCode):
        child.wait()
    output.close()
    status = int(child.exit_code)
    if reached or status not in ok:
        raise _failure(argv, status, output.failure, what, reached, output.errors)
    return Result(status, output.stdout.text, output.stderr.text)


def _start(
    argv: Sequence[str], env: Mapping[str, str] | None, start: Start, pipes: contextlib.ExitStack
) -> tuple[Any, tuple[int, int]]:
    """Start a command by the `sh` package; return its handle and our ends of its two pipes.

    `sh` would read them in threads and keep the lines: it gets the pipes, and we read them.
    """
    import sh

    program, environment = _prepare(argv, env)
    with contextlib.ExitStack() as theirs:
        # Without it sh gives the child a pipe that nobody ever writes to or closes.
        stdin = theirs.enter_context(start.stdin.open("rb"))
        for fd in start.fds:
            os.set_inheritable(fd, True)  # sh closes all others, and leaves this to us
        ends = [os.pipe() for _ in range(2)]
        for ours, its in ends:
            pipes.callback(os.close, ours)
            theirs.callback(os.close, its)
        try:
            child = sh.Command(_as_bytes(program))(
                *map(_as_bytes, argv[1:]),
                _env=environment,
                _in=stdin,
                _pass_fds=set(start.fds),
                _cwd=None if start.cwd is None else os.fspath(start.cwd),
                _preexec_fn=_with_umask(start.umask),
                _out=ends[0][1],
                _err=ends[1][1],
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
        except sh.ForkException as error:
            raise _not_started(argv[0], str(error)) from None
    return child, (ends[0][0], ends[1][0])


def _with_umask(umask: int | None) -> Callable[[], None] | None:
    """Return what a child does before it begins; None for nothing."""

    def begin() -> None:
        assert umask is not None
        os.umask(umask)

    return None if umask is None else begin


def _not_started(program: str, trace: str) -> ToolMissing:
    """Return the error for a program that the kernel did not start. trace: what `sh` has of its child."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    reason = re.sub(r"^\w+: (\[Errno \d+\] )?|: b?'.*'$", "", lines[-1] if lines else "")
    return ToolMissing(
        f"{program} cannot be started: {reason}",
        hint="does its first line name an interpreter that is there, such as #!/bin/sh?",
    )


def _as_bytes(text: str) -> str:
    return os.fsencode(text).decode(_BYTES)


def query(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    ok: Sequence[int] = (0,),
    timeout: float = 60.0,
    what: str = "",
) -> Result:
    """Run a command that is over at once: like `run`, without lines as they come, and quicker.

    The result holds all of its output; more than ANSWER bytes of it are a failure.
    """
    program, environment = _prepare(argv, env)
    output, limits = Output(keep=ANSWER), Limits(timeout, answer=ANSWER)
    with contextlib.ExitStack() as stage:
        with uninterrupted():
            child = subprocess.Popen(
                [program, *argv[1:]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            assert child.stdout is not None
            assert child.stderr is not None
            ends = tuple(stage.enter_context(stream).fileno() for stream in (child.stdout, child.stderr))
            stage.callback(_reap, child)
            stage.push(_end_after_error(child))
        reached = follow(child.pid, lambda: _runs(child), (ends[0], ends[1]), output, limits)
    output.close()
    status = child.returncode
    if reached:
        raise _failure(argv, status, output.tail, what, reached)
    if status not in ok:
        raise _failure(argv, status, last_lines(output.stderr.text or output.stdout.text), what)
    return Result(status, output.stdout.text, output.stderr.text)


def _runs(child: subprocess.Popen[bytes]) -> bool:
    """Return whether a child has not ended. It is not collected: its group's number stays its own."""
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    return False


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Collect a child that has ended. One that even SIGKILL does not end hangs in the kernel: leave it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE)
    if child.returncode is None:
        child.returncode = -signal.SIGKILL


@contextlib.contextmanager
def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    what: str = "",
    ok: Sequence[int] = (0,),
    timeout: float = STAGE,
    **popen: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is a stage of a binary pipe, ended and checked when the block is left.

    popen: stdin, stdout, pass_fds, cwd for `subprocess.Popen`. stderr is kept (its tail goes into the
    CommandFailed raised for a bad status). timeout: seconds that it may go on after the block, which for a
    child that writes into a file by itself is all of its work. When the block raises, the child is ended
    first. What it started is gone with it.
    """
    program, environment = _prepare(argv, env)
    output = Output()
    ended = True
    with contextlib.ExitStack() as stage:
        with uninterrupted():
            child = subprocess.Popen(
                [program, *argv[1:]],
                env=environment,
                stderr=subprocess.PIPE,
                start_new_session=True,
                **popen,
            )
            reader = threading.Thread(target=_drain, args=(child.stderr, output.stderr), daemon=True)
            reader.start()
            stage.callback(reader.join, GRACE)
            stage.callback(_gone, child)
            stage.push(_end_after_error(child))
        yield child
        if child.stdin is not None and not child.stdin.closed:
            child.stdin.close()
        ended = _ends_within(child, timeout)
        if not ended:
            end_group(child.pid, lambda: _runs(child))
    output.close()
    if not ended:
        reached = Reached("total", f"did not end within {timeout:g} s")
        raise _failure(argv, child.returncode, output.tail, what, reached)
    if child.returncode not in ok:
        raise _failure(argv, child.returncode, output.tail, what)


def _end_after_error(child: subprocess.Popen[bytes]) -> Callable[..., None]:
    """Return what ends a child and its group where a block raises, for `ExitStack.push`."""

    def leave(_kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            end_group(child.pid, lambda: _runs(child))

    return leave


def _gone(child: subprocess.Popen[bytes]) -> None:
    """Close our ends of a child's pipes, kill what it has left in its group, and collect it."""
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    signal_group(child.pid, signal.SIGKILL)
    _reap(child)


def _ends_within(child: subprocess.Popen[bytes], seconds: float) -> bool:
    end = time.monotonic() + seconds
    nap = FIRST_NAP
    while _runs(child):
        if time.monotonic() > end:
            return False
        time.sleep(nap)
        nap = min(NAP, 2 * nap)
    return True


def _drain(pipe: IO[bytes], stream: Stream) -> None:
    """Read a pipe to its end, so that the child never waits for it."""
    with pipe:
        while data := os.read(pipe.fileno(), READ):
            stream.take(data)
