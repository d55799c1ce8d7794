"""Start commands: argv lists only, a built environment, bounded output, and no child left behind.

`run` is for commands whose output is text and wanted line by line; it stands on the `sh` package.
`query` is for short questions, where the threads that `sh` starts for each command would be felt.
`spawn` is for commands that are a stage of a binary pipe. Nothing else starts a process.
"""

from __future__ import annotations

import contextlib
import os
import selectors
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
from buildstep.system import command_options, space
from buildstep.system.command_output import READ, Line, Output, Stream, last_lines
from buildstep.system.text import size_text

Limits = command_options.Limits
Start = command_options.Start

ANSWER = 64 << 20
"""Bytes of output that a query may have: more than any tool lists of the largest pool."""

STAGE = 12 * 3600.0
"""Seconds after which a stage of a pipe that does not end is taken for stuck."""

_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL when a child has to go."""

_NAP = 0.02
_FIRST_NAP = 0.001
"""Seconds between two looks at whether a child has ended; short, so that a signal is answered at once."""

_PIPES_FULL = 32
"""How often the pipes are read once the child is dead; twice is enough if nobody else writes into them."""

SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "LOGNAME", "TZ")

_BYTES = "latin-1"
"""The encoding that `sh` is given: one character per byte, since paths need not be UTF-8."""

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


def _prepare(argv: Sequence[str], env: Mapping[str, str] | None) -> tuple[str, dict[str, str]]:
    """Return program and environment of a child that is about to be started, and count it."""
    global started  # noqa: PLW0603 - a counter for the whole process
    program = which(argv[0])
    started += 1
    return program, dict(base_env(os.environ) if env is None else env)


def _failure(argv: Sequence[str], status: int, output: str, what: str) -> CommandFailed:
    detail = f"{output}\ncommand: {shlex.join(argv)}"
    return space.caused(CommandFailed(argv, status, detail=detail, what=what), output)


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

    Raises CommandFailed with the tail of the output, ToolMissing if there is no such program. Whatever ends
    this call, the child and its process group are gone.
    """
    import sh

    output = Output(line, keep=limits.answer)
    with contextlib.ExitStack() as pipes:
        child, ends = _start(argv, env, start, pipes)
        try:
            expired = _follow(child.pid, child.is_alive, ends, output, limits)
        except BaseException:
            _end_group(child.pid, child.is_alive)
            raise
    with contextlib.suppress(sh.SignalException, sh.ErrorReturnCode):
        child.wait()
    output.close()
    status = int(child.exit_code)
    if expired or status not in ok:
        label = f"{what or Path(argv[0]).name} {expired}".strip()
        raise _failure(argv, status, output.tail, label)
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
        child = sh.Command(_as_bytes(program))(
            *map(_as_bytes, argv[1:]),
            _env=environment,
            _in=stdin,
            _pass_fds=set(start.fds),
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
    return child, (ends[0][0], ends[1][0])


def _as_bytes(text: str) -> str:
    return os.fsencode(text).decode(_BYTES)


def _follow(
    pid: int, alive: Callable[[], bool], ends: tuple[int, int], output: Output, limits: Limits
) -> str:
    """Read what a child prints until it is over and its process group is gone.

    ends: our ends of its stdout and stderr. Returns which limit it reached, in words; empty for none.
    """
    begin = looked = time.monotonic()
    nap = _FIRST_NAP
    with selectors.DefaultSelector() as selector:
        for end, stream in zip(ends, (output.stdout, output.stderr), strict=True):
            selector.register(end, selectors.EVENT_READ, stream)
        while True:
            # Short naps: most children end soon, and one that closed its output goes on without it.
            nap = min(_NAP, 2 * nap) if not _read(selector, nap) else _FIRST_NAP
            now = time.monotonic()
            if expired := _expired(limits, begin, now, output):
                _end_group(pid, alive)
                return expired
            if nap == _FIRST_NAP and now - looked < _NAP and selector.get_map():
                continue  # it prints all the time: no question to the kernel for each piece
            looked = now
            if not alive():
                break
        # What it left running in its group must neither go on nor hold its output open. What left the group
        # may hold it, and go on: no more is read than was in the pipes.
        _signal_group(pid, signal.SIGKILL)
        for _ in range(_PIPES_FULL):
            if not _read(selector, 0):
                break
    return _expired(limits._replace(total=None, idle=None), begin, begin, output)


def _read(selector: selectors.BaseSelector, timeout: float) -> bool:
    """Wait for output and hand it to its stream; return whether something came, if only a pipe's end."""
    ready = selector.select(timeout)
    for key, _ in ready:
        data = os.read(key.fd, READ)
        if data:
            key.data.take(data)
        else:
            selector.unregister(key.fd)
    return bool(ready)


def _expired(limits: Limits, begin: float, now: float, output: Output) -> str:
    """Return which limit a command has reached, in words; empty for none."""
    if limits.output is not None and output.bytes > limits.output:
        return f"printed more than {size_text(limits.output)}"
    for stream in (output.stdout, output.stderr):
        if stream.overflow:
            return f"answered with more than {size_text(stream.keep)}"
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
    """Run a command that is over at once: like `run`, without lines as they come, and quicker.

    The result holds all of its output; more than ANSWER bytes of it are a failure.
    """
    program, environment = _prepare(argv, env)
    output = Output(keep=ANSWER)
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
    with child.stdout as out, child.stderr as err:
        try:
            ends = (out.fileno(), err.fileno())
            expired = _follow(child.pid, lambda: _runs(child), ends, output, Limits(timeout))
        except BaseException:
            _end_group(child.pid, lambda: _runs(child))
            raise
        finally:
            _reap(child)
    output.close()
    status = child.returncode
    if expired:
        raise _failure(argv, status, output.tail, f"{what or argv[0]} {expired}")
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
        child.wait(_GRACE)
    if child.returncode is None:
        child.returncode = -signal.SIGKILL


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
    child = subprocess.Popen(
        [program, *argv[1:]],
        env=environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **popen,
    )
    reader = threading.Thread(target=_drain, args=(child.stderr, output.stderr), daemon=True)
    reader.start()
    expired = False
    try:
        yield child
        if child.stdin is not None and not child.stdin.closed:
            child.stdin.close()
        expired = not _ends_within(child, timeout)
    except BaseException:
        _end_group(child.pid, lambda: _runs(child))
        raise
    finally:
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if expired:
            _end_group(child.pid, lambda: _runs(child))
        _signal_group(child.pid, signal.SIGKILL)
        _reap(child)
        reader.join(_GRACE)
    output.close()
    if expired:
        label = f"{what or argv[0]} did not end within {timeout:g} s"
        raise _failure(argv, child.returncode, output.tail, label)
    if child.returncode not in ok:
        raise _failure(argv, child.returncode, output.tail, what)


def _ends_within(child: subprocess.Popen[bytes], seconds: float) -> bool:
    end = time.monotonic() + seconds
    nap = _FIRST_NAP
    while _runs(child):
        if time.monotonic() > end:
            return False
        time.sleep(nap)
        nap = min(_NAP, 2 * nap)
    return True


def _drain(pipe: IO[bytes], stream: Stream) -> None:
    """Read a pipe to its end, so that the child never waits for it."""
    with pipe:
        while data := os.read(pipe.fileno(), READ):
            stream.take(data)
