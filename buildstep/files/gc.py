"""Garbage collection: delete what no ref reaches, beside writers and readers.

A. Make a lease, and claim `gc/condemned`: one collects at a time. End what a dead collection was deleting.
B. Mark what the refs reach, and what is younger than the grace time. Packs of which much is not reached are
   written anew without it.
C. Condemn what is not reached, under a new generation; what is condemned and reached again leaves the list.
D. List the leases. A name can go if every lease has seen the generation that condemned it: its owner takes it
   for absent, and has to `rescue` it before he relies on it.
E. Mark again. Who had begun before C and ended before D has no lease any more, but refs that rely on what
   was condemned.
F. In one swap, the names that can go, and are still on the list, become `deleting`. A writer's `rescue` was
   before that, or waits until they are gone.
G. Take packs off the catalogue, delete the names, empty `deleting`.

What ends it at any of these steps leaves a store that is complete, and the next collection goes on. Whose
process was stopped for longer than a lease is valid is refused the swaps; one that is stopped so long between
the renewal of its lease and the deletions that follow it is what no lease can help.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from buildstep.errors import StoreError
from buildstep.files import catalogue, condemned, layout, leases, repack
from buildstep.files.condemned import Condemned
from buildstep.files.content import ContentStore
from buildstep.files.interface import Item
from buildstep.files.leases import Lease
from buildstep.files.marks import Inventory, Reach
from buildstep.files.pack import TARGET, Index

GRACE = 24 * 3600.0
"""Seconds for which what is new stays though no ref reaches it: a writer that was interrupted finds it."""
WASTE = 0.3
"""Part of a pack's contents that may be garbage before the pack is written anew."""
_SMALL = TARGET // 4
_FEW_SMALL = 8
"""So many packs smaller than that are joined: each costs every reader a request."""

UNREACHED = "no ref reaches it"
REWRITTEN = "what is left of it is in another pack"
BROKEN = "a pack that nobody finished"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What can go. condemn: names, each with the reason; rewrite: of packs, the contents that must be copied
    to other packs before the pack can go."""

    condemn: dict[str, str]
    rewrite: dict[str, list[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What a collection did, or with a dry run would do.

    deleted, waiting: names with their bytes; waiting are condemned, but `held_by`, leases, may rely on them.
    reasons: why each goes. rewritten: packs that were written anew; written: bytes of the new ones.
    adopted: packs of writers that were killed before they put them into the catalogue.
    """

    deleted: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    held_by: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    rewritten: int = 0
    written: int = 0
    adopted: int = 0
    damaged: tuple[str, ...] = ()


def collect(store: ContentStore, *, grace: float = GRACE, dry_run: bool = False) -> Collected:
    """Delete what no ref reaches. grace: see `GRACE`; dry_run: change nothing, only tell.

    Raises Claimed if somebody else collects, LeaseLost, StoreError; also for a ref, list or pack that is
    damaged, as then nobody knows what is reached.
    """
    _ = store.settings  # there is a store
    store.refresh()
    if dry_run:
        return _foretell(_Marked(store, grace, condemned.read(store.storage)))
    with Lease(store.storage, "garbage collection") as lease, contextlib.ExitStack() as stack:
        listed = condemned.claim(store.storage, lease)
        stack.callback(_release, store, lease)
        if listed.deleting:
            condemned.delete(store.storage, listed, lease)
        return _Collection(store, lease, grace).run()


def _release(store: ContentStore, lease: Lease) -> None:
    # Who cannot be told that we have ended sees it by our lease.
    with contextlib.suppress(StoreError):
        condemned.release(store.storage, lease)


class _Marked:
    """What is reached now, and what can go therefore."""

    def __init__(self, store: ContentStore, grace: float, listed: Condemned) -> None:
        self.store = store
        self.since = time.time() - grace
        self.reach = Reach(store)
        self.reach.refs()
        self._look(listed)

    def _look(self, listed: Condemned) -> None:
        self.inventory = Inventory.of(self.store.storage)
        young = [digest for digest, item in self.inventory.lists.items() if item.modified > self.since]
        self.reach.take_lists(young)
        self.reach.contents.update(
            parsed.digest
            for name, item in self.inventory.objects.items()
            if item.modified > self.since and (parsed := layout.parse(name)) is not None
        )
        self.reach.take_chunks(self.inventory)
        self.store.catalogue.load()
        self.plan = decide(
            self.inventory, self.store.catalogue.indexes, self.reach, listed.names.keys(), since=self.since
        )

    def again(self) -> bool:
        """Take in what was put meanwhile; return False if nothing was."""
        before = len(self.reach.lists), len(self.reach.contents)
        self.reach.refs()
        if before == (len(self.reach.lists), len(self.reach.contents)):
            return False
        self._look(condemned.read(self.store.storage))
        return True

    @property
    def orphans(self) -> list[str]:
        """Packs that no catalogue has, and whose writer has had time enough to put them there."""
        known = set(catalogue.read(self.store.storage))
        return [
            digest
            for digest, item in self.inventory.packs.items()
            if digest not in known and item.modified <= self.since
        ]

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        return {name: self.inventory.size(name) for name in sorted(names)}


def _foretell(marked: _Marked) -> Collected:
    """Tell what a collection would do."""
    rewritten = {layout.pack_name(digest): REWRITTEN for digest in marked.plan.rewrite}
    reasons = {**marked.plan.condemn, **rewritten}
    holders, floor = _held(marked.store, "", keep_dead=True)
    sizes = marked.sizes(reasons)
    # A new generation is one that no lease has seen.
    listed = condemned.read(marked.store.storage).names
    stay = {name for name in reasons if listed.get(name, _NEVER) > floor} if holders else set()
    return Collected(
        deleted={name: size for name, size in sizes.items() if name not in stay},
        waiting={name: size for name, size in sizes.items() if name in stay},
        held_by=holders, reasons=reasons, rewritten=len(rewritten), adopted=len(marked.orphans),
    )  # fmt: skip


_NEVER = 1 << 62


def _held(store: ContentStore, ours: str, *, keep_dead: bool = False) -> tuple[tuple[str, ...], int]:
    """Return the leases but ours, for people, and the newest generation that all of them have seen."""
    others = [(name, it) for name, it in leases.living(store.storage, end=not keep_dead) if name != ours]
    # Who has seen none may rely on everything, as readers do.
    return tuple(str(it) for _, it in others), min(
        (-1 if it.saw is None else it.saw for _, it in others), default=_NEVER
    )


class _Collection:
    """One run. The letters are those of this module's description."""

    def __init__(self, store: ContentStore, lease: Lease, grace: float) -> None:
        self._store = store
        self._storage = store.storage
        self._lease = lease
        self._grace = grace

    def run(self) -> Collected:
        marked = _Marked(self._store, self._grace, condemned.read(self._storage))  # B
        adopted, broken = self._adopt(marked)
        if adopted:
            marked = _Marked(self._store, self._grace, condemned.read(self._storage))
        copied = repack.copy(self._store, marked.plan.rewrite, self._lease)
        reasons = dict(marked.plan.condemn)
        if copied.damaged:  # what is damaged there may be whole in a pack that would go
            reasons = {name: reason for name, reason in reasons.items() if reason != REWRITTEN}
        reasons |= dict.fromkeys(copied.emptied, REWRITTEN)
        # What was copied may be just what another pack has that was to go: it is the new one then.
        reasons = {name: reason for name, reason in reasons.items() if name not in copied.new}
        unfinished = {layout.pack_name(digest): BROKEN for digest in broken}
        reasons |= unfinished
        condemned.change(self._storage, self._condemning(reasons))  # C
        holders, floor = _held(self._store, self._lease.name)  # D
        live = set()
        if marked.again():  # E
            live = reasons.keys() - marked.plan.condemn.keys() - unfinished.keys()
        self._lease.renew()
        listed = condemned.change(self._storage, self._choosing(floor, live))  # F
        condemned.delete(self._storage, listed, self._lease)  # G
        return Collected(
            deleted=marked.sizes(listed.deleting), waiting=marked.sizes(listed.names), held_by=holders,
            reasons=reasons, rewritten=len(copied.emptied), written=sum(copied.new.values()),
            adopted=len(adopted), damaged=copied.damaged,
        )  # fmt: skip

    def _condemning(self, dead: Mapping[str, str]) -> Callable[[Condemned], Condemned]:
        def how(now: Condemned) -> Condemned:
            now = condemned.owned(now, self._lease)
            fresh = dead.keys() - now.names.keys()
            generation = now.generation + bool(fresh)
            kept = {name: at for name, at in now.names.items() if name in dead}
            return replace(now, generation=generation, names=kept | dict.fromkeys(fresh, generation))

        return how

    def _choosing(self, floor: int, live: set[str]) -> Callable[[Condemned], Condemned]:
        def how(now: Condemned) -> Condemned:
            now = condemned.owned(now, self._lease)
            dead = {name: at for name, at in now.names.items() if name not in live}
            go = frozenset(name for name, at in dead.items() if at <= floor)
            return replace(now, names={name: at for name, at in dead.items() if name not in go}, deleting=go)

        return how

    def _adopt(self, marked: _Marked) -> tuple[list[str], list[str]]:
        """Put into the catalogue what killed writers did not; return these packs, and those not complete."""
        listed = condemned.read(self._storage)
        whole, broken = [], []
        for digest in marked.orphans:
            if layout.pack_name(digest) in listed:
                broken.append(digest)
            elif repack.is_whole(self._storage, digest):
                whole.append(digest)
            else:
                broken.append(digest)
        if whole:
            catalogue.change(self._storage, add=whole)
        return whole, broken


def decide(
    inventory: Inventory,
    indexes: Mapping[str, Index],
    reach: Reach,
    listed: Iterable[str],
    *,
    since: float,
) -> Plan:
    """Decide what can go. indexes: of the packs in the catalogue; listed: what is condemned now; since: what
    was stored after that time is not judged."""

    def old(item: Item) -> bool:
        return item.modified <= since

    condemn = {
        name: UNREACHED
        for name, item in inventory.objects.items()
        if old(item) and (parsed := layout.parse(name)) is not None and parsed.digest not in reach.contents
    }
    condemn |= {
        layout.list_name(digest): UNREACHED
        for digest, item in inventory.lists.items()
        if old(item) and digest not in reach.lists
    }
    packs = _Packs(inventory, indexes, reach.contents)
    before = set(listed)
    packs.leave_out([digest for digest in indexes if layout.pack_name(digest) in before])
    judged = {
        digest
        for digest in indexes
        if digest in packs.staying and digest in inventory.packs and old(inventory.packs[digest])
    }
    gone, rewrite = packs.judge(judged, {digest: inventory.packs[digest].size for digest in judged})
    condemn |= {layout.pack_name(digest): reason for digest, reason in gone.items()}
    return Plan(condemn=condemn, rewrite=rewrite)


class _Packs:
    """Which packs are needed. staying: those whose contents can be relied on.

    A content can be in several packs, so packs are judged one after another: whoever goes is not what the
    next one's contents are also in.
    """

    def __init__(self, inventory: Inventory, indexes: Mapping[str, Index], live: set[str]) -> None:
        self._live = {digest: [row for row in index.rows if row in live] for digest, index in indexes.items()}
        self._indexes = indexes
        self._homes = dict.fromkeys(live & inventory.forms.keys(), 1)
        """In how many places that stay each live content is."""
        self.staying = set(indexes)
        self._gone: dict[str, str] = {}
        for rows in self._live.values():
            self._count(rows, 1)

    def _count(self, rows: Iterable[str], by: int) -> None:
        homes = self._homes
        for row in rows:
            homes[row] = homes.get(row, 0) + by

    def leave_out(self, packs: Iterable[str]) -> None:
        """Take packs, which are condemned, for absent, but for those that have the only copy of something."""
        chosen = list(packs)
        for digest in chosen:
            self._count(self._live[digest], -1)
        for digest in chosen:
            if any(not self._homes[row] for row in self._live[digest]):
                self._count(self._live[digest], 1)
            else:
                self.staying.discard(digest)
                self._gone[digest] = REWRITTEN if self._live[digest] else UNREACHED

    def judge(
        self, judged: set[str], sizes: Mapping[str, int]
    ) -> tuple[dict[str, str], dict[str, list[str]]]:
        """Return the packs that can go, with the reason, and what must be copied out of others first."""
        rewrite: dict[str, list[str]] = {}
        small = {digest for digest in judged if sizes[digest] < _SMALL and self._live[digest]}
        joined = small if len(small) >= _FEW_SMALL else set()
        for digest in sorted(judged, key=lambda digest: (len(self._live[digest]), digest)):
            rows, index = self._live[digest], self._indexes[digest]
            needed = [row for row in rows if self._homes[row] == 1]
            used = sum(index.rows[row].length for row in needed)
            if not needed:
                self._gone[digest] = REWRITTEN if rows else UNREACHED
            elif digest in joined or used < (1 - WASTE) * index.length:
                rewrite[digest] = needed
                # Those that are copied stay; the others are elsewhere.
                self._count(needed, 1)
            else:
                continue
            self._count(rows, -1)
        return self._gone, rewrite
