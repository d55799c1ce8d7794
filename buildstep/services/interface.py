"""The contracts of services: keys, templates, instances, actions, and the places where actions run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from buildstep.errors import BuildstepError, ExitCode


class ServiceError(BuildstepError):
    """An action of a service that failed, or a service that is not in the state it was asked to be in."""

    exit_code = ExitCode.SERVICE


class Side(StrEnum):
    """Where an action belongs. The value is the middle of its file's name: `actions_SIDE.py`."""

    TEMPLATE = "tmpl"
    """Concerns the template, such as its build. Runs here."""
    MANAGEMENT = "mgmt"
    """Runs here, where services are managed."""
    NODE = "node"
    """Runs where the service runs."""


class Action(StrEnum):
    """What can be done with a service. The value is the name of the method of `Actions`."""

    BUILD = "build"
    INIT = "init"
    CONSUME = "consume"
    CHECK_REQUIREMENTS = "check_requirements"
    INSTALL = "install"
    PREPARE = "prepare"
    CONFIGURE = "configure"
    STOP = "stop"
    HALT = "halt"
    CHECK_DOWN = "check_down"
    START = "start"
    CHECK_UP = "check_up"
    MONITOR = "monitor"
    CLEANUP = "cleanup"
    TEST = "test"
    DATA_EXPORT = "data_export"
    DATA_IMPORT = "data_import"
    UNINSTALL = "uninstall"
    REMOVE_DATA = "removedata"


class Answer(StrEnum):
    """What an action said. Each method's return value is one of these, or is turned into one: True and None
    are OK, False is FAILED (of a check: NOT), "r" is RESTART, "nr" is NO_RESTART."""

    OK = "ok"
    NOT = "not"
    """A check that ran and says no: not up, not down."""
    FAILED = "failed"
    RESTART = "restart"
    """Of `configure`: it is done, and takes effect after a restart (the default)."""
    NO_RESTART = "no-restart"
    """Of `configure`: it is done, and what runs has taken it."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Key:
    """The key of a service, or a pattern for some: `domain|name!instance@role (version)`; each part may be
    empty. All lower case."""

    domain: str = ""
    name: str = ""
    instance: str = ""
    role: str = ""
    version: str = ""


class Process(NamedTuple):
    """A process of a service: one `process.N` of its template, references put in.

    number: N; priority: those with a smaller one start first, and stop last. ports: they are waited for.
    pattern: what its command line has in it, where no port tells that it runs. manager: `systemd`, `process`,
    or empty for what the place has. start_seconds, stop_seconds: how long each may take.
    """

    number: int
    name: str
    argv: Sequence[str]
    directory: str = ""
    environment: Mapping[str, str] = {}
    user: str = ""
    priority: int = 10
    ports: Sequence[int] = ()
    pattern: str = ""
    manager: str = ""
    start_seconds: float = 10.0
    stop_seconds: float = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """All that an action is told of its service; `to_json` of it is what travels to the place.

    key: as text, unique in the repository: `name!instance`, with those of the services that it lies in before
    it, as in `node.ssh!rack4:redis!main`; role, instance, domain, name, version: parts of its own.
    values: entries of template and instance, typed, references put in, by their keys; secrets are not among
    them. producers: facts of the services it uses, by role, without those that these use.
    processes: in the order in which they start. packages: of the system. users: accounts that must be there,
    each with a `name`, and as wanted `uid`, `gid`, `group`, `groups`, `home`, `shell`. files: text by
    absolute path. trees: directories here, by the absolute path at which the default `install` lays what is
    in them. folder: the service's directory with its action files, here.
    """

    key: str
    name: str
    instance: str
    role: str
    domain: str = ""
    version: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    producers: Mapping[str, Sequence[Facts]] = field(default_factory=dict)
    processes: Sequence[Process] = ()
    packages: Sequence[str] = ()
    users: Sequence[Mapping[str, Any]] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    trees: Mapping[str, Path] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One action to run. digest: of the action's source and all that goes into it: an action that is recorded
    as done with this digest is not run again where that is the rule. secrets: values by the names by which
    `service.secret(NAME)` asks for them; they reach the action by a pipe and nothing else.

    arguments: after the service, of those actions that take some: `producer` of consume, the key of one of
    `facts.producers`; `id` of data_import. timeout: seconds for all tries together. tries: how often it is
    begun at most, where the failure is one that may pass. source: the file of its class; None where the
    service has none for this side. token: of this call and no other: the place records it with what was done,
    so that whoever asked and was killed can find out whether just this call completed.
    """

    facts: Facts
    side: Side
    action: Action
    digest: str
    source: Path | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 600.0
    tries: int = 1
    token: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How an action ended. values: what it changed in its service's configuration, by key; message: why it
    failed, or what a check found; started: seconds since the epoch."""

    answer: Answer
    message: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None
    started: float = 0.0
    seconds: float = 0.0
    tries: int = 1


class Done(NamedTuple):
    """An action that a place has recorded as completed: written by the place itself before anybody is told,
    so that one that completed is known even if whoever asked for it was killed. token: of its call."""

    action: Action
    side: Side
    digest: str
    outcome: Outcome
    token: str = ""


Line = Callable[[str], None]
"""Is given each line that an action prints, without its end; no secret is in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """Which place: what a row of PLACES is called with.

    address: of `ssh`, `ssh://[USER@]HOST[:PORT]`; of `image`, the root's directory. state: the directory in
    which the place keeps its records, in place of its own. environ: of this command; the system's OpenSSH
    takes its agent from it. owner: asked when an action runs, returns whose the services are: a word, then
    where that is, for a person. A place refuses a service that it keeps for another owner; empty: anybody's.
    """

    address: str = ""
    state: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    owner: Callable[[], str] = str


class Place(Protocol):
    """Where actions run. One object serves a run, by several threads at once for different services."""

    name: str

    def describe(self) -> str:
        """Return where this is, in words: `here`, `root@10.0.0.4:22`."""
        ...

    def done(self, key: str) -> Mapping[tuple[Side, Action], Done]:
        """Return what is recorded at the place as the last completed run of each action of a service."""
        ...

    def run(self, call: Call, line: Line, stopped: threading.Event) -> Outcome:
        """Run an action to its end, and record at the place that it completed.

        An action that fails is an Outcome too. Raises ServiceError where the place cannot be reached, or
        cannot run actions at all; such an error says whether trying again may help. When it returns, no
        process that the action started in its own session is left.
        """
        ...

    def forget(self, key: str) -> None:
        """Remove what the place keeps of a service: its records, its logs, its action files."""
        ...

    def close(self) -> None: ...
