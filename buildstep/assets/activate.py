"""Which version of a service runs: the link `current`, the hooks around its change, and the way back.

    before   of the new version, while the old one runs. If it fails, nothing was changed.
    stop     of the old version. If it fails, that is told, and the change goes on: a version that cannot be
             stopped must not keep every later one from being deployed.
    (now `current` names the new version, by one rename)
    after    of the new version: start it, and see that it works. If it fails, `current` names the old version
             again, whose `after` is run, and the new one is not activated again by itself.

A hook is a program in the hooks' directory, HOOKS/SERVICE/STAGE or HOOKS/STAGE. Where neither is there, and
it is permitted, the version's own in `.buildstep/hooks/`. It is told by variables what is changed.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from buildstep.assets.mark import current, read_mark, versions
from buildstep.assets.names import CURRENT, order
from buildstep.errors import BuildstepError, CommandFailed, ExitCode, ToolMissing, UsageError
from buildstep.events import Bus
from buildstep.system.command_options import Limits
from buildstep.system.files import fsync_dir, read_json, write_json

Stage = Literal["before", "stop", "after"]

OWN: Final = ".buildstep/hooks"
"""Where a version has hooks of its own."""

STATE: Final = ".buildstep-activations.json"
"""Beside the link: what was activated, and what failed."""

_FORMAT = 1
_KEPT = 20


class HookFailed(BuildstepError):
    """A hook that ended with a failure, did not end in time, or cannot be run."""

    exit_code = ExitCode.COMMAND_FAILED


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """Which hooks are run. folder: of the administrator's; own: also those of a version itself; timeout:
    seconds that each may take."""

    folder: Path | None = None
    own: bool = False
    timeout: float = 60.0

    def find(self, stage: Stage, service: str, place: Path) -> Path | None:
        """Return the hook of a stage for the version in `place`; None if there is none."""
        found = [self.folder / service / stage, self.folder / stage] if self.folder else []
        found += [place / OWN / stage] if self.own else []
        return next((path for path in found if os.path.lexists(path)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A version that is not activated by itself: it failed, or was rolled back. sha256: of its archive, as
    another one of the same version may be better."""

    version: str
    sha256: str
    why: str


@dataclass(kw_only=True, slots=True)
class State:
    """history: versions that were activated, the last one last; pending: one that was when its hooks had not
    been run to their end."""

    history: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    pending: str = ""

    def rejection(self, version: str, sha256: str) -> Rejected | None:
        """Return why a version is not to be activated by itself; None if it may."""
        return next((it for it in self.rejected if (it.version, it.sha256) == (version, sha256)), None)


def load_state(install: Path, service: str) -> State:
    """Return what is known of the activations of a service. Raises BuildstepError for a damaged file."""
    path = install / service / STATE
    try:
        value: dict[str, Any] = read_json(path)
    except FileNotFoundError:
        return State()
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="remove it: rollbacks begin anew") from error
    try:
        if value["format"] != _FORMAT:
            raise UsageError(f"{path} is of another version of this program")
        rejected = [Rejected(**row) for row in value["rejected"]]
        return State(history=list(value["history"]), rejected=rejected, pending=str(value["pending"]))
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="remove it: rollbacks begin anew") from error


def before_current(install: Path, service: str) -> str:
    """Return the version that a rollback would go back to; empty for none. Raises BuildstepError.

    It is the last one that ran before the current and is still there; where none ran, the next older one
    that is installed.
    """
    now, state = current(install, service), load_state(install, service)
    for version in reversed(state.history):
        if version != now and read_mark(install / service / version) is not None:
            return version
    if not now:
        return ""
    rejected = {it.version for it in state.rejected}
    older = [
        version
        for version, mark in versions(install, service).items()
        if mark is not None and order(version) < order(now) and version not in rejected
    ]
    return max(older, key=order, default="")


def follow(install: Path, service: str, newest: str, hooks: Hooks, bus: Bus) -> bool:
    """Let a service run its newest version; return whether that was changed.

    One that was rejected stays where it is. Raises BuildstepError where a hook fails: see the module.
    """
    activation = _Activation(install, service, hooks, bus)
    now, state = current(install, service), activation.state
    if now == newest and state.pending != newest:
        return False
    mark = read_mark(install / service / newest)
    if mark is None:
        raise UsageError(f"{service} {newest} is not installed")
    if rejection := state.rejection(newest, mark.sha256):
        bus.note(
            f"{service} {newest} is not activated: {rejection.why}; it is with"
            f" `buildstep assets rollback {service} --to {newest}`",
        )
        return False
    activation.change(newest)
    return True


def roll_back(install: Path, service: str, hooks: Hooks, bus: Bus, *, to: str = "") -> tuple[str, str]:
    """Let a service run the version that it ran before, or `to`; return the old and the new version.

    The version that is left is not activated by itself any more; `to` may be. Raises BuildstepError.
    """
    activation = _Activation(install, service, hooks, bus)
    now = current(install, service)
    target = to or before_current(install, service)
    if not target:
        raise UsageError(
            f"{service} has no installed version from before {now}" if now else f"{service} runs no version",
            hint="`--to VERSION` names any that is there",
        )
    if target == now:
        raise UsageError(f"{service} runs {target} already")
    if read_mark(install / service / target) is None:
        raise UsageError(f"{service} {target} is not installed", hint="`buildstep assets pull` brings it")
    state = activation.state
    state.rejected = [it for it in state.rejected if it.version != target]
    activation.change(target)
    if now and order(now) > order(target):
        activation.reject(now, "it was rolled back")
    return now, target


class _Activation:
    """The change of one service's version."""

    def __init__(self, install: Path, service: str, hooks: Hooks, bus: Bus) -> None:
        self._install = install
        self._service = service
        self._folder = install / service
        self._hooks = hooks
        self._bus = bus
        self.state = load_state(install, service)

    def change(self, version: str) -> None:
        """Run a version in the place of the current one. Raises BuildstepError; see the module."""
        link = self._folder / CURRENT
        if os.path.lexists(link) and not link.is_symlink():
            raise UsageError(f"{link} is no link: it cannot name the version that runs")
        # After a kill between the change and the last hook the link names the new version already.
        resumed = self.state.pending == version and current(self._install, self._service) == version
        old = (self.state.history or [""])[-1] if resumed else current(self._install, self._service)
        if not resumed:
            self._run("before", version, old)
            if old:
                self._stop(old, version)
            self.state.pending = version
            self._save()
            self._link(version)
        try:
            self._run("after", version, old)
        except HookFailed as error:
            self._undo(version, old)
            raise HookFailed(
                f"{error.message}: {self._service} {f'runs {old} again' if old else 'runs nothing'}",
                detail=error.detail,
                hint=f"`buildstep assets rollback {self._service} --to {version}` tries it again",
            ) from error
        self._save_done(version, old)

    def _save_done(self, version: str, old: str) -> None:
        """Note that a version runs, and that all its hooks were run."""
        known = [*self.state.history, *([old] if old and old not in self.state.history else [])]
        history = [it for it in known if it != version]
        self.state.history = [*history, version][-_KEPT:]
        self.state.pending = ""
        self._save()

    def reject(self, version: str, why: str) -> None:
        """Keep a version from being activated by itself."""
        mark = read_mark(self._folder / version)
        kept = [it for it in self.state.rejected if it.version != version]
        entry = Rejected(version=version, sha256=mark.sha256 if mark else "", why=why)
        self.state.rejected = [*kept, entry][-_KEPT:]
        self._save()

    def _undo(self, version: str, old: str) -> None:
        """Let the old version run again, as the new one does not work."""
        if old and (self._folder / old).is_dir():
            self._link(old)
            try:
                self._run("after", old, version)
            except HookFailed as error:
                self._bus.note(f"after the way back: {error.message}", level="error")
        else:
            (self._folder / CURRENT).unlink(missing_ok=True)
        self.state.pending = ""
        self.reject(version, "its hook `after` failed")

    def _stop(self, old: str, new: str) -> None:
        try:
            self._run("stop", old, new)
        except HookFailed as error:
            self._bus.note(
                f"{error.message}; {self._service} {new} is activated all the same", level="warning"
            )

    def _run(self, stage: Stage, version: str, other: str) -> None:
        """Run a hook of a version, if there is one. other: the version that it takes the place of, or that
        takes its place. Raises HookFailed."""
        from buildstep.system import process  # a pull that changes nothing does without

        place = self._folder / version
        hook = self._hooks.find(stage, self._service, place)
        if hook is None:
            return
        what = f"hook {stage} of {self._service} {version}"
        if not os.access(hook, os.X_OK) or not hook.is_file():
            raise HookFailed(f"{what}: {hook} is no program that can be run", hint=f"chmod +x {hook}")
        env = process.base_env(
            os.environ,
            BUILDSTEP_STAGE=stage,
            BUILDSTEP_SERVICE=self._service,
            BUILDSTEP_VERSION=version,
            BUILDSTEP_OTHER_VERSION=other,
            BUILDSTEP_DIR=os.fspath(place),
            BUILDSTEP_INSTALL_DIR=os.fspath(self._install),
        )
        limits, line = Limits(total=self._hooks.timeout), partial(self._bus.output, hook.name)
        try:
            process.run([os.fspath(hook)], env=env, limits=limits, line=line, what=what)
        except (CommandFailed, ToolMissing) as error:
            told = error.message if what in error.message else f"{what}: {error.message}"
            raise HookFailed(told, detail=error.detail, hint=error.hint) from error

    def _link(self, version: str) -> None:
        """Let the link name a version, in one step."""
        new = self._folder / f".{CURRENT}.{os.getpid()}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(version)
        new.replace(self._folder / CURRENT)
        fsync_dir(self._folder)

    def _save(self) -> None:
        write_json(self._folder / STATE, {"format": _FORMAT, **asdict(self.state)}, mode=0o644)
