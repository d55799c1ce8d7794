"""The near side of a hand-over: jobs are put where other machines find them, and their results fetched."""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from buildstep.components import tickets
from buildstep.components.builders import Run
from buildstep.components.discover import SOURCE
from buildstep.components.handover import RESULTS, TICKETS, Handover
from buildstep.components.inputs import is_below
from buildstep.components.interface import Action, Base, Component, GraphError, Job, Result
from buildstep.components.tickets import Ticket
from buildstep.components.work import Place, Worker
from buildstep.files import refs
from buildstep.files.session import Session
from buildstep.system import process
from buildstep.tree import scan
from buildstep.tree.entry import FileList


class Sender:
    """See `engine.Dispatch`. worker: what would do the jobs here; it has all that they need."""

    def __init__(self, handover: Handover, worker: Worker) -> None:
        self._handover, self._worker, self._place = handover, worker, worker.place
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._sources: dict[str, FileList] = {}

    @property
    def place(self) -> str:
        return self._handover.place

    # -- there --------------------------------------------------------------------------------------

    def send(self, job: Job, outputs: Mapping[str, str]) -> str:
        place = self._place
        component = place.repository.components[job.component]
        needs = {name: outputs[name] for name in job.needs}
        for name, output in needs.items():
            if ":" in name:
                self._put_products(output)
        hook = job.action is not Action.IMAGE
        options = place.settings.hooks
        ticket = Ticket(
            run=secrets.token_hex(16),
            job=job,
            component=component,
            providers=tuple(self._providers(component)),
            outputs=needs,
            bases={} if hook else self._bases(job, outputs),
            options=place.settings.options(job.name),
            hooks=options,
            tag=place.settings.registry.tags[0],
            environment=tuple(name for name in options.environment if hook and name in place.environ),
            given={name: place.environ[name] for name in options.travels if hook and name in place.environ},
            changed=tuple(place.changed(job)) if hook else (),
        )
        with self._locks[f"source {job.component}"]:
            entries = self._source(component)
        with Session(self._handover.store, f"ticket of {job.name}") as session:
            self._put_files(session, entries)
            stored = session.put_list(entries)
            return tickets.put_ticket(session, replace(ticket, source=stored.digest))

    def _providers(self, component: Component) -> list[Component]:
        """Return the components that another one gets something of, with these files only."""
        found = []
        for dependency in component.dependencies:
            provider = self._place.repository.components[dependency.provider]
            files = [name for name in provider.files if any(is_below(name, it) for it in dependency.paths)]
            found.append(Component(name=provider.name, path=provider.path, files=tuple(files)))
        return found

    def _bases(self, job: Job, outputs: Mapping[str, str]) -> dict[str, Base]:
        """Return an image's bases, all of which are in the hand-over then."""
        found = {}
        for text, base in self._worker.bases(job, outputs).items():
            with self._locks[base.image]:
                if not self._handover.images.has(base.image):
                    put_image(self._handover, self._place, base.image, quietly)
            found[text] = base if base.name else base._replace(name=self._name_of(base.image, text))
        return found

    def _name_of(self, image: str, text: str) -> str:
        return self._place.builder().name_of(image) or text

    def _put_products(self, output: str) -> None:
        with self._locks[output]:
            self._handover.put_products(output, self._worker.stages)

    def _source(self, component: Component) -> FileList:
        """Return the list of a component's files, and of those that it gets of others."""
        if component.name not in self._sources:
            entries: FileList = {}
            for part in (component, *self._providers(component)):
                for name in part.files:
                    self._add(entries, f"{SOURCE}/{part.name}/{name}")
            self._add(entries, f"{SOURCE}/{component.name}")
            self._sources[component.name] = dict(sorted(entries.items()))
        return self._sources[component.name]

    def _add(self, entries: FileList, path: str) -> None:
        """Add a path of the repository to a list, and the directories above it."""
        contents = self._place.repository.contents
        key = os.fsencode(path)
        while key and key not in entries:
            full = os.fsencode(contents.root) + b"/" + key
            try:
                entry = scan.entry_of(key, full, os.lstat(full))
                if entry.kind == "f":
                    entry.sha256 = contents.digest(path).split()[2]
            except OSError as error:
                raise GraphError(f"{path} cannot be read: {error.strerror}") from error
            entry.source = full
            entries[key] = entry
            key = key.rpartition(b"/")[0]

    def _put_files(self, session: Session, entries: FileList) -> None:
        wanted = {entry.sha256: entry for entry in entries.values() if entry.kind == "f"}
        for digest in wanted.keys() - session.has(wanted):
            entry = wanted[digest]
            with open(entry.source, "rb") as stream:
                real = session.put_stream(stream, entry.size)
            if real != digest:
                raise GraphError(
                    f"{os.fsdecode(entry.path)} was changed while it was read",
                    hint="build again when nothing writes to the repository",
                )

    # -- and back -----------------------------------------------------------------------------------

    def receive(self, job: Job, ticket: str) -> Result | None:
        return tickets.read_result(self._handover, ticket, job, self._place.log_of(job.name))

    def forget(self, ticket: str) -> None:
        storage = self._handover.store.storage
        for name in (f"{TICKETS}/{ticket}", f"{RESULTS}/{ticket}"):
            ref = refs.read(storage, name)
            if ref is not None:
                refs.remove(storage, ref)


def put_image(handover: Handover, place: Place, image: str, run: Run) -> None:
    """Put an image of the builder's store into the hand-over. Raises BuildstepError."""
    with tempfile.TemporaryDirectory(prefix="send-", dir=place.state) as folder:
        layout = Path(folder, "layout")
        place.builder().save(image, layout, run)
        handover.images.put(image, layout)


def quietly(argv: Sequence[str], env: Mapping[str, str], what: str) -> None:
    """Run a command of the builder whose output nobody needs; see `builders.Run`."""
    process.run(argv, env=env, what=what)
