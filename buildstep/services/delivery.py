"""What is delivered to a service besides the files of its template: its recipe, its built list, its asset.

Before anything runs, `Delivery.resolve` finds out what each of these is now: the commit of a branch, the
list that a build has made, the newest version of an asset. These become values of the service,
`delivered.KEY`, so that a plan shows them, and an install that is done is done again when one is another.
`Delivering` hands a place the directories when `install` runs there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from buildstep.build.recipe import Source
from buildstep.build.recipe_sources import lay
from buildstep.errors import BuildstepError, Fault, SpecError
from buildstep.events import Bus, Event, Note
from buildstep.files import open_storage, refs
from buildstep.files.content import ContentStore
from buildstep.files.places import cache_folder, default_store
from buildstep.services.delivered_asset import AssetOf
from buildstep.services.exports import Export, exports_of
from buildstep.services.fetched import Fetcher, for_run
from buildstep.services.interface import Action, Call, Done, Facts, Line, Outcome, Place, ServiceError, Side
from buildstep.services.services_view import Subject
from buildstep.spec import config as configs
from buildstep.system.digest import sha256_file

DELIVERED: Final = "delivered"
LIST: Final = f"{DELIVERED}.list"
ASSET: Final = f"{DELIVERED}.asset"
RECIPE_NOTE: Final = "recipe"
"""In the notes of a built list's ref: `recipe_key` of what it was built from."""
NO_VERSION: Final = "0"


def list_ref(domain: str, name: str, version: str) -> str:
    """Return the name of a template's built list in a store: `DOMAIN__NAME/VERSION`, after AYS's
    `DOMAIN__NAME.flist`; the parts that a template does not have are left out, the version is then 0."""
    return f"{domain + '__' if domain else ''}{name}/{version or NO_VERSION}"


def recipe_key(rows: list[Export], actions: Path | None) -> str:
    """Return a digest of a recipe as it is written, and of the build action beside it."""
    said = [{name: value for name, value in asdict(row).items() if name != "login"} for row in rows]
    text = json.dumps([said, sha256_file(actions) if actions is not None else ""], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def store_of(url: str, namespace: str) -> str:
    """Return the store of a `dedupe_ns`: a part of another one, by its name. Without one it is that store."""
    return f"{url.rstrip('/')}/{namespace}" if namespace else url


class Delivery:
    """Finds and fetches what is delivered. Safe to use from several threads; what was found out once holds
    for all of a run. environ: of this command."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._config = configs.load(environ, Path.cwd())
        self._lock = threading.Lock()
        self._pins: dict[tuple[str, str], str] = {}

    def resolve(
        self, facts: Facts, machine: frozenset[str] | None, secrets: Mapping[str, str]
    ) -> dict[str, str]:
        """Return what is delivered to a service now, by `delivered.KEY`.

        Raises SpecError with all that is wrong with its recipe and its asset; BuildstepError for a server
        that cannot be asked, which says what to pin so that it need not be.
        """
        faults: list[Fault] = []
        rows = list(for_run(exports_of(facts.values, machine, facts.key, faults)))
        asset = AssetOf.of(facts, faults)
        if faults:
            raise SpecError(f"service {facts.key}", faults)
        found = {}
        if digest := self._built(facts, rows):
            found[LIST] = digest
        else:
            found |= {f"{DELIVERED}.{row.key}": pin for row, pin in self._pinned(facts, rows, secrets)}
        if asset is not None:
            found[ASSET] = asset.version or self._once("asset", asset.text, lambda: self._newest(asset))
        return found

    def told(self, subject: Subject, machine: frozenset[str] | None) -> Subject:
        """Return a service that is told, by its values, what is delivered to it. machine: names of the
        platform that it runs on, None where these are not known. Raises as `resolve`."""
        facts = subject.facts
        values = {**facts.values, **self.resolve(facts, machine, subject.secrets)}
        return replace(subject, facts=replace(facts, values=values))

    def _pinned(
        self, facts: Facts, rows: list[Export], secrets: Mapping[str, str]
    ) -> Iterator[tuple[Export, str]]:
        with Fetcher(self._environ, Bus(), secrets, _base(facts)) as fetcher:
            for row in rows:
                try:
                    pin = self._once(row.url, row.branch or row.commit, lambda row=row: fetcher.pin(row))
                except BuildstepError as error:
                    raise ServiceError(
                        f"{facts.key}: {row.key}: {error.message}",
                        detail=error.detail,
                        hint=error.hint or "revision:COMMIT says what is taken, without asking the server",
                        retryable=error.retryable,
                    ) from error
                yield row, pin if row.git else (row.sha256 or "md5")

    def _once(self, one: str, other: str, ask: Any) -> str:
        with self._lock:
            if (one, other) not in self._pins:
                self._pins[one, other] = ask()
            return self._pins[one, other]

    def _newest(self, asset: AssetOf) -> str:
        return asset.newest(self._config, self._environ)

    # -- the built list ---------------------------------------------------------------------------------

    def _store(self, facts: Facts) -> ContentStore:
        block = facts.values.get("build")
        namespace = str(block.get("dedupe_ns") or "") if isinstance(block, Mapping) else ""
        url = store_of(self._config.store or default_store(self._environ), namespace)
        environ = self._config.environ(self._environ)
        return ContentStore(
            open_storage(url, environ=environ, bus=Bus()), bus=Bus(), kept=cache_folder(self._environ)
        )

    def _built(self, facts: Facts, rows: list[Export]) -> str:
        """Return the digest of the list that `service build` has made of just this recipe; "" without one."""
        actions = None if facts.folder is None else facts.folder / "actions_tmpl.py"
        actions = actions if actions is not None and actions.is_file() else None
        if not rows and actions is None:
            return ""
        store, key = self._store(facts), recipe_key(rows, actions)
        name = list_ref(facts.domain, facts.name, facts.version)

        def ask() -> str:
            ref = refs.read(store.storage, name)
            return ref.list if ref is not None and ref.notes.get(RECIPE_NOTE) == key else ""

        return self._once(f"{store.storage.url} {name}", key, ask)

    # -- the directories --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def laid(self, facts: Facts, secrets: Mapping[str, str], bus: Bus) -> Iterator[Path | None]:
        """Yield a directory with what is delivered, as it lies below the top of a system; None for nothing.
        Raises BuildstepError, OSError."""
        from buildstep.files.checkout import checkout
        from buildstep.files.checkout_options import Options

        values = {key: str(value) for key, value in facts.values.items() if key.startswith(f"{DELIVERED}.")}
        if not values:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="buildstep-delivered-") as folder:
            top = Path(folder, "top")
            top.mkdir()
            if digest := values.get(LIST):
                store = self._store(facts)
                checkout(store, store.get_list(digest), top, Options(update=True))
                bus.note(f"{store.storage.url}: the list {digest}, as it was built")
            rows = list(for_run(exports_of(facts.values, None, facts.key, [])))
            rows = [row for row in rows if f"{DELIVERED}.{row.key}" in values]
            pins = {row.key: values[f"{DELIVERED}.{row.key}"] for row in rows}
            if rows:
                with Fetcher(self._environ, bus, secrets, _base(facts)) as fetcher:
                    for row, laid in zip(rows, fetcher.lay(rows, pins, top), strict=True):
                        bus.note(f"{row.key}: {row.url} {pins[row.key]} -> {row.dest} ({laid.digest[:12]})")
            if version := values.get(ASSET):
                self._asset(facts, version, top, Path(folder), bus)
            yield top

    def _asset(self, facts: Facts, version: str, top: Path, folder: Path, bus: Bus) -> None:
        asset = AssetOf.of(facts, [])
        assert asset is not None
        tree = asset.pulled(version, self._config, self._environ, bus)
        work = folder / "work"
        work.mkdir()
        lay((Source(path=tree, dest=asset.dest),), top, work, bus, self._environ)
        asset.drop_mark(top)
        bus.note(f"asset {asset.service} {version} -> {asset.dest}")


def _base(facts: Facts) -> str:
    return str(facts.values.get("system.paths.base") or "/opt/services")


class Delivering:
    """A place that gets what is delivered when `install` runs there. See `interface.Place`."""

    def __init__(self, place: Place, delivery: Delivery) -> None:
        self._place, self._delivery = place, delivery
        self.name = place.name

    def describe(self) -> str:
        return self._place.describe()

    def done(self, key: str) -> Mapping[tuple[Side, Action], Done]:
        return self._place.done(key)

    def run(self, call: Call, line: Line, stopped: threading.Event) -> Outcome:
        if call.action is not Action.INSTALL:
            return self._place.run(call, line, stopped)

        def tell(event: Event) -> None:
            if isinstance(event, Note):
                line(event.text)

        with self._delivery.laid(call.facts, call.secrets, Bus(tell)) as top:
            if top is not None:
                trees = {**call.facts.trees, "/": top}
                call = replace(call, facts=replace(call.facts, trees=trees))
            return self._place.run(call, line, stopped)

    def forget(self, key: str) -> None:
        self._place.forget(key)

    def close(self) -> None:
        self._place.close()
