"""Whether what proves an image can be made: keys that sign, and databases that are looked into."""

from __future__ import annotations

from buildstep.build import proved, vulnerabilities
from buildstep.build.doctor.findings import Examination
from buildstep.events import Bus


def possible(seen: Examination) -> None:
    """Open each key as a build does, and look for the databases. Raises what a build would end with."""
    if seen.spec is None or not seen.spec.proof.writes:
        return
    from buildstep.trust.keys import signer

    proof = seen.spec.proof
    for text in proof.keys:
        key = signer(text, seen.environ, bus=Bus())
        seen.ok("trust", text, f"signs with {key.algorithm} {key.fingerprint}")
    vulnerabilities.ready(seen.spec)
    if proof.vulnerabilities is not None:
        seen.ok("trust", proof.vulnerabilities.db, "has databases of known vulnerabilities")
    seen.ok("trust", seen.spec.name, f"a build writes {proved.text(proof)}")
