"""Settings of a machine, a user and a project: `buildstep.toml` and the environment, checked together.

A flag wins over the project's file, that over the user's, that over the system's, that over the
environment, that over the defaults. Lists are taken whole from the first place that has them; policies for
base images count from all places; tables (`publish`, `cache`, `http`, `limits`, `network`, `assets`,
`consul`, `services.templates`) are merged key by key.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from buildstep.errors import Fault, SpecError
from buildstep.spec import assets_config, schema, shared_cache
from buildstep.spec.assets_config import AssetsConfig
from buildstep.spec.fields import Limits, from_data, store_url
from buildstep.spec.rules import LIMITS, STORE, key_at
from buildstep.spec.schema import BOOLEAN, HTTP, Rule, array, choice, integer, mapping, record, text

FILE: Final = "buildstep.toml"
SYSTEM: Final = Path("/etc/buildstep") / FILE

DEFAULT_REPOSITORIES: Final = ("https://images.smartos.org", "https://updates.tritondatacenter.com")
"""The public ones: SmartOS images, and those of Triton's own services."""

_LINE = text(r"[^\x00-\x1f\x7f]*", say="one line")
_URI = (
    rf"{HTTP}://[^\s@?#/]+[^\s@?#]*(\?channel=[a-z*][a-z0-9_-]*)?"
    r"|dir:[^\x00-\x1f]+|s3://[^\s@?#/]+[^\s@?#]*"
)
_SOURCE_TEXT = text(_URI, say="https://HOST[/PREFIX][?channel=C], dir:PATH or s3://BUCKET[/PREFIX]")
_ENDPOINT = text(rf"{HTTP}://[^\s@?#]+", say="an http or https address")
_CHANNEL = text(r"[a-z][a-z0-9_-]*|\*", say="the name of a channel")
_HOST = text(r"[A-Za-z0-9.:\[\]-]+", say="HOST or HOST:PORT")
_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST_PORT = text(
    r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):" + _PORT, say="HOST:PORT, with a port from 1 to 65535"
)
_DAYS = integer(0, 36500)
_SECONDS: Rule = {"type": "number", "minimum": 0.01, "maximum": 86400}

_SOURCE = record(
    {
        "url": _SOURCE_TEXT,
        "channel": _CHANNEL,
        "insecure": BOOLEAN,
        "label": _LINE,
        "endpoint": _ENDPOINT,
    },
    required=["url"],
)
_TARGET = record(
    {
        "target": text(
            rf"({HTTP}|[a-z][a-z0-9+]*):[^\x00-\x1f]+", say="SCHEME:PLACE, such as docker://HOST/NAME"
        ),
        "channel": _CHANNEL,
        "insecure": BOOLEAN,
        "user": _LINE,
        "key": _LINE,
        "endpoint": _ENDPOINT,
        "replace": BOOLEAN,
        "require": array(_LINE, unique=True),
        "attestations": choice(["all", "referrers", "tags", "none"]),
        "policy": _LINE,
        "sign_key": array(_LINE, unique=True) | _LINE | {"type": ["string", "array"]},
    },
    required=["target"],
)
_HTTP = record(
    {
        "connect": _SECONDS,
        "response": _SECONDS,
        "idle": _SECONDS,
        "backoff": _SECONDS,
        "min_rate": integer(1),
        "attempts": integer(1, 20),
    }
)
RULE: Final = record(
    {
        "pool": text(r"[a-z]+:[^\x00-\x1f]+", say="BACKEND:PLACE, such as dir:/var/tmp/pool"),
        # A source or target without settings of its own may be written as text.
        "sources": array(_SOURCE | _SOURCE_TEXT | {"type": ["string", "object"]}),
        "insecure_registries": array(_HOST),
        "publish": mapping(
            _TARGET | _TARGET["properties"]["target"] | {"type": ["string", "object"]},
            keys=text(r"[A-Za-z0-9][A-Za-z0-9._-]*", say="a name without a colon"),
        ),
        "cache": record(
            {"images_days": _DAYS, "max_bytes": integer(0), "max_inodes": integer(0), **shared_cache.KEYS}
        ),
        "http": _HTTP,
        "limits": LIMITS,
        "network": record({"allow": array(_HOST_PORT)}),
        "store": STORE,
        "trust": record({"base": _LINE}),
        "assets": assets_config.ASSETS,
        "consul": assets_config.CONSUL,
        "services": record(
            {
                "templates": mapping(
                    _LINE,
                    keys=text(r"[a-z0-9][a-z0-9._-]*", say="a domain: small letters, digits, `.`, `_`, `-`"),
                )
            }
        ),
    }
)
"""What a buildstep.toml may hold."""

ENVIRONMENT: Final = {
    "BUILDSTEP_POOL": ("pool",),
    "BUILDSTEP_SOURCES": ("sources",),
    "BUILDSTEP_INSECURE_REGISTRIES": ("insecure_registries",),
    "BUILDSTEP_IMAGES_DAYS": ("cache", "images_days"),
    "BUILDSTEP_CACHE_MAX_BYTES": ("cache", "max_bytes"),
    "BUILDSTEP_CACHE_MAX_INODES": ("cache", "max_inodes"),
    "BUILDSTEP_HTTP": ("http",),
    "BUILDSTEP_NETWORK_ALLOW": ("network", "allow"),
    "BUILDSTEP_STORE": ("store",),
    **assets_config.VARIABLES,
}
"""Variables, and the settings that they give."""

_DIRECTORIES: Final = ("dir", "overlay", "btrfs")
"""Schemes of pools that are directories."""

_TABLES: Final = ("publish", "cache", "http", "limits", "network", "assets", "consul", "services")
"""Settings that are merged key by key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """Where images are available from, by uuid or name@version. endpoint: of an S3 store."""

    url: str
    channel: str = ""
    insecure: bool = False
    label: str = ""
    endpoint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetConfig:
    """Where images are published to, by a name of the configuration. require: what has to be proved of them;
    policy: the file that says by whom; sign_key: the keys that sign what is not signed yet;
    attestations: as what a registry gets them (`images.attestations.push`)."""

    target: str
    channel: str = ""
    insecure: bool = False
    user: str = ""
    key: str = ""
    endpoint: str = ""
    replace: bool = False
    require: tuple[str, ...] = ()
    attestations: Literal["all", "referrers", "tags", "none"] = "all"
    policy: str = ""
    sign_key: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The checked settings.

    pool: its URI, None where none is named; pool_from: the flag, file or variable that names it.
    images_days: `gc` removes images that no build asked for in so many days. max_bytes, max_inodes: of a
    pool's caches; 0: no limit, None: the default one. shared: of the cache that agents share, by the keys of
    `spec.shared_cache`. http: fields of `net.http.HttpOptions` by name. limits:
    of what a command in an image may take, for builds that do not give them. network_allow: what of the CI
    host itself commands in an image may reach, as HOST:PORT. store: of file lists and contents, empty for the
    user's own. base_policies: files, each of which a
    base image has to keep. assets: of the store of assets, the register of mappings and the hosts.
    templates: directories of templates of services, by the domain of those in them that name none.
    """

    pool: str | None = None
    pool_from: str = ""
    sources: tuple[SourceConfig, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    targets: Mapping[str, TargetConfig] = field(default_factory=dict)
    images_days: int = 30
    max_bytes: int | None = None
    max_inodes: int | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)
    http: Mapping[str, float] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    network_allow: tuple[str, ...] = ()
    store: str = ""
    base_policies: tuple[str, ...] = ()
    assets: AssetsConfig = field(default_factory=AssetsConfig)
    templates: Mapping[str, Path] = field(default_factory=dict)

    def environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the environment for the network clients, with the settings of the files in it."""
        return {
            **environ,
            "BUILDSTEP_INSECURE_REGISTRIES": ",".join(self.insecure_registries),
            "BUILDSTEP_NETWORK_ALLOW": ",".join(self.network_allow),
        }


def load(
    environ: Mapping[str, str],
    cwd: Path,
    *,
    pool: str | None = None,
    sources: Sequence[str] = (),
    system: Path = SYSTEM,
) -> Config:
    """Return the settings that apply in a directory. pool, sources: from flags.

    Raises SpecError with every fault of every place.
    """
    faults: list[Fault] = []
    places = [_Place("--pool", cwd, {"pool": pool})] if pool else []
    if sources:
        places.append(_Place("--source", cwd, {"sources": list(sources)}))
    for path in _files(environ, cwd, system):
        places.append(_Place(os.fspath(path), path.parent, _read(path, faults)))
    for name, keys in ENVIRONMENT.items():
        if environ.get(name):
            places.append(_Place(name, cwd, _from_variable(environ[name], keys)))
    for place in places:
        found = schema.check(place.values, RULE, "$")
        faults += [replace(fault, where=f"{place.name}: {fault.where}") for fault in found]
    if faults:
        raise SpecError("configuration", faults)
    return _merged(places)


class _Place(NamedTuple):
    """Settings of one flag, file or variable. directory: what paths in them are relative to."""

    name: str
    directory: Path
    values: dict[str, Any]


# -- files ----------------------------------------------------------------------------------------------


def _files(environ: Mapping[str, str], cwd: Path, system: Path) -> Iterator[Path]:
    """Yield the files that exist, the one that wins first."""
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    project = _project_file(cwd)
    if project is not None:
        yield project
    user = Path(home, "buildstep", FILE) if home else None
    for path in (user, system):
        if path is not None and path != project and path.is_file():
            yield path


def _project_file(cwd: Path) -> Path | None:
    """Return the nearest one, here or further up; none from a directory that everybody may write to."""
    for directory in (cwd, *cwd.parents):
        path = directory / FILE
        if path.is_file() and not directory.stat().st_mode & stat.S_IWOTH:
            return path
    return None


def _read(path: Path, faults: list[Fault]) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        faults.append(Fault(where=os.fspath(path), message=error.strerror or str(error)))
    except ValueError as error:  # tomllib gives line and column; or the file is not UTF-8
        faults.append(Fault(where=os.fspath(path), message=f"is not TOML: {error}"))
    return {}


# -- environment ------------------------------------------------------------------------------------------


def _from_variable(text: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings that a variable's text stands for."""
    words = text.replace(",", " ").split()
    match keys:
        case ("sources",):
            return {"sources": [] if words == ["none"] else words}
        case ("insecure_registries",):
            return {"insecure_registries": words}
        case ("http",):
            return {
                "http": {key: _number(number) for key, _, number in (word.partition("=") for word in words)}
            }
        case ("network", "allow"):
            return {"network": {"allow": words}}
        case ("cache", key):
            return {"cache": {key: _number(text)}}
        case ("assets", key):
            return {"assets": {key: assets_config.of_variable(text, key)}}
    return {keys[0]: text}


def _number(given: str) -> Any:
    """Return the number that a text stands for, else the text, which the rule then refuses."""
    try:
        value = float(given)
    except ValueError:
        return given
    return int(value) if value.is_integer() else value


# -- together ---------------------------------------------------------------------------------------------


def _merged(places: Sequence[_Place]) -> Config:
    """Return the settings of all places, of which the first wins."""
    values: dict[str, Any] = {name: {} for name in _TABLES}
    for place in places:
        for key, value in place.values.items():
            if key == "services":
                templates = value.get("templates", {})
                values[key] = {domain: place.directory / path for domain, path in templates.items()} | values[
                    key
                ]
            elif key in ("assets", "consul"):
                values[key] = assets_config.located(key, value, place.directory) | values[key]
            elif key == "cache":
                values[key] = shared_cache.placed(value, place.directory) | values[key]
            elif key == "publish":
                rows = {name: _target(item, place.directory) for name, item in value.items()}
                values[key] = rows | values[key]
            elif key in _TABLES:
                values[key] = value | values[key]
            elif key == "sources":
                values.setdefault(key, tuple(_source(row, place.directory) for row in value))
            elif key == "trust":
                policy = [os.path.abspath(place.directory / value["base"])] if "base" in value else []
                values[key] = [*values.get(key, []), *policy]
            elif key == "store":
                values.setdefault(key, store_url(value, place.directory))
            elif key == "pool" and key not in values:
                values |= {"pool": _pool(value, place.directory), "pool_from": place.name}
            else:
                values.setdefault(key, value)
    return Config(
        pool=values.get("pool"),
        pool_from=values.get("pool_from", ""),
        sources=values.get("sources", tuple(SourceConfig(url=url) for url in DEFAULT_REPOSITORIES)),
        insecure_registries=tuple(values.get("insecure_registries", ())),
        targets=values["publish"],
        http=values["http"],
        limits=from_data("limits", values["limits"]),
        network_allow=tuple(values["network"].get("allow", ())),
        store=values.get("store", ""),
        base_policies=tuple(values.get("trust", ())),
        assets=AssetsConfig.of(values["assets"], values["consul"]),
        templates=values["services"],
        shared={key: value for key, value in values["cache"].items() if key in shared_cache.KEYS},
        **{key: value for key, value in values["cache"].items() if key not in shared_cache.KEYS},
    )


def _pool(uri: str, directory: Path) -> str:
    """Return a pool's URI; the path of a directory becomes absolute."""
    scheme, _, path = uri.partition(":")
    return f"{scheme}:{os.path.abspath(directory / path)}" if path and scheme in _DIRECTORIES else uri


def _target(row: str | Mapping[str, Any], directory: Path) -> TargetConfig:
    """Return a target; paths of its policy and keys become absolute."""
    if isinstance(row, str):
        return TargetConfig(target=row)
    keys = row.get("sign_key", [])
    keys = [keys] if isinstance(keys, str) else keys
    placed = {
        "require": tuple(row.get("require", ())),
        "policy": os.path.join(directory, row["policy"]) if row.get("policy") else "",
        "sign_key": tuple(key_at(key, directory) for key in keys),
    }
    return TargetConfig(**{**row, **placed})


def _source(row: str | Mapping[str, Any], directory: Path) -> SourceConfig:
    """Return a source; the path of a directory becomes absolute."""
    source = SourceConfig(url=row) if isinstance(row, str) else SourceConfig(**row)
    if source.url.startswith("dir:"):
        path = os.path.abspath(directory / source.url.removeprefix("dir:"))
        return replace(source, url=f"dir:{path}")
    return source
