"""Whether the assets of a store are what was recorded of them, and signed by whom one trusts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from buildstep.assets import signatures
from buildstep.assets.interface import AssetStore, Details
from buildstep.assets.names import Name
from buildstep.assets.signatures import Trusted
from buildstep.errors import BuildstepError
from buildstep.files.parallel import parallel
from buildstep.report.progress import Advance, silent
from buildstep.system.files import CHUNK


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What was found of an asset. details: as they are, with the sha256 of the bytes that were read; problem:
    empty if it is as it should be; recorded: whether a sha256 was; key: the fingerprint of who signed it."""

    name: Name
    details: Details
    problem: str = ""
    recorded: bool = True
    key: str = ""


def verify(
    store: AssetStore, assets: Sequence[Name], trusted: Trusted | None, advance: Advance = silent
) -> Iterator[Verified]:
    """Read assets and yield what was found of each, in their order.

    trusted: keys of which one must have signed, None for no look at signatures. An asset of which nobody
    recorded the sha256 is no problem by itself: daybook records none.
    """

    def one(name: Name) -> Verified:
        found = _verified(store, name, trusted)
        advance(1, found.details.size)
        return found

    return parallel(one, assets, store.at_once)


def _verified(store: AssetStore, name: Name, trusted: Trusted | None) -> Verified:
    digest, size = hashlib.sha256(), 0
    told = Details(sha256="", size=0)
    try:
        with store.open(name) as incoming:
            told = incoming.details
            while data := incoming.read(CHUNK):
                digest.update(data)
                size += len(data)
        found = replace(told, sha256=digest.hexdigest(), size=size)
        problem = _problem(told, found)
        key = "" if problem else signatures.check(name, found, trusted)
    except BuildstepError as error:
        return Verified(name=name, details=told, problem=error.message, recorded=bool(told.sha256))
    return Verified(name=name, details=found, problem=problem, recorded=bool(told.sha256), key=key)


def _problem(told: Details, found: Details) -> str:
    if found.size != told.size:
        return f"{found.size} bytes, and {told.size} were stored"
    if told.sha256 and found.sha256 != told.sha256:
        return f"the sha256 {found.sha256}, and {told.sha256} was recorded"
    return ""
