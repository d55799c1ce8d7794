"""What a build is told: one frozen object whose fields are the table of all settings.

Each setting's rule, flag and sentence stand in the annotation of its field, and the field's default
is its default. Loading, the schema of the `build` key and the reference are derived from that.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints

from buildstep.spec.document import LAST_SECOND
from buildstep.spec.schema import BOOLEAN, Rule, array, choice, integer, mapping, record, text

Origin = Literal["flag", "file", "environment", "default"]

FORMAT: Final = "buildstep.spec"
FORMAT_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """The names of what is plugged in; the caller knows, this level does not."""

    installers: tuple[str, ...]
    formats: tuple[str, ...]
    cleaners: tuple[str, ...]
    compressions: tuple[str, ...] = ("gzip", "zstd", "xz", "bzip2", "none")


@dataclass(frozen=True, slots=True)
class Setting:
    """How one field may be given.

    names: the options, where they depend on what is plugged in; for a list, of its entries. env: its
    variable, BUILDSTEP_ and the name unless told. commas: whether they part a list given as text.
    """

    rule: Rule
    about: str
    names: Callable[[Choices], Sequence[str]] | None = field(default=None, kw_only=True)
    flag: str = field(default="", kw_only=True)
    env: str = field(default="", kw_only=True)
    in_file: bool = field(default=True, kw_only=True)
    commas: bool = field(default=True, kw_only=True)
    required: bool = field(default=False, kw_only=True)

    @property
    def option(self) -> str:
        """The flag's long name, for messages."""
        return next((word for word in self.flag.split("/") if word.startswith("--")), "")

    @property
    def kind(self) -> str:
        """The JSON type that text given for this setting stands for."""
        types = self.rule["type"]
        return types if isinstance(types, str) else str(types[-1])

    def rule_for(self, choices: Choices) -> Rule:
        """The rule, given what is plugged in."""
        if self.names is None:
            return self.rule
        options = choice(self.names(choices))
        return self.rule | ({"items": options} if self.kind == "array" else options)


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallerOptions:
    """How packages are installed."""

    recommends: bool = False
    mirror: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Seconds: command is how long one may take in all, idle how long it may be silent."""

    command: int = 3600
    idle: int = 900


@dataclass(frozen=True, kw_only=True, slots=True)
class OciConfig:
    """What an OCI image's configuration says about running it; None: as in the base image."""

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    workdir: str | None = None
    expose: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str | None = None
    architecture: str | None = None


# Control characters have no place in anything that ends in an argv, a path or a log.
_PLAIN = r"\x00-\x1f\x7f"
_HALVES = r"\ud800-\udfff"  # of a character; a file name cannot be made of them
_WORD = text(rf"[^{_PLAIN}-][^{_PLAIN}]*", say="one line that does not start with a dash")
_LINE = text(rf"[^{_PLAIN}]*", say="one line")
_NO_NUL = text(r"[^\x00]*", say="free of NUL", least=0)
_ABSOLUTE = text(rf"/[^{_PLAIN}]*", say="an absolute path")
_ENV = mapping(_NO_NUL, keys=text(r"[A-Za-z_][A-Za-z0-9_]*", say="the name of a variable"))
_PACKAGE = text(
    r"[A-Za-z0-9_.+:=~/][A-Za-z0-9_.+:=~/-]*",
    say="a package: A-Z a-z 0-9 - _ . + : = ~ / and no dash in front",
)
PREFIX = text(
    rf"[^/.{_PLAIN}{_HALVES}-][^/{_PLAIN}{_HALVES}]*",
    say="a file name that does not start with a dot or a dash",
)
_WHO = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
_OWNER = text(f"keep|{_WHO}:{_WHO}", say='"keep" or USER:GROUP, names or numbers')
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6([0-4][0-9]{3}|5([0-4][0-9]{2}|5([0-2][0-9]|3[0-5]))))"
_SECONDS = integer(1, 7 * 24 * 3600)
_OCI = record(
    {
        "entrypoint": array(_NO_NUL),
        "cmd": array(_NO_NUL),
        "env": _ENV,
        "user": text(f"{_WHO}(:{_WHO})?", say="USER or USER:GROUP"),
        "workdir": _ABSOLUTE,
        "expose": array(text(f"{_PORT}(/(tcp|udp|sctp))?", say="a port such as 80 or 53/udp")),
        "volumes": array(_ABSOLUTE),
        "labels": mapping(_NO_NUL, keys=_LINE),
        "stop_signal": text("SIG[A-Z0-9+-]+|[1-9][0-9]?", say="a signal such as SIGTERM"),
        "architecture": text("[a-z0-9]+", say="an architecture such as amd64"),
    }
)


@dataclass(frozen=True, kw_only=True)
class BuildSpec:
    """Everything a build is told, checked. Paths are absolute. Treat mappings as read-only.

    manifest: the author's part of the image manifest, without `build`. source: where that came
    from. origin_of: for each setting, where its value came from.
    """

    name: str
    version: str
    source: str
    manifest: Mapping[str, Any]
    origin_of: Mapping[str, Origin]

    image: Annotated[
        str,
        Setting(
            _WORD,
            "The base image: a uuid, name@version, or a locator such as mmdebstrap:bookworm.",
            flag="-i/--image",
            required=True,
        ),
    ]
    proto: Annotated[
        Path,
        Setting(
            _LINE,
            "The proto directory, laid over the base image; also the one positional argument.",
            flag="-d/--dir",
            required=True,
        ),
    ]
    packages: Annotated[
        tuple[str, ...], Setting(array(_PACKAGE), "Packages to install.", flag="-p/--packages")
    ] = ()
    installer: Annotated[
        str,
        Setting(
            text(),
            "What installs them; auto looks at the base image.",
            names=lambda choices: ("auto", *choices.installers),
            flag="--installer",
        ),
    ] = "auto"
    installer_options: Annotated[
        InstallerOptions,
        Setting(
            record({"recommends": BOOLEAN, "mirror": _WORD, "env": _ENV}),
            "recommends: also what packages recommend (false); mirror: fetch from there; env: variables"
            " for the package manager.",
        ),
    ] = InstallerOptions()
    order: Annotated[
        Literal["proto-first", "packages-first"],
        Setting(
            text() | choice(["proto-first", "packages-first"]),
            "What goes in first. Packages first: they are reused when only the proto directory changed.",
            flag="--order",
        ),
    ] = "proto-first"
    owner: Annotated[
        Mapping[str, str],
        Setting(
            mapping(_OWNER, keys=_LINE, least=1) | _OWNER | {"type": ["string", "object"]},
            "Who owns the files of the proto directory: one rule, or an object of globs, of which the"
            ' first that matches counts and "*" comes last. keep: the numbers they have on the agent.',
            flag="--owner",
        ),
    ] = field(default_factory=lambda: {"*": "root:root"})
    exclude: Annotated[
        tuple[str, ...],
        Setting(array(_LINE), "Patterns of rsync, for what stays out.", flag="--exclude", commas=False),
    ] = ()
    clean: Annotated[
        tuple[str, ...] | None,
        Setting(
            array(text(), unique=True),
            "The cleaners to run; or, all with a dash in front, those of the default set not to run.",
            names=lambda choices: (*choices.cleaners, *(f"-{name}" for name in choices.cleaners)),
            flag="--clean",
        ),
    ] = None
    formats: Annotated[
        tuple[str, ...],
        Setting(
            array(text(), unique=True, least=1),
            "The formats to write.",
            names=lambda choices: choices.formats,
            flag="-f/--format",
        ),
    ] = ("oci",)
    compression: Annotated[
        str | None,
        Setting(
            text(),
            "How they are compressed; each format has its own default.",
            names=lambda choices: choices.compressions,
            flag="-c/--compression",
        ),
    ] = None
    motd: Annotated[bool, Setting(BOOLEAN, "Write etc/motd; needs source_repo.", flag="-M/--motd")] = False
    source_repo: Annotated[
        str | None, Setting(_WORD, "Where the source is, for the motd.", flag="-S/--source-repo")
    ] = None
    upgrade_first: Annotated[
        bool, Setting(BOOLEAN, "Upgrade the base image's packages first.", flag="-u/--upgrade-first")
    ] = False
    pkg_audit: Annotated[
        bool, Setting(BOOLEAN, "Report known vulnerabilities of packages.", flag="-a/--pkg-audit")
    ] = False
    image_prefix: Annotated[
        str,
        Setting(
            PREFIX,
            "Files are named PREFIX-VERSION and an extension; default: the name.",
            flag="-P/--image-prefix",
        ),
    ]
    output_dir: Annotated[
        Path, Setting(_LINE, "Where the files go; default: bits/NAME.", flag="-o/--output-dir")
    ]
    pool: Annotated[
        str | None,
        Setting(
            text(rf"[a-z][a-z0-9]*:[^{_PLAIN}]+", say="BACKEND:PLACE, such as dir:/var/tmp/pool"),
            "Where datasets live; default: the best this agent has.",
            flag="--pool",
        ),
    ] = None
    cache: Annotated[bool, Setting(BOOLEAN, "Reuse layers of earlier builds.", flag="--cache/--no-cache")] = (
        True
    )
    keep_on_failure: Annotated[
        bool, Setting(BOOLEAN, "Leave the clone of a failed build.", flag="--keep-on-failure")
    ] = False
    shell_on_failure: Annotated[bool, Setting(BOOLEAN, "Open a shell in it.", flag="--shell-on-failure")] = (
        False
    )
    full: Annotated[
        bool, Setting(BOOLEAN, "Write a zfs image that does not need its base image.", flag="--full")
    ] = False
    timeouts: Annotated[
        Timeouts,
        Setting(
            record({"command": _SECONDS, "idle": _SECONDS}),
            "In seconds. command: for one command in all (3600); idle: for its silence (900).",
        ),
    ] = Timeouts()
    oci: Annotated[
        OciConfig,
        Setting(_OCI, "Configuration of an OCI image; what is not given stays as in the base image."),
    ] = OciConfig()
    source_date_epoch: Annotated[
        int | None,
        Setting(
            integer(0, LAST_SECOND),
            "The time of the build, in seconds since 1970, for builds that repeat bit by bit.",
            env="SOURCE_DATE_EPOCH",
            in_file=False,
        ),
    ] = None
    index_max_age: Annotated[
        int,
        Setting(
            integer(0, 366 * 24 * 3600),
            "For how many seconds the repository's answer to what packages resolve to is good; 0: ask"
            " every time.",
        ),
    ] = 3600
    network: Annotated[
        bool,
        Setting(
            BOOLEAN,
            "Whether the steps that install packages may use the network.",
            flag="--network/--no-network",
        ),
    ] = True

    @property
    def wants_packages(self) -> bool:
        """Whether the package manager is needed at all."""
        return bool(self.packages or self.upgrade_first or self.pkg_audit)

    @property
    def basename(self) -> str:
        """What the names of all output files start with."""
        return f"{self.image_prefix}-{self.version}"

    def cleaners(self, default: Sequence[str]) -> tuple[str, ...]:
        """The cleaners to run, given the default set."""
        if self.clean is None:
            return tuple(default)
        dropped = {name[1:] for name in self.clean if name.startswith("-")}
        if dropped:
            return tuple(name for name in default if name not in dropped)
        return self.clean

    def to_json(self) -> dict[str, object]:
        """Return the spec as JSON data, with a format version.

        The order of keys in `owner` has a meaning, so they must not be sorted.
        """
        fields = {item.name: to_data(getattr(self, item.name)) for item in dataclasses.fields(self)}
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **fields}


def _settings() -> dict[str, Setting]:
    found = {}
    for name, hint in get_type_hints(BuildSpec, include_extras=True).items():
        for extra in getattr(hint, "__metadata__", ()):
            assert isinstance(extra, Setting), name
            env = extra.env or f"BUILDSTEP_{name.upper()}"
            found[name] = dataclasses.replace(extra, env=env)
    return found


SETTINGS: Final[Mapping[str, Setting]] = _settings()

_NESTED: Final[Mapping[str, type]] = {
    "installer_options": InstallerOptions,
    "timeouts": Timeouts,
    "oci": OciConfig,
}


def from_data(name: str, value: Any) -> Any:
    """The value of a field of BuildSpec from checked JSON: nothing in it can be changed by chance."""
    if value is None or name in ("manifest", "origin_of"):
        return value
    if name in _NESTED:
        return _NESTED[name](**{key: from_data(key, part) for key, part in value.items()})
    if name in ("proto", "output_dir"):
        return Path(value)
    if name == "owner":
        rules = {"*": value} if isinstance(value, str) else dict(value)
        return rules | {"*": rules.pop("*", "root:root")}
    if isinstance(value, list | tuple):
        return tuple(value)
    return int(value) if isinstance(value, float) else value  # 2.0 is a whole number in JSON


def to_data(value: object) -> object:
    """The value of a field as JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return {name: to_data(part) for name, part in parts.items() if part is not None}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: to_data(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_data(part) for part in value]
    return value
