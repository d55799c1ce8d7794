"""The hand-over: where jobs, and what was made of them, lie between two machines.

It is a store (`files`): for sources, products of hooks, tickets, results and logs; and for images a registry
as well, where one is named. Each machine finds its own credentials: none is in a URL, a ticket or a result.

In the store are refs, which keep what they name from garbage collection:

handover/tickets/DIGEST     a job (`tickets`); the list of the sources, and the ticket
handover/results/DIGEST     how the job of that ticket ended, and its log; set when all else is there
handover/products/DIGEST    what a hook made, named by the job's output
handover/images/ID          an image, where no registry is named
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from buildstep.components.carriers import Carrier, RegistryCarrier, StoreCarrier
from buildstep.components.stage import NOTHING, Stages
from buildstep.errors import BuildstepError, Fault, StoreError, UsageError
from buildstep.events import Bus
from buildstep.files import layout, open_storage, refs
from buildstep.files.checkout import checkout
from buildstep.files.content import ContentStore
from buildstep.files.interface import Storage
from buildstep.files.refs import Ref
from buildstep.files.session import Session
from buildstep.net.errors import safe_url
from buildstep.net.http import Http
from buildstep.net.registry import Reference
from buildstep.tree.entry import Entry, FileList

VARIABLE: Final = "BUILDSTEP_COMPONENTS_HANDOVER"
TICKETS: Final = "handover/tickets"
RESULTS: Final = "handover/results"
PRODUCTS: Final = "handover/products"
FORGOTTEN: Final = 7 * 24 * 3600.0
"""Seconds after which a ticket is nobody's any more: its build was killed before it removed it."""

_REGISTRY: Final = "docker:"


@dataclass(frozen=True, kw_only=True)
class Handover:
    """An open hand-over. place: its URLs with blanks between them; images: carries them by their ids."""

    place: str
    store: ContentStore
    images: Carrier

    # -- products of hooks --------------------------------------------------------------------------

    def has_products(self, output: str) -> bool:
        """Return whether the products of a hook are there. output: of the hook's job."""
        return output == NOTHING or refs.read(self.store.storage, _products(output)) is not None

    def put_products(self, output: str, stages: Stages) -> None:
        """Put the products of a hook there, from where stages keep them. Raises BuildstepError, OSError."""
        if self.has_products(output):
            return
        made = stages.products(output)
        entries, above = _with_parents(made.entries)
        with Session(self.store, f"products {output[:19]}") as session:
            for entry in made.entries.values():
                if entry.kind == "f" and entry.sha256 not in session.has([entry.sha256]):
                    with (made.folder / _text(entry.path)).open("rb") as stream:
                        session.put_stream(stream, entry.size)
            stored = session.put_list(entries)
            ref = Ref(
                name=_products(output),
                list=stored.digest,
                tree=stored.tree,
                entries=stored.entries,
                size=stored.size,
                notes={"removed": made.removed, "above": [_text(path) for path in above]},
            )
            with contextlib.suppress(refs.RefChanged):  # somebody has put the same at the same moment
                session.set_ref(ref, None)

    def get_products(self, output: str, stages: Stages) -> None:
        """Fetch the products of a hook to where stages keep them, if they are not there. Raises
        BuildstepError, OSError; GraphError where they are not what their name says."""
        if stages.has(output):
            return
        ref = refs.get(self.store.storage, _products(output))
        entries = self.store.get_list(ref.list)
        above = {name.encode(errors="surrogateescape") for name in ref.notes.get("above", ())}
        own = {path: entry for path, entry in entries.items() if path not in above}
        removed = [str(name) for name in ref.notes.get("removed", ())]
        stages.adopt(output, own, removed, lambda folder: checkout(self.store, entries, folder))

    # -- tickets that nobody came back for ----------------------------------------------------------

    def sweep(self) -> None:
        """Remove tickets and results of builds that were killed long ago. Raises StoreError where the store
        cannot be read; a ref that is damaged is left to who looks after the store."""
        storage = self.store.storage
        names = [layout.ref_of(item.name) for item in storage.list(layout.REFS)]
        for name in names:
            if name.startswith((f"{TICKETS}/", f"{RESULTS}/")):
                with contextlib.suppress(StoreError):
                    ref = refs.read(storage, name)
                    if ref is not None and ref.created < time.time() - FORGOTTEN:
                        refs.remove(storage, ref)


def _products(output: str) -> str:
    return f"{PRODUCTS}/{output.removeprefix('sha256:')}"


def _text(path: bytes) -> str:
    return path.decode(errors="surrogateescape")


def _with_parents(entries: FileList) -> tuple[FileList, list[bytes]]:
    """Return a list with the directories that it lacks above its paths, and which these are."""
    found, above = dict(entries), []
    for path, entry in entries.items():
        parent = path
        while parent := parent.rpartition(b"/")[0]:
            if parent not in found:
                found[parent] = Entry(parent, "d", 0o755, entry.uid, entry.gid)
                above.append(parent)
    return dict(sorted(found.items())), sorted(above)


# -- opening ----------------------------------------------------------------------------------------


def split(text: str) -> tuple[str, ...]:
    """Return the URLs of a text that has blanks between them."""
    return tuple(text.split())


def faults(urls: Sequence[str], where: str, environ: Mapping[str, str]) -> list[Fault]:
    """Return what is wrong with the URLs of a hand-over; nothing is touched. where: who named them."""
    found = []
    stores = [url for url in urls if not url.startswith(_REGISTRY)]
    registries = [url for url in urls if url.startswith(_REGISTRY)]
    if len(stores) != 1:
        hint = "such as dir:/srv/handover or s3://bucket/handover; a registry takes images only"
        found.append(Fault(where=where, message=f"has {len(stores)} stores, and one is needed", hint=hint))
    if len(registries) > 1:
        found.append(Fault(where=where, message="has more than one registry"))
    for url in urls:
        user, at, _ = url.partition("//")[2].partition("/")[0].rpartition("@")
        if at and (":" in user or not url.startswith("ssh:")):
            hint = "each machine finds its own: see the page on the environment"
            found.append(Fault(where=where, message=f"{safe_url(url)} has a password in it", hint=hint))
            continue
        try:
            if url.startswith(_REGISTRY):
                _repository(url)
            elif not open_storage(url, environ=environ).writable:
                hint = "a directory, S3 or ssh"
                found.append(Fault(where=where, message=f"{safe_url(url)} cannot be written to", hint=hint))
        except BuildstepError as error:
            message = error.message.replace(url, safe_url(url))  # what follows a ? may be a secret
            found.append(Fault(where=where, message=message, hint=error.hint))
    return found


def _repository(url: str) -> None:
    reference = Reference.parse(url, default_tag="")
    if reference.wanted:
        raise UsageError(f"{url} names an image", hint="a repository: docker://HOST[:PORT]/NAME")


@contextlib.contextmanager
def opened(
    urls: Sequence[str], *, environ: Mapping[str, str], bus: Bus | None = None, create: bool = False
) -> Iterator[Handover]:
    """Open a hand-over for the length of a block. urls: checked by `faults`; create: make the store if there
    is none. Raises BuildstepError."""
    with contextlib.ExitStack() as stack:
        storage: Storage = open_storage(_store_of(urls), environ=environ, bus=bus)
        store = ContentStore(storage, bus=bus)
        if create:
            store.create()
        _ = store.settings
        images: Carrier = StoreCarrier(store)
        for url in urls:
            if url.startswith(_REGISTRY):
                http = stack.enter_context(Http(environ=environ, bus=bus))
                images = RegistryCarrier(url, http, environ)
        yield Handover(place=" ".join(urls), store=store, images=images)


def _store_of(urls: Sequence[str]) -> str:
    found = [url for url in urls if not url.startswith(_REGISTRY)]
    if len(found) != 1:
        raise UsageError("the hand-over has no store", hint=f"--handover URL, or {VARIABLE}")
    return found[0]
