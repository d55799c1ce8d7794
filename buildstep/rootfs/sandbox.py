"""A sandbox around an image's root: private mounts, a built environment, and commands that leave nothing.

The mounts made here are those of the build's own mount namespace (`namespaces.enclose`), so the CI host never
sees them. Every command is started by `bubblewrap`: the host's tree is not there, nor are its devices and
processes and, unless the command asks for it, its network. When it returns, whatever it started is dead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildstep.errors import CommandFailed, InImage, SandboxError
from buildstep.events import WHOLE, Bus
from buildstep.rootfs import devices, limits, temporary_files, varied
from buildstep.rootfs.limits import Confinement
from buildstep.rootfs.network_policy import Endpoint, Policy, allowed_by
from buildstep.rootfs.proxies import Proxies, proxies_from
from buildstep.spec.fields import Limits
from buildstep.system import bubblewrap, host, process, seccomp, standard_streams, terminal
from buildstep.system.mounts import bind, tmpfs
from buildstep.system.root import Root
from buildstep.system.terminal import Pty

if TYPE_CHECKING:
    from buildstep.rootfs.network import Network

RESOLVER = Path("/etc/resolv.conf")

NOT_STARTED = "bwrap: execvp "
"""How bwrap begins to say that a program of the image did not start."""

_ANSWER = 16 << 20
"""Bytes of standard output that a command in the image may answer with."""

_told: list[str] = []
"""Why there is no filter of system calls, once that is told."""

_UMASK = 0o022  # never that of the CI host
_NO_SUCH_PROGRAM, _NOT_RUNNABLE = 127, 126
"""What shells and chroot(1) say of a program that is not there, or that the kernel does not run."""


def command_env(root: Root, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of every command in an image; of the CI host's it has the build's date only."""
    has_utf8 = any(root.exists(f"/usr/lib/locale/{name}") for name in ("C.utf8", "C.UTF-8"))
    env = {
        "PATH": process.SAFE_PATH,
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/sh",
        "LC_ALL": "C.UTF-8" if has_utf8 else "C",
        "TERM": "dumb",
    }
    # Debian's useradd and others take today's date from it, so that two builds give the same bytes.
    if (epoch := environ.get("SOURCE_DATE_EPOCH", "")).isdigit():
        env["SOURCE_DATE_EPOCH"] = epoch
    return env | varied.ENVIRONMENT


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxOptions:
    """How a root is entered.

    network: False keeps commands that ask for the network from it as well; timeout, idle_timeout: seconds,
    per command; resolver_file: the resolver file of the CI host that commands see (None: the image's own);
    limits: what each command may take; reachable: what commands with the network may reach though it is the
    CI host; workdir: the directory in the image in which commands begin.
    """

    network: bool = True
    timeout: float | None = None
    idle_timeout: float | None = None
    resolver_file: Path | None = RESOLVER
    limits: Limits = field(default_factory=Limits)
    reachable: frozenset[Endpoint] = frozenset()
    workdir: str = "/"


class ChrootSandbox:
    """What `enter` yields; an interface.Sandbox."""

    def __init__(self, root: Root, bus: Bus, environ: Mapping[str, str], options: SandboxOptions) -> None:
        self._root = root
        self._bus = bus
        self._environ = environ
        self._options = options
        self._env = command_env(root, environ)
        self._proxies: Proxies | None = None
        self._network: Network | None = None
        self._confinement: Confinement | None = None
        self._shares: list[tuple[Path, str, bool]] = []

    def confine(self, confinement: Confinement) -> None:
        """Keep every command from now on in these limits."""
        self._confinement = confinement

    @property
    def root(self) -> Root:
        return self._root

    # -- commands ----------------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        *,
        network: bool = False,
        env: Mapping[str, str] | None = None,
        ok: Sequence[int] = (0,),
        answer: bool = True,
        what: str = "",
        fds: Sequence[int] = (),
    ) -> str:
        """Run a command in the root and return its standard output; see interface.Sandbox.run."""
        network = network and self._options.network
        proxies = self._network_proxies(env or {}) if network else Proxies()
        full = {**self._env, **(env or {}), **proxies.env}
        tool = Path(argv[0]).name
        self._bus.note(proxies.mask(f"in the image: {shlex.join(argv)}"), level="debug")
        with self._entrance(network=network) as entrance:
            try:
                result = process.run(
                    self.wrapped(argv, entrance),
                    env=full,
                    start=self._start(entrance, fds),
                    ok=ok,
                    line=lambda text, part=WHOLE: self._bus.output(tool, proxies.mask(text), part),
                    limits=self._limits(_ANSWER if answer else 0),
                    what=what or tool,
                )
            except CommandFailed as error:
                told = self._explained(error, argv, proxies, ran=_ran(entrance))
                if isinstance(told, CommandFailed):
                    told.inside = InImage(env=env or {}, network=network, shares=tuple(self._shares))
                raise told from None
            finally:
                if self._network is not None:
                    self._network.tell()
        return result.stdout

    def _limits(self, answer: int) -> process.Limits:
        """Return the limits of a command that starts now."""
        times = process.Limits(self._options.timeout, self._options.idle_timeout, answer=answer)
        if self._confinement is None:
            return times
        self._confinement.begin()
        return times._replace(output=self._confinement.output, watch=self._confinement.reached)

    def shell(self, ran: InImage | None = None) -> int:
        """Open /bin/sh in the root for the person at this terminal; return its status.

        ran: how the command was run that the person wants to look at: with its environment, its network and
        what it was shown. Else the shell has the network. The terminal stays ours (`terminal`). What comes
        from a file or a pipe is read by the shell itself.
        """
        network = self._options.network if ran is None else ran.network
        own = {} if ran is None else ran.env
        proxies = self._network_proxies(own) if network else Proxies()
        env = {**self._env, **own, **proxies.env, "TERM": self._environ.get("TERM", "dumb")}
        standard_streams.flush()
        with contextlib.ExitStack() as stack:
            for source, target, writable in () if ran is None else ran.shares:
                if (source, target, writable) not in self._shares and source.is_dir():
                    stack.enter_context(self.share(source, target, writable=writable))
            entrance = stack.enter_context(self._entrance(network=network))
            # A person's Ctrl-C is for the shell. A handler of ours, unlike SIG_IGN, is not inherited.
            before = signal.signal(signal.SIGINT, lambda _signum, _frame: None)
            stack.callback(signal.signal, signal.SIGINT, before)
            if entrance is None or not sys.stdin.isatty():
                argv = self.wrapped(["/bin/sh", "-i"], entrance)
                for fd in () if entrance is None else entrance.fds:
                    os.set_inheritable(fd, True)
                return os.spawnve(os.P_WAIT, process.which(argv[0]), argv, env)  # noqa: S606
            pty = stack.enter_context(contextlib.closing(Pty(self._root.path / "dev/pts")))
            command = ["/bin/sh", "-c", terminal.ON_TERMINAL, f"/dev/pts/{pty.number}"]
            argv = self.wrapped(command, replace(entrance, on_terminal=True))
            return terminal.attend(pty, [process.which(argv[0]), *argv[1:]], env, entrance.fds)

    def wrapped(self, argv: Sequence[str], entrance: bubblewrap.Entrance | None) -> list[str]:
        """Return the command line on the CI host that runs a command in the root.

        entrance: the way in; None where the host has no namespaces.
        """
        if not argv or not argv[0]:
            raise SandboxError("no command was given to run in the image")
        if entrance is None:
            if self._options.workdir != "/":
                argv = ("/bin/sh", "-c", 'cd "$0" && exec "$@"', self._options.workdir, *argv)
            return host.enter_argv(os.fspath(self._root.path), argv)
        # A script of the image can have put a link there when the last command ended.
        temporary_files.mount_point(self._root, "/proc")
        return entrance.command(argv)

    @contextlib.contextmanager
    def _entrance(self, *, network: bool) -> Iterator[bubblewrap.Entrance | None]:
        """The way in for one command; at the end all that it left running is dead."""
        if not host.HERE.namespaces:
            yield None
            return
        prefix = self._confinement.prefix() if self._confinement else ()
        if network and self._network is not None:
            prefix = (*prefix, *self._network.prefix())
        with bubblewrap.Watch() as watch, self._filter() as fd:
            yield bubblewrap.Entrance(
                root=self._root.path,
                network_given=network,
                prefix=prefix,
                seccomp=fd,
                watch=watch,
                workdir=self._options.workdir,
            )

    @contextlib.contextmanager
    def _filter(self) -> Iterator[int | None]:
        """The filter of system calls, opened; None where none can be had, which is noted once."""
        try:
            program = seccomp.program()
        except seccomp.Unavailable as error:
            if not _told:
                _told.append(str(error))
                self._bus.note(f"system calls of the image are not filtered: {error}", level="warning")
            yield None
        else:
            with seccomp.opened(program) as fd:
                yield fd

    def _start(self, entrance: bubblewrap.Entrance | None, fds: Sequence[int]) -> process.Start:
        """Return what a command starts with. It reads its own /dev/null, not the host's: root may change the
        mode of a file by its descriptor."""
        if entrance is None:
            return process.Start(fds=tuple(fds), umask=_UMASK)
        return process.Start(self._root.path / "dev/null", (*entrance.fds, *fds), umask=_UMASK)

    def _network_proxies(self, env: Mapping[str, str]) -> Proxies:
        """Return the variables of a command with the network, which is made for the first that needs it.

        env: the command's own, which may name another proxy than the CI host's. Where there are no
        namespaces the network is the host's, with its proxies.
        """
        if host.HERE.namespaces:
            # Loaded by the builds that use it.
            from buildstep.rootfs.network import ENVIRONMENT, Network

            if self._network is None:
                allowed = self._options.reachable | allowed_by(self._environ)
                self._network = Network(Policy(allowed=allowed), {**self._environ, **env}, self._bus)
            return Proxies(env=ENVIRONMENT)
        if self._proxies is None:
            self._proxies = proxies_from(self._environ)
            for note in self._proxies.notes:
                self._bus.note(note)
        return self._proxies

    def _explained(
        self, error: CommandFailed, argv: Sequence[str], proxies: Proxies, *, ran: bool
    ) -> CommandFailed | SandboxError:
        """Return the error in terms of the command in the image, not of what wraps it.

        ran: whether the program in the image was started; if not, the last line tells why.
        """
        lines = proxies.mask(error.detail).splitlines()
        # The last one is the command line on the host.
        output = lines[: _last(lines, "command: ")]
        status = error.status
        if not ran and status > 0 and not error.limit:
            why = output.pop() if output else error.message
            if not why.startswith(NOT_STARTED):
                return SandboxError(
                    f"{self._root.path} cannot be entered: {why.partition(': ')[2] or why}",
                    detail="\n".join(output),
                    hint="`buildstep doctor` tells what this CI host lacks",
                )
            output.append(why.removeprefix(NOT_STARTED))
            status = _NO_SUCH_PROGRAM if why.endswith(os.strerror(errno.ENOENT)) else _NOT_RUNNABLE
        hint = error.hint
        if status == _NO_SUCH_PROGRAM and not self._has_program(argv[0]):
            hint = f"the image has no program {argv[0]}"
        what, _, _ = error.message.rpartition(": ")
        if error.limit and error.limit != "answer":
            what, hint = f"{what} ({limits.setting(error.limit)})", limits.remedy(error.limit)
        elif self._confinement and (name := self._confinement.suspected("\n".join(output))):
            hint = f"it seems to have reached {limits.setting(name)}; {limits.remedy(name)}"
        detail = "\n".join([*output, f"command in the image: {shlex.join(argv)}"])
        return CommandFailed(argv, status, detail=detail, hint=hint, what=what, limit=error.limit)

    def _has_program(self, name: str) -> bool:
        if "/" in name:
            return self._root.is_program(name)
        return any(self._root.is_program(f"{d}/{name}") for d in self._env["PATH"].split(":"))

    def leave(self) -> None:
        """End what serves commands."""
        if self._network is not None:
            self._network.close()
            self._network = None

    # -- mounts and files --------------------------------------------------------------------------

    @contextlib.contextmanager
    def share(self, source: Path, target: str, *, writable: bool = False) -> Iterator[None]:
        """Show a directory of the CI host at a path inside; see interface.Sandbox.share."""
        if not source.is_dir():
            raise SandboxError(f"{source} cannot be shown in the image: it is not a directory")
        with contextlib.ExitStack() as stack:
            point = temporary_files.claim(stack, self._root, target)
            stack.enter_context(bind(source, point, read_only=not writable))
            self._shares.append((source, target, writable))
            stack.callback(self._shares.pop)
            yield

    def temporary_file(
        self, target: str, content: bytes, *, mode: int = 0o644
    ) -> contextlib.AbstractContextManager[None]:
        """Put a file at a path inside; see interface.Sandbox.temporary_file."""
        return temporary_files.temporary_file(self._root, target, content, mode=mode, bus=self._bus)


@contextlib.contextmanager
def enter(
    root_dir: Path,
    *,
    bus: Bus,
    environ: Mapping[str, str],
    options: SandboxOptions = SandboxOptions(),
) -> Iterator[ChrootSandbox]:
    """Enter an image's root for the length of a block; everything done to it is undone at the end.

    environ: the CI host's environment; of it commands get the proxies (those with network) and the build's
    date. Raises SandboxError.
    """
    if not root_dir.is_dir() or root_dir.is_symlink():
        raise SandboxError(f"{root_dir} cannot be entered: it is not a directory")
    sandbox = ChrootSandbox(Root(root_dir), bus, environ, options)
    stack = contextlib.ExitStack()
    stack.callback(sandbox.leave)
    try:
        if host.HERE.namespaces:
            sandbox.confine(stack.enter_context(limits.confine(options.limits)))
            _private_mounts(stack, sandbox)
        else:
            _loopbacks(stack, sandbox)
        if options.resolver_file is not None:
            try:
                content = options.resolver_file.read_bytes()
            except OSError as error:
                bus.note(f"commands in the image have no resolver: {error}", level="warning")
            else:
                stack.enter_context(sandbox.temporary_file("/etc/resolv.conf", content))
        yield sandbox
    except BaseException:
        _close(stack, lambda error: bus.note(f"while clearing up: {error}", level="error"))
        raise
    stack.close()


def _private_mounts(stack: contextlib.ExitStack, sandbox: ChrootSandbox) -> None:
    # All are looked at before the first mount, so that a planted link costs nothing.
    points = {path: temporary_files.claim(stack, sandbox.root, path) for path in host.HERE.mounted}
    devices.mount(stack, points["/dev"])
    stack.enter_context(tmpfs(points["/tmp"], mode=0o1777))
    stack.enter_context(tmpfs(points["/run"], mode=0o755))
    # Process 1 of a command is bwrap itself, so that /proc/1/exe is the host's file: root in the image could
    # change its mode or owner there, were it not on a read-only mount.
    program = bubblewrap.program()
    stack.enter_context(bind(program, program, read_only=True))


def _loopbacks(stack: contextlib.ExitStack, sandbox: ChrootSandbox) -> None:
    """Mount the host's own directories, read-only, which a zone's image lacks and its programs need."""
    points = {path: temporary_files.claim(stack, sandbox.root, path) for path in host.HERE.mounted}
    for source, point in points.items():
        stack.enter_context(bind(Path(source), point, read_only=True))


def _close(stack: contextlib.ExitStack, report: Callable[[Exception], None]) -> None:
    """Undo everything while a first error is on its way: a second one is noted, and does not hide it."""
    try:
        stack.close()
    except Exception as error:  # noqa: BLE001 - the first error is what counts
        report(error)


def _ran(entrance: bubblewrap.Entrance | None) -> bool:
    """Return whether the program in the image ran, as far as the way in tells."""
    return entrance is None or entrance.watch is None or entrance.watch.started()


def _last(lines: Sequence[str], prefix: str) -> int:
    """Return the index of the last line that starts with a prefix, else the number of lines."""
    return max((n for n, text in enumerate(lines) if text.startswith(prefix)), default=len(lines))
