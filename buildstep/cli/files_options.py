"""What the commands of `buildstep files` share: the store that they work with."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.options import ENDPOINT

if TYPE_CHECKING:
    from buildstep.events import Bus
    from buildstep.files.content import ContentStore
    from buildstep.files.interface import Storage

STORE = click.option(
    "--store",
    metavar="URL",
    shell_complete=values.STORES,
    help="dir:PATH, s3://BUCKET[/PREFIX], ssh://HOST/PATH or, to read, http(s)://HOST/PATH.",
)
PATHS = click.option(
    "--path",
    "paths",
    metavar="PATH",
    multiple=True,
    shell_complete=values.FOLDERS,
    help="Only what is at or below it; repeat.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a command works with. environ: with the settings of the configuration files in it."""

    bus: Bus
    environ: Mapping[str, str]
    endpoint: str
    store_url: str

    def open(self, url: str = "") -> ContentStore:
        """Return a store, by default the one of --store. Raises UsageError; nothing is read yet."""
        from buildstep.files.content import ContentStore
        from buildstep.files.places import cache_folder

        storage = self.storage(url or self.store_url)
        return ContentStore(storage, bus=self.bus, kept=cache_folder(self.environ))

    def storage(self, url: str) -> Storage:
        """Return a place for a store of whatever layout. Raises UsageError; nothing is read yet."""
        from buildstep.files import open_storage

        return open_storage(url, environ=self.environ, bus=self.bus, endpoint=self.endpoint)


def owner(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Return UID:GID as numbers: a callback for click."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not UID:GID, such as 0:0")
    return int(match[1]), int(match[2])


def with_work(job: Callable[..., int | None]) -> Callable[..., int]:
    """Give a command the options --store and --endpoint-url, and call it with a `Work` before its own
    options. It returns its exit code; None is 0. Signals and errors end it as any command."""

    @functools.wraps(job)
    def run(store: str | None, endpoint_url: str | None, **options: Any) -> int:
        import gc

        from buildstep.cli import guard
        from buildstep.events import Bus
        from buildstep.files.places import default_store
        from buildstep.report.console import view_for
        from buildstep.spec import config as configs

        gc.disable()  # see cli.build: lists of paths hold no cycles

        def inside() -> int:
            config = configs.load(os.environ, Path.cwd())
            url = store or config.store or default_store(os.environ)
            work = Work(
                bus=Bus(view_for(sys.stderr, verbose=0, quiet=bool(options.get("quiet")))),
                environ=config.environ(os.environ),
                endpoint=endpoint_url or "",
                store_url=url,
            )
            return job(work, **options) or 0

        return guard.guarded(inside)

    return STORE(ENDPOINT(run))
