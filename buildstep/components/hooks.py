"""The hooks of a component, `build-pre.sh` and `build-post.sh`: what they are told, and how they are run.

A hook is run in a stage of its component (`stage`), as pai runs it in the repository: from the top, by its
path, without arguments. It may write to its stage and to /tmp, which is its own; where bubblewrap works, all
else is read-only for it.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from buildstep.components.settings import HookOptions
from buildstep.components.stage import DEPENDENCY, GENERATED, Stage
from buildstep.errors import BuildstepError
from buildstep.system import process
from buildstep.system.command_options import Limits, Reached, Start
from buildstep.system.command_output import Line

VARIABLES: Final = {
    "BUILDSTEP_COMPONENT": "The component's name.",
    "BUILDSTEP_HOOK": "`pre` or `post`.",
    "BUILDSTEP_COMPONENT_DIR": "The staged component; its images have this directory as context.",
    "BUILDSTEP_GENERATED_DIR": "Where to put what other components get, as `dependency/COMPONENT/generated`.",
    "BUILDSTEP_DEPENDENCY_DIR": "Where the products of the providers are, a directory for each.",
    "BUILDSTEP_TOP": "The directory that the hook starts in; it holds this component only.",
    "BUILDSTEP_IMAGES": "Names of the component's images, with blanks between them.",
    "BUILDSTEP_TAG": "The first tag that images are pushed with.",
    "BUILDSTEP_CHANGED_FILES": "A file with the paths that changed since this hook last ran, one a line.",
}
"""What a hook is told, for the reference as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hook:
    """A hook to run. file: relative to the component; changed: of the component's files, those that changed
    since it last ran, all of them where that is not known."""

    component: str
    action: str
    file: str
    images: Sequence[str] = ()
    tag: str = ""
    changed: Sequence[str] = ()

    @property
    def label(self) -> str:
        return f"{self.component}:{self.action}"


Watch = Callable[[], Reached | None]


def run_hook(
    hook: Hook,
    stage: Stage,
    options: HookOptions,
    *,
    environ: Mapping[str, str],
    line: Line | None = None,
    watch: Watch | None = None,
) -> None:
    """Run a hook to its end. line: gets its output; watch: asked whether it has to stop.

    Raises CommandFailed for a status other than 0 and for one that takes too long; what it started is gone.
    """
    path = stage.folder / hook.file
    make_executable(path)
    listing = stage.top / "changed-files"
    listing.write_text("".join(f"{name}\n" for name in hook.changed), errors="surrogateescape")
    around = _enclosed(stage) if options.sandbox and sandbox_works() else []
    process.run(
        [*around, os.fspath(path)],
        env=environment(hook, stage, options, environ),
        start=Start(cwd=stage.top),
        line=line,
        limits=Limits(total=options.timeout, watch=watch),
        what=f"the hook {hook.file} of {hook.component}",
    )


def make_executable(path: Path) -> None:
    """Let a staged script be run that git has without the bit; pai does this to the source file.

    It is no change that the hook made: do it before looking what is in the stage.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & 0o100:
        path.chmod(mode | 0o100)


def environment(hook: Hook, stage: Stage, options: HookOptions, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a hook: what a tool needs to run, what the settings name, and VARIABLES."""
    told = {
        "BUILDSTEP_COMPONENT": hook.component,
        "BUILDSTEP_HOOK": hook.action,
        "BUILDSTEP_COMPONENT_DIR": os.fspath(stage.folder),
        "BUILDSTEP_GENERATED_DIR": os.fspath(stage.folder / GENERATED),
        "BUILDSTEP_DEPENDENCY_DIR": os.fspath(stage.folder / DEPENDENCY),
        "BUILDSTEP_TOP": os.fspath(stage.top),
        "BUILDSTEP_IMAGES": " ".join(hook.images),
        "BUILDSTEP_TAG": hook.tag,
        "BUILDSTEP_CHANGED_FILES": os.fspath(stage.top / "changed-files"),
        "TMPDIR": os.fspath(stage.temporary),
    }
    given = {name: environ[name] for name in options.variables if name in environ}
    return process.base_env(environ, **given, **told)


def _enclosed(stage: Stage) -> list[str]:
    """Return the command line that runs what follows it where only the stage can be written to."""
    top = os.fspath(stage.top)
    return [
        "bwrap", "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc",
        "--bind", os.fspath(stage.temporary), "/tmp",
        # The state directory may itself be below /tmp.
        "--bind", top, top, "--chdir", top,
        "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session", "--",
    ]  # fmt: skip


@functools.cache
def sandbox_works() -> bool:
    """Return whether this machine can run a hook with all else read-only; found by trying, once."""
    if process.find("bwrap") is None:
        return False
    try:
        process.query(["bwrap", "--ro-bind", "/", "/", "--proc", "/proc", "--unshare-pid", "--", "true"])
    except BuildstepError:
        return False
    return True
