"""Run commands on a real ZFS, in a QEMU guest under software emulation.

    python tests/guest/guest.py build
    python tests/guest/guest.py run [--results DIR] [--timeout S] [--console] -- COMMAND...

`run` makes the guest if it is missing, carries the checkout in at /src, and runs the command there as
root. It has a pool `zones` at /zones, with `zones/agent/data` for the tests' own datasets. What the
command writes to /results comes back to DIR; its stdout, stderr and exit status become ours.

Exit status: the command's own; 124 out of time, 125 the guest itself failed, 2 usage, 128+N signal N.
"""

# ruff: noqa: E402 - the path is set before our own imports.

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

CHECKOUT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    # Started by path: Python looks beside this file only, and would not find the package.
    sys.path.insert(0, os.fspath(CHECKOUT))

from tests.guest.cache import cache_folder, say
from tests.guest.errors import GuestError, GuestTimeoutError
from tests.guest.machine import Job, Outcome, run_job
from tests.guest.products import Guest, ensure_guest

TIMED_OUT = 124
GUEST_FAILED = 125


class Interrupted(BaseException):
    """A signal asked us to stop; like KeyboardInterrupt it is nothing to handle, only to unwind for."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def build(*, refresh: bool = False) -> Guest:
    """The guest for this checkout, made if it is missing."""
    mirror = os.environ.get("BUILDSTEP_GUEST_MIRROR")
    return ensure_guest(cache_folder(os.environ), mirror=mirror, refresh=refresh)


def run(
    command: Sequence[str],
    *,
    results: Path | None = None,
    timeout: float = Job.timeout,
    env: dict[str, str] | None = None,
    on_console: Callable[[str], None] | None = None,
) -> Outcome:
    """Run a command in the guest and bring back its status, its output and its /results."""
    job = Job(command=command, checkout=CHECKOUT, timeout=timeout, env=env or {})
    cache = cache_folder(os.environ)
    return run_job(build(), job, cache=cache, results=results, on_console=on_console)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, build or run, and return the exit status."""
    args = _parser().parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        if args.action == "build":
            guest = build(refresh=args.refresh)
            say(f"kernel {guest.kernel}, ZFS {guest.zfs}, in {guest.folder}")
            return 0
        return _run(args)
    except GuestTimeoutError as error:
        say(str(error))
        return TIMED_OUT
    except GuestError as error:
        say(str(error))
        return GUEST_FAILED
    except Interrupted as interrupt:
        say(f"stopped by {interrupt}")
        return 128 + interrupt.number


def _run(args: argparse.Namespace) -> int:
    if not args.command:
        _parser().error("run: no command given")
    outcome = run(
        args.command,
        results=args.results,
        timeout=args.timeout,
        env=dict(args.env),
        on_console=_show if args.console else None,
    )
    sys.stderr.buffer.write(outcome.stderr)
    sys.stderr.flush()
    say(f"status {outcome.status} after {outcome.seconds:.1f} s")
    sys.stdout.buffer.write(outcome.stdout)
    sys.stdout.flush()
    return outcome.status


def _show(line: str) -> None:
    sys.stderr.write(f"console| {line}\n")
    sys.stderr.flush()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # Once: a second signal must not break the unwinding of the first.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="guest.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    make = actions.add_parser("build", help="make the guest if it is missing")
    make.add_argument(
        "--refresh", action="store_true", help="make it anew from the mirror's present versions"
    )
    start = actions.add_parser("run", help="run a command in the guest")
    start.add_argument("--results", type=Path, metavar="DIR", help="where /results goes")
    start.add_argument("--timeout", type=float, default=Job.timeout, metavar="S", help="default: %(default)g")
    start.add_argument("--env", action="append", default=[], type=_assignment, metavar="NAME=VALUE")
    start.add_argument("--console", action="store_true", help="show the guest's console on stderr")
    start.add_argument("command", nargs="*", metavar="COMMAND", help="after --")
    return parser


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
