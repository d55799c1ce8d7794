"""What a pull is going to do on a host, and why: nothing is changed here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildstep.assets.interface import Asset, AssetStore, Details
from buildstep.assets.mark import Mark, installed
from buildstep.assets.policy import Policy, Verify
from buildstep.assets.retention import Going, Retention, going
from buildstep.errors import BuildstepError
from buildstep.files.parallel import parallel

_FEW = 32
"""Services that are listed one by one, all at once; for more, the whole store is listed."""

Stays = Callable[[str], set[str]]
"""Returns the versions of a service that no prune removes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetch:
    """An asset that is fetched, and why."""

    asset: Asset
    reason: str


@dataclass(kw_only=True, slots=True)
class ServicePlan:
    """What is to be done for a service. wanted: the assets, the newest first; present: versions that are
    there as they should be; again: marks to write anew, as the same content is another object now; removed:
    what a prune removes; error: why nothing is known of the service."""

    service: str
    mapped: bool = True
    wanted: list[Asset] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    fetched: list[Fetch] = field(default_factory=list)
    again: dict[str, Mark] = field(default_factory=dict)
    removed: list[Going] = field(default_factory=list)
    error: BuildstepError | None = None
    errors: dict[str, BuildstepError] = field(default_factory=dict)


def plan(
    store: AssetStore,
    services: Sequence[str],
    install: Path,
    retention: Retention,
    *,
    stays: Stays | None = None,
    policy: Policy | None = None,
) -> dict[str, ServicePlan]:
    """Return what is to be done, by service. stays: what a prune keeps in any case; None: nothing is pruned.
    policy: of it the signatures count, which what is there must have as well.

    An error of one service is in its plan. Raises one that all services would have, and OSError.
    """
    policy = policy or Policy()
    there = installed(install, services if stays is None else None)
    plans = {service: ServicePlan(service=service) for service in services}
    for service, listed in _listed(store, services):
        mine = plans[service]
        if isinstance(listed, BuildstepError):
            mine.error = listed
            continue
        mine.wanted = retention.wanted(listed)
        _compare(mine, there.get(service, {}), store.url, policy)
        if stays is not None and mine.wanted:
            with _told_of(mine):
                _prune(mine, listed, there.get(service, {}), stays(service))
    _look_closer(store, plans.values(), policy.verify)
    if stays is not None and services:  # an answer without services is no reason to empty a host
        for service in sorted(there.keys() - plans.keys()):
            marked = [version for version, mark in there[service].items() if mark is not None]
            mine = ServicePlan(service=service, mapped=False)
            with _told_of(mine):
                mine.removed = going(
                    service, marked, (), stays(service), "the service is not mapped to this host"
                )
            if mine.removed or mine.error is not None:
                plans[service] = mine
    return plans


@contextlib.contextmanager
def _told_of(mine: ServicePlan) -> Iterator[None]:
    """Let an error of the block be one of this service alone."""
    try:
        yield
    except BuildstepError as error:
        mine.error = error


def _listed(store: AssetStore, services: Sequence[str]) -> Iterator[tuple[str, list[Asset] | BuildstepError]]:
    """Yield the assets of each service, or why they cannot be known."""
    if len(services) > _FEW:
        found: dict[str, list[Asset]] = {service: [] for service in services}
        for asset in store.list():
            if asset.name.service in found:
                found[asset.name.service].append(asset)
        yield from found.items()
        return

    def ask(service: str) -> list[Asset] | BuildstepError:
        try:
            return list(store.list(service))
        except BuildstepError as error:
            return error

    answers = list(parallel(ask, services, store.at_once, interrupt=store.interrupt))
    errors = [answer for answer in answers if isinstance(answer, BuildstepError)]
    if errors and len(errors) == len(services):
        raise errors[0]
    yield from zip(services, answers, strict=True)


def _compare(mine: ServicePlan, there: Mapping[str, Mark | None], url: str, policy: Policy) -> None:
    for asset in mine.wanted:
        version = asset.name.version
        if version not in there:
            mine.fetched.append(Fetch(asset=asset, reason="is not there yet"))
        elif (mark := there[version]) is None:
            mine.fetched.append(Fetch(asset=asset, reason="is there without a mark that it is complete"))
        elif same_object(mark, asset, url) and policy.trusts(mark):
            mine.present.append(version)
        else:
            mine.again[version] = mark


def same_object(mark: Mark, asset: Asset, url: str) -> bool:
    """Tell whether a mark is of the very object of a listing, as far as that says."""
    if (mark.store, mark.file, mark.size) != (url, asset.name.file, asset.size):
        return False
    return mark.etag == asset.etag if mark.etag and asset.etag else mark.modified == asset.modified


def _look_closer(store: AssetStore, plans: Iterable[ServicePlan], verify: Verify | None) -> None:
    """Ask the store for the digests of what is there, but as another object than it was."""
    doubtful = [(mine, asset) for mine in plans for asset in mine.wanted if asset.name.version in mine.again]

    def ask(item: tuple[ServicePlan, Asset]) -> tuple[Details, str] | BuildstepError:
        name = item[1].name
        try:
            details = store.details(name)
            return details, verify(name, details) if verify is not None else ""
        except BuildstepError as error:
            return error

    answers = parallel(ask, doubtful, store.at_once, interrupt=store.interrupt)
    for (mine, asset), answer in zip(doubtful, answers, strict=True):
        version = asset.name.version
        mark = mine.again.pop(version)
        if isinstance(answer, BuildstepError):
            mine.errors[version] = answer
        elif answer[0].sha256 == mark.sha256:
            mine.present.append(version)
            mine.again[version] = replace(
                mark,
                file=asset.name.file,
                etag=asset.etag,
                modified=asset.modified,
                store=store.url,
                key=answer[1] or mark.key,
            )
        else:
            mine.fetched.append(Fetch(asset=asset, reason="the store has another one now"))


def _prune(
    mine: ServicePlan, listed: Sequence[Asset], there: Mapping[str, Mark | None], stays: set[str]
) -> None:
    """Note what goes of a service of which something is wanted: an empty listing is no reason, nor are
    patterns that no version fits."""
    marked = [version for version, mark in there.items() if mark is not None]
    wanted = {asset.name.version for asset in mine.wanted}
    in_store = {asset.name.version for asset in listed}
    for item in going(mine.service, marked, wanted, stays, ""):
        why = (
            "is not among those that are kept" if item.version in in_store else "is not in the store any more"
        )
        mine.removed.append(replace(item, reason=why))
