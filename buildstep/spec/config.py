"""Settings of an agent, a user and a project: `buildstep.toml` and the environment, checked together.

What a flag says wins over the project's file, that over the user's, that over the system's, that over the
environment, that over the defaults. Lists are taken whole from the first place that has them; tables
(`publish`, `cache`, `http`) are merged key by key.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from buildstep.errors import Fault, SpecError
from buildstep.spec import schema
from buildstep.spec.schema import BOOLEAN, Rule, array, integer, mapping, record, text

FILE: Final = "buildstep.toml"
SYSTEM: Final = Path("/etc/buildstep") / FILE

DEFAULT_REPOSITORIES: Final = ("https://images.smartos.org", "https://updates.tritondatacenter.com")
"""The public ones: SmartOS images, and those of Triton's own services."""

_LINE = text(r"[^\x00-\x1f\x7f]*", say="one line")
_URI = (
    r"https?://[^\s@?#/]+[^\s@?#]*(\?channel=[a-z*][a-z0-9_-]*)?|dir:[^\x00-\x1f]+|s3://[^\s@?#/]+[^\s@?#]*"
)
_SOURCE_TEXT = text(_URI, say="https://HOST[/PREFIX][?channel=C], dir:PATH or s3://BUCKET[/PREFIX]")
_ENDPOINT = text(r"https?://[^\s@?#]+", say="an http or https address")
_CHANNEL = text(r"[a-z][a-z0-9_-]*|\*", say="the name of a channel")
_HOST = text(r"[A-Za-z0-9.:\[\]-]+", say="HOST or HOST:PORT")
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
        "target": text(r"[a-z][a-z0-9+]*:[^\x00-\x1f]+", say="SCHEME:PLACE, such as docker://HOST/NAME"),
        "channel": _CHANNEL,
        "insecure": BOOLEAN,
        "user": _LINE,
        "key": _LINE,
        "endpoint": _ENDPOINT,
        "replace": BOOLEAN,
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
        "cache": record({"images_days": _DAYS, "max_bytes": integer(0), "max_inodes": integer(0)}),
        "http": _HTTP,
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
}
"""Variables, and the settings that they give."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """Where images are had by uuid or name@version. endpoint: of an S3 store."""

    url: str
    channel: str = ""
    insecure: bool = False
    label: str = ""
    endpoint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetConfig:
    """Where images are handed on to, by a name of the configuration."""

    target: str
    channel: str = ""
    insecure: bool = False
    user: str = ""
    key: str = ""
    endpoint: str = ""
    replace: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The checked settings. places: for each one that was given, where.

    images_days: which images `gc` may remove: those that nobody asked for so long.
    max_bytes, max_inodes: of what a pool keeps to be quick; 0: no limit, None: the default one.
    http: limits of `clients.HttpOptions` by name.
    """

    pool: str | None = None
    sources: tuple[SourceConfig, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    targets: Mapping[str, TargetConfig] = field(default_factory=dict)
    images_days: int = 30
    max_bytes: int | None = None
    max_inodes: int | None = None
    http: Mapping[str, float] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)

    def environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment as drivers see it, with what the files say in it."""
        return {**environ, "BUILDSTEP_INSECURE_REGISTRIES": ",".join(self.insecure_registries)}


def load(
    environ: Mapping[str, str],
    cwd: Path,
    *,
    pool: str | None = None,
    sources: Sequence[str] = (),
    system: Path = SYSTEM,
) -> Config:
    """The settings that hold here. pool, sources: what flags say.

    Raises SpecError with every fault of every place.
    """
    faults: list[Fault] = []
    layers: list[tuple[str, dict[str, Any]]] = [("--pool", {"pool": pool})] if pool else []
    if sources:
        layers.append(("--source", {"sources": [_absolute(uri, cwd) for uri in sources]}))
    for path in _files(environ, cwd, system):
        layers.append((os.fspath(path), _read(path, faults)))
    layers += _from_environment(environ, cwd)
    good: list[tuple[str, Mapping[str, Any]]] = []
    for place, values in layers:
        found = schema.check(values, RULE, "$")
        faults += [_placed(fault, place) for fault in found]
        if not found:
            good.append((place, values))
    if faults:
        raise SpecError("configuration", faults)
    return _merged(good)


def _placed(fault: Fault, place: str) -> Fault:
    """The fault with its file, flag or variable in front."""
    return Fault(where=f"{place}: {fault.where}", message=fault.message, hint=fault.hint)


# -- files ----------------------------------------------------------------------------------------------


def _files(environ: Mapping[str, str], cwd: Path, system: Path) -> Iterator[Path]:
    """The files that there are, the one that wins first."""
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    project = _project_file(cwd)
    if project is not None:
        yield project
    user = Path(home, "buildstep", FILE) if home else None
    for path in (user, system):
        if path is not None and path != project and path.is_file():
            yield path


def _project_file(cwd: Path) -> Path | None:
    """The nearest one, here or further up; none out of a folder where everybody may put one."""
    for folder in (cwd, *cwd.parents):
        path = folder / FILE
        if path.is_file() and not folder.stat().st_mode & stat.S_IWOTH:
            return path
    return None


def _read(path: Path, faults: list[Fault]) -> dict[str, Any]:
    import tomllib

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        faults.append(Fault(where=os.fspath(path), message=error.strerror or str(error)))
        return {}
    except ValueError as error:  # tomllib's, which tells line and column, or what is not UTF-8
        faults.append(Fault(where=os.fspath(path), message=f"is not TOML: {error}"))
        return {}
    if isinstance(rows := values.get("sources"), list):
        values["sources"] = [
            {**row, "url": _absolute(row["url"], path.parent)}
            if isinstance(row, dict) and isinstance(row.get("url"), str)
            else _absolute(row, path.parent)
            for row in rows
        ]
    return values


def _absolute(uri: Any, folder: Path) -> Any:
    """A directory is named relative to what names it."""
    if isinstance(uri, str) and uri.startswith("dir:") and uri != "dir:":
        return f"dir:{os.path.abspath(folder / uri.removeprefix('dir:'))}"
    return uri


# -- environment ------------------------------------------------------------------------------------------


def _from_environment(environ: Mapping[str, str], cwd: Path) -> list[tuple[str, dict[str, Any]]]:
    """What variables say, each as a place of its own. An empty one says nothing."""
    found = []
    for name, path in ENVIRONMENT.items():
        if not environ.get(name):
            continue
        value = _value(environ[name], path, cwd)
        for key in reversed(path):
            value = {key: value}
        found.append((name, value))
    return found


def _value(said: str, path: tuple[str, ...], cwd: Path) -> Any:
    words = said.replace(",", " ").split()
    match path[0]:
        case "sources":
            return [] if words == ["none"] else [_absolute(word, cwd) for word in words]
        case "insecure_registries":
            return words
        case "http":
            return {key: _number(number) for key, _, number in (word.partition("=") for word in words)}
        case "cache":
            return _number(said)
    return said


def _number(said: str) -> Any:
    """The number that a text stands for, else the text itself, which the rule then refuses."""
    try:
        value = float(said)
    except ValueError:
        return said
    return int(value) if value.is_integer() else value


# -- together ---------------------------------------------------------------------------------------------


def _merged(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Config:
    values: dict[str, Any] = {"publish": {}, "cache": {}, "http": {}}
    places: dict[str, str] = {}
    for place, given in layers:
        for key, value in given.items():
            if key in ("publish", "cache", "http"):
                for name, item in value.items():
                    if name not in values[key]:
                        values[key][name] = item
                        places[f"{key}.{name}"] = place
            elif key not in values:
                values[key] = value
                places[key] = place
    rows = values.get("sources", DEFAULT_REPOSITORIES)
    return Config(
        pool=values.get("pool"),
        sources=tuple(SourceConfig(**({"url": row} if isinstance(row, str) else row)) for row in rows),
        insecure_registries=tuple(values.get("insecure_registries", ())),
        targets={
            name: TargetConfig(**({"target": item} if isinstance(item, str) else item))
            for name, item in values["publish"].items()
        },
        http=values["http"],
        places=places,
        **values["cache"],
    )
