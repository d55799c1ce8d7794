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
from typing import IO, Protocol

from buildstep.components.builders import Builder, Run
from buildstep.components.discover import Repository
from buildstep.components.engine import Say, log_of
from buildstep.components.hooks import Hook, make_executable, run_hook
from buildstep.components.inputs import FILE, LISTED
from buildstep.components.interface import Action, Base, Component, History, Job, Result, State
from buildstep.components.make_image import Making, make
from buildstep.components.references import base_key, find_image, store_name
from buildstep.components.settings import Settings
from buildstep.components.stage import Provider, Stage, Stages
from buildstep.errors import BuildstepError
from buildstep.events import Part
from buildstep.system import process, space
from buildstep.system.command_options import Limits, Reached
from buildstep.system.private import private_dir


class Stock(Protocol):
    """Where results may be that are not on this machine. Safe to use from several threads."""

    def image(self, base: Base, run: Run) -> None:
        """See that an image is in the builder's store, under its name. Raises BuildstepError."""
        ...

    def products(self, output: str, stages: Stages) -> None:
        """See that the products of a hook are among those that stages have. Raises BuildstepError."""
        ...


class NoStock:
    """All that there is is here."""

    def image(self, base: Base, run: Run) -> None:
        pass

    def products(self, output: str, stages: Stages) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Place:
    """What jobs are done with. changed: returns the files of a component that changed since a job of it ran
    last; builder: returns it, the same one each time, and raises where there is none; bases: images from
    elsewhere, by their references; stock: has what is not here; mounting: whether mounts of this process end
    with it; unfit: whether an error says something of this machine and nothing of the job: it is raised."""

    repository: Repository
    settings: Settings
    state: Path
    environ: Mapping[str, str]
    changed: Callable[[Job], Sequence[str]]
    builder: Callable[[], Builder]
    bases: Mapping[str, Base] = field(default_factory=dict)
    stock: Stock = NoStock()  # noqa: RUF009 - it has no state
    say: Say = lambda _job, _text: None
    worker: str = "local"
    mounting: bool = False
    unfit: Callable[[BuildstepError | OSError], bool] = lambda _error: False

    def log_of(self, job: str) -> Path:
        """Return the file that has all output of a job's last run."""
        return log_of(self.state, job)


@dataclass
class _Staged:
    """A component's stage in this run. lock: held while it is made and while a hook changes it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stage: Stage | None = None
    outputs: tuple[str, ...] = ()


class Worker:
    """Does jobs; see `engine.Work`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.stages = Stages(place.state, place.repository.root, mounting=place.mounting)
        self._staged = {name: _Staged() for name in place.repository.components}
        self._images = place.repository.images()
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
            if self.place.unfit(failure):
                raise failure from None if failure is error else error
            state = State.STOPPED if stopped.is_set() else State.FAILED
            message = told(failure)
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
        providers = self._providers(component, outputs)
        kept.lock.acquire()
        held = True
        try:
            own = tuple(outputs[name] for name in _own_hooks(component) if name in outputs)
            if kept.stage is None or kept.outputs != own:
                for made in (*(it for row in providers for it in row.outputs), *own):
                    self.place.stock.products(made, self.stages)
                kept.stage = self.stages.stage(component, providers, own)
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
        components = self.place.repository.components
        found = []
        for dependency in component.dependencies:
            provider = components[dependency.provider]
            made = [outputs[name] for name in _own_hooks(provider) if name in outputs]
            found.append(Provider(provider, dependency, made))
        return found

    def bases(self, job: Job, outputs: Mapping[str, str]) -> dict[str, Base]:
        """Return an image's bases that are known, by the reference to them: those of this graph by their
        names in it."""
        assert job.image is not None
        found = {}
        for base in job.image.bases:
            platform = job.image.platform
            name = find_image(base.text, self._images, self._options, platform)
            if name is not None:
                found[base.text] = Base(outputs[name], store_name(name))
            elif known := self.place.bases.get(base_key(base.text, platform)):
                found[base.text] = known
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
        self._component = worker.place.repository.components[job.component]

    def do(self) -> str:
        if self._job.action is Action.IMAGE:
            return self._image()
        return self._hook()

    def _image(self) -> str:
        worker, job, image = self._worker, self._job, self._job.image
        assert image is not None
        bases = worker.bases(job, self._outputs)
        for base in bases.values():
            worker.place.stock.image(base, self.run)
        with worker.staged(self._component, self._outputs, alone=False) as stage:
            self.waited = self._turn()
            return make(
                Making(
                    image=image,
                    stage=stage,
                    bases={text: base.image for text, base in bases.items()},
                    options=worker.place.settings.options(image.name),
                    builder=worker.place.builder(),
                    run=self.run,
                    environ=worker.place.environ,
                    layouts=worker.place.state / "layouts",
                )
            )

    def _hook(self) -> str:
        worker, component = self._worker, self._component
        job, settings = self._job, worker.place.settings
        hook = Hook(
            component=component.name,
            action=job.action,
            file=component.pre if job.action is Action.PRE else component.post,
            images=[image.name for image in component.images],
            tag=settings.registry.tags[0],
            changed=worker.place.changed(job),
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

    def run(self, argv: Sequence[str], env: Mapping[str, str], what: str) -> None:
        process.run(argv, env=env, line=self.line, limits=Limits(watch=self._watch), what=what)

    def line(self, text: str, part: Part = Part()) -> None:  # noqa: B008 - it cannot be changed
        self._stream.write(text if part.line and not part.size else f"{text}\n")
        self._stream.flush()
        if part.part <= 1:
            self._worker.place.say(self._job, text)

    def _watch(self) -> Reached | None:
        return Reached("stop", "was stopped") if self._stopped.is_set() else None


def changed_files(repository: Repository, history: History) -> Callable[[Job], Sequence[str]]:
    """Return what tells which files of a job's component changed since it last ran: all where that is not
    known."""

    def changed(job: Job) -> Sequence[str]:
        component, last = repository.components[job.component], history.last(job.name)
        if last is None or len(component.files) > LISTED:
            return component.files
        top = component.path.relative_to(repository.root)
        digest = repository.contents.digest
        return [
            name for name in component.files if last.inputs.get(f"{FILE}:{name}") != digest(f"{top}/{name}")
        ]

    return changed


def _own_hooks(component: Component) -> list[str]:
    """Return the jobs of a component's hooks, in their order."""
    return [f"{component.name}:{action}" for action in (Action.PRE, Action.POST)]


def told(error: BuildstepError | OSError) -> str:
    """Return what a result says of the error that ended its job."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    parts = [error.message, error.detail, f"hint: {error.hint}" if error.hint else ""]
    return "\n".join(part for part in parts if part)
