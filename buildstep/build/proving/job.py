"""A build that is compared with another: what it is given, and what came of it. Each is its own process."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import buildstep
from buildstep import errors
from buildstep.errors import BuildstepError
from buildstep.events import Bus
from buildstep.spec.fields import BuildSpec
from buildstep.spec.shared_cache import SharedCache
from buildstep.system import process
from buildstep.system.answered import Changed
from buildstep.system.workers import pickled

if TYPE_CHECKING:
    from buildstep.cache.remote.interface import Wanted

CHILD = "buildstep.cli.proving_child"
"""The module that does a job."""

_ANSWERS_NOTHING = process.Limits()


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A build to be done in another process.

    name: of the job, for messages and files; pool: its URI; folder: where its outputs, and what it says of
    itself, go. The rest are its surroundings: proto_at: a directory at which the proto directory is mounted
    and read; umask, host_name: None and empty for ours; processors: those it may use, none for all; changed:
    what it is told by system calls; image_env: variables of commands in the image; environ: its own; hidden:
    words that no log and no record may have; shared: a shared cache that it reads, of which it has to take
    the layer with the packages that `layer` names, if that does.
    """

    name: str
    spec: BuildSpec
    pool: str
    folder: Path
    environ: Mapping[str, str]
    proto_at: Path | None = None
    umask: int | None = None
    host_name: str = ""
    processors: tuple[int, ...] = ()
    changed: Changed = field(default_factory=Changed)
    image_env: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    shared: SharedCache | None = None
    layer: Wanted | None = None

    @property
    def result(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def outputs(self) -> Path:
        return self.folder / f"out-{self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of a job.

    began, ended: seconds since 1970; files: as `--json` of a build has them; tools: what it was made with;
    steps: which step last changed a path, for those that one did; packages: of what came with packages, the
    package that has the file, or whose script names it.
    """

    job: Job
    began: float
    ended: float
    uuid: str
    tree_digest: str
    manifest: Path
    record: Path
    files: tuple[Mapping[str, Any], ...]
    steps: Mapping[str, str]
    packages: Mapping[str, str]
    tools: Mapping[str, str]

    def digests(self) -> dict[str, str]:
        """Return what identifies the image: of the tree, of each file by its format, and of its manifest."""
        found = {"tree": self.tree_digest}
        for file in self.files:
            found[str(file["format"])] = str(file["sha256"])
            if digest := dict(file.get("extra", {})).get("digest"):
                found[f"{file['format']} image"] = str(digest).removeprefix("sha256:")
        return found


def do(job: Job, bus: Bus) -> Outcome:
    """Do a job in a process of its own, and return what came of it. Raises what the build raises."""
    path = job.folder / f"{job.name}.job"
    path.write_bytes(pickled(job))
    paths = [os.fspath(Path(buildstep.__file__).parents[1]), job.environ.get("PYTHONPATH", "")]
    env = {**job.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}
    argv = [*job.prefix, sys.executable, "-m", CHILD, os.fspath(path)]
    began = time.time()
    result = process.run(
        argv,
        env=env,
        start=process.Start(cwd=job.folder),
        ok=range(256),
        line=lambda text, *_: bus.output(job.name, text),
        limits=_ANSWERS_NOTHING,
        what=f"the build {job.name}",
    )
    ended = time.time()
    try:
        said = json.loads(job.result.read_bytes())
    except FileNotFoundError:
        raise errors.BuildstepError(
            f"the build {job.name} ended with status {result.status} and said nothing of itself",
            hint="-v shows what it printed",
        ) from None
    if "error" in said:
        raise _error(said["error"], job)
    return Outcome(
        job=job,
        began=began,
        ended=ended,
        **{
            **said,
            "manifest": Path(said["manifest"]),
            "record": Path(said["record"]),
            "files": tuple(said["files"]),
        },
    )


def _error(said: Mapping[str, Any], job: Job) -> BuildstepError:
    """Return the error that a job ended with."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, BuildstepError) and kind.__name__ == said["kind"]:
            error: BuildstepError = kind.__new__(kind)
            BuildstepError.__init__(
                error, str(said["message"]), detail=str(said["detail"]), hint=str(said["hint"])
            )
            return error
    return BuildstepError(f"the build {job.name} failed: {said['message']}", detail=str(said["detail"]))


def alike(spec: BuildSpec, folder: Path, name: str) -> BuildSpec:
    """Return the spec of a build that is compared: it goes to a directory of its own, uses nothing that other
    builds have left and leaves nothing, and signs and records nothing anywhere."""
    return dataclasses.replace(
        spec,
        output_dir=folder / f"out-{name}",
        cache=False,
        shared_cache=None,
        sharing=None,
        cache_required=False,
        base_max_age=None,
        trust=False,
        sbom=None,
        provenance=None,
        sign_key=(),
        base_policy=None,
        proof=type(spec.proof)(),
        keep_on_failure=False,
        shell_on_failure=False,
        max_growth=None,
        pkg_audit=False,
    )
