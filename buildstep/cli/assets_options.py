"""What the commands that look at assets share: the store that they work with, and what they trust."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.options import ENDPOINT

if TYPE_CHECKING:
    from buildstep.assets.interface import AssetStore
    from buildstep.assets.names import Name
    from buildstep.assets.signatures import Trusted
    from buildstep.events import Bus
    from buildstep.spec.assets_config import AssetsConfig

STORE = click.option(
    "--store",
    metavar="URL",
    shell_complete=values.STORES,
    help="Where assets lie: dir:PATH, s3://BUCKET[/PREFIX], ssh://HOST/PATH or, to read, http(s)://HOST/PATH.",
)
HYPHENS = click.option(
    "--hyphens", is_flag=True, help="Take versions with hyphens, which daybook itself would cut off."
)
TRUSTED = click.option(
    "--key",
    "trusted",
    metavar="PUB",
    multiple=True,
    shell_complete=values.FILES,
    help="A public key, of which one must have signed the asset; repeat.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a command works with. environ: with the settings of the configuration files in it; url, endpoint:
    of the store."""

    bus: Bus
    environ: Mapping[str, str]
    config: AssetsConfig
    url: str
    endpoint: str

    def store(self) -> AssetStore:
        """Return the store of assets. Raises UsageError; nothing is read yet."""
        from buildstep.assets import open_assets

        return open_assets(self.url, environ=self.environ, bus=self.bus, endpoint=self.endpoint)

    def hyphens(self, asked: bool) -> bool:
        """Return whether versions may have hyphens. asked: whether the option is given."""
        return asked or self.config.hyphens

    def trusted(self, files: tuple[str, ...]) -> Trusted | None:
        """Return the keys of which one must have signed; None for none. files: of the option."""
        if not (chosen := files or self.config.trusted):
            return None
        from buildstep.assets.signatures import trusted_of

        return trusted_of(map(Path, chosen))


def work_of(store: str | None, endpoint_url: str | None, *, quiet: bool = False) -> Work:
    """Return what a command with these options works with. Raises SpecError for a configuration that is
    none."""
    from buildstep.assets.places import default_assets
    from buildstep.events import Bus
    from buildstep.report.console import view_for
    from buildstep.spec import config as configs

    config = configs.load(os.environ, Path.cwd())
    return Work(
        bus=Bus(view_for(sys.stderr, verbose=0, quiet=quiet)),
        environ=config.environ(os.environ),
        config=config.assets,
        url=store or config.assets.store or default_assets(os.environ),
        endpoint=endpoint_url or config.assets.endpoint,
    )


def with_assets(job: Callable[..., int | None]) -> Callable[..., int]:
    """Give a command the options --store and --endpoint-url, and call it with a `Work` before its own
    options. It returns its exit code; None is 0. Signals and errors end it as any command."""

    @functools.wraps(job)
    def run(store: str | None, endpoint_url: str | None, **options: Any) -> int:
        from buildstep.cli import guard

        def inside() -> int:
            work = work_of(store, endpoint_url, quiet=bool(options.get("quiet")))
            return job(work, **options) or 0

        return guard.guarded(inside)

    return STORE(ENDPOINT(run))


def found(store: AssetStore, service: str, version: str) -> Name:
    """Return the name of the asset that is there for a service and a version, in whatever form.

    Raises UsageError for names that none can have, Missing.
    """
    from buildstep.assets import names
    from buildstep.files.interface import Missing, Unlistable

    names.checked_service(service)
    names.checked_version(version, hyphens=True)
    try:
        for asset in store.list(service):
            if (asset.name.service, asset.name.version) == (service, version):
                return asset.name
    except Unlistable:
        for form in names.FORMS:
            name = names.Name(service, version, form)
            try:
                store.details(name)
            except Missing:
                continue
            return name
    raise Missing(
        f"{store.url} has no {service}-{version}", hint="`buildstep assets list` shows what there is"
    )
