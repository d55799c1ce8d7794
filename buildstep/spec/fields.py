"""What a build is given: one frozen object with a field for each setting."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from buildstep.spec import check_rules
from buildstep.spec.accounts import Group, Units, User
from buildstep.spec.lock import Lock
from buildstep.spec.repositories import PackageFile, Repository
from buildstep.spec.shared_cache import SharedCache
from buildstep.spec.trust import AllowedSecret, Trust, Vulnerabilities

Origin = Literal["flag", "file", "environment", "default"]

FORMAT: Final = "buildstep.spec"
FORMAT_VERSION: Final = 1

OCI_FORMATS: Final = frozenset({"oci", "oci-dir"})
"""Formats of an OCI image, to which engines give a name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallerOptions:
    """How packages are installed."""

    recommends: bool = False
    mirror: str | None = None
    snapshot: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    repositories: tuple[Repository, ...] = ()
    hold: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCommand:
    """A command in the image. name: empty for one that was given as a line or a list alone, whose result is
    not kept by itself.

    argv, or a script for an interpreter, which is what `file` of the component holds, if that is given.
    workdir, user, env: how it runs; inputs: all that it sees of the proto directory, if there are any; cache:
    directories that stay for the next build, and never ship; network: None for what `run_options` say;
    secrets: by their names; timeout: seconds.
    """

    name: str = ""
    argv: tuple[str, ...] = ()
    script: str = ""
    file: str | None = None
    interpreter: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    cache: tuple[str, ...] = ()
    network: bool | None = None
    secrets: tuple[str, ...] = ()
    timeout: int | None = None

    @classmethod
    def of(cls, value: Any) -> RunCommand:
        """Return the command that checked JSON stands for: a line, a list or an object."""
        if isinstance(value, str):
            return cls(script=value)
        if isinstance(value, list | tuple):
            return cls(argv=tuple(value))
        return cls(**{key: from_data(key, part) for key, part in value.items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class Secret:
    """Something that a command is shown, and that stays nowhere. It is what a file of the CI host holds, or a
    variable of its environment (env); the command has it at `target`, or as a variable of its own."""

    file: str | None = None
    env: str | None = None
    target: str | None = None
    variable: str | None = None
    mode: str = "0600"
    owner: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How commands are run in the image."""

    network: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Limits of a command in seconds. command: in all; idle: without output."""

    command: int = 3600
    idle: int = 900


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a command in the image may take; 0: no limit, None: the default one.

    pids: processes and threads at a time; memory, output: bytes; open_files: of one process; file_size: bytes
    of one file, holes included.
    """

    pids: int | None = None
    memory: int | None = None
    output: int | None = None
    open_files: int | None = None
    file_size: int | None = None

    def or_else(self, other: Limits) -> Limits:
        """Return these, and of the other those that are not given here."""
        names = [item.name for item in dataclasses.fields(self)]
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return Limits(**{name: theirs if ours is None else ours for name, (ours, theirs) in pairs.items()})


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
    annotations: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str | None = None
    architecture: str | None = None


@dataclass(frozen=True, kw_only=True)
class BuildSpec:
    """Everything a build is given, checked. Paths are absolute. Treat mappings as read-only.

    manifest: the author's part of the image manifest, without `build`. source: where that came
    from. origin_of: for each setting, where its value came from.
    """

    name: str
    version: str
    source: str
    manifest: Mapping[str, Any]
    origin_of: Mapping[str, Origin]

    image: str
    proto: Path
    platform: str | None = None
    packages: tuple[str, ...] = ()
    installer: str = "auto"
    installer_options: InstallerOptions = InstallerOptions()
    run: tuple[RunCommand, ...] = ()
    run_options: RunOptions = RunOptions()
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    users: tuple[User, ...] = ()
    groups: tuple[Group, ...] = ()
    order: Literal["proto-first", "packages-first"] = "proto-first"
    owner: Mapping[str, str] = field(default_factory=lambda: {"*": "root:root"})
    modes: Mapping[str, str] = field(default_factory=dict)
    units: Units = field(default_factory=Units)
    exclude: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    clean: tuple[str, ...] | None = None
    formats: tuple[str, ...] = ("oci",)
    compression: str | None = None
    sparse: bool = False
    times: Literal["stable", "keep"] = "stable"
    store: str | None = None
    ref: str | None = None
    outputs: tuple[str, ...] = ()
    strip: str | None = None
    motd: bool = False
    source_repo: str | None = None
    upgrade_first: bool = False
    pkg_audit: bool = False
    image_prefix: str
    output_dir: Path
    pool: str | None = None
    cache: bool | Mapping[str, Any] = True
    """Whether what earlier builds made is used; or what is said of the cache that is shared."""
    shared_cache: str | None = None
    cache_required: bool = False
    cache_trust: Literal["policy", "release"] | None = None
    paranoid: bool = False
    keep_on_failure: bool = False
    """Leave the clone of a build that went well too: of no setting, for what builds templates of services."""
    shell_on_failure: bool = False
    full: bool = False
    max_size: str | None = None
    max_growth: str | None = None
    over_size: Literal["fail", "warn"] = "fail"
    checks: Mapping[str, Any] = field(default_factory=dict)
    allow: Mapping[str, Sequence[str]] = field(default_factory=dict)
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    oci: OciConfig = OciConfig()
    source_date_epoch: int | None = None
    index_max_age: int = 3600
    base_max_age: int | None = None
    network: bool = True
    locked: bool | None = None
    trust: bool | Mapping[str, Any] = False
    sbom: bool | None = None
    provenance: Literal["min", "max"] | None = None
    sign_key: tuple[str, ...] = ()
    base_policy: str | None = None

    proof: Trust = field(default_factory=Trust)
    """What proves the image, as these five and the environment have it: no setting."""
    sharing: SharedCache | None = None
    """The shared cache, as flags, file, configuration and environment have it: no setting."""
    lock: Lock | None = None
    """What is beside the m.json, and fits it: no setting."""
    lock_problem: str = ""
    """Why a lock that is there is not used: no setting."""
    package_files: tuple[PackageFile, ...] = ()
    """Those of the packages that are files: no setting."""
    keep_clone: bool = False
    """Whether the clone stays after a success too. No setting: commands that debug a build set it."""

    @property
    def ref_name(self) -> str:
        """The ref by which a store knows the image."""
        return self.ref or f"{self.name}/{self._full_version}"

    @property
    def base(self) -> str:
        """The reference of the base image: as it is asked for, or what a lock made of that."""
        return self.lock.base_reference() if self.lock is not None else self.image

    @property
    def wants_packages(self) -> bool:
        """Whether the package manager is needed at all."""
        return bool(self.packages or self.upgrade_first or self.pkg_audit)

    @property
    def wants_accounts(self) -> bool:
        """Whether users or groups are asked for."""
        return bool(self.users or self.groups)

    @property
    def runs(self) -> bool:
        """Whether commands run in the image, for which somebody has to be root in it."""
        return self.wants_packages or bool(self.run) or check_rules.in_image(self.checks)

    @property
    def basename(self) -> str:
        """What the names of all output files start with."""
        return f"{self.image_prefix}-{self._full_version}"

    @property
    def stem(self) -> Path:
        """The path of every output, without its extension."""
        return self.output_dir / self.basename

    @property
    def _full_version(self) -> str:
        """The version, and the processor where one is named: images for several lie beside each other."""
        return "-".join((self.version, *(self.platform or "").split("/")[1:]))

    @property
    def architecture(self) -> str:
        """What the image is labelled with, such as amd64 or arm/v7; empty: as its base is."""
        return self.oci.architecture or (self.platform or "").partition("/")[2]

    def cleaners(self, default: Sequence[str]) -> tuple[str, ...]:
        """Return the cleaners to run, given the default set."""
        if self.clean is None:
            return tuple(default)
        dropped = {name[1:] for name in self.clean if name.startswith("-")}
        if dropped:
            return tuple(name for name in default if name not in dropped)
        return self.clean

    def to_json(self) -> dict[str, object]:
        """Return the spec as JSON data, with a format version.

        The order of keys in `owner` and `modes` has a meaning, so they must not be sorted.
        """
        fields = {item.name: to_data(getattr(self, item.name)) for item in dataclasses.fields(self)}
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **fields}


_NESTED: Final[Mapping[str, type]] = {
    "installer_options": InstallerOptions,
    "run_options": RunOptions,
    "timeouts": Timeouts,
    "limits": Limits,
    "oci": OciConfig,
    "units": Units,
    "proof": Trust,
    "vulnerabilities": Vulnerabilities,
}
_ROWS: Final[Mapping[str, type]] = {
    "users": User,
    "groups": Group,
    "repositories": Repository,
    "allow_secrets": AllowedSecret,
}
"""Fields that are lists of objects."""


def store_url(url: str, directory: Path) -> str:
    """Return the URL of a store; a directory's path, with `dir:` or alone, becomes absolute."""
    scheme, colon, path = url.partition(":")
    if colon and scheme != "dir" and "/" not in scheme:
        return url
    return f"dir:{os.path.abspath(directory / (path if colon and scheme == 'dir' else url))}"


def from_data(name: str, value: Any) -> Any:
    """Return the value of a field of BuildSpec from checked JSON. Lists become tuples."""
    if value is None or name in ("manifest", "origin_of"):
        return value
    if name in _NESTED:
        return _NESTED[name](**{key: from_data(key, part) for key, part in value.items()})
    if name in ("proto", "output_dir"):
        return Path(value)
    if name == "run":
        return tuple(map(RunCommand.of, value))
    if name == "secrets" and isinstance(value, Mapping):
        return {key: Secret(**part) for key, part in value.items()}
    if name == "cache" and isinstance(value, Mapping):
        return dict(value) or True
    if name == "trust" and isinstance(value, Mapping):
        return dict(value)
    if name == "owner":
        rules = {"*": value} if isinstance(value, str) else dict(value)
        return rules | {"*": rules.pop("*", "root:root")}
    if isinstance(value, list | tuple):
        return tuple(_row(name, part) for part in value)
    return int(value) if isinstance(value, float) else value  # 2.0 is a whole number in JSON


def _row(name: str, part: Any) -> Any:
    """Return an entry of a list."""
    if isinstance(part, dict):
        return _ROWS[name](**{key: from_data(key, value) for key, value in part.items()})
    return tuple(part) if isinstance(part, list) else part


def to_data(value: object) -> object:
    """Return the value of a field as JSON data: of a lock, which file it is."""
    if isinstance(value, Lock):
        return {"path": os.fspath(value.path), "sha256": value.sha256}
    if isinstance(value, PackageFile):  # where the checkout lies decides nothing
        return {"name": value.name, "sha256": value.sha256}
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
