"""Hold a base image to policies before anything is imported, mounted or kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from buildstep.images.record import ImageRecord
from buildstep.images.store import ImageStore

if TYPE_CHECKING:
    from buildstep.trust.policy import Policy
    from buildstep.trust.verify.evidence import Evidence
    from buildstep.trust.verify.report import Report


def check(ref: str, store: ImageStore, image: ImageRecord | None, asked: str | None = None) -> None:
    """Hold a base image to the policy that is asked for and those of the configuration, to each of them.

    image: it, where it is in the store: what is judged is the digest that it had when it was imported. asked:
    a file. From now on the reference means the digest that was judged, and the store says why it was let
    through. Raises SpecError for a faulty policy, one of the errors of `trust.verify.report` for a base that
    is refused, and ImageError where nothing can be found out about it.
    """
    if not (policies := _policies(store, asked)):
        return
    from buildstep.images.base_evidence import EMPTY, evidence_of_base, keep

    evidence, identity = evidence_of_base(ref, store, image)
    if evidence.source == EMPTY:
        store.vouched.said = EMPTY
        return
    said = _told(_judged(evidence, policies), evidence.source)
    if identity is not None:
        store.vouched[ref] = identity.key
    if identity is not None and ref.startswith("docker:"):
        keep(store, identity, evidence)
        _pin(ref, store, evidence.digests["oci"])
    if origin := _origin(ref):
        check(origin, store, store.find(origin), asked)
    store.vouched.said = said


def check_file(path: Path, store: ImageStore, asked: str | None) -> None:
    """Hold an image file that comes with a manifest to the policies. Raises as `check`."""
    if not (policies := _policies(store, asked)):
        return
    from buildstep.trust.verify.from_files import from_files

    evidence = from_files(path)
    store.vouched.said = _told(_judged(evidence, policies), evidence.source)


def _policies(store: ImageStore, asked: str | None) -> list[Policy]:
    """Return the policies that count: the one that is asked for, and those of the configuration."""
    named = dict.fromkeys((*([asked] if asked else []), *store.config.base_policies))
    if not named:
        return []
    from buildstep.trust import policy

    return [policy.load(Path(path)) for path in named]


def _judged(evidence: Evidence, policies: Sequence[Policy]) -> list[Report]:
    """Return the answers about a base. Raises one of the errors of `trust.verify.report` for a refusal."""
    from buildstep.trust.verify.judge import judge

    now = time.time()
    reports = [judge(evidence, each, now) for each in policies]
    for report in reports:
        if (error := report.error("the base image ")) is not None:
            raise error
    return reports


def _origin(ref: str) -> str:
    """Return the image that a ZFS stream is based on, which comes into the store with it; empty for none."""
    scheme, _, locator = ref.partition(":")
    if scheme != "zfs":
        return ""
    from buildstep.images.sources import zfs_file

    return str(zfs_file.read_manifest(zfs_file.split(locator)[1]).get("origin") or "")


def _pin(ref: str, store: ImageStore, digest: str) -> None:
    """Let what is fetched be what was verified, whatever the tag names by then."""
    from buildstep.images.sources.docker import Docker

    if (parsed := store.source(ref)) is not None and isinstance(parsed[0], Docker):
        parsed[0].pin(parsed[1], f"sha256:{digest}")


def _told(reports: Sequence[Report], source: str) -> str:
    """Return why a base is let through."""
    exceptions = [
        f"let through by an exception: {report.exception}" for report in reports if report.exception
    ]
    if exceptions:
        return "; ".join(exceptions)
    signers = list(dict.fromkeys(signer for report in reports for signer in report.signers))
    if signers:
        return f"verified, signed by {', '.join(signers)}"
    return f"verified: {source}" if source else "verified: it is pinned by the policy"
