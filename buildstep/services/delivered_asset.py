"""The asset that delivers a service: `asset.service`, `asset.version`, `asset.store`, `asset.dest`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from buildstep.assets.mark import MARK
from buildstep.assets.names import LONGEST, is_service, is_version
from buildstep.build.recipe import leaves
from buildstep.errors import Fault
from buildstep.events import Bus
from buildstep.files.places import cache_folder
from buildstep.services.interface import Facts, ServiceError
from buildstep.spec.config import Config
from buildstep.system.remove import remove_tree

if TYPE_CHECKING:
    from buildstep.assets.interface import AssetStore

NEWEST = ("", "newest")


@dataclass(frozen=True, kw_only=True, slots=True)
class AssetOf:
    """An asset. version: "" for the newest; store: "" for that of the configuration; dest: where what is in
    it lies on the node."""

    service: str
    version: str
    store: str
    dest: str

    @property
    def text(self) -> str:
        return f"{self.store} {self.service}"

    @classmethod
    def of(cls, facts: Facts, faults: list[Fault]) -> AssetOf | None:
        """Return the asset that the values of a service name; None for none. What is wrong is added to
        `faults`."""
        values = {
            name: str(facts.values.get(f"asset.{name}") or "")
            for name in ("service", "version", "store", "dest")
        }
        if not any(values.values()):
            return None
        where, before = f"{facts.key}: asset", len(faults)
        if not is_service(values["service"]):
            hint = f"letters, digits and underscores, at most {LONGEST}"
            message = f"is {values['service']!r}, which is no name of an asset's service"
            faults.append(Fault(where=f"{where}.service", message=message, hint=hint))
        version = "" if values["version"] in NEWEST else values["version"]
        if version and not is_version(version, hyphens=True):
            message = f"is {version!r}, which no asset can have"
            faults.append(
                Fault(where=f"{where}.version", message=message, hint="leave it out for the newest")
            )
        app = str(facts.values.get("system.paths.app") or "/opt/services/apps")
        dest = values["dest"] or f"{app}/{values['service']}"
        if not dest.startswith("/") or leaves(dest):
            message = f"is {dest!r}, and must be an absolute path without . and .."
            faults.append(Fault(where=f"{where}.dest", message=message))
        if len(faults) > before:
            return None
        return cls(service=values["service"], version=version, store=values["store"], dest=dest)

    def newest(self, config: Config, environ: Mapping[str, str]) -> str:
        """Return the newest version that the store has. Raises ServiceError, StoreError, UsageError."""
        from buildstep.assets.retention import Retention

        store = self._open(config, environ, Bus())
        wanted = Retention(keep=1, hyphens=config.assets.hyphens).wanted(store.list(self.service))
        if not wanted:
            raise ServiceError(
                f"{store.url} has no asset of {self.service}",
                hint="`buildstep assets push` puts one there; asset.store names another store",
            )
        return wanted[0].name.version

    def pulled(self, version: str, config: Config, environ: Mapping[str, str], bus: Bus) -> Path:
        """Return the directory of a version that is here now: verified, signed as the configuration asks for.

        It is kept in the user's cache, below `assets`. Raises Incomplete where it cannot be had so,
        StoreError, UsageError, SigningError, OSError.
        """
        from buildstep.assets.policy import Policy
        from buildstep.assets.pull import Options, pull
        from buildstep.assets.retention import Retention
        from buildstep.assets.signatures import check, trusted_of

        kept = cache_folder(environ)
        if kept is None:
            raise ServiceError("there is no place for assets that come", hint="set HOME, or XDG_CACHE_HOME")
        install = kept.parent / "assets"
        install.mkdir(parents=True, exist_ok=True)
        trusted = trusted_of(map(Path, config.assets.trusted)) if config.assets.trusted else None
        report = pull(
            partial(self._open, config, environ, bus),
            (self.service,),
            install,
            Policy(
                verify=None if trusted is None else partial(check, trusted=trusted),
                keys=trusted.fingerprints if trusted else frozenset(),
                owners=os.geteuid() == 0,
            ),
            Options(retention=Retention(keep=1, versions=(version,), hyphens=True)),
            bus=bus,
        )
        report.check()
        path = install / self.service / version
        if not path.is_dir():
            raise ServiceError(
                f"{report.store} has no {self.service}-{version}",
                hint="`buildstep assets list` shows what it has",
            )
        return path

    def drop_mark(self, top: Path) -> None:
        """Remove what a pull has noted in the directory: it is no part of the asset."""
        remove_tree(top / self.dest.strip("/") / MARK)

    def _open(self, config: Config, environ: Mapping[str, str], bus: Bus) -> AssetStore:
        from buildstep.assets import open_assets
        from buildstep.assets.places import default_assets

        url = self.store or config.assets.store or default_assets(environ)
        return open_assets(url, environ=config.environ(environ), bus=bus, endpoint=config.assets.endpoint)
