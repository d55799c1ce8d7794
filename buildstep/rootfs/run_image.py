"""Run an image's programs as a container engine would: with its user, environment and directory, in a tree
that is thrown away afterwards, and behind the walls that package scripts have."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from buildstep.errors import CommandFailed, SandboxError
from buildstep.events import WHOLE, Bus, Part
from buildstep.rootfs import devices, limits, run_as, temporary_files
from buildstep.rootfs.run_config import RunConfig
from buildstep.rootfs.sandbox import NOT_STARTED, ChrootSandbox, SandboxOptions
from buildstep.spec.fields import Limits
from buildstep.system import attached, bubblewrap, host, process, standard_streams, terminal
from buildstep.system.bubblewrap import Entrance
from buildstep.system.mounts import bind
from buildstep.system.netns import NetworkNamespace
from buildstep.system.root import Root
from buildstep.system.terminal import Pty

_HOSTS = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
"""What container engines give an image as /etc/hosts, where it has none of its own."""

_TAIL = 40
"""Lines of output that are kept of a command."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a command ended: its status, negative for a signal, None where we ended it; what it printed."""

    status: int | None
    stdout: str = ""
    stderr: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class How:
    """How a command of an image is run. env: over the image's; user: in place of the image's; timeout: in
    seconds, None for none."""

    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    workdir: str | None = None
    timeout: float | None = None


_ENDED = "until"
"""Of what we ended ourselves, in place of a limit."""


class ImageSandbox(ChrootSandbox):
    """An image's root, entered to run what the image is for. namespace: the network of all commands."""

    def __init__(
        self, root: Root, bus: Bus, environ: Mapping[str, str], options: SandboxOptions, config: RunConfig
    ) -> None:
        super().__init__(root, bus, environ, options)
        self.config = config
        self.proxies: Mapping[str, str] = {}
        self.namespace: NetworkNamespace | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL)

    @property
    def tail(self) -> list[str]:
        """The last lines that the last command printed."""
        return list(self._tail)

    def connect(self, stack: contextlib.ExitStack) -> None:
        """Make the network of all commands: a loopback and, where the options give it, a way out."""
        if self._options.network:
            self.proxies = self._network_proxies({}).env
            assert self._network is not None
            self.namespace = self._network.namespace
        else:
            self.namespace = NetworkNamespace()
            stack.callback(self.namespace.close)

    def _account(self, how: How) -> run_as.Account:
        return run_as.account(self.root, how.user if how.user is not None else self.config.user or None)

    def command(self, argv: Sequence[str], how: How) -> tuple[tuple[str, ...], dict[str, str], str]:
        """Return the command line in the image, its environment, and the directory that it begins in: as the
        image says, with nothing of the CI host's. Raises SandboxError."""
        who = self._account(how)
        env = {"HOME": who.home, "HOSTNAME": "buildstep", **self.proxies, **self.config.env, **how.env}
        workdir = how.workdir or self.config.workdir
        if not self.root.is_dir(workdir):
            self.root.make_dirs(workdir)  # as container engines do
        return who.argv(self.root, argv), env, workdir

    @contextlib.contextmanager
    def entrance(self, workdir: str) -> Iterator[Entrance]:
        """The way in for one command."""
        assert self.namespace is not None
        with self._entrance(network=False) as entrance:
            assert entrance is not None
            prefix = (*entrance.prefix, *self.namespace.prefix())
            yield replace(entrance, prefix=prefix, network_given=True, workdir=workdir)

    def call(
        self, argv: Sequence[str], how: How, *, answer: int = 0, until: Callable[[], bool] = lambda: False
    ) -> Outcome:
        """Run a command to its end, or until `until` says that it has to go; nothing of it is left then.

        answer: bytes of each stream that the outcome shall hold. Raises SandboxError where the image cannot
        be entered; every other end is an outcome.
        """
        full, env, workdir = self.command(argv, how)
        bounds = self._limits(answer)._replace(total=how.timeout, idle=None)
        tool = Path(argv[0]).name
        self._tail.clear()

        def line(text: str, part: Part = WHOLE) -> None:
            self._tail.append(text)
            self._bus.output(tool, text, part)

        def watch() -> process.Reached | None:
            if until():
                return process.Reached(_ENDED, "was ended")
            return bounds.watch() if bounds.watch else None

        with self.entrance(workdir) as entrance:
            try:
                result = process.run(
                    self.wrapped(full, entrance),
                    env=env,
                    start=self._start(entrance, ()),
                    ok=range(256),
                    line=line,
                    limits=bounds._replace(watch=watch),
                    what=tool,
                )
            except CommandFailed as error:
                if error.limit == _ENDED:
                    return Outcome(status=None)
                return Outcome(status=error.status, problem=error.message)
            if result.status and entrance.watch is not None and not entrance.watch.started():
                return Outcome(status=result.status, problem=self._not_started(argv[0]))
        return Outcome(status=result.status, stdout=result.stdout, stderr=result.stderr)

    def attach(self, argv: Sequence[str], how: How, *, stdin: bool, tty: bool) -> int:
        """Run a command for whoever is at our standard streams; return its status, 128+N for signal N.

        stdin: whether it reads our standard input; tty: give it a terminal, for the person at ours. A signal
        that we get is handed on to it. One that cannot be started has the status of shells: 126 or 127.
        """
        full, env, workdir = self.command(argv, how)
        standard_streams.flush()
        with self.entrance(workdir) as entrance:
            if tty:
                env["TERM"] = self._environ.get("TERM", "dumb")
                with self._terminal(self._account(how).uid) as (pty, start):
                    words = self.wrapped([*start, *full], replace(entrance, on_terminal=True))
                    words[0] = process.which(words[0])
                    status = terminal.attend(pty, words, env, entrance.fds)
            else:
                signals = attached.Signals(partial(_hand_on, entrance, self.config.stop_signal), _PATIENCE)
                words = self.wrapped(full, entrance)
                words[0] = process.which(words[0])
                status = attached.run(words, env, signals, fds=entrance.fds, stdin=stdin)
            if status > 0 and entrance.watch is not None and not entrance.watch.started():
                there = self.root.exists(argv[0]) if "/" in argv[0] else self._has_program(argv[0])
                return _NOT_RUNNABLE if there else _NO_SUCH_PROGRAM
        return 128 - status if status < 0 else status

    @contextlib.contextmanager
    def _terminal(self, owner: int) -> Iterator[tuple[Pty, list[str]]]:
        """A terminal in the image, and what starts a command on it."""
        with contextlib.closing(Pty(self.root.path / "dev/pts")) as pty:
            place = f"/dev/pts/{pty.number}"
            with contextlib.suppress(OSError):  # a user namespace need not have that number
                os.chown(self.root.path / place.lstrip("/"), owner, -1)
            # The first to open a terminal in a session that has none gets it: job control needs that.
            script = 'terminal=$0; exec "$@" <>"$terminal" >&0 2>&0'
            yield pty, ["/bin/sh", "-c", script, place] if self.root.is_program("/bin/sh") else []

    def _not_started(self, program: str) -> str:
        """Return why the program did not start. Raises SandboxError where it is not the program's fault."""
        why = self._tail[-1] if self._tail else ""
        if not why.startswith(NOT_STARTED):
            raise SandboxError(
                f"{self.root.path} cannot be entered: {why.partition(': ')[2] or why}",
                hint="`buildstep doctor` tells what this CI host lacks",
            )
        return f"{program} cannot be started: {why.rpartition(': ')[2]}"


_NO_SUCH_PROGRAM, _NOT_RUNNABLE = 127, 126

_PATIENCE = 10.0
"""Seconds that a program has to end after it was asked to; as container engines have it."""


def _hand_on(entrance: Entrance, stop: str, number: int) -> None:
    """Pass a signal on to the program. The image says which one asks it to end."""
    program = None if entrance.watch is None else entrance.watch.program()
    if number in (signal.SIGTERM, signal.SIGHUP) and stop:
        name = stop if stop.startswith("SIG") else f"SIG{stop}"
        number = int(stop) if stop.isdigit() else getattr(signal, name, number)
    with contextlib.suppress(OSError):
        if program is not None:
            os.kill(program, number)


@contextlib.contextmanager
def enter(
    root: Root,
    config: RunConfig,
    *,
    bus: Bus,
    environ: Mapping[str, str],
    network: bool = False,
    most: Limits = Limits(),  # noqa: B008 - it cannot be changed
) -> Iterator[ImageSandbox]:
    """Enter a tree that is thrown away, to run an image's programs in it.

    network: whether there is a way out, through a proxy; else there is a loopback. most: what each command
    may take. The image's own /tmp and /run are there, and what is missing that a container engine would give
    it is made. Raises SandboxError.
    """
    if not host.HERE.namespaces:
        raise SandboxError("programs of an image are run in namespaces of Linux, which are not here")
    options = SandboxOptions(network=network, resolver_file=None, limits=most)
    sandbox = ImageSandbox(root, bus, environ, options, config)
    with contextlib.ExitStack() as stack:
        stack.callback(sandbox.leave)
        sandbox.confine(stack.enter_context(limits.confine(most)))
        points = {path: temporary_files.claim(stack, root, path) for path in ("/dev", "/proc")}
        devices.mount(stack, points["/dev"])
        program = bubblewrap.program()
        stack.enter_context(bind(program, program, read_only=True))
        _complete(root, config)
        sandbox.connect(stack)
        yield sandbox


def _complete(root: Root, config: RunConfig) -> None:
    """Make what an image is run with, and need not have: names of the loopback, and its volumes."""
    for path in ("/etc", "/tmp", *config.volumes):
        if root.lstat(path) is None:
            root.make_dirs(path, 0o1777 if path == "/tmp" else 0o755)
    hosts = root.lstat("/etc/hosts")
    if hosts is None or hosts.st_size == 0:
        root.write("/etc/hosts", _HOSTS)
