"""What the commands do with services: read the repository, plan, hold its lock, execute, and close."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from buildstep.services.apply import Outcome, apply
from buildstep.services.inputs import make_key, tagger
from buildstep.services.interface import ServiceError, Side
from buildstep.services.life_cycle import Verb
from buildstep.services.plan import Graph, Plan, Wish, make_plan
from buildstep.services.records import Book, Record
from buildstep.services.repository import Repository
from buildstep.services.repository_view import STATE, RepositoryView
from buildstep.services.run_context import RunContext, Watcher
from buildstep.services.states import ABSENT
from buildstep.system.files import atomic_write


@dataclass(frozen=True, kw_only=True)
class How:
    """How a run goes on; see `run_context.RunContext`."""

    at_once: int = 0
    keep_going: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)


class _Records(Mapping[str, Record]):
    def __init__(self, keys: Mapping[str, object], book: Book) -> None:
        self._keys, self._book = keys, book
        self._read: dict[str, Record] = {}

    def __getitem__(self, key: str) -> Record:
        if key not in self._read:
            self._read[key] = self._book.load(key)
        return self._read[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class Services:
    """The services of an opened repository, and what is known of them. A context manager that ends what the
    places have opened."""

    def __init__(self, repository: Repository, environ: Mapping[str, str], *, secret: bool = True) -> None:
        self.repository = repository
        self.view = RepositoryView(repository, environ, secret=secret)
        self.book = Book(self.view.folder)
        self._state = repository.root / STATE
        self.tag = tagger(self._state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.view.close()

    def records(self) -> Mapping[str, Record]:
        """Return what is known of each service. It is read when it is asked for, and raises ServiceError for
        one that cannot be."""
        return _Records(self.repository.services, self.book)

    def plan(self, wish: Wish) -> Plan:
        """Return what a wish comes to; see `plan.make_plan`."""
        return make_plan(wish, self.view.needs(), self.view.subject, self.records(), self.tag)

    def run(self, wish: Wish, watcher: Watcher, how: How) -> Outcome:
        """Plan and execute a wish, with the repository's lock. Raises as `plan` and `apply` do."""
        with self._alone(watcher):
            work = RunContext(
                view=self.view,
                book=self.book,
                tag=self.tag,
                watcher=watcher,
                at_once=how.at_once,
                keep_going=how.keep_going,
                again=wish.again,
                arguments=how.arguments,
            )
            return apply(self.plan(wish), work)

    def purge(self, keys: Sequence[str], watcher: Watcher) -> None:
        """Remove services of which nothing is installed any more: what their places keep, and themselves.

        Raises ServiceError for one that is installed, or needed by another one.
        """
        with self._alone(watcher):
            graph = self.check_purge(keys)
            for key in [key for key in reversed(graph.order) if key in keys]:
                if (state := self.book.load(key).state) not in ABSENT:
                    raise ServiceError(f"{key} is {state}, and is not purged")
                for side in (Side.NODE, Side.MANAGEMENT):
                    self.view.place(key, side).forget(key)
                self.view.remove(key)
                watcher.tell(f"{key}: removed")

    def check_purge(self, keys: Sequence[str]) -> Graph:
        """Raise ServiceError where something that stays needs what is to be purged; else return who needs
        whom."""
        graph = Graph(self.view.needs())
        if users := sorted(graph.consumers(keys) - set(keys)):
            raise ServiceError(
                f"cannot purge: {', '.join(users)} needs {', '.join(keys)}; nothing was done",
                hint="--consumers purges that too",
            )
        return graph

    def switch(self, keys: Sequence[str], watcher: Watcher, *, disabled: bool) -> list[str]:
        """Disable services, which are down, or enable them; return those that were not so before.

        Raises ServiceError where a service that one of them needs is disabled, and stays so.
        """
        with self._alone(watcher):
            records = self.records()
            if not disabled:
                self._check_producers(keys, records)
            changed = [key for key in keys if records[key].disabled is not disabled]
            for key in changed:
                self.book.save(key, replace(records[key], disabled=disabled))
            return changed

    def _check_producers(self, keys: Sequence[str], records: Mapping[str, Record]) -> None:
        graph = Graph(self.view.needs())
        for key in keys:
            off = sorted(need for need in graph.needs[key] - set(keys) if records[need].disabled)
            if off:
                raise ServiceError(
                    f"{key} cannot be enabled: it needs {', '.join(off)}, which is disabled",
                    hint="enable that too",
                )

    @contextlib.contextmanager
    def _alone(self, watcher: Watcher) -> Iterator[None]:
        """Hold the lock of the repository. Another run that has it is waited for, and named."""
        with self.repository.lock(watcher.tell):
            make_key(self._state)
            ignore = self._state / ".gitignore"
            if not ignore.exists():
                with atomic_write(ignore) as stream:
                    stream.write(b"*\n")
            # What another run has changed while it was waited for.
            self.repository.reload()
            yield


VERBS = {
    "apply": (Verb.INSTALL,),
    "install": (Verb.INSTALL,),
    "start": (Verb.START,),
    "stop": (Verb.STOP,),
    "restart": (Verb.STOP, Verb.START),
    "halt": (Verb.HALT,),
    "uninstall": (Verb.UNINSTALL,),
    "purge": (Verb.UNINSTALL, Verb.REMOVE_DATA),
    "monitor": (Verb.MONITOR,),
    "cleanup": (Verb.CLEANUP,),
    "test": (Verb.TEST,),
    "export": (Verb.EXPORT,),
    "import": (Verb.IMPORT,),
}
"""What each command does, one verb after the other. `purge` removes data only with --data."""
