"""What becomes of a push whose service and version are in the store already."""

from __future__ import annotations

import hashlib

from buildstep.assets.interface import AssetStore, AssetTaken, Details
from buildstep.assets.names import Name
from buildstep.system.files import CHUNK


def settle(store: AssetStore, name: Name, ours: Details, there: Details) -> bool:
    """Return False, for nothing to do, where the asset that is there is the one that was to be put.

    there: what is told of it; where nobody recorded its sha256, it is read. Raises AssetTaken.
    """
    sha256 = there.sha256
    if not sha256 and there.size == ours.size:
        sha256 = sha256_of(store, name)
    if sha256 != ours.sha256:
        raise AssetTaken(
            f"{store.url} has another {name.file} already: {there.size} bytes, sha256 {sha256 or 'unknown'}",
            hint="a version does not change: push a new one; --replace is for one that nobody may have used",
        )
    if ours.signature and ours.signature != there.signature:
        how = "with another signature" if there.signature else "without a signature"
        raise AssetTaken(
            f"{store.url} has this {name.file} already, {how}", hint="--replace stores it with yours"
        )
    return False


def sha256_of(store: AssetStore, name: Name) -> str:
    """Return the sha256 of an asset's bytes, all of which are read. Raises Missing, StoreError."""
    digest = hashlib.sha256()
    with store.open(name) as incoming:
        while data := incoming.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()
