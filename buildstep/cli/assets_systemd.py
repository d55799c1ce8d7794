"""`buildstep assets systemd`: units that keep a host up to date."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from buildstep.cli import guard, values
from buildstep.cli.options import echo, tell, writing


@click.command("systemd")
@click.argument("options", metavar="[-- OPTIONS OF PULL]", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--dir",
    "folder",
    metavar="DIR",
    shell_complete=values.FOLDERS,
    help="Write the units there, such as /etc/systemd/system; without it they are printed.",
)
@click.option(
    "--every", metavar="SPAN", default="5min", show_default=True, help="The time between two pulls."
)
@click.option("--user", metavar="NAME", default="", help="Who pulls; root without it.")
@click.option(
    "--program",
    metavar="PATH",
    shell_complete=values.FILES,
    help="Of buildstep on the host; default: this one.",
)
@click.option(
    "--metrics",
    metavar="FILE",
    shell_complete=values.FILES,
    help="After each pull of the timer, write metrics there (see `assets status`).",
)
def command(
    options: tuple[str, ...],
    folder: str | None,
    *,
    every: str,
    user: str,
    program: str | None,
    metrics: str | None,
) -> int:
    """Print or write units of systemd: a service and a timer that pull, and a service that watches.

    What stands after -- are options of `assets pull`, which are checked now; paths in them become absolute.
    """

    def inside() -> int:
        from buildstep.assets.systemd import TIMER, WATCH, UnitOptions, units

        arguments = _complete(options, user)
        given = _checked(arguments)
        made = units(
            UnitOptions(
                program=Path(program or this_program()),
                arguments=arguments,
                install=_install_dir(given),
                every=every,
                user=user,
                hooks=bool(given["hooks"] or given["asset_hooks"]),
                metrics=Path(metrics).absolute() if metrics else None,
                status=_for_status(given),
            )
        )
        if folder is None:
            for name, text in made.items():
                echo(f"# {name}\n{text}")
            return 0
        write_units(Path(folder), made)
        tell(f"next: systemctl daemon-reload, then systemctl enable --now {TIMER} (or {WATCH})")
        return 0

    return guard.guarded(inside)


def _checked(options: Sequence[str]) -> dict[str, Any]:
    """Return what options of a pull say. Raises click.UsageError for such as it does not have."""
    from buildstep.cli.assets_pull import command as pull

    given = pull.make_context("buildstep assets pull", list(options)).params
    if given["watch"] or given["dry_run"]:
        raise click.UsageError("--watch and --dry-run are not for a unit: there is one that watches")
    return given


def _complete(options: Sequence[str], user: str) -> tuple[str, ...]:
    """Return options of a pull that say the same wherever it is called: a unit runs in / and has another
    environment. What it may write to is decided now, so that a directory that is configured is named too.

    Raises UsageError for a password, which a unit shows to every user of the host.
    """
    from buildstep.assets.systemd import ENVIRONMENT_FILE
    from buildstep.errors import UsageError
    from buildstep.spec import config as configs

    given = _checked(options)
    if any(re.search(r"://[^/@\s]*:[^/@\s]*@", word) for word in options):
        raise UsageError(
            "every user of the host can see a unit and the process that it starts: no password in it",
            hint=f"{ENVIRONMENT_FILE} is for secrets in variables, such as AWS_SECRET_ACCESS_KEY",
        )
    words = _absolute(options)
    if given["install_dir"]:
        return words
    configured = configs.load(os.environ, Path.cwd()).assets.install_dir
    if user and not configured:
        raise UsageError(
            f"where {user} installs services to is not known here", hint="add: -- --install-dir DIR"
        )
    return ("--install-dir", configured, *words) if configured else words


def _absolute(options: Sequence[str]) -> tuple[str, ...]:
    """Return options of a pull, which are right, with absolute paths."""
    from buildstep.cli.assets_pull import command as pull

    taking = {
        name: str(param.name)
        for param in pull.params
        if isinstance(param, click.Option) and not param.is_flag
        for name in param.opts
    }
    words: list[str] = []
    rest = iter(options)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--":
            return (*words, word, *rest)
        if name not in taking:
            words.append(word)
        elif equals:
            words.append(f"{name}={_located(taking[name], value)}")
        else:
            words += [name, _located(taking[name], next(rest))]
    return tuple(words)


def _located(param: str, value: str) -> str:
    """Return the value of an option of a pull; a path in it becomes absolute."""
    from buildstep.spec.assets_config import located

    key = "store" if param == "contents" else param
    if key in ("store", "register"):
        return str(located("assets", {key: value}, Path.cwd())[key])
    paths = ("install_dir", "hooks", "trusted", "consul_token_file", "consul_ca_file")
    if key in (*paths, "consul_cert_file", "consul_key_file"):
        return os.path.abspath(value)
    return value


def _install_dir(given: dict[str, Any]) -> Path:
    """Return where a pull installs to: as its options say, else the configuration, else this user's."""
    from buildstep.assets.places import default_install_dir
    from buildstep.spec import config as configs

    named = given["install_dir"] or configs.load(os.environ, Path.cwd()).assets.install_dir
    return Path(named or default_install_dir(os.environ)).absolute()


def _for_status(given: dict[str, Any]) -> list[str]:
    """Return the options of a pull that `assets status` has as well, such as --host."""
    from buildstep.cli.assets_pull import command as pull
    from buildstep.cli.assets_status import command as status

    shared = {param.name for param in status.params} - {"as_json", "quiet"}
    words: list[str] = []
    for param in pull.params:
        value = given[str(param.name)]
        if param.name not in shared or not isinstance(param, click.Option) or value in (None, False):
            continue
        if param.is_flag:
            words.append(param.opts[-1])
        else:
            words += [f"{param.opts[-1]}={it}" for it in (value if param.multiple else [value])]
    return words


def this_program() -> str:
    """Return the path of the program that runs now, as a unit can call it."""
    started = sys.argv[0]
    if os.path.basename(started) == "__main__.py":  # python -m buildstep, as bin/buildstep of a checkout does
        beside = Path(started).resolve().parents[1] / "bin/buildstep"
        if beside.exists():
            return os.fspath(beside)
    return os.path.abspath(shutil.which(started) or started)


def write_units(folder: Path, made: Mapping[str, str]) -> None:
    """Write units into a directory, and print where each is. Raises UsageError, OSError."""
    from buildstep.system.files import atomic_write

    for name, text in made.items():
        with writing(folder / name), atomic_write(folder / name, mode=0o644) as stream:
            stream.write(text.encode())
        echo(os.fspath(folder / name))
