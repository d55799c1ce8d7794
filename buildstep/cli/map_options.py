"""What the commands that look at mappings share: the register that they work with."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from buildstep.cli import values

if TYPE_CHECKING:
    from buildstep.assets.interface import Register
    from buildstep.events import Bus
    from buildstep.spec.config import Config

_REGISTER = click.option(
    "--register", metavar="URL", shell_complete=values.REGISTERS, help="consul://HOST:PORT or file:PATH."
)
_CONSUL: Final = {
    "token_file": ("FILE", "Where Consul's ACL token is; else CONSUL_HTTP_TOKEN."),
    "datacenter": ("NAME", "Consul's datacenter."),
    "namespace": ("NAME", "Consul's namespace (Enterprise only)."),
    "ca_file": ("FILE", "The authorities of Consul's certificate, for consul+https://HOST:PORT."),
    "cert_file": ("FILE", "Our certificate, for a Consul that wants one."),
    "key_file": ("FILE", "Its key."),
}
"""Options of `net.consul_login` that have flags: --consul- and the name."""

COMPAT = click.option("--compat", is_flag=True, help="The longest pattern wins, as with daybook.")


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterOptions:
    """What the options of a register say; see `register_options`."""

    url: str = ""
    consul: Mapping[str, str]

    def open(self, config: Config, environ: Mapping[str, str], bus: Bus) -> Register:
        """Return the register: of the options, else of the configuration, else this user's own.

        Raises UsageError; nothing is read yet.
        """
        from buildstep.assets import open_register
        from buildstep.assets.interface import RegisterAccess
        from buildstep.assets.places import default_register
        from buildstep.net.request import HttpOptions

        url = self.url or config.assets.register or default_register(environ)
        options = {**config.assets.consul, **self.consul}
        http = HttpOptions(**dict[str, Any](config.http))
        return open_register(url, RegisterAccess(environ=environ, bus=bus, options=options, http=http))


def register_options(job: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a register, and call it with `register`, what they say."""

    @functools.wraps(job)
    def run(*args: Any, register: str | None, **options: Any) -> Any:
        consul = {}
        for name in _CONSUL:
            if value := options.pop(f"consul_{name}"):
                consul[name] = os.path.abspath(value) if name.endswith("_file") else value
        return job(*args, register=RegisterOptions(url=register or "", consul=consul), **options)

    for name, (metavar, text) in reversed(_CONSUL.items()):
        flag = f"--consul-{name.replace('_', '-')}"
        complete = values.FILES if metavar == "FILE" else None
        run = click.option(flag, metavar=metavar, shell_complete=complete, help=text)(run)
    return _REGISTER(run)


@dataclass(frozen=True, kw_only=True, slots=True)
class MapWork:
    """What a command of `buildstep map` works with. compat: whether the longest pattern wins, as with
    daybook; host: the one that is configured, empty for none."""

    register: Register
    bus: Bus
    compat: bool
    host: str


def with_register(job: Callable[..., int | None]) -> Callable[..., int]:
    """Give a command the options of a register, and call it with a `MapWork` before its own options.

    It returns its exit code; None is 0. Signals and errors end it as any command.
    """

    @functools.wraps(job)
    def run(register: RegisterOptions, **options: Any) -> int:
        from buildstep.cli import guard
        from buildstep.events import Bus
        from buildstep.report.console import view_for
        from buildstep.spec import config as configs

        def inside() -> int:
            config = configs.load(os.environ, Path.cwd())
            bus = Bus(view_for(sys.stderr, verbose=0, quiet=False))
            work = MapWork(
                register=register.open(config, os.environ, bus),
                bus=bus,
                compat=bool(options.pop("compat", False)) or config.assets.compat,
                host=config.assets.host,
            )
            return job(work, **options) or 0

        return guard.guarded(inside)

    return register_options(run)
