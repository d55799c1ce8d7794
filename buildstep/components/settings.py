"""How components are built, and where they are pushed: `components.toml`, and the configuration of pai.

`components.toml` lies at the top of the repository. `services-configuration.yaml` is the file that OpenPAI's
build tool reads (microsoft/pai, `build/model/config_model.py`): of it only `cluster.docker-registry` counts,
or `cluster.docker-registry-info` with the keys that the tool had first, which wins where both are there.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from buildstep.components.interface import ReadOptions
from buildstep.errors import Fault, SpecError, ToolMissing, UsageError
from buildstep.net.credentials import HUB, Credentials
from buildstep.spec import schema
from buildstep.spec.rules import PLATFORM, key_at
from buildstep.spec.schema import BOOLEAN, Rule, array, mapping, record, text

FILE: Final = "components.toml"
PAI_FILE: Final = "services-configuration.yaml"

PULLS: Final = ("missing", "always", "never")
_PUBLIC: Final = "public"
"""What pai has for the domain of Docker Hub."""

_LINE = text(r"[^\x00-\x1f\x7f]*", say="one line", least=0)
_NAME = text(r"[A-Za-z_][A-Za-z0-9_]*", say="the name of a variable")
_TAG = text(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", say="a tag")
_PLACE = text(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*", say="HOST[:PORT][/NAMESPACE]")

_PLATFORMS: Final[Rule] = {
    **PLATFORM, **array(PLATFORM, least=1, unique=True), "type": ["string", "array"],
}  # fmt: skip

_BUILD: Final[dict[str, Rule]] = {
    "arguments": mapping(_LINE, keys=_NAME),
    "labels": mapping(_LINE),
    "platform": _PLATFORMS,
    "target": _LINE,
    "cache_from": array(_LINE),
    "secrets": mapping(text()),
    "no_cache": BOOLEAN,
    "pull": schema.choice(PULLS),
}
_HOOKS = record(
    {
        "timeout": {"type": "number", "minimum": 1, "maximum": 86400},
        "sandbox": BOOLEAN,
        "environment": array(_NAME),
        "travels": array(_NAME),
    }
)
RULE: Final = record(
    {
        "mode": text(r"[a-z0-9][a-z0-9_-]*", say="a mode word, or all"),
        **{name: rule for name, rule in _BUILD.items() if name != "target"},
        "images": mapping(record(_BUILD)),
        "hooks": _HOOKS,
        "executor": _LINE,
        "handover": array(text(), least=1, most=2),
        # What an executor may be told it knows itself.
        "executors": mapping(mapping({})),
        "registry": _PLACE,
        "tags": array(_TAG, least=1, unique=True),
        "sign_key": array(_LINE, unique=True),
    }
)
"""What a components.toml may hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """How an image is built.

    arguments: for ARG. target: the stage that is wanted, empty for the last one. secrets: id to the file with
    it, for `RUN --mount=type=secret`; the content is in no layer. cache_from: repositories to take layers
    from. pull: when bases from outside the graph are fetched: `missing`, `always` or `never`. platforms: of
    an image that is built for several; platform: the one that is meant, empty for the builder's own.
    """

    arguments: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: str = ""
    target: str = ""
    cache_from: tuple[str, ...] = ()
    secrets: Mapping[str, Path] = field(default_factory=dict)
    no_cache: bool = False
    pull: str = "missing"
    platforms: tuple[str, ...] = ()

    def inputs(self) -> dict[str, str]:
        """Return what of these goes into the image, by name, for its key. No secret's content does."""
        found = {f"argument:{name}": value for name, value in self.arguments.items()}
        found |= {f"label:{name}": value for name, value in self.labels.items()}
        found |= {"platform": self.platform, "target": self.target, "secrets": ",".join(sorted(self.secrets))}
        return {name: value for name, value in found.items() if value or ":" in name}


@dataclass(frozen=True, kw_only=True, slots=True)
class HookOptions:
    """How hooks run. timeout: seconds; sandbox: whether they may write to their own directory only, where the
    machine has what it takes; environment: variables of ours that they get as well; travels: more of them,
    whose values may be known: another machine that runs the hook gets ours, of the others it has its own."""

    timeout: float = 3600.0
    sandbox: bool = True
    environment: tuple[str, ...] = ()
    travels: tuple[str, ...] = ()

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of all variables of ours that hooks get."""
        return tuple(dict.fromkeys((*self.environment, *self.travels)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """Where images are pushed: HOST/NAMESPACE/IMAGE:TAG for each tag. host: empty where none is named;
    sign_key: the keys that sign what is pushed."""

    host: str = ""
    namespace: str = ""
    tags: tuple[str, ...] = ("latest",)
    credentials: Credentials | None = None
    sign_key: tuple[str, ...] = ()

    def repository(self, image: str) -> str:
        """Return the name of an image's repository, with its host."""
        return "/".join(part for part in (self.host, self.namespace, image) if part)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All of it, checked. of: what is said of one image only, by its name; executor: where jobs run;
    handover: URLs (see there); executors: what each executor is told, by its name."""

    mode: str = "k8s"
    build: BuildOptions = field(default_factory=BuildOptions)
    of: Mapping[str, BuildOptions] = field(default_factory=dict)
    hooks: HookOptions = field(default_factory=HookOptions)
    registry: Registry = field(default_factory=Registry)
    executor: str = "local"
    handover: tuple[str, ...] = ()
    executors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def options(self, image: str) -> BuildOptions:
        """Return how an image is built; one of several platforms has its own in its name."""
        name, _, platform = image.partition("@")
        found = self.of.get(name, self.build)
        return replace(found, platform=platform, platforms=()) if platform else found

    def read_options(self, environ: Mapping[str, str] | None = None) -> ReadOptions:
        """Return what decides how the repository is read: a full name of an image of ours is the image.

        environ: for templates.
        """
        prefixes: tuple[str, ...] = ("localhost/",)
        if self.registry.host:
            prefixes += (self.registry.repository("").rstrip("/") + "/",)
        tags = tuple(dict.fromkeys(("latest", *self.registry.tags)))
        return ReadOptions(
            mode=self.mode,
            arguments=self.build.arguments,
            arguments_of={name: options.arguments for name, options in self.of.items()},
            prefixes=prefixes,
            tags=tags,
            environ=environ or {},
            platforms=_platforms_of(self.build),
            platforms_of={name: _platforms_of(options) for name, options in self.of.items()},
        )


class Flags(NamedTuple):
    """What a command line says; empty or None where it says nothing."""

    config: Path | None = None
    mode: str = ""
    arguments: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    platforms: Sequence[str] = ()
    secrets: Mapping[str, str] = {}
    no_cache: bool = False
    pull: str = ""
    registry: str = ""
    tags: Sequence[str] = ()
    handover: Sequence[str] = ()


def load(root: Path, flags: Flags = Flags()) -> Settings:  # noqa: B008 - it cannot be changed
    """Return the settings of a repository of components. Flags win over components.toml, it over pai's file.

    flags.config: pai's file, or the directory with it; a relative path is relative to the current directory,
    not to the repository. Raises SpecError with all faults of a file, UsageError for one that cannot be read,
    ToolMissing where there is no reader of YAML.
    """
    own = _own(root / FILE)
    registry = Registry() if flags.config is None else _pai(flags.config)
    if place := flags.registry or own.get("registry", ""):
        if faults := schema.check(place, _PLACE, "--registry"):
            raise SpecError("command line", faults)
        host, _, namespace = place.partition("/")
        same = host == registry.host
        registry = replace(
            registry, host=host, namespace=namespace, credentials=registry.credentials if same else None
        )
    if tags := tuple(dict.fromkeys(flags.tags)) or tuple(own.get("tags", ())):
        if faults := [fault for tag in tags for fault in schema.check(tag, _TAG, "--tag")]:
            raise SpecError("command line", faults)
        registry = replace(registry, tags=tags)
    registry = replace(registry, sign_key=tuple(key_at(text, root) for text in own.get("sign_key", ())))
    if faults := [fault for text in flags.platforms for fault in schema.check(text, PLATFORM, "--platform")]:
        raise SpecError("command line", faults)
    shared = _options(BuildOptions(), own, root)
    hooks = own.get("hooks", {})
    return Settings(
        mode=flags.mode or own.get("mode", "k8s"),
        build=_flagged(shared, flags),
        of={
            name: _flagged(_options(shared, table, root), flags)
            for name, table in own.get("images", {}).items()
        },
        hooks=HookOptions(
            timeout=float(hooks.get("timeout", 3600)),
            sandbox=hooks.get("sandbox", True),
            environment=tuple(hooks.get("environment", ())),
            travels=tuple(hooks.get("travels", ())),
        ),
        registry=registry,
        executor=own.get("executor", "local"),
        handover=tuple(flags.handover) or tuple(own.get("handover", ())),
        executors=own.get("executors", {}),
    )


def _own(path: Path) -> dict[str, Any]:
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if faults := schema.check(value, RULE, "$"):
        raise SpecError(os.fspath(path), faults)
    return value


def _options(below: BuildOptions, table: Mapping[str, Any], root: Path) -> BuildOptions:
    """Return the options of a table; what it does not say is as in `below`, to whose maps it adds."""
    listed = table.get("platform")
    platforms = _platforms_of(below) if listed is None else [listed] if isinstance(listed, str) else listed
    return BuildOptions(
        arguments={**below.arguments, **table.get("arguments", {})},
        labels={**below.labels, **table.get("labels", {})},
        **_for_platforms(platforms),
        target=table.get("target", ""),
        cache_from=tuple(table.get("cache_from", below.cache_from)),
        secrets={**below.secrets, **{key: root / path for key, path in table.get("secrets", {}).items()}},
        no_cache=table.get("no_cache", below.no_cache),
        pull=table.get("pull", below.pull),
    )


def _flagged(options: BuildOptions, flags: Flags) -> BuildOptions:
    return replace(
        options,
        arguments={**options.arguments, **flags.arguments},
        labels={**options.labels, **flags.labels},
        **_for_platforms(tuple(flags.platforms) or _platforms_of(options)),
        secrets={**options.secrets, **{key: Path(path) for key, path in flags.secrets.items()}},
        no_cache=flags.no_cache or options.no_cache,
        pull=flags.pull or options.pull,
    )


def _platforms_of(options: BuildOptions) -> tuple[str, ...]:
    return options.platforms or ((options.platform,) if options.platform else ())


def _for_platforms(platforms: Sequence[str]) -> dict[str, Any]:
    """Return the fields of BuildOptions for these platforms; a single one is no set."""
    several = tuple(dict.fromkeys(platforms))
    if len(several) > 1:
        return {"platform": "", "platforms": several}
    return {"platform": "".join(several), "platforms": ()}


# -- pai's configuration ------------------------------------------------------------------------------------

_SECTIONS: Final = {
    "docker-registry-info": {
        "domain": "docker-registry-domain", "namespace": "docker-namespace", "tag": "docker-tag",
        "username": "docker-username", "password": "docker-password",
    },
    "docker-registry": {
        "domain": "domain", "namespace": "namespace", "tag": "tag", "username": "username",
        "password": "password",
    },
}  # fmt: skip
"""Sections in the order in which they win, and what our word is in each. `secret-name` is not needed."""

_OPTIONAL: Final = ("username", "password")
_RULES: Final = {
    "domain": text(rf"{_PUBLIC}|[A-Za-z0-9.-]+(:[0-9]{{1,5}})?", say="HOST[:PORT], or `public`"),
    "namespace": text(
        r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*", say="a namespace in lower case"
    ),
    "tag": _TAG,
    "username": _LINE,
    "password": _LINE,
}


def _pai(path: Path) -> Registry:
    """Return the registry of a services-configuration.yaml. Raises as `load` does."""
    if path.is_dir():
        path = path / PAI_FILE
    value = _yaml(path)
    cluster = value.get("cluster") if isinstance(value, dict) else None
    sections = cluster if isinstance(cluster, dict) else {}
    section = next((name for name in _SECTIONS if isinstance(sections.get(name), dict)), None)
    if section is None:
        fault = Fault(
            where="$.cluster.docker-registry", message="is required", hint="where images are pushed"
        )
        raise SpecError(os.fspath(path), [fault])
    found: dict[str, str] = {}
    faults = [*_pai_faults(sections[section], section, found)]
    if faults:
        raise SpecError(os.fspath(path), faults)
    return Registry(
        host=HUB if found["domain"] == _PUBLIC else found["domain"],
        namespace=found["namespace"],
        tags=(found["tag"],),
        credentials=_credentials(found),
    )


def _credentials(found: Mapping[str, str]) -> Credentials | None:
    if not found.get("username"):
        return None
    return Credentials(user=found["username"], password=found.get("password", ""))


def _pai_faults(table: Mapping[str, Any], section: str, found: dict[str, str]) -> Iterator[Fault]:
    """Yield the faults of a section, and put its values into `found`."""
    for name, key in _SECTIONS[section].items():
        where = schema.at(schema.at("$.cluster", section), key)
        value = table.get(key)
        if value is None:
            if name not in _OPTIONAL:
                yield Fault(where=where, message="is required")
            continue
        # YAML reads a tag such as 1.10 as a number, which is 1.1 then: it has to be quoted.
        if isinstance(value, float) and name == "tag":
            yield Fault(where=where, message="is a number in YAML", hint=f'quote it: {key}: "1.10"')
            continue
        found[name] = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for fault in schema.check(found[name], _RULES[name], where):
            # What is wrong with a password is not told with the password in it.
            secret = name == "password"
            yield Fault(where=where, message="must be text in one line") if secret else fault


def _yaml(path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ToolMissing(
            f"{path.name} is YAML, and PyYAML is not installed",
            hint="pip install 'buildstep[components]', or name the registry with --registry",
        ) from error
    try:
        return yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="-c names its directory") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        # The text of the error quotes the line, and that may be the one with the password.
        raise UsageError(f"{path} is not YAML: {getattr(error, 'problem', 'a fault')}{place}") from None
