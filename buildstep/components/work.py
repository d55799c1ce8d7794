"""What a job is: a hook run in its component's stage, or an image made from it. Executors call this.

A component is staged once for all its jobs in a run: its hook changes the stage, its images have it as their
context. A job never raises what went wrong in it: that is its result.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote

from buildstep.components.builders import Builder
from buildstep.components.graph import Graph, find_image
from buildstep.components.hooks import Hook, make_executable, run_hook
from buildstep.components.inputs import FILE, LISTED
from buildstep.components.interface import Action, Component, History, Job, Result, State
from buildstep.components.make_image import Making, make
from buildstep.components.settings import Settings
from buildstep.components.stage import Provider, Stage, Stages
from buildstep.errors import BuildstepError
from buildstep.events import Part
from buildstep.system import process, space
from buildstep.system.command_options import Limits, Reached
from buildstep.system.private import private_dir

Say = Callable[[Job, str], None]
"""Is given each line of a job; from its thread."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What jobs are done with. history: tells a hook what changed; builder: returns it, the same one each
    time, and raises where there is none; bases: ids of images from elsewhere, by their references; mounting:
    whether mounts of this process end with it."""

    graph: Graph
    settings: Settings
    state: Path
    environ: Mapping[str, str]
    history: History
    builder: Callable[[], Builder]
    bases: Mapping[str, str] = field(default_factory=dict)
    say: Say = lambda _job, _text: None
    worker: str = "local"
    mounting: bool = False

    def log_of(self, job: str) -> Path:
        """Return the file that has all output of a job's last run."""
        return self.state / "logs" / f"{quote(job, safe=':')}.log"


@dataclass
class _Staged:
    """A component's stage in this run. lock: held while it is made and while a hook changes it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stage: Stage | None = None
    outputs: tuple[str, ...] = ()


class Worker:
    """Does jobs; see `executors.local.Work`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.stages = Stages(place.state, place.graph.repository.root, mounting=place.mounting)
        self._staged = {name: _Staged() for name in place.graph.repository.components}
        self._images = place.graph.repository.images()
        self._options = place.settings.read_options()
        private_dir(place.state / "logs")

    def __call__(
        self,
        job: Job,
        outputs: Mapping[str, str],
        stopped: threading.Event,
        turn: Callable[[], float] = lambda: 0.0,
    ) -> Result:
        began, started = time.monotonic(), time.time()
        waited = 0.0
        log = self.place.log_of(job.name)
        output, message, state = "", "", State.BUILT
        try:
            with log.open("w", encoding="utf-8", errors="surrogateescape") as stream:
                task = _Task(self, job, outputs, stopped, stream, turn)
                try:
                    output = task.do()
                finally:
                    waited = task.waited
        except (BuildstepError, OSError) as error:
            failure = space.explain(error) or error
            state = State.STOPPED if stopped.is_set() else State.FAILED
            message = _told(failure)
        return Result(
            job=job.name,
            state=state,
            output=output,
            message=message,
            log=log,
            worker=self.place.worker,
            started=started + waited,
            seconds=time.monotonic() - began - waited,
        )

    @contextmanager
    def staged(self, component: Component, outputs: Mapping[str, str], *, alone: bool) -> Iterator[Stage]:
        """Yield the stage of a component, with what its own hooks made so far. alone: nobody else uses it
        for the length of the block, as it is changed."""
        kept = self._staged[component.name]
        kept.lock.acquire()
        held = True
        try:
            own = tuple(outputs[name] for name in _own_hooks(component) if name in outputs)
            if kept.stage is None or kept.outputs != own:
                kept.stage = self.stages.stage(component, self._providers(component, outputs), own)
                kept.outputs = own
            if not alone:
                kept.lock.release()
                held = False
            yield kept.stage
        except BaseException:
            if alone:
                kept.stage = None  # half of a hook's work is in it
            raise
        finally:
            if held:
                kept.lock.release()

    def hooked(self, component: str, output: str) -> None:
        """The stage of a component holds what a hook made: its images need no other."""
        self._staged[component].outputs += (output,)

    def _providers(self, component: Component, outputs: Mapping[str, str]) -> list[Provider]:
        components = self.place.graph.repository.components
        found = []
        for dependency in component.dependencies:
            provider = components[dependency.provider]
            made = [outputs[name] for name in _own_hooks(provider) if name in outputs]
            found.append(Provider(provider, dependency, made))
        return found

    def bases(self, job: Job, outputs: Mapping[str, str]) -> dict[str, str]:
        """Return the ids of an image's bases that are of this graph, by the reference to them."""
        assert job.image is not None
        found = {}
        for base in job.image.bases:
            name = find_image(base.text, self._images, self._options)
            if name is not None:
                found[base.text] = outputs[name]
            elif identity := self.place.bases.get(base.text):
                found[base.text] = identity
        return found


class _Task:
    """One run of a job: its log, and the commands that it starts."""

    def __init__(
        self,
        worker: Worker,
        job: Job,
        outputs: Mapping[str, str],
        stopped: threading.Event,
        stream: IO[str],
        turn: Callable[[], float],
    ) -> None:
        self._worker, self._job, self._outputs = worker, job, outputs
        self._stopped, self._stream, self._turn = stopped, stream, turn
        self.waited = 0.0
        self._component = worker.place.graph.repository.components[job.component]

    def do(self) -> str:
        if self._job.action is Action.IMAGE:
            return self._image()
        return self._hook()

    def _image(self) -> str:
        worker, job, image = self._worker, self._job, self._job.image
        assert image is not None
        with worker.staged(self._component, self._outputs, alone=False) as stage:
            self.waited = self._turn()
            return make(
                Making(
                    image=image,
                    stage=stage,
                    bases=worker.bases(job, self._outputs),
                    options=worker.place.settings.options(image.name),
                    builder=worker.place.builder(),
                    run=self.run,
                    environ=worker.place.environ,
                )
            )

    def _hook(self) -> str:
        worker, component = self._worker, self._component
        settings = worker.place.settings
        hook = Hook(
            component=component.name,
            action=self._job.action,
            file=component.pre if self._job.action is Action.PRE else component.post,
            images=[image.name for image in component.images],
            tag=settings.registry.tags[0],
            changed=self._changed(),
        )
        with worker.staged(component, self._outputs, alone=True) as stage:
            make_executable(stage.folder / hook.file)
            before = worker.stages.look(stage)
            self.waited = self._turn()
            run_hook(
                hook, stage, settings.hooks,
                environ=worker.place.environ, line=self.line, watch=self._watch,
            )  # fmt: skip
            output = worker.stages.keep(stage, before)
            worker.hooked(component.name, output)
            return output

    def _changed(self) -> Sequence[str]:
        """Return the component's files that changed since this hook last ran, all where that is not known."""
        last = self._worker.place.history.last(self._job.name)
        files = self._component.files
        if last is None or len(files) > LISTED:
            return files
        top = self._component.path.relative_to(self._worker.place.graph.repository.root)
        digest = self._worker.place.graph.repository.contents.digest
        return [name for name in files if last.inputs.get(f"{FILE}:{name}") != digest(f"{top}/{name}")]

    def run(self, argv: Sequence[str], env: Mapping[str, str], what: str) -> None:
        process.run(argv, env=env, line=self.line, limits=Limits(watch=self._watch), what=what)

    def line(self, text: str, part: Part = Part()) -> None:  # noqa: B008 - it cannot be changed
        self._stream.write(text if part.line and not part.size else f"{text}\n")
        self._stream.flush()
        if part.part <= 1:
            self._worker.place.say(self._job, text)

    def _watch(self) -> Reached | None:
        return Reached("stop", "was stopped") if self._stopped.is_set() else None


def _own_hooks(component: Component) -> list[str]:
    """Return the jobs of a component's hooks, in their order."""
    return [f"{component.name}:{action}" for action in (Action.PRE, Action.POST)]


def _told(error: BuildstepError | OSError) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    parts = [error.message, error.detail, f"hint: {error.hint}" if error.hint else ""]
    return "\n".join(part for part in parts if part)
