"""The far side of a hand-over: one job of a ticket, done on this machine as any job is, and its result put.

All of it is in a directory of its own, removed at the end. What a killed one left is known by its lock, which
went with it, and removed by the next. The images that were fetched and made stay in the builder's store.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from buildstep.components import tickets
from buildstep.components.builders import Builder, Run
from buildstep.components.contents import Contents
from buildstep.components.discover import SOURCE, Repository
from buildstep.components.engine import Say
from buildstep.components.handover import Handover
from buildstep.components.interface import Action, Base, Component, GraphError, Job, Result, State
from buildstep.components.references import base_key
from buildstep.components.sender import put_image, quietly
from buildstep.components.settings import BuildOptions, Registry, Settings
from buildstep.components.stage import Stages
from buildstep.components.stock import HandoverStock
from buildstep.components.tickets import Ticket
from buildstep.components.work import Place, Stock, Worker
from buildstep.errors import BuildstepError, DiskError, Fault, SpecError, ToolMissing
from buildstep.files.checkout import checkout
from buildstep.system import locks
from buildstep.system.private import private_dir
from buildstep.system.remove import remove_tree

SECRETS: Final = "BUILDSTEP_COMPONENTS_SECRETS"
"""A directory with a file for each secret that images are built with, by its id."""


@dataclass(frozen=True, kw_only=True)
class Here:
    """What this machine does jobs with. state: a directory for what jobs need while they run; worker: what
    this machine is called; stopped: whether the job has to end now; mounting: see `work.Place`."""

    state: Path
    environ: Mapping[str, str]
    builder: Callable[[], Builder]
    worker: str
    say: Say = lambda _job, _text: None
    stopped: threading.Event = threading.Event()  # noqa: RUF009 - one that nobody sets
    mounting: bool = False


def work(handover: Handover, digest: str, here: Here) -> Result:
    """Do the job of a ticket, put what it made and then its result, and return that.

    A job that fails is a result as well. Raises BuildstepError, OSError where there is none: for a ticket
    that cannot be read or done here, as where a builder or room on the disk lacks, for what cannot be fetched
    or put, and for a job that was stopped. Another machine may do it then.
    """
    ticket = tickets.read_ticket(handover, digest)
    options = _options(ticket, here.environ)
    if ticket.job.action is Action.IMAGE:
        here.builder()
    with _folder(here.state) as folder:
        root = folder / "source"
        checkout(handover.store, handover.store.get_list(ticket.source), root)
        stock = _Stock(HandoverStock(handover, here.builder, folder))
        place = Place(
            repository=_repository(ticket, root),
            settings=Settings(build=options, hooks=ticket.hooks, registry=Registry(tags=(ticket.tag,))),
            state=folder,
            environ={**here.environ, **ticket.given},
            changed=lambda _job: ticket.changed,
            builder=here.builder,
            bases={base_key(text, _platform(ticket)): base for text, base in ticket.bases.items()},
            stock=stock,
            say=here.say,
            worker=here.worker,
            mounting=here.mounting,
            unfit=lambda error: isinstance(error, DiskError | ToolMissing) or error in stock.failures,
        )
        worker = Worker(place)
        try:
            result = worker(ticket.job, ticket.outputs, here.stopped, lambda: 0.0)
            _put(handover, digest, ticket.job, result, worker)
        finally:
            worker.stages.clear()
    return result


class _Stock:
    """A stock that remembers what it could not fetch."""

    def __init__(self, stock: Stock) -> None:
        self._stock = stock
        self.failures: list[BaseException] = []

    def image(self, base: Base, run: Run) -> None:
        with self._noting():
            self._stock.image(base, run)

    def products(self, output: str, stages: Stages) -> None:
        with self._noting():
            self._stock.products(output, stages)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except (BuildstepError, OSError) as error:
            self.failures.append(error)
            raise


def _platform(ticket: Ticket) -> str:
    return ticket.job.image.platform if ticket.job.image else ""


def _put(handover: Handover, digest: str, job: Job, result: Result, worker: Worker) -> None:
    """Put what a job made, and its result after that."""
    if result.state is State.BUILT:
        if job.action is not Action.IMAGE:
            handover.put_products(result.output, worker.stages)
        elif not handover.images.has(result.output):
            put_image(handover, worker.place, result.output, quietly)
    elif result.state is not State.FAILED:
        raise GraphError(f"{job.name}: {result.message or result.state}", hint="it has no result")
    tickets.put_result(handover, digest, result)


def _options(ticket: Ticket, environ: Mapping[str, str]) -> BuildOptions:
    """Return how the image is built, with the secrets of this machine. Raises SpecError for what it lacks."""
    faults = [
        Fault(where=name, message="is set where the build began, and not on this machine")
        for name in ticket.environment
        if name not in environ
    ]
    found = {}
    folder = environ.get(SECRETS, "")
    for name in ticket.options.secrets:
        path = Path(folder, name)
        if not folder or os.sep in name or not path.is_file():
            hint = f"{SECRETS} names a directory with a file {name!r}"
            faults.append(Fault(where=f"secret {name}", message="is not on this machine", hint=hint))
        found[name] = path
    if faults:
        raise SpecError(f"{ticket.job.name} cannot be done here", faults)
    return replace(ticket.options, secrets=found)


def _repository(ticket: Ticket, root: Path) -> Repository:
    def placed(component: Component) -> Component:
        return replace(component, path=root / SOURCE / component.name)

    found = {part.name: placed(part) for part in (*ticket.providers, ticket.component)}
    return Repository(root=root, components=found, notes=(), contents=Contents(root))


@contextlib.contextmanager
def _folder(state: Path) -> Iterator[Path]:
    """A locked directory of our own, removed at the end; those of dead processes, at the beginning."""
    private_dir(state)
    with locks.lock(state / "lock"):
        for left in state.iterdir():
            if left.is_dir() and (fd := locks.lock_directory(left)) is not None:
                remove_tree(left)
                os.close(fd)
        folder = state / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        fd = locks.lock_directory(folder)
    assert fd is not None
    try:
        yield folder
    finally:
        remove_tree(folder)
        os.close(fd)
