"""A build of components from beginning to end: what is read, what runs, and what is kept."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep.components import emulation, handover
from buildstep.components.base_images import find_bases
from buildstep.components.beside import Tidy, reading_ahead
from buildstep.components.builders import Builder, open_builder
from buildstep.components.discover import discover
from buildstep.components.engine import Engine, Orders, Placed, Say, Tell
from buildstep.components.graph import Graph
from buildstep.components.handover import Handover
from buildstep.components.inputs import Inputs, configured, key_of
from buildstep.components.interface import Action, Base, Built, Job, Result, State
from buildstep.components.plan import Selection, select
from buildstep.components.records import Records, state_directory
from buildstep.components.run import Key, Rules, Scheduler, Watcher
from buildstep.components.sender import Sender
from buildstep.components.settings import Flags, Settings, load
from buildstep.components.stage import Stages
from buildstep.components.stock import HandoverStock
from buildstep.components.work import NoStock, Place, Stock, Worker, changed_files
from buildstep.errors import Fault, SpecError, ToolMissing, UsageError
from buildstep.system import locks
from buildstep.system.private import private_dir


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A repository of components that was read, and what is known of earlier builds.

    builder: opens the program that builds images, once; bases: ids of base images from elsewhere, by their
    references, as far as they are here; handover: opens the hand-over that is configured, once, None for
    none; closing: closes it.
    """

    graph: Graph
    settings: Settings
    state: Path
    environ: Mapping[str, str]
    builder: Callable[[], Builder]
    records: Records
    inputs: Inputs
    bases: dict[str, str] = field(default_factory=dict)
    handover: Callable[[], Handover | None] = lambda: None
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def key_of(self, job: Job, outputs: Mapping[str, str]) -> Key:
        """Return the key of a job, given the outputs of what it needs."""
        inputs = self.inputs.all(job.name, outputs)
        return Key(key_of(inputs), inputs)

    def jobs(self, names: Sequence[str] | Selection) -> dict[str, Job]:
        """Return the jobs of components, or of images, and all that they need; of all without a name. Or
        those of a selection.

        Raises UsageError for a name that is none, GraphError for a cycle.
        """
        chosen = names if isinstance(names, Selection) else select(self.graph, names)
        order = self.graph.order(chosen.chosen | chosen.needed)
        return {name: self.graph.jobs[name] for name in order}


def open_components(
    root: Path,
    flags: Flags,
    *,
    environ: Mapping[str, str],
    state: Path | None = None,
    builder: str = "",
) -> Opened:
    """Read a repository of components; nothing is changed.

    state: where builds are recorded; builder: the name of one, empty for the first that is there.
    Raises SpecError with all faults, UsageError.
    """
    root = root.absolute()
    settings = load(root, flags)
    options = settings.read_options(environ)
    graph = Graph(discover(root, options), options)
    place = state.absolute() if state else state_directory(root, environ)
    graph.repository.contents.index = place / "contents.json"
    once = functools.cache(lambda: open_builder(builder, environ))
    stages = Stages(place, root)
    bases: dict[str, str] = {}
    closing = contextlib.ExitStack()
    elsewhere = functools.cache(lambda: _handover(settings, environ, closing))
    return Opened(
        graph=graph,
        settings=settings,
        state=place,
        environ=environ,
        builder=once,
        records=Records(place, _usable(graph, stages, once, elsewhere)),
        inputs=Inputs(
            graph,
            settings=configured(settings, environ),
            digest=lambda text: bases.get(text, ""),
        ),
        bases=bases,
        handover=elsewhere,
        closing=closing,
    )


def _handover(
    settings: Settings, environ: Mapping[str, str], closing: contextlib.ExitStack
) -> Handover | None:
    """Open the hand-over that is configured; its store is made if there is none."""
    if not settings.handover:
        return None
    if faults := handover.faults(settings.handover, "handover", environ):
        raise SpecError("the hand-over", faults)
    return closing.enter_context(handover.opened(settings.handover, environ=environ, create=True))


def _usable(
    graph: Graph,
    stages: Stages,
    builder: Callable[[], Builder],
    elsewhere: Callable[[], Handover | None],
) -> Callable[[Built], bool]:
    """Return what says whether the result of a build can be had: its image, or what a hook made, is here or
    in the hand-over."""
    images = functools.cache(lambda: builder().images())

    def is_here(built: Built, action: Action) -> bool:
        if action is not Action.IMAGE:
            return stages.has(built.output)
        try:
            return built.output in images()
        except ToolMissing:
            return False  # without a builder there is no image; a job that needs one says so

    def usable(built: Built) -> bool:
        job = graph.jobs.get(built.job)
        if job is None:
            return False
        if is_here(built, job.action):
            return True
        if (far := elsewhere()) is None:
            return False
        return (far.images.has if job.action is Action.IMAGE else far.has_products)(built.output)

    return usable


@dataclass(frozen=True, kw_only=True)
class How:
    """How a build goes on. executor: where its jobs run, empty for the one that is configured; options: what
    it is told instead of what its table in components.toml says; at_once: jobs at a time, 0 for what there is
    room for; keep: leave the stages; mounting: whether mounts of this process end with it, so that no file
    need be copied; say: is given the lines of jobs; placed: where one runs, if it is not here; tell: what a
    person should know."""

    rules: Rules = Rules()  # noqa: RUF009 - it cannot be changed
    executor: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    at_once: int = 0
    keep: bool = False
    mounting: bool = False
    say: Say = lambda _job, _text: None
    placed: Placed = lambda _job, _worker: None
    tell: Tell = lambda _text: None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a build came to: how each job ended, in the order in which they ended, and how long all took."""

    jobs: Mapping[str, Job]
    results: Mapping[str, Result]
    started: float
    seconds: float


def build(opened: Opened, names: Sequence[str] | Selection, watcher: Watcher, how: How) -> Outcome:
    """Build components, or a selection, and all that they need. Returns how each job ended; a failed job
    raises nothing.

    Raises UsageError for a wrong name, GraphError for a cycle, ToolMissing without a builder.
    """
    jobs = opened.jobs(names)
    begun, started = time.monotonic(), time.time()
    engine, orders = _engine(opened, jobs, how)
    with _alone(opened.state, how.tell):
        far = opened.handover()
        if far and engine.far:
            far.sweep()
        find_bases(opened, jobs, how.tell)
        if not engine.far:
            emulation.check(jobs, opened.builder, functools.partial(recorded, opened))
        worker = Worker(_place(opened, how))
        worker.stages.clear()
        executor = engine.start(orders, worker, Sender(far, worker) if far and engine.far else None)
        try:
            with contextlib.ExitStack() as beside:
                beside.enter_context(reading_ahead(opened.inputs, jobs))
                seen = watcher if how.keep else beside.enter_context(Tidy(watcher, worker.stages, jobs))
                results = Scheduler(
                    jobs, executor, opened.records, opened.key_of, seen, rules=how.rules
                ).run()
        finally:
            executor.stop()
            if how.keep:
                how.tell(f"the staged components are kept: {opened.state / 'stage'}")
            else:
                worker.stages.clear()
        if any(result.state is State.BUILT for result in results.values()):
            worker.stages.prune(opened.records.outputs())
        opened.graph.repository.contents.save()
    return Outcome(jobs=jobs, results=results, started=started, seconds=time.monotonic() - begun)


def stock_of(opened: Opened) -> Stock:
    """Return what has the results that are not on this machine: the hand-over, if one is configured."""
    far = opened.handover()
    if far is None:
        return NoStock()
    private_dir(opened.state)
    return HandoverStock(far, opened.builder, opened.state)


def _place(opened: Opened, how: How) -> Place:
    """Return what jobs of a build are done with on this machine."""
    repository = opened.graph.repository
    return Place(
        repository=repository,
        settings=opened.settings,
        state=opened.state,
        environ=opened.environ,
        changed=changed_files(repository, opened.records),
        builder=opened.builder,
        bases={text: Base(image) for text, image in opened.bases.items()},
        stock=stock_of(opened),
        say=how.say,
        mounting=how.mounting,
    )


def _engine(opened: Opened, jobs: Mapping[str, Job], how: How) -> tuple[Engine, Orders]:
    """Return the kind of executor that is wanted, and what it is told. Raises UsageError for none, SpecError
    with all that is wrong; nothing was touched then."""
    from buildstep.components import EXECUTORS

    settings = opened.settings
    name = how.executor or settings.executor
    engine = EXECUTORS.find(name)
    if engine is None:
        raise UsageError(f"no executor has the name {name!r}", hint=EXECUTORS.hint(name))
    orders = Orders(
        root=opened.graph.repository.root,
        settings=settings,
        state=opened.state,
        environ=opened.environ,
        jobs=jobs,
        at_once=how.at_once,
        options={**settings.executors.get(name, {}), **how.options},
        say=how.say,
        placed=how.placed,
        tell=how.tell,
    )
    faults = engine.faults(orders)
    if settings.handover:
        faults += handover.faults(settings.handover, "handover", opened.environ)
    elif engine.far:
        hint = "--handover URL, or `handover` in components.toml: a store, and a registry where there is one"
        faults.append(Fault(where="handover", message=f"the executor {name} needs one", hint=hint))
    if faults:
        raise SpecError(f"the executor {name}", faults)
    return engine, orders


@contextlib.contextmanager
def _alone(state: Path, tell: Tell) -> Iterator[None]:
    """Let one build at a time work in a state directory."""
    with locks.lock(state / "lock", tell=tell):
        yield


def recorded(opened: Opened, names: Collection[str]) -> dict[str, Built | None]:
    """Return for each of these images its build from the sources as they are now, None where there is none.

    Nothing is built: where a need has no build, what depends on it has none.
    """
    outputs: dict[str, str] = {}
    found: dict[str, Built | None] = {}
    for name, job in opened.jobs(()).items():
        built = None
        if all(need in outputs for need in job.needs):
            built = opened.records.find(name, opened.key_of(job, outputs).key)
        if built is not None:
            outputs[name] = built.output
        if name in names:
            found[name] = built
    return found
