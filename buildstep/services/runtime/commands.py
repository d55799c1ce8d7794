"""Commands of actions: a list of words, standard input empty, a clean environment, output to the log."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from buildstep.services.runtime.answers import Failure

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

started = 0
"""How many commands were started; tests watch what a default action costs."""


class Options(NamedTuple):
    """How a command is run; see `Service.run`."""

    env: dict[str, str]
    cwd: str | None = None
    user: str = ""
    text: str | None = None
    capture: bool = False


class Result(NamedTuple):
    """How a command ended, and what it printed on standard output where that was captured."""

    status: int
    output: str = ""

    @property
    def ended(self) -> str:
        """Return in words how it ended."""
        if self.status >= 0:
            return f"exited with status {self.status}"
        try:
            return f"was killed by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"was killed by signal {-self.status}"


def environment(extra: dict[str, str]) -> dict[str, str]:
    """Return the environment of a command: what the runtime was started with, and more."""
    env = dict(os.environ)
    env.setdefault("PATH", PATH)
    env.setdefault("HOME", "/root" if os.geteuid() == 0 else os.path.expanduser("~"))
    env["LC_ALL"] = "C.UTF-8"
    return {**env, **extra}


def find(program: str) -> str | None:
    """Return the path of a program, looked for in the sbin folders too."""
    folders = [*os.environ.get("PATH", "").split(":"), *PATH.split(":")]
    return shutil.which(program, path=":".join(folder for folder in folders if folder))


def run(argv: Sequence[str], options: Options) -> Result:
    """Run a command to its end. Raises Failure where it cannot be started."""
    global started  # noqa: PLW0603 - a counter for the whole process
    if isinstance(argv, str) or not argv or not all(isinstance(word, str) for word in argv):
        raise Failure(f"a command is a list of words, not {argv!r}; for a shell: ['sh', '-c', TEXT]")
    program = argv[0] if "/" in argv[0] else find(argv[0])
    if program is None:
        raise Failure(f"the program {argv[0]} is not installed")
    env = environment(options.env)
    account = {}
    if options.user:
        account = as_user(options.user)
        env["HOME"] = pwd.getpwnam(options.user).pw_dir
        env["USER"] = env["LOGNAME"] = options.user
    started += 1
    try:
        done = subprocess.run(
            [program, *argv[1:]],
            env=env,
            cwd=options.cwd,
            input=None if options.text is None else options.text.encode("utf-8", "surrogateescape"),
            stdin=subprocess.DEVNULL if options.text is None else None,
            stdout=subprocess.PIPE if options.capture else None,
            check=False,
            **account,  # type: ignore[call-overload]
        )
    except OSError as error:
        raise Failure(f"{argv[0]} cannot be started: {error.strerror}") from None
    output = (done.stdout or b"").decode("utf-8", "surrogateescape")
    return Result(done.returncode, output)


def as_user(name: str) -> dict[str, object]:
    """Return what Popen needs to start a command as a user. Raises Failure if there is no such user."""
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise Failure(f"there is no user {name}") from None
    if account.pw_uid == os.geteuid():
        return {}
    groups = os.getgrouplist(name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
