"""daybook-push, daybook-pull and daybook-map: the commands of daybook, with its flags, file and arguments.

They take the place of the original, beside which they work on one bucket and one Consul. As there, all they
say goes to standard error, each line with its time, and they end with 0, with 1 for any failure, and with 2
for a command line that cannot be read.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from buildstep.assets import daybook
from buildstep.assets.daybook import CONFIG_FILE, SHARED_FILE, Daybook, Flags, FlagsError
from buildstep.cli import failure_of
from buildstep.cli.guard import signals
from buildstep.errors import BuildstepError, Interrupted, UsageError
from buildstep.system import standard_streams

if TYPE_CHECKING:
    from buildstep.assets.interface import AssetStore, Register
    from buildstep.events import Bus
    from buildstep.report.progress import Advance

FAILED: Final = 1
USAGE: Final = 2

_FLAG = f'  -config-file="{CONFIG_FILE}": bucket, credentials, where to install, and more\n'
_USAGES: Final = {
    "daybook-push": f"Usage: daybook-push [-config-file F] SERVICE VERSION PATH\n{_FLAG}",
    "daybook-pull": f"Usage: daybook-pull [-config-file F]\n{_FLAG}",
    "daybook-map": (
        "Usage: daybook-map [-config-file F] add PATTERN SERVICE...\n"
        "       daybook-map [-config-file F] remove PATTERN SERVICE...\n"
        f"       daybook-map [-config-file F] list PATTERN\n{_FLAG}"
    ),
}


def push() -> int:
    """daybook-push: send an archive as a version of a service."""
    return main("daybook-push", sys.argv[1:])


def pull() -> int:
    """daybook-pull: bring this host's services to its disk."""
    return main("daybook-pull", sys.argv[1:])


def map_() -> int:
    """daybook-map: show or change the services of a pattern."""
    return main("daybook-map", sys.argv[1:])


def main(program: str, argv: Sequence[str]) -> int:
    """Run one of the three commands, as a whole process; returns its exit status."""
    standard_streams.prepare()
    status = run(program, argv)
    standard_streams.flush()
    return status


def run(program: str, argv: Sequence[str]) -> int:
    """Run one of the three commands, and return its exit status; every error that we understand ends here."""
    try:
        flags = daybook.parse_flags(argv)
        if flags.help:
            _print(_USAGES[program])
            return 0
        with signals():
            return _JOBS[program](flags)
    except FlagsError as error:
        _print(f"{error.message}\n{_USAGES[program]}")
        return USAGE
    except Interrupted as stopped:
        say(stopped.message)
        return stopped.code
    except (BuildstepError, OSError) as error:
        failure = failure_of(error)
        if failure is None:
            raise
        hint = f"hint: {failure.hint}" if failure.hint else ""
        say("\n".join(filter(None, (failure.message, failure.detail.rstrip(), hint))))
        return FAILED


def say(text: str) -> None:
    """Write to standard error as Go's package `log` does: each line with date and time."""
    now = time.strftime("%Y/%m/%d %H:%M:%S")
    _print("".join(f"{now} {line}\n" for line in text.splitlines()))


def _print(text: str) -> None:
    with standard_streams.telling():
        sys.stderr.write(text)
        sys.stderr.flush()


def _settings(flags: Flags) -> Daybook:
    """Return the settings of the file that the flags name, and tell what is odd about it."""
    settings = daybook.load(flags.config_file)
    for note in settings.notes:
        say(note)
    return settings


def _bus() -> Bus:
    """Return a bus whose notes are lines of the log."""
    from buildstep.events import Bus, Event, Note

    def tell(event: Event) -> None:
        if isinstance(event, Note):
            say(event.text)

    return Bus(tell)


def _register(settings: Daybook, bus: Bus) -> Register:
    from buildstep.assets import open_register
    from buildstep.assets.interface import RegisterAccess
    from buildstep.net.request import HttpOptions

    access = RegisterAccess(
        environ=os.environ,
        bus=bus,
        options=settings.consul_options,
        http=HttpOptions.of(os.environ),
    )
    return open_register(settings.register_url, access)


def _store(settings: Daybook, bus: Bus) -> AssetStore:
    from buildstep.assets import open_assets

    environ = settings.environ(os.environ)
    if shared := environ.get(SHARED_FILE):
        os.environ[SHARED_FILE] = shared  # where Amazon's library looks by itself
    return open_assets(settings.store_url, environ=environ, bus=bus, endpoint=settings.endpoint)


# -- daybook-push -------------------------------------------------------------------------------------------


def _push(flags: Flags) -> int:
    from buildstep.assets.names import Name, checked_service, checked_version
    from buildstep.assets.push import Options, Upload, push

    settings = _settings(flags)
    if len(flags.words) != 3:
        raise UsageError(
            f"daybook-push takes three arguments, and not {len(flags.words)}:"
            " daybook-push [-config-file F] SERVICE VERSION PATH"
        )
    service, version, path = flags.words
    checked_service(service)
    checked_version(version, hyphens=settings.hyphens)
    if not path.endswith(".tar.gz"):
        raise UsageError(f"{path} does not end in .tar.gz")
    say(f"Sending {path} as {service}/{version}...")
    upload = Upload(Name(service, version, ".tar.gz"), Path(path))
    (done,) = push(_store(settings, _bus()), [upload], Options(replace=settings.replace))
    if done.error is not None:
        raise done.error
    if not done.stored:
        say("It was there already, the same.")
    say("All done!")
    return 0


# -- daybook-pull -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _begin(count: int, size: int) -> Iterator[Advance]:
    """Say how much is to be pulled: see `report.progress.Begin`."""
    from buildstep.report.progress import silent
    from buildstep.system.text import plural, size_text

    say(f"Pulling down {plural(count, 'asset')}, {size_text(size)}...")
    yield silent


def _pull(flags: Flags) -> int:
    from buildstep.assets.patterns import resolve
    from buildstep.assets.policy import Policy
    from buildstep.assets.pull import Options, pull
    from buildstep.assets.retention import Retention

    settings, bus = _settings(flags), _bus()
    say("Getting services from register...")
    mappings = _register(settings, bus).read()
    for fault in mappings.faults:
        say(fault)
    found = resolve(mappings.services, settings.host(), compat=settings.compat)
    for pattern, reason in found.skipped:
        say(f"Failed to use '{pattern}' as a matcher: {reason}.  Continuing...")
    say(f"Got {len(found.services)} service(s) from register!")
    report = pull(
        lambda: _store(settings, bus),
        found.services,
        Path(settings.install_dir),
        Policy(owners=os.geteuid() == 0),
        Options(retention=Retention(keep=settings.keep, hyphens=settings.hyphens)),
        begin=_begin,
        bus=bus,
    )
    for name, row in report.services.items():
        say(f"Service '{name}': {len(row.present)} there already, {len(row.installed)} pulled")
        for version in row.installed:
            say(f"Pulled down {name}/{version}")
    report.check()
    say("All done!")
    return 0


# -- daybook-map --------------------------------------------------------------------------------------------


def _map(flags: Flags) -> int:
    from buildstep.assets import mapping

    action, *rest = flags.words or ("",)
    if not action:
        raise FlagsError("daybook-map needs an action")
    if action not in ("add", "remove", "list"):
        raise UsageError(f"Unknown action '{action}'.  Valid actions: 'add', 'remove', and 'list'.")
    if action == "list" and len(rest) != 1:
        raise UsageError("You must specify a pattern to list! e.g. daybook-map list 'web-prod-*'")
    if action != "list" and len(rest) < 2:
        raise UsageError(
            "You must specify a pattern and list of services to add/remove!"
            " e.g. daybook-map add 'web-prod-*' new_service [new_service_2 [...]]"
        )
    pattern, *names = rest
    register = _register(_settings(flags), _bus())
    if action == "list":
        say(f"Getting services for '{pattern}'...")
        there = register.load(pattern)
        if there is None:
            raise UsageError(f"Failed to list the services for '{pattern}': it does not exist")
        _tell_faults(there.faults, "not counted, as it is wrong")
        say(f"Services for '{pattern}': {', '.join(there.services) or 'none'}")
        say("All done!")
        return 0
    if action == "add":
        say(f"Adding services to '{pattern}'...")
        change = mapping.add(register, pattern, names)
    else:
        say(f"Removing services from '{pattern}'...")
        change = mapping.remove(register, pattern, names)
        if change.unknown:
            say(f"not among them: {', '.join(change.unknown)}")
    _tell_faults(change.dropped, "left out, as it was wrong")
    _tell_faults(change.kept, "still wrong")
    left = ", ".join(change.after) if change.after else "none, the mapping is removed"
    say(f"Services for '{pattern}': {left}")
    say("All done!")
    return 0


def _tell_faults(faults: Iterable[str], what: str) -> None:
    for fault in faults:
        say(f"{what}: {fault}")


_JOBS: Final[dict[str, Callable[[Flags], int]]] = {
    "daybook-push": _push,
    "daybook-pull": _pull,
    "daybook-map": _map,
}
